"""What stands beside a dialogue: it is used in every form, or its row is set aside."""

import json
import logging

import polars as pl
import pytest
from rows import write_jsonl

from gristmill.pipeline.ingest.ingest import Source, ingest

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TOOLS = json.dumps([TOOL], sort_keys=True, separators=(",", ":"))


def read(store, path, **options):
    return ingest(store, [Source(path=str(path), **options)], max_bad_share=1)


def say(*turns: str) -> list[dict]:
    """Turns from "u: ..." and "a: ...", "s: ..."."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": roles[t[0]], "content": t[3:]} for t in turns]


def plain(turns) -> list[str]:
    return [f"{t['role'][0]}: {t['content']}" for t in turns]


GIVEN = {
    "context": [
        (["Doc 1: a.", "Doc 2: b."], "Doc 1: a.\n\nDoc 2: b."),
        ({"title": ["T"], "sentences": [["Ada."]]}, '{"title": ["T"], "sentences": [["Ada."]]}'),
        ([{"title": "T", "text": "Ada."}], '[{"title": "T", "text": "Ada."}]'),
        ("plain", "plain"),
    ],
    "input": [
        ({"a": 1, "b": 2}, '{"a": 1, "b": 2}'),
        ([3, 1, 2], "[3, 1, 2]"),
        (21, "21"),
        (0, "0"),
        (2.5, "2.5"),
        (False, "false"),
        ([["x", "y"], ["z", "w"]], '[["x", "y"], ["z", "w"]]'),
    ],
}
CASES = [(column, *case) for column, cases in GIVEN.items() for case in cases]


@pytest.mark.parametrize(("column", "value", "shown"), CASES)
@pytest.mark.parametrize("kind", ["example", "pair"])
def test_what_an_instruction_is_about_is_in_the_prompt(store, tmp_path, column, value, shown, kind):
    answers = {"output": "a"} if kind == "example" else {"chosen": "a", "rejected": "b"}
    row = {"instruction": "Do it.", column: value, **answers}
    (record,) = read(store, write_jsonl(tmp_path / "r.jsonl", [row])).frame().to_dicts()
    turns = record["messages"] if kind == "example" else record["prompt"]
    assert turns[0]["content"] == f"Do it.\n\n{shown}"
    assert record["meta"] == "{}"


def test_several_columns_of_one_field_all_count(store, tmp_path):
    row = {"instruction": "Do it.", "input": "this", "context": {"k": 1}, "output": "a"}
    row |= {"system": "One.", "system_prompt": ["Two.", "One."]}
    asked = say("u: earlier", "a: yes")
    rows = [row, {**row, "prompt": None, "context": asked}]
    frame = read(store, write_jsonl(tmp_path / "r.jsonl", rows)).frame()
    first, second = map(plain, frame["messages"])
    assert first == ["s: One.\n\nTwo.\nOne.", 'u: Do it.\n\nthis\n\n{"k": 1}', "a: a"]
    assert second[1:] == ["u: earlier", "a: yes", "u: Do it.\n\nthis", "a: a"]


def test_a_list_prompt_takes_what_it_is_about(store, tmp_path):
    row = {"prompt": say("s: S", "u: Do it."), "input": "this", "history": [["x", "y"]]}
    row |= {"completion": "a", "system": "T"}
    frame = read(store, write_jsonl(tmp_path / "r.jsonl", [row])).frame()
    assert plain(frame["messages"][0]) == ["s: T\n\nS", "u: x", "a: y", "u: Do it.\n\nthis", "a: a"]


SYSTEMS = {
    "Be brief.": "Be brief.",
    '["Be brief.", "Be kind."]': "Be brief.\nBe kind.",
    '[{"type": "text", "text": "Be brief."}]': "Be brief.",
    '{"role": "system", "content": "Be brief."}': "Be brief.",
}


@pytest.mark.parametrize("written", SYSTEMS)
def test_system_prompts(store, tmp_path, written):
    value = json.loads(written) if written[0] in "[{" else written
    turns = say("u: Hi", "a: Hello.")
    rows = [
        {"system": value, "messages": turns},
        {"system": value, "messages": say("s: Own.") + turns},
    ]
    frame = read(store, write_jsonl(tmp_path / "r.jsonl", rows)).frame()
    assert plain(frame["messages"][0])[0] == f"s: {SYSTEMS[written]}"
    assert plain(frame["messages"][1])[0] == f"s: {SYSTEMS[written]}\n\nOwn."


@pytest.mark.parametrize("value", [5, [5], {"a": 1}, [{"text": 3}], True])
def test_a_system_prompt_that_cannot_be_used_is_a_bad_row(store, tmp_path, value):
    row = {"system": value, "messages": say("u: Hi", "a: Hello.")}
    found = read(store, write_jsonl(tmp_path / "r.jsonl", [row, {**row, "system": "S"}]))
    assert found.frame().height == (2 if value == {"a": 1} else 1)
    assert found.quarantine()["reason"].to_list() in (["bad_field: system"], [])


HISTORIES = [
    [["2+2?", "4"]],
    say("u: 2+2?", "a: 4"),
    json.dumps([["2+2?", "4"]]),
    json.dumps(say("u: 2+2?", "a: 4")),
    [{"user": "2+2?", "assistant": "4"}],
    [{"question": "2+2?", "answer": "4"}],
    {"role": ["user", "assistant"], "content": ["2+2?", "4"]},
    "\n\nHuman: 2+2?\n\nAssistant: 4",
]


@pytest.mark.parametrize("history", HISTORIES)
def test_earlier_turns(store, tmp_path, history):
    rows = [{"instruction": "And 3+3?", "output": "6", "history": history}]
    frame = read(store, write_jsonl(tmp_path / "e.jsonl", rows)).frame()
    assert plain(frame["messages"][0]) == ["u: 2+2?", "a: 4", "u: And 3+3?", "a: 6"]
    rows = [{"prompt": "And 3+3?", "chosen": "6", "rejected": "7", "history": history}]
    frame = read(store, write_jsonl(tmp_path / "p.jsonl", rows)).frame()
    assert plain(frame["prompt"][0]) == ["u: 2+2?", "a: 4", "u: And 3+3?"]


@pytest.mark.parametrize("history", [["a", "b"], [["q"]], [["q", None]], "once upon a time", 7])
def test_earlier_turns_that_cannot_be_used_are_a_bad_row(store, tmp_path, history):
    rows = [{"instruction": "q", "output": "a", "history": h} for h in (history, None, [], "")]
    found = read(store, write_jsonl(tmp_path / "e.jsonl", rows))
    assert found.quarantine()["reason"].to_list() == ["bad_field: history"]
    assert found.frame().height == 3


TOOL_FORMS = [
    [TOOL],
    TOOL,
    json.dumps([TOOL]),
    json.dumps(TOOL),
    [json.dumps(TOOL)],
    [{"name": "f", "input_schema": {"type": "object"}}],
]


@pytest.mark.parametrize("tools", TOOL_FORMS)
@pytest.mark.parametrize("kind", ["messages", "prompt", "pair"])
def test_tools_come_to_one_form(store, tmp_path, tools, kind):
    row = {
        "messages": {"messages": say("u: Hi", "a: Hello.")},
        "prompt": {"prompt": "Hi", "completion": "Hello."},
        "pair": {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."},
    }[kind]
    frame = read(store, write_jsonl(tmp_path / "t.jsonl", [{**row, "tools": tools}])).frame()
    assert frame["tools"].to_list() == [TOOLS]
    assert frame["meta"].to_list() == ["{}"]


@pytest.mark.parametrize("tools", ["weather", [1], ["f"], 3, [[TOOL]], "{"])
def test_tools_that_cannot_be_used_are_a_bad_row(store, tmp_path, tools):
    rows = [{"prompt": "q", "completion": "a", "tools": t} for t in (tools, None, [], "", "[]")]
    found = read(store, write_jsonl(tmp_path / "t.jsonl", rows))
    assert found.quarantine()["reason"].to_list() == ["bad_field: tools"]
    assert found.frame()["tools"].to_list() == [None] * 4


def test_tables_pad_what_they_hold(store, tmp_path):
    """A struct column gives every row the fields of all: nulls that nobody wrote."""
    rows = [
        {"instruction": "q", "input": {"a": 1}, "output": "x", "tools": [{"name": "f"}]},
        {"instruction": "q", "input": {"b": [1]}, "output": "x", "tools": [{"name": "g", "k": 1}]},
        {"instruction": "q", "input": None, "output": "x", "tools": None},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    pl.DataFrame(rows).write_parquet(tmp_path / "b.parquet")
    lines, table = (read(store, tmp_path / n).frame() for n in ("a.jsonl", "b.parquet"))
    assert lines["id"].to_list() == table["id"].to_list()
    assert lines["tools"].to_list() == table["tools"].to_list()


# ---------------------------------------------------------------- pairs of whole conversations

WHOLE = {"chosen": say("u: Say hi", "a: Hello!"), "rejected": say("u: Say hi", "a: Go away")}
BESIDE = [
    ({"system": "Be polite.", "prompt": "Say hi"}, ["s: Be polite.", "u: Say hi"]),
    ({"system": "Be polite."}, ["s: Be polite.", "u: Say hi"]),
    ({"prompt": say("s: Be polite.", "u: Say hi")}, ["s: Be polite.", "u: Say hi"]),
    ({"prompt": "Say hi", "history": [["x", "y"]]}, ["u: x", "a: y", "u: Say hi"]),
    ({"history": [["x", "y"]]}, ["u: x", "a: y", "u: Say hi"]),
    ({"prompt": "Say hi", "input": "to Ann"}, ["u: Say hi\n\nto Ann"]),
    ({"prompt": say("u: x", "a: y", "u: Say hi")}, ["u: x", "a: y", "u: Say hi"]),
    ({"messages": say("u: Say hi", "a: Hello!")}, ["u: Say hi"]),
    ({"messages": say("s: Be polite.", "u: Say  hi\n")}, ["s: Be polite.", "u: Say hi"]),
    ({"system": "S", "prompt": say("s: T", "u: Say hi")}, ["s: S\n\nT", "u: Say hi"]),
]


@pytest.mark.parametrize(("beside", "prompt"), BESIDE)
def test_what_stands_beside_whole_conversations_is_in_the_prompt(store, tmp_path, beside, prompt):
    frame = read(store, write_jsonl(tmp_path / "p.jsonl", [{**beside, **WHOLE}])).frame()
    assert plain(frame["prompt"][0]) == prompt
    assert (plain(frame["chosen"][0]), plain(frame["rejected"][0])) == (
        ["a: Hello!"],
        ["a: Go away"],
    )


def test_a_system_turn_inside_the_conversations_is_said_once(store, tmp_path):
    inside = {k: say("s: Be polite.") + v for k, v in WHOLE.items()}
    rows = [{"system": s, "prompt": "Say hi", **inside} for s in ("Be polite.", "Be brief.")]
    frame = read(store, write_jsonl(tmp_path / "p.jsonl", rows)).frame()
    assert [plain(p)[0] for p in frame["prompt"]] == ["s: Be polite.", "s: Be brief.\n\nBe polite."]


def test_another_prompt_than_that_of_the_conversations_is_a_bad_row(store, tmp_path):
    rows = [{"prompt": p, **WHOLE} for p in ("Say hi", "What is a ferry?", "hi")]
    found = read(store, write_jsonl(tmp_path / "p.jsonl", rows))
    assert found.quarantine()["reason"].to_list() == ["prompts_differ"]
    assert found.quarantine()["row"].to_list() == [1]


# ---------------------------------------------------------------- what is left, and said


def test_text_that_is_left_is_named_with_its_mapping(store, tmp_path, caplog):
    row = {"question": "Which one?", "choices": ["the first of them all", "the last of them all"]}
    row |= {"answer": "B", "url": "https://x", "category": "a name of four words", "row_id": 3}
    path = write_jsonl(tmp_path / "q.jsonl", [row] * 3)
    with caplog.at_level(logging.WARNING):
        read(store, path)
    (said,) = caplog.messages
    assert said == (
        "q.jsonl: text in the column choices is not trained on and stays in meta; "
        "to put it into the prompt, say columns: {input: choices}"
    )
    caplog.clear()
    frame = read(store, path, columns={"input": "choices"}).frame()
    assert "the last of them all" in frame["messages"][0][0]["content"]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        (
            "chain_of_thought",
            "; to put it before the answer, say columns: {reasoning: chain_of_thought}",
        ),
        ("passage", "; to put it into the prompt, say columns: {input: passage}"),
        ("incorrect_answers", ""),  # a prompt would give them away
    ],
)
def test_the_mapping_that_is_said_fits_the_column(store, tmp_path, caplog, column, hint):
    row = {"question": "Why?", "answer": "So.", column: "some words that are said nowhere"}
    read(store, write_jsonl(tmp_path / "q.jsonl", [row]))
    said = f"q.jsonl: text in the column {column} is not trained on and stays in meta{hint}"
    assert caplog.messages == [said]


def test_what_a_record_says_already_is_no_leftover(store, tmp_path, caplog):
    row = {"prompt": "Say hi to all of them", "messages": say("u: Say hi to all of them", "a: Hi.")}
    read(store, write_jsonl(tmp_path / "a.jsonl", [row]))
    assert not caplog.messages
    other = {**row, "prompt": "Say goodbye to all of them"}
    read(store, write_jsonl(tmp_path / "b.jsonl", [other]))
    assert "b.jsonl: text in the column prompt is not trained on" in caplog.text


def test_thoughts_of_a_column_are_those_of_the_answer(store, tmp_path):
    row = {"question": "2+2?", "reasoning_content": "Two and two.", "answer": "4"}
    frame = read(store, write_jsonl(tmp_path / "r.jsonl", [row])).frame()
    assert frame["messages"][0][1]["extra"] == '{"reasoning_content":"Two and two."}'
    row = {"question": "2+2?", "rationale": "Two and two.", "answer": "4"}
    path = write_jsonl(tmp_path / "m.jsonl", [row])
    frame = read(store, path, columns={"reasoning": "rationale"}).frame()
    assert frame["messages"][0][1]["extra"] == '{"reasoning_content":"Two and two."}'


# ---------------------------------------------------------------- several answers


MANY = [
    ({"answer": ["Ada", "Ada L.", "A. L."]}, "Ada", {"answer": ["Ada L.", "A. L."]}),
    ({"answer": ["", "Ada", None]}, "Ada", {}),
    ({"answer": [4, "four"]}, "4", {"answer": ["four"]}),
    (
        {"answers": {"text": ["Ada", "A."], "answer_start": [3, 9]}},
        "Ada",
        {"answers": {"text": ["A."], "answer_start": [3, 9]}},
    ),
    ({"answer": {"value": "Ada", "aliases": ["A."]}}, "Ada", {"answer": {"aliases": ["A."]}}),
    (
        {"output": [{"answer": "Ada", "p": 1}, {"answer": "A."}]},
        "Ada",
        {"output": [{"answer": "A."}]},
    ),
    ({"response": ["Ada", "Ada Lovelace"]}, "Ada", {"response": ["Ada Lovelace"]}),
]


@pytest.mark.parametrize(("given", "said", "left"), MANY)
def test_several_right_answers_are_one_example(store, tmp_path, given, said, left):
    found = read(store, write_jsonl(tmp_path / "m.jsonl", [{"question": "Who?", **given}]))
    assert found.kind == "example"
    (record,) = found.frame().to_dicts()
    assert plain(record["messages"]) == ["u: Who?", f"a: {said}"]
    assert json.loads(record["meta"]) == left


@pytest.mark.parametrize("empty", [[], ["", None], {"text": [], "answer_start": []}])
def test_no_answer_is_a_bad_row(store, tmp_path, empty):
    rows = [{"question": "q", "answers": a} for a in (empty, ["a"])]
    found = read(store, write_jsonl(tmp_path / "m.jsonl", rows))
    assert found.frame().height == 1
    assert found.quarantine()["reason"].str.starts_with("empty_").to_list() == [True]


def test_marked_answers_are_a_pair_of_the_best_and_the_worst(store, tmp_path):
    def row(*marks, name="overall_score"):
        answers = [{"response": f"r{i}", name: m} for i, m in enumerate(marks)]
        return {"instruction": "Say hi", "completions": answers, "models": ["a"] * len(marks)}

    rows = [
        row(2, 9, 5),
        row("1.5", 9.0),
        row(3, 3),
        row(None, 4),
        row(True, False, name="correct"),
    ]
    found = read(store, write_jsonl(tmp_path / "u.jsonl", rows))
    pairs = found.frame().to_dicts()
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs] == [
        ("r1", "r0"),
        ("r1", "r0"),
        ("r0", "r1"),
    ]
    assert json.loads(pairs[0]["meta"])["completions"] == [{"response": "r2", "overall_score": 5}]
    assert found.quarantine()["reason"].to_list() == ["no_preference: completions"] * 2
    best = read(store, tmp_path / "u.jsonl", kind="example").frame()
    assert [plain(m)[-1] for m in best["messages"]] == ["a: r1", "a: r1", "a: r0", "a: r1", "a: r0"]


@pytest.mark.parametrize("header", ["Question,Answer", "QUESTION,ANSWER", "Prompt, Response "])
def test_names_of_columns_in_any_case(store, tmp_path, header):
    (tmp_path / "m.csv").write_text(f"{header}\nWhat is flu?,A disease.\n")
    frame = read(store, tmp_path / "m.csv").frame()
    assert plain(frame["messages"][0]) == ["u: What is flu?", "a: A disease."]


def test_an_unknown_shape_says_the_mapping_to_type(store, tmp_path):
    (tmp_path / "m.csv").write_text("User Question,Expert Reply\nWhat is flu?,A disease.\n")
    words = r'columns=\{"prompt": "User Question", "completion": "Expert Reply"\}'
    with pytest.raises(ValueError, match=words):
        read(store, tmp_path / "m.csv")
    columns = {"prompt": "User Question", "completion": "Expert Reply"}
    assert read(store, tmp_path / "m.csv", columns=columns).frame().height == 1


# ---------------------------------------------------------------- not text


PICTURES = [
    {"images": ["cat.jpg"]},
    {"image": {"bytes": "aGk=", "path": None}},
    {"Image": "cat.png"},
    {"video_path": "a.mp4"},
    {"audios": [{"path": "a.wav"}]},
]
TEXT_ONLY = [
    {"images": []},
    {"image": None},
    {"image": {"bytes": None, "path": None}},
    {"images": [None]},
    {"has_image": False},
    {"image": ""},
]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "<image>What?", "completion": "A cat."},
        {"prompt": "What?", "chosen": "A cat.", "rejected": "A dog."},
        {"messages": say("u: <image>What?", "a: A cat.")},
        {"text": "A cat."},
    ],
)
def test_rows_with_pictures_are_set_aside(store, tmp_path, row):
    rows = [{**row, **more} for more in (*PICTURES, *TEXT_ONLY)]
    found = read(store, write_jsonl(tmp_path / "p.jsonl", rows))
    assert found.frame()["row"].to_list() == list(range(len(PICTURES), len(rows)))
    assert found.quarantine()["reason"].str.starts_with("not_text: ").all()


PARTS = {
    "not_text": [
        [{"type": "image"}, {"type": "text", "text": "What?"}],
        [{"type": "image", "text": ""}, {"type": "text", "text": "What?"}],
        [{"type": "image", "text": None}, {"type": "text", "text": "What?"}],
        [{"type": "image_url", "image_url": {"url": "http://x"}, "text": "a caption"}],
        [{"type": "input_audio", "input_audio": {"data": "x"}}],
        [{"text": "What?", "image_url": {"url": "http://x"}}],
        [{"inline_data": {"data": "x"}, "text": "What?"}],
        [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}],
    ],
    None: [
        [{"type": "text", "text": "What?"}],
        [{"type": "text", "text": "What?", "image_url": None}],
        [{"type": "text", "text": "What?", "image_url": {"url": None}}],
        [{"type": "input_text", "text": "What?"}],
        ["What?"],
        [{"text": "What?"}],
    ],
}


@pytest.mark.parametrize(("reason", "parts"), [(r, p) for r, many in PARTS.items() for p in many])
def test_parts_that_are_no_text(store, tmp_path, reason, parts):
    turns = [{"role": "user", "content": parts}, *say("a: A cat.")]
    rows = [{"messages": turns}, {"messages": say("u: What?", "a: A dog.")}]
    found = read(store, write_jsonl(tmp_path / "p.jsonl", rows))
    assert found.quarantine()["reason"].to_list() == ([reason] if reason else [])
    assert found.frame()["messages"].list.first().struct.field("content").unique().to_list() == [
        "What?"
    ]
