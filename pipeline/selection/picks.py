"""How many rows a greedy method picks."""

import polars as pl

from gristmill.pipeline.contracts import WHOLE, Given, Observations
from gristmill.pipeline.selection.selection import Budget

TENTH = 0.1  # of the rows, where neither the user nor a budget says how many to pick


def asked(picks: float) -> Budget:
    """The setting `picks`: a share up to 1, at least one row; from 2 on a number of rows.

    Raises:
        ValueError: it is neither.
    """
    if not picks > 0 or (picks > 1 and not float(picks).is_integer()):
        raise ValueError(f"picks is a share up to 1 or a number of rows from 2; found {picks}.")
    return Budget(fraction=picks) if picks <= 1 else Budget(rows=int(picks))


def number_of(picks: float | None, given: Given, pool: Observations, rows: int) -> int:
    """How many rows a greedy method picks: as its user says, or else as the run's budget asks.

    Args:
        picks: the setting (see `asked`); None: the run decides, and without a budget a tenth of
            the rows.
        given: what the run hands over.
        pool: the rows, whose tokens count where the budget is in tokens.
        rows: how many can be picked.
    """
    if picks is not None:
        return min(rows, asked(picks).amount(rows))
    if given.tokens is not None:
        return min(rows, _most_that_fit(pool, given.tokens))
    if given.picks is not None:
        return min(rows, given.picks)
    return min(rows, Budget(fraction=TENTH).amount(rows))


def _most_that_fit(pool: Observations, tokens: int) -> int:
    """The most rows that so many tokens can hold: the shortest ones."""
    blocks = list(pool.blocks())
    if any(WHOLE not in b.columns for b in blocks):
        raise ValueError(
            "a budget in tokens needs the tokens of every row: bind a model in the role target, or "
            "give the budget in rows."
        )
    counts = pl.concat([b[WHOLE].struct.field("tokens").drop_nulls() for b in blocks])
    return int((counts.sort().cum_sum() <= tokens).sum())
