"""Report: report.html of a publication, one page on what was taken and why."""

from collections.abc import Mapping

import polars as pl

from gristmill.pipeline.records.dataset import Records
from gristmill.pipeline.report import examples, pairs, sections
from gristmill.pipeline.report.asked import asked
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.page import Html, document, join, section, table, tag


def report(
    facts: Facts,
    records: Records,
    *,
    projection: pl.DataFrame | None = None,
    projection_note: str = "",
    target: Mapping[str, float] | None = None,
    target_by: str = "source",
) -> bytes:
    """The page as bytes; equal inputs give equal bytes.

    Args:
        facts: what is true of the publication.
        records: the dataset it was taken from, for the text of examples.
        projection: columns `id, x, y`: `projection.plane` makes one from any vector column.
        projection_note: which vectors of which model the map was made from.
        target: wanted share by value of `target_by`, if a mixture was asked for.
        target_by: a column of the ledger.
    """
    made = [
        ("asked", "Method and budget", asked(facts)),
        ("drops", "Left out", sections.drops(facts)),
        ("scores", "Scores", sections.scores(facts)),
        *pairs.of_ledger(facts),
        *pairs.by_length(facts, records),
        ("agreement", "Agreement", sections.agreement(facts)),
        ("mixture", "Mixture", sections.mixture(facts, target, target_by)),
        ("lengths", "Lengths", sections.lengths(facts)),
        ("map", "Map", examples.scattered(facts, projection, projection_note)),
        ("examples", "Examples", examples.rows(facts, records)),
        ("duplicates", "Duplicates", sections.duplicates(facts)),
        ("contamination", "Contamination", sections.contamination(facts)),
        ("render", "Render check", examples.rendered(facts)),
        ("methods", "Methods", _methods(facts)),
    ]
    header = join(
        [
            tag("h1", facts.title),
            tag("p", f"{facts.version} · {facts.kind} records · gristmill {facts.gristmill}"),
            sections.tiles(facts),
            *(tag("p", s) for s in facts.gate.get("sentence", "").splitlines()),
            *(tag("p", f"Less than was asked for: {s}", class_="alarm") for s in facts.shortfalls),
        ]
    )
    end = (
        "Numbers come from the ledger and the files beside this page; times and cost from run.json."
    )
    return document(f"{facts.title} {facts.version}", header, made, end)


def _methods(facts: Facts) -> Html:
    models = [
        (
            m.get("role", "?"),
            str(m.get("id", "unnamed")),
            str(m.get("dtype", "–")),
            tag("code", str(m.get("model_sha", "–"))[:16]),
        )
        for m in facts.models
    ]
    parts: list[Html] = []
    if models:
        parts += [tag("h3", "Models"), table(("role", "model", "dtype", "weights"), models)]
    if said := facts.selection.get("prepared"):
        rows = [(s["method"], s["notes"]) for s in said]
        parts += [tag("h3", "Made for the methods"), table(("method", "what was said"), rows)]
    if checks := facts.selection.get("checks"):
        head = ("method", "check", "of", "value", "", "says")
        lines = [tuple("–" if c[h] is None else c[h] for h in head) for c in checks]
        parts += [tag("h3", "Self-checks"), table(("method", *head[1:4], "verdict", "says"), lines)]
    papers = [str(p) for p in facts.selection.get("papers", ())]
    if papers:
        parts += [tag("h3", "References"), tag("ul", *(tag("li", p) for p in papers))]
    note = "Which models were asked, and whose methods were used."
    return section("methods", "Methods and references", note, *parts)
