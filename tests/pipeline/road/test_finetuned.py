"""A model of a published dataset: trained as on its records, described, written where it is asked."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
import yaml
from published import SELECTION, ledger
from rows import write_jsonl
from toy_training import one_thread  # noqa: F401

from gristmill.pipeline.evaluate.heldout import held_out_loss
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store, sha256
from gristmill.pipeline.road.finetuned import finetune
from gristmill.pipeline.road.model_card import card
from gristmill.pipeline.road.model_folder import check_free, write_folder
from gristmill.pipeline.road.model_manifest import Base, manifest
from gristmill.pipeline.road.published import read_back, version_of

SHORT = Training(epochs=2, batch_size=4, micro_batch=4, checkpoints="last", optimizer_state=False)
STAGE = Sft(training=SHORT, lora=Lora(rank=2, alpha=4.0, dropout=0.0))


def say(text, **more):
    return {"role": "user", "content": text}, {"role": "assistant", "content": text * 2, **more}


@pytest.fixture(scope="module")
def toy(tiny, tmp_path_factory):
    """A dataset with weights and a masked turn, its records, and the model that it gave."""
    root = tmp_path_factory.mktemp("toy")
    store = Store(root=root / "store")
    store.root.mkdir()
    chats = [{"messages": [*say(f"{i}?"), *say("Go on.")]} for i in range(12)]
    chats[0]["messages"][1]["weight"] = 0
    rows = write_jsonl(root / "rows.jsonl", chats)
    dataset = ingest(store, [Source(path=str(rows))])
    book = ledger(dataset.frame(), keep=12)
    weights = [0.5, 1.0, 2.0] * 4
    book = book.with_columns(weight=pl.Series(weights))
    asked = Publication(
        root=root / "out", name="toy", selection=SELECTION, validation_fraction=0.25
    )
    version = version_of(export(book, dataset, asked))
    published = read_back(version, store)
    made = finetune(published, Base(model=str(tiny)), STAGE, store)
    kept = dataset.frame().join(book.select("id", "weight"), on="id", how="inner")
    return store, published, made, kept


def test_training_on_a_dataset_is_training_on_its_records(toy, tiny):
    """The same entry of the store: rows, weights and masks are what was selected."""
    store, published, made, kept = toy
    records = kept.join(published.train.select("id"), on="id", how="semi")
    assert 0 < records.height < kept.height
    told = []
    again = train_sft(records, str(tiny), STAGE, store, run=Run(progress=lambda *a: told.append(a)))
    assert again.entry.key == made.trained.entry.key
    assert not told, "found, not trained"
    other = train_sft(records.drop("weight"), str(tiny), STAGE, store)
    assert other.entry.key != made.trained.entry.key


def test_the_card_says_what_the_model_is(toy, tiny):
    store, published, made, _ = toy
    facts, version = made.facts, published.version
    assert facts["base"]["model_sha"] == resolve(str(tiny), store).model_sha
    assert facts["dataset"]["manifest_sha256"] == sha256(version.folder / "manifest.json")
    assert facts["dataset"]["version"] == version.folder.name
    assert facts["weights"]["least"] == 0.5
    rows = facts["rows"]
    assert (rows["given"], rows["trained"]) == (published.train.height,) * 2
    held = held_out_loss(published.validation, made.reference, store).per_token
    per_token = facts["held_out"]["measures"][0]
    assert per_token["after"] == vars(held)
    losses = made.trained.metrics["loss"]
    assert (facts["training"]["loss_first"], facts["training"]["loss_last"]) == (
        losses[0],
        losses[-1],
    )
    front, _, body = made.card.removeprefix("---\n").partition("---\n")
    header = yaml.safe_load(front)
    assert header["library_name"] == "peft"
    assert header["datasets"] == ["toy"]
    assert "base_model" not in header, "a folder of this machine is nothing that the hub knows"
    for figure in (version.folder.name, f"{losses[-1]:.4f}", f"{held.value:.4f}"):
        assert figure in body, figure
    drawn = ElementTree.fromstring(made.curve)
    assert drawn.find("{http://www.w3.org/2000/svg}polyline") is not None


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({}, "No comparison of the dataset with a random selection is recorded"),
        ({"promoted": True, "sentence": "It beat random.", "rate": 1}, "was promoted: It beat"),
        ({"promoted": False, "sentence": "It did not.", "rate": 1}, "was held, not promoted: It"),
    ],
)
def test_the_card_says_what_a_gate_said_of_the_dataset(gate, said, toy, tiny):
    store, published, made, _ = toy
    told = {**published.version.manifest, "evaluation": {"gate": gate}}
    gated = replace(published, version=replace(published.version, manifest=told))
    facts = manifest(gated, Base(model=str(tiny)), STAGE, made.trained, [], store)
    assert said in card(facts)


@pytest.mark.parametrize("reference", [None, "org/base@main"])
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_the_code_of_the_card_loads_the_model(reference, stage, toy, tiny, tmp_path):
    """As a reader would run it, with the folders in the place of the names."""
    store, _, made, _ = toy
    out = write_folder(made, tmp_path / "model", store)
    base = {**made.facts["base"], **({"reference": reference} if reference else {})}
    text = card({**made.facts, "base": base, "stage": stage})
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")
    assert ("BASE" in code) == (reference is None)
    assert yaml.safe_load(text.split("---\n")[1]).get("base_model") == (
        "org/base" if reference else None
    )
    if stage == "sft":
        found = {}
        exec(code.replace("OWNER/NAME", str(out)).replace("BASE", str(tiny)), found)
        assert type(found["model"]).__name__ == "PeftModelForCausalLM"


def test_equal_work_is_found_and_other_settings_are_another_card(toy, tiny):
    store, published, made, _ = toy
    before = len(store.computed())
    again = finetune(published, Base(model=str(tiny)), STAGE, store)
    assert again.about.path == made.about.path
    assert len(store.computed()) == before, "nothing was made again"


def test_pairs_give_a_reward_model_with_its_accuracy(tiny, store, tmp_path):
    from rows import pair_rows

    dataset = ingest(store, [Source(path=str(write_jsonl(tmp_path / "p.jsonl", pair_rows(8))))])
    asked = Publication(root=tmp_path, name="pairs", selection=SELECTION, validation_fraction=0.3)
    book = ledger(dataset.frame(), keep=8, kind="pair")
    published = read_back(version_of(export(book, dataset, asked)), store)
    made = finetune(published, Base(model=str(tiny)), Reward(training=SHORT), store)
    told = [m["what"] for m in made.facts["held_out"]["measures"]]
    assert told == ["chosen answer scored higher", "reward margin"]
    assert made.facts["weights"] is None
    assert "AutoModelForSequenceClassification" in made.card


def bytes_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_the_folder_is_a_model_with_all_that_is_said_of_it(toy, tmp_path):
    store, _, made, _ = toy
    out = write_folder(made, tmp_path / "deep" / "model", store)
    files = resolve(str(out), store)
    assert files.fingerprint == resolve(made.reference, store).fingerprint
    listed = dict(line.split("  ")[::-1] for line in (out / "SHA256SUMS").read_text().splitlines())
    assert listed == {n: s for n, s in bytes_of(out).items() if n != "SHA256SUMS"}
    assert {"README.md", "manifest.json", "metrics.parquet", "loss.svg"} <= listed.keys()
    told = {
        f["path"]: f["sha256"] for f in json.loads((out / "manifest.json").read_text())["files"]
    }
    assert told.items() <= listed.items()
    assert (out / "README.md").read_text() == made.card
    assert len({p.stat().st_mode for p in out.iterdir()}) == 1, "all are as readable as any other"
    first = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    write_folder(made, out, store)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == first, "it is there: left as it is"
    assert [p.name for p in out.parent.iterdir()] == ["model"]


def test_another_model_takes_the_place_of_one_of_ours_and_of_nothing_else(toy, tmp_path):
    store, _, made, _ = toy
    out = tmp_path / "model"
    out.mkdir()
    write_folder(made, out, store)
    whole = bytes_of(out)
    older = out / "SHA256SUMS"
    lines = older.read_text().splitlines()
    (out / "README.md").write_text("an older card")
    kept = [line for line in lines if "README" not in line]
    older.write_text("".join(f"{x}\n" for x in [*kept, f"{sha256(out / 'README.md')}  README.md"]))
    write_folder(made, out, store)
    assert bytes_of(out) == whole, "it was ours"

    for change in ("README.md", "notes.txt"):
        (out / change).write_text("mine")
        before = bytes_of(out)
        for write in (lambda: write_folder(made, out, store), lambda: check_free(out)):
            with pytest.raises(ValueError, match=f"holds {change}, which is not as this command"):
                write()
        assert bytes_of(out) == before
        (out / change).unlink()
        whole_again = tmp_path / "model2"
        write_folder(made, whole_again, store)
        (out / "README.md").write_bytes((whole_again / "README.md").read_bytes())
    other = tmp_path / "file"
    other.write_text("mine")
    (tmp_path / "link").symlink_to(out)
    for name, what in (("file", "a file"), ("link", "a link")):
        with pytest.raises(ValueError, match=re.escape(f"{name} is {what}")):
            check_free(tmp_path / name)


def test_a_write_that_was_killed_is_mended(toy, tmp_path):
    store, _, made, _ = toy
    out = write_folder(made, tmp_path / "model", store)
    whole = bytes_of(out)
    out.rename(tmp_path / ".model.gristmill-old")  # between the two renames
    half = tmp_path / ".model.gristmill-new"
    half.mkdir()
    (half / "README.md").write_text("half")
    write_folder(made, tmp_path / "model", store)
    assert bytes_of(out) == whole
    write_folder(made, tmp_path / "model", store)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
