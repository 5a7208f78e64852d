"""A run in parts: whatever the size of a part, the same publication; the rules of the table."""

import random
from collections import Counter
from functools import partial
from importlib import import_module

import polars as pl
import pytest
from curation import published_bytes, walk_through
from rows import chat_rows, write_jsonl

from gristmill.flows.config import CurateConfig
from gristmill.flows.steps import Curation, walk
from gristmill.pipeline.export import why
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.records import ranges
from gristmill.pipeline.records import store as stores
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.ranges import ORDER, Ranges
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.selection.cascade import Stage, cascade, opened
from gristmill.pipeline.selection.streaming import fates, runs, scores

BROKEN = '{"messages": []}'


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The disk need not be waited for."""
    monkeypatch.setattr(stores, "sync", lambda path: None)


def sized(monkeypatch, part, unit):
    """Parts of so many rows, and selection in units of so many."""
    monkeypatch.setattr(ranges, "ROWS", part)
    monkeypatch.setattr(scores, "UNIT_ROWS", unit)
    monkeypatch.setattr(runs, "SAMPLE", 3)
    monkeypatch.setattr(runs, "RANGE_ROWS", max(4, unit // 2))
    monkeypatch.setattr(fates, "GROUP_ROWS", 4)


def pool_of(root):
    """Files of one source whose rows interleave, files of their own, copies and broken rows."""
    rng = random.Random(0)
    rows = chat_rows(70)
    for i, row in enumerate(rows):  # answers of several turns, so that lengths tie and differ
        row["messages"][-1]["content"] += " and so on" * (i % 5)
    folder = root / "many"
    folder.mkdir()
    cuts = {"b": rows[:25], "a": [*rows[20:45], rows[0]], "c": [*rows[45:60], *rows[3:6]]}
    for name, part in cuts.items():
        path = write_jsonl(folder / f"{name}.jsonl", part)
        lines = path.read_text("utf-8").splitlines()
        lines.insert(rng.randrange(len(lines)), BROKEN)
        path.write_text("\n".join(lines) + "\n", "utf-8")
    own = write_jsonl(root / "own.jsonl", rows[58:])
    return [{"path": str(folder), "name": "many", "license": "MIT"}, {"path": str(own)}]


def config(root, sources, **more):
    """A run that asks no model; two stages, of which the second has two scorers."""
    told = {
        "name": "toy",
        "sources": sources,
        "scorers": [{"method": "length", "settings": {"unit": "chars"}}, {"method": "random"}],
        "select": {
            "by": "random",
            "budget": "40%",
            "rule": "stratified",
            "before": [{"by": "length", "budget": "60%"}],
        },
        "max_bad_share": 0.5,
        "store": str(root / "store"),
        "export": {"root": str(root / "out"), "validation_fraction": 0.2},
        "shard_rows": 5,
        **more,
    }
    return CurateConfig.model_validate(told)


SHAPES = {
    "cascade": {},
    "one scorer": {"scorers": [{"method": "random"}], "select": {"budget": "9", "rule": "mixture",
                   "settings": {"shares": {"many": 2, "own": 1}}}},
    "best copy": {"clean": {"keep": "best"}, "scorers": [{"method": "random"}],
                  "select": {"budget": "30%"}},
    "in memory": {"scorers": [{"method": "random"}],
                  "select": {"budget": "7", "rule": "multinomial"}},
}  # fmt: skip
SIZES = {"cascade": [(6, 16), (23, 7)], "one scorer": [(30, 40)], "best copy": [(7, 11)]}
SIZES |= {"in memory": [(9, 20)]}


@pytest.mark.parametrize(
    "shape",
    ["one scorer", *(pytest.param(s, marks=pytest.mark.slow) for s in SHAPES if s != "one scorer")],
)
def test_a_run_in_parts_publishes_the_bytes_of_a_run_in_one(tmp_path, monkeypatch, shape):
    sources = pool_of(tmp_path)
    whole = walk_through(config(tmp_path / "whole", sources, **SHAPES[shape]))
    assert verify(whole) == []
    for part, unit in SIZES[shape]:
        with monkeypatch.context() as patched:
            sized(patched, part, unit)
            made = walk_through(config(tmp_path / f"{part}-{unit}", sources, **SHAPES[shape]))
        assert made.name == whole.name
        assert published_bytes(made) == published_bytes(whole)


def test_the_ledger_of_a_run_is_that_of_the_rules_in_memory(tmp_path, monkeypatch):
    """Tables of several files, in order of source and row, decided as one table would be."""
    sized(monkeypatch, 20, 25)
    curation = Curation(config=config(tmp_path, pool_of(tmp_path)))
    rows, _, found = walk(curation)
    pool = Dataset.open(rows.pool)
    entry = open_entry(rows.ledger)
    assert len(entry.shards) == 4
    assert all(len(open_entry(path).shards) > 3 for path in found.values())
    tables = {name: open_entry(path).frame() for name, path in found.items()}
    for table in tables.values():
        assert table.equals(table.sort(*ORDER))
    stages = curation.stages
    both = tables["random"]
    for name, table in tables.items():
        own = table.select(*KEY, pl.col("score").alias(f"score_{name}"))
        both = both.join(own, on=KEY, how="left", maintain_order="left")
    scored = {"length": tables["length"], "random": both}
    want = cascade(
        [Stage(name=s.name, scores=scored[s.by], rule=s.rule, budget=s.budget) for s in stages],
        rows=pl.concat(map(opened, Ranges(dataset=pool))),
        drops=[open_entry(d).frame() for d in rows.drops],
    )
    assert entry.frame().equals(want)
    assert want["verdict"].value_counts().sort("verdict")["verdict"].to_list() == [
        "dropped",
        "kept",
        "quarantined",
    ]


def test_a_published_ledger_of_several_files_is_read_as_one(tmp_path, monkeypatch):
    from gristmill.pipeline.explore.opening import opened as explored
    from gristmill.pipeline.export import publication, shards
    from gristmill.pipeline.export.diff import between

    asked = publication.Publication

    def small(**told):
        return asked(**{**told, "shard_bytes": 4_000})

    sources = pool_of(tmp_path)
    whole = walk_through(config(tmp_path / "one", sources))
    monkeypatch.setattr("gristmill.flows.publishing.Publication", small)
    monkeypatch.setattr(import_module("gristmill.pipeline.export.plan"), "_SLICE", 8)
    monkeypatch.setattr(shards, "write", partial(shards.write, row_group_bytes=1))
    made = walk_through(config(tmp_path / "many-files", sources))
    files = sorted(p.name for p in made.glob("ledger/*.parquet"))
    assert len(files) > 2
    assert files[0] == f"pool-00000-of-{len(files):05d}.parquet"
    assert verify(made) == []
    book = pl.read_parquet(whole / "ledger/*.parquet")
    assert pl.read_parquet(made / "ledger/*.parquet").equals(book)
    assert between(whole, made).same
    assert explored(made).ledger.height == book.height
    for line in book.filter(pl.col("rank").is_not_null()).gather_every(9).iter_rows(named=True):
        one, other = (
            [s.sentences for s in why.stories(line["id"], folder)] for folder in (whole, made)
        )
        assert [[t.replace(whole.name, made.name) for t in s] for s in one] == other


@pytest.mark.slow
def test_killed_in_any_part_a_run_repeats_no_other_part(tmp_path, monkeypatch):
    """Counted from the journals: of the store, and of what a step keeps while it is made."""
    sized(monkeypatch, 9, 16)
    sources = pool_of(tmp_path)
    whole = walk_through(config(tmp_path / "whole", sources))

    class KilledError(BaseException):
        pass

    made: list[tuple[str, ...]] = []
    log, left = stores.Store._log, [0]

    def killing(self, line):
        log(self, line)
        made.append((str(self.root), line["step"], line["key"], line["part"]))
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    monkeypatch.setattr(stores.Store, "_log", killing)
    run, kills, folder = config(tmp_path / "killed", sources), 0, None
    while folder is None:
        left[0] = 31
        try:
            folder = walk_through(run)
        except KilledError:
            kills += 1
    assert kills > 5
    times = Counter(made)
    assert max(times.values()) <= 2, "the part in flight is made again, and no other"
    assert sum(n == 2 for n in times.values()) <= kills
    assert published_bytes(folder) == published_bytes(whole)
