"""One bad cell costs one row: Parquet and Arrow cells, JSON keys and numbers."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.pipeline.ingest.ingest import Source, ingest

GOOD = {"prompt": "q", "completion": "a"}


def read(store, path, **options):
    return ingest(store, [Source(path=str(path))], max_bad_share=1, **options)


def told(dataset) -> list[str]:
    """The first turn of each record."""
    turns = dataset.frame()["messages"].list.first().struct.field("content")
    return turns.to_list()


def broken_text() -> pa.Array:
    """A column of strings, the second of which is not UTF-8."""
    return pa.Array.from_buffers(
        pa.string(), 3, pa.array([b"q0", b"q\xff", b"q2"], pa.binary()).buffers()
    )


CELLS = {
    "encoding": (broken_text(), "not_utf8: prompt"),
    "encoding within": (
        pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), broken_text()),
        "not_utf8: prompt",
    ),
    "a moment": (pa.array([0, 1 << 62, 0], pa.timestamp("us")), "out_of_range: prompt"),
    "a span": (pa.array([0, 1 << 62, 0], pa.duration("s")), "out_of_range: prompt"),
    "a map": (
        pa.array([[("k", 1)], [("k", 1), ("k", 2)], []], pa.map_(pa.string(), pa.int64())),
        "duplicate_key: prompt",
    ),
}


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_that_python_cannot_hold(store, tmp_path, name, suffix):
    cells, reason = CELLS[name]
    prompts = cells if name == "encoding" else pa.array(["q0", "q1", "q2"])
    table = pa.table({"prompt": prompts, "completion": ["a"] * 3, "more": cells})
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    dataset = read(store, path)
    assert told(dataset) == ["q0", "q2"]
    bad = dataset.quarantine()
    assert bad["line"].to_list() == [2]
    assert bad["reason"][0].split(":")[0] == reason.split(":")[0]
    assert bad["excerpt"][0].startswith("prompt: q")


def test_bytes_that_are_text_are_text_and_others_no_content(store, tmp_path):
    rows = [
        {"prompt": "é".encode(), "completion": b"a", "raw": b"\xff\x00", "note": b"text"},
        {"prompt": b"\xff\xfe", "completion": b"a", "raw": None, "note": None},
        {"prompt": b"q", "completion": b"\x89PNG\xff", "raw": None, "note": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    dataset = read(store, tmp_path / "a.parquet")
    assert told(dataset) == ["é"]
    assert json.loads(dataset.frame()["meta"][0]) == {"note": "text", "raw": "/wA="}
    assert dataset.quarantine()["reason"].to_list() == [
        "bad_field: prompt",
        "bad_field: completion",
    ]


def test_numbers_and_dates_as_json_holds_them(store, tmp_path):
    row = {
        **GOOD,
        "exact": decimal.Decimal("12345678901234567890.12"),
        "short": decimal.Decimal("0.50"),
        "day": datetime.date(2026, 1, 2),
        "map": {"k": 1},
        "nan": [float("nan"), float("inf"), 1.0],
    }
    schema = pa.schema(
        [
            *((name, pa.string()) for name in GOOD),
            ("exact", pa.decimal128(22, 2)),
            ("short", pa.decimal128(5, 2)),
            ("day", pa.date32()),
            ("map", pa.map_(pa.string(), pa.int64())),
            ("nan", pa.list_(pa.float64())),
        ]
    )
    pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / "a.parquet")
    meta = json.loads(read(store, tmp_path / "a.parquet").frame()["meta"][0])
    assert meta == {
        "day": "2026-01-02",
        "exact": "12345678901234567890.12",
        "map": {"k": 1},
        "nan": [None, None, 1.0],
        "short": 0.5,
    }


def test_messages_that_are_maps(store, tmp_path):
    """As Spark writes them."""
    turn = pa.map_(pa.string(), pa.string())
    chat = [[("role", "user"), ("content", "q")], [("role", "assistant"), ("content", "a")]]
    table = pa.table({"messages": pa.array([chat], pa.list_(turn))})
    pq.write_table(table, tmp_path / "a.parquet")
    assert told(read(store, tmp_path / "a.parquet")) == ["q"]


def test_columns_and_keys_that_stand_twice_are_said(store, tmp_path):
    twice = pa.table([["q"], ["a"], ["b"]], names=["prompt", "completion", "completion"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet names a column twice: completion; give"):
        read(store, tmp_path / "a.parquet")
    path = str(tmp_path / "a.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, twice.schema) as writer:
        writer.write_table(twice)
    with pytest.raises(ValueError, match=r"a\.arrow names a column twice: completion"):
        read(store, tmp_path / "a.arrow")
    struct = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["k", "k"])
    pq.write_table(
        pa.table({"prompt": ["q"], "completion": ["a"], "s": struct}), tmp_path / "b.parquet"
    )
    with pytest.raises(ValueError, match=r"none of the 1 rows .* \(duplicate_key: s\)"):
        read(store, tmp_path / "b.parquet")


ROWS = [
    '{"prompt": "q0", "completion": "a"}',
    '{"prompt": "q1", "completion": "a", "completion": "b"}',
    '{"prompt": "q2", "completion": "a", "meta": {"k": [{"v": 1, "v": 2}]}}',
    '{"prompt": "q3", "completion": "a", "completion": "a"}',
    '{"prompt": "q4", "completion": NaN}',
    '{"prompt": "q5", "completion": 1e999}',
    '{"prompt": "q6", "completion": 3.0, "score": -Infinity, "n": ' + "9" * 5_000 + "}",
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "\n".join(ROWS)),
        ("a.json", "[" + ",\n".join(ROWS) + "]"),
        ("b.json", '{"data": [' + ",\n".join(ROWS) + '], "score": NaN}'),
    ],
)
def test_json_keys_and_numbers(store, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    dataset = read(store, tmp_path / name)
    assert told(dataset) == ["q0", "q3", "q6"]
    assert dataset.quarantine()["reason"].to_list() == [
        "duplicate_key: completion",
        "duplicate_key: v",
        "missing_field: completion",
        "missing_field: completion",
    ]
    assert '"q1"' in dataset.quarantine()["excerpt"][0]
    assert dataset.frame()["meta"].to_list() == ["{}"] * 3


@pytest.mark.parametrize("key", ["extra", "tool_calls"])
def test_json_inside_a_row(store, tmp_path, key):
    call = '[{"name": "f", "arguments": {"a": NaN, "b": 1e999, "c": [Infinity]}}]'
    turn = {
        "role": "assistant",
        "content": "a",
        key: f'{{"x": {call}}}' if key == "extra" else call,
    }
    rows = [{"messages": [{"role": "user", "content": "q"}, turn]}]
    rows += [{**GOOD, "tools": f'{{"x": {call}}}', "meta": f'{{"x": {call}}}'}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = read(store, tmp_path / "a.jsonl").frame()
    for column in ("meta", "tools", "messages"):
        for value in frame[column].to_list():
            texts = [value] if isinstance(value, str) else [t["extra"] for t in value or ()]
            for text in filter(None, texts):
                json.loads(text, parse_constant=pytest.fail)
