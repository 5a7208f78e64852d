"""What a record says: whatever is published was read by the cleaners, and nothing hides the rest."""

import json
from typing import Any

import polars as pl
import pytest
from clean_records import records, turn
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from gristmill.pipeline.clean.decontaminate import decontaminate
from gristmill.pipeline.clean.exact import exact_duplicates
from gristmill.pipeline.clean.filters import Filter
from gristmill.pipeline.clean.filters.language import Language
from gristmill.pipeline.clean.filters.length import Length
from gristmill.pipeline.clean.filters.pii import Pii
from gristmill.pipeline.clean.filters.prose import Prose
from gristmill.pipeline.clean.filters.refusal import Refusal
from gristmill.pipeline.clean.filters.repetition import Repetition
from gristmill.pipeline.clean.filters.secrets import Secrets
from gristmill.pipeline.clean.filters.toxicity import Toxicity
from gristmill.pipeline.clean.filters.where import Where
from gristmill.pipeline.clean.near_duplicates import MinHash, near_duplicates
from gristmill.pipeline.export.views import views
from gristmill.pipeline.ingest import chat_formats as dialogue
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.tiny import TEMPLATE, byte_tokenizer
from gristmill.pipeline.records.schema import Kind, canonical_json
from gristmill.pipeline.records.text import message_text, texts, whole
from gristmill.pipeline.signals.views import PlainText

ADDRESS = "ann.lee@somewhere.org"
KEY = "AKIA" + "IOSFODNN7ABCDEFG"
PUZZLE = (
    "A baker makes twelve trays of rolls each morning and every tray holds twenty rolls how many "
    "rolls does she make in one week of seven days"
)
# The names that calls and tools are made of: form, not text.
FORM = {"tool_calls", "function", "arguments", "name", "type", "id", "reasoning_content"}

word = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | word | st.builds(json.dumps, word),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(word, inner, max_size=3),
    max_leaves=8,
)
NAMES = ("content", "role", "from", "value", "extra", "name", "reasoning_content", "tool_calls")
extras = st.dictionaries(st.sampled_from(NAMES) | word, json_value, max_size=4)


def strings(value: Any) -> list[str]:
    """Texts and keys of a JSON value, by plain recursion."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [s for item in value for s in strings(item)]
    if isinstance(value, dict):
        return [k for k in value if k not in FORM] + [s for v in value.values() for s in strings(v)]
    return []


def shipped(frame: pl.DataFrame, kind: Kind) -> tuple[list[dict[str, Any]], Any]:
    """Turns and tools as readers of the published data set get them."""
    (view, *_) = views(kind, sft_view="messages", pair_views=(), tools="tools" in frame.columns)
    (row,) = view.table(frame, {}, rich=True).to_pylist()
    turns = [json.loads(t) for column in view.lists for t in row[column]]
    return turns, json.loads(row.get("tools") or "null")


@settings(max_examples=100, deadline=None)
@given(word, extras, extras, st.booleans(), st.none() | json_value)
def test_what_is_published_is_what_cleaners_read(content, first, second, ingested, tools) -> None:
    def made(role: str, extra: dict[str, Any]) -> dict[str, Any]:
        packed = turn(role, content + "x", canonical_json(extra))
        try:
            return dict(dialogue.messages([packed])[0]) if ingested else packed
        except BadRow:  # what is set aside is not published
            reject()

    asked, answered, other = made("user", first), made("assistant", second), made("assistant", {})
    example = {
        "messages": [asked, answered],
        "tools": None if tools is None else canonical_json(tools),
    }
    pair = {
        "prompt": [asked],
        "chosen": [answered],
        "rejected": [other],
        "tools": example["tools"],
    }
    rows: tuple[tuple[Kind, dict[str, Any]], ...] = (("example", example), ("pair", pair))
    for kind, row in rows:
        frame = records(kind, [row])
        text = texts(frame, "all")[0]
        turns, offered = shipped(frame, kind)
        for message in turns:
            assert message.pop("role") in ("user", "assistant")
            assert message.pop("content") == content + "x"
        for leaf in strings([turns, offered]):
            assert leaf in text


@settings(max_examples=100, deadline=None)
@given(extras, st.data())
def test_private_data_is_found_wherever_it_is_published(extra, draw) -> None:
    name = draw.draw(st.sampled_from(NAMES) | word)
    form = draw.draw(st.sampled_from(["{}", "[{}]", "{{{}: 1}}", '{{"a": [0, {}]}}']))
    planted = json.loads(form.format(json.dumps(ADDRESS)))
    message = turn("assistant", "Fine.", canonical_json({**extra, name: planted}))
    frame = records("example", [{"messages": [turn("user", "Q"), message], "tools": None}])
    published = any(ADDRESS in s for s in strings(shipped(frame, "example")[0]))
    assert published == (name not in ("content", "role", "from", "value", "extra"))
    assert (Pii(kinds=("email",)).reasons(frame)[0] is not None) == published


@pytest.mark.parametrize("packed", ['{"role":"user","content":"poison"}', {"content": "poison"}])
def test_no_extra_field_replaces_role_or_content(packed) -> None:
    raw = {"role": "assistant", "content": "Fine.", "extra": packed}
    assert dialogue.messages([raw]) == [dialogue.turn("assistant", "Fine.")]
    stored = turn("assistant", "Fine.", '{"content":"poison","role":"system","n":1}')
    assert whole(stored) == {"role": "assistant", "content": "Fine.", "n": 1}
    chat = ChatTokenizer(tokenizer=byte_tokenizer(), template=TEMPLATE, limit=99)
    assert "poison" not in chat.render([stored])
    assert "<|im_start|>assistant\nFine." in chat.render([stored])


def test_an_extra_that_is_no_object_costs_its_row() -> None:
    for packed in ("[1]", '"text"', "not JSON", ["a"], 3):
        with pytest.raises(BadRow, match="bad_field: extra"):
            dialogue.messages([{"role": "user", "content": "Q", "extra": packed}])
    said_by_ours = {"role": "user", "content": "Q", "extra": '{"name":"Ann"}', "name": "Bea"}
    assert dialogue.messages([said_by_ours])[0]["extra"] == '{"name":"Bea"}'


def calling(arguments: Any, content: str = "", **further: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "act", "arguments": arguments}}
    return turn("assistant", content, canonical_json({"tool_calls": [call], **further}))


def chat(*answers: dict[str, Any], question: str = "Go on.", tools: Any = None) -> pl.DataFrame:
    asked = turn("user", question)
    return records(
        "example",
        [
            {"messages": [asked, a], "tools": canonical_json(tools) if tools else None}
            for a in answers
        ],
    )


HIDDEN: list[tuple[Filter, str, Any]] = [
    (Pii(), "pii: email", ADDRESS),
    (Pii(), "pii: iban", "DE89370400440532013000"),
    (Pii(), "pii: card", 4111111111111111),
    (Secrets(), "secret: aws_key", KEY),
    (Toxicity(), "toxicity", "you are a stupid piece of shit, shut the fuck up"),
]


@pytest.mark.parametrize(("rule", "why", "planted"), HIDDEN, ids=[h[1] for h in HIDDEN])
def test_filters_read_reasoning_calls_names_and_tools(rule, why, planted) -> None:
    escaped = json.dumps({"to": planted}).replace("@", "\\u0040")
    places = [
        calling({"to": planted}),
        calling(escaped),  # arguments as JSON text
        calling({str(planted): True}),
        turn("assistant", "Done.", canonical_json({"reasoning_content": f"It is {planted} then."})),
        turn("assistant", "Done.", canonical_json({"name": planted})),
    ]
    assert rule.reasons(chat(*places)).to_list() == [why] * len(places)
    tools = [{"type": "function", "function": {"name": "mail", "description": f"For {planted}"}}]
    assert rule.reasons(chat(turn("assistant", "Done."), tools=tools)).to_list() == [why]
    assert rule.reasons(chat(turn("assistant", "Done."), calling({"to": "Bo"}))).null_count() == 2


def test_benchmark_items_are_found_in_reasoning_calls_and_tools() -> None:
    items = pl.DataFrame({"benchmark": ["bake"], "item": ["0"], "text": [PUZZLE]})
    rows = chat(
        turn("assistant", "1680", canonical_json({"reasoning_content": f"Asked: {PUZZLE}."})),
        calling({"question": PUZZLE}),
        calling(json.dumps({"question": PUZZLE.replace(" ", "\n")})),
        calling({"question": "Which rolls?"}),
    )
    gone, _ = decontaminate([rows], items)
    assert gone["row"].to_list() == [0, 1, 2]
    assert set(gone["reason"]) == {"contaminated: bake"}
    (tooled,) = [chat(turn("assistant", "Fine."), tools=[{"description": PUZZLE}])]
    assert decontaminate([tooled], items)[0].height == 1


def test_rows_that_differ_in_their_call_are_no_duplicates() -> None:
    question = "Please book the trip that we talked about yesterday evening for me"
    trips = [("Oslo", 3), ("Lima", 9), ("Perth", 1), ("Oslo", 3)]
    calls = [calling({"city": city, "days": days}) for city, days in trips]
    calls += [calling(json.dumps({"city": "Oslo", "days": 3}))]  # the same call as text
    pool = chat(*calls, question=question)
    rule = MinHash()
    near = near_duplicates([rule.sketch(pool)], settings=rule)
    assert near["row"].to_list() == [3, 4]
    assert exact_duplicates([pool])["row"].to_list() == [3]
    tokenizer = ChatTokenizer(tokenizer=byte_tokenizer(), template=TEMPLATE, limit=999)
    read = [PlainText().encode(r, tokenizer).text for r in pool.iter_rows(named=True)]
    assert len(set(read[:3])) == 3
    assert "Oslo" in read[0]


def test_prose_rules_read_reasoning_and_no_json() -> None:
    german = "Das Haus steht am Ende einer langen Straße im Dorf, und niemand wohnt mehr darin."
    thinking = turn("assistant", "72", canonical_json({"reasoning_content": german}))
    assert Language().reasons(chat(thinking))[0] == "language: de"
    assert Language(part="answer").reasons(chat(calling({"ort": german}))).to_list() == [None]
    runaway = "and so it goes on " * 40
    looping = turn("assistant", "72", canonical_json({"reasoning": runaway}))
    call = calling({"rows": [{"left": i % 2, "right": 1} for i in range(60)]})
    for rule in (Repetition(), Prose()):
        assert rule.reasons(chat(call)).to_list() == [None]
    assert str(Repetition().reasons(chat(looping))[0]).startswith("repetition")


def test_an_answer_that_is_a_call_is_no_empty_answer() -> None:
    rows = chat(calling({"x": 1}), turn("assistant", ""))
    assert Length().reasons(rows).to_list() == [None, "too_short"]
    assert Where(sql="answer_text LIKE '%act%'").reasons(rows).null_count() == 1
    declined = turn("assistant", "I cannot fulfill this.", '{"reasoning":"I cannot help here."}')
    thought = turn("assistant", "Sure: 4.", '{"reasoning":"I cannot help with that."}')
    assert Refusal().reasons(chat(declined, thought)).to_list() == ["refusal", None]


def test_what_one_message_says() -> None:
    message = calling('{"to":"a\\nb"}', "Hi.", reasoning_content="Think.", name="Bo")
    assert message_text(message, "content") == "Hi."
    assert message_text(message, "prose") == "Hi.\nThink."
    everything = message_text(message).split("\n")
    assert everything[0] == "Hi."
    assert {"Think.", "Bo", "act", "a", "b", "to"} <= set(everything)
    assert message_text(turn("assistant", "Hi.")) == "Hi."
    assert texts(chat(message), "answer")[0] == message_text(message)
