"""Export: what is published loads everywhere, is the same every time, and can be proved whole."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import polars as pl
import pyarrow.parquet as pq
import pytest
import warm
import yaml
from published import SELECTION, chats, frame, ledger, pairs, publish, stored, tool_chats, turn

from gristmill.pipeline.export import changes, loaders, provenance, shards, verify, versions
from gristmill.pipeline.export.ledgers import ledgers
from gristmill.pipeline.export.pool import HeldOut
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.export.push import push
from gristmill.pipeline.records import licenses
from gristmill.pipeline.records.sealed import read_sealed
from gristmill.pipeline.report.rendered import Rendered

datasets.disable_progress_bars()


def load(folder: Path, *args, cache: Path, **options):
    return datasets.load_dataset(str(folder), *args, cache_dir=str(cache), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One published version with a validation split."""
    from gristmill.pipeline.records.store import Store

    base = tmp_path_factory.mktemp("whole")
    (base / "store").mkdir()
    return publish(base / "out", Store(root=base / "store"), validation_fraction=0.2)


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def shipped(folder: Path, split="*") -> pl.DataFrame:
    return pl.read_parquet(folder / "data" / f"{split}-*.parquet")


def test_it_loads_without_arguments_streaming_and_through_latest(whole, tmp_path):
    for path in (whole, whole.parent / "latest"):
        plain = load(path, cache=tmp_path)
        assert {k: len(v) for k, v in plain.items()} == {
            s: shipped(whole, s).height for s in ("train", "validation")
        }
        assert sum(map(len, plain.values())) == 30
        row = plain["train"][0]
        assert [sorted(m) for m in row["messages"]] == [["content", "role"]] * len(row["messages"])
        assert set(row) == {"messages", "id", "source", "license", "split_group", "score_toy"}
        stream = load(path, cache=tmp_path, streaming=True)
        assert [r["id"] for r in stream["train"]] == plain["train"]["id"]
        book = load(path, "ledger", cache=tmp_path)
        assert list(book) == ["pool"]
        assert len(book["pool"]) == 90
        assert sum(v == "kept" for v in book["pool"]["verdict"]) == 30


def test_the_folder_is_the_contract(whole):
    names = {p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()}
    assert names == {
        "README.md",
        "LICENSES.md",
        "CHANGELOG.md",
        "SHA256SUMS",
        "_SUCCESS",
        "manifest.json",
        "croissant.json",
        "dataset_info.json",
        "run.json",
        "loaders/trl.yaml",
        "loaders/axolotl.yaml",
        "loaders/open_instruct.txt",
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
        "ledger/pool-00000-of-00001.parquet",
    }
    meta = pq.ParquetFile(whole / "data/train-00000-of-00001.parquet").metadata
    assert meta.row_group(0).column(0).has_column_index
    assert (whole.parent / "latest").readlink() == Path(whole.name)
    ledger = pl.read_parquet(whole / "ledger/*.parquet")
    assert "messages" not in ledger.columns
    taken = ledger.filter(verdict="kept")["score"]
    assert ledger["threshold"].unique().to_list() == [taken.min()]


def test_the_same_inputs_give_the_same_bytes_however_they_are_sharded(tmp_path, store):
    first = publish(tmp_path / "a", store, shards=1, run={"started": "then"})
    again = publish(tmp_path / "a", store, shards=1, run={"started": "now"})
    assert first == again
    assert read_sealed(first / "run.json") == {"started": "then"}
    other = publish(tmp_path / "b", store, shards=1, run={"started": "now"})
    sums = [(f / "SHA256SUMS").read_bytes() for f in (first, other)]
    assert sums[0] == sums[1]
    # other shards are another dataset to the store, so another key; the data bytes are the same
    records = frame(chats(90))
    shuffled = ledger(records, 30).sample(fraction=1, shuffle=True, seed=1)
    dealt = publish(tmp_path / "c", store, book=shuffled, rows=chats(90), shards=1)
    assert dealt.name == first.name
    for name in ("data/train-00000-of-00001.parquet", "ledger/pool-00000-of-00001.parquet"):
        assert (dealt / name).read_bytes() == (first / name).read_bytes()


def test_another_setting_is_another_version_and_latest_follows(tmp_path, store):
    one = publish(tmp_path, store)
    two = publish(tmp_path, store, keep=20)
    assert [one.name[:3], two.name[:3]] == ["v1-", "v2-"]
    assert (tmp_path / "toy/latest").resolve() == two
    assert publish(tmp_path, store) == one
    assert (tmp_path / "toy/latest").resolve() == one
    assert "dropped" in (two / "CHANGELOG.md").read_text()
    assert (two / "CHANGELOG.md").read_text().count("\n## v") == 2
    assert not list((tmp_path / "toy").glob(".v*"))


def test_a_damaged_version_is_never_served(tmp_path, store):
    folder = publish(tmp_path, store)
    shard = folder / "data/train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"damaged \(data/train-.* is missing or cut"):
        publish(tmp_path, store)
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json is missing"):
        publish(tmp_path, store)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_of_the_users_is_refused_by_name_and_left_alone(tmp_path, store):
    home = tmp_path / "toy"
    for name in ("chapter1.tex", ".vscode/settings.json", ".venv/bin/python", "v2-draft/notes.md"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    before = everything(home)
    with pytest.raises(ValueError, match=r"toy holds \.venv and no published version") as refused:
        publish(tmp_path, store)
    assert str(home) in str(refused.value)
    assert everything(home) == before
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "toy").write_text("mine")
    with pytest.raises(ValueError, match=r"toy is a file"):
        publish(tmp_path / "file", store)


def test_a_dataset_stands_for_the_version_that_was_promoted(tmp_path, store):
    version = publish(tmp_path, store)
    home = version.parent
    assert versions.rows_of(str(home)) == str(version)
    for other in (str(version), str(home / "latest"), str(tmp_path), "nowhere.jsonl"):
        assert versions.rows_of(other) == other
    (home / "latest").unlink()  # as a gate leaves a dataset whose only version it holds
    for reads in (versions.rows_of, ledgers):
        with pytest.raises(ValueError, match=r"has no `latest`, so none of its 1 version was prom"):
            reads(home)
    assert ledgers(version)


def test_what_a_user_puts_beside_versions_stays(tmp_path, store):
    first = publish(tmp_path, store)
    home = first.parent
    (home / ".vscode").mkdir()
    (home / ".vscode" / "settings.json").write_text("{}")
    (home / "v9-notes").mkdir()
    second = publish(tmp_path, store, keep=20)
    assert second.name.startswith("v2-")
    assert (home / ".vscode" / "settings.json").read_text() == "{}"
    assert (home / "v9-notes").is_dir()
    (second / "_SUCCESS").unlink()
    (second / "README.md").write_text("my own words")
    with pytest.raises(ValueError, match=r"v2-\w+ is not a whole version"):
        publish(tmp_path, store, keep=20)
    assert (second / "README.md").read_text() == "my own words"
    (home / "latest").unlink()
    (home / "latest").mkdir()
    with pytest.raises(ValueError, match=r"latest is not a link"):
        publish(tmp_path, store)


def test_sums_check_with_the_ordinary_tool(whole):
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=whole, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ")[1] for line in (whole / "SHA256SUMS").read_text().splitlines()}
    present = {p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()}
    assert present - listed == {"SHA256SUMS", "_SUCCESS", "run.json"}


def test_verify_finds_one_flipped_byte_in_any_file(copied):
    assert verify.verify(copied) == []
    for path in sorted(p for p in copied.rglob("*") if p.is_file()):
        raw = path.read_bytes()
        path.write_bytes(raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:])
        assert verify.verify(copied), f"a flipped byte in {path.name} went unseen"
        path.write_bytes(raw)
    assert verify.verify(copied) == []


def test_verify_names_what_is_missing_extra_or_unfinished(copied, tmp_path):
    (copied / "data/extra.parquet").write_bytes(b"x")
    assert verify.verify(copied) == ["data/extra.parquet is not listed in SHA256SUMS"]
    (copied / "data/extra.parquet").unlink()
    (copied / "LICENSES.md").unlink()
    assert verify.verify(copied) == ["LICENSES.md is missing"]
    (copied / "_SUCCESS").unlink()
    assert "_SUCCESS is missing" in verify.verify(copied)[0]
    assert "is not a folder" in verify.verify(tmp_path / "nowhere")[0]


def test_verify_compares_the_card_with_the_files(copied):
    card = copied / "README.md"
    text = card.read_text().replace("num_examples: 90", "num_examples: 91")
    card.write_text(text)
    (copied / "SHA256SUMS").unlink()
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").unlink()
    del manifest["files"]
    verify.seal(copied, manifest)
    verify.succeed(copied)
    assert verify.verify(copied) == [
        "ledger/pool: 90 rows in the files, 90 in manifest.json, 91 in README.md"
    ]


def test_the_card_says_what_the_files_hold(whole):
    head = yaml.safe_load((whole / "README.md").read_text().split("---\n")[1])
    assert head["license"] == "other"  # one source is MIT, the other says nothing
    assert head["license_link"] == "LICENSES.md"
    assert head["source_datasets"] == ["org/other"]
    assert "language" not in head
    text = (whole / "README.md").read_text()
    assert "**Not checked.**" in text
    licences = (whole / "LICENSES.md").read_text()
    assert "| org/other | abc123 | unknown | none certain |" in licences
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["rows"]["ledger/pool"] == 90
    assert not {"created", "cost", "environment", "run_id"} & set(manifest)


@pytest.mark.parametrize(
    ("declared", "ident"),
    [
        ("MIT", "MIT"),
        ("the MIT License", "MIT"),
        ("apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("ODC-BY-1.0", "ODC-By-1.0"),
        ("CC BY-SA 3.0", "CC-BY-SA-3.0"),
        ("CC BY", None),
        ("Apache", None),
        ("BSD", None),
        ("CC BY 4.0, Apache-2.0", None),
        ("Llama 3 Community License", None),
        (None, None),
    ],
)
def test_a_licence_has_an_spdx_id_only_where_it_is_certain(declared, ident):
    assert licenses.spdx(declared) == ident


def test_licences_are_never_filled_in():
    assert licenses.common(["MIT", "MIT License"]) == "mit"
    assert licenses.common(["MIT", None]) == "other"
    assert licenses.common([None]) == "unknown"
    assert "non-commercial" in licenses.terms("CC-BY-NC-4.0")
    assert "share alike" in licenses.terms("CC BY-SA 3.0")
    assert licenses.terms("MIT") == []


CROISSANT = """
import json, sys, mlcroissant
for path in sys.argv[1:]:
    dataset = mlcroissant.Dataset(path)
    assert not dataset.metadata.ctx.issues.errors, dataset.metadata.ctx.issues.report()
    for config in dataset.metadata.record_sets:
        rows = list(dataset.records(config.id))
        print(json.dumps([config.id, len(rows), str(rows)]))
"""


def test_croissant_validates_and_reads_every_config(whole, tmp_path, store):
    rich = publish(tmp_path / "rich", store, rows=tool_chats(), keep=12)
    views = publish(tmp_path / "p", store, kind="pair", pair_views=("conversation", "single"))
    paths = [str(f / "croissant.json") for f in (whole, rich, views)]
    done = subprocess.run(
        [sys.executable, "-c", CROISSANT, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    read = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r[:2] for r in read] == [
        ["default", 30],
        ["ledger", 90],
        ["default", 12],
        ["ledger", 12],
        ["default", 30],
        ["conversation", 30],
        ["single", 30],
        ["ledger", 90],
    ]
    assert "b'assistant'" in read[0][2]
    assert ["tool_calls" in text for _, _, text in read] == [i == 2 for i in range(8)]
    document = json.loads((whole / "croissant.json").read_text())
    assert document["license"] == ["https://spdx.org/licenses/MIT.html"]  # of those that say so
    assert [s["prov:label"] for s in document["prov:wasDerivedFrom"]] == [
        "maths.jsonl",
        "org/other",
    ]


def test_near_copies_and_equal_prompts_never_straddle(tmp_path, store):
    rows = chats(120)
    for i in range(0, 40, 2):  # same prompt, other answer
        rows[i + 1]["messages"] = [rows[i]["messages"][0], turn("assistant", f"Otherwise {i}.")]
    records = frame(rows)
    book = ledger(records, 120)
    clusters = {ident: f"c{i // 3}" for i, ident in enumerate(records["id"][30:90])}
    book = book.with_columns(cluster=pl.col("id").replace_strict(clusters, default=None))
    folder = publish(tmp_path, store, rows=rows, book=book, validation_fraction=0.3)
    sides = pl.concat(
        [shipped(folder, s).select("id", side=pl.lit(s)) for s in ("train", "validation")]
    )
    sides = sides.join(records.select("id", "messages"), on="id").with_columns(
        prompt=pl.col("messages").list.first().struct.field("content"),
        cluster=pl.col("id").replace_strict(clusters, default=None),
    )
    assert sides.height == 120
    assert 10 < sides.filter(side="validation").height < 70
    for tie in ("prompt", "cluster"):
        ties = sides.filter(pl.col(tie).is_not_null()).group_by(tie)
        assert ties.agg(pl.col("side").n_unique())["side"].max() == 1


def test_groups_are_the_connected_components():
    table = pl.DataFrame(
        {
            "cluster": ["a", "a", None, "b", None, None],
            "prompt_hash": ["1", "2", "2", "3", "3", "9"],
        }
    )
    groups = provenance.split_groups(table)
    assert groups.to_list() == ["1", "1", "1", "3", "3", "9"]


def held_out(names, fraction):
    held = HeldOut(fraction=fraction, seed=0)
    for name in names:
        held.see(name)
    return set(filter(held.out, names))


def test_a_held_out_group_stays_held_out_when_the_pool_grows():
    names = pl.Series([f"g{i}" for i in range(400)])
    small, large = (held_out(names[:n], 0.1) for n in (200, 400))
    assert small == {g for g in large if g in set(names[:200])}
    assert len(held_out(names[:2], 0.001)) == 1
    assert len(held_out(names[:2], 0.999)) == 1


def test_reference_rows_are_never_shipped(tmp_path, store):
    records = frame(chats(90))
    best = ledger(records, 30).filter(verdict="kept")["id"][0]
    with pytest.raises(ValueError, match=f"reference rows, first {best}"):
        publish(tmp_path, store, references={best})
    assert not list((tmp_path / "toy").glob("v*"))


def test_a_ledger_of_other_records_is_refused(tmp_path, store):
    book = ledger(frame(chats(100)), 100)
    with pytest.raises(ValueError, match="not of the same ingest"):
        publish(tmp_path, store, n=90, book=book)
    with pytest.raises(ValueError, match="keeps no row"):
        publish(tmp_path, store, keep=0)


def test_quarantined_rows_stand_in_the_ledger(tmp_path, store):
    book = ledger(frame(chats(90)), 30)
    broken = book.head(1).with_columns(
        id=pl.lit("broken"),
        source=pl.lit("maths.jsonl"),
        row=pl.lit(999, pl.Int64),
        score=None,
        verdict=pl.lit("quarantined"),
        reason=pl.lit("quarantine: no JSON"),
        stage=pl.lit("ingest"),
    )
    folder = publish(tmp_path, store, book=pl.concat([book, broken]))
    public = pl.read_parquet(folder / "ledger/*.parquet")
    assert public.height == 91
    assert public.filter(verdict="quarantined")["split_group"].to_list() == ["broken"]
    assert verify.verify(folder) == []


def test_tool_calls_come_back_as_they_were_and_nowhere_else(tmp_path, store):
    folder = publish(tmp_path / "out", store, rows=tool_chats(), keep=12)
    for options in ({}, {"streaming": True}):
        rows = list(load(folder, cache=tmp_path / "c", split="train", **options))
        (tooled,) = (r for r in rows if r["tools"])
        assert tooled["messages"][1] == {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}],
        }
        assert tooled["messages"][2]["name"] == "f"
        assert json.loads(tooled["tools"])[0]["function"]["name"] == "f"
        assert json.loads((folder / "dataset_info.json").read_text()) == {}
        assert "turns are JSON" in (folder / "README.md").read_text()
        for row in rows:  # a template that asks `'tool_calls' in message` must find none here
            if row is not tooled:
                assert all(set(m) == {"role", "content"} for m in row["messages"])


def test_pairs_have_one_answer_a_side_and_views_on_request(tmp_path, store):
    folder = publish(tmp_path / "o", store, kind="pair", pair_views=("conversation", "single"))
    default = load(folder, cache=tmp_path)["train"][0]
    assert [m["role"] for m in default["prompt"] + default["chosen"]] == ["user", "assistant"]
    talk = load(folder, "conversation", cache=tmp_path)["train"][0]
    assert talk["rejected"] == default["prompt"] + default["rejected"]
    assert "prompt" not in talk
    single = load(folder, "single", cache=tmp_path)["train"][0]
    assert single["chosen"] == default["chosen"][0]
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["toy"]["subset"] == "single"
    assert (
        "conversation/train-00000-of-00001.parquet"
        in (folder / "loaders/open_instruct.txt").read_text()
    )
    bare = publish(tmp_path / "b", store, kind="pair")
    assert json.loads((bare / "dataset_info.json").read_text()) == {}
    assert not (bare / "single").exists()


def test_a_pair_whose_answer_is_two_turns_is_refused(tmp_path, store):
    rows = pairs(9)
    rows[3]["chosen"] = [turn("assistant", "a"), turn("user", "b")]
    with pytest.raises(ValueError, match=r"1 kept rows cannot be shown.*one assistant message"):
        publish(tmp_path, store, rows=rows, kind="pair", keep=9)


def test_prompt_completion_splits_at_the_last_answer(tmp_path, store):
    folder = publish(tmp_path, store, sft_view="prompt_completion", keep=90)
    row = next(r for r in shipped(folder).iter_rows(named=True) if len(r["prompt"]) == 3)
    assert [m["role"] for m in row["prompt"]] == ["user", "assistant", "user"]
    assert [m["role"] for m in row["completion"]] == ["assistant"]
    assert "messages" not in row
    with pytest.raises(ValueError, match="sft_view='both' is unknown"):
        publish(tmp_path, store, sft_view="both")


def test_documents_ship_as_text(tmp_path, store):
    rows = [{"text": f"Document {i}. " * 3, "license": "CC0-1.0"} for i in range(20)]
    records = frame(rows, "document")
    book = ledger(records, 20, "document")
    asked = Publication(root=tmp_path, name="d", selection=SELECTION)
    folder = export(book, stored(store, records, "document"), asked)
    assert set(shipped(folder)["text"]) == {r["text"] for r in rows}
    assert (
        yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["license"] == "cc0-1.0"
    )


def test_rows_stand_in_the_order_of_their_ids_or_of_the_rule(tmp_path, store):
    by_id = shipped(publish(tmp_path, store))
    assert by_id["id"].is_sorted()
    ruled = shipped(publish(tmp_path, store, in_order=True))
    assert ruled["score_toy"].is_sorted(descending=True)


def test_weights_ship_only_if_they_say_something(tmp_path, store):
    assert "weight" not in shipped(publish(tmp_path, store)).columns
    book = ledger(frame(chats(90)), 30).with_columns(weight=pl.col("weight") * pl.col("rank"))
    assert shipped(publish(tmp_path, store, book=book))["weight"].max() == 30


def test_many_shards_are_numbered_and_counted(tmp_path, store, monkeypatch):
    monkeypatch.setattr(shards, "BUCKET_ROWS", 16)
    monkeypatch.setattr(shards, "SLICE_ROWS", 16)
    one = publish(tmp_path / "a", store, keep=90)
    many = publish(tmp_path / "b", store, keep=90, shard_bytes=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_BYTES", 1)
        tables = list(
            shards._groups(
                (shards.arrow(p, {"id": "string"}) for p in shipped(one).iter_slices(16)), 1
            )
        )
    assert len(tables) == 6
    assert shipped(many).equals(shipped(one))
    assert load(many, cache=tmp_path / "c")["train"].num_rows == 90


def bad_mask(name: str):
    def render(record):
        if name == "empty":
            return Rendered(tokens=["a", "b"], trained=[False, False])
        if name == "full":
            return Rendered(tokens=["a", "b"], trained=[True, True])
        if name == "cut":
            return Rendered(tokens=["a", "b"], trained=[False, True], cut=5)
        return Rendered(tokens=["a", "b"], trained=[False, True], problems=(name,))

    return render


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("empty", "empty_mask"),
        ("full", "full_mask"),
        ("stop_untrained", "stop_untrained"),
        ("bos", "exactly one BOS"),
        ("cut", "truncated"),
    ],
)
def test_a_bad_mask_stops_the_export(tmp_path, store, fault, said):
    with pytest.raises(ValueError, match=f"stops the export.*{said}"):
        publish(tmp_path, store, render=bad_mask(fault))
    assert not [p for p in (tmp_path / "toy").iterdir() if p.name.startswith(("v", "latest"))]


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from gristmill.pipeline.records.store import Store
from published import publish

at, keep, root, store = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])

def counting(call):
    def counted(*args, **options):
        global at
        at -= 1
        if at == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return counted

os.rename, os.fsync, Path.rename = map(counting, (os.rename, os.fsync, Path.rename))
Path.symlink_to = counting(Path.symlink_to)
pq.ParquetWriter.write_table = counting(pq.ParquetWriter.write_table)
publish(root, Store(root=store), keep=keep)
print(-at)
"""


def child(at: int, keep: int, root: Path, store) -> warm.Child:
    """Export in a process that dies by SIGKILL at its `at`-th write, rename, fsync or symlink."""
    return warm.Child(KILLED, at, keep, root, store.root)


@pytest.mark.fault("killed: a publication, at its writes, renames and links")
def test_killed_anywhere_a_rerun_ends_with_the_same_bytes(tmp_path, store, record_property):
    reference = publish(tmp_path / "calm", store)
    sums = (reference / "SHA256SUMS").read_bytes()
    told, _ = child(0, 30, tmp_path / "count", store).communicate()
    last = int(told)  # the tail is where the folder gets its name, its mark and its link
    moments = (1, last // 2, *range(last - 9, last + 1, 2))
    died = 0
    for batch in (moments[i : i + 3] for i in range(0, len(moments), 3)):
        children = {at: child(at, 30, tmp_path / f"kill-{at}", store) for at in batch}
        for at, process in children.items():
            process.communicate()
            died += process.returncode == -signal.SIGKILL
            root = tmp_path / f"kill-{at}"
            for folder in (root / "toy").glob("v*"):
                if (folder / "_SUCCESS").exists():  # whatever bears the mark is whole
                    assert verify.verify(folder) == []
            again = publish(root, store)
            assert again.name == reference.name
            assert (again / "SHA256SUMS").read_bytes() == sums
            assert verify.verify(again) == []
            assert (root / "toy/latest").resolve() == again
            left = {p.name for p in (root / "toy").iterdir()} - {".lock"}
            assert left == {again.name, "latest"}
    assert died == len(moments)
    record_property("fault", ("right", died))


@pytest.mark.fault("two publications at once")
def test_two_exports_at_once_do_not_share_a_number(tmp_path, store):
    stored(store, frame(chats(90)))  # the pool is there already
    children = [child(0, keep, tmp_path, store) for keep in (10, 20)]
    assert [c.communicate()[0] != "" for c in children] == [True, True]
    numbers = sorted(p.name.split("-")[0] for p in (tmp_path / "toy").glob("v*"))
    assert numbers == ["v1", "v2"]


def test_changes_tell_added_dropped_and_rescored_rows(tmp_path, store):
    old = publish(tmp_path, store, keep=30)
    records = frame(chats(96))
    book = ledger(records, 20).with_columns(
        score=pl.when(pl.col("rank") == 1).then(2.0).otherwise("score")
    )
    new = publish(tmp_path, store, n=96, book=book)
    counts = {
        (r["change"], r["reason"]): r["rows"]
        for r in changes.changes(old, new).iter_rows(named=True)
    }
    before, after = ({*shipped(f)["id"]} for f in (old, new))
    assert sum(n for (c, _), n in counts.items() if c == "added") == len(after - before)
    assert counts["dropped", "below_budget"] == len(before - after)
    assert counts["re-scored", "higher"] == 1
    with pytest.raises(ValueError, match="holds no ledger"):
        changes.changes(tmp_path, new)


class StubHub:
    """What `HfApi` would be asked."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))

    def upload_folder(self, **options):
        self.calls.append(("upload_folder", options["folder_path"], options))
        return type("Commit", (), {"oid": "c0ffee"})()

    def create_tag(self, repo_id, **options):
        self.calls.append(("create_tag", repo_id, options))


def test_push_uploads_and_tags_the_commit(copied):
    hub = StubHub()
    assert push(copied, "me/toy", api=hub) == copied.name
    assert [c[0] for c in hub.calls] == ["create_repo", "upload_folder", "create_tag"]
    assert hub.calls[0][2]["private"] is True
    assert hub.calls[2][2]["revision"] == "c0ffee"
    assert all(c[2]["repo_type"] == "dataset" for c in hub.calls)
    assert "token" not in str(hub.calls)
    (copied / "LICENSES.md").write_text("MIT, surely")
    with pytest.raises(ValueError, match="not whole and was not pushed"):
        push(copied, "me/toy", api=hub)
    with pytest.raises(ValueError, match="must be owner/name"):
        push(copied, "toy", api=hub)


def test_rules_of_other_trainers_are_checked():
    rows = [
        {
            "id": "fine",
            "messages": [turn("system", "s"), turn("user", "u"), turn("assistant", "a")],
        },
        {"id": "odd", "messages": [turn("user", "u"), turn("user", "v"), turn("assistant", "a")]},
        {"id": "open", "messages": [turn("user", "u")]},
        {
            "id": "tool",
            "messages": [turn(r, "x") for r in ("user", "assistant", "tool", "assistant")],
        },
    ]
    found = loaders.problems(pl.DataFrame(rows, schema={"id": pl.String, "messages": pl.Object}))
    assert found == [("odd", "turns do not alternate"), ("open", "turns do not alternate")]


def test_words_from_the_data_cannot_break_the_card(tmp_path, store):
    rows = chats(30)
    for row in rows:
        row["source"] = "bad | name\n---\n<script>alert(1)</script>"
        row["license"] = "MIT | <b>"
    folder = publish(tmp_path, store, rows=rows, keep=10)
    card = (folder / "README.md").read_text()
    assert "<script>" not in card.split("---\n", 2)[2]
    assert verify.verify(folder) == []
    assert load(folder, cache=tmp_path / "c")["train"].num_rows == 10


def test_a_name_is_one_folder(tmp_path):
    for name in ("", "../up", ".hidden"):
        with pytest.raises(ValueError, match="must be letters"):
            Publication(root=tmp_path, name=name, selection={})


def test_from_raw_files_to_a_published_folder(tmp_path, store):
    from rows import chat_rows, write_jsonl

    from gristmill.pipeline.ingest.ingest import Source, ingest
    from gristmill.pipeline.records.ranges import Ranges
    from gristmill.pipeline.score.rows import spread
    from gristmill.pipeline.selection.rules.top import Top
    from gristmill.pipeline.selection.selection import Budget, select

    path = write_jsonl(tmp_path / "pool.jsonl", [*chat_rows(40), *chat_rows(3)])
    with path.open("a") as file:
        file.write("no JSON\n")
    source = Source(path=str(path), name="pool", license="CC-BY-4.0", revision="r1")
    dataset = ingest(store, [source], max_bad_share=0.5)
    scores = (
        dataset.frame(["id"])
        .unique("id")
        .with_columns(
            score=pl.col("id").rank() / 100,
            tokens=pl.lit(9, pl.Int64),
            reason=pl.lit(None, pl.String),
        )
    )
    (whole,) = Ranges(dataset=dataset)
    book = select(spread(whole, scores), rule=Top(), budget=Budget(rows=10))
    asked = Publication(root=tmp_path / "out", name="raw", selection={"scorers": ["id"]})
    folder = export(book, dataset, asked)
    assert verify.verify(folder) == []
    public = pl.read_parquet(folder / "ledger/*.parquet")
    counts = dict(public.group_by("verdict").len().rows())
    assert counts == {"kept": 10, "dropped": 33, "quarantined": 1}
    assert public.filter(reason="exact_duplicate").height == 3
    assert public.filter(pl.col("user_id").is_not_null()).height == 43  # the user's own ids stay
    (line,) = json.loads((folder / "manifest.json").read_text())["sources"]
    assert (line["id"], line["license"], line["revision"]) == ("pool", "CC-BY-4.0", "r1")
    assert (line["rows_in"], line["rows_out"]) == (44, 10)
    header = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert header["license"] == "cc-by-4.0"


def flipped(path: Path, at: int | None = None) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 if at is None else at] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["records-00000.parquet", "records-00001.parquet"])
def test_records_that_changed_on_the_disk_are_not_published(tmp_path, store, name):
    records = frame(chats(60))
    dataset = stored(store, records)
    flipped(dataset.entry.path / name)
    asked = Publication(root=tmp_path, name="toy", selection=SELECTION)
    with pytest.raises(
        ValueError, match=f"{name} .* does not match its sha256 .*: remove the folder"
    ):
        export(ledger(records, 9), dataset, asked)
    assert not list((tmp_path / "toy").glob("v*"))
    assert verify.verify(publish(tmp_path, store, n=60, keep=9)) == []  # the store made it again


@pytest.mark.parametrize("name", ["CHANGELOG.md", "ledger/pool-00000-of-00001.parquet", "_SUCCESS"])
def test_changes_against_a_damaged_version_are_not_told(tmp_path, store, name):
    flipped(publish(tmp_path, store, n=30, keep=9) / name, 5)
    with pytest.raises(
        ValueError, match=rf"is not as it was published \({name.split('.')[0]}.* does"
    ):
        publish(tmp_path, store, n=30, keep=10)


def test_an_export_does_not_answer_with_a_version_that_has_a_flipped_byte(tmp_path, store):
    folder = publish(tmp_path, store, n=30, keep=9)
    for name in ("data/train-00000-of-00001.parquet", "run.json", "README.md"):
        raw = (folder / name).read_bytes()
        flipped(folder / name)
        with pytest.raises(
            ValueError, match=rf"is damaged \({name} .*: remove it and export again"
        ):
            publish(tmp_path, store, n=30, keep=9)
        (folder / name).write_bytes(raw)
    assert publish(tmp_path, store, n=30, keep=9) == folder


def test_verify_tells_of_a_lost_or_edited_run_file(copied):
    run = copied / "run.json"
    for text in ("{}", run.read_text().replace("{", "{ "), ""):
        run.write_text(text)
        assert verify.verify(copied) == ["run.json is missing or does not match its checksum"]
    run.unlink()
    assert verify.verify(copied) == ["run.json is missing or does not match its checksum"]
