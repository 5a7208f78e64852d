"""The sections of the report that speak of the whole pool: what left, scores, mixture, lengths."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from gristmill.pipeline.report import plots, tables
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.page import Html, number, section, table, tag

SHOWN = 20  # lines of a table or bars of a plot; the ledger holds the rest


def tiles(facts: Facts) -> Html:
    """The few figures that everyone asks for first."""
    lines = tables.drops(facts.ledger)
    (last, *_) = lines.filter(tables.KEPT)["stage"]
    early = int(lines.filter(~tables.KEPT & (pl.col("stage") != last))["rows"].sum())
    kept = facts.read("verdict", "tokens").filter(tables.KEPT)
    sources = facts.ledger.select(pl.col("source").n_unique()).collect(engine="streaming")
    shown: list[tuple[str, str]] = [
        (number(facts.rows), f"rows taken of {facts.candidates:,}"),
        (f"{facts.rows / facts.candidates:.1%}", "of the pool"),
        (number(int(sources.item())), "sources"),
        (number(early), "rows out before the choice"),
    ]
    if kept["tokens"].count():
        shown.insert(2, (number(int(kept["tokens"].sum())), "tokens taken"))
    shown += [
        (number(s.height), "rows held out") for s in facts.default.splits if s.name == "validation"
    ]
    return tag(
        "div",
        *(tag("div", tag("b", b), tag("span", s), class_="tile") for b, s in shown),
        class_="tiles",
    )


def drops(facts: Facts) -> Html:
    """Rows by reason."""
    lost = tables.drops(facts.ledger).filter(pl.col("verdict") != "kept")
    note = "Every row of the pool ends in the ledger with a verdict, a reason and a stage."
    if lost.is_empty():
        return section("drops", "What was left out", note, plots.note("Nothing was left out."))
    top = lost.head(SHOWN)
    names = [r or "no reason" for r in top["reason"].to_list()]
    figure = plots.bars(
        "Rows by reason", names, [top["rows"].to_list()], ("reason",), with_numbers=False
    )
    lines = top.select("reason", "stage", "verdict", "rows").rows()
    wide = table(("reason", "stage", "verdict", "rows"), lines)
    both = tag(
        "div",
        figure,
        tag("figure", tag("figcaption", "By stage and verdict"), wide),
        class_="figures",
    )
    return section("drops", "What was left out", note, both, _more(lost.height))


def scores(facts: Facts) -> Html:
    """Distribution of each score, and where the lowest taken row lies."""
    ledger = facts.read("verdict", "tokens", tables.SCORES)
    kept = ledger.filter(tables.KEPT)
    figures = []
    columns = tables.score_columns(ledger)
    for column in columns[:8]:
        lowest = kept[column].min()
        figures.append(
            plots.histogram(
                column,
                ledger[column].drop_nulls().to_numpy(),
                kept[column].drop_nulls().to_numpy(),
                mark=None if lowest is None else float(str(lowest)),
                unit="score",
            )
        )
    alarms = [
        tag(
            "p",
            f"{column} follows length (rank correlation {rho:+.2f}): compare it with a "
            "selection by length before trusting it.",
            class_="alarm",
        )
        for column, rho in tables.length_alarm(ledger)
    ]
    silent = ledger["score"].null_count()
    note = (
        "Higher means keep. Bars are shares of the pool and of what was taken; the dashed line is "
        f"the lowest score taken. {silent:,} rows have no score, and a reason for it."
    )
    return section("scores", "Scores", note, *alarms, tag("div", *figures, class_="figures"))


def agreement(facts: Facts) -> Html:
    """Do the scorers say the same?"""
    names, spearman, overlap = tables.agreement(facts.ledger)
    share = [(r[0], f"{r[1]:.1%}") for r in tables.overlaps(facts.ledger).rows()]
    against = table(("against", "share of the taken rows"), share)
    parts: list[Html] = [tag("figure", tag("figcaption", "What was taken"), against)]
    if len(names) > 1:
        names = [n.removeprefix("score_") for n in names]
        heat = plots.heatmap(names, spearman, signed=True)
        parts.append(tag("figure", tag("figcaption", "Rank correlation (Spearman)"), heat))
        heat = plots.heatmap(names, overlap, signed=False)
        parts.append(tag("figure", tag("figcaption", "Overlap of the top sets"), heat))
    note = (
        "Overlaps compare sets of as many rows as were taken; a random set would share "
        f"{facts.rows / facts.candidates:.1%}."
    )
    title = "Agreement of scorers" if len(names) > 1 else "Agreement with other choices"
    return section("agreement", title, note, tag("div", *parts, class_="figures"))


def mixture(facts: Facts, target: Mapping[str, float] | None, by: str) -> Html:
    """Shares before and after, against the target if there was one."""
    found = tables.mixture(facts.ledger, by, target)
    top = found.head(SHOWN)
    names = [n or "none stated" for n in top[by].to_list()]
    series = [top["share_before"].to_list(), top["share_after"].to_list()]
    figure = plots.bars(f"Share by {by}", names, series, (by, "pool", "taken"), share=True)
    parts = [figure]
    if target:
        wanted = [
            (r[by] or "none stated", f"{r['wanted']:.1%}", f"{r['share_after']:.1%}", r["after"])
            for r in top.iter_rows(named=True)
            if r["wanted"] is not None
        ]
        wide = table((by, "wanted", "taken", "rows"), wanted)
        parts.append(tag("figure", tag("figcaption", "Against the target"), wide))
    found = tables.per_source(facts.ledger)
    lines = found.head(SHOWN).with_columns(
        pl.col("license").fill_null("unknown"), pl.col("revision").fill_null("not stated")
    )
    head = ("source", "revision", "licence", "rows", "taken", "tokens", "taken", "median score")
    note = "What the selection did to the mixture. A source that vanished is a decision too."
    both = tag("div", *parts, class_="figures")
    per_source = [tag("h3", "Per source"), table(head, lines.rows())]
    return section("mixture", "Mixture", note, both, *per_source, _more(found.height))


def lengths(facts: Facts) -> Html:
    """Did the selection prefer long rows, or short ones?"""
    ledger = facts.read("verdict", "tokens")
    title = "Length shift"
    if ledger["tokens"].count() == 0:
        note = "No tokenizer counted the rows, so there are no lengths."
        return section("lengths", title, note)
    kept = ledger.filter(tables.KEPT)
    counts = [f["tokens"].drop_nulls().cast(pl.Float64).to_numpy() for f in (ledger, kept)]
    figure = plots.histogram("Tokens a row", counts[0], counts[1], log=True, unit="tokens")
    found = tables.lengths(ledger)
    lines = [(r["quantile"], r["before"], r["after"]) for r in found.iter_rows(named=True)]
    wide = table(("quantile", "pool", "taken"), lines)
    means = [float(np.mean(c)) if c.size else float("nan") for c in counts]
    note = (
        f"A row of the pool has {means[0]:,.0f} tokens on average, a row taken {means[1]:,.0f}. "
        "Scores that love length win comparisons at equal rows by stealth; compare at equal tokens."
    )
    parts = [figure, tag("figure", tag("figcaption", "Quantiles"), wide)]
    return section("lengths", title, note, tag("div", *parts, class_="figures"))


def duplicates(facts: Facts) -> Html:
    """Clusters of copies by size, and who repeats whom."""
    sizes, pairs = tables.duplicates(facts.ledger)
    note = "Exact, near and semantic copies that cleaning found; one row of a cluster can stay."
    parts = []
    if not sizes.is_empty():
        names = [f"{n:,} rows" for n in sizes["size"].head(SHOWN)]
        counts = sizes["clusters"].head(SHOWN).to_list()
        parts.append(plots.bars("Clusters by size", names, [counts], ("size", "clusters")))
    if not pairs.is_empty():
        lines = pairs.head(SHOWN).rows()
        wide = table(("a row of", "repeats a row of", "rows"), lines)
        parts.append(tag("figure", tag("figcaption", "Who repeats whom"), wide))
    if not parts:
        return section("duplicates", "Duplicates", note, plots.note("None is on record."))
    return section("duplicates", "Duplicates", note, tag("div", *parts, class_="figures"))


def contamination(facts: Facts) -> Html:
    """Hits by evaluation set; or that nothing was checked."""
    title = "Contamination"
    if facts.contamination is None:
        note = "Not checked: no evaluation set was named, so nothing is claimed."
        return section("contamination", title, note)
    sets = [str(s) for s in facts.contamination.get("sets", ())]
    found = tables.contamination(facts.ledger, sets)
    kept = int(found["kept"].sum())
    note = (
        f"Checked against {len(sets)} evaluation sets; a set that is not named was not checked. "
        f"{kept:,} flagged rows are among those taken."
    )
    lines = found.select("benchmark", "rows", "kept").rows()
    wide = table(("evaluation set", "rows flagged", "of them taken"), lines)
    return section("contamination", title, note, wide)


def _more(lines: int) -> Html:
    words = f"{lines - SHOWN:,} more are in the ledger." if lines > SHOWN else ""
    return plots.note(words) if words else Html(text="")
