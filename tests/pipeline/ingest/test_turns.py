"""Turns: calls in every form, bookkeeping, turns without loss, and rows that are single turns."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import publish
from rows import write_jsonl

from gristmill.pipeline.clean.exact import exact_duplicates
from gristmill.pipeline.export.render import check_render, renderer
from gristmill.pipeline.export.views import misfits
from gristmill.pipeline.finetune.data import token_rows
from gristmill.pipeline.ingest.binding import shape_of
from gristmill.pipeline.ingest.chat_formats import messages
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.tiny import TEMPLATE, byte_tokenizer
from gristmill.pipeline.records.schema import canonical_json
from gristmill.pipeline.records.text import texts
from gristmill.pipeline.signals.pair_signals import Response
from gristmill.pipeline.signals.views import AnswerAlone, Dialogue


def read(store, path, **options):
    return ingest(store, [Source(path=str(path), **options)], max_bad_share=1)


def plain(turns) -> list[str]:
    return [f"{t['role'][0]}: {t['content']}" for t in turns]


def extra(raw: object) -> dict:
    """The further fields of one turn."""
    (turn,) = messages([raw])
    return json.loads(turn["extra"] or "{}")


# ---------------------------------------------------------------- calls

CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "Oslo"}}}
CALLS = [
    [CALL],
    CALL,
    json.dumps([CALL]),
    json.dumps(CALL),
    [json.dumps(CALL)],
    [{"type": "function", "function": {"name": "f", "arguments": '{"city": "Oslo"}'}}],
    [{"name": "f", "arguments": {"city": "Oslo"}}],
    [{"name": "f", "arguments": '{"city": "Oslo"}'}],
    [{"name": "f", "parameters": {"city": "Oslo"}}],
    [{"name": "f", "args": {"city": "Oslo"}, "type": "tool_call"}],
    [{"index": 0, **CALL}],
    [{"function": {"name": "f", "arguments": {"city": "Oslo", "unit": None}}, "id": None}],
]


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("content", [None, ""])
def test_calls_come_to_one_form(calls, content):
    turn = {"role": "assistant", "content": content, "tool_calls": calls}
    assert extra(turn) == {"tool_calls": [CALL]}


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "function_call": CALL["function"]},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "Function_Call", "value": json.dumps(CALL["function"])},
        {"from": "tool-call", "value": json.dumps([CALL["function"]])},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"city": "Oslo"}}}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "name": "f", "input": {"city": "Oslo"}}],
        },
    ],
)
def test_calls_of_other_forms(turn):
    assert extra(turn) == {"tool_calls": [CALL]}


@pytest.mark.parametrize("empty", [[], None, "", "[]", {}, "null"])
def test_no_calls_are_nothing(empty):
    spoken = {"role": "assistant", "content": "It rains.", "tool_calls": empty}
    assert extra({**spoken, "function_call": {}, "audio": {}, "refusal": None}) == {}
    for content in ("", None):
        with pytest.raises(BadRow, match=r"(empty|missing).*content"):
            messages([{**spoken, "content": content}])


@pytest.mark.parametrize(
    "calls",
    [
        *("{", "f(x)", 7, [1], [{}], [{"name": ""}], [{"function": {"arguments": {}}}]),
        *([{"name": "f", "arguments": bad}] for bad in ("5", [1], "x")),
    ],
)
def test_calls_that_cannot_be_read_are_a_bad_row(calls):
    with pytest.raises(BadRow, match="bad_tool_call"):
        messages([{"role": "assistant", "content": "x", "tool_calls": calls}])


def test_ids_of_calls_stay_and_arguments_may_be_missing():
    call = {"id": "c1", "function": {"name": "f"}, "type": "function"}
    assert extra({"role": "assistant", "content": "", "tool_calls": [call]}) == {
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {}}}]
    }
    text = '{"city": "Oslo", "unit": null}'  # a null that was written is an argument
    call = {"name": "f", "arguments": text}
    (found,) = extra({"role": "assistant", "content": "", "tool_calls": [call]})["tool_calls"]
    assert found["function"]["arguments"] == {"city": "Oslo", "unit": None}


def test_blocks_of_messages_are_turns():
    chat = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "rain"}],
                },
                {"type": "text", "text": "So?"},
            ],
        },
        {"role": "tool", "name": "f", "content": {"sky": "grey"}},
        {"role": "assistant", "content": "It rains."},
    ]
    made = messages(chat)
    assert plain(made) == [
        "u: Weather?",
        "a: I look.",
        "t: rain",
        "u: So?",
        't: {"sky": "grey"}',
        "a: It rains.",
    ]
    called = json.loads(made[1]["extra"])
    assert called == {"reasoning_content": "Hm.", "tool_calls": [{"id": "t1", **CALL}]}
    assert [m["extra"] for m in made[2:5]] == ['{"tool_call_id":"t1"}', None, '{"name":"f"}']


def test_a_table_of_calls_says_what_json_lines_say(store, tmp_path):
    def chat(name, **arguments):
        call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
        turns = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "x", "tool_call_id": "1"},
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
        ]
        return {"messages": turns}

    rows = [chat("f", city="Oslo"), chat("g", place={"lat": 1.5}, n=[1])]
    write_jsonl(tmp_path / "a.jsonl", rows)
    pl.DataFrame(rows).write_parquet(tmp_path / "b.parquet")
    text = [{"messages": json.dumps(row["messages"])} for row in rows]
    pl.DataFrame(text).write_csv(tmp_path / "c.csv")
    ids = [
        read(store, tmp_path / n).frame()["id"].to_list() for n in ("a.jsonl", "b.parquet", "c.csv")
    ]
    assert ids[0] == ids[1] == ids[2]


# ---------------------------------------------------------------- bookkeeping

KEPT = [{"turn_id": "1", "timestamp": "2024", "hashed_ip": "aa"}, {"turn_id": "2", "score": 0.5}]


def test_bookkeeping_of_turns_makes_no_other_record(store, tmp_path):
    turns = [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "Ob."}]
    marked = [turn | more for turn, more in zip(turns, KEPT, strict=True)]
    others = [turn | {"turn_id": "9", "toxicity": {"a": 0.1}} for turn in turns]
    rows = [{"conversation": t} for t in (turns, marked, others)]
    frame = read(store, write_jsonl(tmp_path / "w.jsonl", rows)).frame()
    assert frame["id"].n_unique() == 1
    assert (
        frame["messages"].list.eval(pl.element().struct.field("extra")).to_list()
        == [[None] * 2] * 3
    )
    assert json.loads(frame["meta"][1]) == {"turn_fields": {"conversation": KEPT}}
    assert exact_duplicates([frame]).height == 2
    assert texts(frame, "all").unique().to_list() == ["Name a river.\nOb."]


@pytest.mark.parametrize("text", ['{"role": ', "[{'a'", '[{"x": 1}]', '{"role": "user"}', "{'from"])
def test_a_text_that_begins_like_turns_is_a_text(store, tmp_path, text):
    row = {"prompt": f"{text} what is it?", "completion": f"{text} or not"}
    frame = read(store, write_jsonl(tmp_path / "t.jsonl", [row])).frame()
    assert plain(frame["messages"][0]) == [f"u: {row['prompt']}", f"a: {row['completion']}"]


@pytest.mark.parametrize("name", ["score", "id", "created_at", "model", "raw_output"])
def test_answers_that_differ_in_bookkeeping_are_no_pair(store, tmp_path, name):
    sides = {"chosen": 9, "rejected": 2}
    row = {k: [{"role": "assistant", "content": "Hello!", name: v}] for k, v in sides.items()}
    found = read(store, write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Say hi", **row}]))
    assert found.quarantine()["reason"].to_list() == ["chosen_equals_rejected"]


# ---------------------------------------------------------------- turns without loss


def weighed(value: object, name: str = "weight") -> list[dict]:
    return [
        {"role": "user", "content": "2+2?", name: 0},
        {"role": "assistant", "content": "WRONG", name: value},
        {"role": "user", "content": "Really?"},
        {"role": "assistant", "content": "RIGHT", "weight": 1},
    ]


NO_LOSS = [("weight", 0), ("weight", 0.0), ("weight", "0"), ("weight", False), ("train", False)]
NO_LOSS += [("training", "false"), ("loss", False), ("loss_mask", 0)]
CHAT = ChatTokenizer(tokenizer=byte_tokenizer(), template=TEMPLATE, limit=400)


def learned(encoded) -> str:
    """The text of the tokens that carry loss."""
    spans = [o for o, t in zip(encoded.offsets, encoded.turn, strict=True) if t > 0]
    return "".join(encoded.text[a:b] for a, b in spans)


@pytest.mark.parametrize(("name", "value"), NO_LOSS)
def test_a_turn_of_weight_0_carries_no_loss(store, tmp_path, name, value):
    rows = [{"messages": weighed(value, name)}, {"messages": weighed(1, name)}]
    frame = read(store, write_jsonl(tmp_path / "w.jsonl", rows)).frame()
    silent, both = frame.to_dicts()
    assert [m["extra"] for m in silent["messages"]] == [None, '{"weight":0}', None, None]
    assert [m["extra"] for m in both["messages"]] == [None] * 4
    assert silent["id"] != both["id"]  # another mask is another example
    assert learned(Dialogue().encode(silent, CHAT)) == "RIGHT"
    assert learned(Dialogue().encode(both, CHAT)) == "WRONGRIGHT"
    assert learned(AnswerAlone().encode(silent, CHAT)) == "RIGHT"
    assert learned(Response().encode(silent, CHAT)) == "RIGHT"
    labels = token_rows(frame, "sequence", CHAT)["labels"].to_list()
    counts = [sum(label != -100 for label in row) for row in labels]
    assert counts == [len("RIGHT") + 1, len("WRONGRIGHT") + 2]
    checks = [check_render([frame[i : i + 1]], 1, renderer(CHAT)) for i in (0, 1)]
    assert [c.found for c in checks] == [{}, {}]
    assert [sum(c.examples[0][1].trained) for c in checks] == counts
    assert texts(frame, "all")[0] == texts(frame, "all")[1]  # a weight says nothing


@pytest.mark.parametrize("value", [0.5, 2, "half", [0], float("nan")])
def test_a_weight_that_cannot_be_honoured_is_a_bad_row(value):
    if value != value:
        with pytest.raises(BadRow, match="bad_weight"):
            messages(weighed(value))
        return
    with pytest.raises(BadRow, match="bad_weight"):
        messages(weighed(value))
    assert extra({"role": "assistant", "content": "x", "loss": 0.53}) == {}  # it was measured


def test_a_row_without_any_loss_is_a_bad_row(store, tmp_path):
    silent = {"role": "assistant", "content": "x", "weight": 0}
    rows = [
        {"messages": [{"role": "user", "content": "q"}, silent]},
        {"messages": [{"role": "user", "content": "q"}, {**silent, "weight": 1}]},
    ]
    found = read(store, write_jsonl(tmp_path / "e.jsonl", rows))
    assert found.quarantine()["reason"].to_list() == ["no_trained_turn"]
    pair = {"prompt": "q", "chosen": [silent], "rejected": "y"}
    found = read(store, write_jsonl(tmp_path / "p.jsonl", [pair, {**pair, "chosen": "x"}]))
    assert found.quarantine()["reason"].to_list() == ["no_trained_turn"]


def test_a_prompt_is_context_anyway(store, tmp_path):
    row = {"prompt": weighed(0)[:3], "chosen": "x", "rejected": "y"}
    (pair,) = read(store, write_jsonl(tmp_path / "p.jsonl", [row])).frame().to_dicts()
    assert [m["extra"] for m in pair["prompt"]] == [None] * 3


def test_a_completion_that_carries_no_loss_is_not_published_as_one(store, tmp_path):
    turns = weighed(1)
    turns[-1]["weight"] = 0
    rows = [{"messages": turns}, {"messages": weighed(0)}]
    frame = read(store, write_jsonl(tmp_path / "w.jsonl", rows)).frame()
    misfit, sentence = misfits("example", "prompt_completion")
    assert frame.select(misfit.alias("x"))["x"].to_list() == [True, False]
    assert "carries loss" in sentence


# ---------------------------------------------------------------- tools of pairs


def test_pairs_are_shown_with_their_tools(store, tmp_path):
    template = "{% if tools %}TOOLS{{ tools | tojson }}{% endif %}" + TEMPLATE
    chat = ChatTokenizer(tokenizer=byte_tokenizer(), template=template, limit=400)
    row = {
        "prompt": "Weather?",
        "chosen": "Rain.",
        "rejected": "No idea.",
        "tools": [{"name": "f"}],
    }
    frame = read(store, write_jsonl(tmp_path / "p.jsonl", [row])).frame()
    (pair,) = frame.to_dicts()
    for view in (Dialogue(), Dialogue(side="rejected"), Response(), Response(side="rejected")):
        assert view.encode(pair, chat).text.startswith('TOOLS[{"name": "f"}]')
    assert '"f"' in texts(frame, "all")[0] or "f" in texts(frame, "all")[0].splitlines()
    assert texts(frame, "dialogue")[0] == "Weather?\nRain.\nNo idea."


def test_tools_and_weights_are_published(store, tmp_path):
    import datasets

    sides = {"chosen": [{"role": "assistant", "content": "Rain.", "tool_calls": [CALL]}]}
    pair = {"prompt": "Weather?", **sides, "rejected": "No idea.", "tools": [{"name": "f"}]}
    chat = {"messages": weighed(0), "tools": [{"name": "f"}]}
    for kind, row, columns in (
        ("pair", pair, ("prompt", "chosen", "rejected", "tools")),
        ("example", chat, ("messages", "tools")),
    ):
        path = write_jsonl(tmp_path / f"{kind}.jsonl", [row])
        records = read(store, path).frame()
        publish(tmp_path / "out" / kind, store, records.to_dicts(), keep=1, kind=kind, shards=1)
        latest = tmp_path / "out" / kind / "toy" / "latest"
        loaded = datasets.load_dataset(str(latest), cache_dir=str(tmp_path / "cache"))["train"]
        assert set(columns) <= set(loaded.column_names)
        assert json.loads(loaded[0]["tools"]) == [{"name": "f"}]
        if kind == "example":
            assert loaded[0]["messages"][1] == {
                "role": "assistant",
                "content": "WRONG",
                "weight": 0,
            }
        again = read(store, latest).frame()
        assert again["id"].to_list() == records["id"].to_list()


# ---------------------------------------------------------------- rows that are turns

TURNS = [
    {"conversation_id": "1", "turn": 0, "role": "user", "content": "Name a river."},
    {"conversation_id": "2", "turn": 1, "role": "assistant", "content": "Vals."},
    {"conversation_id": "1", "turn": 1, "role": "assistant", "content": "The Danube."},
    {"conversation_id": "2", "turn": 0, "role": "user", "content": "Name a spa."},
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "json"])
def test_turns_of_a_dialogue_are_one_example(store, tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    frame = pl.DataFrame(TURNS)
    {
        "jsonl": frame.write_ndjson,
        "csv": frame.write_csv,
        "parquet": frame.write_parquet,
        "json": frame.write_json,
    }[suffix](path)
    found = read(store, path)
    assert found.kind == "example"
    rows = found.frame().to_dicts()
    assert [plain(r["messages"]) for r in rows] == [
        ["u: Name a river.", "a: The Danube."],
        ["u: Name a spa.", "a: Vals."],
    ]
    assert [r["row"] for r in rows] == [0, 1]
    assert str(json.loads(rows[0]["meta"])["conversation_id"]) == "1"


def oasst(ident, parent, role, text, **more):
    return {"message_id": ident, "parent_id": parent, "role": role, "text": text, **more}


def test_a_tree_of_turns_is_a_dialogue_to_each_last_answer(store, tmp_path):
    rows = [
        oasst("q1", None, "prompter", "Q1", lang="en"),
        oasst("a3", "q2", "assistant", "A3"),
        oasst("a1", "q1", "assistant", "A1", rank=0),
        oasst("a2", "q1", "assistant", "A2", rank=1),
        oasst("q2", "a1", "prompter", "Q2"),
        oasst("q3", "a3", "prompter", "Q3"),
        oasst("bad", "q1", "assistant", "B", deleted=True),
        oasst("low", "q1", "assistant", "L", review_result=False),
        oasst("below", "bad", "prompter", "below"),
        oasst("lost", "gone", "assistant", "x"),
        oasst("self", "self", "assistant", "x"),
        oasst("q4", "", "prompter", "Q4"),
    ]
    found = read(store, write_jsonl(tmp_path / "t.jsonl", rows))
    chats = {r["user_id"]: plain(r["messages"]) for r in found.frame().to_dicts()}
    assert chats == {"a3": ["u: Q1", "a: A1", "u: Q2", "a: A3"], "a2": ["u: Q1", "a: A2"]}
    reasons = dict(found.quarantine().select("line", "reason").iter_rows())
    assert reasons == {
        6: "unanswered_turn",
        7: "undesirable: deleted=True",
        8: "undesirable: review_result=False",
        9: "undesirable: deleted=True",
        10: "missing_parent: gone",
        11: "circular_parents: self",
        12: "unanswered_turn",
    }


def test_turns_that_name_no_dialogue_are_refused_in_a_sentence(store, tmp_path):
    turns = [{"role": t["role"], "content": t["content"]} for t in TURNS]
    path = write_jsonl(tmp_path / "t.jsonl", turns)
    words = (
        r"t\.jsonl: its rows are single turns \(role, content\).*conversation_id.*kind: document"
    )
    with pytest.raises(ValueError, match=words) as error:
        read(store, path)
    assert "\n" not in str(error.value)
    assert read(store, path, kind="document").frame().height == 4
    assert read(store, path, columns={"text": "content"}).frame().height == 4


ONE = [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "Ob."}]
FILES = {
    "object.json": {"id": "c1", "messages": ONE},
    "sharegpt.json": {
        "conversations": [
            {"from": "human", "value": "Name a river."},
            {"from": "gpt", "value": "Ob."},
        ]
    },
    "array.json": ONE,
    "arrays.json": [ONE],
    "rows.json": {"version": 1, "data": [{"messages": ONE}]},
    "wrapped.json": {"conversations": [{"messages": ONE}]},
    "pair.json": {"instruction": "Name a river.", "completions": [{"text": "Ob.", "score": 1}]},
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", FILES)
def test_one_dialogue_a_file(store, tmp_path, name, indent):
    (tmp_path / name).write_text(json.dumps(FILES[name], indent=indent))
    frame = read(store, tmp_path / name, kind="example").frame()
    assert [plain(m) for m in frame["messages"]] == [["u: Name a river.", "a: Ob."]]


def test_a_folder_of_dialogues(store, tmp_path):
    for i in range(3):
        chat = {"id": f"c{i}", "messages": [{**ONE[0], "content": f"q{i}"}, ONE[1]]}
        (tmp_path / f"{i}.json").write_text(json.dumps(chat, indent=1))
    frame = read(store, tmp_path).frame()
    assert frame["user_id"].to_list() == ["c0", "c1", "c2"]


# ---------------------------------------------------------------- and back

word = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
spoken = word.filter(lambda t: t.strip() and not t.lstrip().startswith(("[", "{", "###", "Human")))
exchanges = st.lists(st.tuples(spoken, spoken), min_size=1, max_size=3)
NAMES = {"user": "human", "assistant": "gpt", "system": "system"}


def forms(system, talk) -> dict[str, dict]:
    """A chat in the shapes in which it may be written; `talk` are its exchanges."""
    turns = [{"role": "system", "content": system}] if system else []
    for asked, said in talk:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    gpt = [{"from": NAMES[t["role"]], "value": t["content"]} for t in turns]
    parts = [{**t, "content": [{"type": "text", "text": t["content"]}]} for t in turns]
    beside = {"system": system} if system else {}
    earlier = {"history": [list(pair) for pair in talk[:-1]]}
    asked, said = talk[-1]
    return {
        "messages": {"messages": turns},
        "sharegpt": {"conversations": gpt},
        "parts": {"messages": parts},
        "json text": {"messages": json.dumps(turns)},
        "columns": {"messages": {k: [t[k] for t in turns] for k in ("role", "content")}},
        "with bookkeeping": {"messages": [{**t, "id": i} for i, t in enumerate(turns)]},
        "padded": {"messages": [{**t, "tool_calls": None, "name": None} for t in turns]},
        "system beside": {**beside, "messages": [t for t in turns if t["role"] != "system"]},
        "alpaca": {"instruction": asked, "output": said, **beside, **earlier},
        "alpaca, messages": {"prompt": turns[:-1], "completion": [turns[-1]]},
        "json prompt": {"prompt": json.dumps(turns[:-1]), "completion": said},
        "ours": {"messages": messages(turns)},
        "turns as json": {"messages": [json.dumps(t) for t in turns]},
    }


@settings(max_examples=40, deadline=None)
@given(st.none() | spoken, exchanges)
def test_a_chat_in_any_shape_is_the_same_record(system, talk):
    made = {}
    for name, row in forms(system, talk).items():
        shape = shape_of([row], {}, None)
        assert shape is not None, name
        made[name] = shape.record(row, source="s", license=None, revision=None)
    expected = made["messages"]
    for name, record in made.items():
        assert record["messages"] == expected["messages"], name
        assert record["id"] == expected["id"], name
    back = shape_of([expected], {}, None).record(expected, source="s", license=None, revision=None)
    assert back == expected


@settings(max_examples=40, deadline=None)
@given(st.none() | spoken, exchanges, spoken)
def test_a_pair_in_any_shape_is_the_same_record(system, talk, worse):
    asked, better = talk[-1]
    if better == worse:
        worse += "."
    turns = forms(system, talk)["messages"]["messages"]
    said = {"chosen": [turns[-1]], "rejected": [{**turns[-1], "content": worse}]}
    whole = {side: turns[:-1] + answer for side, answer in said.items()}
    text = {"chosen": better, "rejected": worse}
    beside = {"system": system} if system else {}
    earlier = {"history": [list(pair) for pair in talk[:-1]]}
    rows = [
        {"prompt": turns[:-1], **said},
        {"prompt": turns[:-1], **text},
        whole,
        {"prompt": turns[:-1], **whole},
        {"prompt": asked, **whole},
        {"messages": turns, **whole},
        {"prompt": asked, **beside, **earlier, **text},
        {**beside, **{k: [t for t in v if t["role"] != "system"] for k, v in whole.items()}},
        {"prompt": turns[:-1], "response_a": better, "response_b": worse, "winner": "A"},
        {"prompt": turns[:-1], "response_1": worse, "response_2": better, "preference": 2.0},
        {k: json.dumps(v) for k, v in whole.items()},
    ]
    made = []
    for row in rows:
        shape = shape_of([row], {}, None)
        record = shape.record(row, source="s", license=None, revision=None)
        made.append(canonical_json([record[k] for k in ("id", "prompt", "chosen", "rejected")]))
    assert made == [made[0]] * len(rows)
