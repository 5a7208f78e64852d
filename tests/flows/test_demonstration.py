"""Demonstration: the demo runs on the rows that are here, or else on those of the package."""

from pathlib import Path

import pytest

from gristmill.flows import demonstration


def test_the_demo_names_rows_as_here_or_as_the_package_has_them(monkeypatch, tmp_path):
    monkeypatch.chdir(demonstration.ROOT)
    here = demonstration.settings("st", "out")
    assert here.sources[0].path.startswith("data/demo/pool/")
    monkeypatch.chdir(tmp_path)
    away = demonstration.settings("st", "out")
    for source in (*away.sources, *away.reference):
        assert Path(source.path).is_absolute()
        assert Path(source.path).is_file()
    assert (away.store, away.export.root, away.models) == ("st", "out", here.models)
    assert demonstration.copied() == Path("data/demo")
    assert demonstration.settings("st", "out") == here
    with pytest.raises(ValueError, match="is there already"):
        demonstration.copied()
