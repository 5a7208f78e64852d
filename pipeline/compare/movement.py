"""What moved in words: between two leaderboards, and between two published versions."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from gristmill.pipeline.compare.moved import Published, Tables, apart, moved, news
from gristmill.pipeline.compare.standings import p_value
from gristmill.pipeline.compare.words import interval, listed, words
from gristmill.pipeline.report.markdown import cell, table

HEAD = ("evaluation", "budget", "arm", "against", "before", "after", "difference", "p (Holm)")


def leaderboards(before: Tables, after: Tables, *, level: float = 0.95) -> str:
    """Two leaderboards in Markdown: what moved surely, what came and went, and every effect."""
    found, came = moved(before, after, level=level), news(before, after)
    told = [*_counted(found, level), *_came(came)]
    parts = ["\n".join(f"- {sentence}" for sentence in told)]
    if found.height:
        parts.append(table(HEAD, [_row(line) for line in found.iter_rows(named=True)]).rstrip())
    return "\n\n".join(parts) + "\n"


def sentence(line: Mapping[str, Any]) -> str:
    """A row of `moved` in a sentence."""
    was = interval(line["before"], line["before_low"], line["before_high"])
    now = interval(line["after"], line["after_low"], line["after_high"])
    by = interval(line["difference"], line["low"], line["high"])
    found = "moved surely" if line["moved"] else "is not shown to have moved"
    paired = line["items"] is not None
    how = f"paired over {line['items']:,} items" if paired else "the two taken as independent"
    return (
        f"{cell(line['arm'])} on {cell(line['evaluation'])} at {line['budget']} {found}: {by}, "
        f"from {was} to {now} against {words(line['against'])} ({how})."
    )


def versions(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    rows: pl.DataFrame,
    *,
    level: float = 0.95,
) -> str:
    """Two published versions in Markdown: their gates' verdicts, what moved, and rows in and out.

    Args:
        before: what the gate of the older said, as its manifest has it; None: it had no gate.
        after: of the newer.
        rows: how many rows changed, by `change` and `reason`.
        level: of the difference's interval.
    """
    told = [
        f"- {name}: {cell(facts['sentence']) if facts else 'no gate judged it.'}"
        for name, facts in (("Before", before), ("After", after))
    ]
    told += [f"- {s}" for s in _between(before, after, level)]
    if not rows.height:
        told.append("- No row changed.")
        return "\n".join(told) + "\n"
    lines = [(r["change"], r["reason"], f"{r['rows']:,}") for r in rows.iter_rows(named=True)]
    return "\n".join(told) + "\n\n" + table(("change", "reason", "rows"), lines)


def _between(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, level: float
) -> Iterator[str]:
    if not before or not after:
        return
    asked = ("evaluation", "unit", "against")
    others = [name for name in asked if before[name] != after[name]]
    if others:
        parts = [f"{n} {cell(before[n])}, then {cell(after[n])}" for n in others]
        yield f"Their effects are not of one thing: {listed(parts)}."
        return
    old, new = (
        Published(value=f["effect"], low=f["low"], high=f["high"], level=f["level"])
        for f in (before, after)
    )
    value, low, high, p = apart(old, new, level)
    found = "moved surely" if p < 1 - level else "is not shown to have moved"
    yield (
        f"The effect against {words(after['against'])} on {cell(after['evaluation'])} {found}: "
        f"{interval(value, low, high)} at {level:.0%}, the two taken as independent."
    )


def _counted(found: pl.DataFrame, level: float) -> Iterator[str]:
    if not found.height:
        yield "The two have no effect in common: other evaluations, budgets or arms."
        return
    sure = found.filter("moved")
    yield (
        f"{sure.height:,} of {found.height:,} effects moved surely, at {level:.0%} after Holm over "
        "the arms of an evaluation, budget and control."
    )
    yield from (sentence(line) for line in sure.iter_rows(named=True))


def _came(came: pl.DataFrame) -> Iterator[str]:
    """Arms that are new, gone or made of other models."""
    for (change,), own in came.partition_by("change", as_dict=True, maintain_order=True).items():
        parts = [
            f"{cell(r['arm'])} at {r['budget']} ({r['models']:,})"
            for r in own.iter_rows(named=True)
        ]
        yield f"Models that are {change}, by arm: {listed(parts)}."


def _row(line: Mapping[str, Any]) -> list[str]:
    return [
        line["evaluation"], line["budget"], line["arm"], words(line["against"]),
        interval(line["before"], line["before_low"], line["before_high"]),
        interval(line["after"], line["after_low"], line["after_high"]),
        interval(line["difference"], line["low"], line["high"]),
        p_value(line["p_holm"]) + (", moved" if line["moved"] else ""),
    ]  # fmt: skip
