"""Decontamination: rows that repeat an item of an evaluation set, or reword it.

Three ways to be found, all over the same words (`text.py`); any hit flags the row:

- `ngram`: an item of at least n words shares one word n-gram with the row (n = 13 by default). The
  overlap is the share of the item's n-grams that the row holds.
- `short`: an item of 5 to n - 1 words occurs in the row with at most (1 - fuzzy) of its words
  changed, put in or left out; the overlap is the share that agrees. Items of fewer words occur
  anywhere by chance: they must be the whole prompt of the row.
- `embedding`: the row's prompt and the item are near in the embedding space, for rewordings.

Every item that is hit is reported, with its own overlap. A row says which benchmark it repeats
most. The pool streams.
"""

# N = rows of a block, M = items, D = dimensions, B = rows compared at a time

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.clean.drops import drops
from gristmill.pipeline.clean.repeats import FEW, HITS, index_of, meetings, named
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.text import texts

Embed = Callable[[Sequence[str]], NDArray[np.floating[Any]]]
_BLOCK = 4_096


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What counts as a repetition.

    Attributes:
        n: words of an n-gram (13 as in GPT-3, arXiv:2005.14165; 8 or 10 are stricter).
        fuzzy: share of a short item's words that must agree.
        similarity: cosine from which a prompt counts as a rewording. The default suits MiniLM-L6
            (`benchmarks/decontamination.py` draws the curve); set it again for another embedder.
    """

    n: int = 13
    fuzzy: float = 0.85
    similarity: float = 0.82

    def __post_init__(self) -> None:
        if self.n < FEW:
            raise ValueError(f"n must be at least {FEW} words; found {self.n}.")
        for name in ("fuzzy", "similarity"):
            if not 0 < vars(self)[name] <= 1:
                raise ValueError(f"{name} lies above 0 and at most at 1; found {vars(self)[name]}.")


def rewordings(
    records: pl.DataFrame,
    vector_ND: NDArray[np.floating[Any]],
    items: pl.DataFrame,
    item_MD: NDArray[np.floating[Any]],
    similarity: float,
) -> pl.DataFrame:
    """The hits of a block of records by embedding: every item at least as near as `similarity`.

    Args:
        records: rows with `schema.KEY`.
        vector_ND: unit vectors of their prompts; a row of zeros or NaN meets nothing.
        items: the table of items.
        item_MD: unit vectors of their texts.
        similarity: the least cosine.
    """
    found = []
    for start in range(0, len(vector_ND), _BLOCK):
        cosine_BM = np.nan_to_num(vector_ND[start : start + _BLOCK] @ item_MD.T)
        at, item = np.nonzero(cosine_BM >= similarity)
        found.append(meetings(at + start, item, "embedding", cosine_BM[at, item]))
    return named(records, items, pl.concat(found)) if found else pl.DataFrame(schema=HITS)


def decontaminate(
    blocks: Iterable[pl.DataFrame],
    items: pl.DataFrame,
    *,
    gate: Gate | None = None,
    embed: Embed | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The gate: drops frame (`contaminated: <benchmark>`) and the table of all hits.

    Args:
        blocks: records of one kind.
        items: `benchmarks.load_benchmarks`, or any table of that form.
        gate: what counts as a repetition.
        embed: texts to unit vectors; without it rewordings are not looked for.
    """
    gate = gate or Gate()
    index = index_of(items, n=gate.n, fuzzy=gate.fuzzy)
    item_MD = None if embed is None else embed(items["text"].to_list())
    found = [pl.DataFrame(schema=HITS)]
    for block in blocks:
        found.append(index.hits(block))
        if embed is not None and item_MD is not None and block.height:
            vector_ND = embed(texts(block, "prompt").to_list())
            found.append(rewordings(block, vector_ND, items, item_MD, gate.similarity))
    hits = pl.concat(found)
    return contaminated(hits), hits


def contaminated(hits: pl.DataFrame) -> pl.DataFrame:
    """Drops frame of the rows with any hit.

    A row names the benchmark that it repeats most: repetitions before rewordings, then the higher
    overlap, then the name.
    """
    reworded = pl.col("method") == "embedding"
    worst = hits.sort(reworded, -pl.col("overlap"), "benchmark").unique(
        KEY, keep="first", maintain_order=True
    )
    return drops(
        worst,
        contaminates=pl.col("benchmark"),
        overlap=pl.col("overlap"),
        reason=pl.lit("contaminated: ") + pl.col("benchmark"),
    )
