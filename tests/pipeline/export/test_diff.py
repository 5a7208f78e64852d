"""Diff: what changed between two ledgers equals what plain loops over their rows say."""

import json
import random
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from plain_diff import gap, plain_diff
from published import HELD, chats, frame, ledger, publish

from gristmill.pipeline.export import diff_page
from gristmill.pipeline.export.diff import between, diff
from gristmill.pipeline.export.diff_tables import NEW_ROWS, distance
from gristmill.pipeline.export.drift import Limits, beyond

REASONS = ("below_budget", "exact_duplicate", "near_duplicate", "takedown")
SCHEMA = {
    "id": pl.String,
    "source": pl.String,
    "tokens": pl.Int64,
    "verdict": pl.String,
    "reason": pl.String,
    "weight": pl.Float64,
    "score": pl.Float64,
    "score_other": pl.Float64,
}


def version(draw: random.Random, ids: list[str]) -> list[dict]:
    """A small ledger: some ids twice, of which one copy at most is kept."""
    rows = []
    for ident in ids:
        source = draw.choice(["a", "b", "c", None])
        kept = draw.random() < 0.5
        score = draw.choice([None, 0.0, 0.5, 1.0, draw.random()])
        rows.append(
            {
                "id": ident,
                "source": source,
                "tokens": draw.choice([None, 3, 8]),
                "verdict": "kept" if kept else "dropped",
                "reason": None if kept else draw.choice(REASONS),
                "weight": draw.choice([1.0, 1.0, 2.0]) if kept else None,
                "score": score,
                "score_other": draw.random(),
            }
        )
        if draw.random() < 0.3:
            copy = {"verdict": "dropped", "reason": "exact_duplicate", "weight": None}
            rows.append({**rows[-1], **copy, "source": draw.choice("ab")})
    draw.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(25))
def test_a_diff_equals_plain_loops_over_two_random_versions(seed):
    draw = random.Random(seed)
    ids = [f"{i:02d}" for i in range(30)]
    old = version(draw, draw.sample(ids, 20))
    new = version(draw, draw.sample(ids, 22)) if seed else [dict(r) for r in old]
    found = diff(*(pl.DataFrame(r, schema=SCHEMA) for r in (old, new)), before="v1", after="v2")
    truth = plain_diff(old, new)
    assert {(c, why): n for c, why, n in found.changes.iter_rows()} == truth["changes"]
    assert Counter(found.rows["change"]) == Counter(
        {c: found.counts[c] for c in ("added", "dropped", "re-scored") if found.counts[c]}
    )
    for part in ("rows", "tokens"):
        assert [found.counts[f"{part}_{w}"] for w in ("before", "after")] == truth[part]
    for at, when in enumerate(("before", "after")):
        counted = {s: n for s, n in found.mixture.select("source", f"rows_{when}").iter_rows() if n}
        assert counted == truth["mixture"][at]
    assert found.shift == pytest.approx(truth["shift"])
    for change in ("new", "gone"):
        assert set(found.sources.filter(change=change)["source"]) == truth[change]
    known = {r["id"] for r in old}
    told = {(r["score"], r["of"]): r for r in found.scores.iter_rows(named=True)}
    for column in ("score", "score_other"):
        parts = [
            {r["id"]: r[column] for r in new if (r["id"] in known) == there}.values()
            for there in (True, False)
        ]
        a, b = ([x for x in part if x is not None] for part in parts)
        assert any(r["id"] in known for r in new)
        if a and b:
            assert told[column, NEW_ROWS]["distance"] == pytest.approx(gap(a, b))
        else:
            assert (column, NEW_ROWS) not in told
    quiet = found.counts["re-weighted"] + found.counts["relabelled"]
    assert found.same == (not truth["changes"] and not quiet)
    assert found.same == (seed == 0)


def test_other_weights_are_no_silence():
    row = {"id": "a", "source": "s", "tokens": 1, "verdict": "kept", "reason": None}
    told = [pl.DataFrame([{**row, "weight": w, "score": 1.0}], schema=SCHEMA) for w in (1.0, 2.0)]
    found = diff(*told, before="v1", after="v2")
    assert (found.same, found.counts["re-weighted"], found.rows.height) == (False, 1, 0)
    told = [pl.DataFrame([{**row, "weight": 1.0, "score": 1.0, "license": x}],
                         schema={**SCHEMA, "license": pl.String}) for x in ("MIT", None)]  # fmt: skip
    found = diff(*told, before="v1", after="v2")
    assert (found.same, found.counts["relabelled"], found.rows.height) == (False, 1, 0)
    assert found.sentences == [
        "kept rows: 1 before, 1 now; 0 came, 0 went, 0 stay with another score, 1 under another "
        "source or licence."
    ]


def test_the_distance_of_samples_and_what_chance_explains():
    assert distance([1, 2, 3], [1, 2, 3])[0] == 0
    assert distance([1, 2], [3, 4])[0] == 1
    far, chance = distance([0.0] * 50, [0.0] * 40 + [1.0] * 10)
    assert far == pytest.approx(0.2)
    assert chance == pytest.approx(1.6276 * (100 / 2500) ** 0.5, abs=1e-4)


def test_limits_speak_of_what_lies_beyond_them_and_of_nothing_within():
    draw = random.Random(1)
    old = pl.DataFrame(version(draw, [f"{i:02d}" for i in range(40)]), schema=SCHEMA)
    assert beyond(diff(old, old, before="v1", after="v1"), Limits()) == []
    moved = old.with_columns(
        source=pl.lit("elsewhere"), score=pl.col("score") + 5, id="x" + pl.col("id")
    )
    found = diff(old, moved, before="v1", after="v2")
    alarms = beyond(found, Limits(new_sources=0))
    assert [a.partition(":")[0] for a in alarms] == [
        "dropped",
        "mixture",
        "score",
        "score",
        "new_sources",
    ]
    off = Limits(rows=None, dropped=None, mixture=None, score=None, new_sources=None)
    assert beyond(found, off) == []
    half = old.filter((pl.col("verdict") != "kept") | (pl.int_range(pl.len()) % 3 == 0))
    assert any(
        a.startswith("rows:") for a in beyond(diff(old, half, before="1", after="2"), Limits())
    )


def test_a_version_ships_its_diff_with_the_one_that_is_used(store, tmp_path):
    hostile = "<script>alert(1)</script>"
    first = publish(tmp_path, store, n=60)
    assert not (first / "diff.html").exists(), "there is nothing to compare it with"
    publish(tmp_path, store, n=61, evaluation={"gate": HELD})
    rows = [*chats(62), {**chats(1)[0], "source": hostile}]
    rows[-1]["messages"] = [*rows[-1]["messages"][:1], {**rows[-1]["messages"][1], "content": "x"}]
    book = ledger(frame(rows), 40)
    third = publish(tmp_path, store, rows=[dict(r) for r in rows], book=book)
    found = between(first, third)
    told = json.loads((third / "diff.json").read_text("utf-8"))
    assert told == json.loads(json.dumps(found.facts)), "with `latest`, not with what was held"
    assert (told["before"], told["after"]) == (first.name, third.name)
    assert pl.read_parquet(third / "diff.parquet").equals(found.rows)
    page = (third / "diff.html").read_text("utf-8")
    assert page == diff_page.page("toy", found).decode()
    assert hostile not in page
    assert "&lt;script&gt;" in page
    assert Path(third / "CHANGELOG.md").read_text("utf-8").count("## v") == 3
