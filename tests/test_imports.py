"""Which room may import which, folder by folder; no ring of imports, type-only ones counted."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "selectors", "synthesis", "flows")
BASE = {"records", "numerics"}
SEEING = {*BASE, "engine", "models", "contracts", "signals"}
OBSERVING = {*SEEING, "observe"}
PREPARING = {*OBSERVING, "finetune", "evaluate"}
SCORING = {*PREPARING, "prepare"}
# room of pipeline/ -> the rooms that it may import
MAY: dict[str, set[str]] = {
    "records": set(),
    "numerics": set(),
    "ingest": {"records", "engine"},
    "engine": set(),
    "models": {*BASE, "engine"},
    "contracts": {*BASE, "models"},
    "signals": {*BASE, "models", "contracts"},
    "observe": SEEING,
    "finetune": SEEING,
    "evaluate": {*SEEING, "finetune", "clean"},  # held-out rows by the rules of decontamination
    "clean": {*OBSERVING, "ingest"},
    "prepare": PREPARING,
    "score": SCORING,
    "selection": {*BASE, "contracts"},
    "road": {*SCORING, "ingest", "score", "selection", "export", "report", "compare"},
    "plan": {*SCORING, "score", "selection"},
    "report": {*BASE, "contracts", "selection"},
    "compare": {*PREPARING, "selection", "report"},
    "export": {*SEEING, "report", "selection"},
    "review": {*BASE, "clean", "report"},  # what people drop is named as cleaning names it
    "explore": {*SEEING, "report", "selection", "export"},
    "": {
        *SCORING,
        "ingest",
        "clean",
        "score",
        "selection",
        "road",
        "plan",
        "report",
        "export",
        "compare",
        "review",
        "explore",
    },
}


def modules(root: Path) -> dict[str, Path]:
    """Every module of ours, by its full name."""
    found = {}
    for folder in FOLDERS:
        for path in (root / folder).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found["gristmill." + ".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(source: str, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def room(module: str) -> tuple[str, str]:
    """Top folder and room of a module: `gristmill.pipeline.models.load` is (pipeline, models)."""
    parts = [*module.split(".")[1:], "", ""]
    return parts[0], parts[1]


def wrong(module: str, imported: str) -> str | None:
    """Why a module may not import another; None if it may."""
    (top, mine), (other, theirs) = room(module), room(imported)
    if not imported.startswith("gristmill.") or (top, mine) == (other, theirs):
        return None
    if top == "pipeline":
        if other != "pipeline":
            return f"pipeline knows nothing of {other}"
        return None if theirs in MAY[mine] else f"{mine} may not import {theirs}"
    if top == "selectors":
        if other == "selectors":
            shared = theirs == "catalog" and mine == "combine"
            return None if shared else f"the family {mine} may not import {theirs}"
        if other != "pipeline" or theirs in {"export", "report", "road", "plan", "explore"}:
            return f"a method may not import {other}.{theirs}"
    if top == "synthesis" and other in {"selectors", "flows"}:
        return f"synthesis may not import {other}"
    return None


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    known = modules(root)
    return {
        module: {i for i in imports(path.read_text("utf-8"), known) if i in known} - {module}
        for module, path in known.items()
    }


GRAPH = graph()


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_each_room_imports_what_it_may(module):
    found = [f"{module} imports {i}: {why}" for i in GRAPH[module] if (why := wrong(module, i))]
    assert not found, "\n".join(found)


def ring(edges: Mapping[str, set[str]]) -> list[str]:
    """A ring of imports, or nothing."""
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(module: str) -> list[str]:
        state[module] = 1
        trail.append(module)
        for other in sorted(edges.get(module, ())):
            if state.get(other) == 1:
                return [*trail[trail.index(other) :], other]
            if other not in state and (found := visit(other)):
                return found
        trail.pop()
        state[module] = 2
        return []

    for module in sorted(edges):
        if module not in state and (found := visit(module)):
            return found
    return []


def test_there_is_no_ring_of_imports():
    assert not ring(GRAPH), " -> ".join(ring(GRAPH))


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("pipeline.records.schema", "pipeline.models.load"),
        ("pipeline.numerics.ranks", "pipeline.records.schema"),
        ("pipeline.models.load", "pipeline.contracts"),
        ("pipeline.contracts", "pipeline.signals.views"),
        ("pipeline.signals.views", "pipeline.observe.observe"),
        ("pipeline.observe.observe", "pipeline.prepare.prepare"),
        ("pipeline.prepare.prepare", "pipeline.score.score"),
        ("pipeline.clean.cleaning", "pipeline.score.score"),
        ("pipeline.clean.filters", "pipeline.export.publish"),
        ("pipeline.selection.rules", "pipeline.score.score"),
        ("pipeline.report.build", "pipeline.export.publish"),
        ("pipeline.review.desk", "pipeline.export.publish"),
        ("pipeline.score.score", "selectors.catalog"),
        ("selectors.hidden.cpqs", "selectors.influence._ekfac"),
        ("selectors.influence.less", "pipeline.export.publish"),
        ("selectors.influence.less", "synthesis.equal"),
        ("synthesis.equal", "selectors.catalog"),
    ],
)
def test_a_planted_import_fails(module, planted):
    assert wrong(f"gristmill.{module}", f"gristmill.{planted}")


def test_a_planted_ring_fails(tmp_path):
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        path = tmp_path / "pipeline" / "models" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n"
            f"    from gristmill.pipeline.models.{other} import x\n"
        )
    assert len(ring(graph(tmp_path))) == 4


def test_no_method_is_named_in_pipeline_or_flows():
    """As a quoted word: what belongs to one method lies in its family."""
    from gristmill.selectors import catalog

    common = {"random", "length", "column", "density", "grace", "less", "blend"}  # plain words
    common |= {"semdedup"}  # the purpose of a draw that cleaner and method share
    for folder in ("pipeline", "flows"):
        for path in (ROOT / folder).rglob("*.py"):
            texts = {
                node.value
                for node in ast.walk(ast.parse(path.read_text("utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            found = texts & (set(catalog.methods()) - common)
            assert not found, f"{path.relative_to(ROOT)} names {found}"
