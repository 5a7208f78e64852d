"""Near and semantic duplicates among millions of rows: time, memory, what is found.

    python benchmarks/duplicates_scale.py near --rows 2000000
    python benchmarks/duplicates_scale.py semantic --rows 1000000

The texts are those of `near_duplicates.py`, in shards as an ingest leaves them; the embeddings are
topics of uneven size on two levels, a tenth of them with a twin. Another process makes either, so
that the peak memory is that of the cleaner alone.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
from near_duplicates import clocks, since, write_pool

SHARD = 50_000
COLUMN = "embedding"
TOPICS = 200  # rows a topic
TWIN = 10  # every so many-th row is the twin of the one before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("near", "semantic"))
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dims", type=int, default=384, help="of the embeddings")
    parser.add_argument("--folder", type=Path, help="where all of it lies meanwhile")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        make, run = (texts, near) if asked.what == "near" else (embeddings, semantic)
        making = multiprocessing.get_context("spawn").Process(
            target=make, args=(folder, asked.rows, asked.dims)
        )
        making.start()
        making.join()
        assert making.exitcode == 0
        run(folder, asked.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")


def texts(folder: Path, rows: int, dims: int) -> None:
    """Shards of documents."""
    write_pool(folder / "pool.jsonl", rows)
    with (folder / "pool.jsonl").open("rb") as file:
        for shard in range(-(-rows // SHARD)):
            some = pl.read_ndjson(b"".join(islice(file, SHARD)))
            some = some.with_columns(source=pl.lit("pool"))
            some.write_parquet(folder / f"records-{shard:05d}.parquet")
    (folder / "pool.jsonl").unlink()


def near(folder: Path, rows: int) -> None:
    from gristmill.pipeline.clean.near_duplicates import MinHash, near_duplicates
    from gristmill.pipeline.clean.sketching import sketches
    from gristmill.pipeline.records.store import Store

    settings = MinHash()
    store = Store(root=folder / "store")
    store.root.mkdir()
    start = clocks()
    sketched = sketches(store, sorted(folder.glob("records-*.parquet")), settings)
    told("near duplicates, sketches", rows, since(start))
    size = sum(p.stat().st_size for p in sketched) / 2**30
    start = clocks()
    drops = near_duplicates(sketched, settings=settings, scratch=store.root)
    told("near duplicates, comparison", rows, since(start))
    print(f"{drops.height:,} rows removed; the sketches take {size:.2f} GiB of disk")


def embeddings(folder: Path, rows: int, dims: int) -> None:
    """Shards of unit vectors; every tenth nearly repeats the one before."""
    rng = np.random.default_rng(0)
    topics = max(8, rows // TOPICS)
    parent_PD = rng.standard_normal((max(4, topics // 20), dims), dtype=np.float32)
    topic_TD = parent_PD[rng.integers(0, len(parent_PD), topics)]
    topic_TD += 0.9 * rng.standard_normal((topics, dims), dtype=np.float32)
    topic_TD /= np.linalg.norm(topic_TD, axis=1, keepdims=True)
    spread_T = rng.uniform(0.4, 1.3, topics).astype(np.float32)
    share_T = np.arange(1, topics + 1) ** -0.8
    for start in range(0, rows, SHARD):
        size = min(SHARD, rows - start)
        topic = rng.choice(topics, size, p=share_T / share_T.sum())
        noise = rng.standard_normal((size, dims), dtype=np.float32) / np.sqrt(np.float32(dims))
        vector = topic_TD[topic] + spread_T[topic, None] * noise
        twins = np.arange(TWIN - 1, size, TWIN)
        vector[twins] = vector[twins - 1] + 0.1 * noise[twins]
        vector /= np.linalg.norm(vector, axis=1, keepdims=True)
        ids = [f"{i:032x}" for i in range(start, start + size)]
        frame = pl.DataFrame({"id": ids, COLUMN: vector})
        frame.write_parquet(folder / f"{start // SHARD:05d}.parquet")


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Observations that are read shard by shard."""

    folder: Path
    rows: int
    column: str = COLUMN

    def blocks(self) -> Iterator[pl.DataFrame]:
        for path in sorted(self.folder.glob("*.parquet")):
            yield pl.read_parquet(path).rename({COLUMN: self.column})


def semantic(folder: Path, rows: int) -> None:
    from gristmill.pipeline.clean.semantic_duplicates import semantic_duplicates

    ids = pl.Series("id", [f"{i:032x}" for i in range(rows)])
    keys = pl.DataFrame({"id": ids, "source": ["pool"] * rows, "row": range(rows)})
    start = clocks()
    pool = Shards(folder=folder, rows=rows)
    drops = semantic_duplicates(keys, pool, COLUMN, scratch=folder)
    told("semantic duplicates", rows, since(start))
    twins = pl.Series(range(TWIN - 1, rows, TWIN))
    found = drops["row"].is_in(twins.implode()).sum()
    print(f"{drops.height:,} rows removed, {found:,} of {len(twins):,} twins")


def told(what: str, rows: int, seconds: tuple[float, float]) -> None:
    wall, used = seconds
    print(f"{what}: {rows:,} rows, {wall:.1f} s, {used:.1f} s of processor time")


if __name__ == "__main__":
    sys.exit(main())
