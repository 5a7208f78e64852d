"""The pair report: margins, the plane of LossDiff and IRM, agreement, planted wrong labels.

Tables are frames over `id`; figures are pieces of the page. `section` puts them together for a
ledger of pairs, with what its score columns allow.
"""

# N = pairs, C = methods

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.intervals import draws
from gristmill.pipeline.numerics.ordering import Floats, fitting, floats
from gristmill.pipeline.records.dataset import Records
from gristmill.pipeline.report import page, plots, tables
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.page import Html, tag
from gristmill.pipeline.report.scatter import Group, scatter
from gristmill.pipeline.selection.length_bias import length_bias, side_lengths
from gristmill.pipeline.selection.rules.band import Band, band_counts, within

PLANE = ("score_lossdiff", "score_irm")
RESAMPLES = 2_000


def kept_by(scores: pl.DataFrame, rule: Rule, remaining: float = np.inf) -> pl.Series:
    """Ids that a rule takes of the rows with a score, with room for so many."""
    known = scores.filter(pl.col("score").is_finite().fill_null(False))
    known = known.with_columns(cost=pl.lit(1, pl.Int64))
    at = rule.order(known, remaining)["index"].to_numpy()
    return known["id"].gather(at[fitting(np.ones(len(at), np.int64), remaining)])


def planted(
    scores: Mapping[str, pl.DataFrame],
    rules: Mapping[str, Rule],
    wrong: pl.Series,
    *,
    remaining: float = np.inf,
    seed: int = 0,
) -> pl.DataFrame:
    """What each rule keeps of pairs whose labels are known to be wrong.

    Args:
        scores: method -> `id`, `score` and its parts; one row per pair.
        rules: method -> the rule that keeps its pairs.
        wrong: ids of the pairs with planted labels.
        remaining: how many pairs a rule may keep.
        seed: of the interval.

    Returns:
        One row per method: `kept`, `wrong_before` and `wrong_after` (shares of wrong labels),
        `out_wrong` and `out_right` (shares that fall out), `ratio` of the two with its 95 %
        bootstrap interval `low`, `high`; null where nothing falls out. A pair without a score
        falls out.
    """
    lines = []
    for method, frame in scores.items():
        frame = frame.sort("id")
        ids = frame["id"]
        kept = kept_by(frame, rules[method], remaining)
        out_N = 1.0 - ids.is_in(kept.implode()).to_numpy().astype(float)
        wrong_N = ids.is_in(wrong.implode()).to_numpy().astype(float)
        rate = [_rate(out_N, w, np.ones((len(ids), 1)))[0] for w in (wrong_N, 1 - wrong_N)]
        count_NR = draws(ids.to_list(), RESAMPLES, seed)
        bad_R, good_R = (_rate(out_N, w, count_NR) for w in (wrong_N, 1 - wrong_N))
        drawn = np.isfinite(bad_R) & (good_R > 0)
        ratio_R = bad_R[drawn] / good_R[drawn]
        low, high = np.quantile(ratio_R, (0.025, 0.975)) if len(ratio_R) else (None, None)
        stay = 1 - out_N
        lines.append(
            {
                "method": method,
                "kept": int(stay.sum()),
                "wrong_before": float(wrong_N.mean()),
                "wrong_after": float(wrong_N @ stay / stay.sum()) if stay.any() else None,
                "out_wrong": float(rate[0]),
                "out_right": float(rate[1]),
                "ratio": float(rate[0] / rate[1]) if rate[1] > 0 else None,
                "low": None if low is None else float(low),
                "high": None if high is None else float(high),
            }
        )
    return pl.DataFrame(lines, infer_schema_length=None)


def _rate(out_N: Floats, of_N: Floats, count_NR: npt.NDArray[Any]) -> Floats:
    """Share of a group that is out, in every resample."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share_R: Floats = ((out_N * of_N) @ count_NR) / (of_N @ count_NR)
    return share_R


def agreement(scores: Mapping[str, pl.DataFrame], kept: int) -> tuple[list[str], Html]:
    """Rank correlations and overlaps of the best `kept` pairs, by method."""
    names = list(scores)
    joined: pl.DataFrame | None = None
    for name, frame in scores.items():
        own = frame.select("id", pl.col("score").fill_nan(None).alias(f"score_{name}"))
        joined = own if joined is None else joined.join(own, on="id", how="full", coalesce=True)
    assert joined is not None, "agreement of no method"
    verdict = pl.when(pl.int_range(pl.len()) < kept).then(pl.lit("kept")).otherwise(pl.lit("none"))
    ledger = joined.with_columns(
        score=pl.lit(None, pl.Float64), source=pl.lit(""), row=pl.int_range(pl.len())
    ).with_columns(verdict=verdict)
    columns, spearman_CC, overlap_CC = tables.agreement(ledger)
    short = [c.removeprefix("score_") for c in columns]
    both = tag(
        "div",
        page.figure("Rank correlation", plots.heatmap(short, spearman_CC, signed=True)),
        page.figure("Overlap of the top sets", plots.heatmap(short, overlap_CC, signed=False)),
        class_="figures",
    )
    return names, both


def margins(columns: Mapping[str, pl.Series], kept: Sequence[bool] | pl.Series) -> Html:
    """Distribution of each margin or loss difference in the pool and among the kept pairs."""
    taken_N = np.asarray(kept, dtype=bool)
    figures = []
    for name, column in columns.items():
        value_N = floats(column)
        figures.append(plots.histogram(name, value_N, value_N[taken_N], unit="margin"))
    return tag("div", *figures, class_="figures")


def plane(scores: pl.DataFrame, band: Band | None = None) -> Html:
    """Every pair by LossDiff and IRM; those in both bands on top, the bands' edges dashed.

    Args:
        scores: `score_lossdiff` and `score_irm`.
        band: over both columns; (.10, .90) by default.
    """
    band = band or Band(columns=PLANE)
    edges = band.edges(scores)
    value_N2 = np.stack([floats(scores[c]) for c in PLANE], axis=1)
    inside_N = np.logical_and.reduce(
        [within(value_N2[:, j], *edges[c]) for j, c in enumerate(PLANE)]
    )
    known_N = np.isfinite(value_N2).all(axis=1)
    if not known_N.any():
        return plots.note("No pair has both scores.")
    drawn = scatter(
        "LossDiff (across) and IRM (up)",
        [
            Group(
                name="pairs",
                left_N2=value_N2[known_N & ~inside_N],
                taken_N2=value_N2[known_N & inside_N],
            )
        ],
        edges=(edges[PLANE[0]], edges[PLANE[1]]),
    )
    counts = band_counts(scores, band)
    lines = [
        tuple(page.number(v) if isinstance(v, float) else ("" if v is None else v) for v in row)
        for row in counts.rows()
    ]
    return page.join([drawn, page.table(counts.columns, lines)])


def by_length(facts: Facts, records: Records) -> list[tuple[str, str, Html]]:
    """The report's part on length bias, of every publication of pairs."""
    if facts.kind != "pair":
        return []
    frames = [side_lengths(b) for b in records.blocks(["id", "chosen", "rejected"])]
    lengths = pl.concat(frames).unique("id", keep="first")
    ledger = facts.read("id", "verdict", tables.SCORES).unique(
        "id", keep="first", maintain_order=True
    )
    kept = ledger.filter(verdict="kept")["id"]
    columns = [c for c in ledger.columns if c == "score" or c.startswith("score_")]
    lines = []
    for column in columns:
        scores = ledger.select("id", score=pl.col(column).cast(pl.Float64))
        found = length_bias(scores, lengths, kept)
        lines += [(column, *map(_figure, row)) for row in found.rows()]
    note = (
        "Does a score prefer pairs whose chosen response is longer? Lengths are in characters. An "
        "AUC of 0.5 is no bias; the rule stratified with by: length_stratum and balanced: false "
        "takes pairs from all differences alike."
    )
    head = ("score", "pairs", "rows", "Spearman", "AUC", "chosen longer", "mean difference")
    body = page.section("length-bias", "Length bias", note, page.table(head, lines))
    return [("length-bias", "Length bias", body)]


def _figure(value: str | int | float | None) -> str | int | None:
    return page.number(value) if isinstance(value, float) else value


def of_ledger(facts: Facts) -> list[tuple[str, str, Html]]:
    """The report's part on pairs, if its ledger has the scores that it shows."""
    ledger = facts.read(*PLANE)
    if facts.kind != "pair" or not set(PLANE) <= set(ledger.columns):
        return []
    known = ledger.filter(pl.all_horizontal(pl.col(*PLANE).is_finite().fill_null(False)))
    note = (
        "The useful pairs lie in the middle: low in either score means noisy or mislabelled, high "
        "learnt already. Dashed: the default bands, 10 to 90 per cent."
    )
    body = page.section("pairs", "Pairs", note, plane(known))
    return [("pairs", "Pairs", body)]
