"""Harvest: a batch of documents through extraction, refinement and verification.

One call per kind of request for the whole batch, so the model is kept busy across bandit arms. Each
document and each candidate comes back with what became of it; nothing is dropped, and what a
document cost is read off the answers themselves, so it is the same when the cache served them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.completion.cache import Cache, open_cache
from gristmill.pipeline.models.completion.client import (
    Answer,
    Budget,
    CompletionBackend,
    Reply,
    Request,
    Result,
    complete,
)
from gristmill.pipeline.models.completion.schema import repair
from gristmill.pipeline.records.schema import digest
from gristmill.synthesis import verification as verify
from gristmill.synthesis.candidates import Candidate, Passage, Yield, candidate, settled
from gristmill.synthesis.extraction import QA, Ask, Extraction
from gristmill.synthesis.verification import Seen

_REASON = "x" * 300  # the longest complaint of a repair turn
_VOTERS = 3  # fewer answers have no majority worth the name
_MARK = re.compile(r"</?(?:document|pairs?) [0-9a-f]{12}>")


@dataclass(frozen=True, kw_only=True)
class VerifiedExtraction:
    """Who extracts, who checks, and what is checked.

    Attributes:
        extractor: writes the pairs.
        cache: every answer lands here first.
        extraction: the two prompts.
        checker: judges pairs against their document; another model than the extractor. None: no.
        reader: answers each question with and without its document. None: no round trip.
        ask: how both are asked.
        grounded: refuse numbers and quotes that the document does not hold.
        novelty: ROUGE-L with a seed, published or accepted question from which one is refused.
        refuse: a further check of all pairs that passed, e.g. against benchmarks: reason or None.
        refuse_name: names `refuse` and all that it depends on.
        caps: of the whole run, which they stop.
    """

    extractor: CompletionBackend
    cache: Path
    extraction: Extraction = field(default_factory=Extraction)
    checker: CompletionBackend | None = None
    reader: CompletionBackend | None = None
    ask: Ask = field(default_factory=Ask)
    grounded: bool = True
    novelty: float = 0.7
    refuse: Callable[[Sequence[QA]], Sequence[str | None]] | None = None
    refuse_name: str = ""
    caps: RunCaps = field(default_factory=RunCaps)

    def __post_init__(self) -> None:
        if (self.refuse is None) != (self.refuse_name == ""):
            raise ValueError("refuse and refuse_name come together: give both, or neither")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides what comes out."""
        backends = [b and b.identity for b in (self.extractor, self.checker, self.reader)]
        prompts = [settings_of(self.extraction), dict(self.extraction.templates)]
        rest = [settings_of(self.ask), self.grounded, self.novelty, self.refuse_name]
        return digest([backends, prompts, rest])

    @property
    def passed(self) -> tuple[str, ...]:
        """The checks that a kept pair has passed, in their order."""
        made = {
            "form": True,
            "leak": True,
            "grounded": self.grounded,
            "check": self.checker is not None,
            "round_trip": self.reader is not None,
            "vote": self.reader is not None and self.ask.votes >= _VOTERS,
            "refuse": self.refuse is not None,
            "novelty": True,
        }
        return tuple(name for name, is_made in made.items() if is_made)

    def bound(self, passage: Passage) -> tuple[int, int]:
        """Prompt and answer tokens of a document at most: every turn, each with its repair."""
        first = self.extraction.extract(passage.text, passage.id)
        longest = first.sampling.max_tokens
        most = [_most(self.extractor, first, 0)]
        if self.extraction.refine:
            mend = self.extraction.refinement(passage.text, (), "")
            most.append(_most(self.extractor, mend, longest))
        empty = QA.model_construct(question="", answer="", evidence=None)
        if self.checker is not None:
            request = self.ask.check(passage.text, empty, "")
            most += [_most(self.checker, request, longest)] * self.extraction.pairs
        if self.reader is not None:
            for text in (passage.text, None):
                request = self.ask.question(text, empty, "", 0)
                each = [_most(self.reader, request, longest)] * self.ask.votes
                most += each * self.extraction.pairs
        return sum(m[0] for m in most), sum(m[1] for m in most)

    def run(self, passages: Sequence[Passage], seen: Seen, budget: Budget) -> list[Yield]:
        """Extract, mend, verify; `seen` learns the questions that are kept.

        Args:
            passages: the documents, each once.
            seen: what a question must differ from.
            budget: caps what is newly spent, whatever `bound` said.
        """
        with closing(open_cache(self.cache)) as answers:
            ledger = _Ledger(answers=answers)
            drafts = self._drafts(passages, budget, ledger)
            candidates = [c for d in drafts for c in d.candidates]
            texts = {p.id: p.text for p in passages}
            candidates = self._plain(candidates, texts, seen)
            candidates = self._checked(candidates, texts, budget, ledger)
            candidates = self._round_trips(candidates, texts, budget, ledger)
            candidates = self._refused(candidates)
            candidates = list(_novel(candidates, seen))
            return [
                settled(
                    draft,
                    [c for c in candidates if c.document == draft.document],
                    ledger.tokens.get(draft.document, (0, 0)),
                )
                for draft in drafts
            ]

    def _complete(
        self,
        rows: Sequence[Any],
        backend: CompletionBackend,
        prompt: Callable[[Any], Request],
        parse: Callable[[Any, Answer], Any],
        budget: Budget,
    ) -> Iterator[Result]:
        capped = replace(budget, caps=self.caps)  # sums are shared
        return complete(rows, backend, prompt=prompt, parse=parse, cache=self.cache, budget=capped)

    def _drafts(
        self, passages: Sequence[Passage], budget: Budget, ledger: "_Ledger"
    ) -> list[Yield]:
        drafts: dict[str, Yield] = {}
        pairs: dict[str, tuple[QA, ...]] = {}
        keys: dict[str, tuple[str, ...]] = {}
        results = self._complete(
            passages,
            self.extractor,
            lambda p: self.extraction.extract(p.text, p.id),
            lambda p, answer: self.extraction.parse(answer),
            budget,
        )
        for result in results:
            name = result.row.id
            keys[name] = ledger.charge(name, result)
            pairs[name] = result.value or ()
            drafts[name] = Yield(document=name, status=result.status, reason=result.reason)
        if self.extraction.refine:
            results = self._complete(
                [p for p in passages if pairs[p.id]],
                self.extractor,
                lambda p: self.extraction.refinement(p.text, pairs[p.id], p.id),
                lambda p, answer: self.extraction.parse(answer),
                budget,
            )
            for result in results:
                name = result.row.id
                keys[name] += ledger.charge(name, result)
                if result.status == "ok":
                    pairs[name] = result.value
                elif result.reason is not None and result.reason.startswith("parse: no_pairs"):
                    pairs[name] = ()
                    reason = "no_pairs: the second round left nothing"
                    drafts[name] = Yield(document=name, status="rejected", reason=reason)
                # Any other failure leaves the first round's pairs as they are.
        return [
            replace(
                drafts[p.id],
                candidates=tuple(candidate(p.id, pair, keys[p.id]) for pair in pairs[p.id]),
            )
            for p in passages
        ]

    def _plain(
        self, candidates: Iterable[Candidate], texts: Mapping[str, str], seen: Seen
    ) -> list[Candidate]:
        def reason(c: Candidate) -> str | None:
            question, answer, quote = c.pair.question, c.pair.answer, c.pair.evidence
            if _MARK.search(f"{question} {answer}"):
                return "form: a mark of the prompt came back"
            if self.extraction.echoes(question) or self.extraction.echoes(answer):
                return "form: the prompt itself came back"
            return (
                verify.badly_formed(question, answer)
                or verify.leaked(question, answer)
                or (verify.ungrounded(answer, texts[c.document], quote) if self.grounded else None)
                or verify.repeated(question, seen)
            )

        return [replace(c, reason=reason(c)) for c in candidates]

    def _checked(
        self,
        candidates: list[Candidate],
        texts: Mapping[str, str],
        budget: Budget,
        ledger: "_Ledger",
    ) -> list[Candidate]:
        if self.checker is None:
            return candidates
        results = self._complete(
            [c for c in candidates if c.reason is None],
            self.checker,
            lambda c: self.ask.check(texts[c.document], c.pair, c.id),
            lambda c, answer: answer.parsed,
            budget,
        )
        done: dict[tuple[str, str], Candidate] = {}
        for result in results:
            c = result.row
            keys = ledger.charge(c.document, result)
            if result.status == "ok":
                reason = verify.check_verdict(result.value)
            else:
                reason = f"unchecked: {result.reason}"
            done[c.document, c.id] = replace(c, reason=reason, requests=(*c.requests, *keys))
        return [done.get((c.document, c.id), c) for c in candidates]

    def _round_trips(
        self,
        candidates: list[Candidate],
        texts: Mapping[str, str],
        budget: Budget,
        ledger: "_Ledger",
    ) -> list[Candidate]:
        if self.reader is None:
            return candidates
        rows = [
            (c, book, sample)
            for c in candidates
            if c.reason is None
            for book in ("open", "closed")
            for sample in range(self.ask.votes)
        ]
        results = self._complete(
            rows,
            self.reader,
            lambda r: self.ask.question(
                texts[r[0].document] if r[1] == "open" else None, r[0].pair, r[0].id, r[2]
            ),
            lambda r, answer: answer.text,
            budget,
        )
        done: dict[tuple[str, str], Candidate] = {}
        for _, group in groupby(results, key=lambda r: (r.row[0].document, r.row[0].id)):
            said = list(group)
            c = said[0].row[0]
            given = {
                book: [r.value for r in said if r.row[1] == book] for book in ("open", "closed")
            }
            reason = verify.round_trip(c.pair.answer, given["open"], given["closed"])
            if reason is None and self.ask.votes >= _VOTERS:
                winner = verify.majority(given["open"])
                if winner is None or not verify.agrees(c.pair.answer, winner):
                    reason = f"vote: {self.ask.votes} answers have no majority for this one"
            keys = tuple(k for r in said for k in ledger.charge(c.document, r))
            scores = {
                f"round_trip_{book}": verify.share(c.pair.answer, given[book]) for book in given
            }
            done[c.document, c.id] = replace(
                c,
                reason=reason,
                scores={**c.scores, **scores},
                requests=(*c.requests, *keys),
            )
        return [done.get((c.document, c.id), c) for c in candidates]

    def _refused(self, candidates: list[Candidate]) -> list[Candidate]:
        if self.refuse is None:
            return candidates
        open_ = [i for i, c in enumerate(candidates) if c.reason is None]
        reasons = dict(zip(open_, self.refuse([candidates[i].pair for i in open_]), strict=True))
        return [replace(c, reason=reasons.get(i, c.reason)) for i, c in enumerate(candidates)]


@dataclass(frozen=True, kw_only=True)
class _Ledger:
    """What each document has cost, by the answers as they were paid for, cached or not."""

    answers: Cache
    tokens: dict[str, list[int]] = field(default_factory=dict)

    def charge(self, document: str, result: Result) -> tuple[str, ...]:
        """Add an answer and the turns it repairs; return their keys."""
        if result.answer is None:
            return ()
        lineage = result.answer.lineage
        keys = (*lineage["repairs"], lineage["key"])
        spent = self.tokens.setdefault(document, [0, 0])
        for key in keys:
            reply: Reply | None = self.answers.get(key)
            assert reply is not None, f"answer {key} is not in the cache"
            spent[0] += reply.tokens_in
            spent[1] += reply.tokens_out
        return tuple(keys)


def _most(backend: CompletionBackend, request: Request, more: int) -> tuple[int, int]:
    """Tokens in and out of a request whose prompt may grow by `more`, with its repair turn."""
    prompt, answer = backend.prompt_tokens(request) + more, request.sampling.max_tokens
    if request.schema is None:
        return prompt, answer
    empty = Reply(text="", tokens_in=0, tokens_out=0)
    turn = backend.prompt_tokens(repair(request, empty, _REASON)) + more + answer
    return prompt + turn, 2 * answer


def _novel(candidates: Iterable[Candidate], seen: Seen) -> Iterator[Candidate]:
    """The last check, one after the other: what is kept counts against what follows."""
    for c in candidates:
        if c.reason is None:
            c = replace(c, reason=verify.repeated(c.pair.question, seen))
        if c.reason is None:
            seen.add(c.id, c.pair.question)
        yield c
