"""Published rows read back: the records that were selected, with their weights and masks."""

import json

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


def test_what_is_no_whole_dataset_is_refused_in_one_sentence(store, tmp_path):
    folder, _ = exported(tmp_path, "document")
    home = folder.parent
    (home / "latest").unlink()
    with pytest.raises(ValueError, match=f"has no `latest`.*was promoted.*{folder.name}") as held:
        version_of(home)
    assert version_of(folder).folder == folder
    manifest = json.loads((folder / "manifest.json").read_text())
    none = {**manifest, "rows": {**manifest["rows"], "default/train": 0}}
    (folder / "manifest.json").write_text(json.dumps(none))
    with pytest.raises(ValueError, match="ships no row in its split train") as empty:
        version_of(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"is not a published dataset \(manifest.json") as strange:
        version_of(folder)
    with pytest.raises(ValueError, match="there is no folder") as missing:
        version_of(tmp_path / "elsewhere")
    for error in (held, empty, strange, missing):
        assert len(str(error.value).splitlines()) == 1


def test_a_damaged_dataset_is_not_trained_on(store, tmp_path):
    folder, _ = exported(tmp_path, "document")
    version = version_of(folder)
    (shard,) = folder.glob("data/*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"is not as it was published \(data/.*does not match"):
        read_back(version, store)


def test_rows_of_weight_nought_alone_teach_nothing(store, tmp_path):
    folder, _ = exported(tmp_path, "document", weights=(0.0,))
    with pytest.raises(ValueError, match="have the weight 0: nothing would be learnt"):
        read_back(version_of(folder), store)


def test_rows_that_are_not_those_of_the_ledger_are_refused(store, tmp_path, monkeypatch):
    """As from a release that reads rows otherwise than the one that published them."""
    from gristmill.pipeline.road import published

    folder, _ = exported(tmp_path, "document")
    whole = published._rows
    changed = pl.col("id").str.reverse()
    monkeypatch.setattr(published, "_rows", lambda *given: whole(*given).with_columns(id=changed))
    with pytest.raises(ValueError, match="keeps 11 rows in its ledger, and 0 of them read back"):
        read_back(version_of(folder), store)


def test_copies_of_a_row_have_a_weight_each(store, tmp_path):
    """Kept by hand, with other weights: each copy is trained on with its own."""
    (tmp_path / "made").mkdir()
    rows = [{"text": "Twice."}, {"text": "Once."}, {"text": "Twice."}]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    dataset = ingest(Store(root=tmp_path / "made"), [Source(path=str(source))])
    book = ledger(dataset.frame(), keep=3, kind="document").sort("row")
    book = book.with_columns(weight=pl.Series([0.5, 1.0, 2.0]))
    asked = Publication(root=tmp_path / "out", name="toy", selection=SELECTION)
    back = read_back(version_of(export(book, dataset, asked)), store).train
    found = sorted(back.select("text", "weight").rows())
    assert found == [("Once.", 1.0), ("Twice.", 0.5), ("Twice.", 2.0)]
