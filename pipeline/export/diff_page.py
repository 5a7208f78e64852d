"""The page of a diff: rows in and out and why, mixture, scores, sources; no script in it."""

from collections.abc import Iterator, Sequence

import polars as pl

from gristmill.pipeline.export.diff import Diff
from gristmill.pipeline.report import plots
from gristmill.pipeline.report.page import (
    Child,
    Html,
    document,
    figure,
    join,
    number,
    numbers,
    section,
    table,
    tag,
)

SHOWN = 40  # rows by change, and sources of the mixture
_CHANGES = ("added", "dropped", "re-scored")
_WHEN = ("before", "after")


def page(title: str, diff: Diff, alarms: Sequence[str] = ()) -> bytes:
    """The page as bytes; equal diffs give equal bytes.

    Args:
        title: the dataset's name.
        diff: what changed.
        alarms: sentences on limits that it is beyond.
    """
    header = join(
        [
            tag("h1", f"{title}: what changed"),
            tag("p", f"from {diff.before} to {diff.after}"),
            _tiles(diff),
            *(tag("p", f"Beyond a limit: {s}", class_="alarm") for s in alarms),
        ]
    )
    made = [
        ("summary", "Summary", _summary(diff)),
        ("rows", "Rows", section("rows", "Rows in and out", _ROWS, *_rows(diff))),
        ("mixture", "Mixture", section("mixture", "Mixture", _MIXTURE, *_mixture(diff))),
        ("scores", "Scores", section("scores", "Scores", _SCORES, *_scores(diff))),
        ("sources", "Sources", section("sources", "Sources", _SOURCES, *_sources(diff))),
    ]
    end = (
        "Numbers come from the two ledgers; `gristmill diff` makes this page for any two versions."
    )
    return document(f"{title}: {diff.before} to {diff.after}", header, made, end)


_ROWS = "Which rows are in now and were not, which are out, and why; the first of each by id."
_MIXTURE = "The share of kept rows by source, before and after."
_SCORES = (
    "Distance is the largest gap between two distributions (Kolmogorov-Smirnov), 0 to 1; chance is "
    "what two samples of these sizes from one distribution exceed in one case of a hundred."
)
_SOURCES = "Sources that came into the pool, or are gone from it."


def _tiles(diff: Diff) -> Html:
    n = diff.counts
    told = [
        (f"{n['rows_before']:,} → {n['rows_after']:,}", "rows"),
        (f"{n['tokens_before']:,} → {n['tokens_after']:,}", "tokens"),
        (f"{n['pool_before']:,} → {n['pool_after']:,}", "rows of the pool"),
        *((f"{n[change]:,}", change) for change in _CHANGES),
        (f"{diff.shift:.1%}", "mixture moved"),
    ]
    cards = [tag("div", tag("b", value), tag("span", name), class_="tile") for value, name in told]
    return tag("div", *cards, class_="tiles")


def _summary(diff: Diff) -> Html:
    points = [tag("li", sentence[:1].upper() + sentence[1:]) for sentence in diff.sentences]
    return section("summary", "Summary", "", tag("ul", *points))


def _rows(diff: Diff) -> Iterator[Html]:
    if diff.changes.is_empty():
        yield tag("p", "No row changed.", class_="note")
        return
    yield table(diff.changes.columns, diff.changes.rows())
    head = ("id", "source", "why", "score before", "score after")
    for change in _CHANGES:
        some = diff.rows.filter(pl.col("change") == change)
        if some.height:
            lines: list[tuple[Child | None, ...]] = [
                (tag("code", r["id"][:12]), r["source"], r["reason"], r["before"], r["after"])
                for r in some.head(SHOWN).iter_rows(named=True)
            ]
            shown = f"{some.height:,} rows {change}"
            more = f", the first {SHOWN}" if some.height > SHOWN else ""
            inner = join([tag("summary", tag("h3", shown + more)), table(head, lines)])
            yield tag("details", inner)


def _mixture(diff: Diff) -> Iterator[Html]:
    top = diff.mixture.head(SHOWN)
    names = [name or "none stated" for name in top["source"].to_list()]
    values = [top[f"share_{when}"].to_list() for when in _WHEN]
    caption = "Share by source"
    yield figure(caption, plots.rows_of_bars(caption, names, values, share=True).inline, _key())
    lines = [
        (r["source"], *(r[f"{part}_{when}"] for part in ("rows", "tokens") for when in _WHEN),
         *(f"{r[f'share_{when}']:.1%}" for when in _WHEN))
        for r in diff.mixture.iter_rows(named=True)
    ]  # fmt: skip
    head = ("source", "rows before", "after", "tokens before", "after", "share before", "after")
    yield numbers(head, lines)


def _scores(diff: Diff) -> Iterator[Html]:
    if diff.scores.is_empty():
        yield tag("p", "The two versions share no score.", class_="note")
        return
    yield table(
        ("score", "of", "rows", "mean", "median", "distance", "chance"),
        [
            (r["score"], r["of"], _pair(r, "rows"), _pair(r, "mean"), _pair(r, "median"),
             r["distance"], r["chance"])
            for r in diff.scores.iter_rows(named=True)
        ],
    )  # fmt: skip
    drawn = [
        figure(
            f"{column} of the kept rows",
            plots.distribution(column, *bins, series="before and after").inline,
            _key(),
        )
        for column, bins in diff.drawn.items()
    ]
    yield tag("div", *drawn, class_="figures")


def _pair(line: dict[str, float], name: str) -> str:
    return " → ".join(number(line[f"{name}_{when}"]) for when in _WHEN)


def _sources(diff: Diff) -> Iterator[Html]:
    if diff.sources.is_empty():
        yield tag("p", "The same sources as before.", class_="note")
        return
    yield table(
        ("source", "", "rows of the pool", "kept"),
        [
            (r["source"], r["change"], r["pool"], r["kept"])
            for r in diff.sources.iter_rows(named=True)
        ],
    )


def _key() -> Html:
    marks = zip("pt", _WHEN, strict=True)
    return tag("div", *(tag("span", tag("i", class_=m), w) for m, w in marks), class_="key")
