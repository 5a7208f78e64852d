"""Compared: a comparison as a step of the store: found if it was made before, cell by cell."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.compare import findings
from gristmill.pipeline.compare.arms import Arm
from gristmill.pipeline.compare.comparison import Arms, Design, Leaderboard, check, compare
from gristmill.pipeline.compare.gate import Gate, judge
from gristmill.pipeline.compare.page import page
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import pick_device, pick_dtype
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Entry, Part, Step, remove, table, write_text

VERSION = 1
PAGE, FINDINGS = "comparison.html", "findings.json"
TABLES = ("leaderboard.parquet", "cells.parquet", "items.parquet")
NAMES = (*TABLES, PAGE, FINDINGS)


def compared(
    context: RunContext,
    pool: Dataset,
    arms: Arms,
    design: Design,
    *,
    title: str,
    gate: Gate | None = None,
) -> Entry:
    """The tables, page and findings of a comparison.

    Args:
        context: of the run.
        pool: the records that arms choose from.
        arms: methods and controls by budget.
        design: what all cells share.
        title: of the page.
        gate: what the one method must show; None: nobody is judged.

    Returns:
        An entry with `TABLES`, `PAGE` and `FINDINGS`.
    """
    check(pool, arms, design)

    @cache
    def board() -> Leaderboard:
        return compare(context, pool, arms, design)

    def write(make: Callable[[Leaderboard], str]) -> Callable[[Path], None]:
        return lambda path: write_text(path, make(board()))

    step = Step(
        name="comparison",
        version=VERSION,
        settings={**_settings(context, design), "title": title, "gate": vars(gate) if gate else {}},
        inputs={
            "pool": pool.content,
            "arms": digest([_facts(budget, a) for budget, made in arms.items() for a in made]),
            "base": design.recipe.fingerprint(context, design.recipe.base),
        },
    )
    parts = [
        table("leaderboard", lambda: findings.leaderboard(board())),
        table("cells", lambda: findings.cells(board())),
        table("items", lambda: findings.items(board())),
        Part(name=PAGE, write=write(lambda b: page(b, title=title).decode())),
        Part(name=FINDINGS, write=write(lambda b: json.dumps(_told(b, gate), indent=1))),
    ]
    return context.store.run(step, parts)


def written(entry: Entry, home: Path) -> Path:
    """Copy a comparison to a folder of its own under `home`, whole or not at all; returns it.

    Raises:
        ValueError: a folder of that name holds something else.
    """
    folder = home / entry.content[:12]
    if folder.is_dir():
        changed = [n for n in NAMES if not _alike(entry.path / n, folder / n)]
        if changed:
            raise ValueError(
                f"{folder / changed[0]} was changed: move {folder} away and run again."
            )
        return folder
    work = home / f".{folder.name}"
    remove(work)
    work.mkdir(parents=True)
    for name in NAMES:
        shutil.copyfile(entry.path / name, work / name)
    work.rename(folder)
    return folder


def proof(entry: Entry) -> dict[str, pl.DataFrame | str]:
    """The page and tables as a published folder has them, hashed first."""
    entry.intact()
    tables = {f"comparison_{name}": pl.read_parquet(entry.path / name) for name in TABLES}
    return {PAGE: (entry.path / PAGE).read_text("utf-8"), **tables}


def effects(comparison: Path) -> list[dict[str, Any]]:
    """The leaderboard's effects, a line each."""
    board = pl.read_parquet(comparison / TABLES[0]).filter(pl.col("against").is_not_null())
    columns = ("evaluation", "budget", "arm", "against", "effect", "low", "high", "p_holm")
    return board.select(columns).to_dicts()


def _alike(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def told(comparison: Path) -> dict[str, Any]:
    """The findings: `summaries` (a sentence a method), `warnings`, and the gate's `verdict`."""
    found: dict[str, Any] = json.loads((comparison / FINDINGS).read_text("utf-8"))
    return found


def _told(board: Leaderboard, gate: Gate | None) -> dict[str, Any]:
    methods = [
        (budget, o.arm.name)
        for budget, found in board.outcomes[board.design.target].items()
        for o in found.values()
        if not o.arm.control
    ]
    verdict = None
    if gate is not None:
        ((budget, arm),) = methods
        verdict = judge(board, budget, arm, gate).facts
    return {
        "summaries": [findings.summary(board, budget, arm) for budget, arm in methods],
        "warnings": findings.warnings(board),
        "verdict": verdict,
    }


def _settings(context: RunContext, design: Design) -> dict[str, Any]:
    passes = context.passes
    return {
        "recipe": dict(design.recipe.facts),
        "evaluations": {
            name: {"part": one.part, **one.measure.facts}
            for name, one in design.evaluations.items()
        },
        "target": design.target,
        "validation": dict(design.validation.facts) if design.validation else None,
        "rates": list(design.rates) or [design.recipe.training.learning_rate],
        "seeds": list(design.seeds),
        "against": design.against,
        "level": design.level,
        "dtype": pick_dtype(passes.dtype, pick_device(passes.device)),
        "max_length": passes.max_length,
        "overlong": passes.overlong,
    }


def _facts(budget: str, arm: Arm) -> list[Any]:
    drawn = [digest([d["id"].to_list(), d["weight"].to_list()]) for d in arm.draws]
    return [budget, arm.name, arm.kind, arm.cost, drawn]
