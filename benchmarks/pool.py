"""A run over many rows without a model: memory by step, and what a run that was killed repeats.

    python benchmarks/pool.py [--rows 100000 1000000] [--kill] [--budget 10%]

Rows are generated texts of two sources, every hundredth an exact copy; the scorers are `random`
and `length` in characters. Each step of the run is a process of its own, so that the peak of each
can be told (`ru_maxrss`); a run that finds a step in the store goes on. With `--kill` the run of
the first number of rows is killed at several moments in one process and started again: the
publication must be that of a run that was not, and no part may be made again but the one in flight.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from gristmill.flows import publishing
from gristmill.flows.config import CurateConfig
from gristmill.flows.steps import Curation, Rows
from gristmill.pipeline.records.store import Store, sha256, walk

STEPS = ("ingest", "clean", "observe", "score", "select", "publish")
WORDS = 4_096
FILES = 8


def make(rows: int, folder: Path) -> None:
    """Files of chats: questions and answers of generated words."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{i:x}" for i in range(WORDS)])
    size = -(-rows // FILES)
    for number, begin in enumerate(range(0, rows, size)):
        path = folder / f"{'ab'[number % 2]}-{begin:09d}.jsonl"
        with path.open("w") as file:
            for row in range(begin, min(rows, begin + size)):
                if row % 100 == 99:
                    file.write(line)  # noqa: F821  (the one before)
                    continue
                said = words[rng.zipf(1.3, rng.integers(10, 60)) % WORDS]
                cut = len(said) // 3 + 1
                turns = [("user", said[:cut]), ("assistant", said[cut:])]
                messages = [{"role": r, "content": f"{' '.join(t)} {row}"} for r, t in turns]
                line = json.dumps({"messages": messages}) + "\n"
                file.write(line)


def settings(folder: Path, budget: str, shard_rows: int) -> CurateConfig:
    return CurateConfig.model_validate(
        {
            "name": "pool",
            "sources": [
                {"path": str(folder / "pool" / f"{name}-*.jsonl"), "name": name} for name in "ab"
            ],
            "scorers": [
                {"method": "random"},
                {"method": "length", "settings": {"unit": "chars"}},
            ],
            "select": {"by": "random", "budget": budget},
            "shard_rows": shard_rows,
            "store": str(folder / "store"),
            "export": {"root": str(folder / "curated")},
        }
    )


def walked(run: Curation, until: str) -> Path | None:
    """The steps of the run up to one, which are found where they stand; what was published."""
    pool = run.ingest("pool")
    assert pool is not None
    rows, scores = Rows(pool=pool), {}
    if until == "ingest":
        return None
    rows = replace(rows, drops=tuple(run.clean(rows)))
    if until == "clean":
        return None
    run.prepare(0, rows)
    run.observe(0, rows)
    if until == "observe":
        return None
    scores = {name: run.score(0, name, rows) for name in run.stages[0].scorers}
    if until == "score":
        return None
    seen, rows = rows, replace(rows, ledger=run.select(0, rows, scores))
    return publishing.publish(run, rows, seen, scores) if until == "publish" else None


def worker(folder: Path, until: str, budget: str, shard_rows: int) -> None:
    """One step, with a line for every part that is made, to a file that outlives the process."""
    log = Store._log

    def told(self: Store, line: dict[str, object]) -> None:
        log(self, line)
        with (folder / "parts.jsonl").open("a") as file:
            where = str(self.root.relative_to(folder))
            file.write(json.dumps([where, line["step"], line["key"], line["part"]]) + "\n")

    Store._log = told  # type: ignore[method-assign,assignment]
    begun, used = time.perf_counter(), time.process_time()
    made = walked(Curation(config=settings(folder, budget, shard_rows)), until)
    line = {
        "step": until,
        "wall_s": round(time.perf_counter() - begun, 1),
        "cpu_s": round(time.process_time() - used, 1),
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(line | ({"published": str(made)} if made else {})), flush=True)


def command(folder: Path, until: str, given: argparse.Namespace) -> list[str]:
    options = ["--budget", given.budget, "--shard-rows", str(given.shard_rows)]
    return [sys.executable, __file__, *options, "--worker", str(folder), until]


def parts(folder: Path) -> Counter[str]:
    path = folder / "parts.jsonl"
    return Counter(path.read_text().splitlines() if path.exists() else ())


def content(folder: Path) -> str:
    """All bytes of the version that was published but its run.json."""
    (version,) = (folder / "curated/pool").glob("v*")
    told = {str(p.relative_to(version)): sha256(p) for p in walk(version) if p.name != "run.json"}
    return json.dumps([version.name, told], sort_keys=True)


def killed(pool: Path, want: str, given: argparse.Namespace) -> dict[str, object]:
    """The run again in a store of its own, killed at several moments."""
    folder = pool.parent / "killed"
    folder.mkdir()
    (folder / "pool").symlink_to(pool / "pool")
    rng, kills = random.Random(0), 0
    env = {**os.environ, "POLARS_MAX_THREADS": "2"}
    while True:
        before = parts(folder).total()
        aim = before + rng.randint(1, max(2, given.every))
        run = subprocess.Popen(command(folder, "publish", given), env=env)
        while run.poll() is None and parts(folder).total() < aim:
            time.sleep(0.05)
        if run.poll() is not None:
            assert run.returncode == 0
            break
        run.send_signal(signal.SIGKILL)
        run.wait()
        kills += 1
    made = parts(folder)
    repeated = {line: n for line, n in made.items() if n > 1}
    figures = {
        "kills": kills,
        "parts": len(made),
        "made_again": sum(repeated.values()) - len(repeated),
        "bytes_equal": content(folder) == want,
    }
    shutil.rmtree(folder)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--budget", default="10%")
    parser.add_argument("--shard-rows", type=int, default=512)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--every", type=int, default=400, help="parts between two kills, at most")
    parser.add_argument("--folder", type=Path, help="for pool and store, which are removed")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        folder, until = given.worker
        worker(Path(folder), until, given.budget, given.shard_rows)
        return
    env = {**os.environ, "POLARS_MAX_THREADS": "2"}
    for number, rows in enumerate(given.rows):
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder = Path(name) / "whole"
            (folder / "pool").mkdir(parents=True)
            make(rows, folder / "pool")
            for step in STEPS:
                done = subprocess.run(
                    command(folder, step, given), check=True, env=env, stdout=subprocess.PIPE
                )
                print(json.dumps({"rows": rows} | json.loads(done.stdout)), flush=True)
            if given.kill and not number:
                told = killed(folder, content(folder), given)
                print(json.dumps({"rows": rows, "killed": told}), flush=True)


if __name__ == "__main__":
    main()
