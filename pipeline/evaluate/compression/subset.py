"""A subset of a task's items, as a file: a later evaluation asks it in the place of all."""

# K = items of the subset, R = resamples

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.evaluate.compression.weights import Estimate
from gristmill.pipeline.numerics.intervals import Interval, draws
from gristmill.pipeline.numerics.spline import Curve
from gristmill.pipeline.records.store import write_text

FORMAT = 1
RESAMPLES = 1_000


@dataclass(frozen=True, kw_only=True)
class Subset:
    """The items, and what their answers say of all items.

    Attributes:
        task: its name.
        of: how many items the task has.
        ids: of the items, in the order of rows.
        rows: their places in the task's data file; () if a plain table named none.
        estimate: from answers, in the order of `ids`, to the accuracy on all items.
        made_of: hashes of the task and its data.
        figures: how well the estimate did on models that no search saw, a line a form.
        notes: sentences.
    """

    task: str
    of: int
    ids: tuple[str, ...]
    rows: tuple[int, ...]
    estimate: Estimate
    made_of: Mapping[str, str]
    figures: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()

    def estimated(self, answers: pl.DataFrame, seed: int = 0) -> Interval:
        """The accuracy on all items by the answers `id` and `value`, with its bootstrap interval.

        Raises:
            ValueError: an item has no answer.
        """
        known = dict(answers.select("id", "value").iter_rows())
        lacking = [i for i in self.ids if known.get(i) is None]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(self.ids)} items of the subset of {self.task!r} have no "
                f"answer, first {lacking[0]}: ask all of them."
            )
        value_K = np.array([known[i] for i in self.ids])
        count_KR = draws(self.ids, RESAMPLES, seed).astype(np.float64)
        count_KR = count_KR[:, count_KR.sum(axis=0) > 0]
        scaled_RK = (count_KR / count_KR.mean(axis=0)).T
        low, high = np.quantile(self.estimate(scaled_RK * value_K), (0.025, 0.975))
        value = float(self.estimate(value_K[None])[0])
        return Interval(value=value, low=float(low), high=float(high))

    def save(self, path: Path) -> None:
        """Write the file, whole."""
        estimate = self.estimate
        told = {
            "format": FORMAT,
            "task": self.task,
            "of": self.of,
            "made_of": dict(self.made_of),
            "learned": estimate.learned,
            "intercept": estimate.intercept,
            "items": [
                {"id": i, "row": row, "weight": weight}
                for i, row, weight in zip(
                    self.ids, self.rows or [None] * len(self.ids), estimate.weight_K, strict=True
                )
            ],
            "curve": estimate.curve.value_G.tolist(),
            "figures": [dict(f) for f in self.figures],
            "notes": list(self.notes),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Subset":
        """The subset in a file.

        Raises:
            ValueError: it holds none.
        """
        try:
            told = json.loads(path.read_text("utf-8"))
            items = told["items"]
            rows = tuple(i["row"] for i in items)
            estimate = Estimate(
                weight_K=np.array([float(i["weight"]) for i in items]),
                intercept=float(told["intercept"]),
                curve=Curve(value_G=np.array(told["curve"], dtype=np.float64)),
                learned=bool(told["learned"]),
            )
            if told["format"] != FORMAT or not items:
                raise ValueError
            return cls(
                task=told["task"],
                of=int(told["of"]),
                ids=tuple(i["id"] for i in items),
                rows=() if None in rows else tuple(map(int, rows)),
                estimate=estimate,
                made_of=told["made_of"],
                figures=told["figures"],
                notes=told["notes"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path} is no subset of a task: name a file that `gristmill compress` wrote."
            ) from None
