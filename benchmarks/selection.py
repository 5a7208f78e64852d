"""Selection over a synthetic table of scores: seconds and peak memory, one process per rule.

    python benchmarks/selection.py [--rows 10000000] [--rules top stratified band]

Each line is a whole run: read the scores (Parquet), select 10 %, write the ledger. The table has
32-character ids, 8 sources of very different sizes, 1 % exact copies, 0.5 % rows without a score
and 0.1 % quarantined rows. Goal at 10 million rows: under 60 s and 4 GiB on two cores.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline.records.schema import SCORES
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget, select

GOAL_SECONDS, GOAL_GIB = 60, 4
SETTINGS = {
    "band": {"low": 0.3, "high": 0.7},
    "mixture": {"shares": {f"source-{i}": 1.0 for i in range(8)}},
}


def make(rows: int, path: Path) -> None:
    rng = np.random.default_rng(0)
    number = np.arange(rows, dtype=np.uint64)
    copy = rng.random(rows) < 0.01
    number[copy] = rng.integers(0, rows, copy.sum())
    key = pl.Series(number)
    halves = [key.hash(seed=s) for s in (1, 2)]
    score = np.random.default_rng(1).normal(size=rows)[number.astype(np.int64)]
    source = pl.Series(rng.geometric(0.5, rows).clip(1, 8) - 1)
    fate = pl.Series(rng.random(rows))
    frame = pl.DataFrame({"a": halves[0], "b": halves[1], "score": score, "fate": fate})
    why = pl.when(pl.col("fate") < 0.001).then(pl.lit("quarantine: broken JSON"))
    why = why.when(pl.col("fate") < 0.006).then(pl.lit("empty answer"))
    frame.select(
        id=pl.concat_str([pl.col(c).cast(pl.String).str.zfill(20).str.tail(16) for c in "ab"]),
        source=pl.concat_str([pl.lit("source-"), source.cast(pl.String)]),
        row=pl.int_range(rows),
        kind=pl.lit("example"),
        tokens=pl.Series(rng.integers(20, 2000, rows)),
        score=pl.when(pl.col("fate") >= 0.006).then("score"),
        reason=why,
    ).cast(SCORES).write_parquet(path)


def measure(rule: str, scores: Path, ledger: Path) -> None:
    start = time.perf_counter()
    table = pl.read_parquet(scores)
    read = time.perf_counter()
    made = select(table, rule=rule_named(rule, SETTINGS.get(rule)), budget=Budget.parse("10%"))
    selected = time.perf_counter()
    made.write_parquet(ledger)
    written = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_SELF)
    kept = int((made["verdict"] == "kept").sum())
    print(
        json.dumps(
            {
                "rule": rule,
                "rows": table.height,
                "kept": kept,
                "read_s": round(read - start, 1),
                "select_s": round(selected - read, 1),
                "write_s": round(written - selected, 1),
                "total_s": round(written - start, 1),
                "cpu_s": round(used.ru_utime + used.ru_stime, 1),
                "peak_GiB": round(used.ru_maxrss / 2**20, 2),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rules", nargs="+", default=["top", "stratified", "band"])
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        verb, *rest = given.worker
        if verb == "make":
            make(given.rows, Path(rest[0]))
        else:
            measure(verb, Path(rest[0]), Path(rest[1]))
        return
    here = [sys.executable, __file__, "--rows", str(given.rows), "--worker"]
    env = {**os.environ, "POLARS_MAX_THREADS": "2"}
    with tempfile.TemporaryDirectory() as folder:
        scores, ledger = Path(folder, "scores.parquet"), Path(folder, "ledger.parquet")
        subprocess.run([*here, "make", str(scores)], check=True, env=env)
        within = True
        for rule in given.rules:
            worker = [*here, rule, str(scores), str(ledger)]
            done = subprocess.run(worker, check=True, env=env, capture_output=True, text=True)
            print(done.stdout.strip(), flush=True)
            said = json.loads(done.stdout)
            within &= said["total_s"] < GOAL_SECONDS and said["peak_GiB"] < GOAL_GIB
    print(f"goal: under {GOAL_SECONDS} s and {GOAL_GIB} GiB: {'met' if within else 'MISSED'}")


if __name__ == "__main__":
    main()
