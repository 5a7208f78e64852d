"""Per-example gradients of a causal language model: one forward, one activation-only backward.

Weights are frozen, so autograd forms the gradient of every activation and of no weight: the work
of two forward passes, not three. Rows are pulled to the left, so causal attention needs no padding
mask. What is propagated is the sum over rows of the rows' own losses (never a batch mean), so no
row depends on who shares its batch, on order, padding side or packing.

A row that cannot have a gradient gets NaN features and a reason; it never disturbs its neighbours.
"""

# B = sequences of the batch, S = sequences (packed ones counted singly), R = rows: sequences, or
# pairs of them; T = tokens, K = labelled tokens, D = hidden size, W = width of a feature

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gristmill.pipeline.models.forward import backbone, logits
from gristmill.pipeline.models.gradients.experts import expert_by_expert
from gristmill.pipeline.models.gradients.hooks import Reading, hook, reading
from gristmill.pipeline.models.gradients.layers import (
    PROBE,
    Layer,
    flat_inputs,
    frozen,
    linear_layers,
    shared_inputs,
)
from gristmill.pipeline.models.gradients.layout import Feature
from gristmill.pipeline.models.gradients.lm_head import given, head_gradients, sampled
from gristmill.pipeline.models.gradients.random_bits import random_words
from gristmill.pipeline.models.gradients.sequences import IGNORED, Sequences, lay_out

Loss = Literal["mean", "sum", "dpo"]


@dataclass(frozen=True, kw_only=True)
class RowGradients:
    """What a pass says of the rows of a batch.

    Attributes:
        features: one R x W tensor per feature, float32 (float64 for a float64 model).
        loss_R: the row's loss in nats, float64; NaN where there is none.
        labels_S: labelled tokens of each sequence.
        reason_R: why a row has no gradient, or None.
    """

    features: tuple[Tensor, ...]
    loss_R: Tensor
    labels_S: Tensor
    reason_R: tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True)
class FisherLabels:
    """Labels drawn from the model instead of the data's; a row's draw depends on seed and id."""

    seed: int
    ids: Sequence[str]  # one per sequence


@dataclass(frozen=True, kw_only=True)
class GradientEngine:
    """A model with the features that are read from its gradients; see `gradient_engine`.

    Attributes:
        model: a transformers causal LM, plain or with a PEFT adapter.
        reading: the layers and what is read of each.
        loss: a row's loss: "mean" or "sum" over its label tokens, or "dpo" over a pair.
        beta: of the DPO loss.
        context: longest sequence of the model.
        packs: the model keeps packed sequences apart.
    """

    model: Any
    reading: Reading
    loss: Loss
    beta: float
    context: int
    packs: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The weight matrices that are read."""
        return self.reading.layers

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers per row of each feature."""
        return self.reading.widths

    def run(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor,
        labels_BT: Tensor,
        *,
        segment_ids_BT: Tensor | None = None,
        reference_logp_S: Tensor | None = None,
        fisher: FisherLabels | None = None,
    ) -> RowGradients:
        """Read the features of every row of a batch.

        Args:
            input_ids_BT: token ids, padded on either side, or packed.
            attention_mask_BT: 1 where there is a token.
            labels_BT: the token itself where it carries loss, -100 elsewhere (not shifted).
            segment_ids_BT: packed batches: number of each token's sequence, from 0; -1 = padding.
            reference_logp_S: "dpo": log-probability of each sequence's labels under the reference.
            fisher: draw the labels from the model.
        """
        if segment_ids_BT is not None and not self.packs:
            raise ValueError("this model mixes packed sequences: give it a padded batch.")
        device = self.layers[0].device
        batch = lay_out(
            input_ids_BT.to(device),
            attention_mask_BT.to(device).bool(),
            labels_BT.to(device),
            None if segment_ids_BT is None else segment_ids_BT.to(device),
            per_row=2 if self.loss == "dpo" else 1,
            context=self.context,
        )
        _check_labels(batch.label_K, int(self.model.config.get_text_config().vocab_size))
        if self.loss == "dpo" and (reference_logp_S is None or fisher is not None):
            raise ValueError(
                "the DPO loss of a pair needs reference_logp_S, one log-probability per sequence "
                "under the reference model, and the data's own labels."
            )
        hooks = hook(self.reading, batch.layout)
        nll_S = torch.full((batch.count,), torch.nan, dtype=torch.float64)
        owner_K = batch.owner_K.cpu()
        count_S = torch.bincount(owner_K, minlength=batch.count)
        if len(batch.place_K):
            with frozen(self.model), torch.enable_grad(), hooks.attached():
                last_BTD = _hidden(self.model, batch.ids_BT, batch.position_BT)
                last_KD = last_BTD.flatten(0, 1).index_select(0, batch.place_K)
                pick = given(batch.label_K)
                if fisher is not None:
                    pick = sampled(_uniform(fisher, owner_K).to(last_KD.device))
                nll_K, d_last_KD = head_gradients(self.model, last_KD, pick)
                nll_S = torch.zeros_like(nll_S).index_add(0, owner_K, nll_K.cpu().double())
                weight_S = self._weights(nll_S, count_S, reference_logp_S)
                weight_K1 = weight_S[owner_K, None].to(nll_K.dtype).to(nll_K.device)
                # a row without a finite loss must not send its NaN into shared sums
                fine_K1 = nll_S.isfinite()[owner_K, None].to(last_KD.device)
                d_last_KD = torch.where(fine_K1, d_last_KD * weight_K1, 0).to(last_KD.dtype)
                lost_S = nll_S.isfinite().logical_not()
                if bool(lost_S.any()):
                    per_row = 2 if self.loss == "dpo" else 1
                    lost_R = lost_S.reshape(-1, per_row).any(1)
                    hooks.leave_out(lost_R.nonzero()[:, 0].to(last_KD.device))
                if last_KD.requires_grad:
                    torch.autograd.backward(last_KD, d_last_KD)
            hooks.check()
        return self._finish(batch, hooks.out, nll_S, count_S, reference_logp_S)

    def _weights(self, nll_S: Tensor, count_S: Tensor, reference_logp_S: Tensor | None) -> Tensor:
        """How much of a label's loss enters its row's loss: d(row loss) / d(token loss)."""
        if self.loss == "sum":
            return torch.ones_like(nll_S)
        if self.loss == "mean":
            return 1 / count_S.double()
        margin_R = self._margin(nll_S, reference_logp_S)
        slope_R1 = self.beta * torch.sigmoid(-self.beta * margin_R)[:, None]
        return torch.cat([slope_R1, -slope_R1], dim=1).flatten()

    def _margin(self, nll_S: Tensor, reference_logp_S: Tensor | None) -> Tensor:
        assert reference_logp_S is not None
        ratio_S = -nll_S - reference_logp_S.to(nll_S)
        return ratio_S[0::2] - ratio_S[1::2]

    def _finish(
        self,
        batch: Sequences,
        out: tuple[Tensor, ...],
        nll_S: Tensor,
        count_S: Tensor,
        reference_logp_S: Tensor | None,
    ) -> RowGradients:
        reason_S = [
            reason or (None if fine else "non_finite_loss")
            for reason, fine in zip(batch.reason_S, nll_S.isfinite().tolist(), strict=True)
        ]
        if self.loss == "dpo":
            margin_R = self._margin(nll_S, reference_logp_S)
            loss_R = torch.nn.functional.softplus(-self.beta * margin_R)
            reason_R = [a or b for a, b in zip(reason_S[0::2], reason_S[1::2], strict=True)]
        else:
            loss_R = nll_S / count_S if self.loss == "mean" else nll_S
            reason_R = reason_S
        if out:
            fine_R = torch.stack([f.isfinite().all(1) for f in out]).all(0).tolist()
            reason_R = [
                reason or (None if fine else "non_finite_gradient")
                for reason, fine in zip(reason_R, fine_R, strict=True)
            ]
        null_R = torch.tensor([reason is not None for reason in reason_R])
        for feature in out:
            feature[null_R.to(feature.device)] = torch.nan
        return RowGradients(
            features=out,
            loss_R=torch.where(null_R, torch.nan, loss_R),
            labels_S=count_S,
            reason_R=tuple(reason_R),
        )


def gradient_engine(
    model: Any,  # noqa: ANN401  (a transformers causal LM)
    *features: Feature,
    layers: str | Sequence[str] = "linear",
    loss: Loss = "mean",
    bias: bool = False,
    beta: float = 0.1,
) -> GradientEngine:
    """Prepare a model for passes that read `features`.

    The head is checked once: hidden states put through it must give the model's own logits, and a
    token must not see what comes after it.

    Args:
        model: a transformers causal LM, plain or with a PEFT adapter.
        features: what to make of each layer's gradient, e.g. `Factored(k=16)`.
        layers: "linear", "lora" or parts of layer names; see `linear_layers`.
        loss: a row's loss: mean or sum over its label tokens, or the DPO loss of a pair, whose
            chosen and rejected sequences follow each other in the batch.
        bias: read bias gradients as well.
        beta: of the DPO loss.
    """
    chosen = linear_layers(model, layers, bias=bias)
    if any(layer.dtype == torch.float16 for layer in chosen):
        raise ValueError(
            "gradients below 6e-8 vanish in float16: load the model in bfloat16 or float32."
        )
    with frozen(model), torch.no_grad():
        with shared_inputs(chosen) as siblings:
            _hidden(model, torch.tensor([[1, 2]], device=chosen[0].device), None)
        with flat_inputs(chosen) as flat:
            packs = _probe(model, chosen[0].device)
        _check_experts(model, chosen)
    return GradientEngine(
        model=model,
        reading=reading(chosen, features, siblings, frozenset(flat)),
        loss=loss,
        beta=beta,
        context=_context(model),
        packs=packs,
    )


def _probe(model: Any, device: torch.device) -> bool:  # noqa: ANN401
    """Check what the engine takes for granted of the model; say whether it can read packed rows."""
    ids_BT = torch.tensor(PROBE, device=device)
    last_BTD = _hidden(model, ids_BT, None)
    expected = model(input_ids=ids_BT, use_cache=False).logits
    if not bool(expected.isfinite().all()):
        raise ValueError(f"the logits of {type(model).__name__} are not finite: check the weights.")
    if not _close(logits(model, last_BTD.flatten(0, 1)), expected.flatten(0, 1)):
        raise ValueError(
            f"{type(model).__name__} does more to its logits than an LM head and the known "
            "scalings, so label gradients would be wrong; this family is not supported."
        )
    if not _close(last_BTD[0, :4], last_BTD[1, :4]):
        raise ValueError(f"{type(model).__name__} lets tokens see later ones: no causal model.")
    if "position_ids" not in inspect.signature(backbone(model).forward).parameters:
        return False
    position_BT = torch.arange(8, device=device)[None] % 4
    both_BTD = _hidden(model, ids_BT[:1], position_BT)
    return _close(both_BTD[0, 4:], last_BTD[0, :4])


def _check_experts(model: Any, layers: Sequence[Layer]) -> None:  # noqa: ANN401
    """An expert at a time, blocks must give what they give at once."""
    modules = {id(x.expert.module): x.expert.module for x in layers if x.expert is not None}
    ids_BT = torch.tensor(PROBE, device=layers[0].device)
    shown = [(module, lambda *_: None) for module in modules.values()]
    with expert_by_expert(shown):
        apart_BTD = _hidden(model, ids_BT, None)
    if modules and not _close(apart_BTD, _hidden(model, ids_BT, None)):
        name = type(next(iter(modules.values()))).__name__
        raise ValueError(
            f"{type(model).__name__} computes its experts ({name}) in a way of its own, so they "
            'cannot be read apart: choose layers without them, e.g. layers="self_attn".'
        )


def _hidden(model: Any, ids_BT: Tensor, position_BT: Tensor | None) -> Tensor:  # noqa: ANN401
    extra = {} if position_BT is None else {"position_ids": position_BT}
    last_BTD: Tensor = backbone(model)(input_ids=ids_BT, use_cache=False, **extra).last_hidden_state
    return last_BTD


def _close(x: Tensor, y: Tensor) -> bool:
    bound = 0.05 if x.dtype in (torch.bfloat16, torch.float16) else 1e-3
    return bool((x - y).abs().max() <= bound * y.abs().max())


def _check_labels(label_K: Tensor, vocabulary: int) -> None:
    if bool(((label_K < 0) | (label_K >= vocabulary)).any()):
        raise ValueError(
            f"labels run from {int(label_K.min())} to {int(label_K.max())}; the model knows 0 to "
            f"{vocabulary - 1}, and {IGNORED} represents no label."
        )


def _context(model: Any) -> int:  # noqa: ANN401
    config = model.config.get_text_config().to_dict()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    return next((config[n] for n in names if isinstance(config.get(n), int)), 2**31)


def _uniform(fisher: FisherLabels, owner_K: Tensor) -> Tensor:
    """One number in [0, 1) per label, keyed by the id of its sequence."""
    counts = torch.bincount(owner_K, minlength=len(fisher.ids)).tolist()
    words = [
        torch.from_numpy((random_words(n, fisher.seed, "fisher_label", i) >> 11).astype("int64"))
        for i, n in zip(fisher.ids, counts, strict=True)
    ]
    return torch.cat(words).double() * 2.0**-53
