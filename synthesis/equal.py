"""EQUAL: a bandit over clusters of documents decides which are worth the extractor's time."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.models.completion.client import Price
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import LEDGER, check, digest, uniform
from gristmill.pipeline.records.store import Entry, Step, Store, table
from gristmill.synthesis import rounds
from gristmill.synthesis.arms import Arms, Site, site_of
from gristmill.synthesis.bandit import Mode, Rule, rule
from gristmill.synthesis.clusters import Clusters
from gristmill.synthesis.reward import Reward
from gristmill.synthesis.rounds import Batch, Caps, Standing
from gristmill.synthesis.verified_extraction import VerifiedExtraction

VERSION = 3  # of the records made of the rounds
Progress = Callable[[str, int, int], None]


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
        stops inside a round, where the released script finishes it. Small pools: K is at most one
        cluster for four batches, and the probe at most a third of the pulls.
    Relations: `webscale_rl` sends every document and wants short answers; `active_reading` makes
        texts for study, not pairs. Cheaper than both where most documents teach nothing.
    Example: `Equal(share=0.05).run(documents, clusters, extraction, reward, store)`
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
                raise ValueError(
                    f"{name}={value} is not a valid share: give more than 0 and at most 1"
                )
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
        extraction: VerifiedExtraction,
        store: Store,
        *,
        known: Sequence[tuple[str, str]] = (),
        price: Price | None = None,
    ) -> Entry:
        """Pairs from a random share of the documents, to tune the embedder on."""
        site = self._site(documents, extraction, store, known, price)
        size = math.ceil(self.warm_up_share * len(site.texts))
        ids = sorted(site.texts, key=lambda i: (uniform(self.seed, "warm-up", i), i))[:size]
        standing = Standing(state=site.rule.start([size]))
        batches = [Batch(arm=None, why="warm-up", index=None, ids=tuple(ids))]
        return site.round(-1, batches, standing, "", lambda results, state: (results, state))

    def run(
        self,
        documents: pl.DataFrame,
        clusters: Clusters,
        extraction: VerifiedExtraction,
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
            extraction: extraction and checks.
            reward: W of a set of pairs.
            store: where the rounds are kept.
            known: (id, question) of seeds and published rows that must not come again.
            warm: result of `warm_up`: its documents are not sent again, its pairs count.
            price: of tokens, for `money`.
            progress: called with (what, documents sent, documents to send).
        """
        site = self._site(documents, extraction, store, known, price)
        if set(site.texts) != {i for ids in clusters.ids for i in ids}:
            raise ValueError("the clusters are of other documents: cluster these, and pass those")
        arms = Arms(site=site, clusters=clusters, reward=reward, seed=self.seed)
        standing = arms.begin(warm)
        entries = () if warm is None else (warm,)
        target = math.ceil(self.share * len(site.texts))
        previous = digest([warm and warm.content, reward.name, [list(i) for i in clusters.ids]])
        for number in itertools.count():
            left = target - standing.documents
            stop = standing.stop or self._enough(standing, left)
            if not stop:
                state, chosen = arms.machine.choose(standing.state)
                batches = arms.plan(chosen, state, left)
                stop = "" if batches else "exhausted"
            if stop:
                return Outcome(entries=entries, stop=stop, equal=self, site=site)
            before = replace(standing, state=state)
            entry = site.round(number, batches, before, previous, arms.learn)
            arms.remember(entry)
            standing, previous = rounds.standing_of(entry), entry.content
            entries = (*entries, entry)
            if progress is not None:
                progress("equal", standing.documents, target)
        raise AssertionError("the loop ends by a stop")

    def _site(
        self,
        documents: pl.DataFrame,
        extraction: VerifiedExtraction,
        store: Store,
        known: Sequence[tuple[str, str]],
        price: Price | None,
    ) -> Site:
        caps = Caps(tokens=self.tokens, money=self.money, price=price or Price())
        return site_of(self.rule_for, documents, extraction, store, known, caps)

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
    equal: Equal
    site: Site

    def table(self, name: str) -> pl.DataFrame:
        """All rounds' "pulls", "sent" or "candidates"."""
        return rounds.table_of(self.entries, name)

    def publish(self) -> Entry:
        """The records as a table of the store; exactly `pairs` of them if so many were kept."""
        step = self._step("equal_records")
        return self.site.store.put(step, self._records(self._kept()))

    def pool(self) -> tuple[Dataset, pl.DataFrame]:
        """All candidates as a dataset, and a ledger that says why each is in or out.

        The records of `publish` come first; a refused pair has its reason up to the colon in
        `reason`, whole in `detail`.
        """
        kept, candidates = self._kept(), self.table("candidates")
        surplus = candidates.filter(pl.col("reason").is_null()).slice(len(kept))
        enough = pl.lit(f"enough: {self.equal.pairs} pairs were wanted")
        refused = candidates.filter(pl.col("reason").is_not_null())
        ordered = pl.concat([kept, surplus.with_columns(reason=enough), refused])
        records = self._records(ordered)
        note = {"kind": "example", "sources": []}
        parts = [table("records", lambda: records)]
        entry = self.site.store.run(self._step("equal_pool"), parts, note=lambda _: note)
        is_kept = pl.col("detail").is_null()
        what = pl.col("detail").str.split_exact(": ", 1)
        found = records.select("id", "source", "row").with_columns(detail=ordered["reason"])
        found = found.with_columns(
            kind=pl.lit("example"),
            verdict=pl.when(is_kept).then(pl.lit("kept")).otherwise(pl.lit("dropped")),
            reason=what.struct.field("field_0"),
            stage=pl.lit("synthesize"),
            weight=pl.when(is_kept).then(1.0),
        )
        repeats = pl.col("reason") == "contaminated"
        found = found.with_columns(contaminates=pl.when(repeats).then(what.struct.field("field_1")))
        found = found.with_columns(pl.lit(None).alias(c) for c in LEDGER if c not in found.columns)
        return Dataset(entry=entry, kind="example"), check(found, LEDGER, "ledger")

    def _kept(self) -> pl.DataFrame:
        kept = self.table("candidates").filter(pl.col("reason").is_null())
        return kept if self.equal.pairs is None else kept.head(self.equal.pairs)

    def _step(self, name: str) -> Step:
        return Step(
            name=name,
            version=VERSION,
            settings={"settings": settings_of(self.equal), "stop": self.stop},
            inputs={
                "rounds": digest([e.content for e in self.entries]),
                "documents": digest(self.site.documents.rows()),
                "extraction": self.site.extraction.fingerprint,
            },
        )

    def _records(self, candidates: pl.DataFrame) -> pl.DataFrame:
        equal, extraction = self.equal, self.site.extraction
        lineage = {
            "method": "equal",
            "mode": equal.mode,
            "run": self._step("equal_records").key,
            "seed": equal.seed,
            # of a local model its weights: the folder that they lie in is nobody's business
            "model": extraction.extractor.identity.get("weights", extraction.extractor.model),
            "templates": dict(extraction.extraction.templates),
            "extraction": extraction.fingerprint,
            "passed": list(extraction.passed),
        }
        return rounds.records(candidates, self.site.documents, lineage)
