"""Preference optimisation: raise the chosen response against the rejected one.

Losses are TRL's, by its names, and `simpo`. With m = (s_w - ref_w) - (s_l - ref_l), s and ref the
sums of log-probabilities over the response under policy and reference, n its length in tokens:

| loss | per pair |
|---|---|
| `sigmoid` (DPO) | -log sigma(beta m) |
| `hinge` (SLiC) | max(0, 1 - beta m) |
| `ipo` | (m of length-normalised s, ref  -  1/(2 beta))^2 |
| `ipo_sum` | (m  -  1/(2 beta))^2, the paper's; FSPO trains with it |
| `sigmoid_norm` | sigmoid, with every s and ref divided by its n |
| `simpo` | -log sigma(beta s_w/n_w - beta s_l/n_l - gamma); no reference |

TRL 1.16 has SimPO only in an experimental trainer with a tokenisation of its own. It is
`sigmoid_norm` under a "reference" of constants, ref_w = n_w gamma / beta and ref_l = 0, so that is
what the collator hands to the DPO trainer; no reference model is loaded. Its `ipo` divides by the
sum of the response's mask, which counts a first token that no loss reads: the collator of `ipo_sum`
writes 1 - n there, and TRL divides by 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.checkpoints import Trained
from gristmill.pipeline.finetune.job import Job, Run
from gristmill.pipeline.finetune.jobs import step_of, train
from gristmill.pipeline.finetune.models import peft_config, trainable
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.models.load import load, load_tokenizer, pick_device
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.records.store import Step, Store

VERSION = 2
Loss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "ipo_sum",
    "sigmoid_norm",
    "simpo",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
]


@dataclass(frozen=True, kw_only=True)
class Dpo:
    """Settings of a run; `lora=None` trains all weights.

    The loss of a step is the mean over its pairs, each times its weight. TRL's `aot` losses, which
    sort a batch, have no per-pair loss to weight and are left out.

    Attributes:
        loss: see the table above; TRL documents the others.
        beta: strength of the penalty for leaving the reference model; 2.0 is SimPO's.
        gamma: SimPO's target margin; SimPO alone reads it.
        label_smoothing: chance of a flipped label; `robust` and `exo_pair` alone read it.
    """

    training: Training = field(default_factory=lambda: Training(epochs=1, learning_rate=5e-7))
    lora: Lora | None = None
    loss: Loss = "sigmoid"
    beta: float = 0.1
    gamma: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"dpo: beta is {self.beta}; give more than 0.")
        if self.gamma and self.loss != "simpo":
            raise ValueError(f"dpo: gamma is read by the loss simpo alone, not by {self.loss}.")
        if self.label_smoothing and self.loss not in ("robust", "exo_pair"):
            raise ValueError(
                f"dpo: label_smoothing is read by robust and exo_pair alone, not by {self.loss}."
            )


def train_dpo(
    frame: pl.DataFrame,
    model: str,
    settings: Dpo,
    store: Store,
    *,
    reference: str | None = None,
    run: Run | None = None,
    allow_network: bool = False,
) -> Trained:
    """Train `model` on the pairs of `frame`; equal work is found in the store, not repeated.

    Args:
        frame: preference pairs (records), or token rows (`id`, `chosen_ids`, `chosen_labels`,
            `rejected_ids`, `rejected_labels`), in any order, with `weight` per row if wanted.
        model: reference of the policy to start from.
        settings: what the result depends on.
        store: where it is kept.
        reference: the reference model of the loss; by default where `model` starts.
        run: device, progress, how often a state to resume from is saved.
        allow_network: models may be fetched from the hub.
    """
    if reference is not None and settings.loss == "simpo":
        raise ValueError("dpo: simpo has no reference model; leave reference out.")
    files = resolve(model, store, allow_network=allow_network)
    reference_model = resolve(reference, store, allow_network=allow_network) if reference else None
    step = dpo_step(frame, files, settings, reference_model)
    run = run or Run()
    prepare = partial(job, frame, files, settings, run.device, reference_model)
    return train(step, store, files, settings.training, prepare, run)


def dpo_step(
    frame: pl.DataFrame,
    files: ModelFiles,
    settings: Dpo,
    reference_model: ModelFiles | None = None,
) -> Step:
    """The step of the store that a run is."""
    models = {"model": files} | ({"reference": reference_model} if reference_model else {})
    return step_of("dpo", VERSION, "pair", frame, settings_of(settings), models)


def job(
    frame: pl.DataFrame,
    files: ModelFiles,
    settings: Dpo,
    device: str,
    reference_model: ModelFiles | None = None,
) -> Job:
    """Rows and trainer of a run."""
    training, simpo = settings.training, settings.loss == "simpo"
    name = {"simpo": "sigmoid_norm", "ipo_sum": "ipo"}.get(settings.loss, settings.loss)
    chat = load_tokenizer(files, limit=training.max_length, overlong=training.overlong)
    rows, told = data.trainable_rows(frame, "pair", chat, files.reference)
    collate = partial(data.pairs, pad_id=chat.pad_id)

    def build(common: Mapping[str, Any]) -> Any:  # noqa: ANN401  (trl.DPOTrainer)
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        from gristmill.pipeline.finetune.weights import weigh

        loaded = trainable(files, settings.lora, device)
        rival = None
        if reference_model is not None or (settings.lora is None and not simpo):
            rival = load(
                reference_model or files, device=pick_device(device), dtype="float32"
            ).model
            weigh(rival)
        return DPOTrainer(
            model=loaded.model,
            ref_model=rival,
            args=DPOConfig(
                **common,
                loss_type=[name],
                beta=settings.beta,
                label_smoothing=settings.label_smoothing,
                precompute_ref_log_probs=simpo,
                max_length=None,
            ),
            train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
            processing_class=chat.tokenizer,
            peft_config=peft_config(loaded.model, files, settings.lora, "CAUSAL_LM"),
        )

    batch: data.Collate = collate
    if simpo:
        batch = partial(_constants, collate, settings.gamma / settings.beta)
    elif settings.loss == "ipo_sum":
        batch = partial(_sums, collate)
    return Job(
        rows=data.Rows.of(rows, training.seed),
        collate=batch,
        build=build,
        notes=told,
        hidden=("rewards/",) if simpo else (),  # of the constants, which are no reward
    )


def _constants(
    collate: data.Collate, margin: float, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """SimPO's reference of constants."""
    batch = collate(rows)
    length_B = batch["completion_mask"][: len(rows)].sum(1)
    return batch | {
        "ref_chosen_logps": margin * length_B.float(),
        "ref_rejected_logps": 0.0 * length_B.float(),
    }


def _sums(collate: data.Collate, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Masks whose sum is 1, though every token of the response is in them."""
    batch = collate(rows)
    mask_BT = batch["completion_mask"]
    mask_BT[:, 0] = 1 - mask_BT[:, 1:].sum(1)
    return batch
