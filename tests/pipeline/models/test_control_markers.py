"""Control markers: a template's end a turn, in every family; those that someone typed are text."""

import json

import pytest
from chat_families import FAMILIES, LLAMA_3, QWEN_3
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.pipeline.signals.next_token import JudgePrompt
from gristmill.pipeline.signals.pair_signals import CHOSEN
from gristmill.pipeline.signals.rollouts import Task
from gristmill.pipeline.signals.views import Dialogue, PlainText

CHATS = {name: family.chat() for name, family in FAMILIES.items()}
families = pytest.mark.parametrize("name", FAMILIES)


def record(*contents, tools=None):
    roles = ("user", "assistant")
    turns = [
        {"role": roles[i % 2], "content": text, "extra": None} for i, text in enumerate(contents)
    ]
    return {"messages": turns, "tools": tools}


def shown(encoded, turn):
    """The text of the tokens of a turn."""
    places = [at for at, t in zip(encoded.offsets, encoded.turn, strict=True) if t == turn]
    return encoded.text[places[0][0] : places[-1][1]] if places else ""


def markers(encoded, chat):
    return [i for i in encoded.ids if i in chat.markers.ids]


@families
def test_each_turn_is_its_answer_and_one_end_marker(name):
    chat, end = CHATS[name], FAMILIES[name].end
    e = Dialogue().encode(record("What is it?", "the tea", "And then?", "the end."), chat)
    assert e.reason is None
    assert [shown(e, k).strip() for k in (1, -1, -2)] == ["the tea", end, end]
    assert shown(e, 2).strip().removeprefix("<think>\n\n</think>\n\n") == "the end."
    assert [sum(t == -k for t in e.turn) for k in (1, 2)] == [1, 1]
    named = set(chat.tokenizer.all_special_ids)
    unnamed = end not in chat.tokenizer.all_special_tokens
    assert unnamed == (name in ("gemma-3", "phi-3"))  # which the mask is right for all the same
    assert named <= chat.markers.ids


@families
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_typed_marker_is_text_wherever_it_stands(name, at):
    chat = CHATS[name]
    for marker in FAMILIES[name].special:
        neutral = ["the one", "the two", "the three", "the four"]
        typed = list(neutral)
        typed[at] = f"the {marker} one{marker}"
        plain, e = (Dialogue().encode(record(*said), chat) for said in (neutral, typed))
        assert e.reason is None
        assert markers(e, chat) == markers(plain, chat)
        assert e.text.count(typed[at]) == 1  # as it was typed, and its offsets with it
        places = [(a, b) for (a, b) in e.offsets if b > a]
        assert places == sorted(places)
        assert all(0 <= a < b <= len(e.text) for a, b in places)
        answers = [shown(e, k).strip() for k in (1, 2)]
        assert [a.endswith(t) for a, t in zip(answers, typed[1::2], strict=True)] == [True, True]
        assert [shown(e, -k) for k in (1, 2)] == [FAMILIES[name].end] * 2


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.lists(st.sampled_from(["the ", "a", "\n", "<|", "|>", "é", "[", "MARK"]), max_size=8),
)
def test_all_other_tokens_are_those_that_they_would_have_been(name, parts):
    """The careful way beside the ordinary one, on texts that both read."""
    chat, family = CHATS[name], FAMILIES[name]
    marker = family.special[-1]
    text = "".join(parts).replace("MARK", marker) + "."
    e = Dialogue().encode(record(text, "the end"), chat)
    assert text.strip() in e.text
    assert markers(e, chat) == markers(Dialogue().encode(record(".", "the end"), chat), chat)
    plain = Dialogue().encode(record(text.replace(marker, "it"), "the end"), chat)
    answers = [[i for i, k in zip(one.ids, one.turn, strict=True) if k] for one in (e, plain)]
    assert answers[0] == answers[1]
    rendered = plain.text[: plain.text.rindex(family.end) + len(family.end)]
    ordinary = chat.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    careful, _ = chat.markers.tokenise(rendered + chat.hold(marker), special=False)
    assert careful[: len(ordinary)] == ordinary


def test_markers_in_calls_tools_documents_questions_and_tasks_are_text():
    chat = LLAMA_3.chat()
    end = chat.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    row = record("the <|eot_id|>", "it <|eot_id|> is")
    question = JudgePrompt(label="x", question="Is {text} good?")
    views = [
        (Task(), row, 1),
        (question, row, 1),
        (PlainText(), row, 0),
        (Dialogue(), {"text": "a <|eot_id|> b"}, 0),
        (CHOSEN, row, 2),
    ]
    for view, one, count in views:
        e = view.encode(one, chat)
        assert e.reason is None
        assert list(e.ids).count(end) == count, view.name
        assert "<|eot_id|>" in e.text
    calls = QWEN_3.chat()
    template = calls.template.replace(
        "{{ m.content }}", "{{ m.content }}{{ m.tool_calls | tojson }}"
    )
    row["messages"][1]["extra"] = json.dumps({"tool_calls": [{"name": "<|im_end|>"}]})
    e = Dialogue().encode(row, type(calls)(tokenizer=calls.tokenizer, template=template, limit=500))
    assert shown(e, 1).endswith('[{"name": "<|im_end|>"}]')
    assert shown(e, -1) == "<|im_end|>"


def test_a_local_model_is_asked_without_markers_of_the_user(tiny, store):
    from gristmill.pipeline.models.completion.local import Local
    from gristmill.pipeline.models.completion.requests import Request
    from gristmill.pipeline.models.load import load
    from gristmill.pipeline.models.reference import resolve

    loaded = load(resolve(str(tiny), store), device="cpu")
    end = loaded.chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    asked = Request(id="a", messages=[{"role": "user", "content": "x<|im_end|>y"}])
    assert Local(loaded=loaded)._encode(asked).count(end) == 1


def test_private_characters_are_text_beside_a_typed_marker():
    chat = LLAMA_3.chat()
    for own in (
        "\U000f0000",
        "a\U000f8003b",
        "\U000f0000<|eot_id|>",
        "\U000f0003\U000f0004<|eot_id|>",
    ):
        for view in (Dialogue(), PlainText(), Task()):
            e = view.encode(record(own, "b"), chat)
            assert e.reason is None
            assert own in e.text
            assert own in chat.tokenizer.decode(e.ids)
        e = Dialogue().encode(record(own, "b"), chat)
        assert len(markers(e, chat)) == 7  # BOS, two headers of two, two ends
    everywhere = "".join(map(chr, range(0xF0000, 0x110000))) + "<|eot_id|>"
    assert Dialogue().encode(record(everywhere, "b"), chat).reason.startswith("control_marker")


def test_a_marker_that_is_one_piece_of_the_vocabulary_is_a_reason():
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer

    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0), ("b", -1.0), ("<", -2.0)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    chat = ChatTokenizer(
        tokenizer=tokenizer,
        template="{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
        limit=99,
    )
    assert Dialogue().encode(record("a", "b"), chat).reason is None
    typed = Dialogue().encode(record("a</s>", "b"), chat)
    assert typed.reason == "control_marker_in_text: it is one token of the vocabulary"
