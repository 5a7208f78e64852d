"""What Prefect costs a run: the same curation as a flow and as verbs, each in a process of its own.

    python benchmarks/orchestration.py [--shards 4] [--seconds 60]

Every observed shard waits for so many seconds, as one does whose model takes them; the rest of the
work is that of a tiny model. A server that is there, as that of `make serve` is, pays for its start
once; it is started here before, and its start is told apart. Processor seconds hold better than
wall times where other work runs on the same cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

WALK, FLOW = "verbs", "flow"


def settings(root: Path, shards: int) -> dict:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {i} and one?"},
                {"role": "assistant", "content": f"It is {i + 1}, as anybody can count."},
            ]
        }
        for i in range(16 * shards)
    ]
    (root / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "orchestration",
        "sources": [{"path": str(root / "pool.jsonl")}],
        "models": {"target": "tiny"},
        "scorers": [{"method": "perplexity"}],
        "select": {"budget": "25%"},
        "store": str(root / "store"),
        "export": {"root": str(root / "curated")},
        "shard_rows": 16,
    }


def run(how: str, root: Path, shards: int, seconds: float) -> None:
    """The run in this process."""
    from gristmill.flows import connection, publishing, steps
    from gristmill.flows.config import CurateConfig
    from gristmill.pipeline.records.store import Store

    write, met = Store._part, set()

    def waiting(self, step, work, marks, part):
        if step.name == "observe" and step.inputs["records"] not in met:
            met.add(step.inputs["records"])  # a shard has a step for each signal
            time.sleep(seconds)
        return write(self, step, work, marks, part)

    Store._part = waiting
    config = CurateConfig.model_validate(settings(root, shards))
    if how == FLOW:
        connection.connect(config.store)  # the server that is there
        from gristmill.flows.curate import curate

        folder = curate(config)
    else:
        rows, seen, scores = steps.walk(steps.Curation(config=config))
        folder = publishing.publish(steps.Curation(config=config), rows, seen, scores, None)
    assert len(met) == shards, f"{len(met)} shards were observed"
    print(folder)


def spent(process: psutil.Process) -> float:
    """Processor seconds of a process and all that it has started."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def taken(how: str, shards: int, seconds: float) -> tuple[float, float]:
    """Wall and processor seconds of a run, the server's beside its own, from start to end."""
    here = psutil.Process()
    before, begun = spent(here), time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, __file__, "--how", how, "--root", root]
        command += ["--shards", str(shards), "--seconds", str(seconds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert Path(done.stdout.split()[-1]).name.startswith("v1-")
    return time.perf_counter() - begun, spent(here) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--how", choices=(WALK, FLOW), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.how:
        run(asked.how, asked.root, asked.shards, asked.seconds)
        return
    from gristmill.flows import connection

    here = psutil.Process()
    before, begun = spent(here), time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        os.environ["PREFECT_HOME"] = home
        os.environ.update(connection.temporary(Path(home)).client)
        start = time.perf_counter() - begun
        print(f"a server's start: {start:.1f} s, processor {spent(here) - before:.1f} s")
        found = {how: taken(how, asked.shards, asked.seconds) for how in (WALK, FLOW)}
    for how, (wall, processor) in found.items():
        print(f"{how}: {wall:.1f} s, processor {processor:.1f} s")
    more, busy = (one - other for one, other in zip(found[FLOW], found[WALK], strict=True))
    print(
        f"{asked.shards} shards of {asked.seconds:g} s: the flow takes {more:.1f} s more, "
        f"{more / found[FLOW][0]:.1%} of it, and {busy:.1f} s of the processors"
    )


if __name__ == "__main__":
    main()
