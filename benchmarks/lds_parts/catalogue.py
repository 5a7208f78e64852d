"""The influence selectors as `gristmill score` runs them, on the rows of the fidelity benchmark.

Every target row is a task of its own, so a selector's `score_target_<task>` columns are the scores
that the benchmark needs. Selectors that warm a model up by themselves start from the base; those
that read a model as it is get the one that was trained on the whole pool. `tracin` and `iprox`
average over all target rows: the models that they make are read through `gradient_cosine` with
inner products, which is the same mathematics by task.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline import Models, ScoreRun, Source, Store, ingest, score
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.score.score import ready
from gristmill.selectors import catalog
from lds_parts.truth import HOME, records

AS_IT_IS = ("gradient_cosine", "ekfac")
WARMED = ("tracin", "less", "datainf", "iprox")
READ_BY = {"tracin": {"layers": "lora"}, "iprox": {"role": "proxy"}}
SETTINGS = {  # the default first
    "ekfac": [
        *({"loss": x, "damping": d} for x in ("sum", "mean") for d in (0.1, 1e-3, 1e-2, 1.0)),
        {"space": "whole", "damping": 0.1},
    ],
    "iprox": [{"rho": rho} for rho in (0.5, 0.3, 0.7)],
}


def write(path, rows, task):
    with path.open("w", encoding="utf-8") as file:
        for n, row in enumerate(rows):
            named = {"task": f"t{n:02d}"} if task else {}
            file.write(json.dumps({"messages": row["messages"], **named}) + "\n")
    return Source(path=str(path))


def scored(name, model, home):
    """Scores N x J of a selector, for each of its settings."""
    store = Store(root=home / name)
    store.root.mkdir(parents=True)
    rows, targets = records(HOME)
    pool = ingest(store, [write(store.root / "pool.jsonl", rows, task=False)])
    aim = ingest(store, [write(store.root / "target.jsonl", targets, task=True)])
    for settings in SETTINGS.get(name, [{}]):
        run = ScoreRun(
            scorer=catalog.make(name, settings),
            dataset=pool,
            reference=aim,
            context=RunContext(
                models=Models(store=store, roles={"target": (str(model),)}),
                passes=Passes(device="cpu"),
            ),
        )
        if name in READ_BY:
            alike = {"similarity": "inner", **READ_BY[name]}
            run = replace(ready(run), scorer=catalog.make("gradient_cosine", alike))
        frame = score(run).frame().sort("row")
        columns = [f"score_target_t{n:02d}" for n in range(len(targets))]
        assert frame.select(pl.all_horizontal(pl.col(columns).is_not_null()).all()).item()
        label = "/".join(str(v) for v in settings.values())
        yield label, frame.select(columns).to_numpy().astype(np.float64)


def selectors(folder, home):
    """Name to the work, as in `methods`."""
    last = sorted(folder.glob("step-*"))[-1]
    models = {**dict.fromkeys(AS_IT_IS, last), **dict.fromkeys(WARMED, HOME / "base")}
    return {
        f"selector {name}": partial(scored, name, model, Path(home))
        for name, model in models.items()
    }
