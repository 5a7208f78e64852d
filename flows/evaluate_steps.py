"""What the task of an evaluation does: settings in, figures out. No Prefect here."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gristmill.flows.answerers import answerer
from gristmill.flows.evaluate_config import EvaluateConfig, source_name
from gristmill.flows.steps import bind, open_store
from gristmill.flows.tasks_config import TasksConfig
from gristmill.pipeline.evaluate.compression.subset import Subset
from gristmill.pipeline.evaluate.evaluation import (
    Evaluated,
    Evaluation,
    Judged,
    TaskChoice,
    embedding,
    evaluate,
)
from gristmill.pipeline.evaluate.tasks import named
from gristmill.pipeline.export.versions import rows_of
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.road.model_manifest import dataset_of

LOG = logging.getLogger(__name__)


def run(config: EvaluateConfig, progress: Progress | None = None) -> Evaluated:
    """Evaluate, and write the tables; the figures."""
    models = models_of(config, open_store(config.store))
    context = RunContext(
        models=models, passes=Passes(**config.passes.model_dump()), progress=progress
    )
    store = context.store
    (files,) = models.files("target")
    dataset = dataset_of(files.path)
    if dataset is not None and not config.trained_on:
        LOG.warning(
            "%s was trained on %s: name that folder as trained_on (--trained-on), so that rows "
            "which the model knows are refused.",
            config.model,
            dataset,
        )
    trained = [s.model_copy(update={"path": rows_of(s.path)}) for s in config.trained_on]
    found = evaluate(
        context,
        Evaluation(
            model=config.model,
            sets={source_name(s): _ingest(config, store, [s]).frame() for s in config.held_out},
            trained=_ingest(config, store, trained) if trained else None,
            tasks=choice(config.tasks) if config.tasks else None,
            judged=_judged(config, models),
            reference=config.reference_model,
            embed=embedding(config.embedder, context) if config.embedder else None,
            seed=config.seed,
        ),
    )
    found.save(folder(config))
    return found


def folder(config: EvaluateConfig) -> Path:
    """Where the tables of an evaluation lie."""
    return Path(config.out, config.name)


def choice(asked: TasksConfig) -> TaskChoice:
    """The tasks of the settings, all of which there are.

    Raises:
        ValueError: there is no such task, or no folder of data.
    """
    named(asked.names)
    return TaskChoice(
        names=tuple(asked.names),
        data=data_of(asked),
        limit=asked.limit,
        subsets={s.task: s for s in (Subset.load(Path(path)) for path in asked.subsets)},
        chat_template=asked.chat_template,
        batch_size=asked.batch_size,
    )


def task_files(asked: TasksConfig) -> dict[str, str]:
    """The data file of every task, each of which is there."""
    folder = data_of(asked)
    found = {task.name: task.rows(folder) for task in named(asked.names)}
    return {name: str(path) for name, path in found.items()}


def data_of(asked: TasksConfig) -> Path:
    """The folder of the tasks' data files."""
    shared = os.environ.get("GRISTMILL_DATA")
    path = Path(asked.data) if asked.data else Path(shared, "eval") if shared else None
    if path is None or not path.is_dir():
        raise ValueError(
            f"tasks.data is {path or 'not given'}: name the folder of the tasks' data files "
            "(--eval-data), or set GRISTMILL_DATA to the folder that has it as `eval`."
        )
    return path


def models_of(config: EvaluateConfig, store: Store) -> Models:
    """The models of the settings, by what they do here."""
    wanted: dict[str, str | list[str]] = {"target": config.model}
    if config.reference_model is not None:
        wanted["reference"] = config.reference_model
    if config.embedder is not None:
        wanted["embedder"] = config.embedder
    if config.win_rate is not None:
        wanted["baseline"] = config.win_rate.baseline
        judge = config.win_rate.judge
        if judge.model is not None and judge.url is None:
            wanted["judge"] = judge.model
    return bind(store, wanted, allow_network=config.allow_network)


def lines(found: Evaluated) -> list[dict[str, Any]]:
    """The figures, for a table."""
    return shown(found.lines.to_dicts())


def shown(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures as a summary has them, for a table."""
    return [
        {
            "measure": line["measure"],
            "set": line["set"],
            "part": line["part"],
            "value": f"{line['value']:.4f}",
            "95 % interval": f"{line['low']:.4f} to {line['high']:.4f}",
            "items": line["items"],
        }
        for line in figures
    ]


def _judged(config: EvaluateConfig, models: Models) -> Judged | None:
    asked = config.win_rate
    if asked is None:
        return None
    return Judged(
        baseline=asked.baseline,
        judge=answerer("judge", asked.judge, models, Passes(**config.passes.model_dump())),
        cache=models.store.root / "completions.sqlite",
        max_tokens=asked.max_tokens,
    )


def _ingest(config: EvaluateConfig, store: Store, sources: list[Source]) -> Dataset:
    return ingest(
        store, sources, max_bad_share=config.max_bad_share, allow_network=config.allow_network
    )
