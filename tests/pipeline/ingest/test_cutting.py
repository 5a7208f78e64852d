"""Cutting ahead, by the workers of an engine: the same bytes, each part once, whatever stops."""

import polars as pl
import pytest
from engines import Travelling, several
from rows import chat_rows, write_jsonl

from gristmill.pipeline.ingest import cutting, sharding
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records.store import Store


def sources(folder):
    """Files of which some hold the same rows under one name, rows that cannot be read, and CSV."""
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "a.jsonl", chat_rows(40))
    lines = (folder / "a.jsonl").read_text().splitlines()
    lines[7] = '{"messages": "torn'
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    write_jsonl(folder / "b.jsonl", chat_rows(30))
    write_jsonl(folder / "c.jsonl", chat_rows(25, start=200))
    table = "".join(f'"Question, {i}?","Answer {i}."\n' for i in range(30))
    (folder / "d.csv").write_text("prompt,completion\n" + table)
    return [Source(path=str(folder / name), name="one") for name in ("a.jsonl", "b.jsonl")] + [
        Source(path=str(folder / name)) for name in ("c.jsonl", "d.csv")
    ]


def kept(store):
    return {
        p.relative_to(store.root).as_posix(): p.read_bytes()
        for p in (store.root / "ingest").rglob("*")
        if p.is_file() and p.name != ".stamps.json" and ".lock-" not in p.name
    }


def made(store):
    return [line["part"] for line in store.computed()]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cutting, "WORTH", 1)
    monkeypatch.setattr(cutting, "BLOCK", 12)


@pytest.fixture
def whole(tmp_path):
    store = Store(root=tmp_path / "whole")
    ingest(store, sources(tmp_path / "data"), shard_rows=8)
    return store


@pytest.mark.parametrize(("engine", "fixtures"), several())
def test_workers_cut_to_the_same_bytes(engine, fixtures, whole, small, tmp_path, request):
    for name in fixtures:
        request.getfixturevalue(name)
    store, told = Store(root=tmp_path / "store"), []
    found = ingest(
        store,
        sources(tmp_path / "data"),
        shard_rows=8,
        progress=lambda *line: told.append(line),
        engine=engine,
    )
    assert kept(store) == kept(whole)
    assert made(store) == made(whole), "each part once, and in order"
    assert told == sorted(set(told))
    assert told[-1] == (len(made(store)),) * 2
    names = {row["source"] for block in found.blocks(["source"]) for row in block.to_dicts()}
    assert "one#2" in names, "a key that two files share is told apart across workers"


def test_a_run_that_is_stopped_goes_on_with_what_its_workers_cut(
    whole, small, tmp_path, monkeypatch
):
    calm, cut = sharding.Cut.shard, []

    def shard(self, chunk):
        cut.append((self.index, chunk))
        return calm(self, chunk)

    monkeypatch.setattr(sharding.Cut, "shard", shard)
    store, data = Store(root=tmp_path / "store"), sources(tmp_path / "data")
    with pytest.raises(RuntimeError, match="was stopped"):
        ingest(store, data, shard_rows=8, engine=Travelling(most=3))
    (aside,) = (store.root / "ingest").glob(f".work-*/{cutting.AHEAD}")
    parts = sorted(p for p in aside.iterdir() if p.is_dir())
    assert len(parts) == len(cut) > 4
    torn, unmarked, *_ = parts
    table = torn / "records.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    (aside / f"{unmarked.name}.json").unlink()
    before = len(cut)
    ingest(store, data, shard_rows=8, engine=Travelling())
    assert kept(store) == kept(whole)
    tables = [pl.read_parquet(p) for p in (whole.root / "ingest").rglob("records.parquet")]
    clashing = sum("one#2" in table["source"] for table in tables)
    assert clashing > 0
    assert len(cut) - before == len(made(whole)) - len(parts) + 2 + clashing

    cut.clear()
    other = Store(root=tmp_path / "other")
    with pytest.raises(RuntimeError, match="was stopped"):
        ingest(other, data, shard_rows=8, engine=Travelling(most=3))
    ingest(other, data, shard_rows=8)
    assert kept(other) == kept(whole), "one process trusts nothing that it has not cut"


def test_small_pools_and_one_worker_are_cut_by_the_driver(tmp_path):
    class Nobody(Travelling):
        def map(self, units, worker, needs, listener):
            raise AssertionError("nobody is asked")

    store = Store(root=tmp_path / "store")
    ingest(store, sources(tmp_path / "data"), shard_rows=8, engine=Nobody())
    assert made(store)
