"""GRACE: golden numbers, teachers whose gradients agree, uneven answers"""

import itertools

import numpy as np
import polars as pl
import pytest
from answers_as_chats import chat
from rows import write_jsonl
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors.likelihood.grace import Grace, grace, teacher_choice, vendi


def test_golden_numbers_of_grace():
    same = np.zeros((40, 8))
    same[:, 2] = 3.0
    prompts = np.arange(40) // 4
    assert grace(same, prompts) == pytest.approx(9.007882, abs=1e-5)
    normal = np.random.default_rng(0).standard_normal((16_000, 8))
    value = grace(normal, np.arange(16_000) // 4)
    assert value == pytest.approx(64.1555, abs=1e-3)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))
    assert grace(normal @ turn, np.arange(16_000) // 4) == pytest.approx(value, rel=1e-9)
    assert grace(3 * normal, np.arange(16_000) // 4) == pytest.approx(9 * value, rel=1e-9)
    assert vendi(normal) == pytest.approx(np.log(8), abs=1e-3)
    assert vendi(same) == pytest.approx(0, abs=1e-9)
    assert grace(normal[:4], np.zeros(4, dtype=int)) is None


def teachers(*, prompts=12, answers=2):
    """A steady teacher, whose gradients agree, and an erratic one; the same questions."""
    rng = np.random.default_rng(0)
    column = Grace(dim=6).signals[0].column
    rows = []
    for who, spread in (("steady", 0.1), ("erratic", 3.0)):
        for q, a in itertools.product(range(prompts), range(answers)):
            h = np.ones(6) + rng.normal(0, spread, 6)
            ident = f"{who}-{q:02}-{a}"
            rows.append({"id": ident, "messages": chat(f"Q{q}", ident), "tools": None,
                         "source": "file", "meta": f'{{"teacher": "{who}"}}',
                         column: h.astype(np.float32).tolist()})  # fmt: skip
    data = pl.DataFrame(
        rows, schema_overrides={"tools": pl.String, column: pl.Array(pl.Float32, 6)}
    )
    return data, column


def test_the_teacher_whose_gradients_agree_comes_first():
    data, column = teachers()
    scorer = Grace(dim=6)
    pool = Frames(parts=(data.head(20), data.tail(-20)))
    report = teacher_choice(pool, scorer)
    assert report["teacher"].to_list() == ["steady", "erratic"]
    assert report["rank"].to_list() == [1, 2]
    assert report.select("prompts", "rows", "even").rows() == [(12, 24, True)] * 2
    found = scorer.score(pool)
    assert found.height == 48
    by_hand = data.filter(pl.col("id").str.starts_with("steady"))[column].to_numpy()
    expected = -np.log(grace(by_hand.astype(float), _numbers(data)))
    steady = found.filter(pl.col("id").str.starts_with("steady"))["score"]
    np.testing.assert_allclose(steady, expected, rtol=1e-9)
    shuffled = Frames(parts=(data.sample(fraction=1, shuffle=True, seed=1),))
    np.testing.assert_allclose(
        scorer.score(shuffled).sort("id")["score"], found.sort("id")["score"], rtol=1e-9
    )


def _numbers(data):
    """Prompt numbers of the steady teacher's rows, prompts in order of their keys."""
    from gristmill.selectors.likelihood import question

    keys = [question(r) for r in data.filter(pl.col("id").str.starts_with("steady")).to_dicts()]
    rank = {k: i for i, k in enumerate(sorted(set(keys)))}
    return np.array([rank[k] for k in keys])


def test_uneven_answer_sets_are_said_and_lost_rows_have_no_score():
    data, column = teachers()
    short = data.filter(pl.col("id") != "steady-00-0")
    assert teacher_choice(Frames(parts=(short,)), Grace(dim=6))["even"].to_list() == [False, True]
    other = data.filter(~pl.col("id").str.starts_with("steady-00"))
    assert not teacher_choice(Frames(parts=(other,)), Grace(dim=6))["even"].any()
    null = pl.when(pl.col("id") != "steady-00-0").then(pl.col(column)).alias(column)
    found = Grace(dim=6).score(Frames(parts=(data.with_columns(null),)))
    assert found.filter(pl.col("score").is_null())["id"].to_list() == ["steady-00-0"]
    single = data.filter(pl.col("id").is_in(["steady-00-0", "steady-00-1"]))
    found = Grace(dim=6).score(Frames(parts=(single,)))
    assert found["score"].null_count() == 2
    assert found["reason"].to_list() == ["too_few_prompts: a teacher needs two"] * 2


def test_grace_runs_on_a_students_gradients(tiny, tmp_path, store):
    rows = [
        {"messages": chat(f"Q{q}", f"{who} says {q}. " * n), "teacher": who}
        for who, n in (("ann", 1), ("bob", 3))
        for q in range(6)
    ]
    pool = ingest(store, [Source(path=str(write_jsonl(tmp_path / "pool.jsonl", rows)))])
    models = Models(store=store, roles={"student": (str(tiny),)})
    run = ScoreRun(
        scorer=Grace(dim=32),
        dataset=pool,
        context=RunContext(models=models, passes=Passes(device="cpu")),
    )
    frame = score(run).frame()
    assert frame["score"].is_finite().all()
    assert frame["score"].n_unique() == 2  # one value a teacher
    assert frame["score_prompts"].to_list() == [6.0] * 12


GOLDEN = 1e-5  # the figures have six digits


def test_grace_of_equal_gradients_and_its_baselines():
    scorer = Grace(dim=8, teacher="source")
    column = scorer.signals[0].column
    rows = [
        {"id": f"{q}{a}", "messages": chat(f"Q{q}", str(a)), "tools": None, "source": "ann",
         "meta": None, column: [3.0, *[0.0] * 7]}
        for q, a in itertools.product(range(10), range(4))
    ]  # fmt: skip
    types = {"tools": pl.String, "meta": pl.String, column: pl.Array(pl.Float32, 8)}
    report = teacher_choice(Frames(parts=(pl.DataFrame(rows, schema_overrides=types),)), scorer)
    found = report.row(0, named=True)
    assert found["grace"] == pytest.approx(9.007882, abs=GOLDEN)
    assert found["norm"] == pytest.approx(9)
    assert found["vendi"] == pytest.approx(0, abs=1e-9)
    assert (found["prompts"], found["rows"], found["even"]) == (10, 40, True)
