"""README and docs: examples run, commands, settings, links and files exist, generated parts are fresh."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from gristmill.flows.cli import app
from gristmill.flows.config import CurateConfig
from gristmill.flows.nightly_config import NightlyConfig
from gristmill.flows.prefer_config import PreferConfig

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / n for n in ("CONTRIBUTING.md", "benchmarks/README.md", "data/README.md")),
]
README = PAGES[0].read_text("utf-8")
MINIMAL = {"name": "x", "sources": [{"path": "x"}], "scorers": [{"method": "random"}]}
# Of files of Prefect and Kubernetes, which are none of ours; deployments of prefect.yaml are a list.
FOREIGN = {"apiVersion", "automations"}
MINIMAL_PAIRS = {"name": "x", "sources": [{"path": "x"}], "candidates": {"a": {"model": "m"}}}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M)


def with_blocks(language: str):
    pages = [p for p in PAGES if blocks(p, language)]
    assert pages
    return pytest.mark.parametrize("page", pages, ids=lambda p: p.name)


@with_blocks("python")
def test_the_python_examples_run(page, monkeypatch, tmp_path):
    (tmp_path / "data" / "work").mkdir(parents=True)
    (tmp_path / "data" / "demo").symlink_to(ROOT / "data" / "demo")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)
    if page.name in {"README.md", "quickstart.md"}:
        assert (names["ledger"]["verdict"] == "kept").sum() >= 1
        assert set(names["ledger"]["verdict"]) <= {"kept", "dropped", "quarantined"}


@with_blocks("bash")
def test_every_command_and_option_exists(page):
    known = get_command(app).commands
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["gristmill"]:
                assert words[1] in known, line
                options = {o for p in known[words[1]].params for o in p.opts}
                assert {w for w in words[2:] if w.startswith("--")} <= options, line
            elif words[:1] == ["make"]:
                for target in words[1:]:
                    assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8"), line


def own_of(config: type) -> set[str]:
    return set(config.model_fields) - set(CurateConfig.model_fields)


@with_blocks("yaml")
def test_every_configuration_is_valid(page):
    for block in blocks(page, "yaml"):
        given = yaml.safe_load(block)
        if isinstance(given, list) or FOREIGN & set(given):
            continue
        if own_of(PreferConfig) & set(given):
            PreferConfig.model_validate({**MINIMAL_PAIRS, **given})
        elif own_of(NightlyConfig) & set(given):
            NightlyConfig.model_validate({**MINIMAL, **given})
        else:
            CurateConfig.model_validate({**MINIMAL, **given})


def test_the_generated_parts_are_fresh(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    fresh = importlib.import_module("generate").fresh()
    stale = [n for n, text in fresh.items() if (ROOT / n).read_text("utf-8") != text]
    assert not stale, "run: python docs/generate.py"


def test_the_readme_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 170
    first = blocks(PAGES[0], "bash")[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_and_file_exists(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"
    ours = {p.split("/")[0] for p in tracked() if "/" in p}
    for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
        if name.split("/")[0] in ours and not name.startswith(("data/work", "data/curated")):
            assert (ROOT / name).exists() or (page.parent / name).exists(), f"{page.name}: {name}"


def tracked() -> list[str]:
    """Files of the repository; of a copy without git, those that are there."""
    asked = ["git", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    found = done.stdout.splitlines()
    return found or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}


def test_the_site_has_every_page():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(settings["nav"]) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "lint", "docs", "bench", "tiny-model", "serve"]
)
def test_the_makefile_has_what_is_promised(target):
    assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8")
