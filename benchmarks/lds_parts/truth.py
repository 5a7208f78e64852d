"""The ground truth of the fidelity benchmark: what training on a random half of the rows does.

    python benchmarks/lds.py --truth [--workers 2]      # 128 trainings, resumable

Each of 64 random halves of the pool is trained on from the base model twice, in two orders; the
outcome is the loss of every held-out row afterwards. Masks and outcomes are kept in
`data/lds/truth.npz` with a hash of rows, base model and settings: another truth is refused.
"""

# N = pool rows, J = target rows, B = batch rows, T = tokens, K = labelled tokens

import hashlib
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gristmill.pipeline.finetune.checkpoints import save_optimizer_state
from gristmill.pipeline.models.forward import backbone
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.views import Dialogue

ROOT = Path(__file__).parents[2]
HOME = ROOT / "benchmarks" / "data" / "lds"
WORK = Path(os.environ.get("GRISTMILL_STORE", ROOT / "data" / "work")) / "lds"
SETTINGS = {
    "version": 1,
    "subsets": 64,
    "seeds": 2,
    "share": 0.5,
    "epochs": 2,
    "batch_size": 10,
    "learning_rate": 1e-3,  # AdamW without weight decay, falling to 0; loss = mean over tokens
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row as tokens."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]  # -100 where there is no loss


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Masks (subsets x N) and outcomes (seeds x subsets x J), with what gives them a scale."""

    mask: np.ndarray
    loss: np.ndarray
    base_J: np.ndarray  # loss of the base model
    full_J: np.ndarray  # after training on the whole pool


def records(home=HOME):
    """Pool and target rows, as they are in the file."""
    rows = [json.loads(line) for line in (home / "rows.jsonl").read_text("utf-8").splitlines()]
    return [[r for r in rows if r["part"] == part] for part in ("pool", "target")]


def key(home=HOME):
    """Changes with everything that the truth depends on."""
    names = ("rows.jsonl", "base/model.safetensors", "base/tokenizer.json", "base/config.json")
    digests = [hashlib.sha256((home / name).read_bytes()).hexdigest() for name in names]
    return hashlib.sha256(json.dumps([SETTINGS, digests]).encode()).hexdigest()[:16]


def open_model(folder):
    """The model in float32, with its tokenizer."""
    WORK.mkdir(parents=True, exist_ok=True)
    return load(resolve(str(folder), Store(root=WORK)), device="cpu", dtype="float32")


def encode(rows, chat):
    out = []
    for row in rows:
        e = Dialogue().encode({"messages": row["messages"], "tools": None}, chat)
        assert e.reason is None, e.reason
        labels = tuple(i if t else -100 for i, t in zip(e.ids, e.turn, strict=True))
        out.append(Row(ids=tuple(e.ids), labels=labels))
    return out


def tensors(rows):
    """Ids, mask and labels of a batch, padded on the right."""
    width = max(len(r.ids) for r in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BT, labels_BT = ids_BT.clone(), torch.full_like(ids_BT, -100)
    for b, row in enumerate(rows):
        ids_BT[b, : len(row.ids)] = torch.tensor(row.ids)
        labels_BT[b, : len(row.ids)] = torch.tensor(row.labels)
        mask_BT[b, : len(row.ids)] = 1
    return ids_BT, mask_BT, labels_BT


def token_losses(model, rows):
    """Loss of every label of the batch, and the row that it belongs to."""
    ids_BT, _, labels_BT = tensors(rows)  # padded on the right, a causal model needs no mask
    last_BTD = backbone(model)(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    wanted_BT = labels_BT[:, 1:] != -100
    logits_KV = model.get_output_embeddings()(last_BTD[wanted_BT])
    loss_K = nn.functional.cross_entropy(logits_KV, labels_BT[:, 1:][wanted_BT], reduction="none")
    return loss_K, wanted_BT.nonzero()[:, 0]


def row_losses(model, rows):
    """Mean loss per label of each row."""
    with torch.no_grad():
        loss_K, owner_K = token_losses(model.eval(), rows)
        sums = torch.zeros(len(rows)).index_add(0, owner_K, loss_K)
        return (sums / torch.bincount(owner_K, minlength=len(rows))).numpy()


def train(model, rows, seed, each_epoch=None):
    """Plain AdamW. The order of an epoch depends on `seed` and on the number of rows alone."""
    rate, size = SETTINGS["learning_rate"], SETTINGS["batch_size"]
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(named, lr=rate, weight_decay=0.0)
    model.requires_grad_(True).train()
    draw = torch.Generator().manual_seed(seed)
    per_epoch = -(-len(rows) // size)
    steps, step = SETTINGS["epochs"] * per_epoch, 0
    for epoch in range(SETTINGS["epochs"]):
        order, rates = torch.randperm(len(rows), generator=draw).tolist(), []
        for first in range(0, len(rows), size):
            rates.append(rate * (1 - step / steps))
            optimizer.param_groups[0]["lr"] = rates[-1]
            loss_K, _ = token_losses(model, [rows[i] for i in order[first : first + size]])
            optimizer.zero_grad()
            loss_K.mean().backward()
            optimizer.step()
            step += 1
        if each_epoch is not None:
            each_epoch(epoch + 1, step, float(np.mean(rates)), optimizer)
    model.requires_grad_(False).eval()


def masks(rows):
    """Random halves of the pool, subset by subset."""
    chosen = np.zeros((SETTINGS["subsets"], rows), dtype=bool)
    for s, row in enumerate(chosen):
        row[np.random.default_rng([7, s]).permutation(rows)[: int(rows * SETTINGS["share"])]] = True
    return chosen


@cache
def start(home):
    """The base with its weights to go back to, and pool and target rows as tokens."""
    torch.set_num_threads(1)
    loaded = open_model(home / "base")
    rows, held = (encode(part, loaded.chat) for part in records(home))
    weights = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    return loaded.model, weights, rows, held


def retrain(job, home=HOME, work=WORK):
    """One training; its outcome is a file, so that an interrupted run goes on where it stopped."""
    seed, subset = job
    path = work / key(home) / f"{seed}-{subset:03d}.npy"
    if not path.exists():
        model, weights, rows, held = start(home)
        model.load_state_dict(weights)
        kept = np.flatnonzero(masks(len(rows))[subset]) if subset >= 0 else range(len(rows))
        train(model, [rows[i] for i in kept], seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        with part.open("wb") as file:
            np.save(file, row_losses(model, held))
        part.replace(path)
    return np.load(path)


def make_truth(workers=1, home=HOME, work=WORK):
    """All trainings, and the file."""
    seeds, subsets = range(SETTINGS["seeds"]), range(SETTINGS["subsets"])
    jobs = [(seed, subset) for subset in (-1, *subsets) for seed in seeds]
    do = partial(retrain, home=home, work=work)
    begun, done = time.perf_counter(), {}
    with ProcessPoolExecutor(workers) as executor:
        for job, loss_J in zip(jobs, executor.map(do, jobs), strict=True):
            done[job] = loss_J
            if len(done) % 8 == 0:
                spent = time.perf_counter() - begun
                print(f"{len(done)} of {len(jobs)} trainings, {spent:.0f} s", flush=True)
    model, weights, rows, held = start(home)
    model.load_state_dict(weights)
    np.savez_compressed(
        home / "truth.npz",
        key=key(home),
        settings=json.dumps(SETTINGS),
        mask=np.packbits(masks(len(rows)), axis=1),
        loss=np.array([[done[s, i] for i in subsets] for s in seeds], dtype=np.float32),
        base=row_losses(model, held),
        full=np.mean([done[s, -1] for s in seeds], axis=0, dtype=np.float32),
    )


def read_truth(home=HOME):
    """The committed truth, if it is of these rows, this base and these settings."""
    path = home / "truth.npz"
    if not path.exists():
        raise ValueError(f"{path.name} is missing: run `python benchmarks/lds.py --truth`.")
    with np.load(path) as file:
        if str(file["key"]) != key(home):
            raise ValueError(
                f"{path.name} is of other rows, another base model or other settings "
                f"({file['settings']}): run `python benchmarks/lds.py --truth`."
            )
        rows = len(records(home)[0])
        return Truth(
            mask=np.unpackbits(file["mask"], axis=1, count=rows).astype(bool),
            loss=file["loss"].astype(np.float64),
            base_J=file["base"].astype(np.float64),
            full_J=file["full"].astype(np.float64),
        )


def full_run(home=HOME, work=WORK):
    """Train on the whole pool; a folder per epoch, each a model with Adam's state."""
    folder = work / key(home) / "full" / "checkpoints"
    if (folder / "index.json").exists():
        return folder
    loaded = open_model(home / "base")
    kept = []

    def save(epoch, step, rate, optimizer):
        path = folder / f"step-{step:06d}"
        loaded.model.save_pretrained(path)
        loaded.chat.tokenizer.save_pretrained(path)
        save_optimizer_state(loaded.model, optimizer, path)
        torch.save(optimizer.state_dict(), path / "optimizer.pt")  # as other tools read it
        kept.append({"name": path.name, "step": step, "epoch": epoch, "learning_rate": rate})

    torch.set_num_threads(1)
    train(loaded.model, encode(records(home)[0], loaded.chat), 0, save)
    (folder / "index.json").write_text(json.dumps({"checkpoints": kept}), "utf-8")
    return folder
