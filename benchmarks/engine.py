"""Engines against one another: rows a second of observing, one processor thread a worker.

    python benchmarks/engine.py [--rows 2000] [--width 256] [--workers 2] [--engines local ...]

A random model of a few million parameters reads synthetic dialogues, in a fresh store for each
engine. The rate is that from the first shard to the last, so that the start of workers (imports,
the model) is told apart. Goals: `processes` with two workers at least 1.7 times `local`, `ray` with
as many within 10 % of `processes`; on a machine that does nothing else, with runs of minutes.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from gristmill.pipeline.engine.engine import Engine, Local
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


@dataclass
class Watch:
    """When how much was done."""

    begun: float = field(default_factory=time.perf_counter)
    seen: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, what: str, done: int, total: int) -> None:
        self.seen.append((time.perf_counter(), done))

    @property
    def start(self) -> float:
        """Seconds until the first rows were done."""
        return self.seen[0][0] - self.begun

    @property
    def rate(self) -> float:
        """Rows a second from then on."""
        (first, few), (last, all_) = self.seen[0], self.seen[-1]
        return (all_ - few) / (last - first)


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


def timed(engine: Engine, model: Path, data: Path, shard_rows: int) -> Watch:
    """Observe all rows in a fresh store."""
    with tempfile.TemporaryDirectory(prefix="gristmill-engine-") as folder:
        models = Models(store=Store(root=Path(folder)), roles={"target": (str(model),)})
        context = RunContext(models=models, passes=Passes(device="cpu"))
        pool = ingest(context.store, [Source(path=str(data))], shard_rows=shard_rows)
        watch = Watch()
        at_work = RunContext(models=models, passes=context.passes, engine=engine, progress=watch)
        observe(at_work, pool, SIGNALS)
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--shard-rows", type=int, default=50)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=["local", "processes", "ray"])
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    engines: dict[str, Engine] = {
        "local": Local(threads=1),
        "processes": Processes(workers=options.workers),
        "ray": Ray(workers=options.workers),
    }
    with tempfile.TemporaryDirectory(prefix="gristmill-engine-data-") as folder:
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps(r) + "\n" for r in rows(options.rows)), "utf-8")
        model = make_tiny(Path(folder) / "model", hidden=options.width, layers=4)
        rates = {}
        for name in options.engines:
            watch = timed(engines[name], model, data, options.shard_rows)
            rates[name] = watch.rate
            against = "".join(
                f", {watch.rate / r:.2f} x {n}" for n, r in rates.items() if n != name
            )
            print(f"{name}: {watch.rate:.1f} rows/s{against}; start {watch.start:.1f} s")


if __name__ == "__main__":
    main()
