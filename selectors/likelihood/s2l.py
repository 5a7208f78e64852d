"""S2L: is this record of a kind that the pool holds little of, by how a small model learns it?"""

import dataclasses
import logging
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import (
    Context,
    Observations,
    Prepared,
    Recipe,
    Scorer,
    Signal,
    View,
)
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.numerics.kmeans import kmeans
from gristmill.pipeline.prepare import costs
from gristmill.pipeline.prepare.prepare import draw, limited, prepared, run_of
from gristmill.pipeline.records.dataset import unique_ids
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.signals.forward_signals import MeanLoss
from gristmill.pipeline.signals.views import Dialogue

# N = rows, S = checkpoints, K = clusters

LOG = logging.getLogger(__name__)
CLUSTERS, EVERY = 100, 500  # the paper's
LEAST_ROWS = 10  # of a cluster, on average
MOST_CHECKPOINTS = 12  # the paper's
LEAST_CHECKPOINTS = 4
DECIMALS = 4  # losses are rounded, so that the rounding of a batch moves no row between clusters


@dataclass(frozen=True, kw_only=True)
class ProxyTraining:
    """How the proxy is trained, of which the trajectories are.

    Attributes:
        epochs: passes over the whole pool.
        learning_rate: the peak.
        every: steps between checkpoints; none: 500, or what leaves 4 to 12 of them.
    """

    epochs: int = 3
    learning_rate: float = 2e-5
    every: int | None = None

    def run(self, seed: int) -> Training:
        """The settings of the run; a trajectory needs no optimizer state."""
        return Training(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            checkpoints=EVERY if self.every is None else self.every,
            optimizer_state=False,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class ProxyHistory(Recipe):
    """Recipe: train the proxy on the whole pool and keep checkpoints along the way.

    Attributes:
        role: the role that the checkpoints fill.
        base: the role that is trained.
        training: the paper's, with a checkpoint every 500 steps.
        fixed: the spacing of checkpoints stays as it is; else 4 to 12 of them are kept.
        seed: of the order of rows.
    """

    role: str = "history"
    base: str = "proxy"
    training: Training = field(default_factory=lambda: ProxyTraining().run(0))
    fixed: bool = False
    seed: int = 0

    def cost(self, rows: int, targets: int) -> float:
        return costs.training(rows, self.training.epochs, adapter=False)

    @property
    def trains(self) -> float:
        return costs.trained(adapter=False)

    def makes(self, rows: int, targets: int) -> int:
        training = self.training if self.fixed else spaced(self.training, rows)[0]
        return len(training.published(rows))

    def make(self, context: Context) -> Prepared:
        rows = len(unique_ids(context.pool))
        training = limited(context, self.training)
        notes: list[str] = []
        if not self.fixed:
            training, notes = spaced(training, rows)
        context.log_all(notes)
        trained = train_sft(
            draw(context.pool, rows, self.seed, "history"),
            context.model(self.base),
            Sft(training=training, lora=None),
            context.models.store,
            run=run_of(context),
            allow_network=context.models.allow_network,
        )
        return prepared(trained, notes)


def spaced(training: Training, rows: int) -> tuple[Training, list[str]]:
    """The settings with a spacing of checkpoints that leaves 4 to 12 of them, and what changed."""
    steps, every = training.steps(rows), training.checkpoints
    assert isinstance(every, int), "a trajectory needs checkpoints along the way"
    most, least = math.ceil(steps / MOST_CHECKPOINTS), max(1, steps // LEAST_CHECKPOINTS)
    fitting = min(max(every, most), least)
    if fitting == every:
        return training, []
    notes = f"a checkpoint every {fitting} steps, not {every}: the run has {steps:,} steps."
    return dataclasses.replace(training, checkpoints=fitting), [notes]


@dataclass(frozen=True, kw_only=True)
class S2l(Scorer):
    """Equal numbers from each cluster of loss trajectories of a small model.

    x(z) = (l_1(z), ..., l_S(z)), the mean loss of the answer at each checkpoint; k-means on x; the
    clusters give in turn, smallest ones until they are empty. score(z) = -(place in that order), so
    the first n rows are the paper's choice for the budget n: sources, and within them clusters,
    from smallest to largest, each giving min(size, what is left // how many are left).

    Also called: SmallToLarge. The score orders rows; it does not say how good one is.

    Reads: `MeanLoss` of the answer under the checkpoints in the role "history", in order of
        training; train=True makes them from the model in the role "proxy".
    Reference: none.
    Higher means: its kind of trajectory is rare, or it was drawn early among its kind. Keep it.
    Cost: 1 forward of the small model a checkpoint and 8 bytes each to observe; O(N K S) to score.
        train=True adds 3 epochs of the small model.
    Paper: Yang et al., "SmallToLarge (S2L)", arXiv:2403.07384.
    Departures: one source for the whole pool, as a pool may be split over files at will;
        by="source" takes the sources of the records, by="<field>" a field of their meta. At least
        10 rows a cluster on average (100 clusters from 1,000 rows on; clusters=100 has them on any
        pool); clusters of one or two rows
        take part from the start (the original skips them at first); rows are drawn by their ids.
    Relations: `kcenter` covers what records say, this how they are learnt. Where the target model
        is small itself, its own checkpoints may serve.
    Example: `S2l(by="source").score(pool)`
    """

    scope: ClassVar = "pool"
    paper: ClassVar[str] = "arXiv:2403.07384"
    cost: ClassVar[str] = "1 fe of the small model a checkpoint"
    multi_model: ClassVar[bool] = True
    clusters: int | None = None  # none: 100, or one for ten rows
    iterations: int = 20
    by: str = ""
    train: bool = False
    training: ProxyTraining = field(default_factory=ProxyTraining)  # the paper's
    seed: int = 0
    view: View = field(default_factory=Dialogue)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (MeanLoss(role="history", view=self.view, token_mask="answer"),)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("source", "meta")

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        if not self.train:
            return ()
        run, fixed = self.training.run(self.seed), self.training.every is not None
        return (ProxyHistory(training=run, fixed=fixed, seed=self.seed),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        names = [name for name, _ in pool.columns(self.signals[0])]
        source: pl.Expr = pl.lit("")
        if self.by == "source":
            source = pl.col("source")
        elif self.by:
            source = pl.col("meta").str.json_path_match(f"$.{self.by}").fill_null("")
        table = pl.concat([b.select("id", *names, of=source) for b in pool.blocks()])
        seen = table.drop_nulls(names).sort("id")
        if seen.is_empty():
            return table.select("id", score=pl.lit(None, dtype=pl.Float64))
        parts = []
        for _, part in seen.group_by("of", maintain_order=True):
            x_NS = part.select(names).to_numpy().astype(np.float64)
            finite_NS = np.where(np.isfinite(x_NS), x_NS, 0.0)
            rounded_NS = np.round(finite_NS, DECIMALS).astype(np.float64)
            cluster = trajectories(rounded_NS, self.clusters, self.iterations, self.seed)
            parts.append(part.select("id", "of").with_columns(cluster=pl.Series(cluster)))
        drawn = pl.concat(parts)
        draws = pl.Series([uniform(self.seed, "s2l", i) for i in drawn["id"]], dtype=pl.Float64)
        drawn = drawn.with_columns(draw=draws).sort("draw", "id")
        drawn = drawn.with_columns(turn=in_turn(drawn["of"], drawn["cluster"])).sort("of", "turn")
        size = pl.len().over("of", "cluster").cast(pl.Float64)
        scored = drawn.with_columns(place=in_turn(drawn["of"])).select(
            "id",
            score=-(pl.col("place") + 1.0),
            score_cluster=pl.col("cluster").cast(pl.Float64),
            score_cluster_size=size,
        )
        return table.select("id").join(scored, on="id", how="left", maintain_order="left")


def trajectories(
    x_NS: npt.NDArray[np.float64], clusters: int | None, iterations: int, seed: int
) -> npt.NDArray[np.int64]:
    """The k-means cluster of each trajectory; the rows come sorted by id."""
    fitting = max(1, min(CLUSTERS, len(x_NS) // LEAST_ROWS))
    most = min(fitting if clusters is None else clusters, len(x_NS))
    if most < (clusters or CLUSTERS):
        asked, rows = clusters or CLUSTERS, f"{len(x_NS):,}"
        LOG.warning("%d clusters, not %d: there are %s rows.", most, asked, rows)
    return kmeans(x_NS, most, seed=seed + 1, iterations=iterations)[1]


def in_turn(*groups: pl.Series) -> pl.Series:
    """Place of each row when groups give in turn, the largest first; rows keep their order.

    With several series the first names outer groups, within which places are counted. The first n
    rows of a group of groups are what they give when each, from smallest to largest, gives
    min(size, what is left of n // how many are left).
    """
    frame = pl.DataFrame({f"g{i}": g for i, g in enumerate(groups)}).with_row_index("at")
    outer, whole = list(frame.columns[1:-1]), list(frame.columns[1:])
    name = whole[-1]
    frame = frame.with_columns(
        size=pl.len().over(whole), turn=pl.col("at").rank("ordinal").over(whole)
    ).sort("turn", -pl.col("size").cast(pl.Int64), name)
    one = pl.int_range(pl.len())
    placed = frame.with_columns(place=one.over(outer) if outer else one)
    return placed.sort("at")["place"].cast(pl.Int64)
