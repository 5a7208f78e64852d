"""The head of the report: by which method, rule and budget rows were taken, and what came of it."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from gristmill.pipeline.report import tables
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.markdown import plain
from gristmill.pipeline.report.page import Html, breakable, section, table, tag

_DECIDING = ("by", "rule", "budget")
_STEPS = {"before", "rule_settings", *_DECIDING}
_SCORERS = {"scorers", "methods", "settings"}
_BELOW = {"papers", "checks", "prepared", "shortfalls"}  # at the head, or with the methods
_NONE = "none"


def asked(facts: Facts) -> Html:
    """Steps in order, the scorers, and every other setting of the selection."""
    selection = facts.selection
    head = ("step", "decided by", "rule", "budget")
    parts = [table(head, _steps(selection))]
    if names := tables.scorers(selection):
        rows = _scorers(selection, names)
        parts += [tag("h3", "Scorers"), table(("scorer", "settings"), rows)]
    apart = _STEPS | _SCORERS | _BELOW
    rest = [(k, plain(v)) for k, v in selection.items() if k not in apart and v is not None]
    if rest:
        parts += [tag("h3", "Other settings"), table(("setting", "value"), rest)]
    return section("asked", "Method and budget", _came_of_it(facts), *parts)


def _steps(selection: Mapping[str, Any]) -> list[tuple[str, ...]]:
    first = next(iter(tables.scorers(selection)), _NONE)
    last = {
        **{k: selection.get(k) for k in _DECIDING},
        "settings": selection.get("rule_settings"),
    }
    steps: list[Mapping[str, Any]] = [*(selection.get("before") or ()), last]
    return [
        (
            f"{number}",
            str(step.get("by") or first),
            _rule(step),
            _NONE if step.get("budget") is None else plain(step["budget"]),
        )
        for number, step in enumerate(steps, start=1)
    ]


def _rule(step: Mapping[str, Any]) -> str:
    name = str(step.get("rule") or "the method's own")
    return f"{name} {plain(step['settings'])}" if step.get("settings") else name


def _scorers(selection: Mapping[str, Any], names: list[str]) -> list[tuple[Html, str]]:
    """Each with its method, where that is not its name."""
    methods, settings = selection.get("methods") or {}, selection.get("settings") or {}
    called = [n if methods.get(n, n) == n else f"{n} ({methods[n]})" for n in names]
    written = [plain(settings[n])[1:-1] if settings.get(n) else "" for n in names]
    return [(breakable(c), w) for c, w in zip(called, written, strict=True)]


def _came_of_it(facts: Facts) -> str:
    """One sentence: what was taken of what was there."""
    ledger = facts.read("verdict", "tokens", "score")
    kept = ledger.filter(tables.KEPT)
    words = [f"{kept.height:,} of {ledger.height:,} rows"]
    if ledger["tokens"].count():
        sums = [int(f["tokens"].sum()) for f in (kept, ledger)]
        words.append(f"{sums[0]:,} of {sums[1]:,} tokens")
    scored = ledger.filter(pl.col("score").is_not_null()).height
    return f"Taken: {' and '.join(words)}. {scored:,} rows reached the deciding score."
