"""The README's Python example runs as it stands, and its files and commands exist."""

import importlib.util
import re
from pathlib import Path

import pytest
from typer.main import get_command

from gristmill.flows.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_example_runs(monkeypatch, tmp_path):
    (tmp_path / "data" / "work").mkdir(parents=True)
    (tmp_path / "data" / "demo").symlink_to(ROOT / "data" / "demo")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["ledger"].height == names["scores"].height
    assert (names["ledger"]["verdict"] == "kept").sum() >= 1


def test_every_command_it_names_exists():
    known = set(get_command(app).commands)
    named = set(re.findall(r"^gristmill ([a-z]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= known


def test_the_generated_parts_are_fresh():
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh_readme.py")
    refresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(refresh)
    assert refresh.refreshed(README) == README, "run: python docs/refresh_readme.py"


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "lint", "bench", "tiny-model", "serve"]
)
def test_the_makefile_has_what_is_promised(target):
    assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8")
