"""Teacher divergence: which answer says most of what only the teacher would have said?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import (
    EncodingFacts,
    Need,
    Observations,
    PassSignal,
    Scorer,
    Signal,
    View,
    of_role,
)
from gristmill.pipeline.models.forward import Batch
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.signals.forward_signals import scored
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.likelihood import question

# J = sentences
Floats = npt.NDArray[np.float64]
Provenance = Literal["shared", "teacher", "student", "boosted", "other"]
SENTENCES = pl.Struct({"ends": pl.List(pl.Int64), "logprob": pl.List(pl.Float64)})
_BREAK = re.compile(r"\n|(?<=[.?!])\s")


def sentences(text: str) -> list[int]:
    """Where the sentences of a text end, in characters; the last one ends with the text.

    A sentence ends after a newline, or after white space behind a full stop, question or
    exclamation mark. A piece without a visible character joins the sentence before it; at the
    beginning, the one after it.
    """
    ends: list[int] = []
    begin = 0
    for end in [*(m.end() for m in _BREAK.finditer(text)), len(text)]:
        if text[begin:end].strip():
            ends.append(end)
        elif ends:
            ends[-1] = end
        begin = end
    return ends


@dataclass(frozen=True, kw_only=True)
class SentenceLogProbs(PassSignal):
    """Mean log-probability per token of each sentence of the last answer, given all before it.

    Per row, `ends` (characters of the answer, see `sentences`) and `logprob` in nats, null for a
    sentence in which no token begins. A token belongs to the sentence that holds its first visible
    character: many tokenizers write the space before a word into the word's token.
    """

    version: ClassVar[int] = 2
    view: View = field(default_factory=Dialogue)

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}sentences.{self.view.name}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"losses"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return SENTENCES

    def read(self, batch: Batch) -> Sequence[Any]:
        values: list[Any] = []
        for b, encoded in enumerate(batch.encoded):
            at = np.flatnonzero(scored(batch.turns[b], "last", encoded.last))
            if not len(at):
                values.append(None)
                continue
            first, last = encoded.offsets[int(at[0])][0], encoded.offsets[int(at[-1])][1]
            text = encoded.text[first:last].strip()  # a token may begin or end in the template
            first = encoded.text.index(text, first)
            ends = sentences(text) or [len(text)]
            begins = [_begin(text, *(o - first for o in encoded.offsets[t])) for t in at.tolist()]
            sentence = np.searchsorted(np.array(ends), np.array(begins), side="right")
            sentence = np.minimum(sentence, len(ends) - 1)  # white space behind the last one
            loss = batch.losses(b)[at].astype(np.float64)
            means = [
                float(-loss[sentence == j].mean()) if (sentence == j).any() else None
                for j in range(len(ends))
            ]
            values.append({"ends": ends, "logprob": means})
        return values


def _begin(text: str, first: int, last: int) -> int:
    """The first visible character of a token; of one without any, its first."""
    token = text[first:last]
    return first + (len(token) - len(token.lstrip()) if token.strip() else 0)


@dataclass(frozen=True, kw_only=True)
class TeacherDivergence(Scorer):
    """Number of the answer's sentences that the teacher finds much likelier than the student.

    p_m(j) = exp(mean log p_m of the tokens of sentence j), given the prompt and the sentences
    before; sentence j is the teacher's if p_T(j) - p_S(j) > beta, the student's if p_S(j) - p_T(j)
    > beta, else common. score(z) = number of the teacher's sentences.

    Also called: provenance-guided selection. The opposite of taking the answer that is likeliest
    under the student.

    Reads: `SentenceLogProbs` of the last answer under the models in the roles "teacher" and
        "student" (before it is trained); their vocabularies may differ.
    Reference: none.
    Higher means: more of it is the teacher's alone. Keep it. Of several answers to one question
        only the one with the highest score has one, unless `best` is off.
    Cost: 1 forward of each of the two models and 12 bytes a sentence to observe; O(N) to score.
    Paper: "Where Did This Sentence Come From? Tracing Provenance in LLM Reasoning Distillation",
        arXiv:2512.20908.
    Departures: sentences end at newlines and after . ? ! before white space (the paper names no
        splitter); ties are broken by a draw keyed by id and marked in `score_tied`; beta is fixed
        (the paper's adaptive form is not built).
    Relations: a count prefers long answers, so compare with `length`; by="share" does not, and was
        weaker in the paper. `ifd` asks whether the prompt helps.
    Example: `TeacherDivergence(beta=0.1).score(pool)`
    """

    version: ClassVar[int] = 3
    scope: ClassVar = "pool"
    paper: ClassVar[str] = "arXiv:2512.20908"
    cost: ClassVar[str] = "1 fe of the teacher, 1 fe of the student"
    beta: float = 0.1
    by: Literal["count", "share"] = "count"
    best: bool = True
    distilled: bool = False  # for the details: the role "target" holds the distilled model
    seed: int = 0
    view: View = field(default_factory=Dialogue)

    @property
    def signals(self) -> tuple[Signal, ...]:
        roles = ("teacher", "student", *(["target"] if self.distilled else []))
        return tuple(SentenceLogProbs(role=r, view=self.view) for r in roles)

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        return tuple(EncodingFacts(role=s.role, view=self.view) for s in self.signals[:2])

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("*content",)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        teacher, student = (pool.columns(s)[0][0] for s in self.signals[:2])
        rows = []
        for block in pool.blocks():
            for row in block.iter_rows(named=True):
                found = self._count(row[teacher], row[student])
                if "score_sentences" not in found:
                    found = {"reason": self._unread(row)}
                rows.append({"id": row["id"], "question": question(row), **found})
        table = pl.DataFrame(rows, schema=_COUNTED)
        table = table.with_columns(
            draw=pl.Series([uniform(self.seed, "teacher_divergence", i) for i in table["id"]])
        )
        count = pl.col("score_teacher")
        value = count if self.by == "count" else count / pl.col("score_sentences")
        table = table.with_columns(score=value)
        if self.best:
            table = _best(table)
        return table.drop("question", "draw")

    def details(self, pool: Observations) -> pl.DataFrame:
        """Which sentences are the teacher's: see `provenance_report`."""
        return provenance_report(pool, self)

    def _count(self, teacher: Any, student: Any) -> dict[str, Any]:  # noqa: ANN401
        """One row's sentences by provenance, or why they cannot be counted."""
        if teacher is None or student is None or teacher["ends"] != student["ends"]:
            return {}
        p_T, p_S = (probabilities(m["logprob"]) for m in (teacher, student))
        delta_J = p_T - p_S  # NaN where one of the two begins no token there
        counted = {
            "score_teacher": (delta_J > self.beta).sum(),
            "score_student": (-delta_J > self.beta).sum(),
            "score_common": (np.abs(delta_J) <= self.beta).sum(),
            "score_sentences": np.isfinite(delta_J).sum(),
        }
        return {k: float(v) for k, v in counted.items()}

    def _unread(self, row: Mapping[str, Any]) -> str | None:
        """Why the sentences of a row cannot be compared, with the model that the cause lies with.

        A model that cannot be shown the row at all has its reason among the facts.
        """
        cut = None
        for fact in self.facts:
            told = row.get(fact.column) or {}
            if told.get("reason"):
                return f"{fact.role}_{told['reason']}"
            if told.get("cut") and cut is None:
                cut = f"answer_cut: the {fact.role} reads {told['tokens']:,} tokens"
        if cut is not None:
            return cut
        if any(row[s.column] is None for s in self.signals[:2] if s.column in row):
            return "empty_answer"
        return "sentences_differ: teacher and student see other texts"


_PARTS = ("score_teacher", "score_student", "score_common", "score_sentences")
_COUNTED = {
    "id": pl.String,
    "question": pl.String,
    "reason": pl.String,
    **dict.fromkeys(_PARTS, pl.Float64),
}


def probabilities(logprob: Sequence[float | None]) -> Floats:
    """p(j) of each sentence; NaN where no token begins."""
    return np.exp(np.array([np.nan if v is None else v for v in logprob], dtype=np.float64))


def _best(table: pl.DataFrame) -> pl.DataFrame:
    """Take the score from all but the best answer to each question; a draw decides ties."""
    top = pl.col("score").max().over("question")
    table = table.with_columns(score_tied=(pl.col("score") == top).sum().over("question") > 1)
    order = table.sort("question", -pl.col("score"), "draw", "id", nulls_last=True)
    winner = order.unique("question", keep="first", maintain_order=True)["id"]
    beaten = ~pl.col("id").is_in(winner.implode()) & pl.col("score").is_not_null()
    return table.with_columns(
        score=pl.when(~beaten).then("score"),
        score_tied=pl.when(pl.col("score") == top).then(pl.col("score_tied").cast(pl.Float64)),
        reason=pl.when(beaten).then(pl.lit("another_answer_says_more")).otherwise("reason"),
    )


def provenance(
    teacher: Floats, student: Floats, distilled: Floats, *, alpha: float = 0.1, beta: float = 0.1
) -> list[Provenance]:
    """Where each sentence of a distilled model comes from, by the three probabilities of it.

    Shared if no two of them differ by more than alpha; else the teacher's or the student's by the
    rule of `TeacherDivergence`; else boosted, if the distilled model exceeds both by more than
    beta. What is left (distilling lowered a sentence, or no token begins in it) is "other".
    """
    found: list[Provenance] = []
    for p_T, p_S, p_D in zip(teacher, student, distilled, strict=True):
        if not np.isfinite([p_T, p_S, p_D]).all():
            found.append("other")
        elif max(p_T, p_S, p_D) - min(p_T, p_S, p_D) <= alpha:
            found.append("shared")
        elif p_T - p_S > beta:
            found.append("teacher")
        elif p_S - p_T > beta:
            found.append("student")
        elif p_D - max(p_T, p_S) > beta:
            found.append("boosted")
        else:
            found.append("other")
    return found


def provenance_report(pool: Observations, scorer: TeacherDivergence) -> pl.DataFrame:
    """Which sentences are the teacher's: `id`, `sentence`, `text`, probabilities and `provenance`.

    Sentences are the teacher's, the student's or common, and "other" where one of the two begins
    no token; with a distilled model they are classed as `provenance` does.

    Args:
        pool: observed for `scorer`, with the records' content.
        scorer: whose settings count.
    """
    columns = [pool.columns(s)[0][0] for s in scorer.signals]
    rows: list[dict[str, Any]] = []
    for block in pool.blocks():
        for row in block.iter_rows(named=True):
            seen = [row[c] for c in columns]
            if any(s is None or s["ends"] != seen[0]["ends"] for s in seen):
                continue
            p = [probabilities(s["logprob"]) for s in seen]
            if scorer.distilled:
                classes = provenance(*p, beta=scorer.beta)
            else:
                delta_J = p[0] - p[1]
                above, below = delta_J > scorer.beta, -delta_J > scorer.beta
                near = np.where(np.isfinite(delta_J), "common", "other")
                classes = np.where(above, "teacher", np.where(below, "student", near)).tolist()
            said = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
            text = said[-1].strip()
            for j, (end, kind) in enumerate(zip(seen[0]["ends"], classes, strict=True)):
                begin = seen[0]["ends"][j - 1] if j else 0
                given = zip(("p_teacher", "p_student", "p_distilled"), p, strict=False)
                values = {k: float(v[j]) for k, v in given}
                named = {"id": row["id"], "sentence": j, "text": text[begin:end].strip()}
                rows.append({**named, **values, "provenance": kind})
    places = _TOLD if scorer.distilled else {k: t for k, t in _TOLD.items() if k != "p_distilled"}
    return pl.DataFrame(rows, schema=places)


_TOLD = {
    "id": pl.String,
    "sentence": pl.Int64,
    "text": pl.String,
    **dict.fromkeys(("p_teacher", "p_student", "p_distilled"), pl.Float64),
    "provenance": pl.String,
}
