"""Sketching on engines: the same bytes and keys, each shard once."""

from dataclasses import replace

import pytest
from clean_records import documents
from engines import several

from gristmill.pipeline.clean import sketching
from gristmill.pipeline.clean.near_duplicates import MinHash
from gristmill.pipeline.clean.sketching import sketches
from gristmill.pipeline.records.store import NotMadeError, Store


def kept(store):
    return {
        p.relative_to(store.root).as_posix(): p.read_bytes()
        for p in (store.root / "minhash").rglob("*")
        if p.is_file() and p.name != ".stamps.json" and ".lock-" not in p.name
    }


def made(store):
    return sorted(line["key"] for line in store.computed())


@pytest.mark.parametrize(("engine", "fixtures"), several())
def test_workers_sketch_each_shard_once_to_the_same_bytes(
    engine, fixtures, tmp_path, request, monkeypatch
):
    for name in fixtures:
        request.getfixturevalue(name)
    monkeypatch.setattr(sketching, "WORTH", 1)
    shards = [tmp_path / f"{n}.parquet" for n in range(5)]
    for n, shard in enumerate(shards):
        words = [" ".join(f"w{i * i % (23 + n % 4)}" for i in range(40 + k)) for k in range(9)]
        documents(words).write_parquet(shard)
    here, there = (Store(root=tmp_path / name) for name in ("here", "there"))
    found = sketches(here, shards, MinHash())
    assert shards[4].read_bytes() == shards[0].read_bytes()
    assert found[4] == found[0]
    assert len(made(here)) == 4, "shards of the same bytes are sketched once"

    sketches(there, shards[:1], MinHash())
    told = []
    others = sketches(there, shards, MinHash(), lambda *line: told.append(line), engine)
    assert [p.relative_to(there.root) for p in others] == [p.relative_to(here.root) for p in found]
    assert kept(there) == kept(here)
    assert made(there) == made(here)
    assert told[0] == (2, 5)
    assert told[-1] == (5, 5)
    assert list(there.root.glob("journal-*")), "workers write journals of their own"
    monkeypatch.undo()
    few = Store(root=tmp_path / "few")
    sketches(few, shards, MinHash(), engine=engine)
    assert not list(few.root.glob("journal-*")), "few are sketched by the driver"

    before = made(there)
    assert sketches(there, shards, MinHash(), engine=engine) == others
    assert made(there) == before
    with pytest.raises(NotMadeError):
        sketches(replace(there, makes=False), shards, MinHash(seed=1), engine=engine)
