"""Methods that look at the data alone: token counts, n-grams, distances, tags; no language model.

What they know of a pool are sums over its shards. Each shard is counted once and its counts are
kept, so that a pool that grows pays for what is new.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import Artifact
from gristmill.pipeline.observe.observe import new_ids
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import CONTENT, digest
from gristmill.pipeline.records.store import Entry, Step, Store, table

TOGETHER = 1_024  # records as Python objects at once

Rows = Sequence[Mapping[str, Any]]
Chosen = Callable[[pl.Series], pl.Series]


def counted(
    store: Store,
    dataset: Dataset,
    step: Step,
    count: Callable[[Iterator[Rows]], pl.DataFrame],
    chosen: Chosen = lambda ids: ids,
) -> list[Entry]:
    """A table of counts for each shard: made, or found.

    Args:
        store: where they are kept.
        dataset: whose unique records are counted.
        step: what counting depends on, but for the records.
        count: from records, some at a time, to their counts.
        chosen: of the ids of a shard, those to count.
    """
    found = []
    for path, new in zip(dataset.shards(), new_ids(dataset), strict=True):
        ids = chosen(new)
        if ids.is_empty():
            continue
        of_shard = Step(
            name=step.name,
            version=step.version,
            settings=step.settings,
            inputs={**step.inputs, "records": digest(ids.to_list())},
        )

        def made(path: Any = path, ids: pl.Series = ids) -> pl.DataFrame:  # noqa: ANN401
            return count(_rows(dataset, path, ids))

        found.append(store.run(of_shard, [table("counts", made)]))
    return found


def _rows(dataset: Dataset, shard: Any, ids: pl.Series) -> Iterator[Rows]:  # noqa: ANN401  (Path)
    block = dataset.block(shard, ["id", *CONTENT[dataset.kind]]).unique("id", keep="first")
    # in order of id, as copies of a record may lie anywhere
    mine = block.filter(pl.col("id").is_in(ids.implode())).sort("id")
    for part in mine.iter_slices(TOGETHER):
        yield list(part.iter_rows(named=True))


def summed(store: Store, name: str, version: int, entries: Sequence[Entry], by: str) -> Artifact:
    """The sum of tables of counts, as an artifact: the column `by` is sorted, all others added.

    A column that a table does not have counts as 0 there.

    Args:
        store: where it is kept.
        name: of the step, and of the artifact's file.
        version: of the counting.
        entries: of `counted`.
        by: the column that says what was counted.
    """
    step = Step(
        name=name, version=version, inputs={str(i): e.content for i, e in enumerate(entries)}
    )

    def total() -> pl.DataFrame:
        whole = entries[0].frame()
        for entry in entries[1:]:
            added = pl.concat([whole, entry.frame()], how="diagonal")
            whole = added.group_by(by).agg(pl.exclude(by).sum())
        return whole.sort(by)

    entry = store.run(step, [table(name, total)])
    return Artifact(name=name, content=entry.content, path=entry.path / f"{name}.parquet")
