"""Tasks: benchmarks through lm-evaluation-harness, on local files, with every answer kept.

A task is a YAML file of the harness' own form: those in `task_files/`, or one of the user's. Its
figures are the harness' figures, to the last digit. Tasks that run the code a model writes are left
out.
"""

# N = items

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.evaluate import harness
from gristmill.pipeline.evaluate.compression.subset import Subset
from gristmill.pipeline.models.load import load, pick_device, pick_dtype
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.numerics.intervals import Interval, ratio
from gristmill.pipeline.records import yaml_text
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Entry, Part, Step, Store, write_table

SHIPPED = Path(__file__).with_name("task_files")
VERSION = 1
# What prompts put around a question.
_FRAME = re.compile(r"^(Question|Q|Passage):|^(Answer|A|Choices):\s*$", re.MULTILINE)
# One row per item and filter. An item's `value` is its part of the task's first figure.
ITEMS: dict[str, Any] = {
    "task": pl.String,
    "id": pl.String,  # the harness' hash of the row
    "row": pl.Int64,  # its place in the data file
    "filter": pl.String,  # how the answer was taken from the text
    "prompts": pl.List(pl.String),  # one for each choice, or one
    "target": pl.String,
    "choices": pl.List(pl.String),  # null where the model writes its answer
    "log_likelihoods": pl.List(pl.Float64),  # of the choices
    "answer": pl.String,  # the likeliest choice, or what the model wrote
    "extracted": pl.String,  # what the filter took from it
    "metrics": pl.List(pl.Struct({"metric": pl.String, "value": pl.Float64})),
    "value": pl.Float64,
    "correct": pl.Boolean,  # null if the value is a share
}


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task on one model.

    Attributes:
        task: its name.
        figures: what the harness says, as it says it: `acc,none`, `acc_stderr,none`, ...
        metric: the first figure: what `value` of the items is a part of.
        filter: the filter of that figure.
        items: `ITEMS`.
        made_of: hashes of the model, the template, the task and its data; the harness' version.
        subset: the items that alone were asked; None: no subset was given.
    """

    task: str
    figures: Mapping[str, Any]
    metric: str
    filter: str
    items: pl.DataFrame
    made_of: Mapping[str, str]
    subset: Subset | None = None

    @property
    def asked(self) -> int:
        """How many items were asked."""
        return self.items.filter(filter=self.filter).height

    def scored(self) -> pl.DataFrame:
        """`id`, `value` and `weight` of every item; copies of an item are one."""
        rows = self.items.filter(filter=self.filter).unique("id", keep="first", maintain_order=True)
        return rows.select("id", "value", weight=pl.lit(1.0))

    def interval(self, seed: int = 0) -> Interval:
        """The first figure with its bootstrap interval over items."""
        rows = self.items.filter(filter=self.filter)
        return ratio(rows["id"].to_list(), rows["value"], seed=seed)

    def estimated(self, seed: int = 0) -> Interval | None:
        """What the answers to a subset say of the first figure on all items."""
        return None if self.subset is None else self.subset.estimated(self.scored(), seed)


TaskResults = Mapping[str, TaskResult]


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A task that can be asked: its YAML, and the data file that this names."""

    name: str
    config: Path
    data: str
    tags: tuple[str, ...]

    def rows(self, folder: Path) -> Path:
        """The data file in a folder.

        Raises:
            ValueError: it is not there.
        """
        path = folder / self.data
        if not path.is_file():
            raise ValueError(
                f"task {self.name!r} reads {self.data}, which is not under {folder}: give the "
                "folder that holds it."
            )
        return path

    def hashes(self, store: Store, folder: Path) -> dict[str, str]:
        """`task`: of the YAML, what it includes and functions beside it; `data`: of the rows."""
        rows = self.rows(folder)
        files = [*_included(self.config)]
        if self.config.parent != SHIPPED:
            files += sorted(self.config.parent.glob("*.py"))
        return {
            "task": digest({p.name: store.file_hash(p) for p in files}),
            "data": store.file_hash(rows),
        }


def shipped() -> list[TaskFile]:
    """The tasks that come with Gristmill, by name."""
    return [_task_file(path) for path in sorted(SHIPPED.glob("*.yaml"))]


def named(tasks: Sequence[str]) -> list[TaskFile]:
    """Tasks by name, by tag, or by the path of a YAML of the user's; each once.

    Raises:
        ValueError: there is no such task, or none is named.
    """
    known = {t.name: t for t in shipped()}
    found: dict[str, TaskFile] = {}
    for asked in tasks:
        tagged = [t for t in known.values() if asked in t.tags]
        if asked.endswith((".yaml", ".yml")) and Path(asked).is_file():
            tagged = [_task_file(Path(asked))]
        elif asked in known:
            tagged = [known[asked]]
        if not tagged:
            tags = sorted({tag for t in known.values() for tag in t.tags})
            raise ValueError(
                f"there is no task {asked!r}: give the path of a YAML file of the harness, or one "
                f"of {', '.join([*known, *tags])}."
            )
        for task in tagged:
            if found.setdefault(task.name, task).config != task.config:
                raise ValueError(f"two tasks are called {task.name!r}: give each its own name.")
    if not found:
        raise ValueError("no task is named: give one at least.")
    return list(found.values())


def made_of(task: TaskFile, store: Store, data: Path) -> dict[str, str]:
    """What the figures of a task depend on, but for the model: see `TaskFile.hashes`."""
    return {**task.hashes(store, data), "harness": harness.version()}


def questions(
    tasks: Sequence[str], store: Store, *, data: Path, limit: int | None = None
) -> dict[str, pl.DataFrame]:
    """`id` (task:row) and `text` of the items of each task: what nobody may have been trained on.

    Args:
        tasks: names, tags or paths, as for `named`.
        store: remembers the hashes of files.
        data: folder of the tasks' data files.
        limit: the first so many items of each task; all by default.
    """
    found = {}
    for task in named(tasks):
        content = digest(made_of(task, store, data))
        said = harness.questions(harness.task_of(task.config, data.resolve(), content), limit)
        ids = [f"{task.name}:{row}" for row in range(len(said))]
        text = [_FRAME.sub(" ", q) for q in said]
        found[task.name] = pl.DataFrame({"id": ids, "text": text})
    return found


def evaluate_tasks(
    tasks: Sequence[str],
    model_reference: str,
    store: Store,
    *,
    data: Path,
    limit: int | None = None,
    subsets: Mapping[str, Subset] | None = None,
    passes: Passes | None = None,
    chat_template: bool = False,
    batch_size: int = 1,
    progress: Progress | None = None,
    allow_network: bool = False,
) -> TaskResults:
    """Ask a model the items of tasks; what was asked before is found.

    Args:
        tasks: names, tags or paths, as for `named`.
        model_reference: the language model; adapters too.
        store: where figures and answers are kept.
        data: folder of the tasks' data files.
        limit: the first so many items of each task; all by default.
        subsets: by task: the items that alone are asked.
        passes: device and dtype; prompts may be as long as the model's own context.
        chat_template: prompts are turns of a chat, not plain text.
        batch_size: of the harness; any but 1 (its default) may change the last digits.
        progress: told of requests done.
        allow_network: the model may be fetched from the hub.

    Raises:
        ValueError: there is no such task, its data is not there, a subset is of another task or of
            other data, or the model has no template.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is at least 1 item; found {limit}.")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1; found {batch_size}.")
    passes = passes or Passes()
    chosen = named(tasks)
    hashes = {t.name: made_of(t, store, data) for t in chosen}
    subsets = dict(subsets or {})
    fitting(subsets, hashes, limit)
    files = resolve(model_reference, store, allow_network=allow_network)
    if chat_template and not files.chat_template_sha:
        raise ValueError(
            f"model {model_reference!r} has no chat template: leave chat_template off, which asks "
            "in plain text."
        )
    settings = {
        "limit": limit,
        "chat_template": chat_template,
        "batch_size": batch_size,
        "dtype": pick_dtype(passes.dtype, pick_device(passes.device)),
    }

    @cache
    def model() -> Any:  # noqa: ANN401  (the harness' class)
        return harness.language_model(
            load(files, device=passes.device, dtype=passes.dtype), batch_size
        )

    def make(task: TaskFile, path: Path) -> None:
        content = digest(hashes[task.name])
        told = None if progress is None else partial(progress, f"task {task.name}")
        figures, samples = harness.run(
            harness.task_of(task.config, data.resolve(), content),
            model(),
            limit=limit,
            chat_template=chat_template,
            rows=subsets[task.name].rows if task.name in subsets else (),
            told=told,
        )
        path.mkdir()
        (path / "figures.json").write_text(json.dumps(figures, default=str), "utf-8")
        metric, filtered = _first(figures)
        write_table(_items(task.name, samples, metric, filtered), path / "items.parquet")

    found = {}
    for task in chosen:
        step = Step(
            name="evaluate-task",
            version=VERSION,
            settings={
                "task": task.name,
                "harness": hashes[task.name]["harness"],
                **settings,
                **({"rows": list(subsets[task.name].rows)} if task.name in subsets else {}),
            },
            inputs={
                "model": files.fingerprint,
                "task": hashes[task.name]["task"],
                "data": hashes[task.name]["data"],
            },
        )
        entry = store.run(step, [Part(name="result", write=partial(make, task))])
        made = {**_hashes(files), **hashes[task.name]}
        found[task.name] = _result(task.name, entry, made, subsets.get(task.name))
    return found


def fitting(
    subsets: Mapping[str, Subset], hashes: Mapping[str, Mapping[str, str]], limit: int | None
) -> None:
    """Refuse subsets that are not of these tasks.

    Args:
        subsets: by task.
        hashes: of every task that is asked: see `made_of`.
        limit: the first so many items.
    """
    if subsets and limit is not None:
        raise ValueError("a subset names its items: leave the limit out.")
    for name, subset in subsets.items():
        if name not in hashes:
            raise ValueError(
                f"the subset is of the task {name!r}, which is not asked: asked are "
                f"{', '.join(hashes)}."
            )
        if not subset.rows:
            raise ValueError(
                f"the subset of {name!r} was made of a table, which names no rows of the task's "
                "data file: make it of evaluations."
            )
        if any(subset.made_of.get(k) != hashes[name][k] for k in ("task", "data")):
            raise ValueError(
                f"the subset of {name!r} was made with another version of the task, or other data: "
                "make it again."
            )


def _result(
    name: str, entry: Entry, made_of: Mapping[str, str], subset: Subset | None
) -> TaskResult:
    figures = json.loads(entry.read("result/figures.json"))
    metric, filtered = _first(figures)
    return TaskResult(
        task=name,
        figures=figures,
        metric=metric,
        filter=filtered,
        items=entry.frame(),
        made_of=made_of,
        subset=subset,
    )


def _hashes(files: ModelFiles) -> dict[str, str]:
    return {
        "model_sha": files.model_sha,
        "tokenizer_sha": files.tokenizer_sha,
        "chat_template_sha": files.chat_template_sha,
    }


def _first(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Metric and filter of a task's first figure: `acc,none` is `acc` and `none`."""
    name = next(n for n in figures if "," in n and "_stderr," not in n)
    metric, _, filtered = name.partition(",")
    return metric, filtered


def _items(
    task: str, samples: Sequence[Mapping[str, Any]], metric: str, filtered: str
) -> pl.DataFrame:
    """`ITEMS` of the harness' samples, in the order of the rows."""
    rows = []
    for sample in samples:
        arguments = sample["arguments"]
        said = [r[0] for r in sample["resps"]]
        choice = not isinstance(said[0], str)
        lls = [float(s[0]) for s in said] if choice else None
        choices = [str(a[1]) for a in arguments] if choice else None
        if choices is not None and len({*choices}) == 1:  # the prompts are what is chosen from
            choices = [str(a[0]) for a in arguments]
        value = sample[metric]
        rows.append(
            {
                "task": task,
                "id": sample["doc_hash"],
                "row": sample["doc_id"],
                "filter": sample["filter"],
                "prompts": [str(a[0]) for a in arguments],
                "target": _text(sample["target"]),
                "choices": choices,
                "log_likelihoods": lls,
                "answer": said[0] if choices is None or lls is None else choices[_best(lls)],
                "extracted": None if choice else _text(sample["filtered_resps"][0]),
                "metrics": [
                    {"metric": m, "value": float(sample[m])}
                    for m in sample["metrics"]
                    if isinstance(sample[m], int | float)
                ],
                "value": float(value) if isinstance(value, int | float) else None,
                "correct": bool(value) if value in (0, 1) else None,
            }
        )
    return pl.DataFrame(rows, schema=ITEMS).sort("row", pl.col("filter") != filtered, "filter")


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: (values[i], -i))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _task_file(path: Path) -> TaskFile:
    settings: dict[str, Any] = {}
    for file in reversed(list(_included(path))):
        settings |= _plain(file)
    try:
        (data,) = settings["dataset_kwargs"]["data_files"].values()
        name, tags = settings["task"], settings.get("tag") or ()
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ValueError(
            f"{path.name} is not a task with local rows: it names its task and one file under "
            "dataset_kwargs.data_files."
        ) from None
    return TaskFile(
        name=name, config=path, data=data, tags=(tags,) if isinstance(tags, str) else tuple(tags)
    )


def _included(path: Path) -> list[Path]:
    """A YAML and what it includes, the nearest first."""
    found, queue = [], [path]
    while queue:
        file = queue.pop(0)
        if file in found:
            raise ValueError(f"{path.name} includes itself: take the line out.")
        found.append(file)
        more = _plain(file).get("include") or []
        queue += [file.parent / name for name in ([more] if isinstance(more, str) else more)]
    return found


def _plain(path: Path) -> dict[str, Any]:
    """The settings of a YAML with names of functions for functions."""
    text = yaml_text.read(path).replace("!function ", "")
    try:
        settings = yaml_text.parse(text)
    except ValueError as error:
        raise ValueError(f"{path.name} is no YAML: {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path.name} is not a mapping of a task's settings.")
    return settings
