"""The tables of pair building: prompts, candidates, and what judges said of two of them.

A row of `CANDIDATES` is one answer to one prompt: who wrote it and how, whether it reached the
known answer, and every raw score it was given. Equal texts of one prompt are one candidate. A null
says that nothing is known, and never stands for a grade.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import MESSAGE, canonical_json, digest

PROMPTS: dict[str, Any] = {
    "prompt": pl.String,  # its id: `prompt_id` of the turns
    "source": pl.String,  # of the first row that asks it
    "row": pl.Int64,
    "license": pl.String,
    "messages": pl.List(MESSAGE),  # the turns before the answer
    "tools": pl.String,
    "text": pl.String,  # the turns as one text, for judges
    "answer": pl.String,  # the known answer, where a row has one that can be checked
}
CANDIDATES: dict[str, Any] = {
    "prompt": pl.String,
    "candidate": pl.String,  # its id: `candidate_id` of prompt and text
    "text": pl.String,
    "role": pl.String,  # what the run calls who wrote it
    "model": pl.String,
    "sampling": pl.String,  # canonical JSON; null for answers that stood in files
    "sample": pl.Int64,
    "on_policy": pl.Boolean,  # written by the model that is to be trained
    "verified": pl.Boolean,  # reached the known answer; null: there is none
    "score": pl.Float64,  # what rules compare; null: unrated
    "aspects": pl.String,  # JSON: aspect -> raw score, or null where the judge gave none
    "tokens_in": pl.Int64,
    "tokens_out": pl.Int64,
    "cost": pl.Float64,  # at the prices of the run, newly paid or not
    "judging": pl.Float64,  # what its own grades cost; comparisons cost what `VERDICTS` says
    "reason": pl.String,  # why it is unrated
}
VERIFIED = "verified"  # the aspect that keeps what the verifier found
VERDICTS: dict[str, Any] = {
    "prompt": pl.String,
    "one": pl.String,  # candidate ids; `one` < `two`
    "two": pl.String,
    "judge": pl.String,
    "one_first": pl.Float64,  # value of `one` where it was shown first: 1, 0.5, 0, or a probability
    "two_first": pl.Float64,  # and where it was shown second
    "value": pl.Float64,  # their mean; null without both
    "label": pl.String,  # "one", "two", "tie"; null without both
    "band": pl.Float64,  # of a tie, where values are probabilities
    "mass": pl.Float64,  # what the allowed answers had of the probability, where it was read
    "reason": pl.String,
    "tokens_in": pl.Int64,
    "tokens_out": pl.Int64,
    "cost": pl.Float64,
}
_LINE_END = re.compile(r"[ \t]*(?:\r\n|\r|\n)")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One answer to a prompt: a row of `CANDIDATES`."""

    prompt: str
    text: str
    role: str
    model: str = ""
    sampling: Mapping[str, Any] | None = None
    sample: int = 0
    on_policy: bool = False
    verified: bool | None = None
    score: float | None = None
    aspects: Mapping[str, float | None] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    judging: float = 0.0
    reason: str | None = None

    @property
    def id(self) -> str:
        """Equal for equal texts of a prompt, whoever wrote them."""
        return candidate_id(self.prompt, self.text)

    @property
    def length(self) -> int:
        """Characters, without white space at the ends."""
        return len(self.text.strip())

    @property
    def by_verifier(self) -> bool:
        """Whether its score says if it reached the known answer, and no judge gave another."""
        return self.verified is not None and self.aspects.keys() <= {VERIFIED}

    def scored(
        self,
        score: float | None,
        aspects: Mapping[str, float | None],
        reason: str | None = None,
    ) -> "Candidate":
        """The same candidate with a score, and further raw scores beside those it has.

        Args:
            score: what rules compare; null: it is unrated.
            aspects: raw scores.
            reason: why it is unrated.
        """
        return replace(self, score=score, aspects={**self.aspects, **aspects}, reason=reason)


def prompt_id(messages: Sequence[Mapping[str, Any]], tools: str | None = None) -> str:
    """Id of a prompt: hash of its turns and tools."""
    turns = [{k: m.get(k) for k in ("role", "content", "extra")} for m in messages]
    return digest({"prompt": turns, "tools": tools})


def plain(text: str) -> str:
    """A text without what no reader sees: how accents and line ends are coded, blanks at ends.

    Blanks inside a line stay: in code they are part of the answer.
    """
    return _LINE_END.sub("\n", unicodedata.normalize("NFC", text)).strip()


def candidate_id(prompt: str, text: str) -> str:
    """Id of an answer to a prompt; what no reader sees makes no other answer."""
    return digest([prompt, plain(text)])


def table(candidates: Iterable[Candidate]) -> pl.DataFrame:
    """`CANDIDATES`, sorted by prompt and candidate."""
    rows = [
        {
            **{name: vars(c)[name] for name in CANDIDATES if name in vars(c)},
            "candidate": c.id,
            "sampling": None if c.sampling is None else canonical_json(c.sampling),
            "aspects": canonical_json(c.aspects),
        }
        for c in candidates
    ]
    return pl.DataFrame(rows, schema=CANDIDATES).sort("prompt", "candidate", "role", "sample")


def listed(candidates: pl.DataFrame) -> list[Candidate]:
    """The candidates of a table."""
    return [
        Candidate(
            **{
                **{k: v for k, v in row.items() if k != "candidate"},
                "sampling": None if row["sampling"] is None else json.loads(row["sampling"]),
                "aspects": json.loads(row["aspects"] or "{}"),
            }
        )
        for row in candidates.select(list(CANDIDATES)).iter_rows(named=True)
    ]


def distinct(candidates: Iterable[Candidate], *, each_role: bool = False) -> list[Candidate]:
    """Of equal texts of one prompt the first, in the order given.

    It is on-policy if any of them is.

    Args:
        candidates: of any prompts.
        each_role: the first of every role that wrote the text.
    """
    found: dict[tuple[str, str], Candidate] = {}
    own: set[str] = set()
    for candidate in candidates:
        found.setdefault((candidate.id, candidate.role if each_role else ""), candidate)
        if candidate.on_policy:
            own.add(candidate.id)
    return [
        replace(c, on_policy=True) if ident in own and not c.on_policy else c
        for (ident, _), c in found.items()
    ]
