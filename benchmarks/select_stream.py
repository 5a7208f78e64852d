"""Selection among many scores in bounded memory, beside the form that holds the table.

    python benchmarks/select_stream.py [--rows 1000000 10000000] [--cases top tokens]

Each line is a whole run in a process of its own: read a table of scores (Parquet files of
1,048,576 rows), select 10 %, write the ledger. `stream` is `select_tables`, `memory` is `select` on
the table read whole, up to `--memory` rows. The table is generated file by file: content ids, 8
sources of very different sizes, 1 % exact copies, 0.5 % rows without a score and 0.1 % quarantined
rows. What 100,000,000 rows need on the disk (`--folder`) is told beside the figures.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline.numerics.keys import unpacked
from gristmill.pipeline.records.schema import SCORES
from gristmill.pipeline.records.store import Store, write_table
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.pipeline.selection.streaming.ledger import select_tables

FILE_ROWS = 1 << 20
TOKENS = 1_010  # of a row, in the mean
CASES = {
    "top": ("top", {}, "10%"),
    "stratified": ("stratified", {}, "10%"),
    "band": ("band", {"low": 0.3, "high": 0.7}, "10%"),
    "tokens": ("top", {}, None),  # a tenth of all tokens
}


def make(rows: int, number: int, path: Path) -> None:
    """One file of a table of so many rows."""
    first = number * FILE_ROWS
    size = min(FILE_ROWS, rows - first)
    rng = np.random.default_rng([0, number])
    who = np.arange(first, first + size, dtype=np.uint64)
    copy = rng.random(size) < 0.01
    who[copy] = rng.integers(0, first + size, copy.sum())
    numbers = pl.Series(who)
    high, low, third = (numbers.hash(seed=s).to_numpy() for s in (1, 2, 3))
    score = np.sqrt(-2 * np.log((third + 0.5) / 2.0**64)) * np.cos(high / 2.0**64 * 2 * np.pi)
    fate = pl.Series(low / 2.0**64)
    why = pl.when(fate < 0.001).then(pl.lit("quarantine: broken JSON"))
    why = why.when(fate < 0.006).then(pl.lit("empty answer"))
    source = pl.Series(rng.geometric(0.5, size).clip(1, 8) - 1)
    frame = pl.DataFrame({"id": unpacked(high, low)}).select(
        "id",
        source=pl.concat_str([pl.lit("source-"), source.cast(pl.String)]),
        row=pl.int_range(first, first + size),
        kind=pl.lit("example"),
        tokens=pl.Series(20 + (third % np.uint64(1_980)).astype(np.int64)),
        score=pl.when(fate >= 0.006).then(pl.Series(score)),
        reason=why,
    )
    write_table(frame.cast(SCORES), path / f"scores-{number:05d}.parquet")


def measure(case: str, form: str, folder: Path) -> None:
    name, settings, text = CASES[case]
    files = sorted(folder.glob("scores-*.parquet"))
    rows = sum(int(pl.scan_parquet(f).select(pl.len()).collect().item()) for f in files)
    rule = rule_named(name, settings)
    budget = Budget.parse(text) if text else Budget(tokens=rows * TOKENS // 10)
    work = folder / "work"
    disk = Disk(work)
    start, before = time.perf_counter(), processor()
    if form == "stream":
        entry = select_tables(files, Store(root=work), rule=rule, budget=budget)
        ledgers = entry.shards
    else:
        made = select(pl.concat([pl.read_parquet(f) for f in files]), rule=rule, budget=budget)
        work.mkdir()
        ledgers = [work / f"ledger-{i:05d}.parquet" for i in range(len(files))]
        for i, path in enumerate(ledgers):
            write_table(made[i * FILE_ROWS : (i + 1) * FILE_ROWS].rechunk(), path)
    wall = time.perf_counter() - start
    used = processor() - before  # without the start of Python
    line = {
        "case": case,
        "form": form,
        "rows": rows,
        "kept": sum(
            pl.read_parquet(p, columns=["verdict"])["verdict"].eq("kept").sum() for p in ledgers
        ),
        "wall_s": round(wall, 1),
        "cpu_s": round(used, 1),
        "cpu_s_per_million": round(used / rows * 1e6, 2),
        "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "disk_GB": round(disk.stop() / 1e9, 1),
        "ledger": hashlib.sha256(b"".join(digest(p) for p in ledgers)).hexdigest()[:16],
    }
    print(json.dumps(line))


def processor() -> float:
    """Processor seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Disk:
    """The most that a folder held, looked at every second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.most, self.done = folder, 0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.done.wait(1):
            held = 0
            for path in self.folder.rglob("*"):
                try:
                    held += path.stat().st_size if path.is_file() else 0
                except FileNotFoundError:  # renamed meanwhile
                    continue
            self.most = max(self.most, held)

    def stop(self) -> int:
        self.done.set()
        self.thread.join()
        return self.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--memory", type=int, default=10_000_000, help="most rows for `memory`")
    parser.add_argument("--folder", type=Path, help="for the tables, which are removed")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        case, form, folder = given.worker
        measure(case, form, Path(folder))
        return
    env = {**os.environ, "POLARS_MAX_THREADS": "2"}
    for rows in given.rows:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder = Path(name)
            for number in range(-(-rows // FILE_ROWS)):
                make(rows, number, folder)
            for case in given.cases:
                for form in ("stream", "memory") if rows <= given.memory else ("stream",):
                    command = [sys.executable, __file__, "--worker", case, form, str(folder)]
                    done = subprocess.run(
                        command, check=True, env=env, capture_output=True, text=True
                    )
                    print(done.stdout.strip(), flush=True)
                    shutil.rmtree(folder / "work")


if __name__ == "__main__":
    main()
