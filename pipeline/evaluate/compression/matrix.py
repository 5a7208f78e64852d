"""The matrix that a task is compressed by: how well each of many models answers each item."""

# M = models, N = items

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
LEAST = 8  # models: some to search by, some to hold back


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Answers of models to the items of one task.

    Attributes:
        task: its name.
        models: in order of their names.
        items: `id`, `row` (its place in the task's data file, or null) and `text` (or null), in the
            order of rows and ids.
        value_MN: from 0 to 1; 1 is right.
        made_of: hashes of the task and its data, if an evaluation made it.
    """

    task: str
    models: tuple[str, ...]
    items: pl.DataFrame
    value_MN: Floats
    made_of: Mapping[str, str]

    @property
    def whole_M(self) -> Floats:
        """Each model's accuracy on all items."""
        return np.asarray(self.value_MN.mean(axis=1))


def of_evaluations(folders: Sequence[Path], task: str) -> Matrix:
    """From the folders that evaluations wrote, a model each, named by its folder.

    Raises:
        ValueError: a folder is no evaluation, did not ask the task, or asked other items.
    """
    tables, made = [], {}
    for folder in folders:
        summary, items = folder / "summary.json", folder / "tasks.parquet"
        if not (summary.is_file() and items.is_file()):
            raise ValueError(f"{folder} is no evaluation with tasks: it lacks summary.json.")
        told: Mapping[str, Any] = json.loads(summary.read_text("utf-8")).get("tasks", {})
        if task not in told:
            raise ValueError(
                f"{folder} did not ask the task {task!r}; it asked {', '.join(sorted(told))}."
            )
        made[folder] = {k: told[task]["made_of"][k] for k in ("task", "data")}
        mine = pl.read_parquet(items).filter(task=task)
        first = mine.filter(pl.col("filter") == mine["filter"].first()).unique("id", keep="first")
        text = pl.col("prompts").list.join("\n").alias("text")
        tables.append(first.select(pl.lit(folder.name).alias("model"), "id", "row", text, "value"))
    if len({json.dumps(m, sort_keys=True) for m in made.values()}) > 1:
        raise ValueError(
            f"the evaluations asked the task {task!r} in different versions, or on different data: "
            "ask all models the same."
        )
    return _matrix(task, pl.concat(tables), next(iter(made.values())))


def of_table(frame: pl.DataFrame, task: str) -> Matrix:
    """From a table with a row for each model and item: `model`, `item`, `value`, perhaps `text`.

    Raises:
        ValueError: columns are missing.
    """
    missing = {"model", "item", "value"} - set(frame.columns)
    if missing:
        raise ValueError(
            f"the table of answers lacks the columns {', '.join(sorted(missing))}; expected model, "
            "item and value (0 to 1), a row for each answer."
        )
    text = pl.col("text") if "text" in frame.columns else pl.lit(None, pl.String).alias("text")
    return _matrix(
        task,
        frame.select(
            pl.col("model").cast(pl.String),
            pl.col("item").cast(pl.String).alias("id"),
            pl.lit(None, pl.Int64).alias("row"),
            text,
            pl.col("value").cast(pl.Float64),
        ),
        {},
    )


def _matrix(task: str, rows: pl.DataFrame, made_of: Mapping[str, str]) -> Matrix:
    wrong = rows.filter(~pl.col("value").is_between(0, 1).fill_null(value=False))
    if wrong.height:
        raise ValueError(
            f"{wrong.height:,} answers to {task!r} have no value from 0 to 1, first that of model "
            f"{wrong['model'][0]} to item {wrong['id'][0]}: give the share that is right."
        )
    twice = rows.filter(pl.struct("model", "id").is_duplicated())
    if twice.height:
        raise ValueError(
            f"model {twice['model'][0]} answers item {twice['id'][0]} more than once: give each "
            "model a name of its own."
        )
    items = rows.unique("id", keep="first", maintain_order=True).sort("row", "id", nulls_last=True)
    models = rows["model"].unique().sort().to_list()
    if len(models) < LEAST:
        raise ValueError(
            f"{len(models)} models answered {task!r}; a search takes {LEAST} or more, and tens to "
            "be worth it: evaluate more models."
        )
    counts = rows.group_by("model").len().sort("len", "model")
    if counts["len"][0] < items.height:
        raise ValueError(
            f"model {counts['model'][0]} answered {counts['len'][0]:,} of {items.height:,} items "
            f"of {task!r}: ask all models all items."
        )
    places = {"item": items["id"], "model": pl.Series(models)}
    at = [
        rows[name].replace_strict(of, range(len(of)), return_dtype=pl.Int64).to_numpy()
        for name, of in (("model", places["model"]), ("id", places["item"]))
    ]
    value_MN = np.zeros((len(models), items.height))
    value_MN[at[0], at[1]] = rows["value"].to_numpy()
    return Matrix(
        task=task,
        models=tuple(models),
        items=items.select("id", "row", "text"),
        value_MN=value_MN,
        made_of=made_of,
    )
