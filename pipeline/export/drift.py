"""Drift: how far a version may lie from the one before it, and what lies beyond."""

from collections.abc import Iterator
from dataclasses import dataclass

from gristmill.pipeline.export.diff import Diff


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may change; None: as much as it does.

    Attributes:
        rows: share by which the number of rows may change.
        dropped: share of the rows before that may go.
        mixture: how far the mixture of sources may move (total variation distance).
        score: how far a score's distribution may move, of kept rows and of the pool's new rows
            against its old ones (Kolmogorov-Smirnov distance). A distance that chance explains is
            within any limit.
        new_sources: how many sources may come into the pool.
    """

    rows: float | None = 0.5
    dropped: float | None = 0.3
    mixture: float | None = 0.2
    score: float | None = 0.3
    new_sources: int | None = None


def beyond(diff: Diff, limits: Limits) -> list[str]:
    """What lies beyond its limit: a sentence each, which begins with the limit's name."""
    return list(_beyond(diff, limits))


def _beyond(diff: Diff, limits: Limits) -> Iterator[str]:
    n = diff.counts
    before = max(1, n["rows_before"])
    change = abs(n["rows_after"] - n["rows_before"]) / before
    if limits.rows is not None and change > limits.rows:
        yield (
            f"rows: {n['rows_before']:,} became {n['rows_after']:,}, a change of {change:.1%}; "
            f"at most {limits.rows:.1%} is expected."
        )
    gone = n["dropped"] / before
    if limits.dropped is not None and gone > limits.dropped:
        yield (
            f"dropped: {n['dropped']:,} of {n['rows_before']:,} rows are gone, {gone:.1%}; at most "
            f"{limits.dropped:.1%} is expected."
        )
    if limits.mixture is not None and diff.shift > limits.mixture:
        yield (
            f"mixture: {diff.shift:.1%} of the rows moved between sources; at most "
            f"{limits.mixture:.1%} is expected."
        )
    for line in diff.scores.iter_rows(named=True):
        if limits.score is not None and line["distance"] > max(limits.score, line["chance"]):
            yield (
                f"score: {line['score']} of the {line['of']} moved by {line['distance']:.3f} "
                f"(chance explains {line['chance']:.3f}); at most {limits.score:g} is expected."
            )
    new = diff.sources.filter(change="new").height
    if limits.new_sources is not None and new > limits.new_sources:
        yield f"new_sources: {new:,} came; at most {limits.new_sources:,} are expected."
