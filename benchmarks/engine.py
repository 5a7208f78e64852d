"""Engines against one another: rows a second of observing, one processor thread a worker.

    python benchmarks/engine.py [--rows 18000] [--rounds 2] [--workers 2] [--engines local ...]

A random model of a few million parameters reads synthetic dialogues, in a fresh store each time.
Rounds take turns with the order of the engines, so that a machine that grows slower or faster
favours none. The rate is that of the time in which all workers were at work: the start of workers
(imports, the model) is told apart. Beside it stand the processor time of a row, which others on the
machine hardly change, and the time between two units of a worker, which is what the engine costs.

Goals: `processes` with two workers at least 1.7 times `local`, `ray` with as many within 10 % of
`processes`; on a machine that does nothing else, with runs of minutes.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

from clocked import Speed, Timed

from gristmill.pipeline.engine.engine import Engine, Local, Unit
from gristmill.pipeline.engine.on_ray import Ray
from gristmill.pipeline.engine.processes import Processes
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.forward_signals import HiddenState, MeanLoss

SIGNALS = (MeanLoss(), HiddenState())
WORDS = ("tea", "river", "sum", "June", "cat", "weather", "long", "why", "seven", "stone", "map")


def rows(count: int) -> list[dict]:
    """Dialogues of about 150 tokens of a byte-level tokenizer."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Question {i}?"},
                {
                    "role": "assistant",
                    "content": " ".join(WORDS[(i * 7 + k * k) % len(WORDS)] for k in range(20)),
                },
            ]
        }
        for i in range(count)
    ]


def rows_of(unit: Unit) -> int:
    """Rows of a shard that is observed."""
    return len(unit.settings[2].rows)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One engine's run over all rows."""

    speed: Speed
    seconds: float

    def line(self, name: str) -> str:
        told = self.speed
        return (
            f"{name:10}{told.rate:8.1f} rows/s by {told.workers}, {self.seconds:6.1f} s in all; "
            f"{1e3 * told.processor:6.2f} ms of a processor a row; "
            f"{1e3 * told.between:6.2f} ms between units"
        )


def timed(engine: Engine, model: Path, data: Path, shard_rows: int) -> Run:
    """Observe all rows in a fresh store."""
    with tempfile.TemporaryDirectory(prefix="gristmill-engine-") as folder:
        models = Models(store=Store(root=Path(folder)), roles={"target": (str(model),)})
        passes = Passes(device="cpu")
        pool = ingest(models.store, [Source(path=str(data))], shard_rows=shard_rows)
        clock = Timed(engine=engine, rows=rows_of)
        begun = time.monotonic()
        observe(RunContext(models=models, passes=passes, engine=clock), pool, SIGNALS)
        return Run(speed=Speed.of(clock.laps), seconds=time.monotonic() - begun)


def compared(runs: dict[str, list[Run]], name: str, other: str) -> str:
    """One engine against another, round by round."""
    pairs = list(zip(runs[name], runs[other], strict=True))
    rate = [a.speed.rate / b.speed.rate for a, b in pairs]
    processor = [a.speed.processor / b.speed.processor for a, b in pairs]
    return (
        f"{name} against {other}: {median(rate):.2f} x the rate ({min(rate):.2f} to "
        f"{max(rate):.2f}), {median(processor):.2f} x the processor time of a row"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=18_000)
    parser.add_argument("--shard-rows", type=int, default=100)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=["local", "processes", "ray"])
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    engines: dict[str, Engine] = {
        "local": Local(threads=1),
        "processes": Processes(workers=options.workers),
        "ray": Ray(workers=options.workers),
    }
    runs: dict[str, list[Run]] = {name: [] for name in options.engines}
    with tempfile.TemporaryDirectory(prefix="gristmill-engine-data-") as folder:
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps(r) + "\n" for r in rows(options.rows)), "utf-8")
        model = make_tiny(Path(folder) / "model", hidden=options.width, layers=4)
        for number in range(options.rounds):
            at = number % len(options.engines)
            for name in [*options.engines[at:], *options.engines[:at]]:
                runs[name].append(timed(engines[name], model, data, options.shard_rows))
                print(runs[name][-1].line(name), flush=True)
    for name, other in (("processes", "local"), ("ray", "processes")):
        if name in runs and other in runs:
            print(compared(runs, name, other))


if __name__ == "__main__":
    main()
