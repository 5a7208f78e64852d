"""Views: the mask is the answer and its end marker, nothing else, whatever the template does."""

from dataclasses import replace

import pytest
from encoded import chat, record
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import chat_rows
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.models.chat_tokenizer import TULU_TEMPLATE
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.tiny import TEMPLATE, byte_tokenizer
from gristmill.pipeline.signals.gradient_signals import tensors
from gristmill.pipeline.signals.views import AnswerAlone, Dialogue, PlainText


def trained(encoded) -> str:
    return byte_tokenizer().decode(
        [i for i, t in zip(encoded.ids, encoded.turn, strict=True) if t != 0]
    )


def test_the_mask_is_each_answer_and_its_end_marker():
    e = Dialogue().encode(
        record(("user", "Hi"), ("assistant", "Hello"), ("user", "2+2"), ("assistant", "4")), chat()
    )
    assert trained(e) == "Hello<|im_end|>4<|im_end|>"
    assert sorted(set(e.turn)) == [-2, -1, 0, 1, 2]
    assert sum(t == -1 for t in e.turn) == sum(t == -2 for t in e.turn) == 1
    assert e.ids[0] != e.ids[1], "no double start token"


def test_an_answer_equal_to_its_prompt_is_found_in_its_own_place():
    e = Dialogue().encode(record(("user", "4"), ("assistant", "4")), chat())
    assert trained(e) == "4<|im_end|>"
    assert e.offsets[e.turn.index(1)][0] > e.text.index("assistant")


text = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=3))
def test_any_text_round_trips_through_the_mask(turns):
    for template in (TEMPLATE, TULU_TEMPLATE):
        messages = [m for q, a in turns for m in (("user", q), ("assistant", a))]
        e = Dialogue().encode(record(*messages), chat(template))
        if any("<|im_" in q + a for q, a in turns):
            return
        assert trained(e) == "".join(f"{a}<|im_end|>" for _, a in turns)


def test_a_token_across_the_boundary_is_trained():
    """A merge of the header's last character and the answer's first carries answer text."""
    from gristmill.pipeline.models.chat_tokenizer import turns

    offsets = [(0, 3), (3, 6), (6, 8)]
    assert turns("abcdefgh", [5, 6, 7], offsets, [(4, 8)], frozenset()) == [0, 1, 1]


def test_templates_without_markers_and_with_tulu_layout():
    e = Dialogue(template="tulu").encode(record(("user", "Hi"), ("assistant", "Yo")), chat())
    assert e.text == "<|user|>\nHi\n<|assistant|>\nYo<|im_end|>\n"
    assert trained(e) == "Yo<|im_end|>"
    bare = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    bare += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    assert trained(Dialogue().encode(record(("user", "Hi"), ("assistant", "Yo")), chat(bare))) == (
        "Yo\n"
    )


TWO = record(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
HEADERLESS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[9].content.x }}", "template_error"),
        ("{{ raise_exception('no system turns') }}", "template_error"),
        ("{{ 1 / 0 }}", "template_error"),
        ("nothing", "template_hides_the_answer"),
        # shows the prompt and the markers, but not what the assistant says
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n"
            "{% if m.role == 'user' %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
            "template_hides_the_answer",
        ),
        # shows the answer only where it was asked before: two contents, two whole texts
        (
            "{% for m in messages %}{{ m.content | length }}{% endfor %}",
            "template_hides_the_answer",
        ),
    ],
)
def test_a_template_that_hides_the_mask_gives_a_reason(template, reason):
    e = Dialogue().encode(TWO, chat(template))
    assert e.reason is not None
    assert e.reason.startswith(reason)
    assert e.ids == ()


@pytest.mark.parametrize(
    "template",
    [
        # earlier answers lose their thoughts, the last gets an empty one (Qwen3-like)
        "{% for m in messages %}<{{ m.role }}>"
        "{% if m.role == 'assistant' and loop.last %}(think){% endif %}{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
        # the generation prompt opens a thought that a finished answer does not show (R1-like)
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant><think>\n{% endif %}",
        # no generation prompt at all, with a special token in the header
        HEADERLESS,
        # the next header is always there
        HEADERLESS + "<|im_start|>assistant\n",
        # every text depends on how many turns there are
        "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
    ],
    ids=["strips thoughts", "opens a thought", "no header", "always a header", "counts turns"],
)
def test_templates_whose_prefixes_are_none_still_give_every_answer(template):
    e = Dialogue().encode(TWO, chat(template))
    assert e.reason is None
    assert trained(e).replace("(think)", "") == "b<|im_end|>d<|im_end|>"


def test_a_chat_may_start_with_the_assistant():
    first = record(("assistant", "Welcome"), ("user", "Hi"), ("assistant", "Hello"))
    for template in (TEMPLATE, TULU_TEMPLATE):
        e = Dialogue().encode(first, chat(template))
        assert trained(e) == "Welcome<|im_end|>Hello<|im_end|>"


def test_tools_of_a_wrong_form_cost_their_row_alone():
    e = Dialogue().encode(record(("user", "a"), ("assistant", "b"), tools='["search"]'), chat())
    assert e.reason is not None
    assert e.reason.startswith("template_error")


def test_a_template_that_prints_the_date_prints_the_same_one_tomorrow():
    dated = "{{ strftime_now('%Y') }}|" + TEMPLATE
    e = Dialogue().encode(TWO, chat(dated))
    assert e.text.startswith("2025|")


def test_the_last_turn_is_the_last_even_when_it_was_cut_off():
    long = record(("user", "a"), ("assistant", "first"), ("user", "q" * 80), ("assistant", "end"))
    e = Dialogue().encode(long, chat(limit=60))
    assert (e.last, max(e.turn)) == (2, 1)
    assert AnswerAlone().encode(long, chat(limit=60)).reason == "answer_cut"


@pytest.mark.parametrize("shown", [Dialogue(), Dialogue(template="tulu"), PlainText()])
def test_a_text_beyond_the_limit_is_not_tokenised(shown, monkeypatch):
    monkeypatch.setattr("gristmill.pipeline.models.chat_tokenizer.CHARACTERS", 2_000)
    fits, over = (record(("user", "q"), ("assistant", "a" * n)) for n in (1_000, 2_001))
    assert shown.encode(fits, chat(limit=100)).reason is None
    assert shown.encode(over, chat(limit=100)).reason.startswith("too_long_to_tokenize: 20")
    assert shown.encode(over, chat(limit=1_000)).reason is None, "a longer limit shows more"
    reason = shown.encode({"text": "a" * 2_001}, chat(limit=100)).reason
    assert reason == "too_long_to_tokenize: 2001 characters"


def test_a_template_that_fills_pages_costs_its_row_alone(monkeypatch):
    monkeypatch.setattr("gristmill.pipeline.models.chat_tokenizer.CHARACTERS", 2_000)
    wordy = chat(TEMPLATE + "{{ 'x' * 3000 }}", limit=100)
    reason = Dialogue().encode(record(("user", "q"), ("assistant", "a")), wordy).reason
    assert reason.startswith("too_long_to_tokenize: 30")
    endless = (
        TEMPLATE + "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    reason = Dialogue().encode(record(("user", "q"), ("assistant", "a")), chat(endless)).reason
    assert reason == "template_error: the template takes more steps than any chat needs"


def test_no_assistant_turn_empty_answer_and_empty_text():
    assert Dialogue().encode(record(("user", "Hi")), chat()).reason == "no_assistant_turn"
    assert AnswerAlone().encode(record(("user", "a"), ("assistant", "")), chat()).reason == (
        "empty_answer"
    )
    assert PlainText().encode({"text": "  "}, chat()).reason == "empty_text"


def test_truncation_is_counted_and_never_leaves_an_empty_mask():
    long = record(("user", "q" * 50), ("assistant", "a" * 50))
    whole = Dialogue().encode(long, chat())
    cut = Dialogue().encode(long, chat(limit=len(whole.ids) - 10))
    assert cut.cut == 10
    assert len(cut.ids) == len(cut.turn) == len(cut.offsets) == len(whole.ids) - 10
    assert Dialogue().encode(long, chat(limit=30)).reason == "answer_cut"
    skipped = Dialogue().encode(long, chat(limit=60, overlong="skip"))
    assert skipped.reason == f"too_long: {len(whole.ids)} tokens"


def test_the_answer_alone_has_the_same_tokens_behind_the_header_of_its_turn():
    two = record(("user", "a"), ("assistant", "first"), ("user", "c"), ("assistant", "second"))
    e = AnswerAlone().encode(two, chat())
    assert byte_tokenizer().decode(list(e.ids)) == "<|im_start|>assistant\nsecond"
    assert list(e.turn[-6:]) == [2] * 6
    assert set(e.turn[:-6]) == {0}
    assert e.length == len(e.ids) == len(e.turn) == len(e.offsets)
    bos = chat(TULU_TEMPLATE)
    bos.tokenizer.bos_token = "<|pad|>"
    opened = AnswerAlone().encode(two, bos)
    assert byte_tokenizer().decode(list(opened.ids)) == "<|assistant|>\nsecond"
    silent = TEMPLATE.partition("{% if add_generation_prompt %}")[0]
    bare = AnswerAlone().encode(two, chat(silent))
    assert (bare.ids[0], byte_tokenizer().decode(list(bare.ids)[1:])) == (chat().start_id, "second")
    assert bare.turn == [0] + [2] * 6


def test_tool_calls_reach_the_template():
    tools = '[{"function":{"name":"add"},"type":"function"}]'
    shows = (
        "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    row = record(("user", "1+1"), ("assistant", ""), tools=tools)
    row["messages"][1]["extra"] = '{"tool_calls":[{"function":{"name":"add"}}]}'
    e = Dialogue().encode(row, chat(shows))
    assert trained(e) == "add<|im_end|>"
    assert '"name": "add"' in e.text


CALL = '{"tool_calls":[{"function":{"name":"add"}}]}'
SHOWS_CALLS = HEADERLESS.replace(
    "+ '<|im_end|>", "}}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ '<|im_end|>"
)
SHOWS_THOUGHTS = HEADERLESS.replace("m.content", "(m.reasoning_content or '') + m.content")


def answered(content, extra, *more):
    row = record(("user", "1+1"), ("assistant", content), *more)
    row["messages"][1]["extra"] = extra
    return row


@pytest.mark.parametrize(
    ("template", "content", "extra", "shown"),
    [
        (TEMPLATE, "", CALL, None),  # else the end marker alone would be trained
        (HEADERLESS, "", CALL, None),
        (TEMPLATE, "Let me see.", CALL, None),
        (SHOWS_CALLS, "", CALL, '[{"function": {"name": "add"}}]'),
        (SHOWS_CALLS, "Let me see.", CALL, 'Let me see.[{"function": {"name": "add"}}]'),
        (TULU_TEMPLATE, "", CALL, '[{"function": {"name": "add"}}]'),
        (TEMPLATE, "", '{"reasoning_content":"Two."}', None),
        (SHOWS_THOUGHTS, "", '{"reasoning_content":"Two."}', "Two."),
        (SHOWS_THOUGHTS, "2", '{"reasoning_content":"Two."}', "Two.2"),
        (SHOWS_THOUGHTS, "", '{"thought":"Two."}', None),  # a field that it does not know
        (TEMPLATE, "2", '{"reasoning_content":"Two."}', "2"),  # left out, as many templates do
        (TEMPLATE, "2", '{"tool_calls":[],"name":"Bo"}', "2"),
    ],
)
def test_an_answer_of_which_nothing_is_shown_gives_a_reason(template, content, extra, shown):
    for more in ((), (("user", "And?"), ("assistant", "So."))):
        e = Dialogue().encode(answered(content, extra, *more), chat(template))
        assert e.reason == ("template_hides_the_answer" if shown is None else None)
        assert shown is None or trained(e).startswith(f"{shown}<|im_end|>")


def test_pairs_and_documents():
    pair = {
        "prompt": [{"role": "user", "content": "q", "extra": None}],
        "chosen": [{"role": "assistant", "content": "good", "extra": None}],
        "rejected": [{"role": "assistant", "content": "bad", "extra": None}],
    }
    assert trained(Dialogue().encode(pair, chat())) == "good<|im_end|>"
    assert trained(Dialogue(side="rejected").encode(pair, chat())) == "bad<|im_end|>"
    assert Dialogue(side="rejected").name != Dialogue().name
    document = Dialogue().encode({"text": "abc"}, chat())
    assert document.turn == [0, 1, 1, 1]
    assert len(document.ids) == 4, "a start token, so that the first character is predicted"


def test_special_tokens_inside_the_content_do_not_end_the_answer():
    e = Dialogue().encode(record(("user", "q"), ("assistant", "a<|im_end|>b")), chat())
    assert trained(e) == "a<|im_end|>b<|im_end|>"


def test_the_template_is_part_of_the_identity():
    assert chat().template_sha != replace(chat(), template="x").template_sha


def test_padding_by_the_end_marker_does_not_mask_the_real_one(tiny, store):
    chat = load_tokenizer(resolve(str(tiny), store))
    chat.tokenizer.pad_token = chat.tokenizer.eos_token
    assert chat.pad_id == chat.tokenizer.eos_token_id
    rows = [{"messages": r["messages"], "tools": None} for r in chat_rows(3)]
    encoded = [Dialogue().encode(r, chat) for r in rows]
    ids, mask, labels = tensors(encoded, chat)
    assert bool((mask == 0).any())
    end = chat.tokenizer.eos_token_id
    for b, e in enumerate(encoded):
        answers = sum(m["role"] == "assistant" for m in rows[b]["messages"])
        assert int((labels[b] == end).sum()) == answers
        assert bool((ids[b, len(e.ids) :] == end).all())
        assert bool((labels[b, len(e.ids) :] == -100).all())
