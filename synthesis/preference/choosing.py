"""Choosing: which prompts are worth a verdict, where not all can be judged.

| choose | asks first for |
|---|---|
| `uncertainty` | the prompts on whose two candidates the reward models differ most |
| `gradients` | the pair whose reward difference is least determined by those chosen before it |
| `random` | what a draw says: what the others are held against |

The pair of a prompt is that of its two first candidates by id. Choices are of prompts, greedy for
`gradients`, best first for the others, ties by id.
"""

# N = pairs, K = reward models, D = features

from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.numerics.uncertainty import ensemble, most_uncertain
from gristmill.pipeline.records.schema import uniform

Doubles = NDArray[np.float64]
Choose = Literal["uncertainty", "gradients", "random"]
CHOICES: dict[str, Any] = {
    "id": pl.String,
    "place": pl.Int64,  # 1 = the first to be labelled; null: it is not chosen
    "worth": pl.Float64,  # why: uncertainty, gain when picked, or the draw
}


def choose(table: pl.DataFrame, by: Choose, budget: int, *, seed: int = 0) -> pl.DataFrame:
    """Which rows of a table to have labelled, and in which order.

    Args:
        table: `id`, and for `uncertainty` the column `margins`: of each reward model the reward of
            one answer less that of the other; for `gradients` the columns `one` and `two`: the
            projected gradient of the log-probability of each answer.
        by: the rule.
        budget: rows to choose; all, if there are no more.
        seed: of `random`.

    Returns:
        `CHOICES`, in the order of the table.

    Raises:
        ValueError: a column is missing, or the budget is below 1.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} labels chooses nothing; give at least 1.")
    needed = {"uncertainty": ["margins"], "gradients": ["one", "two"], "random": []}[by]
    if missing := [c for c in ("id", *needed) if c not in table.columns]:
        raise ValueError(f"choose by {by} needs the columns {missing} (found: {table.columns}).")
    frame = table.sort("id")
    if by == "gradients":
        rows_K, worth_K = _active(frame, budget)
    else:
        worth_N = _uncertain(frame) if by == "uncertainty" else _drawn(frame, seed)
        rows_K = np.argsort(-worth_N, kind="stable")[:budget]
        worth_K = worth_N[rows_K]
    chosen = pl.DataFrame(
        {
            "id": frame["id"].gather(rows_K),
            "place": np.arange(1, len(rows_K) + 1),
            "worth": worth_K,
        },
        schema=CHOICES,
    )
    return table.select("id").join(chosen, on="id", how="left", maintain_order="left")


def _active(frame: pl.DataFrame, budget: int) -> tuple[Any, Doubles]:
    one_ND, two_ND = (
        unit(np.array(frame[c].to_list(), dtype=np.float64), zero=np.nan) for c in ("one", "two")
    )
    picked = most_uncertain(np.nan_to_num(one_ND - two_ND), budget)
    return picked.rows, picked.worth


def _uncertain(frame: pl.DataFrame) -> Doubles:
    lengths = frame["margins"].list.len().unique().to_list()
    if frame.height and (len(lengths) > 1 or lengths[0] < 2):
        raise ValueError(
            f"uncertainty is the spread of several reward models, and margins hold {lengths} "
            "numbers: give those of at least two models in every row."
        )
    return ensemble(np.array(frame["margins"].to_list(), dtype=np.float64))


def _drawn(frame: pl.DataFrame, seed: int) -> Doubles:
    return np.array([uniform(seed, "label", ident) for ident in frame["id"]])
