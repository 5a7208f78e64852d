"""What a training run leaves: checkpoints that are models, and Adam's state by parameter name.

    <store>/<stage>/<key>/checkpoints/step-000012/            a model or adapter folder
                                     .../optimizer/state.safetensors
                          checkpoints/index.json              step, epoch, mean learning rate
                          metrics.parquet                     one row per step

Nothing here is a pickle. While a run is under way, torch's own `optimizer.pt` and `rng_state.pth`
lie in the run's work folder; they are read with `weights_only=True` and are never published.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.models.chat_tokenizer import TULU_TEMPLATE
from gristmill.pipeline.models.reference import OPTIMIZER_STATE, TOKENIZER_FILES, ModelFiles
from gristmill.pipeline.records.sealed import read_sealed, seal
from gristmill.pipeline.records.store import Entry, differing, listing

_MODEL = ("config.json", "generation_config.json", "adapter_config.json")
_TOKENIZER = (*TOKENIZER_FILES, "chat_template.jinja")
COMPLETE = "complete"  # the mark of a trainer's checkpoint: what it holds, with checksums


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A published checkpoint; `reference` serves wherever a model reference does.

    Attributes:
        path: its folder.
        step: optimizer steps done.
        epoch: passes over the rows done.
        learning_rate: mean over the steps since the checkpoint before.
    """

    path: Path
    step: int
    epoch: float
    learning_rate: float

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def reference(self) -> str:
        return str(self.path)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training run in the store."""

    entry: Entry

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """In order; the last one is the result."""
        return tuple(
            Checkpoint(
                path=self.entry.path / "checkpoints" / c["name"],
                step=c["step"],
                epoch=c["epoch"],
                learning_rate=c["learning_rate"],
            )
            for c in self.entry.note["checkpoints"]
        )

    @property
    def final(self) -> Checkpoint:
        return self.checkpoints[-1]

    @property
    def reference(self) -> str:
        """The trained model."""
        return self.final.reference

    @property
    def notes(self) -> tuple[str, ...]:
        """What the run had to say: schedule, rows left out, batches halved."""
        return tuple(self.entry.note["notes"])

    @property
    def metrics(self) -> pl.DataFrame:
        """One row per step: loss, learning rate, gradient norm and what the stage adds."""
        return pl.read_parquet(self.entry.path / "metrics.parquet")

    def at(self, *, step: int | None = None, epoch: float | None = None) -> Checkpoint:
        """The checkpoint of a step, or of an epoch."""
        for checkpoint in self.checkpoints:
            if checkpoint.step == step or checkpoint.epoch == epoch:
                return checkpoint
        kept = ", ".join(f"step {c.step} (epoch {c.epoch:g})" for c in self.checkpoints)
        raise ValueError(f"no checkpoint at step {step}, epoch {epoch}; kept are: {kept}.")


def save_optimizer_state(model: Any, optimizer: Any, folder: Path) -> None:  # noqa: ANN401
    """Write the state of a torch Adam by parameter name."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter in optimizer.state:
            state = optimizer.state[parameter]
            for part in ("exp_avg", "exp_avg_sq"):
                tensors[f"{name}/{part}"] = state[part].detach().cpu().contiguous()
            tensors[f"{name}/step"] = torch.tensor(int(state["step"]))
    group = optimizer.param_groups[0]
    adam = {"beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
    (folder / OPTIMIZER_STATE).parent.mkdir(exist_ok=True)
    # one key: safetensors writes several in any order, and equal runs give equal bytes
    save_file(tensors, folder / OPTIMIZER_STATE, metadata={"adam": json.dumps(adam)})


def mark_of(folder: Path) -> str:
    """The text of a trainer's checkpoint's mark, once all its other files stand."""
    return seal({"files": [f for f in listing(folder) if f["path"] != COMPLETE]})


def whole(folder: Path) -> bool:
    """Whether a trainer's checkpoint was completed and is what it was then."""
    mark = read_sealed(folder / COMPLETE)
    return mark is not None and differing(folder, mark["files"]) is None


def publish(source: Path, target: Path, base: ModelFiles) -> None:
    """Make a plain model folder of a trainer's checkpoint, if that is whole (see `settle`)."""
    if not whole(source):
        raise ValueError(
            f"{source} was damaged while the run went on: run the same command again, which trains "
            "again from the checkpoint before it."
        )
    settle(source, target, base)


def settle(source: Path, target: Path, base: ModelFiles) -> None:
    """Make a plain model folder of what a library saved just now.

    The tokenizer's files are those of the base model, so that both tokenise (and hash) alike.
    """
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.safetensors*")):  # weights, shards and their index
        _share(path, target / path.name)
    if (source / OPTIMIZER_STATE).exists():
        (target / OPTIMIZER_STATE).parent.mkdir()
        _share(source / OPTIMIZER_STATE, target / OPTIMIZER_STATE)
    for name in _MODEL:
        if (source / name).exists():
            config = json.loads((source / name).read_text("utf-8"))
            (target / name).write_text(_dump(_settled(name, config, base)), "utf-8")
    for name in _TOKENIZER:
        for folder in (base.path, base.base.path if base.base else base.path):
            if (folder / name).exists() and not (target / name).exists():
                shutil.copyfile(folder / name, target / name)
    if not base.chat_template_sha:  # what it was trained with, so that it is asked the same way
        (target / "chat_template.jinja").write_text(TULU_TEMPLATE, "utf-8")


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # gigabytes, in one store: no second copy
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _settled(name: str, config: Mapping[str, Any], base: ModelFiles) -> Mapping[str, Any]:
    """Equal runs give equal bytes: sets in order, and the base by its reference."""
    if name != "adapter_config.json":
        return config
    ground = base.base or base
    local = Path(ground.reference).expanduser().exists()
    targets = config["target_modules"]
    return {
        **config,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "base_model_name_or_path": str(ground.path.resolve()) if local else ground.reference,
    }


def _dump(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
