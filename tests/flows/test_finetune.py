"""Fine-tuning from settings: the command, the flow, the section of a curate run, and bad input."""

import json
from pathlib import Path

import pytest
import yaml
from curation import settings, walk_through
from repository import ROOT
from rows import chat_rows, pair_rows, write_jsonl
from toy_training import one_thread  # noqa: F401

from gristmill.flows import config as configs
from gristmill.flows import files, finetune_config, finetune_steps
from gristmill.flows.finetune_config import FinetuneConfig, FinetuneRunConfig
from gristmill.flows.problems import Problems
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.finetune.ftpo import Ftpo
from gristmill.pipeline.finetune.reward import Reward
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft

SHORT = {"epochs": 1, "batch_size": 4, "max_length": 128}


def of(values: dict, kind: str = "example"):
    return configs.validated(FinetuneConfig, values, "x").made(kind)


def test_settings_are_those_of_the_stage_where_nothing_is_set():
    assert of({}) == Sft(training=Training(checkpoints="last", optimizer_state=False))
    for values, made in (({}, Dpo()), ({"stage": "reward"}, Reward())):
        kept = {**vars(made.training), "checkpoints": "last", "optimizer_state": False}
        assert of(values, "pair") == type(made)(training=Training(**kept))
    given = of(
        {
            "training": {"batch_size": 6, "learning_rate": 1e-3, "checkpoints": "5"},
            "lora": {"targets": "q_proj, v_proj"},
            "beta": 0.2,
        },
        "pair",
    )
    assert (given.training.micro_batch, given.training.learning_rate) == (6, 1e-3)
    assert given.training.checkpoints == 5
    assert given.lora == Lora(targets=("q_proj", "v_proj"))
    assert given.beta == 0.2
    named = {*finetune_config.TrainingConfig.model_fields}
    assert named == set(vars(Training())), "every setting of the pipeline can be set"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stage": "sft", "beta": 0.1}, "beta is read by the stage dpo alone"),
        ({"centre": 0.1}, "centre is read by the stage reward alone"),
        ({"stage": "dpo", "gamma": 1.0}, "gamma is read by the loss simpo alone"),
        ({"loss": "simpo", "reference_model": "a/b"}, "the loss simpo has no reference model"),
        ({"training": {"batch_size": 6, "micro_batch": 4}}, "batch_size 6 is not a multiple of"),
        ({"training": {"epoch": 2}}, "did you mean 'epochs'?"),
        ({"training": {"epochs": 0}}, "training.epochs: input should be greater than or equal"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate: input should be"),
        ({"training": {"checkpoints": "all"}}, "training.checkpoints: expected epoch, last or a"),
        ({"training": {"checkpoints": True}}, "training.checkpoints: expected epoch, last or a"),
        ({"lora": {"targets": []}}, "lora.targets: "),
        ({"stage": "ppo"}, "stage: input should be 'sft', 'dpo', 'reward' or 'ftpo'"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(values, said):
    with pytest.raises(Problems) as error:
        configs.validated(FinetuneConfig, values, "x")
    (sentence,) = error.value.sentences
    assert said in sentence


@pytest.mark.parametrize(
    ("stage", "kind", "said"),
    [
        ("sft", "pair", "these rows are pairs: set stage to dpo or reward or ftpo"),
        ("dpo", "example", "these rows are examples: set stage to sft"),
        ("reward", "document", "these rows are documents: set stage to sft"),
    ],
)
def test_a_stage_that_does_not_train_on_such_rows_is_refused(stage, kind, said):
    with pytest.raises(ValueError, match=said):
        of({"stage": stage}, kind)


def test_a_role_without_a_model_is_refused_by_name():
    with pytest.raises(ValueError, match="model names the role 'judge', to which no model is"):
        finetune_steps.referred("model", "judge", {"target": "a"})
    with pytest.raises(ValueError, match="role 'target', to which 2 models are bound"):
        finetune_steps.referred("model", "target", {"target": ["a", "b"]})
    assert finetune_steps.referred("model", "target", {"target": ["a"]}) == "a"
    assert finetune_steps.referred("model", "org/name", {}) == "org/name"


def test_a_file_is_known_by_its_keys():
    run = yaml.safe_load((ROOT / "flows/templates/finetune.yaml").read_text())
    assert files.flow_of(run) == "finetune"
    assert configs.validated(FinetuneRunConfig, run, "x").lora is not None
    assert files.flow_of({"dataset": "x", "trainin": {}}) == "finetune"
    assert files.flow_of({"name": "x", "sources": [], "models": {}}) == "clean"
    assert files.flow_of({"sources": [], "scorers": [], "finetune": {}}) == "curate"
    with pytest.raises(ValueError, match="this run has no sources"):
        files.limited(configs.validated(FinetuneRunConfig, run, "x"), 3)


def test_the_deployment_trains_on_what_the_demo_publishes():
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (ours,) = (d for d in deployments if d["name"] == "finetune")
    run = configs.validated(FinetuneRunConfig, ours["parameters"]["config"], "x")
    demo = configs.read(ROOT / "data" / "demo" / "curate.yaml")
    assert run.dataset == f"{demo.export.root}/{demo.name}"
    assert run.models["target"] == demo.models["target"]


@pytest.fixture(scope="module")
def published(tiny, tmp_path_factory):
    """A curated dataset of toy rows, and the settings of its run."""
    root = tmp_path_factory.mktemp("published")
    asked = settings(
        root,
        tiny,
        scorers=[{"method": "length"}],
        reference=[],
        export={"root": str(root / "curated"), "validation_fraction": 0.2},
    )
    return walk_through(configs.CurateConfig.model_validate(asked)), asked


def test_the_command_trains_says_what_came_of_it_and_finds_it_again(gristmill, published, tmp_path):
    folder, asked = published
    words = ["finetune", folder.parent, "--set", "training.epochs=1", "--set", "lora.rank=2"]
    words += ["--set", "training.batch_size=4", "--out", "model", "--store", asked["store"]]
    code, out, err = gristmill(*words)
    assert code == 0, err
    assert "trained    toy-sft" in out
    assert "loss per token" in out
    assert "sft, steps: 3 of 3" in err
    model = tmp_path / "model"
    told = json.loads((model / "manifest.json").read_text())
    assert told["dataset"]["version"] == folder.name
    assert told["base"]["reference"] == asked["models"]["target"], "the dataset's own target"
    assert told["settings"]["lora"]["rank"] == 2
    code, again, _ = gristmill(*words)
    assert code == 0
    assert again.splitlines()[0].startswith("nothing was to do")
    file = _file(tmp_path, dataset=str(folder), training=SHORT)
    code, out, err = gristmill("plan", file, "--no-probe")
    assert code == 0, err
    assert "3 steps of 4 rows" in out
    assert "FLOP" in out
    held = write_jsonl(tmp_path / "held.jsonl", chat_rows(2, start=900))
    code, _, err = gristmill("evaluate", "model", "--data", held, "--out", "ev/model")
    assert code == 0, err
    assert f"model was trained on toy {folder.name}: name that folder as trained_on" in err


def _file(root: Path, **values) -> Path:
    path = root / "finetune.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_what_is_wrong_is_one_sentence_before_anything_is_trained(gristmill, published, tmp_path):
    folder, asked = published
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for words, said in (
        (["--stage", "dpo"], "these rows are examples: set stage to sft"),
        (["--model", "nowhere"], "model 'nowhere' is not here"),
        (["--set", "model=judge"], "names the role 'judge', to which no model is bound"),
        (["--out", "mine"], "holds notes.txt"),
        (["--set", "training.rate=1"], "there is no such setting"),
        (["--set", "training"], "expected key=value"),
        (["--set", "lora.rank=1", "--set", "lora=none"], "lora is set as a whole and in part"),
        (["--set", "lora=none", "--set", "lora.rank=1"], "lora is set as a whole and in part"),
    ):
        code, _, err = gristmill("finetune", folder, "--store", asked["store"], *words)
        assert code == 2
        assert said in err
        assert len(err.splitlines()) == 1, err
    code, _, err = gristmill("finetune", tmp_path / "none")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "there is no folder" in err


def test_validate_tells_dataset_and_model(gristmill, published, tmp_path):
    folder, asked = published
    path = _file(tmp_path, dataset=str(folder.parent), store=asked["store"])
    code, out, err = gristmill("validate", path)
    assert code == 0, err
    assert "valid (a finetune run)" in out
    assert f"toy {folder.name}" in out


def test_a_curate_run_refuses_a_training_that_its_rows_do_not_fit(tiny, tmp_path):
    pairs = write_jsonl(tmp_path / "pairs.jsonl", pair_rows(6))
    asked = settings(
        tmp_path,
        tiny,
        sources=[{"path": str(pairs)}],
        reference=[],
        scorers=[{"method": "length"}],
        finetune={"stage": "sft"},
    )
    with pytest.raises(ValueError, match="these rows are pairs"):
        walk_through(configs.CurateConfig.model_validate(asked))


def test_final_tokens_have_settings_of_their_own_and_an_adapter_unless_it_is_refused():
    named = {"stage": "ftpo", "final_tokens": {"stop_at": 0.5, "least_chosen": 2}}
    given = of(named, "pair")
    assert isinstance(given, Ftpo)
    assert (given.stop_at, given.least_chosen, given.lora.rank) == (0.5, 2, 128)
    assert of({**named, "lora": None}, "pair").lora is None
    assert of({"stage": "ftpo"}, "pair").margin == Ftpo().margin
    fields = {*finetune_config.FinalTokensConfig.model_fields}
    assert fields == {*vars(Ftpo())} - {"training", "lora"}, "every setting can be set"
    config = configs.validated(FinetuneConfig, named, "x")
    with pytest.raises(ValueError, match="train with `gristmill finetune`"):
        config.of_records("pair")
