"""Training a contrast classifier: every network in the same passes over the contrast set."""

# B = answers, T = tokens, C = layers, D = hidden size

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.numerics.ranks import auc, spearman
from gristmill.pipeline.records.schema import digest, uniform
from gristmill.pipeline.records.store import write_text
from gristmill.selectors.hidden._contrast_classifier import (
    FACTS,
    FULL,
    WEIGHTS,
    Layers,
    Span,
    answer_span,
    answer_states,
    prompt_key,
)
from gristmill.selectors.hidden._text_cnn import TextCnn, Weights

HOLD = 2 << 30  # bytes of hidden states kept from one pass over the contrast set to the next
KINDS = ("strong", "weak", "damaged")
CHUNK = 1 << 28  # numbers of hidden states that go through a network together


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a classifier is trained. The defaults are the paper's, `folds` and overrides are ours.

    Attributes:
        form: "full" or "slim" (see `text_cnn`).
        rank: features of a slim classifier's input.
        scaled: states are scaled to mean square 1 (see `text_cnn`); the paper's are raw.
        layers: which layers are read: all of them with the embeddings, the last one, or a third.
        span: the answer's own tokens, or with the template's tokens after it.
        folds: parts of the prompts; each has a network that never saw it.
        learning_rate: of Adam, at first; it falls linearly to 0, as the last steps at a constant
            rate decide too much. None: 1e-4, the paper's, or 1e-3 for a slim network.
        batch_size: answers a step.
        passes: over the contrast set, at least.
    """

    form: Literal["full", "slim"] = "full"
    rank: int = 64
    scaled: bool = True
    layers: Layers = "all"
    span: Span = "with_tail"
    folds: int = 2
    learning_rate: float | None = None
    batch_size: int = 16
    passes: int = 1

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds is at least 2, so that some prompt is unseen: {self.folds}.")
        if self.rate <= 0 or min(self.batch_size, self.passes, self.rank) < 1:
            raise ValueError(
                "learning_rate is above 0 and batch_size, passes and rank are at least 1; found "
                f"{self.rate}, {self.batch_size}, {self.passes} and {self.rank}."
            )

    @property
    def rate(self) -> float:
        """The learning rate; a slim network has a fiftieth of the weights."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.form == "slim" else 1e-4


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An answer of the contrast set as the model reads it; a damaged one is no strong one."""

    id: str
    strong: bool
    damaged: bool = False
    encoded: Encoded

    @property
    def kind(self) -> str:
        return "strong" if self.strong else "damaged" if self.damaged else "weak"


def deal(rows: Sequence[Labelled], folds: int, seed: int) -> dict[str, int]:
    """A fold for each prompt: prompts with the same labels are dealt out in turn, by their hash."""
    labels: dict[str, set[bool]] = {}
    for row in rows:
        labels.setdefault(prompt_key(row.encoded), set()).add(row.strong)
    order = sorted(labels, key=lambda k: (sorted(labels[k]), uniform(seed, "fold", k), k))
    return {key: i % folds for i, key in enumerate(order)}


def fit(
    rows: Sequence[Labelled],
    model: LoadedModel,
    how: Training,
    target: Path,
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
    seed: int = 0,
) -> None:
    """Train all networks in the same passes over the answers and write the classifier's folder.

    An answer is read by the model alone, in a batch of one, so its states do not depend on what
    else there is. States stay in memory up to `HOLD` bytes; those of other answers are made again
    in every pass. Nothing of them is stored.

    Args:
        rows: the contrast set; both labels, each answer with at least one token.
        model: whose states are read; its weights stay as they are.
        how: settings.
        target: the folder to make.
        progress: told of (answers done, in all, metrics).
        seed: of weights, dropout, folds and the order of answers.
    """
    import torch
    from safetensors.torch import save_file

    held: dict[str, Any] = {}
    free = HOLD

    def states(row: Labelled) -> Any:  # noqa: ANN401
        nonlocal free
        if row.id in held:
            return held[row.id]
        batch = forward([row.encoded], model, frozenset({"hidden"}))
        made_TCD = answer_states(batch, 0, how.layers, how.span).clone()
        size = made_TCD.numel() * made_TCD.element_size()
        if size <= free:
            free -= size
            held[row.id] = made_TCD
        return made_TCD

    fold_of = deal(rows, how.folds, seed)
    _, layers, width = states(rows[0]).shape
    net = TextCnn(layers=layers, width=width, form=how.form, rank=how.rank, scaled=how.scaled)
    names = [FULL, *(f"fold{f}" for f in range(how.folds))]
    in_fold = Counter(fold_of[prompt_key(row.encoded)] for row in rows)
    seen = [len(rows), *(len(rows) - in_fold[f] for f in range(how.folds))]
    nets = [
        _Network.start(
            net,
            how,
            int(digest([seed, name])[:8], 16),
            how.passes * math.ceil(n / how.batch_size),
            model.device,
        )
        for name, n in zip(names, seen, strict=True)
    ]
    total, done = how.passes * len(rows), 0
    for turn in range(how.passes):
        for row in sorted(rows, key=lambda r: uniform(seed, f"pass-{turn}", r.id)):
            fold, read = fold_of[prompt_key(row.encoded)], states(row)
            for number, training in enumerate(nets):
                if number != fold + 1:
                    training.take(read, row.strong)
            done += 1
            if progress is not None and done % how.batch_size == 0:
                progress(done, total, {"loss": nets[0].losses[-1]} if nets[0].losses else {})
        for training in nets:
            training.step()  # the last answers of a pass may be fewer
    held_out = []
    with torch.inference_mode():
        for row in rows:
            weights = nets[1 + fold_of[prompt_key(row.encoded)]].weights
            weak, strong = net.logits(weights, [states(row)])[0].double().tolist()
            held_out.append(strong - weak)
    lengths = [float(len(answer_span(r.encoded, "answer"))) for r in rows]
    margin, length = (
        {kind: [v for v, r in zip(values, rows, strict=True) if r.kind == kind] for kind in KINDS}
        for values in (held_out, lengths)
    )
    facts = {
        "net": asdict(net),
        "settings": {**asdict(how), "seed": seed},
        "model": model.files.fingerprint,
        "prompts": fold_of,
        "answers": len(rows),
        "strong": len(margin["strong"]),
        "parameters": net.parameters,
        "steps": len(nets[0].losses),
        "auc": auc(margin["strong"], margin["weak"] + margin["damaged"]),
        "auc_weak": auc(margin["strong"], margin["weak"]),
        "auc_damaged": auc(margin["strong"], margin["damaged"]),
        "auc_length": auc(length["strong"], length["weak"] + length["damaged"]),
        "spearman_length": spearman(held_out, lengths),
    }
    target.mkdir(parents=True)
    tensors = {
        f"{name}.{k}": v.detach().cpu().contiguous()
        for name, training in zip(names, nets, strict=True)
        for k, v in training.weights.items()
    }
    save_file(tensors, target / WEIGHTS)
    write_text(target / FACTS, json.dumps(facts, indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A network under way: what waits for its next step, and the losses of the steps before."""

    net: TextCnn
    weights: Weights
    optimizer: Any
    dropout: Any
    batch_size: int
    steps: int  # in all
    waiting: list[tuple[Any, bool]]
    losses: list[float]

    @staticmethod
    def start(net: TextCnn, how: Training, seed: int, steps: int, device: str) -> "_Network":
        import torch

        weights = net.init(seed, device)
        for tensor in weights.values():
            tensor.requires_grad_()
        return _Network(
            net=net,
            weights=weights,
            optimizer=torch.optim.Adam(weights.values(), lr=how.rate),
            dropout=torch.Generator().manual_seed(seed + 1),
            batch_size=how.batch_size,
            steps=steps,
            waiting=[],
            losses=[],
        )

    def take(self, states_TCD: Any, strong: bool) -> None:  # noqa: ANN401
        self.waiting.append((states_TCD, strong))
        if len(self.waiting) == self.batch_size:
            self.step()

    def step(self) -> None:
        """One step of Adam on the mean cross-entropy of the answers that wait."""
        import torch
        from torch.nn.functional import cross_entropy

        if not self.waiting:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimizer.defaults["lr"] * (1 - len(self.losses) / self.steps)
        summed = 0.0
        for chunk in _chunks(self.waiting):
            label_B = torch.tensor([int(strong) for _, strong in chunk], device=chunk[0][0].device)
            logits_B2 = self.net.logits(self.weights, [s for s, _ in chunk], self.dropout)
            loss = cross_entropy(logits_B2, label_B, reduction="sum") / len(self.waiting)
            loss.backward()  # type: ignore[no-untyped-call]
            summed += float(loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(summed)
        self.waiting.clear()


def _chunks(waiting: Sequence[tuple[Any, bool]]) -> Iterator[list[tuple[Any, bool]]]:
    """Answers in order, as many at a time as `CHUNK` numbers hold; one at least."""
    chunk: list[tuple[Any, bool]] = []
    size = 0
    for item in waiting:
        if chunk and size + math.prod(item[0].shape) > CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += math.prod(item[0].shape)
    yield chunk
