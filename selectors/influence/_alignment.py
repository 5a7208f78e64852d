"""IProX, stage 2: train low-rank factors so that their gradients point where the target's do.

`L = mean over layers of 1/2 [1 - cos(dL/dup, G down^T) + 1 - cos(dL/ddown, up^T G)] + lambda L_KL`,
with G the target's gradient of the dense weight on the same batch, and L_KL what keeps the
proxy's predictions near the target's. A gradient is trained, so the pass has a second derivative.
"""

# I, O = layer inputs, outputs; B, T = rows and tokens of a batch; K = label tokens; V = vocabulary

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gristmill.pipeline.models.forward import backbone, logits
from gristmill.pipeline.models.gradients.layers import Layer
from gristmill.pipeline.models.gradients.layout import wide
from gristmill.pipeline.models.low_rank import LowRankLinear


def batch_loss(model: Any, ids_BT: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Mean loss over the labels of a batch padded on the right, and their logits, K x V.

    Args:
        model: a causal LM.
        ids_BT: token ids.
        labels_BT: the token itself where it carries loss, -100 elsewhere (not shifted).
    """
    last_BTD = backbone(model)(input_ids=ids_BT, use_cache=False).last_hidden_state
    label_K = labels_BT[:, 1:].flatten()
    wanted = label_K != -100
    logits_KV = logits(model, last_BTD[:, :-1].flatten(0, 1)[wanted])
    logits_KV = logits_KV.to(wide(logits_KV.dtype))
    return torch.nn.functional.cross_entropy(logits_KV, label_K[wanted]), logits_KV


def dense_gradients(layers: Sequence[Layer], loss: Tensor) -> dict[str, Tensor]:
    """Gradient of the loss by each dense weight, O x I, which must require one."""
    weights: list[Any] = [layer.modules[0].weight for layer in layers]
    found = torch.autograd.grad(loss, weights)
    return {
        layer.name: g.T if layer.transposed else g for layer, g in zip(layers, found, strict=True)
    }


def misalignment(
    factors: Mapping[str, LowRankLinear], gradients: Mapping[str, Tensor], loss: Tensor
) -> Tensor:
    """L_GA: mean over layers of half of 1 - cos, for either factor.

    By the chain rule, a dense gradient G would give the factors `G down^T` and `up^T G`; these are
    compared with the factors' own, which keep their graph.

    Args:
        factors: the low-rank layers, by name.
        gradients: the target's, O x I, by name; constants.
        loss: of the low-rank model on the same batch.
    """
    weights = [p for layer in factors.values() for p in (layer.up, layer.down)]
    own = iter(torch.autograd.grad(loss, weights, create_graph=True))
    terms = []
    for name, layer in factors.items():
        kind = wide(layer.up.dtype)
        dense_OI, up_OR, down_RI = (x.to(kind) for x in (gradients[name], layer.up, layer.down))
        terms.append(1 - _cosine(next(own), dense_OI @ down_RI.T))
        terms.append(1 - _cosine(next(own), up_OR.T @ dense_OI))
    return torch.stack(terms).mean()


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.flatten().to(y.dtype), y.flatten()
    # gradients are small: scaled first, as their squares may be no numbers any more
    x, y = (v / v.detach().abs().max().clamp(min=torch.finfo(torch.float32).tiny) for v in (x, y))
    return (x @ y) / ((x @ x).clamp(min=1e-30).sqrt() * (y @ y).clamp(min=1e-30).sqrt())


def divergence(teacher_KV: Tensor, proxy_KV: Tensor, temperature: float) -> Tensor:
    """L_KL = tau^2 KL(teacher || proxy), mean over label tokens, in nats."""
    log_p = (teacher_KV / temperature).log_softmax(-1)
    log_q = (proxy_KV / temperature).log_softmax(-1)
    apart = torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return temperature**2 * apart


def align(
    target: Any,  # noqa: ANN401  (a transformers causal LM)
    proxy: Any,  # noqa: ANN401
    layers: Sequence[Layer],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.01,
    kl_weight: float = 0.1,
    temperature: float = 2.0,
) -> list[tuple[float, float]]:
    """Train the factors of `proxy`, and nothing else, to the target's gradients.

    Attention is taken as plain mathematics, as no fast kernel has a second derivative. In half
    precision the factors are float32 while they train.

    Args:
        target: dense, frozen.
        proxy: the same model with low-rank layers.
        layers: of the target, those that the proxy has in low rank.
        batches: token ids and labels (see `batch_loss`), in order, epochs one after another.
        learning_rate: of AdamW, without a schedule.
        weight_decay: of AdamW.
        kl_weight: lambda of L_GA + lambda L_KL.
        temperature: tau.

    Returns:
        L_GA and L_KL of every step, before it.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    factors = {layer.name: proxy.get_submodule(layer.name) for layer in layers}
    weights = [p for layer in factors.values() for p in (layer.up, layer.down)]
    dense: list[Any] = [layer.modules[0].weight for layer in layers]
    kind = weights[0].dtype
    for layer in factors.values():
        layer.to(wide(kind))
    mixed = torch.autocast(layers[0].device.type, kind, enabled=kind != wide(kind))
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay)
    told: list[tuple[float, float]] = []
    try:
        for weight in (*weights, *dense):
            weight.requires_grad_(True)
        with sdpa_kernel(SDPBackend.MATH):
            for ids_BT, labels_BT in batches:
                loss, teacher_KV = batch_loss(target, ids_BT, labels_BT)
                gradients = dense_gradients(layers, loss)
                with mixed:
                    loss, proxy_KV = batch_loss(proxy, ids_BT, labels_BT)
                    apart = misalignment(factors, gradients, loss)
                anchor = divergence(teacher_KV.detach(), proxy_KV, temperature)
                optimizer.zero_grad()
                (apart + kl_weight * anchor).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                told.append((float(apart.detach()), float(anchor.detach())))
                if not math.isfinite(sum(told[-1])):
                    raise ValueError(
                        f"alignment stopped at step {len(told)}: gradients {told[-1][0]:.3g} and "
                        f"predictions {told[-1][1]:.3g} apart; lower the learning rate."
                    )
    finally:
        for layer in factors.values():
            layer.to(kind)
        for weight in (*weights, *dense):
            weight.requires_grad_(False)
    return told
