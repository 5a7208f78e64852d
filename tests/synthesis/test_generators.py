"""Generators: found by their files, built from settings, and run to a published version."""

import json
import re
import sys

import polars as pl
import pytest
import yaml
from repository import ROOT
from synthesis_run import record_answers, walk_through, written

from gristmill.flows import checks, synthesis_config, synthesis_steps
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.records.registry import registry
from gristmill.pipeline.records.schema import EXAMPLE, check
from gristmill.pipeline.records.store import sha256, walk
from gristmill.synthesis import generators as package
from gristmill.synthesis.generators import Generator, generator_named, generators


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """The generator of docs/extending.md, as a file among the others."""
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page.partition("## A generator")[2], re.DOTALL)
    folder = tmp_path / "planted_generators"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "every_document.py").write_text(blocks[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(package, "generators", lambda: {**generators(), **found})
    found = registry(folder, folder.name, Generator)
    assert list(found) == ["every_document"]
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_planted_file_is_found_checked_and_run(planted, tiny, tmp_path):
    path = written(tmp_path, tiny, generator="every_document", settings={"most": "6"})
    settings = yaml.safe_load(path.read_text())
    del settings["bandit"]
    path.write_text(yaml.safe_dump(settings))
    record_answers(tmp_path, path)
    config = synthesis_config.read(path)
    told = checks.check(config, str(path))
    assert {"what": "generator", "name": "every_document", "is": "-"} in told
    assert synthesis_steps.generator_of(config).sends(16) == 6
    folder = walk_through(path)
    assert verify(folder) == []
    rows = check(pl.read_parquet(folder / "records.parquet"), EXAMPLE, "records")
    chunks = pl.read_parquet(
        synthesis_steps.gather(config) / "documents" / "chunks.parquet", columns=["id"]
    )
    first = set(chunks["id"].sort().head(6))
    made = {json.loads(m)["synthesis"]["document"] for m in rows["meta"]}
    assert made <= first
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == {"documents sent": 6, "pairs kept": len(rows)}
    assert len(rows) >= 5  # one document of the sixteen is barren
    ledger = pl.concat([pl.read_parquet(p) for p in (folder / "ledger").glob("*.parquet")])
    assert set(ledger.filter(verdict="kept")["id"]) == set(rows["id"])
    selection = json.loads((folder / "manifest.json").read_text())["selection"]
    assert [selection["method"], selection["settings"]["most"]] == ["every_document", 6]
    assert "report" not in synthesis_steps.announcement("weights", folder)
    before = {p.name: sha256(p) for p in walk(folder)}
    assert {p.name: sha256(p) for p in walk(walk_through(path))} == before


def test_equal_is_the_default_and_reads_its_sections(tiny, tmp_path):
    assert "equal" in generators()
    config = synthesis_config.read(written(tmp_path, tiny, warm_up={"share": 0.25}))
    found = synthesis_steps.generator_of(config)
    same = {"bandit": {"share": 1.0, "batch": 2, "arms": 2}, "clusters": "3"}
    assert found == generator_named("equal", {**same, "tuning": {"share": 0.25}})
    assert found.sends(16) == 16
    assert generator_named("equal").sends(100) == 5
    assert generator_named("equal", {"tuning.share": "0.2"}).sends(100) == 25


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generator": "equals"}, "there is no generator 'equals'.*did you mean 'equal'"),
        ({"settings": {"sharing": 1}}, "generator equal has no setting 'sharing'"),
        ({"settings": {"tuning": {"share": "all"}}}, r"generator equal\.tuning\.share = 'all'"),
        ({"settings": {"bandit.share": 0.5}}, "bandit is set both in `settings` and in"),
        ({"generator": "every_document"}, "every_document has no setting 'bandit'"),
    ],
)
def test_a_wrong_generator_is_named_before_the_run(planted, tiny, tmp_path, change, said):
    path = written(tmp_path, tiny, **change)
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(ValueError, match=said):
        checks.check(synthesis_config.read(path), str(path))
