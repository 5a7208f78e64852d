"""Teacher divergence, S2L and GRACE: their golden numbers, their equations, bad input."""

import itertools

import numpy as np
import polars as pl
import pytest
from conftest import write_jsonl
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.likelihood.grace import Grace, grace, teacher_choice, vendi
from gristmill.selectors.likelihood.s2l import ProxyTraining, S2l, in_turn, spaced, trajectories
from gristmill.selectors.likelihood.teacher_divergence import (
    SENTENCES,
    SentenceLogProbs,
    TeacherDivergence,
    probabilities,
    provenance,
    provenance_report,
    sentences,
)

ATOL = 1e-4  # the golden numbers are printed with four decimals


def chat(prompt, answer):
    return [
        {"role": "user", "content": prompt, "extra": None},
        {"role": "assistant", "content": answer, "extra": None},
    ]


def pieces(text):
    ends = sentences(text)
    return [text[a:b] for a, b in itertools.pairwise([0, *ends])]


# --- teacher divergence -----------------------------------------------------------------------


def test_sentences_end_at_newlines_and_after_stops():
    assert pieces("One. Two? Three!\nFour") == ["One. ", "Two? ", "Three!\n", "Four"]
    assert pieces("3.14 is pi.\n\n\nYes.") == ["3.14 is pi.\n\n\n", "Yes."]
    assert pieces("\n One.") == ["\n One."]
    assert pieces("") == []
    assert pieces(" \n ") == []


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    from gristmill.pipeline.records.store import Store

    files = resolve(str(tiny), Store(root=tmp_path_factory.mktemp("resolve")))
    return load(files, load_tokenizer(files), device="cpu")


def test_sentence_log_probs_are_means_over_the_sentences_tokens(model):
    signal = SentenceLogProbs(role="teacher")
    answer = "First one. Sécond!\n\nThird"
    records = [chat("Say it", answer), [*chat("a", "Not this. Nor this."), *chat("b", "Only")]]
    encoded = [Dialogue().encode({"messages": m, "tools": None}, model.chat) for m in records]
    batch = forward(encoded, model, signal.needs)
    first, second = signal.read(batch)
    assert first["ends"] == [11, 20, 25]
    assert second["ends"] == [4]
    content = [t for t, k in enumerate(encoded[0].turn) if k > 0]
    begin = encoded[0].offsets[content[0]][0]
    loss = batch.losses(0)
    for (a, b), found in zip(
        itertools.pairwise([0, *first["ends"]]), first["logprob"], strict=True
    ):
        own = [t for t in content if a <= encoded[0].offsets[t][0] - begin < b]
        # the space after a full stop is a token of its own here, and stays in its sentence
        assert found == pytest.approx(-loss[own].astype(float).mean())
    assert signal.column == "teacher.sentences.dialogue"


def observed(rows, scorer):
    """Frames of a pool from (id, question, teacher's and student's token probabilities)."""
    frame = []
    for ident, asked, teacher, student in rows:
        ends = list(range(1, len(teacher) + 1))
        value = [
            {"ends": ends, "logprob": [float(np.log(p).mean()) if len(p) else None for p in m]}
            for m in (teacher, student)
        ]
        frame.append((ident, chat(asked, "." * len(ends)), None, *value))
    names = [s.column for s in scorer.signals]
    data = pl.DataFrame(
        [{"id": i, "messages": m, "tools": t, names[0]: a, names[1]: b} for i, m, t, a, b in frame],
        schema_overrides={"tools": pl.String, names[0]: SENTENCES, names[1]: SENTENCES},
    )
    return Frames(parts=(data,))


TEACHER = ((0.9, 0.8), (0.5, 0.5), (0.2, 0.3))
STUDENT = ((0.5, 0.6), (0.45, 0.55), (0.6, 0.5))


def test_golden_numbers_of_teacher_divergence():
    scorer = TeacherDivergence()
    p_T, p_S = (probabilities([np.log(p).mean() for p in m]) for m in (TEACHER, STUDENT))
    np.testing.assert_allclose(p_T, [0.8485, 0.5, 0.2449], atol=ATOL)
    np.testing.assert_allclose(p_S, [0.5477, 0.4975, 0.5477], atol=ATOL)
    np.testing.assert_allclose(p_T - p_S, [0.3008, 0.0025, -0.3028], atol=ATOL)
    pool = observed([("a", "q", TEACHER, STUDENT), ("b", "r", TEACHER, TEACHER)], scorer)
    found = scorer.score(pool).sort("id")
    assert found["score"].to_list() == [1.0, 0.0]  # the same model twice: nothing is the teacher's
    assert found.select(pl.col("^score_(teacher|student|common|sentences)$")).rows() == [
        (1.0, 1.0, 1.0, 3.0),
        (0.0, 0.0, 3.0, 3.0),
    ]
    report = provenance_report(pool, scorer)
    assert report["provenance"].to_list() == ["teacher", "common", "student", *["common"] * 3]
    assert report["p_teacher"].head(3).to_list() == pytest.approx(p_T.tolist())


def test_one_answer_a_question_wins_and_ties_are_drawn_by_id():
    high, low = (0.9,), (0.1,)
    rows = [
        ("a", "q1", (high, high), (low, low)),
        ("b", "q1", (high, low), (low, low)),
        ("c", "q2", (high,), (low,)),
        ("d", "q2", (high,), (low,)),
        ("e", "q3", (low,), (low,)),
    ]
    scorer = TeacherDivergence(seed=3)
    found = scorer.score(observed(rows, scorer)).sort("id")
    assert found["score"].head(2).to_list() == [2.0, None]
    assert found["reason"][1] == "another_answer_says_more"
    assert found["score"][2:4].null_count() == 1
    assert found["score_tied"].to_list() == [0.0, None, 1.0, 1.0, 0.0]
    backwards = scorer.score(observed(rows[::-1], scorer)).sort("id")
    assert backwards.equals(found)
    winners = {
        s: tuple(
            TeacherDivergence(seed=s)
            .score(observed(rows, scorer))
            .sort("id")["score"][2:4]
            .is_null()
        )
        for s in range(8)
    }
    assert len(set(winners.values())) == 2, "the seed has no say"
    everyone = TeacherDivergence(best=False).score(observed(rows, scorer)).sort("id")
    assert everyone["score"].to_list() == [2.0, 1.0, 1.0, 1.0, 0.0]
    share = TeacherDivergence(best=False, by="share").score(observed(rows, scorer)).sort("id")
    assert share["score"].to_list() == [1.0, 0.5, 1.0, 1.0, 0.0]


def test_rows_that_cannot_be_compared_say_why():
    scorer = TeacherDivergence()
    data = observed([("a", "q", TEACHER, STUDENT), ("b", "r", TEACHER, STUDENT)], scorer).parts[0]
    teacher, student = (s.column for s in scorer.signals)
    other = pl.Series(student, [{"ends": [3], "logprob": [-1.0]}, None], dtype=SENTENCES)
    found = scorer.score(Frames(parts=(data.with_columns(other),))).sort("id")
    assert found["score"].null_count() == 2
    assert found["reason"][0] == "sentences_differ: teacher and student see other texts"
    # a sentence in which one model begins no token is not counted
    ends = data[teacher].to_list()[0]["ends"]
    gap = {"ends": ends, "logprob": [None, -0.7, -0.5]}
    some = pl.Series(student, [gap, gap], dtype=SENTENCES)
    found = scorer.score(Frames(parts=(data.with_columns(some),)))
    assert found["score_sentences"].to_list() == [2.0, 2.0]


def test_the_distilled_model_is_one_more_signal():
    scorer = TeacherDivergence(distilled=True)
    pool = observed([("a", "q", TEACHER, STUDENT)], scorer)
    column = scorer.signals[2].column
    (part,) = pool.parts
    same = part.with_columns(part[scorer.signals[0].column].alias(column))  # as the teacher
    report = scorer.details(Frames(parts=(same,)))
    assert report["provenance"].to_list() == ["teacher", "shared", "student"]
    assert report["p_distilled"].to_list() == report["p_teacher"].to_list()
    assert scorer.score(Frames(parts=(same,)))["score"].to_list() == [1.0]


def test_provenance_with_the_distilled_model():
    teacher = np.array([0.5, 0.9, 0.2, 0.5, 0.5, 0.5])
    student = np.array([0.5, 0.5, 0.6, 0.5, 0.5, np.nan])
    distilled = np.array([0.55, 0.7, 0.3, 0.8, 0.2, 0.5])
    assert provenance(teacher, student, distilled) == [
        "shared",
        "teacher",
        "student",
        "boosted",
        "other",
        "other",
    ]


# --- S2L --------------------------------------------------------------------------------------


def smallest_first(sizes, budget):
    """What each group gives, in the paper's words."""
    given, left = [0] * len(sizes), budget
    order = sorted(range(len(sizes)), key=lambda g: (sizes[g], -g))
    for done, g in enumerate(order):
        given[g] = min(sizes[g], left // (len(sizes) - done))
        left -= given[g]
    return given


def test_any_beginning_of_the_order_is_the_papers_choice():
    rng = np.random.default_rng(0)
    for _ in range(30):
        sizes = rng.integers(1, 9, rng.integers(1, 7)).tolist()
        group = pl.Series(rng.permutation(np.repeat(np.arange(len(sizes)), sizes)))
        place = in_turn(group).to_numpy()
        assert sorted(place) == list(range(len(group)))
        for budget in range(len(group) + 1):
            taken = group.filter(pl.Series(place < budget)).to_numpy()
            assert np.bincount(taken, minlength=len(sizes)).tolist() == smallest_first(
                sizes, budget
            )
        for g in range(len(sizes)):  # within a group, rows keep their order
            assert (np.diff(place[group.to_numpy() == g]) > 0).all()


def trajectory_pool(losses, *, sources=None, seed=0):
    """A pool of trajectories, ids in random order."""
    ids = np.random.default_rng(seed).permutation([f"{i:04}" for i in range(len(losses))])
    names = [f"{S2l().signals[0].column}@{k}" for k in range(losses.shape[1])]
    frame = pl.DataFrame({"id": ids, **{n: losses[:, k] for k, n in enumerate(names)}})
    frame = frame.with_columns(
        source=pl.Series(sources if sources is not None else ["s"] * len(ids)),
        meta=pl.lit(None, dtype=pl.String),
    )
    weights = {"history": tuple([1 / losses.shape[1]] * losses.shape[1])}
    return Frames(parts=(frame.head(30), frame.tail(-30)), weights=weights), ids


def test_all_of_a_rare_type_are_taken():
    rng = np.random.default_rng(1)
    falling, flat = np.array([3.0, 2.0, 1.0]), np.array([3.0, 3.0, 3.0])
    losses = np.stack([*[falling] * 95, *[flat] * 5]) + rng.normal(0, 0.01, (100, 3))
    pool, ids = trajectory_pool(losses)
    found = S2l().score(pool).sort(-pl.col("score"))
    assert sorted(found["score"].to_list()) == [-float(i) for i in range(100, 0, -1)]
    taken = found.head(50)["id"]
    assert set(ids[95:]) <= set(taken)
    again = S2l().score(Frames(parts=(pool.frame().sort("id"),), weights=pool.weights))
    assert again.sort("id").equals(found.sort("id"))


def test_sources_share_the_budget():
    rng = np.random.default_rng(2)
    losses = rng.normal(2, 0.5, (110, 2))
    pool, ids = trajectory_pool(losses, sources=["big"] * 100 + ["small"] * 10)
    found = S2l(by="source").score(pool).sort(-pl.col("score"))
    small = set(ids[100:])
    assert [len(small & set(found.head(n)["id"])) for n in (4, 20, 40)] == [2, 10, 10]
    one = S2l().score(pool).sort(-pl.col("score")).head(20)
    assert len(small & set(one["id"])) < 10


def test_lost_trajectories():
    losses = np.full((40, 2), 1.0)
    losses[3, 1] = np.nan
    pool, _ = trajectory_pool(losses)
    assert S2l().score(pool)["score"].null_count() == 0  # a loss that is no number counts as 0
    first = S2l().signals[0].column + "@0"
    part = pool.parts[0].with_columns(
        pl.when(pl.int_range(pl.len()) > 0).then(pl.col(first)).alias(first)
    )
    lost = S2l().score(Frames(parts=(part, pool.parts[1]), weights=pool.weights))
    assert lost["score"].is_null().to_list() == [True] + [False] * 39


def test_clusters_of_planted_trajectories():
    rng = np.random.default_rng(3)
    kinds = np.repeat(np.arange(4), 50)
    x = np.eye(4)[kinds] * 3 + rng.normal(0, 0.05, (200, 4))
    found = trajectories(x, 4, 20, 0)
    pairs = {(k, c) for k, c in zip(kinds.tolist(), found.tolist(), strict=True)}
    assert len(pairs) == 4
    assert trajectories(x[:9], 4, 20, 0).tolist() == [0] * 9  # too few rows for two clusters


def test_checkpoints_are_spaced():
    paper = Training(epochs=3, learning_rate=2e-5, max_length=512, checkpoints=500)
    kept = {
        rows: len(spaced(paper, rows)[0].published(rows)) for rows in (16, 200, 20_000, 262_000)
    }
    assert kept == {16: 3, 200: 5, 20_000: 8, 262_000: 12}
    assert spaced(paper, 20_000) == (paper, [])
    assert spaced(paper, 200)[1] == ["a checkpoint every 9 steps, not 500: the run has 39 steps."]


def test_the_proxy_is_trained_where_it_is_asked_for(tiny, tmp_path, store):
    rows = [{"messages": chat(f"Q{i}", f"The number {i % 7}.")} for i in range(20)]
    pool = ingest(store, [Source(path=str(write_jsonl(tmp_path / "pool.jsonl", rows)))])
    models = Models(store=store, roles={"proxy": (str(tiny),)})
    scorer = S2l(train=True, training=ProxyTraining(epochs=2, learning_rate=1e-3))
    run = ScoreRun(
        scorer=scorer, dataset=pool, context=RunContext(models=models, passes=Passes(device="cpu"))
    )
    entry = score(run)
    assert sorted(entry.frame()["score"].to_list()) == [-float(i) for i in range(20, 0, -1)]
    assert entry.note["prepared"][0] == "a checkpoint every 1 steps, not 500: the run has 4 steps."
    columns = [e["part"] for e in store.computed() if e["step"] == "observe"]
    assert len(columns) >= 4  # one table a checkpoint


# --- GRACE ------------------------------------------------------------------------------------


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
