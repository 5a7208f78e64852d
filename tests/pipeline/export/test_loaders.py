"""A published folder is taken by TRL's own code as it is, and its masks train what they should."""

import json
from pathlib import Path

import datasets
import polars as pl
import pytest
import yaml
from published import chats, frame, ledger, pairs, publish, stored, tool_chats, turn

from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.export.render import renderer
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.records.store import Store

datasets.disable_progress_bars()


def trained(trainer) -> None:
    """One step; the loss is a number."""
    result = trainer.train()
    assert result.training_loss > 0


def arguments(cls, folder: Path, **more):
    return cls(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **more,
    )


def load(folder: Path, *args, cache: Path):
    return datasets.load_dataset(str(folder), *args, split="train", cache_dir=str(cache))


@pytest.mark.filterwarnings("ignore")
def test_sft_trainer_takes_the_folder_as_it_is(tiny, tmp_path, store):
    from trl import SFTConfig, SFTTrainer

    folder = publish(tmp_path / "out", store)
    rows = load(folder, cache=tmp_path / "c")
    trainer = SFTTrainer(
        model=str(tiny), args=arguments(SFTConfig, tmp_path / "t"), train_dataset=rows
    )
    assert len(trainer.train_dataset) == 30
    trained(trainer)


@pytest.mark.filterwarnings("ignore")
def test_prompt_completion_trains_the_completion_alone(tiny, tmp_path, store):
    from trl import SFTConfig, SFTTrainer

    folder = publish(tmp_path / "out", store, sft_view="prompt_completion")
    rows = load(folder, cache=tmp_path / "c")
    trainer = SFTTrainer(
        model=str(tiny), args=arguments(SFTConfig, tmp_path / "t"), train_dataset=rows
    )
    assert len(trainer.train_dataset) == 30
    tokenizer = trainer.processing_class
    for row, seen in zip(rows, trainer.train_dataset, strict=True):
        told = [label for label in seen["labels"] if label != -100]
        text = tokenizer.decode(told)
        assert text == row["completion"][0]["content"] + "<|im_end|>\n"


@pytest.mark.filterwarnings("ignore")
def test_dpo_and_reward_trainers_take_pairs(tiny, tmp_path, store):
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    folder = publish(tmp_path / "out", store, kind="pair", pair_views=("conversation",))
    rows = load(folder, cache=tmp_path / "c")
    dpo = DPOTrainer(model=str(tiny), args=arguments(DPOConfig, tmp_path / "d"), train_dataset=rows)
    assert len(dpo.train_dataset) == 30
    trained(dpo)
    talks = load(folder, "conversation", cache=tmp_path / "c")
    reward = RewardTrainer(
        model=str(tiny), args=arguments(RewardConfig, tmp_path / "r"), train_dataset=talks
    )
    assert len(reward.train_dataset) == 30
    trained(reward)


SHAPES = ("conversation", "single", "reward", "kto", "kto_messages")


@pytest.fixture(scope="module")
def every_shape(tmp_path_factory):
    """Pairs in every shape that a preference trainer reads."""
    root = tmp_path_factory.mktemp("shapes")
    (root / "store").mkdir()
    where = Store(root=root / "store")
    return publish(
        root / "out", where, kind="pair", pair_views=SHAPES, margin="score", validation_fraction=0.2
    )


def test_kto_has_a_row_for_each_side_and_reward_its_margin(every_shape, tmp_path):
    pairs = load(every_shape, cache=tmp_path / "c")
    kto = load(every_shape, "kto", cache=tmp_path / "c")
    assert len(kto) == 2 * len(pairs) < 60
    assert {"prompt", "completion", "label"} < set(kto.column_names)
    for pair, *sides in zip(pairs, kto.to_list()[::2], kto.to_list()[1::2], strict=True):
        assert [s["label"] for s in sides] == [True, False]
        assert [s["completion"] for s in sides] == [pair["chosen"], pair["rejected"]]
        assert {s["id"] for s in sides} == {pair["id"]}
        assert all(s["prompt"] == pair["prompt"] for s in sides)
    turns = load(every_shape, "kto_messages", cache=tmp_path / "c")
    assert [r["messages"] for r in turns] == [r["prompt"] + r["completion"] for r in kto]
    reward = load(every_shape, "reward", cache=tmp_path / "c")
    held = pl.read_parquet(every_shape / "ledger/*.parquet").filter(verdict="kept")
    score = dict(held.select("id", "score").iter_rows())
    assert [r["margin"] for r in reward] == [score[r["id"]] for r in reward]
    assert reward[0]["chosen"] == pairs[0]["prompt"] + pairs[0]["chosen"]
    assert verify(every_shape) == []


@pytest.mark.filterwarnings("ignore")
def test_kto_and_reward_trainers_take_their_configs(every_shape, tiny, tmp_path):
    from trl import KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

    kto = load(every_shape, "kto", cache=tmp_path / "c")
    trainer = KTOTrainer(
        model=str(tiny), args=arguments(KTOConfig, tmp_path / "k"), train_dataset=kto
    )
    assert len(trainer.train_dataset) == len(kto)
    assert sum(trainer.train_dataset["label"]) == len(kto) / 2
    trained(trainer)
    margins = load(every_shape, "reward", cache=tmp_path / "c")
    reward = RewardTrainer(
        model=str(tiny), args=arguments(RewardConfig, tmp_path / "r"), train_dataset=margins
    )
    assert reward.train_dataset["margin"] == margins["margin"]
    trained(reward)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("reward", {"chosen", "rejected", "margin"}),
        ("kto", {"prompt", "completion", "label"}),
    ],
)
def test_trl_reads_the_loader_files_of_further_shapes(
    every_shape, tmp_path, monkeypatch, name, columns
):
    from trl import DatasetMixtureConfig, get_dataset

    monkeypatch.chdir(every_shape)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    settings = yaml.safe_load(Path(f"loaders/trl_{name}.yaml").read_text())
    mixture = get_dataset(DatasetMixtureConfig(datasets=settings["datasets"]))
    assert set(mixture["train"].column_names) == columns


def test_llama_factory_reads_kto_by_its_tag(every_shape, tmp_path):
    entries = json.loads((every_shape / "dataset_info.json").read_text())
    assert {e["subset"] for e in entries.values()} == {"single", "kto_messages"}
    (entry,) = (e for e in entries.values() if e["subset"] == "kto_messages")
    rows = datasets.load_dataset(
        f"{every_shape}/{entry['script_url']}",
        entry["subset"],
        split=entry["split"],
        cache_dir=str(tmp_path / "c"),
    )
    label, messages = entry["columns"]["kto_tag"], entry["columns"]["messages"]
    assert {type(r[label]) for r in rows} == {bool}
    assert [m["role"] for m in rows[0][messages]] == ["user", "assistant"]


def test_prompts_of_grpo_bear_the_answer_that_a_verifier_checks(tmp_path, store):
    rows = [
        {"messages": [turn("user", f"What is {i} + 1?"), turn("assistant", said)]}
        for i in range(12)
        for said in ([f"It is one more.\n#### {i + 1}"] if i % 3 else ["It depends on " * 9])
    ]
    folder = publish(tmp_path / "out", store, rows=rows, keep=12, grpo=True)
    found = load(folder, "grpo", cache=tmp_path / "c")
    assert {r["prompt"][0]["content"]: r["answer"] for r in found} == {
        f"What is {i} + 1?": str(i + 1) for i in range(12) if i % 3
    }
    assert "grpo" in (folder / "loaders/trl_grpo.yaml").read_text()
    with pytest.raises(ValueError, match="no kept row can be shown in the config grpo"):
        publish(
            tmp_path / "none",
            store,
            rows=[r for i, r in enumerate(rows) if not i % 3],
            keep=4,
            grpo=True,
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "pair", "pair_views": ("reward",)}, "the view reward needs `margin`"),
        ({"kind": "pair", "pair_views": ("reward",), "margin": "reason"}, "there are score"),
        ({"pair_views": ("kto",)}, "pair_views are shapes of pairs, and these rows are examples"),
        ({"kind": "pair", "grpo": True}, "the config grpo is made of examples"),
    ],
)
def test_a_shape_that_rows_cannot_have_is_refused(tmp_path, store, options, said):
    with pytest.raises(ValueError, match=said):
        publish(tmp_path / "out", store, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["example", "pair"])
def test_trl_reads_its_loader_file(tmp_path, store, monkeypatch, kind):
    from trl import DatasetMixtureConfig, get_dataset

    folder = publish(tmp_path / "out", store, kind=kind)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    settings = yaml.safe_load(Path("loaders/trl.yaml").read_text())
    mixture = get_dataset(DatasetMixtureConfig(datasets=settings["datasets"]))
    columns = {"example": {"messages"}, "pair": {"prompt", "chosen", "rejected"}}[kind]
    assert set(mixture["train"].column_names) == columns
    assert len(mixture["train"]) == 30


@pytest.mark.filterwarnings("ignore")
def test_templates_see_tool_calls_where_they_are_and_nowhere_else(tiny, tmp_path, store):
    from transformers import AutoTokenizer

    folder = publish(tmp_path / "out", store, rows=tool_chats(), keep=12)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    template = (  # asks as the templates of Llama 3 do
        "{% for m in messages %}{% if 'tool_calls' in m %}CALL {{ m.tool_calls[0].function.name }};"
        "{% else %}{{ m.role }}: {{ m.content }};{% endif %}{% endfor %}"
    )
    texts = [
        tokenizer.apply_chat_template(r["messages"], chat_template=template, tokenize=False)
        for r in load(folder, cache=tmp_path / "c")
    ]
    assert [t for t in texts if "CALL" in t] == ["user: Use it.;CALL f;tool: 2;assistant: Two.;"]
    assert all(": None" not in t for t in texts)


def chat(tiny, limit=512, template=None, **special):
    from transformers import AutoTokenizer

    from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny, **special)
    return ChatTokenizer(
        tokenizer=tokenizer, template=template or tokenizer.chat_template, limit=limit
    )


def test_a_good_rendering_passes_and_is_told(tiny, tmp_path, store):
    for kind in ("example", "pair"):
        folder = publish(
            tmp_path / kind, store, kind=kind, render=renderer(chat(tiny)), max_length=512
        )
        told = json.loads((folder / "manifest.json").read_text())["render_check"]
        assert told["rows_rendered"] == told["rows_shipped"] == 30
        assert set(told["problems"].values()) == {0}
        assert 0 < told["trained_token_share"] < 1


HEAD = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] "
LOOP = "{% for m in messages %}" + HEAD
TAIL = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
ONE_STOP = LOOP + "+ '<|im_end|>\n' }}{% endfor %}" + TAIL
NO_STOP = LOOP + "+ '\n' }}{% endfor %}" + TAIL
HIDES = LOOP.replace("{{", "{% if m['role'] == 'user' %}{{") + "}}{% endif %}{% endfor %}" + TAIL
TWO_BOS = "{{ bos_token + bos_token }}" + LOOP + "+ '<|im_end|>\n' }}{% endfor %}" + TAIL


@pytest.mark.parametrize(
    ("template", "said"),
    [(NO_STOP, "stop_untrained"), (HIDES, "empty_mask"), (TWO_BOS, "exactly one BOS")],
)
def test_a_template_that_masks_wrongly_stops_the_export(tiny, tmp_path, store, template, said):
    special = {"bos_token": "<|pad|>"} if template == TWO_BOS else {}
    render = renderer(chat(tiny, template=template, **special))
    with pytest.raises(ValueError, match=f"stops the export.*{said}"):
        publish(tmp_path, store, render=render)


THINKS = LOOP.replace("m['content']", "(m.reasoning_content or '') + m['content']")
THINKS += "+ '<|im_end|>\n' }}{% endfor %}" + TAIL


@pytest.mark.parametrize("kind", ["example", "pair"])
def test_answers_hidden_in_part_are_counted_and_stop_the_export_above_a_share(
    tiny, tmp_path, store, kind
):
    def thinking(count: int) -> list[dict]:
        made = chats(30) if kind == "example" else pairs(30)
        for i, row in enumerate(made[:count]):
            thoughts = [json.dumps({"reasoning_content": f"So {i}{side}."}) for side in "ab"]
            if kind == "example":
                row["messages"][-1]["extra"] = thoughts[0]
            else:
                answer = [turn("assistant", "Yes.", extra) for extra in thoughts]
                row["chosen"], row["rejected"] = answer[:1], answer[1:]
        return made

    one, two = thinking(1), thinking(2)
    plain, shows = (renderer(chat(tiny, template=t)) for t in (ONE_STOP, THINKS))
    with pytest.raises(ValueError, match=r"stops the export \(answer_hidden\): 2 of 30"):
        publish(tmp_path / "two", store, rows=two, kind=kind, render=plain)
    for rows, render, found in ((one, plain, 1), (two, shows, 0)):
        folder = publish(tmp_path / f"{found}", store, rows=rows, kind=kind, render=render)
        told = json.loads((folder / "manifest.json").read_text())["render_check"]
        assert told["problems"]["answer_hidden"] == found


def test_a_call_that_the_template_hides_stops_the_export(tiny, tmp_path, store):
    rows = chats(30)
    call = json.dumps({"tool_calls": [{"function": {"name": "f"}}]})
    rows[0]["messages"][1] = turn("assistant", "", call)
    with pytest.raises(ValueError, match="empty_mask"):
        publish(tmp_path, store, rows=rows, render=renderer(chat(tiny, template=ONE_STOP)))


def test_a_prompt_that_chosen_repeats_stops_the_export(tiny, tmp_path, store):
    rows = [
        {
            "prompt": [turn("user", f"Tell me all about number {i}.")],
            "chosen": [turn("assistant", f"Tell me all about number {i}. Gladly.")],
            "rejected": [turn("assistant", "No.")],
        }
        for i in range(9)
    ]
    with pytest.raises(ValueError, match="prompt_repeated"):
        publish(tmp_path, store, rows=rows, kind="pair", keep=9, render=renderer(chat(tiny)))


def test_truncation_is_counted_and_stops_above_its_limit(tiny, tmp_path, store):
    with pytest.raises(ValueError, match=r"truncated.*raise max_length"):
        publish(tmp_path, store, render=renderer(chat(tiny, limit=40)), max_length=40)


def test_documents_are_rendered_too(tiny, tmp_path, store):
    records = frame([{"text": f"Document {i}. " * 3} for i in range(9)], "document")
    asked = Publication(root=tmp_path, name="documents", selection={}, render=renderer(chat(tiny)))
    folder = export(ledger(records, 9, "document"), stored(store, records, "document"), asked)
    assert pl.read_parquet(folder / "data/*.parquet").height == 9


def test_axolotl_and_llama_factory_files_name_what_is_there(tmp_path, store, monkeypatch):
    """Their own code is not at hand; what it does with these settings is one call of `datasets`."""
    folder = publish(tmp_path / "out", store, kind="pair", pair_views=("single",))
    monkeypatch.chdir(folder)
    (block,) = yaml.safe_load(Path("loaders/axolotl.yaml").read_text())["datasets"]
    cache = str(tmp_path / "c")
    rows = datasets.load_dataset(
        block["ds_type"], data_files=block["data_files"], split=block["split"], cache_dir=cache
    )
    assert len(rows) == 30
    assert [m["role"] for m in rows[0][block["field_messages"]]] == ["user"]
    ((_, entry),) = json.loads(Path("dataset_info.json").read_text()).items()
    script = f"{folder}/{entry['script_url']}"
    rows = datasets.load_dataset(script, entry["subset"], split=entry["split"], cache_dir=cache)
    tags, columns = entry["tags"], entry["columns"]
    assert isinstance(rows[0][columns["chosen"]], dict)
    assert rows[0][columns["chosen"]][tags["role_tag"]] == tags["assistant_tag"]
