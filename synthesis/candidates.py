"""Candidates: the pairs of a document, and what became of each of them and of the document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gristmill.pipeline.records.schema import content_id
from gristmill.synthesis.extraction import QA


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A document as the extractor sees it."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A pair that came out of a document, and why it was refused, if it was."""

    id: str
    document: str
    pair: QA
    reason: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    requests: tuple[str, ...] = ()  # keys of the answers that made and judged it


@dataclass(frozen=True, kw_only=True)
class Yield:
    """What became of one document: `status` ok, rejected (no usable pair) or failed (no answer)."""

    document: str
    status: str
    reason: str | None
    candidates: tuple[Candidate, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def kept(self) -> tuple[Candidate, ...]:
        return tuple(c for c in self.candidates if c.reason is None)


def candidate(document: str, pair: QA, keys: tuple[str, ...]) -> Candidate:
    """A pair of a document; its id is that of the dialogue it becomes."""
    ident = content_id("example", {"messages": messages(pair)})
    return Candidate(id=ident, document=document, pair=pair, requests=keys)


def messages(pair: QA) -> list[dict[str, str | None]]:
    """A pair as a dialogue of one turn each."""
    return [
        {"role": "user", "content": pair.question.strip(), "extra": None},
        {"role": "assistant", "content": pair.answer.strip(), "extra": None},
    ]


def settled(draft: Yield, candidates: Sequence[Candidate], tokens: Sequence[int]) -> Yield:
    """The yield with its candidates judged and its (prompt, answer) tokens counted."""
    tokens_in, tokens_out = tokens
    status, reason = draft.status, draft.reason
    if candidates and all(c.reason is not None for c in candidates):
        status, reason = "rejected", f"all_rejected: first {candidates[0].reason}"
    return replace(
        draft,
        status=status,
        reason=reason,
        candidates=tuple(candidates),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
    )
