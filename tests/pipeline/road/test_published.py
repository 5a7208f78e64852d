"""Published rows read back: the records that were selected, with their weights and masks."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from published import SELECTION, ledger
from rows import chat_rows, pair_rows, write_jsonl

from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.finetune import data
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.schema import CONTENT
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.road.published import read_back, version_of


def chats():
    """Tool calls, a turn that carries no loss, reasoning, and plain turns beside them."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": [None, "é"]}}}
    odd = [
        [
            {"role": "user", "content": "Use it."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2", "name": "f"},
            {"role": "assistant", "content": "Two.", "reasoning_content": "Hm."},
        ],
        [
            {"role": "user", "content": "First?"},
            {"role": "assistant", "content": "Shown, not learnt.", "weight": 0},
            {"role": "user", "content": "Second?"},
            {"role": "assistant", "content": "Learnt.", "weight": 1},
        ],
        [
            {"role": "user", "content": " white\n space "},
            {"role": "assistant", "content": "\tkept  \n"},
        ],
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    return [{"messages": m, "tools": tools} for m in odd] + chat_rows(9)


def documents():
    return [{"text": f"Text {i}.\n\n" + "word " * i} for i in range(12)]


MADE = {"example": chats, "pair": lambda: pair_rows(12), "document": documents}


def exported(tmp_path, kind, weights=(0.25, 0.0, 1.5, None), **options):
    """A version of most rows of a kind, with weights in turn; the records beside it."""
    (tmp_path / "made").mkdir()
    source = write_jsonl(tmp_path / "rows.jsonl", MADE[kind]())
    dataset = ingest(Store(root=tmp_path / "made"), [Source(path=str(source))])
    records = dataset.frame()
    book = ledger(records, keep=records.height - 1, kind=kind)
    cycled = [weights[i % len(weights)] for i in range(book.height)]
    book = book.with_columns(weight=pl.Series(cycled, dtype=pl.Float64))
    asked = Publication(root=tmp_path / "out", name="toy", selection=SELECTION, **options)
    folder = export(book, dataset, asked)
    kept = book.filter(verdict="kept").select("id", weight=pl.col("weight").fill_null(1.0))
    return folder, records.join(kept, on="id", how="inner", validate="1:1")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("example", {}),
        ("example", {"validation_fraction": 0.3, "in_order": True}),
        ("example", {"sft_view": "prompt_completion"}),
        ("pair", {"pair_views": ("single", "conversation")}),
        ("document", {"validation_fraction": 0.3}),
    ],
)
def test_rows_read_back_as_the_records_that_were_exported(kind, options, store, tiny, tmp_path):
    folder, records = exported(tmp_path, kind, **options)
    back = read_back(version_of(folder.parent), store)
    assert back.version.folder == folder
    both = pl.concat([back.train, back.validation])
    assert back.validation.height == back.version.rows("validation")
    assert bool(options.get("validation_fraction")) == (back.validation.height > 0)
    columns = ["id", *CONTENT[kind], "weight"]
    assert_frame_equal(both.select(columns), records.select(columns), check_row_order=False)
    assert data.fingerprint(both) == data.fingerprint(records)
    assert data.fingerprint(both) != data.fingerprint(records.drop("weight"))
    shape = "pair" if kind == "pair" else "sequence"
    chat = load_tokenizer(resolve(str(tiny), store))
    tokens = [data.token_rows(frame, shape, chat).sort("id") for frame in (both, records)]
    assert tokens[0].equals(tokens[1]), "tokens and masks are those of the records"
    assert any("weight 0 and teach nothing" in note for note in back.notes)


def test_a_turn_that_carries_no_loss_carries_none_when_read_back(store, tiny, tmp_path):
    folder, records = exported(tmp_path, "example")
    chat = load_tokenizer(resolve(str(tiny), store))
    masked = records.filter(
        pl.col("messages").list.get(1).struct.field("content").str.starts_with("Shown")
    )
    assert masked.height == 1
    rows = read_back(version_of(folder), store).train.filter(pl.col("id") == masked["id"][0])
    labels = data.token_rows(rows, "sequence", chat)["labels"][0].to_list()
    learnt = chat.tokenizer.decode([t for t in labels if t != data.IGNORED])
    assert "Learnt." in learnt
    assert "Shown" not in learnt
