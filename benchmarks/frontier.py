"""What a cascade recovers of `less` for a part of its FLOPs: cheap, then forward, then gradients.

    GRISTMILL_DATA=... python benchmarks/frontier.py [--rows 2100] [--epochs 1] [--store FOLDER]
    GRISTMILL_DATA=... python benchmarks/frontier.py --model smollm2 --rows 400

A real mixed pool (mathematics, medicine, general), 16 held-out rows of mathematics as the target,
the 1.25 M-parameter model of `data/lds`, or SmolLM2-135M. `less` scores every row, with a
checkpoint an epoch of its warm-up; its top 5 % are what is to be found. A cascade keeps a share of
the pool by `dsir` (no model), of these a share by `rds_plus` (a forward pass), and picks 5 % of the
pool by a last score: `rds_plus` itself, `gradient_cosine`, or `less` on the rows that are left,
whose warm-up is paid whole. All are scores of a row by itself, so that those of a stage are those
of the whole pool: each method scores the pool once, and every cascade is read off. FLOPs are
forward-equivalents times tokens of the rows that a stage reads: 1 a forward pass, 2 with the
backward pass of activations, 3 a row of training; in per cent of what `less` takes.

Beside the share of the top rows stands the share of the gain: how far the mean `less` score of the
picks lies above the pool's, with the top itself as 1. `less` with another seed (its warm-up draws
other rows, its projection other numbers) tells how much of its top 5 % is chance.

`--svg FILE` draws the curves. Scores are kept in `--store`, so a run that was stopped goes on.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import influence
import numpy as np
import polars as pl

from gristmill.pipeline import Models, ScoreRun, Source, Store, ingest, score
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.selectors import catalog

MODELS = {
    "tiny": str(Path(__file__).parent / "data" / "lds" / "base"),
    "smollm2": influence.MODEL,
}
WANTED = 0.05  # of the pool: the top of `less`, and what a cascade picks
WARM_ROWS = 256  # that `less` trains on at least
FIRST = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)  # kept by dsir
SECOND = (0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)  # kept by rds_plus, of the pool
LASTS = ("rds_plus", "gradient_cosine", "less")
AGAIN = "less again"
GOAL = (0.9, 0.2)  # share found, share of the FLOPs


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """One point: what is kept, what it costs, what it finds and what that is worth."""

    first: float
    second: float
    last: str
    cost: float
    found: float
    gain: float


def tables(store: Store, model: str, rows: int, epochs: int) -> tuple[pl.DataFrame, float]:
    """Every method's score of each row with its tokens, and the tokens that the warm-up trained."""
    made = influence.mixed_pool(rows)
    files = [influence.write(store.root / f"pool-{rows}.jsonl", made)]
    aim = [("target", *r) for r in influence.maths(influence.TARGETS)]
    pool = ingest(store, [Source(path=str(f)) for f in files])
    target = ingest(store, [Source(path=str(influence.write(store.root / "target.jsonl", aim)))])
    warm = {"epochs": epochs, "batch_size": 16, "rank": 16, "alpha": 64.0}
    methods = {
        "dsir": {"per_ngram": True},
        "rds_plus": {},
        "gradient_cosine": {},
        "less": {"warm_up": warm},
        AGAIN: {"warm_up": warm, "seed": 1},
    }
    table = None
    for name, settings in methods.items():
        start = time.process_time()
        run = ScoreRun(
            scorer=catalog.make("less" if name == AGAIN else name, settings),
            dataset=pool,
            reference=target,
            context=RunContext(
                models=Models(store=store, roles={"target": (model,)}),
                passes=Passes(device="cpu", max_length=512),
            ),
        )
        frame = score(run).frame().unique("id").sort("id")
        own = frame.select("id", pl.col("score").alias(name), "source", "tokens")
        table = own if table is None else table.join(own.select("id", name), on="id")
        print(f"{name}: {frame.height:,} rows, {time.process_time() - start:.1f} processor s")
    assert table is not None
    whole = table.drop_nulls()
    share = max(0.05, min(1.0, WARM_ROWS / whole.height))
    return whole, share * float(whole["tokens"].sum()) * epochs


def best(value_N: np.ndarray, among_N: np.ndarray, count: int) -> np.ndarray:
    """The best rows of some, as a mask; ties by place."""
    order = np.argsort(-np.where(among_N, value_N, -np.inf), kind="stable")
    mask = np.zeros(len(value_N), bool)
    mask[order[:count]] = True
    return mask & among_N


def cascades(table: pl.DataFrame, trained: float, epochs: int) -> list[Cascade]:
    """All of the grid."""
    values = {m: table[m].to_numpy() for m in ("dsir", *LASTS)}
    token_N = table["tokens"].to_numpy().astype(float)
    rows, wanted = table.height, round(WANTED * table.height)
    every_N = np.ones(rows, bool)
    aim_N = best(values["less"], every_N, wanted)
    warm_up, backward = 3 * trained, 2.0
    whole = warm_up + backward * epochs * token_N.sum()
    found = []
    for first, second, last in product(FIRST, SECOND, LASTS):
        if second > first or (last == "rds_plus" and second > WANTED):
            continue
        read_N = best(values["dsir"], every_N, round(first * rows))
        left_N = best(values["rds_plus"], read_N, max(wanted, round(second * rows)))
        picked_N = best(values[last], left_N, wanted)
        cost = token_N[read_N].sum()
        if last == "gradient_cosine":
            cost += backward * token_N[left_N].sum()
        elif last == "less":
            cost += warm_up + backward * epochs * token_N[left_N].sum()
        share, gain = agreed(values["less"], picked_N, aim_N)
        found.append(
            Cascade(
                first=first, second=second, last=last, cost=cost / whole, found=share, gain=gain
            )
        )
    return found


def agreed(value_N: np.ndarray, picked_N: np.ndarray, aim_N: np.ndarray) -> tuple[float, float]:
    """Of the aimed rows the share that is picked, and the share of what they are worth."""
    mean = value_N.mean()
    gain = (value_N[picked_N].mean() - mean) / (value_N[aim_N].mean() - mean)
    return float((picked_N & aim_N).sum() / aim_N.sum()), float(gain)


def frontier(points: list[Cascade]) -> list[Cascade]:
    """Those that nothing cheaper matches, cheapest first."""
    kept: list[Cascade] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.found)):
        if not kept or point.found > kept[-1].found:
            kept.append(point)
    return kept


def drawn(curves: dict[str, list[Cascade]]) -> str:
    """The curves as an SVG."""
    width, height, left, top = 560, 340, 60, 40
    colours = {"rds_plus": "#999999", "gradient_cosine": "#2b6cb0", "less": "#c05621"}

    def at(cost: float, found: float) -> tuple[float, float]:
        return left + cost * (width - left - 30), height - 40 - found * (height - top - 50)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        "<title>Share of the top 5 % of less that cascades find, by FLOPs</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="14">Share of the top {WANTED:.0%} of less found, by FLOPs '
        "in per cent of its own</text>",
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (x, foot), (_, y) = at(tick, 0), at(0, tick)
        parts.append(f'<line x1="{x}" y1="{top}" x2="{x}" y2="{foot}" stroke="#dddddd"/>')
        parts.append(f'<line x1="{left}" y1="{y}" x2="{width - 30}" y2="{y}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x}" y="{foot + 16}" text-anchor="middle">{tick:.0%}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{tick:.0%}</text>')
    for number, (last, points) in enumerate(curves.items()):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(p.cost, p.found) for p in points))
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colours[last]}" stroke-width="2"/>'
        )
        for x, y in (at(p.cost, p.found) for p in points):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[last]}"/>')
        parts.append(
            f'<text x="{width - 150}" y="{height - 60 - 16 * number}" fill="{colours[last]}">'
            f"last: {last}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--rows", type=int, default=2_100)
    parser.add_argument("--epochs", type=int, default=1, help="of the warm-up; a checkpoint each")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--svg", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        root = given.store or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        table, trained = tables(Store(root=root), MODELS[given.model], given.rows, given.epochs)
    points = cascades(table, trained, given.epochs)
    aim = table.sort("less", "id", descending=[True, False]).head(round(WANTED * table.height))
    print(f"of the top {aim.height} of less {(aim['source'] == 'maths').mean():.0%} are maths")
    curves = {last: frontier([p for p in points if p.last == last]) for last in LASTS}
    value_N, every_N = table["less"].to_numpy(), np.ones(table.height, bool)
    aim_N = best(value_N, every_N, aim.height)
    for other in ("dsir", *LASTS[:2], AGAIN):
        picked_N = best(table[other].to_numpy(), every_N, aim.height)
        share, gain = agreed(value_N, picked_N, aim_N)
        print(f"the top of {other} by itself: {share:.1%} of that of less, {gain:.1%} of its gain")
    print("| last stage | dsir keeps | rds_plus keeps | FLOPs of `less` | of its top 5 % | gain |")
    print("|---|---|---|---|---|---|")
    for last, curve in curves.items():
        for p in curve:
            kept = f"{p.first:.0%} | {p.second:.1%} | {p.cost:.1%}"
            print(f"| `{last}` | {kept} | {p.found:.1%} | {p.gain:.1%} |")
    most = max((p for p in points if p.cost <= GOAL[1]), key=lambda p: p.found, default=None)
    if most is not None:
        print(
            f"at most {GOAL[1]:.0%} of the FLOPs find {most.found:.1%} and {most.gain:.1%} of the "
            f"gain; goal {GOAL[0]:.0%}"
        )
    if given.svg:
        given.svg.write_text(drawn(curves), "utf-8")


if __name__ == "__main__":
    main()
