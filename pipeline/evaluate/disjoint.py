"""Disjointness: what is measured on was not learnt from, and no two held-out sets share a row.

Sets that are held out (query, validation and test rows) are compared with what was trained on, and
with one another, by the rules of the decontamination gate (`clean/decontaminate.py`):

- the same id, whatever else;
- a prompt of at least n words shares an n-gram with anything that the other row says;
- a shorter one occurs in it word for word, the shortest are its whole prompt;
- with an embedder, a prompt that is near to the other: a rewording.

It is the prompt of a held-out row that must be new: with another answer it is known all the same.
So a pool that was cleaned with these rows as a benchmark passes, as does what `out_of` leaves. Rows
that come as tokens say nothing here and are compared by id alone.

Short prompts must agree in every word, while cleaning lets one in seven differ: questions of one
template that differ in a name are questions of their own. On MedQuAD, whose questions are such,
300 rows against 2,137: 62 have their very words there, 116 if a word may differ.
"""

# N = rows, M = items

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import polars as pl

from gristmill.pipeline.clean.decontaminate import Embed, Gate, decontaminate
from gristmill.pipeline.clean.repeats import HITS
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import CONTENT, KINDS
from gristmill.pipeline.records.text import texts

Rows = pl.DataFrame | Dataset
BY = {
    "id": "the same row",
    "ngram": "it shares a run of words",
    "short": "in the same words",
    "embedding": "reworded",
}
GATE = Gate(fuzzy=1.0)


def demand_disjoint(
    sets: Mapping[str, Rows],
    trained: Rows | None = None,
    *,
    gate: Gate | None = None,
    embed: Embed | None = None,
) -> None:
    """Refuse held-out sets that overlap with what was trained on, or with one another.

    Args:
        sets: held-out rows by what they are called: "query rows", "validation rows", "test rows".
        trained: the rows that the model was trained on, or will be.
        gate: what counts as a repetition; `GATE` by default.
        embed: texts to unit vectors; without it rewordings are not looked for.

    Raises:
        ValueError: which set, how many rows, the first of them, and what to do.
    """
    for name, rows in sets.items():
        if trained is None:
            break
        hits = overlaps(trained, {name: rows}, gate=gate, embed=embed)
        if hits.height:
            raise ValueError(
                f"{_told(hits, name, 'that were trained on', rows)}: a model knows them already; "
                "take them out of this set, or out of the pool before it is trained on "
                "(`gristmill clean` does, given the set as a benchmark)."
            )
    for (one, first), (other, second) in combinations(sets.items(), 2):
        hits = overlaps(second, {one: first}, gate=gate, embed=embed)
        if not hits.height:  # a prompt of either may be what the other row says at length
            hits, one, first, other = (
                overlaps(first, {other: second}, gate=gate, embed=embed), other, second, one,
            )  # fmt: skip
        if hits.height:
            raise ValueError(
                f"{_told(hits, one, f'of {other}', first)}: what is chosen on one must not be "
                "measured on the other; keep each row in one set."
            )


def overlaps(
    rows: Rows,
    held: Mapping[str, Rows],
    *,
    gate: Gate | None = None,
    embed: Embed | None = None,
) -> pl.DataFrame:
    """`HITS`: every row that repeats a held-out row, with the set (`benchmark`) and row (`item`).

    Args:
        rows: what is looked through, block by block.
        held: held-out rows by what they are called.
        gate: what counts as a repetition; `GATE` by default.
        embed: texts to unit vectors; without it rewordings are not looked for.
    """
    items = [_items(name, frame) for name, frame in held.items()]
    known = pl.concat([f.select("benchmark", "item") for f in items])
    said = pl.concat([f.filter(pl.col("text").is_not_null()) for f in items])
    found = [pl.DataFrame(schema=HITS)]
    for block in _blocks(rows):
        keyed = _keyed(block)
        same = keyed.select("id", "source", "row").join(known, left_on="id", right_on="item")
        found.append(
            same.with_columns(item="id", method=pl.lit("id"), overlap=pl.lit(1.0)).select(*HITS)
        )
        if said.height and _says(block):
            _, hits = decontaminate([keyed], said, gate=gate or GATE, embed=embed)
            found.append(hits)
    return pl.concat(found)


def out_of(
    rows: pl.DataFrame,
    held: Mapping[str, Rows],
    *,
    gate: Gate | None = None,
    embed: Embed | None = None,
) -> pl.DataFrame:
    """The rows that repeat no held-out row: with them `demand_disjoint` is content."""
    hits = overlaps(rows, held, gate=gate, embed=embed)
    return rows.join(hits, on="id", how="anti", maintain_order="left")


def _told(hits: pl.DataFrame, name: str, whose: str, rows: Rows) -> str:
    """How many rows of a set repeat others, and the first."""
    first = hits.sort(pl.col("method") != "id", -pl.col("overlap"), "item").row(0, named=True)
    of = sum(block.height for block in _blocks(rows))
    with_ = "" if first["id"] == first["item"] else f", {BY[first['method']]} as {first['id']}"
    count = hits["item"].n_unique()
    repeat = "row repeats rows" if count == 1 else "rows repeat rows"
    return f"{name}: {count:,} of {of:,} {repeat} {whose} (first: {first['item']}{with_})"


def _items(name: str, rows: Rows) -> pl.DataFrame:
    """`benchmark`, `item` (the id) and `text` (what must be new) of a held-out set."""
    frames = [
        block.select(benchmark=pl.lit(name), item="id").with_columns(
            _new(block) if _says(block) else pl.lit(None, pl.String).alias("text")
        )
        for block in _blocks(rows)
    ]
    schema: dict[str, Any] = dict.fromkeys(("benchmark", "item", "text"), pl.String)
    return pl.concat([pl.DataFrame(schema=schema), *frames]).unique(
        "item", keep="first", maintain_order=True
    )


def _new(block: pl.DataFrame) -> pl.Series:
    """The prompt of each row; all that it says where nobody asks anything."""
    frame = pl.DataFrame({"prompt": texts(block, "prompt"), "all": texts(block, "all")})
    asked = pl.col("prompt").str.strip_chars() != ""
    return frame.select(text=pl.when(asked).then("prompt").otherwise("all")).to_series()


def _says(block: pl.DataFrame) -> bool:
    return any({*CONTENT[kind]} - {"tools"} <= {*block.columns} for kind in KINDS)


def _keyed(block: pl.DataFrame) -> pl.DataFrame:
    """With a source and a place, which rows that never were in a file have not."""
    more = {
        "source": pl.lit("", pl.String),
        "row": pl.int_range(pl.len(), dtype=pl.Int64),
    }
    return block.with_columns(**{c: e for c, e in more.items() if c not in block.columns})


def _blocks(rows: Rows) -> Iterator[pl.DataFrame]:
    if isinstance(rows, Dataset):
        yield from rows.blocks()
    else:
        yield rows
