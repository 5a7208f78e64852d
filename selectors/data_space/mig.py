"""MIG: how much does this row add to what the picks know of each label?"""

# N = rows with labels, L = labels

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.pipeline.selection.picks import number_of
from gristmill.selectors.data_space._fields import number, tags
from gristmill.selectors.data_space._labels import LabelGraph

EPSILON = 1e-6  # a label that nothing has told of yet

Weights = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Mig(Scorer):
    """Greedy maximum of the information of labels, each row's quality spread over alike labels.

    v_z[l] = quality(z) for the labels l of z, u_z = v_z P, with P the label graph: cosines of the
    labels from `threshold` on, 1 for a label with itself, off the diagonal times `spread`, columns
    adding up to 1. f(S) = sum_l (sum_{z in S} u_z[l] + 1e-6)^exponent; z_k is the row of the
    largest <u_z, gradient of f at the picks before it>; score(z_k) = -k.

    Also called: maximising the information gain. Not clustering: labels are given, and a row may
    have many.

    Reads: the fields `tags` (a list, or texts apart by commas) and `quality` (a number, or one a
        turn, whose mean counts) of the input row; the model in the role "embedder" reads the labels
        once.
    Reference: none.
    Higher means: picked earlier; better, and about what the picks had said less of. Keep it. Rows
        never picked have no score (`not_reached`), nor have rows without a label (`no_label`) or a
        quality above 0 (`no_quality`). `score_gain` is what a pick was worth when it was picked.
    Cost: tagging and rating, if rows have neither (1 answer of a model and 2 fe); each label
        through the embedder; O(L^2 D) and, lazily, a few times O(N log N).
    Paper: Chen et al., "MIG: Automatic Data Selection for Instruction Tuning by Maximizing
        Information Gain in Semantic Space", arXiv:2504.13835 (code: yichengchen24/MIG).
    Departures: quality="" counts all rows alike (the paper rates by `deita`'s product); gains only
        fall as picks come, so most rows are looked at once, with the same picks.
    Relations: `deita` filters neighbours by a fixed distance; `facility_location` covers embeddings
        without labels or quality.
    Example: `Mig(picks=0.1).score(pool)`
    """

    scope: ClassVar = "pool"
    greedy: ClassVar[bool] = True
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:2504.13835"
    cost: ClassVar[str] = "0 fe (labels: 1 fe of the embedder each)"
    tags: str = "tags"
    quality: str = ""
    threshold: float = 0.9
    spread: float = 1.0  # how much of a row goes to labels like its own
    exponent: float = 0.8
    per_label: bool = False  # a row's quality is divided among its labels
    picks: float | None = None  # share of the rows; from 2, a number of rows; none: the budget's

    def __post_init__(self) -> None:
        if not 0 < self.exponent < 1 or self.spread < 0:
            raise ValueError(
                "exponent is between 0 and 1 and spread at least 0; found "
                f"{self.exponent} and {self.spread}."
            )

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (LabelGraph(tags=self.tags, threshold=self.threshold),)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("meta",)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        graph = self.given.artifacts[LabelGraph.artifact]
        spread = spread_of(pl.read_parquet(graph.path), self.spread)
        every = pl.concat([b.select("id", "meta") for b in pool.blocks()])
        rows: dict[str, Weights] = {}
        reasons: dict[str, str] = {}
        for ident, meta in every.iter_rows():
            named = tags(meta, self.tags)
            quality = number(meta, self.quality) if self.quality else 1.0
            if not named:
                reasons[ident] = "no_label"
            elif quality is None or quality <= 0:
                reasons[ident] = "no_quality"
            else:
                each = quality / len(named) if self.per_label else quality
                rows[ident] = _spread_over(named, each, spread)
        most = number_of(self.picks, self.given, pool, len(rows)) if rows else 0
        picks, gains = picked(rows, self.exponent, most)
        told: Any = {"id": picks, "score": -np.arange(1.0, len(picks) + 1), "score_gain": gains}
        scored = pl.DataFrame(told, schema_overrides={"id": pl.String, "score_gain": pl.Float64})
        because = pl.col("id").replace_strict(
            reasons, default="not_reached", return_dtype=pl.String
        )
        return (
            every.select("id")
            .join(scored, on="id", how="left", maintain_order="left")
            .with_columns(reason=pl.when(pl.col("score").is_null()).then(because))
        )


def spread_of(graph: pl.DataFrame, share: float) -> dict[str, dict[str, float]]:
    """Rows of P, of the labels that are like another one: what a unit on a label becomes."""
    weight: dict[str, dict[str, float]] = {}
    for label, other, cosine in graph.iter_rows():
        weight.setdefault(label, {label: 1.0})[other] = cosine * share
    column: dict[str, float] = {}
    for row in weight.values():
        for other, value in row.items():
            column[other] = column.get(other, 0.0) + value
    return {
        label: {other: value / column[other] for other, value in row.items()}
        for label, row in weight.items()
    }


def _spread_over(labels: Sequence[str], each: float, spread: Mapping[str, Weights]) -> Weights:
    found: dict[str, float] = {}
    for label in labels:
        for other, share in spread.get(label, {label: 1.0}).items():
            found[other] = found.get(other, 0.0) + each * share
    return found


def picked(
    rows: Mapping[str, Weights], exponent: float, most: int
) -> tuple[list[str], list[float]]:
    """The picks in order and what each was worth: lazily, ties by id.

    A gain falls with every pick, so a row whose gain is known to be the largest of all that others
    had before is the next pick.
    """
    known: dict[str, float] = {}

    def gain(row: Weights) -> float:
        return sum(
            value * exponent * math.pow(known.get(label, 0.0) + EPSILON, exponent - 1)
            for label, value in row.items()
        )

    heap = [(-gain(row), ident, 0) for ident, row in rows.items()]
    heapq.heapify(heap)
    picks: list[str] = []
    gains: list[float] = []
    while heap and len(picks) < most:
        bound, ident, seen = heapq.heappop(heap)
        if seen < len(picks):
            heapq.heappush(heap, (-gain(rows[ident]), ident, len(picks)))
            continue
        picks.append(ident)
        gains.append(-bound)
        for label, value in rows[ident].items():
            known[label] = known.get(label, 0.0) + value
    return picks, gains
