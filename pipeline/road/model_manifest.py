"""manifest.json of a trained model: all that its card says, for programs."""

import importlib.metadata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.finetune import data, ftpo
from gristmill.pipeline.finetune.checkpoints import Trained
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.finetune.reward import Reward
from gristmill.pipeline.finetune.sft import Sft
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.road.published import Published, worth

# What computes weights; how a run was carried out otherwise does not change them.
PACKAGES = ("gristmill", "torch", "transformers", "trl", "peft")


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is trained.

    Attributes:
        model: reference of the model to start from.
        reference_model: the reference model of a preference loss; None: the model itself.
        allow_network: models may be fetched from the hub.
    """

    model: str
    reference_model: str | None = None
    allow_network: bool = False

    def files(self, store: Store) -> ModelFiles:
        """The model to start from."""
        return resolve(self.model, store, allow_network=self.allow_network)

    def rival(self, store: Store) -> ModelFiles | None:
        """The reference model, where it is another."""
        if self.reference_model is None:
            return None
        return resolve(self.reference_model, store, allow_network=self.allow_network)


def manifest(
    published: Published,
    base: Base,
    settings: Sft | Dpo | Reward | ftpo.Ftpo,
    trained: Trained,
    held_out: Sequence[Mapping[str, Any]],
    store: Store,
) -> dict[str, Any]:
    """What a model was trained on, from and how, and what came of it.

    Args:
        published: the rows.
        base: what was trained.
        settings: the stage.
        trained: the training run.
        held_out: what was measured on rows that were held out.
        store: where models are found.
    """
    version, files, rival = published.version, base.files(store), base.rival(store)
    stage = type(settings).__name__.lower()
    told = version.manifest
    gate = told["evaluation"]["gate"]
    final = trained.final
    prefix = f"checkpoints/{final.name}/"
    return {
        "schema_version": "1.0.0",
        "generator": {"gristmill": importlib.metadata.version("gristmill"), "model": 1},
        "name": f"{told['name']}-{stage}",
        "stage": stage,
        "training_key": trained.entry.key,
        "checkpoint": {"step": final.step, "epoch": final.epoch},
        "adapter": (final.path / "adapter_config.json").exists(),
        "base": _model(files),
        "reference_model": _model(rival) if rival else None,
        "dataset": {
            "name": told["name"],
            "version": told["version"],
            "key": told["key"],
            "kind": version.kind,
            "manifest_sha256": version.manifest_sha,
            "gate": {k: gate[k] for k in ("promoted", "sentence")} if gate else None,
        },
        "rows": _rows(trained_on(published, settings), settings, files),
        "weights": _weights(published.train["weight"]),
        "settings": settings_of(settings),
        "training": _training(trained.metrics),
        "held_out": {"rows": published.validation.height, "measures": list(held_out)},
        "notes": [*published.notes, *_other_base(published, base, files), *trained.notes],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "files": [
            {**file, "path": file["path"].removeprefix(prefix)}
            for file in trained.entry.files
            if file["path"].startswith(prefix)
        ],
    }


def trained_on(published: Published, settings: Sft | Dpo | Reward | ftpo.Ftpo) -> pl.DataFrame:
    """The rows that a stage reads: those of the train split, or the final tokens of its pairs.

    Raises:
        ValueError: the stage wants final tokens and the dataset has none.
    """
    if isinstance(settings, ftpo.Ftpo):
        return published.final_tokens()
    return published.train


def dataset_of(folder: Path) -> str | None:
    """Name and version of what a model's folder says that it was trained on; None: nothing."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        dataset = json_text.loads(path.read_text("utf-8"))["dataset"]
        return f"{dataset['name']} {dataset['version']}"
    except (ValueError, TypeError, KeyError):  # somebody else's manifest
        return None


def summary(told: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest in one line, for a table."""
    training, rows = told["training"], told["rows"]
    return {
        "model": told["name"],
        "trained on": f"{told['dataset']['name']} {told['dataset']['version']}",
        "rows": rows["trained"],
        "tokens with loss": rows["tokens_with_loss"],
        "steps": training["steps"],
        "loss, first step": training["loss_first"],
        "loss, last step": training["loss_last"],
        **{m["what"]: interval(m["after"]) for m in told["held_out"]["measures"]},
    }


def interval(told: Mapping[str, float] | None) -> str:
    """An estimate with its 95 % interval."""
    return "" if told is None else "{value:.4f} [{low:.4f}, {high:.4f}]".format(**told)


def _model(files: ModelFiles) -> dict[str, str]:
    return {
        "reference": files.reference,
        "model_sha": files.model_sha,
        "tokenizer_sha": files.tokenizer_sha,
        "chat_template_sha": files.chat_template_sha,
    }


def _rows(
    frame: pl.DataFrame, settings: Sft | Dpo | Reward | ftpo.Ftpo, files: ModelFiles
) -> dict[str, Any]:
    """What became of the rows: read, cut or left out, and their tokens."""
    if isinstance(settings, ftpo.Ftpo):
        rows, reasons, shortened = ftpo.trainable_rows(frame, files, settings)
        return {
            "given": frame.height,
            "trained": rows.height,
            "cut": shortened,
            "left_out": dict(sorted(reasons.items())),
            "tokens": int(rows["prefix_ids"].list.len().sum()),
            "tokens_with_loss": rows.height,
        }
    training = settings.training
    shape: data.Shape = "sequence" if isinstance(settings, Sft) else "pair"
    chat = load_tokenizer(files, limit=training.max_length, overlong=training.overlong)
    tokens = data.token_rows(frame, shape, chat)
    columns = data.SEQUENCE if shape == "sequence" else data.PAIR
    return {
        "given": frame.height,
        "trained": int(tokens["reason"].null_count()),
        "cut": int(tokens["cut"].sum()),
        "left_out": dict(sorted(Counter(tokens["reason"].drop_nulls()).items())),
        "tokens": sum(int(tokens[name].list.len().sum()) for name in columns[::2]),
        "tokens_with_loss": sum(_with_loss(tokens[name]) for name in columns[1::2]),
    }


def _with_loss(labels: pl.Series) -> int:
    return int((labels.explode().drop_nulls() != data.IGNORED).sum())


def _weights(weight: pl.Series) -> dict[str, Any] | None:
    """How rows are weighted; None where all count alike and once."""
    if (weight == 1).all():
        return None
    return {
        "least": weight.min(),
        "mean": weight.mean(),
        "most": weight.max(),
        "zero": int((weight == 0).sum()),
        "worth_rows": worth(weight),
    }


def _training(metrics: pl.DataFrame) -> dict[str, Any]:
    """How the training went, step by step in short."""
    tenth = max(1, metrics.height // 10)
    loss = metrics["loss"]
    return {
        "steps": metrics.height,
        "loss_first": loss[0],
        "loss_last": loss[-1],
        "loss_first_tenth": loss.head(tenth).mean(),
        "loss_last_tenth": loss.tail(tenth).mean(),
        "peak_learning_rate": metrics["learning_rate"].max(),
        "largest_gradient_norm": metrics["grad_norm"].max(),
    }


def _other_base(published: Published, base: Base, files: ModelFiles) -> list[str]:
    """A sentence, if rows were selected with another model than the one that is trained."""
    selected = published.version.models("target")
    if not selected or any(m["model_sha"] == files.model_sha for m in selected):
        return []
    names = ", ".join(str(m["id"]) for m in selected)
    return [f"rows were selected with {names}, and {base.model} is trained: another model."]
