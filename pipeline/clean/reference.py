"""Rows of the pool that are rows of the reference set: never shipped as training data."""

from collections.abc import Iterable

import polars as pl

from gristmill.pipeline.clean.drops import drops
from gristmill.pipeline.clean.exact import fingerprints


def reference_rows(blocks: Iterable[pl.DataFrame], reference: pl.DataFrame) -> pl.DataFrame:
    """Drops frame of the pool rows that say what a reference row says; reason `reference_row`.

    Args:
        blocks: records of the pool.
        reference: records of the reference set, of the same kind or not.
    """
    known = fingerprints(reference).select("fingerprint").unique()
    found = [fingerprints(b).join(known, on="fingerprint", how="semi") for b in blocks]
    return drops(pl.concat(found), reason="reference_row")
