"""Sources: which files of a folder are read, which split, under which licence; what is said."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import chat_rows, write_jsonl

from gristmill.pipeline.ingest import bounds, cards, splits
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.ingest.packing import stem, suffixes
from gristmill.pipeline.ingest.sources import find


def qa(*questions: str) -> list[dict]:
    return [{"prompt": q, "completion": "a"} for q in questions]


@pytest.fixture
def read(store, tmp_path, caplog):
    """Questions that are read of a path below the test's folder, and what the run said."""

    def call(name: str = "", **options: object) -> tuple[list[str], str]:
        caplog.clear()
        dataset = ingest(store, [Source(path=str(tmp_path / "d" / name), **options)])
        asked = dataset.frame()["messages"].list.first().struct.field("content")
        call.dataset = dataset
        return asked.to_list(), " | ".join(r.getMessage() for r in caplog.records)

    return call


def write(root: Path, names: list[str]) -> None:
    for name in names:
        path = root / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(qa(name)[0]) + "\n")


# ---------------------------------------------------------------- splits

LAYOUTS = {
    "files": (["train.jsonl", "test.jsonl"], ["train.jsonl"]),
    "packed": (["train.jsonl.gz", "validation.jsonl.gz"], ["train.jsonl.gz"]),
    "csv in upper case": (["Train.jsonl", "TEST.jsonl"], ["Train.jsonl"]),
    "words within": (["gsm8k_train.jsonl", "gsm8k-dev2.jsonl"], ["gsm8k_train.jsonl"]),
    "folders": (
        ["train/a.jsonl", "train/b.jsonl", "eval/a.jsonl"],
        ["train/a.jsonl", "train/b.jsonl"],
    ),
    "a folder of a folder": (["x/testing/a.jsonl", "x/training/a.jsonl"], ["x/training/a.jsonl"]),
    "all in one folder": (
        ["test_set/train.jsonl", "test_set/test.jsonl"],
        ["test_set/train.jsonl"],
    ),
    "names inside folders": (["train/eval_a.jsonl", "test/eval_a.jsonl"], ["train/eval_a.jsonl"]),
    "both words": (["train_test/train.jsonl", "train_test/test.jsonl"], ["train_test/train.jsonl"]),
    "no split": (["maths.jsonl", "latest.jsonl"], ["latest.jsonl", "maths.jsonl"]),
    "some name one": (["maths.jsonl", "val.jsonl"], ["maths.jsonl"]),
    "the hub": (
        [
            f"data/{s}.jsonl"
            for s in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
        ],
        [f"data/train-0000{i}-of-00002.jsonl" for i in range(2)],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_train_is_read_and_the_rest_is_said(read, tmp_path, name):
    files, expected = LAYOUTS[name]
    for file in files:
        if file.endswith(".gz"):
            (tmp_path / "d").mkdir(exist_ok=True)
            raw = json.dumps(qa(file)[0]).encode()
            (tmp_path / "d" / file).write_bytes(gzip.compress(raw))
        else:
            write(tmp_path, [file])
    asked, told = read()
    assert sorted(asked) == expected
    for file in set(files) - set(expected):
        assert file in told
    assert (told != "") == (set(files) != set(expected))


# Here `datasets` reads all of it as one split, test rows twice, or a file of one split alone.
DEPARTURES = {"csv in upper case", "all in one folder", "both words", "no split", "some name one"}


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - DEPARTURES))
def test_splits_are_those_of_datasets(tmp_path, name):
    from datasets.data_files import get_data_patterns, resolve_pattern

    files, expected = LAYOUTS[name]
    write(tmp_path, files)
    root = str(tmp_path / "d")
    found: set[str] = set()
    for pattern in get_data_patterns(root)["train"]:
        with contextlib.suppress(FileNotFoundError):  # none of this spelling
            found |= set(resolve_pattern(pattern, base_path=root))
    assert sorted(Path(f).relative_to(root).as_posix() for f in found) == expected


def test_split_names_another_and_a_wrong_name_is_one_sentence(read, tmp_path):
    write(tmp_path, ["train.jsonl", "validation.jsonl", "test.jsonl"])
    assert read(split="validation")[0] == ["validation.jsonl"]
    assert read(split="train")[0] == ["train.jsonl"]
    with pytest.raises(
        ValueError, match=r"no split 'dev' \(near: validation\); give split= one of"
    ):
        read(split="dev")
    with pytest.raises(ValueError, match=r"no split 'tset' \(near: test\)"):
        read(split="tset")
    with pytest.raises(ValueError, match=r"train\.jsonl has no splits"):
        read("train.jsonl", split="test")
    only = write_jsonl(tmp_path / "d" / "only" / "a.jsonl", qa("a")).parent
    with pytest.raises(ValueError, match="only has no splits: leave split='test' out"):
        read(only.name, split="test")
    assert read(only.name, split="train")[0] == ["a"]


def test_splits_of_any_name_on_the_hub(read, tmp_path):
    write(
        tmp_path, [f"data/{s}-00000-of-00001.jsonl" for s in ("train_sft", "test_sft", "test_gen")]
    )
    with pytest.raises(
        ValueError, match=r"no split 'train'.*give split= one of test_gen, test_sft"
    ):
        read()
    assert read(split="train_sft")[0] == ["data/train_sft-00000-of-00001.jsonl"]
    assert read.dataset.sources[0]["name"] == "d"
    write(tmp_path, ["data/extra.jsonl"])
    assert "extra.jsonl is not read, as it belongs to no split" in read(split="train_sft")[1]


def test_the_only_split_is_read_and_named(read, tmp_path):
    write(tmp_path, ["test.jsonl"])
    assert read() == (["test.jsonl"], "d: its only split, test, is read")
    write(tmp_path, ["dev.jsonl"])
    with pytest.raises(ValueError, match=r"no split 'train'.*one of validation, test"):
        read()


# ---------------------------------------------------------------- cards

FILES = "configs:\n- data_files:\n  - {split: train, path: a*.jsonl}\n  - {split: test, path: b.jsonl}\n"
CARDS = {
    "plain": (f"---\nlicense: mit\n{FILES}---\n# card\n", "mit"),
    "line ends of Windows": (
        f"---\nlicense: mit\n{FILES}---\n# card\n".replace("\n", "\r\n"),
        "mit",
    ),
    "nothing after it": (f"\ufeff---\nlicense: mit\n{FILES}---", "mit"),
    "spaces": (f"\n--- \nlicense: ' mit'\n{FILES}---  \n# card\n", "mit"),
    "a list": (f"---\nlicense: [mit, cc0-1.0]\n{FILES}---\n", "mit, cc0-1.0"),
    "by name": (f"---\nlicense: other\nlicense_name: llama3\n{FILES}---\n", "llama3"),
    "unknown": (f"---\nlicense: unknown\n{FILES}---\n", None),
    "a mapping": (
        "---\nlicense: mit\nconfigs:\n- data_files: {train: a.jsonl, test: [b.jsonl]}\n---\n",
        "mit",
    ),
    "no configs": ("---\nlicense: mit\n---\n", "mit"),
    "a rule in the text": ("---\nlicense: mit\n---\n# card\n\n---\nmore\n", "mit"),
    "no front matter": ("# card\n---\nlicense: mit\n---\n", None),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_read_however_it_is_written(read, tmp_path, name):
    card, license = CARDS[name]
    write(tmp_path, ["a.jsonl", "b.jsonl"])
    (tmp_path / "d" / "README.md").write_bytes(card.encode())
    asked, told = read()
    assert read.dataset.frame()["license"].unique().to_list() == [license]
    assert asked == (["a.jsonl"] if "configs" in card else ["a.jsonl", "b.jsonl"])
    assert ("b.jsonl" in told) == ("configs" in card)


def test_a_card_may_say_in_which_folder_its_files_are(read, tmp_path):
    write(tmp_path, ["in/a.jsonl", "in/b.jsonl", "a.jsonl"])
    config = "configs:\n- {data_dir: in, data_files: [{split: train, path: a.jsonl}]}"
    (tmp_path / "d" / "README.md").write_text(f"---\n{config}\n---\n")
    asked, told = read()
    assert asked == ["in/a.jsonl"]
    assert "a.jsonl, in/b.jsonl" in told


def test_a_licence_that_saving_or_the_hub_noted(store, tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    info = datasets.DatasetInfo(license="cc-by-4.0")
    table = datasets.Dataset.from_list(qa("q"), info=info)
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "two"))
    for name in ("one", "two"):
        dataset = ingest(store, [Source(path=str(tmp_path / name))])
        assert dataset.frame()["license"].to_list() == ["cc-by-4.0"]
    saved = datasets.load_from_disk(str(tmp_path / "two"))
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: odc-by\n---\n")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: saved)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(card))
    loaded = ingest(store, [Source(path="hf://org/maths@abc")], allow_network=True)
    assert loaded.frame()["license"].to_list() == ["odc-by"]

    def absent(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    assert cards.of_hub("org/maths", None) is None


@given(st.lists(st.text(st.sampled_from("train-_tesdvl0. "), min_size=1, max_size=12), max_size=6))
def test_every_file_is_in_one_split(names):
    names = sorted({name.strip("./ ") + ".jsonl" for name in names})
    found = splits.by_name(names)
    assert sorted(name for held in found.values() for name in held) == names
    assert set(found) <= {"train", "validation", "test"}


# ---------------------------------------------------------------- files that are packed


def packed(codec: str, raw: bytes) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, codec) as file:
        file.write(raw)
    return stream.getvalue().to_pybytes()


def zipped(*members: tuple[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members:
            archive.writestr(name, raw)
    return made.getvalue()


ROW = json.dumps(qa("q")[0]).encode() + b"\n"
PACKED = {
    "a.jsonl.zst": packed("zstd", ROW),
    "b.jsonl.zst": packed("zstd", ROW) + packed("zstd", ROW),
    "a.jsonl.lz4": packed("lz4", ROW),
    "a.jsonl.bz2": bz2.compress(ROW),
    "a.jsonl.xz": lzma.compress(ROW),
    "a.csv.zst": packed("zstd", b"prompt,completion\nq,a\n"),
    "A.JSONL.GZ": gzip.compress(ROW),
    "plain.jsonl.gz": ROW,  # a server unpacked it on its way
    "part-00000": ROW,
    "part-00001.gz": gzip.compress(ROW),
    "a.jsonl.1": ROW,
    "a.jsonl-00000-of-00002": ROW,
    "a.jsonlines": ROW,
    "a.zip": zipped(("a.jsonl", ROW), ("b/c.csv", b"prompt,completion\nq,a\n")),
    "b.zip": zipped(("__MACOSX/._a.jsonl", b"\0"), ("a.jsonl.gz", gzip.compress(ROW))),
}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", PACKED)
def test_packed_files_are_read(read, tmp_path, name, alone):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(PACKED[name])
    asked, told = read(name if alone else "")
    assert set(asked) == {"q"}
    assert len(asked) == (2 if name in ("b.jsonl.zst", "a.zip") else 1)
    assert told == ""


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_with_suffixes_in_upper_case(read, tmp_path, suffix):
    import polars as pl

    (tmp_path / "d").mkdir()
    frame = pl.DataFrame(qa("q"))
    made = frame.write_parquet if suffix == "parquet" else frame.write_ipc
    made(tmp_path / "d" / f"A.{suffix.upper()}")
    assert read()[0] == ["q"]


def test_names_say_what_files_hold():
    assert suffixes("x/A.Jsonl.Zst") == (".jsonl", ".zst")
    assert suffixes("v1.5") == (".5", "")
    assert stem("x/a.jsonl.1") == "x/a.1"
    assert stem("a.jsonl-00001-of-00002.gz") == "a-00001-of-00002"


def test_a_zip_that_holds_too_much_is_refused(read, tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "UNPACKED", 1 << 16)
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "a.zip"
    path.write_bytes(zipped(("a.jsonl", ROW * 30_000)))
    with pytest.raises(ValueError, match=r"a\.zip unpacks to more than .* 250 times its size"):
        read("a.zip")
    lied = bytearray(path.read_bytes())  # a size that is not true
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = lied.index(mark) + at
        lied[start : start + 4] = (100).to_bytes(4, "little")
    path.write_bytes(lied)
    with pytest.raises(ValueError, match=r"a\.zip/a\.jsonl is cut short or damaged"):
        read("a.zip")
    path.write_bytes(zipped(*[(f"{i}.jsonl", ROW) for i in range(1_001)]))
    with pytest.raises(ValueError, match=r"a\.zip holds 1001 files: unpack it yourself"):
        read("a.zip")
    locked = bytearray(zipped(("a.jsonl", ROW)))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(ValueError, match=r"a\.zip is encrypted"):
        read("a.zip")
    path.write_bytes(zipped(("a.pdf", b"%PDF")))
    with pytest.raises(ValueError, match=r"a\.zip holds no file of a known format"):
        read("a.zip")


# ---------------------------------------------------------------- files that are not read


def test_files_that_are_not_read_are_counted_and_named(read, tmp_path):
    write(tmp_path, ["good.jsonl", "notice.jsonl", "_more.jsonl", ".hidden.csv", "old/_x/a.jsonl"])
    folder = tmp_path / "d"
    for name in ("a.xlsx", "b.xlsx", "c.html", "Makefile", "a.parquet.gz", "README.md", "LICENSE"):
        (folder / name).write_bytes(b"?")
    (folder / "cut.jsonl.zst").write_bytes(packed("zstd", ROW)[:6])
    (folder / "no.zip").write_bytes(b"PK")
    (folder / "linked").symlink_to(folder / "old")
    (folder / "b.zip").write_bytes(
        zipped(("a.jsonl", ROW), ("b.pdf", b"%PDF"), ("t.parquet", b"?"))
    )
    asked, told = read()
    assert sorted(asked) == ["good.jsonl", "notice.jsonl", "q"]
    assert told == (
        "d: 13 files are not read: 4 hidden or linked (.hidden.csv, _more.jsonl, linked/, ...), "
        "2 .xlsx (a.xlsx, b.xlsx), 2 that cannot be unpacked (cut.jsonl.zst, no.zip), "
        "1 .html (c.html), 1 .parquet.gz (a.parquet.gz), 1 .pdf (b.zip/b.pdf), "
        "1 tables inside an archive (b.zip/t.parquet), 1 without a suffix (Makefile); "
        "write what is data of it as JSON lines, or name it as a source"
    )


def test_pages_named_readme_are_named_among_pages(read, tmp_path, store, caplog):
    for name in ("README.md", "guide.md", "part/README.md", "LICENSE"):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("A page.\n")
    dataset = ingest(store, [Source(path=str(tmp_path / "d"))])
    assert dataset.frame()["source"].to_list() == ["guide"]
    assert "2 about the data (README.md, part/README.md)" in caplog.text


def test_a_file_that_was_cut_short_is_no_file_that_is_left(read, tmp_path):
    (tmp_path / "d").mkdir()
    rows = b"".join(json.dumps(qa(str(i) * 50)[0]).encode() + b"\n" for i in range(2_000))
    for name, raw in (("a.jsonl.gz", gzip.compress(rows)), ("a.jsonl.zst", packed("zstd", rows))):
        path = tmp_path / "d" / name
        path.write_bytes(raw[:-20])
        with pytest.raises(ValueError, match=rf"{name} is cut short or damaged"):
            read()
        path.unlink()


def test_a_pattern_is_its_files_by_their_own_names(tmp_path):
    for name in ("a/x.jsonl", "a/.hidden.jsonl", "b/x.jsonl", "b/y.jsonl", "b/y.csv", ".c/z.jsonl"):
        write_jsonl(tmp_path / name, chat_rows(1))
    asked = {"revision": None, "split": None, "cache": tmp_path / "cache"}

    def names(pattern):
        return [(f.name, f.source) for f in find(f"{tmp_path}/{pattern}", **asked)]

    assert names("*/*.jsonl") == [
        ("a/x.jsonl", "a/x"), ("b/x.jsonl", "b/x"), ("b/y.jsonl", "b/y"),
    ]  # fmt: skip
    assert names("b/y.*") == [("y.csv", "y.csv"), ("y.jsonl", "y.jsonl")]
    assert names("**/x.jsonl") == [("a/x.jsonl", "a/x"), ("b/x.jsonl", "b/x")]
    (tmp_path / "b" / "note.doc").write_text("no data")
    for pattern, sentence in (
        ("*/*.txt", "no file matches"),
        ("b/*", "note.doc has no known format"),
    ):
        with pytest.raises(ValueError, match=sentence):
            names(pattern)
    odd = write_jsonl(tmp_path / "[1].jsonl", chat_rows(1))
    assert [f.path for f in find(str(odd), **asked)] == [odd], "a file of that name is itself"
