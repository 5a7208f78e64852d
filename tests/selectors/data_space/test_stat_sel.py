"""STAT selection: a planted weakness, a model that fails everywhere, what counts as missing."""

import json
import math
import random

import polars as pl
import pytest

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.selection.rules import rule_named
from gristmill.selectors.data_space.stat_sel import StatSel

SKILLS = "abcdef"


def frame(rows, prefix=""):
    metas = [None if r is None else json.dumps(r) for r in rows]
    return Frames(
        parts=(
            pl.DataFrame(
                {
                    "id": [f"{prefix}{i:04d}" for i in range(len(rows))],
                    "meta": pl.Series(metas, dtype=pl.String),
                }
            ),
        )
    )


def pool(rows=1_200):
    """One to three skills a row."""
    draw = random.Random(0)
    return [draw.sample(SKILLS, draw.randint(1, 3)) for _ in range(rows)]


def picks(skills, reference, budget=100):
    table = StatSel().score(frame([{"skills": s} for s in skills]), frame(reference, "q"))
    rows = table.drop_nulls("score").with_columns(cost=pl.lit(1))
    at = rule_named(StatSel.rule).order(rows, math.inf)["index"][:budget]
    return [skills[int(i)] for i in rows["id"].gather(at)]


def asked(failing, noise=0.03):
    """A model's four tries at 600 questions of one skill each."""
    draw = random.Random(1)
    found = []
    for _ in range(600):
        skill = draw.choice(SKILLS)
        wrong = 0.9 if skill in failing else noise
        found.append({"skills": [skill], "outcomes": [draw.random() > wrong for _ in range(4)]})
    return found


def test_a_planted_weakness_is_what_is_picked():
    chosen = picks(pool(), asked("c"))
    assert sum("c" in s for s in chosen) >= 80


def test_picks_follow_the_pool_where_a_model_fails_everywhere():
    one = [s[:1] for s in pool()]
    chosen = picks(one, asked(SKILLS), 600)
    share = {k: sum(s == [k] for s in one) / len(one) for k in SKILLS}
    got = {k: sum(s == [k] for s in chosen) / 600 for k in SKILLS}
    assert got == pytest.approx(share, abs=0.05)


def test_the_profile_is_of_the_hardest_and_of_what_a_teacher_named():
    reference = [
        {"skills": "a, b", "outcomes": 0.25, "missing_skills": ["b"]},
        {"skills": ["c"], "outcomes": [False, True]},
        {"skills": ["d"], "outcomes": [True, True]},
        {"outcomes": 0.0},
        None,
    ]
    rows = frame(
        [{"skills": ["b", "z"]}, {"skills": "b,c"}, {"skills": ["d"]}, {"skills": []}, None]
    )
    found = StatSel().score(rows, frame(reference))
    scores = found["score"].to_list()
    assert scores[:2] == pytest.approx([math.log(0.75 / 1.25), 0.0]), "by failures, of two"
    assert scores[2:] == [None] * 3
    assert found["score_skill"].to_list() == [0, 0, None, None, None]
    assert found["reason"].to_list() == [None, None, "no_missing_skill", "no_skill", "no_skill"]
    hardest = StatSel(hardest=1).score(rows, frame(reference))
    assert hardest["score"].to_list()[:2] == [0.0, 0.0], "the question solved once in four"
    with pytest.raises(ValueError, match="no reference question has both a failed try"):
        StatSel().score(rows, frame(reference[2:]))
    with pytest.raises(ValueError, match="hardest is at least 1 question; found 0"):
        StatSel(hardest=0)
