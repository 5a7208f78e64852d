"""A training run as a step of the store: found if it was made before, resumable while it is not."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.checkpoints import Trained, publish
from gristmill.pipeline.finetune.job import HISTORY, Job, Run
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.records.sealed import read_sealed
from gristmill.pipeline.records.store import Part, Step, Store, write_table, write_text


def step_of(
    stage: str,
    version: int,
    shape: data.Shape,
    frame: pl.DataFrame,
    settings: Mapping[str, Any],
    models: Mapping[str, ModelFiles],
) -> Step:
    """The step of the store that a training run is.

    Args:
        stage: its name.
        version: of its code.
        shape: of the rows that it takes.
        frame: the rows.
        settings: what its result depends on beside.
        models: by what they are to it.

    Raises:
        ValueError: the stage cannot train on such rows.
    """
    data.check(frame, shape, stage)
    inputs = {role: files.fingerprint for role, files in models.items()}
    return Step(
        name=stage,
        version=version,
        settings=settings,
        inputs={"rows": data.fingerprint(frame), **inputs},
    )


def train(
    step: Step,
    store: Store,
    base: ModelFiles,
    training: Training,
    prepare: Callable[[], Job],
    run: Run,
) -> Trained:
    """Make (or find) the entry of a training run; nothing is loaded when it is found."""

    def parts(work: Path) -> list[Part]:
        state = work / ".training"  # survives a kill; the store removes it at the end

        def trained() -> dict[str, Any]:
            from gristmill.pipeline.finetune.trainer import fit

            events = store.root / "tensorboard" / f"{step.name}-{step.key[:12]}"
            fit(prepare(), training, state, run, events)
            told = read_sealed(state / HISTORY)
            assert told is not None, "fit has just written it"
            return told

        def metrics(path: Path) -> None:
            told = read_sealed(state / HISTORY)  # damaged: the run's last state has it too
            _metrics((told or trained())["history"], path)

        return [
            Part(name="checkpoints", write=lambda path: _collect(trained(), state, path, base)),
            Part(name="metrics.parquet", write=metrics),
        ]

    def note(work: Path) -> Mapping[str, Any]:
        index: Mapping[str, Any] = json.loads((work / "checkpoints/index.json").read_text("utf-8"))
        return index

    return Trained(entry=store.run(step, parts, note=note))


def _collect(told: Mapping[str, Any], state: Path, target: Path, base: ModelFiles) -> None:
    """Publish the kept checkpoints and write their index."""
    at = {row["step"]: row for row in told["history"]}
    target.mkdir()
    index, before = [], 0
    for step in told["kept"]:
        name = f"step-{step:06d}"
        publish(state / f"checkpoint-{step}", target / name, base)
        rates = [at[s]["learning_rate"] for s in range(before + 1, step + 1)]
        mean = math.fsum(rates) / len(rates)
        index.append(
            {"name": name, "step": step, "epoch": at[step]["epoch"], "learning_rate": mean}
        )
        before = step
    write_text(target / "index.json", json.dumps({"checkpoints": index, "notes": told["notes"]}))


def _metrics(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    frame = pl.DataFrame(history, infer_schema_length=None)
    first = ["step", "epoch", "loss", "learning_rate", "grad_norm"]
    # TRL's further metrics by name: a resumed run has read some of them from sorted JSON
    write_table(frame.select(*first, *sorted(set(frame.columns) - set(first))), path)
