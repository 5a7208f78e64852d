"""Teacher divergence: sentences, golden numbers, provenance, tokenizers that differ"""

import itertools
import math

import numpy as np
import polars as pl
import pytest
import torch
from answers_as_chats import chat
from quality_runs import scored
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.tiny import SPECIAL, TEMPLATE, make_tiny
from gristmill.pipeline.signals.views import Dialogue
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


def pieces(text):
    ends = sentences(text)
    return [text[a:b] for a, b in itertools.pairwise([0, *ends])]


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
    assert found["reason"][0] == "answer_cut: the teacher reads 1,024 tokens"


def test_a_last_answer_that_one_of_the_two_cannot_see_names_it(tiny, tmp_path, store):
    short = make_tiny(tmp_path / "short", 3, context=128)
    first = [*chat("Go on.", "Gladly."), *chat("x" * 200, "At last.")]
    chats = [first, chat("x" * 300, "Late."), chat("a", "B.")]
    rows = [{"messages": messages} for messages in chats]
    found = scored(store, tmp_path, TeacherDivergence(), rows, teacher=tiny, student=short)
    assert found["reason"].to_list() == [
        "answer_cut: the student reads 128 tokens",
        "student_answer_cut",
        None,
    ]


def test_a_sentence_without_a_token_has_no_provenance():
    scorer = TeacherDivergence()
    data = observed([("a", "q", ((0.9,), (0.9,)), ((0.1,), (0.1,)))], scorer).parts[0]
    student = scorer.signals[1].column
    gap = pl.Series(student, [{"ends": [1, 2], "logprob": [-2.0, None]}], dtype=SENTENCES)
    pool = Frames(parts=(data.with_columns(gap),))
    assert scorer.score(pool)["score_sentences"].to_list() == [1]
    assert provenance_report(pool, scorer)["provenance"].to_list() == ["teacher", "other"]
