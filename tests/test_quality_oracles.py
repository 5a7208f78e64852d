"""Quality selectors: golden numbers and bad input that cross methods, tokenizers and scripts."""

import itertools

import numpy as np
import polars as pl
import pytest
from conftest import write_jsonl
from test_judged import ANGLES, P, deita_pool
from test_likelihood_more import chat, observed
from test_nuggets import seen
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.contrast_set import damaged
from gristmill.pipeline.ingest import Source, ingest
from gristmill.pipeline.judging import digits, first_tokens
from gristmill.pipeline.models.encoding import ChatTokenizer
from gristmill.pipeline.models.tiny import TEMPLATE
from gristmill.pipeline.observe import Models, Passes
from gristmill.pipeline.ranks import auc
from gristmill.pipeline.score import ScoreRun, score
from gristmill.selectors.hidden.cpqs import Cpqs
from gristmill.selectors.judged.deita import Deita
from gristmill.selectors.judged.nuggets import Nuggets
from gristmill.selectors.judged.selectit import token_scores
from gristmill.selectors.likelihood.grace import Grace, teacher_choice
from gristmill.selectors.likelihood.teacher_divergence import (
    TeacherDivergence,
)

GOLDEN = 1e-5  # the figures have six digits
ROUNDING = 1e-5  # nats: a mean of float32 losses


def scored(store, folder, scorer, rows, **roles):
    """Scores in the order of `rows`."""
    pool = ingest(store, [Source(path=str(write_jsonl(folder / "pool.jsonl", rows)))])
    models = Models(store=store, roles={r: (str(path),) for r, path in roles.items()})
    passes = Passes(device="cpu", batch_tokens=2_000)
    made = ScoreRun(scorer=scorer, dataset=pool, models=models, passes=passes)
    return score(store, made).frame().sort("row")


# --- golden numbers ---------------------------------------------------------------------------


def test_selectits_second_softmax():
    printed = np.array([0.169388, 0.169388, 0.178073, 0.217498, 0.265653])
    (token,) = token_scores(np.array([P]))
    best = (4 * token / 5 + 1) / 5  # t = 5 (5 q_b - 1) / 4, solved for q_b
    assert best == pytest.approx(printed[4], abs=GOLDEN)
    assert token == pytest.approx(5 * (printed[4] - printed).sum() / 4, abs=2 * GOLDEN)
    one = token_scores(np.array([[0.5, 0.3, 0.1, 0.05, 0.05]]))  # the same lead, rated 1
    assert one == pytest.approx(token / 5)


def test_equal_beliefs_in_digits_expect_three_and_a_half():
    scorer = Deita(turns=1, threshold=0.9)
    equal = [[[0.04] * 6]] * 4  # most of the judge's belief goes elsewhere
    out = scorer.score(deita_pool(scorer, equal, equal, ANGLES))
    assert out["score_complexity"].to_list() == pytest.approx([3.5] * 4)
    assert out["score_quality"].to_list() == pytest.approx([3.5] * 4)
    assert out["score_evol"].to_list() == pytest.approx([3.5**2] * 4)


def test_digits_behind_a_space_of_their_own():
    """As in Llama's vocabulary: "1" alone is a lone space and "1"; the digit is what is read."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "▁", *"123456"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    judge = ChatTokenizer(tokenizer=tokenizer, template=TEMPLATE, limit=64)
    assert judge.tokenise("1")[0] == [1, 2]
    assert first_tokens(judge, digits(6)) == [[2], [3], [4], [5], [6], [7]]


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


def test_an_anchor_that_gains_nothing_is_not_won():
    scorer = Nuggets().bound(("{}", "{}", "{}"))
    told = [
        {"anchor": [0, 1, 2], "gain": gain, "floor": [0.0, 0.0, 0.0]}
        for gain in ([0.0, 0.0, 0.0], [0.0, 1e-9, -1e-9])
    ]
    out = scorer.score(seen(scorer, ("same", told[0]), ("other", told[1])))
    assert out["score"].to_list() == pytest.approx([0, 1 / 3])
    assert out["score_floor"].to_list() == [0, 0]


def test_answers_with_nothing_of_the_teachers_are_drawn_and_marked():
    even = ((0.5,), (0.5,))
    rows = [(i, "q", even, even) for i in "abc"]
    winners = set()
    for seed in range(12):
        scorer = TeacherDivergence(seed=seed)
        found = scorer.score(observed(rows, scorer)).sort("id")
        (won,) = found.drop_nulls("score").to_dicts()
        assert (won["score"], won["score_tied"]) == (0, 1)
        assert found["reason"].drop_nulls().to_list() == ["another_answer_says_more"] * 2
        winners.add(won["id"])
    assert len(winners) > 1, "the seed has no say"


# --- CPQS: planted bad answers ----------------------------------------------------------------

VERBS = ("holds", "takes", "gives", "needs")
PLACES = ("north", "south", "east", "west")


def plain_answers(n, start=0):
    """Answers of one shape, each with words of its own."""
    return [
        chat(f"Question {i}?", f"It {VERBS[i % 4]} {i} of them. They lie to the {PLACES[i // 4 % 4]}, "
             "as one can see here. That is all there is to say.")
        for i in range(start, start + n)
    ]  # fmt: skip


def test_planted_bad_answers_rank_below_intact_ones(tiny, tmp_path, store):
    intact = plain_answers(24, start=200)
    frame = pl.DataFrame(
        {"id": [f"{i:02}" for i in range(24)], "messages": intact, "tools": [None] * 24},
        schema_overrides={"tools": pl.String},
    )
    planted = [m for m in damaged(frame, 1)["messages"].to_list() if len(m[-1]["content"]) != 0]
    whole = {m[-1]["content"] for m in intact}
    planted = [m for m in planted if m[-1]["content"] not in whole]  # shuffled and cut ones
    rows = [{"messages": m, "quality": "strong"} for m in plain_answers(48)]
    train = write_jsonl(tmp_path / "strong.jsonl", rows)
    scorer = Cpqs(contrast=str(train), damage="alone", learning_rate=1e-3)
    pool = [{"messages": m} for m in [*intact, *planted]]
    found = scored(store, tmp_path, scorer, pool, target=tiny)["score"].to_list()
    cut, shuffled = [], []
    for value, messages in zip(found[24:], planted, strict=True):
        words = messages[-1]["content"].split()
        (cut if len(words) < 12 else shuffled).append(value)
    assert (len(cut), len(shuffled)) == (24, 24)
    assert auc(found[:24], shuffled) > 0.9
    assert auc(found[:24], cut) > 0.9
