"""Training: what a fine-tuning stage takes, from a few real steps of it.

For a run with a stage at its end, and for a comparison, whose cells are equal trainings.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import polars as pl

from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.checkpoints import Trained
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.ftpo import Ftpo, train_ftpo, trainable_rows
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, train_reward
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.plan.amounts import Amount, total
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.probe import BATCHES, SHARE, Probe
from gristmill.pipeline.plan.sizes import size_of
from gristmill.pipeline.plan.stepping import Stepping
from gristmill.pipeline.prepare.costs import ADAPTER, FULL, trained
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.schema import CONTENT, uniform

StageSettings: TypeAlias = Sft | Dpo | Reward | Ftpo
MOMENTS = 8  # bytes of Adam's two moments of a parameter


def plan_training(
    rows: pl.DataFrame,
    files: ModelFiles,
    stage: StageSettings,
    *,
    cells: int = 1,
    device: str = "auto",
    probe: Probe | None = None,
) -> PlanLine:
    """What training a model on these rows takes, so many times.

    Args:
        rows: as the stage takes them.
        files: the model that every cell starts from.
        stage: its settings.
        cells: how many trainings of this size are still to be made.
        device: where.
        probe: trains a few steps; None: nothing is run, and no hours are told.
    """
    training = stage.training
    tokens = _tokens(rows, files, stage)
    names = [c for c in tokens.columns if c.endswith("_ids")]
    count = sum(int(tokens[c].list.len().sum() or 0) for c in names) * training.epochs
    sequences = max(1, tokens.height * len(names))
    length = count / training.epochs / sequences
    size = size_of(files)
    adapter = stage.lora is not None
    step = ADAPTER if adapter else FULL
    if isinstance(stage, Ftpo) or (isinstance(stage, Dpo) and stage.loss != "simpo"):
        step += 1  # the reference model reads it all too
    kept = len(training.published(tokens.height))
    share = trained(adapter=adapter)
    checkpoint = size.parameters * share * (4 + MOMENTS * training.optimizer_state)
    seconds = None
    if probe is not None:
        seconds = _probed(rows, files, stage, count, cells, device, probe)
    return PlanLine(
        data="training" if cells == 1 else f"cells still to train: {cells:,}",
        role="target",
        model=files.reference,
        view=type(stage).__name__.lower(),
        rows=rows.height,
        tokens=Amount(value=float(count * cells)),
        runs=f"{training.steps(max(1, tokens.height)):,} steps of {training.batch_size} rows",
        flops=Amount(value=step * size.flops(count, length, head=True) * cells),
        seconds=seconds,
        memory=size.training_memory(training.micro_batch * length, trained=share),
        disk=Amount(value=float(checkpoint * kept * cells)),
        signals=(f"checkpoints kept: {kept:,}",),
    )


def _tokens(rows: pl.DataFrame, files: ModelFiles, stage: StageSettings) -> pl.DataFrame:
    """The token rows that a stage trains on."""
    if isinstance(stage, Ftpo):
        return trainable_rows(rows, files, stage)[0].select("id", "prefix_ids")
    shape: data.Shape = "sequence" if isinstance(stage, Sft) else "pair"
    training = stage.training
    chat = load_tokenizer(files, limit=training.max_length, overlong=training.overlong)
    return data.token_rows(rows, shape, chat).filter(pl.col("reason").is_null())


def rows_like(pool: Dataset, rows: int) -> pl.DataFrame:
    """So many rows, drawn by hash(id): in the place of those that a run will keep."""
    drawn = sorted(unique_ids(pool), key=lambda i: (uniform(0, "plan", i), i))[:rows]
    columns = ["id", *CONTENT[pool.kind]]
    frame = pool.frame(columns).unique("id", keep="first").sort("id")
    return frame.filter(pl.col("id").is_in(drawn))


def _probed(
    rows: pl.DataFrame,
    files: ModelFiles,
    stage: StageSettings,
    tokens: int,
    cells: int,
    device: str,
    probe: Probe,
) -> Amount:
    """Seconds of all cells, from at least eight steps of one."""
    training = stage.training
    wanted = max(BATCHES * training.batch_size, round(SHARE * rows.height))
    order = sorted(range(rows.height), key=lambda i: uniform(0, "plan", str(rows["id"][i])))
    few = rows[sorted(order[:wanted])]
    per_epoch = training.steps_per_epoch(few.height)
    epochs = min(training.epochs, max(1, -(-BATCHES // per_epoch)))
    asked = replace(training, checkpoints="last")
    model = str(files.path)
    begun = probe.clock()  # libraries are imported once a process
    once = _train(replace(stage, training=replace(asked, epochs=1)))
    once(few.head(1), model, probe, Run(device=device))
    first = probe.clock() - begun
    steps = Stepping(watch=probe.stopwatch())
    run = Run(device=device, progress=steps.told, caps=steps.watch.caps)
    steps.begin()
    _train(replace(stage, training=replace(asked, epochs=epochs)))(few, model, probe, run)
    steps.end()
    times = tokens / max(1, steps.watch.caps.spent_tokens)
    start = Amount(value=max(0.0, first - steps.fixed))
    return total([start, steps.seconds(times).times(cells)])


def _train(stage: StageSettings) -> Callable[[pl.DataFrame, str, Probe, Run], Trained]:
    if isinstance(stage, Sft):
        return lambda rows, model, probe, run: train_sft(rows, model, stage, probe.store, run=run)
    if isinstance(stage, Dpo):
        return lambda rows, model, probe, run: train_dpo(rows, model, stage, probe.store, run=run)
    if isinstance(stage, Ftpo):
        return lambda rows, model, probe, run: train_ftpo(rows, model, stage, probe.store, run=run)
    return lambda rows, model, probe, run: train_reward(rows, model, stage, probe.store, run=run)
