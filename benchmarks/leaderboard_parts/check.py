"""Cells made again in an empty store: are they those that are committed, to the bit?"""

import tempfile
import time
from pathlib import Path

import polars as pl

from gristmill.pipeline import Store
from gristmill.pipeline.compare import arms
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.selection.selection import Budget
from leaderboard_parts.parts import pairs, small

CELLS = Path(__file__).parents[1] / "leaderboard_cells.parquet"
KEY = ("table", "target", "budget", "arm", "draw", "seed", "rate")
MADE = {"small": small, "pairs": pairs, "canary": small}


def run(count, seed=0):
    """Make `count` cells again, drawn by hash; 0 if all are as committed, 1 if not."""
    committed = pl.read_parquet(CELLS).filter(
        pl.col("table").is_in(list(MADE)), pl.col("draw") >= 0
    )
    keys = committed.select(KEY).unique().sort(KEY).rows()
    drawn = sorted(keys, key=lambda k: uniform(seed, "check", repr(k)))[:count]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        store = Store(root=Path(folder))
        for key in drawn:
            told = dict(zip(KEY, key, strict=True))
            begun = time.perf_counter()
            made = again(store, told)
            wanted = committed.join(pl.DataFrame([told]), on=KEY, how="semi")
            both = wanted.join(made, on="evaluation", suffix="_again")
            same = both.height == wanted.height and bool(
                (both["model"] == both["model_again"]).all()
                and (both["value"] == both["value_again"]).all()
            )
            apart = float((both["value"] - both["value_again"]).abs().max() or 0.0)
            wrong += not same
            told_as = "equal to the bit" if same else f"differs, by {apart:.3g}"
            values = ", ".join(f"{e} {v!r}" for e, v in made.select("evaluation", "value").rows())
            spent = time.perf_counter() - begun
            print(f"{told}: {told_as} ({values}; {spent:.0f} s)", flush=True)
    return int(wrong > 0)


def again(store, told):
    """A cell from nothing: its values by evaluation, and the hash of its weights."""
    table = MADE[told["table"]](store)
    trainer = table.trainers[told["target"]]
    chosen = arm_named(table, told).draws[told["draw"]]
    design, context = trainer.design, trainer.context
    rows = trainer.rows(chosen)
    model = design.recipe.train(context, rows, seed=told["seed"], rate=told["rate"])
    lines = []
    for name, one in design.evaluations.items():
        items = one.measure.items(context, model)
        value = float((items["value"] * items["weight"]).sum() / items["weight"].sum())
        lines.append({"evaluation": name, "value": value})
    return pl.DataFrame(lines).with_columns(model=pl.lit(design.recipe.fingerprint(context, model)))


def arm_named(table, told):
    """The arm of a committed cell."""
    if told["table"] == "canary":
        return arms.random(table.lengths, Budget.parse(told["budget"]), told["draw"] + 1)
    kind, _, matched = told["arm"].partition(":")
    methods = {m.name: m for m in table.methods}
    if matched:
        own = table.chosen(methods[matched], told["target"], told["budget"])
        return table.matched(kind, own, more=True)
    if kind in methods:
        return table.chosen(methods[kind], told["target"], told["budget"])
    return table.control(kind, told["budget"], more=True)
