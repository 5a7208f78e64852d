"""Length bias of preference scores: do they prefer pairs whose chosen response is the longer one?

Margins are sums over tokens, so a method can sort pairs by length and look as if it sorted them by
worth. `length_bias` says how far a score, and what was kept by it, follows the difference of the
responses' lengths; `length_strata` makes the column with which a selection takes its pairs in the
same proportions from all differences: the rule `stratified` with `by: length_stratum` and
`balanced: false`, in a run's settings as in Python.
"""

# N = pairs

import polars as pl

from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.numerics.ranks import auc, place, spearman
from gristmill.pipeline.records.schema import KEY


def side_lengths(pairs: pl.DataFrame) -> pl.DataFrame:
    """`id`, `chosen_length`, `rejected_length` of pair records, in characters: no model is asked.

    Args:
        pairs: `id`, `chosen`, `rejected`; reasoning and tool calls count as they are written.
    """
    turn = pl.element().struct
    said = turn.field("content").cast(pl.String).str.len_chars().fill_null(0)
    further = turn.field("extra").cast(pl.String).str.len_chars().fill_null(0)
    length = {
        f"{side}_length": pl.col(side).list.eval(said + further).list.sum().cast(pl.Float64)
        for side in ("chosen", "rejected")
    }
    return pairs.select("id", **length)


def length_bias(
    scores: pl.DataFrame, lengths: pl.DataFrame, kept: pl.Series | None = None
) -> pl.DataFrame:
    """How far a score follows the difference of lengths, before and after a selection.

    Args:
        scores: `id`, `score`; one row per pair.
        lengths: of both sides, by id: `side_lengths`, or in tokens `pair_signals.length_table`.
        kept: ids of the pairs that were taken; without them the pool alone is told.

    Returns:
        A row for the pool and one for the kept pairs: `rows` with a score and both lengths,
        `spearman` of score and difference (chosen - rejected), `auc` (chance that a pair with the
        longer chosen response scores above one with the longer rejected response; 1/2 = no bias),
        `chosen_longer` (share of pairs), `difference` (mean, in the unit of the lengths). A figure
        that is not defined, as for equal lengths alone, is null.
    """
    known = scores.select("id", "score").join(lengths, on="id", how="inner").sort("id")
    known = known.drop_nulls().filter(pl.col("score").is_finite())
    stages = [("pool", known)]
    if kept is not None:
        stages.append(("kept", known.filter(pl.col("id").is_in(kept.implode()))))
    lines = [{"stage": name, **_bias(frame)} for name, frame in stages]
    floating = ("spearman", "auc", "chosen_longer", "difference")
    types = {"stage": pl.String, "rows": pl.Int64, **dict.fromkeys(floating, pl.Float64)}
    return pl.DataFrame(lines, schema=types)


def _bias(frame: pl.DataFrame) -> dict[str, float | int | None]:
    score_N = floats(frame["score"])
    apart_N = floats(frame["chosen_length"]) - floats(frame["rejected_length"])
    if not frame.height:
        return {"rows": 0}
    return {
        "rows": frame.height,
        "spearman": spearman(score_N, apart_N),
        "auc": auc(score_N[apart_N > 0], score_N[apart_N < 0]),
        "chosen_longer": float((apart_N > 0).mean()),
        "difference": float(apart_N.mean()),
    }


def length_strata(scores: pl.DataFrame, lengths: pl.DataFrame, strata: int = 5) -> pl.DataFrame:
    """The column `length_stratum` for `select(extra=...)`: equal-sized classes of the difference.

    Args:
        scores: the scores table, with `id`, `source` and `row`.
        lengths: as above.
        strata: number of classes; pairs of equal difference are always in one, so a common
            difference can make fewer.

    Returns:
        `id`, `source`, `row`, `length_stratum` (text; null where a length is unknown).
    """
    if strata < 2:
        raise ValueError(f"length strata: give at least 2 classes; found {strata}.")
    apart = pl.col("chosen_length") - pl.col("rejected_length")
    stratum = (place(apart) * strata).floor().cast(pl.Int64)
    classed = lengths.select("id", length_stratum=stratum.cast(pl.String))
    return scores.select(*KEY).join(classed, on="id", how="left", maintain_order="left")
