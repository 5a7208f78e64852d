"""Preference pairs: which of them this model should be trained on, and which labels are wrong.

With m the implicit reward margin of a pair (`pipeline.signals.pair_signals`), l its loss and g_v
the mean gradient of the validation pairs' losses, the family's centre is the influence
IF(d) = <grad l(d), g_v>.
LossDiff estimates it without a gradient, IRM is the margin itself; a band of either keeps the
pairs in the middle. The others are margins by other models, ranked one way or the other.
"""

# N = pairs

import logging

import polars as pl

from gristmill.pipeline.contracts import Observations
from gristmill.pipeline.signals.pair_signals import Doubles

LOG = logging.getLogger(__name__)
FEW = 32  # validation pairs below which their mean gradient is mostly noise


def table(ids: pl.Series, score_N: Doubles, **parts: Doubles) -> pl.DataFrame:
    """Ids, scores and `score_<part>` columns, NaN as null; without rows, an empty table."""
    columns = {"score": score_N, **{f"score_{name}": v for name, v in parts.items()}}
    frame = ids.alias("id").to_frame()
    return frame.with_columns(
        pl.Series(name, values, dtype=pl.Float64, nan_to_null=True)
        for name, values in columns.items()
    )


def count_targets(reference: Observations | None) -> None:
    """Say once that the validation pairs are few.

    Raises:
        ValueError: there are none.
    """
    rows = 0 if reference is None else reference.rows
    if not rows:
        raise ValueError("the validation set holds no pair: pass --reference PATH with some.")
    if rows < FEW:
        LOG.warning(
            "%d validation pairs were given; below %d their mean is mostly noise.", rows, FEW
        )
