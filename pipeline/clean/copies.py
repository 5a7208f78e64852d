"""Copies: what cleaning drops of every dataset, whatever a user asks for."""

from collections.abc import Sequence

import polars as pl

from gristmill.pipeline.clean.exact import exact_duplicates
from gristmill.pipeline.clean.reversed_pairs import reversed_pairs
from gristmill.pipeline.records.dataset import Dataset


def with_copies(dataset: Dataset, before: Sequence[pl.DataFrame] = ()) -> list[pl.DataFrame]:
    """The drops `before`, then pairs in both directions and exact copies among what they leave."""
    gone = list(before)
    if dataset.kind == "pair":
        gone.append(reversed_pairs(dataset.without(gone).blocks()))
    gone.append(exact_duplicates(dataset.without(gone).blocks()))
    return gone
