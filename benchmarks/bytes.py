"""The bytes that the project makes, recorded and compared: did a change of the code change any?

    python benchmarks/bytes.py --out before.json        (before the change)
    python benchmarks/bytes.py --compare before.json    (after it: every digest that differs)

A recording holds one digest a line: of every column of each method's scores, on the toy records
and the tiny model of the contract test, with the keys and contents of every step behind them; of
the ledgers that each rule makes of one synthetic table of scores; and of every file that the demo
publishes, but run.json, which tells when and where. Moving code must leave all of them as they are.
Floating-point numbers may differ on another processor or with another version of a library:
compare on one machine, in one environment.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
# One thread, no accelerator, no network, no server of the user's: what the bytes may depend on.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ.update(dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK"), "1"))
os.environ.update(CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")

import numpy as np
import polars as pl
import yaml
from contract_runs import ROWS, build, run

from gristmill.pipeline import Budget, rule_named, select
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.selection.rules import rules
from gristmill.selectors import catalog

ROOT = Path(__file__).parents[1]
CASES = [(m, kind) for m, cls in catalog.methods().items() for kind in cls.records]
COMMAND = "from gristmill.flows.cli import main; main()"

Items = dict[str, str]
MODEL = "tiny"  # by its name: the folder of a local model enters what is made of it
TOY_ROWS = 18
TABLE_ROWS = 300
BUDGETS = (None, "10%", "3000tok")
# What each rule is tried with, as a user writes it; a rule that is not named: its defaults.
SETTINGS: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "band": (
        {},
        {"low": "-0.5", "high": "0.5", "unit": "value"},
        {"low": "0.2", "high": "0.8", "columns": "score_a,score_b"},
        {"target_keep": "0.4", "columns": "score_a,score_b"},
    ),
    "curriculum": ({}, {"by": "tokens", "within": "source"}),
    "gumbel": ({}, {"temperature": "0.3", "seed": "7"}),
    "mixture": (
        {"shares": "maths:3,code:1"},
        {"shares": "maths:1,code:2", "upsample": "3"},
        {"by": "license", "caps": "MIT:0.3"},
    ),
    "multinomial": ({}, {"temperature": "0.3", "seed": "7"}),
    "stratified": ({}, {"by": "cluster", "balanced": "false"}),
    "threshold": ({"min": "0"}, {"max": "0.5"}, {"min": "-1", "max": "1"}),
    "weighted": ({}, {"stretch": "true"}),
}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    one = options.add_mutually_exclusive_group()
    one.add_argument("--out", type=Path, metavar="FILE", help="write a recording")
    one.add_argument("--compare", type=Path, metavar="FILE", help="a recording to compare with")
    options.add_argument("--no-demo", action="store_true", help="leave the demo out")
    asked = options.parse_args()
    before = None
    if asked.compare is not None:
        if not asked.compare.is_file():
            options.error(f"there is no recording {asked.compare}: make one with --out.")
        before = json.loads(asked.compare.read_text("utf-8"))
        if asked.no_demo:
            before = {k: v for k, v in before.items() if not k.startswith("demo")}

    logging.disable(logging.WARNING)  # what preparing has to say is in each score's note
    warnings.simplefilter("ignore")
    items = record(demo=not asked.no_demo)
    if before is not None:
        differences = compared(before, items)
        print("\n".join([*differences, f"{len(differences)} differences, {len(items)} digests"]))
        sys.exit(1 if differences else 0)
    if asked.out is not None:
        asked.out.write_text(json.dumps(items, indent=0, sort_keys=True) + "\n", "utf-8")
    print(f"{len(items)} digests, together {digest(items)}")


def record(*, demo: bool) -> Items:
    """All digests by name. The demo runs beside the rest, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gristmill-bytes-") as place:
        folder = Path(place)
        with demo_run(folder / "demo") if demo else contextlib.nullcontext() as published:
            with contextlib.chdir(folder):
                items = {**selections(), **scores()}
            return items | (published() if published is not None else {})


def compared(before: Items, now: Items) -> list[str]:
    """One line for each digest that is not what it was."""
    lines = []
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            lines.append(f"{name}: gone")
        elif name not in before:
            lines.append(f"{name}: new")
        elif before[name] != now[name]:
            lines.append(f"{name}: was {before[name]}, is {now[name]}")
    return lines


def scores() -> Items:
    """What every method of the catalogue makes of every kind of toy record that it accepts.

    It works in the current folder.
    """
    items: Items = {}
    for method, kind in CASES:
        scorer = build(method)
        if kind not in scorer.accepts:
            continue
        began = time.perf_counter()
        seed()
        root = Path("run")
        run(root, MODEL, scorer, ROWS[kind](TOY_ROWS), kind=kind)
        (made,) = (root / "store" / "score").glob("[!.]*")
        entry = open_entry(made)
        name = f"score {method} of {kind}"
        items |= {
            f"{name}: key": entry.key,
            f"{name}: note": digest(entry.note),
            **columns(name, entry.frame()),
            **steps(name, root / "store"),
        }
        shutil.rmtree(root)
        say(f"{name}: {time.perf_counter() - began:.1f} s")
    return items


def selections() -> Items:
    """The ledgers of all rules."""
    table, extra, drops = pool()
    items: Items = {}
    for name in rules():
        for settings in SETTINGS.get(name, ({},)):
            rule = rule_named(name, settings)
            for text in BUDGETS:
                budget = Budget.parse(text) if text else None
                ledger = select(table, rule=rule, budget=budget, drops=[drops], extra=extra)
                asked = " ".join(f"{k}={v}" for k, v in settings.items()) or "defaults"
                whole = columns("ledger", ledger)
                items[f"select {name}, {asked}, budget {text or 'none'}: ledger"] = digest(whole)
    say(f"select: {len(items)} ledgers")
    return items


@contextlib.contextmanager
def demo_run(folder: Path) -> Iterator[Any]:
    """The demo, started; the context's value waits for its end and tells its digests."""
    folder.mkdir()
    store, curated = folder / "store", folder / "curated"
    config = yaml.safe_load((ROOT / "data" / "demo" / "curate.yaml").read_text("utf-8"))
    config |= {"store": str(store), "export": {"root": str(curated)}}
    (folder / "curate.yaml").write_text(yaml.safe_dump(config), "utf-8")
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "GRISTMILL_"))}
    began = time.perf_counter()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "run", "curate", str(folder / "curate.yaml")],
            cwd=ROOT,
            env=own,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def published() -> Items:
        if process.wait():
            sys.exit("the demo failed:\n" + (folder / "output").read_text("utf-8", "replace"))
        (dataset,) = (p.resolve() for p in curated.glob("*/latest"))
        files = sorted(p for p in dataset.rglob("*") if p.is_file() and p.name != "run.json")
        say(f"demo: {time.perf_counter() - began:.1f} s")
        return {
            "demo: folder": dataset.name,
            **{f"demo: file {p.relative_to(dataset)}": sha256(p.read_bytes()) for p in files},
            **steps("demo", store),
        }

    try:
        yield published
    finally:
        if process.poll() is None:  # the rest failed: neither it nor its server may stay
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def pool() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Scores with ties, copies, nulls and quarantined rows; more columns of them; drops."""
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    for i in range(TABLE_ROWS):
        score, reason = round(draw.gauss(0, 1), 1), None
        if i % 31 == 5:
            score, reason = None, "no_scored_token"
        elif i % 47 == 3:
            score, reason = None, "quarantine: broken JSON"
        rows.append(
            {
                "id": rows[i - 7]["id"] if i % 29 == 11 else f"{draw.getrandbits(128):032x}",
                "source": draw.choices(("chat", "code", "maths"), (6, 3, 1))[0],
                "row": i,
                "kind": "example",
                "tokens": draw.randrange(20, 400),
                "score": score,
                "reason": reason,
                **{f"score_{c}": draw.gauss(0, 1) for c in "ab"},
                **{f"score_target_{j}": draw.choice((None, draw.random())) for j in range(3)},
                "license": draw.choice(("MIT", "Apache-2.0", None)),
                "cluster": draw.choice(("c0", "c1", "c2", None)),
            }
        )
    table = pl.DataFrame(rows, infer_schema_length=None)
    key = ["id", "source", "row"]
    dropped = table.filter(pl.col("row") % 23 == 7).select(*key, reason=pl.lit("too_short"))
    leak = pl.when(pl.col("row") > TABLE_ROWS // 2).then(pl.lit("gsm8k"))
    dropped = dropped.with_columns(contaminates=leak, stage=pl.lit("filters"))
    return table.drop("license", "cluster"), table.select(*key, "license", "cluster"), dropped


def columns(name: str, frame: pl.DataFrame) -> Items:
    """A digest a column, of its type and its values in their order; and the columns' order.

    JSON writes a float as the shortest text that reads back as the same float: equal digests mean
    equal bits.
    """
    digests = {
        f"{name}: column {c}": digest([str(frame[c].dtype), frame[c].to_list()])
        for c in frame.columns
    }
    return {f"{name}: columns": digest(frame.columns), **digests}


def steps(name: str, store: Path) -> Items:
    """A digest a step of the store, of the keys and contents of all its entries."""
    entries: dict[str, list[list[str]]] = {}
    for manifest in sorted(store.glob("*/*/manifest.json")):
        entry = open_entry(manifest.parent)
        entries.setdefault(manifest.parts[-3], []).append([entry.key, entry.content])
    return {f"{name}: step {step}": digest(made) for step, made in entries.items()}


def digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode())


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def seed() -> None:
    """No item depends on those before it, whatever draws from the global generators."""
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (the global generator is what is meant)
    torch.manual_seed(0)
    torch.set_num_threads(1)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
