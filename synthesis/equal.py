"""EQUAL: a bandit over clusters of documents decides which are worth the extractor's time."""

# K = clusters

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.models.completion import Price
from gristmill.pipeline.schema import DOCUMENT, check, digest, uniform
from gristmill.pipeline.store import Entry, Part, Step, Store
from gristmill.synthesis import rounds
from gristmill.synthesis.bandit import Array, Mode, Pull, Rule, State, probing, rule, warmed
from gristmill.synthesis.documents import Clusters
from gristmill.synthesis.extraction import QA
from gristmill.synthesis.harvest import Harvester
from gristmill.synthesis.reward import Reward
from gristmill.synthesis.rounds import Caps, Dig, Dug, Standing
from gristmill.synthesis.verification import Seen

VERSION = 1
Progress = Callable[[str, int, int], None]
Learn = Callable[[list[Dug], State], tuple[list[Dug], State]]


@dataclass(frozen=True, kw_only=True)
class Equal:
    """Extract pairs from the clusters of documents whose pairs lie nearest to a reference set.

    Clusters are bandit arms. A pull sends an arm's next `batch` documents to the extractor and
    costs W = min_T sum_nm T_nm |x_n - r_m|, the optimal transport distance from its verified pairs
    x to the reference set r (or any other reward). The rule of `mode` chooses the next arms by
    U_j = mean gain of arm j and its kin + bonus for few pulls; see `bandit`. Not a filter of pairs:
    what is extracted and verified is kept, near or far.

    Reads: document embeddings, for the clusters; whatever the reward reads of the pairs.
    Reference: required by the transport reward; 100 rows are used, in neither pool nor test set.
    Higher means: the index U of an arm; high is "send its next documents". Keep its pairs.
    Cost: 2 calls a document sent (1 without refinement), and the checks' calls a pair; no pass over
        documents that are not sent. Transport O(outer * inner * N * M) a pull.
    Paper: "Not All Documents Are What You Need for Extracting Instruction Tuning Data",
        arXiv:2505.12250.
    Departures: mode "fixed" is ours, "paper" and "official" follow paper and released code; pairs
        are verified before they are rewarded; warm-up documents count as first pulls; the budget
        stops inside a round, where the released script finishes it. Pool floors: K is at most one
        cluster for four batches, and the probe at most a third of the pulls.
    Relations: `webscale_rl` sends every document and wants short answers; `active_reading` makes
        texts for study, not pairs. Cheaper than both where most documents teach nothing.
    Example: `Equal(share=0.05).run(documents, clusters, harvester, reward, store)`
    """

    paper: ClassVar[str] = "arXiv:2505.12250"
    mode: Mode = "fixed"
    share: float = 0.05  # gamma: of the documents
    warm_up_share: float = 0.05
    batch: int = 10
    arms: int | None = None  # a round; None: the mode's own
    tokens: int | None = None  # caps on everything sent, warm-up included
    money: float | None = None
    pairs: int | None = None  # stop once so many are kept
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("share", self.share), ("warm_up_share", self.warm_up_share)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value} is no share: give more than 0 and at most 1")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} sends nothing: give at least 1 document")

    def rule_for(self, documents: int) -> Rule:
        """The bandit rule of the mode, for a pool of so many documents."""
        pulls = math.ceil(self.share * documents / self.batch)
        return rule(self.mode, batch=self.batch, arms=self.arms, seed=self.seed, pulls=pulls)

    def clusters_for(self, documents: int) -> int:
        """K: 1,000 as in the paper, and four batches a cluster on pools too small for that."""
        return max(1, min(1_000, documents // (4 * self.batch)))

    def warm_up(
        self,
        documents: pl.DataFrame,
        harvester: Harvester,
        store: Store,
        *,
        known: Sequence[tuple[str, str]] = (),
        price: Price | None = None,
    ) -> Entry:
        """Pairs from a random share of the documents, to tune the embedder on."""
        site = _site(self, documents, harvester, store, known, price)
        size = math.ceil(self.warm_up_share * len(site.texts))
        ids = sorted(site.texts, key=lambda i: (uniform(self.seed, "warm-up", i), i))[:size]
        standing = Standing(state=site.rule.start([size]))
        digs = [Dig(arm=None, why="warm-up", index=None, ids=tuple(ids))]
        return site.round(-1, digs, standing, "", lambda dug, state: (dug, state))

    def run(
        self,
        documents: pl.DataFrame,
        clusters: Clusters,
        harvester: Harvester,
        reward: Reward,
        store: Store,
        *,
        known: Sequence[tuple[str, str]] = (),
        warm: Entry | None = None,
        price: Price | None = None,
        progress: Progress | None = None,
    ) -> "Outcome":
        """Choose, extract, verify, reward; every round is an entry of the store.

        Killed at any instant, a rerun finds the finished rounds in the store and the paid answers
        in the cache, and goes on to the same bytes.

        Args:
            documents: rows of the schema `DOCUMENT` (chunks).
            clusters: of the same documents.
            harvester: extraction and checks.
            reward: W of a set of pairs.
            store: where the rounds are kept.
            known: (id, question) of seeds and published rows that must not come again.
            warm: result of `warm_up`: its documents are not sent again, its pairs count.
            price: of tokens, for `money`.
            progress: called with (what, documents sent, documents to send).
        """
        site = _site(self, documents, harvester, store, known, price)
        if set(site.texts) != {i for ids in clusters.ids for i in ids}:
            raise ValueError("the clusters are of other documents: cluster these, and pass those")
        arms = _Arms(equal=self, site=site, clusters=clusters, reward=reward)
        standing = arms.begin(warm)
        entries = () if warm is None else (warm,)
        target = math.ceil(self.share * len(site.texts))
        previous = digest([warm and warm.content, reward.name, [list(i) for i in clusters.ids]])
        for number in itertools.count():
            left = target - standing.documents
            stop = standing.stop or self._enough(standing, left)
            if not stop:
                state, chosen = arms.machine.choose(standing.state)
                digs = arms.plan(chosen, state, left)
                stop = "" if digs else "exhausted"
            if stop:
                return Outcome(entries=entries, stop=stop, site=site)
            before = replace(standing, state=state)
            entry = site.round(number, digs, before, previous, arms.learn)
            arms.remember(entry)
            standing, previous = rounds.standing_of(entry), entry.content
            entries = (*entries, entry)
            if progress is not None:
                progress("equal", standing.documents, target)
        raise AssertionError("the loop ends by a stop")

    def _enough(self, standing: Standing, left: int) -> str:
        if left <= 0:
            return "share"
        return "pairs" if self.pairs is not None and standing.kept >= self.pairs else ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run made, round by round, and why it ended.

    `stop` is "share" (all documents of the share were sent), "pairs" (enough were kept), "budget"
    (the next document might exceed it) or "exhausted" (no cluster has documents left).
    """

    entries: tuple[Entry, ...]
    stop: str
    site: "_Site"

    def table(self, name: str) -> pl.DataFrame:
        """All rounds' "pulls", "sent" or "candidates"."""
        return rounds.table_of(self.entries, name)

    def publish(self) -> Entry:
        """The records as a table of the store; exactly `pairs` of them if so many were kept."""
        equal, site = self.site.equal, self.site
        settings = {"settings": settings_of(equal), "stop": self.stop}
        inputs = {
            "rounds": digest([e.content for e in self.entries]),
            "documents": digest(site.documents.rows()),
            "harvester": site.harvester.fingerprint,
        }
        step = Step(name="equal_records", version=VERSION, settings=settings, inputs=inputs)

        def make() -> pl.DataFrame:
            extractor = site.harvester.extractor
            lineage = {
                "method": "equal",
                "mode": equal.mode,
                "run": step.key,
                "model": extractor.model,
                "templates": dict(site.harvester.extraction.templates),
            }
            made = rounds.records(self.table("candidates"), site.documents, lineage)
            return made if equal.pairs is None else made.head(equal.pairs)

        return site.store.put(step, make())


# --------------------------------------------------------------------------------- inside a run


@dataclass(frozen=True, kw_only=True)
class _Site:
    """What stays the same over the rounds; `seen` alone grows."""

    equal: Equal
    documents: pl.DataFrame
    texts: dict[str, str]
    harvester: Harvester
    store: Store
    caps: Caps
    known: str
    seen: Seen

    @property
    def rule(self) -> Rule:
        return self.equal.rule_for(len(self.texts))

    def round(
        self,
        number: int,
        digs: Sequence[Dig],
        standing: Standing,
        previous: str,
        learn: Learn,
    ) -> Entry:
        """Dig, or find what was dug; then the questions that were kept are known."""
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
                "documents": digest([[d.arm, list(d.ids)] for d in digs]),
                "harvester": self.harvester.fingerprint,
                "known": self.known,
                "previous": previous,
            },
        )

        def work(path: Path) -> None:
            dug, after = rounds.dig(
                digs, self.texts, self.harvester, standing, self.caps, self.seen
            )
            dug, state = learn(dug, standing.state)
            rounds.write(path, number, dug, replace(after, state=state), self.equal.batch)

        entry = self.store.run(step, [Part(name="round", write=work)])
        kept = rounds.table_of([entry], "candidates").filter(pl.col("reason").is_null())
        self.seen.update(kept.select("id", "question").iter_rows())
        return entry


@dataclass(frozen=True, kw_only=True)
class _Arms:
    """The bandit's side: queues of documents, pairs so far, costs."""

    equal: Equal
    site: _Site
    clusters: Clusters
    reward: Reward
    queues: list[list[str]] = field(default_factory=list)
    pairs: list[list[QA]] = field(default_factory=list)  # of each arm so far

    @cached_property
    def machine(self) -> Rule:
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
            size = self.equal.batch
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

    def plan(self, chosen: Sequence[int], state: State, left: int) -> list[Dig]:
        """The next batch of each chosen arm, while documents are left to send."""
        why = "probe" if probing(self.machine, state) else "chosen"
        digs: list[Dig] = []
        for arm in chosen:
            start = int(state.drawn_A[arm]) * self.equal.batch
            ids = self.queues[arm][start : start + self.equal.batch][: max(left, 0)]
            left -= len(ids)
            if ids:
                index = float(state.index_A[arm])
                known = index if math.isfinite(index) else None
                digs.append(Dig(arm=arm, why=why, index=known, ids=tuple(ids)))
        return digs

    def learn(self, dug: list[Dug], state: State) -> tuple[list[Dug], State]:
        """Costs of the pulls, and the state after them."""
        sets = [self.pairs[_arm(d)] + d.kept if self.machine.union else d.kept for d in dug]
        dug = [replace(d, cost=w) for d, w in zip(dug, self._costs(sets), strict=True)]
        pulls = [
            Pull(arm=_arm(d), cost=d.cost, full=len(d.yields) == self.equal.batch) for d in dug
        ]
        return dug, self.machine.update(state, self.graph_KK, pulls)

    def remember(self, entry: Entry) -> None:
        """Add a round's pairs to their arms."""
        arm_of = rounds.table_of([entry], "sent").select("document", "cluster").iter_rows()
        arms = dict(arm_of)
        for document, found in rounds.kept_pairs(entry).items():
            self.pairs[arms[document]] += found

    def _order(self, ident: str) -> tuple[float, str]:
        # The released script takes documents in file order; so do we, by the position in `texts`.
        if self.equal.mode == "official":
            return float(self._place[ident]), ident
        return uniform(self.equal.seed, "documents", ident), ident

    @cached_property
    def _place(self) -> dict[str, int]:
        return {ident: place for place, ident in enumerate(self.site.texts)}

    def _costs(self, sets: Sequence[list[QA]]) -> list[float | None]:
        some = [s for s in sets if s]
        costs = iter(self.reward.costs(some) if some else [])
        return [next(costs) if s else None for s in sets]


def _arm(dug: Dug) -> int:
    assert dug.dig.arm is not None, "a pull has an arm"
    return dug.dig.arm


def _site(
    equal: Equal,
    documents: pl.DataFrame,
    harvester: Harvester,
    store: Store,
    known: Sequence[tuple[str, str]],
    price: Price | None,
) -> _Site:
    documents = check(documents, DOCUMENT, "documents").unique("id", keep="first")
    documents = documents.sort("source", "row", "id")
    if documents.is_empty():
        raise ValueError("there are no documents to extract from: check the sources")
    seen = Seen(limit=harvester.novelty)
    seen.update(sorted(known))
    return _Site(
        equal=equal,
        documents=documents,
        texts=dict(documents.select("id", "text").iter_rows()),
        harvester=harvester,
        store=store,
        caps=Caps(tokens=equal.tokens, money=equal.money, price=price or Price()),
        known=digest(sorted([list(k) for k in known])),
        seen=seen,
    )
