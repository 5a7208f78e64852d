"""Quality selectors: golden numbers and bad input that cross methods, tokenizers and scripts."""

import itertools
import json
import math

import numpy as np
import polars as pl
import pytest
import torch
from conftest import write_jsonl
from test_contract import build, run
from test_judged import ANGLES, P, deita_pool
from test_likelihood_more import chat, observed
from test_nuggets import seen
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames, Given
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import SPECIAL, TEMPLATE, make_tiny
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.signals.next_token import digits, first_tokens
from gristmill.selectors.hidden import _contrast as contrast
from gristmill.selectors.hidden._contrast_classifier import FACTS
from gristmill.selectors.hidden._contrast_set import damaged
from gristmill.selectors.hidden._contrast_training import Training
from gristmill.selectors.hidden.cpqs import Cpqs
from gristmill.selectors.judged._judge import Judge
from gristmill.selectors.judged.ask_llm import AskLlm
from gristmill.selectors.judged.deita import Deita
from gristmill.selectors.judged.nuggets import Nuggets
from gristmill.selectors.judged.selectit import Selectit, token_scores
from gristmill.selectors.judged.solve_rate_filter import SolveRateFilter
from gristmill.selectors.likelihood.grace import Grace, teacher_choice
from gristmill.selectors.likelihood.teacher_divergence import (
    SENTENCES,
    TeacherDivergence,
    provenance_report,
    sentences,
)

GOLDEN = 1e-5  # the figures have six digits
# a small classifier that learns from a few answers
LEARNT = {"form": "slim", "rank": 16, "layers": "last", "learning_rate": 3e-3}


def scored(store, folder, scorer, rows, **roles):
    """Scores in the order of `rows`."""
    pool = ingest(store, [Source(path=str(write_jsonl(folder / "pool.jsonl", rows)))])
    models = Models(store=store, roles={r: (str(path),) for r, path in roles.items()})
    passes = Passes(device="cpu", batch_tokens=2_000)
    made = ScoreRun(scorer=scorer, dataset=pool, context=RunContext(models=models, passes=passes))
    return score(made).frame().sort("row")


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
    scorer = Nuggets(given=Given(reference=("{}", "{}", "{}")))
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


def planted(n, start=0):
    """Answers by kind, to the same prompts: intact, with words shuffled, cut in half."""
    where = ("north", "south", "east", "west")
    intact = [
        chat(f"Where is {i}?", f"It lies {where[i % 4]} of {i}, as one can see.")
        for i in range(start, start + n)
    ]
    frame = pl.DataFrame({"id": [f"{i:03}" for i in range(n)], "messages": intact}).with_columns(
        tools=pl.lit(None, dtype=pl.String)
    )
    kinds = {"intact": intact, "cut": [], "shuffled": []}
    whole = {m[-1]["content"]: len(m[-1]["content"].split()) for m in intact}
    for messages in damaged(frame, 1)["messages"].to_list():
        said = messages[-1]["content"]
        if said not in whole:  # else it is another prompt's
            kinds["cut" if len(said.split()) == 4 else "shuffled"].append(messages)
    assert {len(rows) for rows in kinds.values()} == {n}
    return kinds


def test_one_pass_tells_planted_bad_answers(tiny, tmp_path, store, monkeypatch):
    monkeypatch.setattr(contrast, "LEAST_STEPS", 1)
    marked = {kind: "strong" if kind == "intact" else "weak" for kind in planted(1)}
    given = [{"messages": m, "quality": marked[k]} for k, ms in planted(64).items() for m in ms]
    train = write_jsonl(tmp_path / "contrast.jsonl", given)
    scorer = Cpqs(contrast=str(train), damage="none", training=Training(batch_size=1, **LEARNT))
    unseen = [{"messages": m} for ms in planted(12, start=200).values() for m in ms]
    found = scored(store, tmp_path, scorer, unseen, target=tiny)["score"].to_list()
    for bad in (found[12:24], found[24:]):
        assert auc(found[:12], bad) > 0.9
    (facts,) = (json.loads(p.read_text()) for p in store.root.glob(f"contrast/*/*/{FACTS}"))
    assert facts["steps"] == facts["answers"] == 192  # one pass
    assert facts["auc"] > 0.9  # of prompts that a network has not seen


# --- teacher and student with different tokenizers --------------------------------------------

SAID = "Yes. Number {}!\nSo it is."
SPACED = (  # a space before and behind an answer, as in the templates of Llama 2 and Mistral
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' <|im_end|>' }}{% endif %}{% endfor %}"
)


def other_tokens(path, *, template=TEMPLATE, merges=20, across=True):
    """The tiny model over a vocabulary of its own: pieces of words, or of several (`across`)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    make_tiny(path, seed=4)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = len(SPECIAL) + len(alphabet) + merges
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([f" {SAID.format(i)}" for i in range(10, 60)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
    model = LlamaForCausalLM.from_pretrained(path)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def plain_sentences(place, store, messages):
    """Probability of each sentence under the model's own tokens, in one ordinary pass."""
    files = resolve(str(place), store)
    model = load(files, load_tokenizer(files), device="cpu")
    text = model.chat.render(messages)
    ids, offsets = model.chat.tokenise(text)
    with torch.inference_mode():
        logits_TV = model.model(input_ids=torch.tensor([ids])).logits[0].double()
    logp_TV = logits_TV.log_softmax(-1)
    answer = messages[-1]["content"]
    begin = text.rindex(answer)
    found = []
    for first, last in itertools.pairwise([0, *sentences(answer)]):
        own = []
        for t, (a, b) in enumerate(offsets):
            at = a + len(text[a:b]) - len(text[a:b].lstrip()) if text[a:b].strip() else a
            if begin + first <= at < begin + last:
                own.append(float(logp_TV[t - 1, ids[t]]))
        found.append(math.exp(np.mean(own)) if own else math.nan)
    return np.array(found), [text[a:b] for a, b in offsets]


def test_each_model_reads_sentences_in_its_own_tokens(tiny, tmp_path, store):
    other = other_tokens(tmp_path / "other")
    rows = [chat(f"Question {i}?", SAID.format(i)) for i in range(3)]
    p_T, bytes_ = plain_sentences(tiny, store, rows[0])
    p_S, tokens = plain_sentences(other, store, rows[0])
    assert len(tokens) < len(bytes_)
    assert any(len(sentences(t)) > 1 for t in tokens), "no token reaches into a next sentence"
    # nearly uniform models: a sentence's probability is about one over the vocabulary
    both = np.isfinite(p_S)
    assert both.tolist() == [True, True, False]  # the third begins within a token of the second
    beta = float((p_T - p_S)[both].mean())
    assert ((p_T - p_S) > beta).sum() == 1
    for teacher, student, expected in ((tiny, other, p_T - p_S), (other, tiny, p_S - p_T)):
        scorer = TeacherDivergence(best=False, beta=beta)
        found = scored(
            store, tmp_path, scorer, [{"messages": m} for m in rows],
            teacher=teacher, student=student,
        )  # fmt: skip
        assert found["reason"].null_count() == 3
        first = found.row(0, named=True)
        assert first["score"] == (expected > beta).sum()
        assert first["score_student"] == (expected < -beta).sum()
        assert first["score_sentences"] == 2
    same = scored(
        store, tmp_path, TeacherDivergence(best=False), [{"messages": m} for m in rows],
        teacher=other, student=other,
    )  # fmt: skip
    assert same.select("score", "score_common").rows() == [(0, 2)] * 3


def test_white_space_of_a_template_is_no_other_text(tiny, tmp_path, store):
    spaced = other_tokens(tmp_path / "spaced", template=SPACED, across=False)
    rows = [{"messages": chat(f"Question {i}?", SAID.format(i))} for i in range(3)]
    scorer = TeacherDivergence(best=False)
    found = scored(store, tmp_path, scorer, rows, teacher=spaced, student=tiny)
    assert found["reason"].to_list() == [None] * 3
    assert found["score_sentences"].to_list() == [3] * 3


def test_answers_cut_at_different_places_are_not_compared(tiny, tmp_path, store):
    other = other_tokens(tmp_path / "other")
    long = " ".join(SAID.format(i) for i in range(60))  # over 1,024 bytes, fewer tokens
    rows = [{"messages": chat("Go on.", answer)} for answer in (long, SAID.format(1))]
    found = scored(store, tmp_path, TeacherDivergence(), rows, teacher=tiny, student=other)
    assert found["score"].is_null().to_list() == [True, False]
    assert found["reason"][0] == "sentences_differ: teacher and student see other texts"


def test_a_sentence_without_a_token_has_no_provenance():
    scorer = TeacherDivergence()
    data = observed([("a", "q", ((0.9,), (0.9,)), ((0.1,), (0.1,)))], scorer).parts[0]
    student = scorer.signals[1].column
    gap = pl.Series(student, [{"ends": [1, 2], "logprob": [-2.0, None]}], dtype=SENTENCES)
    pool = Frames(parts=(data.with_columns(gap),))
    assert scorer.score(pool)["score_sentences"].to_list() == [1]
    assert provenance_report(pool, scorer)["provenance"].to_list() == ["teacher", "other"]


# --- bad input through whole runs -------------------------------------------------------------

SCRIPTS = (
    "\u5bd2\u3044\u3067\u3059\u3002\u306f\u3044\u3002",  # Japanese, whose stops no space follows
    "\u0646\u0639\u0645. \u0644\u0627.",  # Arabic, from right to left
    "\u0939\u093e\u0901\u0964 \u0928\u0939\u0940\u0902\u0964",  # Hindi, with combining marks
    "\U0001f44d\U0001f3fd \U0001f469\u200d\U0001f52c",  # signs of several code points
    "e\u0301te\u0301\u00a0!\u2028Oui.",  # decomposed accents, other white space
)
ONE = ("4", "a", "?", "\u00e9")  # one token, or two bytes
# what a row of the toy pool may be refused for, by methods that grade or compare rows
ALLOWED = {
    "deita": {"near_a_better_row"},
    "solve_rate_filter": {"always_right", "always_wrong", "no_verifiable_answer"},
    "uncertainty_consistency": {"one_sided", "no_spread", "no_verifiable_answer"},
}
UNASKED = {  # methods that need a question beside the answer
    "deita": "empty_text",
    "selectit": "empty_text",
    "solve_rate_filter": "empty_text",
    "uncertainty_consistency": "empty_prompt",
}
QUALITY = (
    "ask_llm", "cpqs", "deita", "grace", "nuggets", "s2l", "selectit", "solve_rate_filter",
    "teacher_divergence", "uncertainty_consistency",
)  # fmt: skip


@pytest.mark.parametrize("method", QUALITY)
def test_other_scripts_and_answers_of_one_token(method, tiny, tmp_path):
    rows = [
        {"id": f"s{i}", "messages": chat(f"{i}? {text}", text)} for i, text in enumerate(SCRIPTS)
    ]
    rows += [{"id": f"o{i}", "messages": chat(f"Say {i}", text)} for i, text in enumerate(ONE)]
    rows.append({"id": "bare", "messages": [{"role": "assistant", "content": "B"}]})
    found = run(tmp_path / "run", tiny, build(method), rows, kind="example").sort("row")
    assert found.height == len(rows)
    assert found["score"].is_null().to_list() == found["reason"].is_not_null().to_list()
    *reasons, alone = found["reason"].to_list()
    assert alone == UNASKED.get(method)
    assert {r.partition(":")[0] for r in reasons if r} <= ALLOWED.get(method, set())


def test_a_judge_that_says_something_else_scores_nothing(tiny, tmp_path, store):
    """The tiny model gives each of its 259 tokens about the same: a few of them have little."""
    rows = [{"messages": chat(f"Question {i}?", "Yes."), "right": [1, 0]} for i in range(3)]
    settings = {"judge": Judge(least_mass=0.5)}
    for scorer, reason in (
        (AskLlm(**settings), "neither_yes_nor_no"),
        (Selectit(**settings), "no_rating"),
        (Deita(**settings), "no_rating"),
        (SolveRateFilter(outcomes="right", **settings), "neither_yes_nor_no"),
    ):
        found = scored(store, tmp_path, scorer, rows, judge=tiny, embedder=tiny)
        assert found["score"].null_count() == 3, type(scorer).__name__
        assert found["reason"].unique().to_list() == [reason]


def test_answers_shorter_than_the_kernels(tiny, tmp_path, store):
    marked = {"intact": "strong", "cut": "weak", "shuffled": "weak"}
    given = [{"messages": m, "quality": marked[k]} for k, ms in planted(4).items() for m in ms]
    train = write_jsonl(tmp_path / "contrast.jsonl", given)
    made = Cpqs(contrast=str(train), damage="none", training=Training(span="answer", **LEARNT))
    said = ("4", "42", "421", "four hundred")
    rows = [{"messages": chat("How many?", text)} for text in said]
    found = scored(store, tmp_path, made, rows, target=tiny)
    assert found["score_tokens"].to_list() == [1, 2, 3, 12]
    assert found["score"].is_between(0, 1).to_list() == [True] * 4  # filled up with zeros
    (place,) = store.root.glob("contrast/*/classifier")
    short = Cpqs(classifier=str(place), shortest=3)
    found = scored(store, tmp_path, short, rows, target=tiny)
    assert found["reason"].to_list() == [*["answer_too_short"] * 2, None, None]
