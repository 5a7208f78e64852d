"""No NaN and no infinity in anything that is published: every reader of JSON reads all of it."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import SELECTION, chats, frame, ledger, publish

from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records.store import Store


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def check_table(path: Path) -> None:
    """Every number of a table is finite, and every text that is JSON is strict JSON."""
    frame = pl.read_parquet(path)
    for column, kind in frame.schema.items():
        if kind.is_float():
            assert frame[column].drop_nulls().is_finite().all(), column
    for text in pq.read_table(path).to_pandas().to_numpy().ravel():
        if isinstance(text, str) and text[:1] in ("{", "["):
            strict(text)
        elif not isinstance(text, (str, float, int)) and text is not None:
            for turn in text:
                strict(turn) if isinstance(turn, str) else turn


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_numbers_that_json_cannot_say_are_null_in_all_that_is_published(tmp_path, store, value):
    rows = chats(40)
    for row in rows[::2]:
        call = f'{{"tool_calls":[{{"function":{{"arguments":{{"a":{json.dumps(value)}}}}}}}]}}'
        row["messages"] = [*row["messages"][:1], {**row["messages"][1], "extra": call}]
    records = frame(rows)
    book = ledger(records, 30, score_toy=pl.lit(value), nested=pl.lit([value, 1.0]))
    book = book.with_columns(weight=pl.when(pl.col("rank") == 2).then(value).otherwise("weight"))
    selection = {**SELECTION, "settings": {"toy": {"most": value}}, "checks": [{"value": value}]}
    folder = publish(
        tmp_path,
        store,
        rows=rows,
        book=book,
        selection=selection,
        models=[{"role": "target", "scale": value}],
        contamination={"sets": ["a"], "similarity": value},
        evaluation={"gate": {"margin": value}},
        run={"seconds": value, "inner": {"cost": [value]}},
    )
    assert verify(folder) == []
    found = {p.name: strict(p.read_text("utf-8")) for p in folder.rglob("*.json")}
    assert set(found) >= {"manifest.json", "croissant.json", "run.json", "dataset_info.json"}
    assert found["manifest.json"]["selection"]["settings"] == {"toy": {"most": None}}
    assert found["run.json"]["inner"] == {"cost": [None]}
    assert ".nan" not in (folder / "README.md").read_text("utf-8").lower().split("---\n")[1]
    tables = list(folder.rglob("*.parquet"))
    assert len(tables) == 2
    for path in tables:
        check_table(path)


NUMBERS = st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4_999, "1.5"])
VALUES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]"),
        st.lists(inner, max_size=3).map(
            lambda v: "{" + ", ".join(f'"k{i}": {x}' for i, x in enumerate(v)) + "}"
        ),
    ),
    max_leaves=5,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    where=st.sampled_from(["meta", "tools", "extra", "tool_calls", "name", "note"]), value=VALUES
)
def test_no_record_holds_one_wherever_it_stood(tmp_path, where, value):
    """In a column, inside a message, as JSON and as JSON in a text."""
    root = tmp_path / "drawn"
    root.mkdir(exist_ok=True)
    inside = f'{{"role": "assistant", "content": "a", "{where}": {value}}}'
    asked = '{"role": "user", "content": "q"}'
    lines = [
        f'{{"messages": [{asked}, {inside}], "{where}": {value}}}',
        f'{{"messages": [{asked}, {inside}], "{where}": {json.dumps(value)}}}',
        '{"prompt": "q", "completion": "a"}',
    ]
    (root / "a.jsonl").write_text("\n".join(lines))
    path = root / "a.jsonl"
    for record in (
        ingest(Store(root=root), [Source(path=str(path))], max_bad_share=1).frame().to_dicts()
    ):
        strict(record["meta"])
        for text in (record["tools"], *(turn["extra"] for turn in record["messages"])):
            if text is not None:
                strict(text)
