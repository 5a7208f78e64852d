"""SelectIT: golden numbers, judges by their size, ratings in digits"""

import numpy as np
import pytest
from judged_frames import ANGLES, P, deita_pool, recorded
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.tiny import TEMPLATE
from gristmill.pipeline.signals.next_token import digits, first_tokens
from gristmill.selectors.judged.deita import Deita
from gristmill.selectors.judged.selectit import Selectit, sentence_scores, token_scores

GOLDEN = 1e-5  # the figures have six digits


Q = [0.1, 0.1, 0.2, 0.2, 0.4]


def test_selectit_golden_numbers():
    assert token_scores(np.array([P, Q])).tolist() == pytest.approx(
        [0.410332, 0.267323], abs=GOLDEN
    )
    token_NK = token_scores(np.array([P, Q]))[None]
    assert sentence_scores(token_NK, 0.2)[0] == pytest.approx(0.334050, abs=GOLDEN)
    assert token_scores(np.eye(5)[4:])[0] == pytest.approx(1.278810, abs=GOLDEN)
    every = np.random.default_rng(0).dirichlet(np.full(5, 0.2), 500)
    assert token_scores(every).max() <= 1.278811


def test_selectit_normalises_what_the_judge_gives():
    scorer = Selectit(prompts=2)
    size, one, two = scorer.signals
    half = [p / 2 for p in P]  # the other half of its belief goes to other tokens
    pool = recorded({size.column: [7, 7], one.column: [P, P], two.column: [half, Q]})
    got = scorer.score(pool)["score"].to_list()
    assert got == pytest.approx([0.410332, 0.334050], abs=GOLDEN)
    token = Selectit(prompts=1).score(pool)["score"].to_list()
    assert token == pytest.approx([0.410332, 0.410332], abs=GOLDEN)


def test_selectit_weighs_judges_by_their_parameters():
    scorer = Selectit(prompts=1)
    size, rating = scorer.signals
    sure = [0.0, 0.0, 0.0, 0.0, 1.0]
    columns = {f"{size.column}@{s}": [n] for s, n in enumerate((7, 13, 70))}
    columns |= {f"{rating.column}@{s}": [p] for s, p in enumerate((P, Q, sure))}
    pool = recorded(columns, weights={"judge": (1 / 3, 1 / 3, 1 / 3)})
    out = scorer.score(pool)
    want = (7 * 0.410332 + 13 * 0.267323 + 70 * 1.278810) / 90
    assert out["score"][0] == pytest.approx(want, abs=GOLDEN)
    assert out["score_judge_1"][0] == pytest.approx(0.267323, abs=GOLDEN)


def test_a_row_without_a_rating_moves_no_other():
    scorer = Selectit(prompts=2)
    size, one, two = scorer.signals
    silent = [0.001] * 5
    pool = recorded(
        {
            size.column: [7, None, 7, 7],
            one.column: [P, None, P, P],
            two.column: [P, None, silent, Q],
        }
    )
    out = scorer.score(pool)
    assert out["reason"].to_list() == [None, None, "no_rating", None]
    assert out["score"].is_null().to_list() == [False, True, True, False]
    assert out["score"][3] == pytest.approx(0.334050, abs=GOLDEN)
    with pytest.raises(ValueError, match="number of wordings from 1 to 5"):
        Selectit(prompts=6)


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
