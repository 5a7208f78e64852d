"""Blend: several methods' ranks, averaged with weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Scorer, Signal
from gristmill.pipeline.numerics.ranks import place
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.selectors import catalog


@dataclass(frozen=True, kw_only=True)
class Blend(Scorer):
    """Weighted average of the ranks that several methods give.

    score(z) = sum_m w_m q_m(z) / sum_m |w_m|, q_m(z) = (rank of z among the scored rows - 1/2) / n,
    1 = best, equal scores sharing their mean rank. A negative weight prefers what m ranks low.

    Also called: rank aggregation, Borda count. Ranks, not values: no method's scale can dominate.

    Reads: what its methods read, in one pass per model.
    Reference: optional; required as soon as one of the methods requires it.
    Higher means: the methods agree that the row is good. Keep it.
    Cost: the union of its methods' signals; O(N log N) to score.
    Paper: de Borda, 1781; no selection paper.
    Departures: none. Methods that have models made for them (`less`, `cpqs`) stay out.
    Relations: steadier than any single method where their errors differ; `cascade` (a rule) is
        cheaper where one method is dear.
    Example: `Blend(methods={"ifd": 1.0, "length": -0.2}).score(pool)`
    """

    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    reference: ClassVar = "optional"
    cost: ClassVar[str] = "its methods'"
    methods: Mapping[str, float] = field(default_factory=lambda: {"ifd": 1.0, "length": 1.0})

    @property
    def scorers(self) -> dict[str, Scorer]:
        """The methods, with their default settings."""
        if not any(self.methods.values()) or "blend" in self.methods:
            raise ValueError(
                "blend needs weighted methods other than blend: --set methods=ifd:1,length:0.5"
            )
        made = {name: catalog.make(name).with_given(self.given) for name in sorted(self.methods)}
        apart = [name for name, s in made.items() if s.recipes or s.reads_reference]
        if apart:
            raise ValueError(
                f"blend reads all its methods with the models that are bound; {apart[0]} has some "
                "made for it: score it beside the others, and join them in a cascade."
            )
        return made

    @property
    def parts(self) -> tuple[Scorer, ...]:
        return tuple(self.scorers.values())

    @property
    def accepts(self) -> tuple[Kind, ...]:
        return tuple(k for k in KINDS if all(k in p.records for p in self.parts))

    @property
    def signals(self) -> tuple[Signal, ...]:
        return tuple(dict.fromkeys(s for m in self.scorers.values() for s in m.signals))

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        return tuple(dict.fromkeys(f for m in self.scorers.values() for f in m.facts))

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return tuple(dict.fromkeys(s for m in self.scorers.values() for s in m.reference_signals))

    @property
    def record_columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c for m in self.scorers.values() for c in m.record_columns))

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        total = sum(abs(w) for w in self.methods.values())
        merged: pl.DataFrame | None = None
        for name, scorer in self.scorers.items():
            scores = scorer.score(pool, reference if scorer.reference != "none" else None)
            if "reason" not in scores.columns:
                scores = scores.with_columns(reason=pl.lit(None, dtype=pl.String))
            value = pl.col("score").fill_nan(None)
            part = scores.select(
                "id",
                place(value).alias(f"score_{name}"),
                pl.col("reason").alias(f"reason_{name}"),
            )
            merged = (
                part
                if merged is None
                else merged.join(part, on="id", how="left", maintain_order="left")
            )
        assert merged is not None
        mean = sum(
            (w / total * pl.col(f"score_{n}") for n, w in sorted(self.methods.items())),
            start=pl.lit(0.0),
        )
        return merged.select(
            "id",
            score=mean,
            **{f"score_{n}": pl.col(f"score_{n}") for n in sorted(self.methods)},
            reason=pl.coalesce(
                pl.lit(f"{n}: ") + pl.col(f"reason_{n}") for n in sorted(self.methods)
            ),
        )
