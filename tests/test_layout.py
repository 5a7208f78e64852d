"""The folders, the names and the direction of imports hold."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "selectors", "synthesis", "flows")
MODULES = sorted(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return found


def test_selectors_never_shadows_the_standard_module():
    assert not (ROOT / "selectors" / "__init__.py").exists()


def test_packages_are_the_folders_on_disk():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    on_disk = {"gristmill." + ".".join(p.parent.relative_to(ROOT).parts) for p in MODULES}
    rows = {"gristmill.data.demo"}  # no code
    assert set(settings["tool"]["setuptools"]["packages"]) == on_disk | rows


def test_each_package_says_what_it_is():
    for folder in {p.parent for p in MODULES} - {ROOT / "selectors"}:
        doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8")))
        assert doc, f"{folder} has no docstring"
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").exists()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    mine = path.relative_to(ROOT).parts
    forbidden = {
        "pipeline": ("selectors", "synthesis", "flows"),
        "selectors": ("synthesis", "flows"),
        "synthesis": ("selectors", "flows"),
        "flows": (),
    }[mine[0]]
    for name in imports(path):
        for other in forbidden:
            assert not name.startswith(f"gristmill.{other}"), f"{path} imports {name}"
        top = name.partition(".")[0]
        assert top != "prefect" or mine[0] == "flows", f"{path} imports Prefect"
        assert top != "trl" or mine[:2] == ("pipeline", "finetune"), f"{path} imports TRL"
        peft_may = mine[:2] in {("pipeline", "finetune"), ("pipeline", "models")}
        assert top != "peft" or peft_may, f"{path} imports PEFT"


HEAVY = {"polars", "numpy", "torch"}


def heavy(path: Path) -> set[str]:
    """What a flow must leave to the verbs: frames, arrays and tensors, wherever it imports them."""
    return {name.partition(".")[0] for name in imports(path)} & HEAVY


FLOWS = [p for p in MODULES if p.relative_to(ROOT).parts[0] == "flows"]


@pytest.mark.parametrize("path", FLOWS, ids=lambda p: str(p.relative_to(ROOT)))
def test_flows_hold_settings_and_paths_and_no_frames(path):
    assert not heavy(path), f"{path} does a verb's work"


@pytest.mark.parametrize(
    "planted",
    [
        "import polars as pl",
        "from numpy.typing import NDArray",
        "def late():\n    import torch.nn",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from polars import DataFrame",
    ],
)
def test_a_planted_frame_in_a_flow_is_found(planted, tmp_path):
    path = tmp_path / "flow.py"
    path.write_text(f'"""A flow."""\n{planted}\n', "utf-8")
    assert heavy(path)


def test_no_module_is_named_like_a_standard_one():
    allowed = {"random", "secrets"}  # ids of a method and a filter, only imported by full name
    names = {p.stem for p in MODULES} - {"__init__"} - allowed
    assert not names & sys.stdlib_module_names


def test_source_is_finished_and_speaks_of_no_machine():
    for path in MODULES:
        text = path.read_text("utf-8")
        assert not re.search(r"TODO|FIXME|NotImplementedError|/(work|root)/", text), path
