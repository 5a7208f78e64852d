"""Plan against what then happened: a demo, a training cell, an influence run.

    python benchmarks/plan.py [demo] [cell] [influence] [--into FOLDER]

Each is planned with a probe, then run in a fresh store's state, and the time that it took is
divided by the time that was planned. Plan and run follow one another, so that both meet the same
load. Runs are commands as a user gives them; their time is that of the whole process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import polars as pl
import yaml

from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.plan.probe import probing
from gristmill.pipeline.plan.training import plan_training
from gristmill.pipeline.records.schema import content_id
from gristmill.pipeline.records.store import Store

ROOT = Path(__file__).parents[1]
LDS = ROOT / "benchmarks" / "data" / "lds"
CELL = Sft(training=Training(epochs=3, batch_size=8, learning_rate=1e-3, checkpoints="last"))
PARTS = ("demo", "cell", "influence")


def gristmill(*words, **how):
    """A command of the command line, in a process of its own."""
    code = "from gristmill.flows.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, text=True, **how)


def planned_and_run(settings, folder):
    """Hours that the plan of a run says, with their interval, and those that it took."""
    folder.mkdir(parents=True)
    file = folder / "run.yaml"
    here = {"store": str(folder / "store"), "export": {"root": str(folder / "published")}}
    file.write_text(yaml.safe_dump({**settings, **here}), "utf-8")
    begun = time.perf_counter()
    told = gristmill("plan", file, "--json", stdout=subprocess.PIPE, cwd=ROOT).stdout
    probe = time.perf_counter() - begun
    total = json.loads(told)[-1]["hours"]
    begun = time.perf_counter()
    home = {"PREFECT_HOME": str(folder / "prefect")}
    gristmill("run", file, cwd=ROOT, env={**os.environ, **home}, stdout=subprocess.DEVNULL)
    return {n: 3600 * v for n, v in total.items()}, time.perf_counter() - begun, probe


def demo(folder):
    """The demo, as `make demo` runs it."""
    settings = yaml.safe_load((ROOT / "data" / "demo" / "curate.yaml").read_text("utf-8"))
    return planned_and_run(settings, folder)


def influence(folder):
    """LESS on 200 rows and the 1.25 M-parameter base: warm-up, gradients, selection."""
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in (LDS / "rows.jsonl").read_text("utf-8").splitlines()]
    for part in ("pool", "target"):
        mine = [{"messages": r["messages"]} for r in rows if r["part"] == part]
        text = "".join(json.dumps(r) + "\n" for r in mine[:200])
        (folder / f"{part}.jsonl").write_text(text, "utf-8")
    settings = {
        "name": "influence",
        "sources": [{"path": str(folder / "pool.jsonl")}],
        "reference": [{"path": str(folder / "target.jsonl")}],
        "models": {"target": str(LDS / "base")},
        "scorers": [{"method": "less"}],
    }
    return planned_and_run(settings, folder / "run")


def cell_rows():
    """Sixty rows of the committed ones."""
    lines = (LDS / "rows.jsonl").read_text("utf-8").splitlines()
    taken = [r for r in map(json.loads, lines) if r["part"] == "pool"][:60]
    for row in taken:
        for message in row["messages"]:
            message["extra"] = None
    return pl.DataFrame(
        [
            {
                "id": content_id("example", {"messages": r["messages"]}),
                "messages": r["messages"],
            }
            for r in taken
        ]
    )


def cell(folder):
    """One cell of a comparison: 60 rows, 3 epochs, all weights of the 1.25 M-parameter base."""
    folder.mkdir(parents=True)
    store = Store(root=folder)
    begun = time.perf_counter()
    with probing() as probe:
        line = plan_training(
            cell_rows(), resolve(str(LDS / "base"), store), CELL, device="cpu", probe=probe
        )
    took = time.perf_counter() - begun
    seconds = line.seconds
    ends = {"value": seconds.value, "low": seconds.low, "high": seconds.high}
    command = [sys.executable, __file__, "--train", str(folder)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return ends, float(out.split()[-1]), took


def train(folder):
    """Train the cell, and print the seconds that it took."""
    begun = time.perf_counter()
    train_sft(cell_rows(), str(LDS / "base"), CELL, Store(root=folder), run=Run(device="cpu"))
    print(time.perf_counter() - begun)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train is not None:
        train(asked.train)
        return
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(unknown)}: choose of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        into = asked.into or Path(scratch)
        for name in asked.parts or PARTS:
            load = os.getloadavg()[0]
            plan, took, probe = globals()[name](into / name)
            print(
                json.dumps(
                    {
                        "run": name,
                        "planned_seconds": {n: round(v, 1) for n, v in plan.items()},
                        "took_seconds": round(took, 1),
                        "took_over_planned": round(took / plan["value"], 2),
                        "planning_seconds": round(probe, 1),
                        "load_before": round(load, 2),
                        "date": datetime.now(UTC).date().isoformat(),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
