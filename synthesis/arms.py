"""Arms: what a run batches in, the same over the rounds, and the bandit's side of it."""

# K = clusters

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.records.schema import DOCUMENT, check, digest, uniform
from gristmill.pipeline.records.store import Entry, Part, Step, Store
from gristmill.synthesis import rounds
from gristmill.synthesis.bandit import Official, Rule, probing, warmed
from gristmill.synthesis.bandit_state import Array, Pull, State
from gristmill.synthesis.clusters import Clusters
from gristmill.synthesis.extraction import QA
from gristmill.synthesis.reward import Reward
from gristmill.synthesis.rounds import Batch, Caps, PullResult, Standing
from gristmill.synthesis.verification import Seen
from gristmill.synthesis.verified_extraction import VerifiedExtraction

VERSION = 1  # of a round
Learn = Callable[[list[PullResult], State], tuple[list[PullResult], State]]


@dataclass(frozen=True, kw_only=True)
class Site:
    """What stays the same over the rounds; `seen` alone grows."""

    rule: Rule
    documents: pl.DataFrame
    texts: dict[str, str]
    extraction: VerifiedExtraction
    store: Store
    caps: Caps
    known: str
    seen: Seen

    def round(
        self,
        number: int,
        batches: Sequence[Batch],
        standing: Standing,
        previous: str,
        learn: Learn,
    ) -> Entry:
        """Batch, or find what was dug; then the questions that were kept are known."""
        left = standing.left(self.caps)
        step = Step(
            name="equal",
            version=VERSION,
            settings={
                "rule": settings_of(self.rule),
                "round": number,
                "tokens": left.tokens,
                "money": left.money,
                "price": vars(self.caps.price),
            },
            inputs={
                "documents": digest([[d.arm, list(d.ids)] for d in batches]),
                "extraction": self.extraction.fingerprint,
                "known": self.known,
                "previous": previous,
            },
        )

        def work(path: Path) -> None:
            results, after = rounds.pull(
                batches, self.texts, self.extraction, standing, self.caps, self.seen
            )
            results, state = learn(results, standing.state)
            rounds.write(path, number, results, replace(after, state=state), self.rule.batch)

        entry = self.store.run(step, [Part(name="round", write=work)])
        kept = rounds.table_of([entry], "candidates").filter(pl.col("reason").is_null())
        self.seen.update(kept.select("id", "question").iter_rows())
        return entry


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The bandit's side: queues of documents, pairs so far, costs."""

    site: Site
    clusters: Clusters
    reward: Reward
    seed: int  # of the order of documents
    queues: list[list[str]] = field(default_factory=list)
    pairs: list[list[QA]] = field(default_factory=list)  # of each arm so far

    @property
    def machine(self) -> Rule:
        """The bandit rule."""
        return self.site.rule

    @cached_property
    def graph_KK(self) -> Array:
        return self.machine.graph(self.clusters.mean_KD, self.clusters.std_KD)

    def begin(self, warm: Entry | None) -> Standing:
        """Fill the queues; what the warm-up sent counts as first pulls."""
        gone = {} if warm is None else rounds.kept_pairs(warm)
        sent = set() if warm is None else set(rounds.table_of([warm], "sent")["document"])
        batches: list[tuple[int, list[QA]]] = []
        for arm, ids in enumerate(self.clusters.ids):
            self.queues.append(sorted((i for i in ids if i not in sent), key=self._order))
            mine = [gone.get(i, []) for i in ids if i in sent]
            self.pairs.append([p for found in mine for p in found])
            size = self.machine.batch
            for start in range(0, len(mine) - size + 1, size):
                found = [p for pairs in mine[start : start + size] for p in pairs]
                batches.append((arm, found))
        if self.machine.union:  # one pull an arm: all its pairs
            batches = [(arm, found) for arm, found in enumerate(self.pairs) if found]
        costs = self._costs([found for _, found in batches])
        pulls = [Pull(arm=arm, cost=w) for (arm, _), w in zip(batches, costs, strict=True)]
        sizes = [len(q) for q in self.queues]
        standing = Standing(state=warmed(self.machine, sizes, self.graph_KK, pulls))
        if warm is None:
            return standing
        before = rounds.standing_of(warm)
        return replace(before, state=standing.state, documents=0, stop="")

    def plan(self, chosen: Sequence[int], state: State, left: int) -> list[Batch]:
        """The next batch of each chosen arm, while documents are left to send."""
        why = "probe" if probing(self.machine, state) else "chosen"
        batches: list[Batch] = []
        for arm in chosen:
            start = int(state.drawn_A[arm]) * self.machine.batch
            ids = self.queues[arm][start : start + self.machine.batch][: max(left, 0)]
            left -= len(ids)
            if ids:
                index = float(state.index_A[arm])
                known = index if math.isfinite(index) else None
                batches.append(Batch(arm=arm, why=why, index=known, ids=tuple(ids)))
        return batches

    def learn(self, results: list[PullResult], state: State) -> tuple[list[PullResult], State]:
        """Costs of the pulls, and the state after them."""
        sets = [self.pairs[_arm(d)] + d.kept if self.machine.union else d.kept for d in results]
        results = [replace(d, cost=w) for d, w in zip(results, self._costs(sets), strict=True)]
        pulls = [
            Pull(arm=_arm(d), cost=d.cost, full=len(d.yields) == self.machine.batch)
            for d in results
        ]
        return results, self.machine.update(state, self.graph_KK, pulls)

    def remember(self, entry: Entry) -> None:
        """Add a round's pairs to their arms."""
        arm_of = rounds.table_of([entry], "sent").select("document", "cluster").iter_rows()
        arms = dict(arm_of)
        for document, found in rounds.kept_pairs(entry).items():
            self.pairs[arms[document]] += found

    def _order(self, ident: str) -> tuple[float, str]:
        # The released script takes documents in file order; so do we, by the position in `texts`.
        if isinstance(self.machine, Official):
            return float(self._place[ident]), ident
        return uniform(self.seed, "documents", ident), ident

    @cached_property
    def _place(self) -> dict[str, int]:
        return {ident: place for place, ident in enumerate(self.site.texts)}

    def _costs(self, sets: Sequence[list[QA]]) -> list[float | None]:
        some = [s for s in sets if s]
        costs = iter(self.reward.costs(some) if some else [])
        return [next(costs) if s else None for s in sets]


def _arm(results: PullResult) -> int:
    assert results.batch.arm is not None, "a pull has an arm"
    return results.batch.arm


def site_of(
    rule_for: Callable[[int], Rule],
    documents: pl.DataFrame,
    extraction: VerifiedExtraction,
    store: Store,
    known: Sequence[tuple[str, str]],
    caps: Caps,
) -> Site:
    """Where a run batches: the documents, each once, in the order of their sources."""
    documents = check(documents, DOCUMENT, "documents").unique("id", keep="first")
    documents = documents.sort("source", "row", "id")
    if documents.is_empty():
        raise ValueError("there are no documents to extract from: check the sources")
    seen = Seen(limit=extraction.novelty)
    seen.update(sorted(known))
    return Site(
        rule=rule_for(len(documents)),
        documents=documents,
        texts=dict(documents.select("id", "text").iter_rows()),
        extraction=extraction,
        store=store,
        caps=caps,
        known=digest(sorted([list(k) for k in known])),
        seen=seen,
    )
