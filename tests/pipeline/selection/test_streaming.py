"""Selection in bounded memory: the ledger of the table in memory, row by row; killed and rerun."""

import hashlib
import math
import random
from contextlib import suppress

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.keys import (
    column_keys,
    ordered,
    packed,
    sorted_by,
    unpacked,
    values,
)
from gristmill.pipeline.records import store as stores
from gristmill.pipeline.records.schema import KEY, SCORES
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.selection.rules import rules
from gristmill.pipeline.selection.rules.band import Band
from gristmill.pipeline.selection.rules.curriculum import Curriculum
from gristmill.pipeline.selection.rules.gumbel import Gumbel
from gristmill.pipeline.selection.rules.mixture import Mixture
from gristmill.pipeline.selection.rules.round_robin import RoundRobin
from gristmill.pipeline.selection.rules.stratified import Stratified
from gristmill.pipeline.selection.rules.threshold import Threshold
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.rules.weighted import Weighted
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.pipeline.selection.shortfall import SHORT, shortfalls
from gristmill.pipeline.selection.streaming import fates, ledger, runs, scores
from gristmill.pipeline.selection.streaming.ledger import select_tables

RULES = [
    Top(),
    Threshold(min=0.25, max=0.5),
    Weighted(),
    Weighted(stretch=True),
    Band(low=0.2, high=0.9),
    Band(low=0.2, high=0.7, unit="value"),
    Band(low=0.25, high=0.5, columns=("score_odd",)),
    Band(columns=("score", "score_odd"), target_keep=0.3),
    Stratified(),
    Stratified(balanced=False),
    Stratified(by="tokens"),
    Gumbel(temperature=0.5),
    Mixture(shares={"s": 2, "t": 1}, upsample=2),
    Mixture(by="label", caps={"unknown": 0.4, "a": 0.5}),
    Curriculum(),
    Curriculum(by="score_odd", within="source"),
    Curriculum(by="label"),
    RoundRobin(prefix="score_odd"),
]
BUDGETS = [None, Budget(rows=9), Budget(fraction=0.29), Budget(tokens=40)]


@pytest.fixture(autouse=True)
def tiny_units(monkeypatch):
    """Sizes at which a few rows are many units and ranges; the disk need not be waited for."""
    monkeypatch.setattr(stores, "sync", lambda path: None)
    monkeypatch.setattr(scores, "UNIT_ROWS", 16)
    monkeypatch.setattr(runs, "SAMPLE", 3)
    monkeypatch.setattr(runs, "RANGE_ROWS", 9)
    monkeypatch.setattr(fates, "GROUP_ROWS", 4)


def content_id(text):
    return hashlib.md5(str(text).encode()).hexdigest()


def pool(rng, n):
    """A shuffled table with copies, ties, quarantined rows, and values that are no numbers."""
    odd = [None, math.nan, math.inf, -math.inf, -0.0, 0.0, 0.25]
    level = [None, math.nan, -0.0, 0.0, 0.25, 0.5, 0.5, 0.75, 1.0]
    known = [
        {
            "tokens": rng.choice([0, 1, 2, 3, 9]),
            "score": rng.choice([*level, rng.random()]),
            "score_odd": rng.choice([*odd, rng.random()]),
            "label": rng.choice([None, "unknown", "a", "b"]),
        }
        for _ in range(n)
    ]
    rows = []
    for row in rng.sample(range(n), n):
        who, bad = rng.randrange(n), rng.random() < 0.1
        key = {"id": content_id((who, bad and row)), "source": rng.choice("stu"), "row": row}
        told = {"score": None, "reason": "quarantine: broken"} if bad else {"reason": None}
        rows.append({**key, "kind": "example", **known[who], **told})
    extra = {"score_odd": pl.Float64, "label": pl.String}
    return pl.DataFrame(rows, schema=SCORES | extra)


def drops_of(rng, table):
    """Drops with any notes, of rows that are in the table."""
    ids = table["id"].to_list()
    notes = {
        "reason": lambda: rng.choice(["license", "near_duplicate"]),
        "duplicate_of": lambda: rng.choice([None, rng.choice(ids)]),
        "cluster": lambda: rng.choice([None, "k1", rng.choice(ids)]),
        "contaminates": lambda: rng.choice([None, None, "gsm8k"]),
    }
    frames = []
    for _ in range(rng.randrange(3)):
        some = table.filter(pl.Series([rng.random() < 0.15 for _ in ids], dtype=pl.Boolean))
        told = {
            c: pl.Series([f() for _ in range(some.height)], dtype=pl.String)
            for c, f in notes.items()
        }
        frames.append(some.select(KEY).with_columns(**told))
    return frames


def filed(folder, name, frames):
    """Tables as Parquet files of small row groups."""
    paths = [folder / f"{name}-{i}.parquet" for i in range(len(frames))]
    for frame, path in zip(frames, paths, strict=True):
        frame.write_parquet(path, row_group_size=7)
    return paths


def streamed(folder, table, rule, budget, drops=()):
    """The entry of a table in three files, and its ledger."""
    third = -(-table.height // 3)
    files = filed(folder, "scores", [table[i * third : (i + 1) * third] for i in range(3)])
    gone = filed(folder, "drops", list(drops))
    store = Store(root=folder / "store")
    entry = select_tables(files, store, rule=rule, budget=budget, drops=gone)
    return entry, pl.concat([pl.read_parquet(p) for p in entry.shards])


def outcome(make):
    """What is made, or the sentence that refuses it."""
    try:
        return make()
    except ValueError as error:
        return str(error)


def compare(folder, seed, rule, budget):
    rng = random.Random(seed)
    table = pool(rng, rng.choice([1, 5, 17, 40, 70]))
    if rng.random() < 0.3:
        named = [rng.choice([None, "q", table["id"][0]]) for _ in range(table.height)]
        table = table.with_columns(cluster=pl.Series(named, dtype=pl.String))
    drops = drops_of(rng, table)
    extra = table.select(*KEY, "label")
    want = outcome(lambda: select(table, rule=rule, budget=budget, drops=drops))
    if isinstance(want, str):
        assert outcome(lambda: streamed(folder, table, rule, budget, drops)) == want
        return
    entry, got = streamed(folder, table, rule, budget, drops)
    assert_frame_equal(got, want, check_exact=True)
    assert [pl.read_parquet(p).height for p in entry.shards[:-1]] == [16] * (len(entry.shards) - 1)
    assert entry.note[SHORT] == shortfalls(want, rule, budget, extra=extra)


@pytest.mark.parametrize("number", range(len(RULES)))
def test_every_rule_gives_the_ledger_of_the_table_in_memory(tmp_path, number):
    compare(tmp_path, 100 + number, RULES[number], BUDGETS[number % 4])


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_rules_and_budgets_on_many_tables(tmp_path, rule, budget):
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        compare(folder, seed, rule, budget)


def test_killed_and_rerun_it_makes_what_is_missing_and_the_same_bytes(tmp_path, monkeypatch):
    """Whichever part is the one in flight, of the passes or of the ledger."""
    rng = random.Random(3)
    table, rule = pool(rng, 40), Band(low=0.2, high=0.9)
    drops = drops_of(rng, table) or drops_of(rng, table)
    (tmp_path / "whole").mkdir()
    whole, _ = streamed(tmp_path / "whole", table, rule, Budget(rows=20), drops)

    class KilledError(Exception):
        pass

    made: list[tuple[str, str]] = []
    alive = [0]
    part_of = Store._part

    def part(self, step, work, marks, part):
        def write(path):
            if len(made) >= alive[0]:
                raise KilledError
            part.write(path)
            made.append((step.name, part.name))

        return part_of(self, step, work, marks, stores.Part(name=part.name, write=write))

    monkeypatch.setattr(Store, "_part", part)
    for attempt in range(200):
        alive[0] = len(made) + 3 + attempt
        with suppress(KilledError):
            entry, _ = streamed(tmp_path, table, rule, Budget(rows=20), drops)
            break
    assert attempt > 5, "it was killed in every pass"
    assert len(set(made)) == len(made), "a part was made twice"
    assert [f["sha256"] for f in entry.files] == [f["sha256"] for f in whole.files]
    assert not list(entry.path.glob(".*/*")), "the passes are gone"


def test_every_rule_reads_blocks_or_says_what_it_needs():
    whole = [r for r in rules().values() if r.streamed is Rule.streamed]
    assert {r.__name__ for r in whole} == {"RoundRobin", "Multinomial"}
    assert not [r for r in whole if r.in_memory == Rule.in_memory]


def test_what_must_have_the_table_in_memory_says_why(tmp_path, caplog):
    table = pool(random.Random(0), 40).with_columns(id=pl.int_range(40).cast(pl.String))
    entry, got = streamed(tmp_path, table, Stratified(), Budget(rows=5))
    assert_frame_equal(got, select(table, rule=Stratified(), budget=Budget(rows=5)))
    assert "all 40 rows: its ids are not the 32 hex digits of a content id" in caplog.text
    assert len(entry.shards) == 3
    entry, _ = streamed(tmp_path, table, RoundRobin(prefix="score_odd"), None)
    assert "RoundRobin needs it: each target takes turns" in caplog.text


@pytest.mark.parametrize("case", ["twice", "stray", "uncounted", "column", "no tokens column"])
def test_tables_that_do_not_fit_are_named_as_in_memory(tmp_path, case):
    rng = random.Random(1)
    table, drops, rule, budget = pool(rng, 40), [], Top(), None
    if case == "twice":
        table = pl.concat([table, table[3:9]])
    elif case == "stray":
        drops = [table[5:8].select(KEY).with_columns(row=pl.col("row") + 99)]
    elif case == "uncounted":
        table = table.with_columns(tokens=pl.when(pl.col("row") % 3 == 0).then("tokens"))
        budget = Budget(tokens=9)
    elif case == "column":
        rule = Stratified(by="domain")
    else:
        table = table.drop("tokens")
    want = outcome(lambda: select(table, rule=rule, budget=budget, drops=drops))
    assert isinstance(want, str)
    assert outcome(lambda: streamed(tmp_path, table, rule, budget, drops)) == want


def test_the_table_is_never_selected_whole(tmp_path, monkeypatch):
    """No function of the form in memory sees more than a unit, and no range is larger than asked."""
    table = pool(random.Random(5), 100).with_columns(score=pl.lit(0.5))  # all tie: the id decides
    want = select(table, rule=Top(), budget=Budget(rows=30))
    seen: list[int] = []
    read = runs.Runs.read

    def watched(self, r, names):
        found = read(self, r, names)
        seen.append(len(found[names[0]]))
        return found

    monkeypatch.setattr(runs.Runs, "read", watched)
    monkeypatch.setattr(ledger, "select", None)
    _, got = streamed(tmp_path, table, Top(), Budget(rows=30))
    assert_frame_equal(got, want)
    assert max(seen) <= 9 + 3 * -(-100 // 16)  # a range, and a sample of every run


def test_an_empty_table_has_an_empty_ledger(tmp_path):
    table = pool(random.Random(0), 0)
    _, got = streamed(tmp_path, table, Stratified(), Budget(rows=5))
    assert_frame_equal(got, select(table, rule=Stratified(), budget=Budget(rows=5)))


# ---- keys


def test_keys_sort_as_the_numbers_do():
    numbers = [-math.inf, -1.5, -5e-324, 0.0, 5e-324, 1.0, math.inf, math.nan]
    keys = ordered(np.array(numbers))
    assert (np.diff(keys.astype(object)) > 0).all()
    assert ordered(np.array([-0.0])) == ordered(np.array([0.0]))
    np.testing.assert_array_equal(values(keys), numbers)
    assert (np.diff(ordered(np.array([-(2**62), -1, 0, 7])).astype(object)) > 0).all()
    column = column_keys(pl.Series([None, -math.inf, 2.0]))
    assert column[0] == 0
    assert column.argsort().tolist() == [0, 1, 2]
    assert np.isnan(values(column)[0])


def test_content_ids_are_two_keys_in_the_same_order():
    ids = pl.Series("id", [content_id(i) for i in range(50)] + ["0" * 32, "f" * 32, "9" * 32])
    keys = packed(ids)
    assert unpacked(*keys).equals(ids)
    assert ids.gather(sorted_by(keys)).equals(ids.sort())
    assert packed(ids[7:9])[0].tolist() == keys[0][7:9].tolist()
    for wrong in ("A" * 32, "g" * 32, "a" * 31, "a" * 31 + " ", "/" * 32, "`" * 32, "é" * 16, None):
        assert packed(pl.Series([ids[0], wrong])) is None, wrong


def test_ties_of_the_first_key_are_broken_by_the_next():
    rng = np.random.default_rng(0)
    keys = tuple(rng.integers(0, n, 500).astype(np.uint64) for n in (3, 4, 1_000))
    found = np.stack([k[sorted_by(keys)] for k in keys])
    want = np.stack([k[np.lexsort(keys[::-1])] for k in keys])
    np.testing.assert_array_equal(found, want)
