"""What TRL trains under the files of a published folder is what the masks of this project train."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import polars as pl
import pytest
import yaml
from chat_families import FAMILIES
from published import chats, frame, ledger, pairs, publish, turn
from repository import ROOT

from gristmill.pipeline.export import trainer_rows, verify
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.export.render import renderer
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.signals.pair_signals import CHOSEN, REJECTED
from gristmill.pipeline.signals.views import Dialogue

datasets.disable_progress_bars()
IGNORED = -100
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def chat(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    return ChatTokenizer(tokenizer=tokenizer, template=tokenizer.chat_template, limit=4_096)


def two_turns(kind):
    """Rows in which the assistant speaks twice."""
    rows = chats(30) if kind == "example" else pairs(30)
    for i, row in enumerate(rows):
        more = [turn("user", f"Well, {i}?"), turn("assistant", f"Well {i}.")]
        row["messages" if kind == "example" else "prompt"][:0] = more
    return rows


def demo(kind, store):
    path = ROOT / "data/demo" / ("pool" if kind == "example" else "pairs.jsonl")
    return ingest(store, [Source(path=str(path))])


def published(tmp_path, store, chat, kind, which, **options):
    """A publication, and its records by id."""
    asked = {"render": renderer(chat), "max_length": chat.limit, **options}
    if which == "demo":
        pool = demo(kind, store)
        records = pool.frame()
        asked = Publication(root=tmp_path, name="demo", selection={}, **asked)
        folder = export(ledger(records.unique("id", maintain_order=True), 40, kind), pool, asked)
    else:
        rows = two_turns(kind) if which == "two turns" else which
        records = frame(rows, kind)
        folder = publish(
            tmp_path, store, rows=rows, kind=kind, keep=len(rows), **asked, selection={}
        )
    return folder, {r["id"]: r for r in records.iter_rows(named=True)}


def prepared(folder, kind, tiny, tmp_path, monkeypatch, file="loaders/trl.yaml"):
    """The rows of the trainer that `trl sft` or `trl dpo` makes of a config file."""
    from trl import DPOTrainer, SFTTrainer, get_dataset
    from trl.scripts import dpo, sft

    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    script, trainer = (sft, SFTTrainer) if kind == "example" else (dpo, DPOTrainer)
    told = ["--config", file, "--output_dir", str(tmp_path / "t"), "--report_to", "none"]
    _, arguments, model, mixture = script.make_parser().parse_args_and_config(told)
    rows = get_dataset(mixture)["train"]
    made = trainer(model=str(tiny), args=arguments, train_dataset=rows)
    return list(made.train_dataset), model


def ids_of(folder, config):
    return pl.read_parquet(folder / config / "train-*.parquet")["id"].to_list()


@pytest.mark.parametrize("which", ["demo", "two turns"])
def test_sft_trainer_labels_what_our_mask_trains(tiny, chat, tmp_path, store, monkeypatch, which):
    folder, records = published(
        tmp_path / "o", store, chat, "example", which, tokenizer={"id": "t", "model": str(tiny)}
    )
    seen, model = prepared(folder, "example", tiny, tmp_path, monkeypatch)
    assert model.model_name_or_path == str(tiny)
    ids = ids_of(folder, "tokens")
    assert len(seen) == len(ids) == pl.read_parquet(folder / "data/*.parquet").height
    trained = tokens = 0
    for ident, row in zip(ids, seen, strict=True):
        e = Dialogue().encode(records[ident], chat)
        assert row["input_ids"] == list(e.ids)
        assert row["labels"] == [i if t else IGNORED for i, t in zip(e.ids, e.turn, strict=True)]
        trained += sum(label != IGNORED for label in row["labels"])
        tokens += len(row["labels"])
    assert 0 < trained < tokens
    card = (folder / "README.md").read_text()
    assert f"{trained:,} of {tokens:,} tokens ({trained / tokens:.1%}) carry loss" in card
    share = json.loads((folder / "manifest.json").read_text())["render_check"]
    assert share["trained_token_share"] == round(trained / tokens, 4)  # all rows were rendered
    assert verify.verify(folder) == []


def sides(row):
    return {side: (row["prompt_ids"], row[f"{side}_ids"]) for side in ("chosen", "rejected")}


def masked(record, chat):
    """Prompt and answer of both sides, as our views show them."""
    made = {}
    for view in (CHOSEN, REJECTED):
        e = view.encode(record, chat)
        start = next(i for i, t in enumerate(e.turn) if t)
        answer = [i for i, t in zip(e.ids, e.turn, strict=True) if t]
        made[view.side] = (list(e.ids[:start]), answer)
    return made


@pytest.mark.parametrize("which", ["demo", "two turns"])
def test_dpo_trainer_takes_our_completions(tiny, chat, tmp_path, store, monkeypatch, which):
    folder, records = published(tmp_path / "o", store, chat, "pair", which)
    seen, _ = prepared(folder, "pair", tiny, tmp_path, monkeypatch)
    ids = ids_of(folder, "rendered")
    assert len(seen) == len(ids) == pl.read_parquet(folder / "data/*.parquet").height
    for ident, row in zip(ids, seen, strict=True):
        assert sides(row) == masked(records[ident], chat)
    trained = sum(len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in seen)
    tokens = trained + 2 * sum(len(r["prompt_ids"]) for r in seen)
    assert f"{trained:,} of {tokens:,} tokens" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answers_of_every_family_survive_trl(tmp_path, store, name):
    """TRL's own preparation of pairs, without a model."""
    from trl import DPOTrainer

    chat = FAMILIES[name].chat()
    folder, records = published(tmp_path / "o", store, chat, "pair", two_turns("pair")[:9])
    files = str(folder / "rendered/train-*.parquet")
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path)
    )
    args = SimpleNamespace(dataset_num_proc=None, max_length=500, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=chat.tokenizer)
    made = DPOTrainer._prepare_dataset(trainer, rows, chat.tokenizer, args, "train")
    assert len(made) == 9
    for row in made:
        assert sides(row) == masked(records[row["id"]], chat)


def test_a_model_without_a_template_keeps_its_start_token(tmp_path, store):
    from gristmill.pipeline.models.chat_tokenizer import TULU_TEMPLATE

    chat = replace(FAMILIES["llama-3"].chat(), template=TULU_TEMPLATE)
    from tokenizers.processors import TemplateProcessing

    bos = chat.tokenizer.bos_token
    chat.tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, chat.tokenizer.bos_token_id)]
    )
    folder, records = published(tmp_path / "o", store, chat, "pair", pairs(9))
    made = pl.read_parquet(folder / "rendered/*.parquet")
    assert made.height == 9
    for row in made.iter_rows(named=True):
        text = row["prompt"][0]["content"] + row["chosen"][0]["content"]
        e = CHOSEN.encode(records[row["id"]], chat)
        seen = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert seen == list(e.ids[: len(seen)])
        assert e.ids[0] == chat.tokenizer.bos_token_id


def test_rows_that_cannot_be_shown_are_counted_and_left_out(chat, tmp_path, store):
    rows = chats(30)
    rows[0]["messages"][0]["content"] = "q" * 600
    rows[1]["messages"][0]["content"] += "<|im_end|>"  # typed: it is text
    short = replace(chat, limit=512)
    folder, records = published(tmp_path / "e", store, short, "example", rows)
    tokens = pl.read_parquet(folder / "tokens/*.parquet")
    assert tokens.height == 29
    assert "Left out of it: answer_cut 1." in (folder / "README.md").read_text()
    told = json.loads((folder / "manifest.json").read_text())
    assert told["trainer_rows"]["left_out"] == {"answer_cut": 1}
    assert told["render_check"]["problems"]["typed_markers"] == 1
    assert told["render_check"]["max_length"] == 512
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row in tokens.iter_rows(named=True):
        assert row["input_ids"].count(end) == len(records[row["id"]]["messages"])
    both = pairs(30)
    both[2]["prompt"][0]["content"] += "<|im_end|>"  # TRL would read it as a marker
    folder, _ = published(tmp_path / "p", store, chat, "pair", both)
    told = json.loads((folder / "manifest.json").read_text())["trainer_rows"]
    assert (told["rows"], told["left_out"]) == (29, {trainer_rows.OTHERWISE: 1})


def test_long_answers_are_cut_where_ours_are(tiny, chat, tmp_path, store, monkeypatch):
    both = pairs(30)
    both[3]["chosen"][0]["content"] = "yes " * 99
    short = replace(chat, limit=160)
    folder, records = published(tmp_path / "o", store, short, "pair", both)
    assert yaml.safe_load((folder / "loaders/trl.yaml").read_text())["max_length"] == 160
    seen, _ = prepared(folder, "pair", tiny, tmp_path, monkeypatch)
    cut = 0
    for ident, row in zip(ids_of(folder, "rendered"), seen, strict=True):
        room = 160 - len(row["prompt_ids"])  # the collator cuts there
        made = {side: (prompt, answer[:room]) for side, (prompt, answer) in sides(row).items()}
        assert made == masked(records[ident], short)
        cut += len(row["chosen_ids"]) > room
    assert cut == 1


def test_a_validation_split_has_trainer_rows_of_its_own(chat, tmp_path, store):
    folder, _ = published(tmp_path, store, chat, "example", chats(30), validation_fraction=0.2)
    made = {
        split: [
            set(pl.read_parquet(folder / f"{c}/{split}-*.parquet")["id"])
            for c in ("data", "tokens")
        ]
        for split in ("train", "validation")
    }
    assert all(one == other for one, other in made.values())
    rows = datasets.load_dataset(str(folder), "tokens", cache_dir=str(tmp_path / "c"))
    assert set(rows["validation"].column_names) == {"id", "input_ids", "labels"}


def test_without_a_tokenizer_trl_is_told_to_stop_rather_than_train_prompts(
    tiny, chat, tmp_path, store, monkeypatch
):
    plain = publish(tmp_path / "a", store)
    left = publish(tmp_path / "b", store, render=renderer(chat), trainer_rows=False)
    both = publish(tmp_path / "c", store, render=renderer(chat))
    files = [plain / "loaders/trl.yaml", left / "loaders/trl.yaml"]
    files.append(both / "loaders/trl_other_models.yaml")
    for file in files:
        told = yaml.safe_load(file.read_text())
        assert told["assistant_only_loss"] is True
        assert told["datasets"][0]["columns"] == ["messages"]
    assert not (plain / "tokens").exists()
    assert not (left / "tokens").exists()
    with pytest.raises(ValueError, match="chat template is not training-compatible"):
        prepared(plain, "example", tiny, tmp_path, monkeypatch)


def commands(folder):
    """The lines of the card that start with `trl`, as they are printed."""
    text = (folder / "README.md").read_text()
    return [line.split(maxsplit=1)[1] for line in re.findall(r"(?m)^TRL +trl .*$", text)]


@pytest.mark.parametrize(
    ("model", "printed"),
    [
        ({"id": "x.gguf"}, " --model_name_or_path MODEL"),
        ({"id": "org/it@v2", "model": "org/it@v2"}, ""),
    ],
)
def test_the_command_names_the_model_where_others_find_it(chat, tmp_path, store, model, printed):
    folder = publish(tmp_path, store, render=renderer(chat), tokenizer=model)
    assert commands(folder) == [f"trl sft --config loaders/trl.yaml{printed}"]
    told = yaml.safe_load((folder / "loaders/trl.yaml").read_text())
    assert (told.get("model_name_or_path"), told.get("model_revision")) == (
        (None, None) if printed else ("org/it", "v2")
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["example", "pair"])
def test_the_commands_of_the_card_run_as_they_are_printed(tiny, chat, tmp_path, store, kind):
    folder, _ = published(
        tmp_path,
        store,
        replace(chat, limit=512),
        kind,
        two_turns(kind)[:8],
        tokenizer={"id": "tiny", "model": str(tiny)},
    )
    (command,) = commands(folder)
    binary = Path(sys.executable).parent / "trl"
    done = subprocess.run(
        [str(binary), *command.split()[1:]], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    (made,) = folder.parent.glob(f"trained-{folder.name}")
    assert (made / "model.safetensors").exists()
    assert verify.verify(folder) == []  # results lie beside the version, not in it
