"""The one training loop, around a TRL trainer that a stage builds.

TRL tokenises, truncates and shuffles the dataset it is constructed with, and its DPO trainer has no
switch to leave rows alone that are tokens already. So a stage constructs its trainer with a single
sample row, and the loop hands it the token rows, the collator and the weights afterwards, through
public attributes. Everything else is TRL's: forward, losses, accumulation, optimizer, schedule. The
loop adds what a run must survive: SIGKILL (resume), a loss that is no number (stop, keep the last
good checkpoint) and a device that is too small (halve the micro-batch).

Resuming repeats the steps since the last saved state and ends with the same weights, to the bit on
one machine's CPU in float32: model, optimizer, schedule and random states are restored, and the
order of the rows depends on (seed, epoch, id) alone.
"""

# ruff: noqa: ANN401  (trainers, their states and their models ship no types)

import contextlib
import gc
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import torch
import transformers
from tensorboardX import SummaryWriter

from gristmill.pipeline.finetune.adapters import stands_on
from gristmill.pipeline.finetune.checkpoints import (
    COMPLETE,
    mark_of,
    save_optimizer_state,
    whole,
)
from gristmill.pipeline.finetune.data import Rows
from gristmill.pipeline.finetune.job import HISTORY, Job, Run
from gristmill.pipeline.finetune.settings import Training, divisor
from gristmill.pipeline.finetune.weights import weigh
from gristmill.pipeline.models.damage import Damaged
from gristmill.pipeline.models.load import pick_device
from gristmill.pipeline.records.sealed import seal
from gristmill.pipeline.records.store import remove, write_text


def fit(job: Job, training: Training, state: Path, run: Run, events: Path | None = None) -> Any:
    """Train to the end, from the last saved state if there is one; return the TRL trainer.

    Args:
        job: rows and trainer.
        training: the settings.
        state: folder for checkpoints and what is needed to resume; `HISTORY` is written at the end.
        run: how.
        events: folder for TensorBoard.
    """
    notes = [*job.notes, training.plan(len(job.rows))]
    for sentence in notes:
        run.log(sentence)
    kept = training.published(len(job.rows))
    micro = training.micro_batch
    while True:
        start = newest(state, kept)
        writer = None
        if events is not None:  # steps that are repeated replace those of the run that was cut off
            writer = SummaryWriter(str(events), purge_step=_step(start) + 1 if start else None)
        try:
            with _quiet():
                trainer = assemble(job, training, state, run.device, micro)
                adapter = stands_on(trainer.model)
                if adapter and adapter not in notes:
                    notes.append(adapter)
                    run.log(adapter)
                trainer.add_callback(
                    Recorder(
                        training=training,
                        rows=job.rows,
                        run=run,
                        kept=frozenset(kept),
                        stop=job.stop,
                        writer=writer,
                    )
                )
                before = _state_of(start)
                if before is not None and job.stop(before.log_history[-1]):
                    trainer.state = before  # killed after its goal: no step is added
                else:
                    trainer.train(resume_from_checkpoint=str(start) if start else None)
            break
        except torch.OutOfMemoryError:
            if micro == 1:
                raise ValueError(
                    "the device has too little memory for one row at a time: lower max_length, set "
                    "activation_checkpointing, or train an adapter."
                ) from None
            micro = divisor(training.batch_size, micro // 2)
            notes.append(f"out of memory: the micro-batch is halved to {micro} rows.")
            run.log(notes[-1])
        finally:
            if writer is not None:
                writer.close()
        trainer = None  # it holds the memory that the next one needs
        gc.collect()
        torch.cuda.empty_cache()
    history = [
        {k: v for k, v in row.items() if not k.startswith((*job.hidden, "num_tokens"))}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    done = trainer.state.global_step
    if done < kept[-1]:
        kept = (*(step for step in kept if step < done), done)
        notes.append(f"ended after step {done:,} of {training.steps(len(job.rows)):,}: {job.goal}.")
        run.log(notes[-1])
    record = {"history": history, "kept": kept, "notes": notes}
    write_text(state / HISTORY, seal(record))
    return trainer


def assemble(job: Job, training: Training, state: Path, device: str, micro: int) -> Any:
    """A TRL trainer with our rows, collator and weights in place."""
    common = arguments(training, len(job.rows), state, pick_device(device), micro)
    trainer = job.build(common)
    trainer.train_dataset = job.rows
    trainer.data_collator = job.collate
    trainer.remove_callback(transformers.PrinterCallback)
    # TRL writes one with every checkpoint; what is published has none, and small runs wait for it
    trainer.create_model_card = _no_card
    weigh(trainer.model)
    return trainer


def _no_card(*_: Any, **__: Any) -> None:
    """In the place of a trainer's model card."""


def arguments(
    training: Training, rows: int, state: Path, device: str, micro: int
) -> dict[str, Any]:
    """The settings in the words of `transformers.TrainingArguments`."""
    schedule = {"constant": "constant_with_warmup"}.get(training.schedule, training.schedule)
    return {
        "output_dir": str(state),
        "num_train_epochs": training.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": training.batch_size // micro,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": training.warmup_steps(rows),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "activation_checkpointing": training.activation_checkpointing,
        "seed": training.seed,
        "use_cpu": device == "cpu",
        "bf16": device.startswith("cuda"),
        "train_sampling_strategy": "sequential",  # `Rows` has the order
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.startswith("cuda"),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # the filter would hide what `Recorder` looks for
        "save_strategy": "no",  # `Recorder` decides
        "report_to": "none",
        "disable_tqdm": True,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorder(transformers.TrainerCallback):  # type: ignore[misc]
    """Decides when to save, completes what is saved, watches the loss, reports."""

    training: Training
    rows: Rows
    run: Run
    kept: frozenset[int]
    stop: Callable[[Mapping[str, float]], bool] = lambda _: False
    writer: Any = None
    _saved_at: list[float] = field(default_factory=lambda: [time.monotonic()])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = time.monotonic() - self._saved_at[-1] >= self.run.resume_seconds
        self.run.caps.spend(self._tokens(state.global_step))
        if due or state.global_step in self.kept or self.run.caps.reached:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **live: Any) -> None:
        """Add Adam's state by name, mark the checkpoint complete, drop what it replaces."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        last = state.global_step in self.kept or control.should_training_stop
        if self.training.optimizer_state and last:
            save_optimizer_state(live["model"], live["optimizer"].optimizer, folder)
        write_text(folder / COMPLETE, mark_of(folder))
        for older in folder.parent.glob("checkpoint-*"):
            if older != folder and _step(older) not in self.kept:
                remove(older)
        self._saved_at.append(time.monotonic())
        self.run.caps.check()

    def _tokens(self, step: int) -> int:
        """What the model read in a step."""
        size = self.training.batch_size
        first = (step - 1) % self.training.steps_per_epoch(len(self.rows)) * size
        return self.rows.tokens(first, first + size)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any
    ) -> None:
        if "loss" not in logs:
            return
        step = state.global_step
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            raise Damaged(self._diverged(step, logs, Path(args.output_dir)))
        if self.writer is not None:
            for name, value in logs.items():
                self.writer.add_scalar(name, value, step)
        if self.stop(logs):
            control.should_save = control.should_training_stop = True
        if self.run.progress is not None:
            self.run.progress(step, state.max_steps, logs)

    def _diverged(self, step: int, logs: Mapping[str, float], folder: Path) -> str:
        size = self.training.batch_size
        first = (step - 1) % self.training.steps_per_epoch(len(self.rows)) * size
        kept = newest(folder)
        good = f"the last good checkpoint is kept in {kept}" if kept else "no checkpoint was made"
        return (
            f"training stopped at step {step}: loss {logs['loss']}, gradient norm "
            f"{logs['grad_norm']}, learning rate {logs['learning_rate']:.3g}; {good}. Lower the "
            f"learning rate, or look at rows {', '.join(self.rows.ids(first, first + size)[:3])}."
        )


def newest(state: Path, kept: Collection[int] = ()) -> Path | None:
    """The newest checkpoint to go on from; torn and damaged ones are removed.

    Args:
        state: the folder of checkpoints.
        kept: steps whose checkpoints are wanted. One that is gone can only be made again from one
            before it, so those after it are removed too.
    """
    found = {}
    for folder in sorted(state.glob("checkpoint-*"), key=_step):
        if whole(folder):
            found[_step(folder)] = folder
        else:
            remove(folder)
    first = min((step for step in kept if step not in found), default=None)
    for step in [s for s in found if first is not None and s > first]:
        remove(found.pop(step))
    return found[max(found)] if found else None


def _state_of(checkpoint: Path | None) -> Any:
    """The trainer's state in a checkpoint; None, if there is none or it has logged no step."""
    path = checkpoint / "trainer_state.json" if checkpoint else None
    if path is None or not path.exists():
        return None
    state = transformers.TrainerState.load_from_json(str(path))
    return state if state.log_history else None


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry (TRL reports every trainer made), no progress bars under ours."""
    logs = transformers.utils.logging
    constants = huggingface_hub.constants
    reports = constants.HF_HUB_DISABLE_TELEMETRY
    bars = (logs.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled())
    constants.HF_HUB_DISABLE_TELEMETRY = True
    logs.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = reports
        if bars[0]:
            logs.enable_progress_bar()
        if bars[1]:
            datasets.enable_progress_bars()
