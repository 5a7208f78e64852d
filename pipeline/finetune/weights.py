"""Per-example weights in any TRL trainer, without a trainer of our own.

TRL 1.16 has no per-row weights. Its `compute_loss_func` is deprecated, costs a second forward pass
and does not exist for pairs; the other way it names is a subclass with a copied loss. Instead:
every loss here is a function of one number or one row of numbers per row (token log-probabilities,
a reward), so weighting row i by w_i is to scale by w_i the gradient that flows back into them:

    d/dtheta sum_i w_i loss_i(s_i) = sum_i (w_i * dloss_i/ds_i) * ds_i/dtheta

`weigh` lets a model take the keyword `weight`, which the collator puts into the batch, and scales
that gradient with a tensor hook. TRL sees nothing of it, so all its losses that are separable over
rows work unchanged, at no cost.

Weights are absolute: 1 is plain training (bit for bit: a product with 1.0), w = 0 gives no
gradient, and what a batch is divided by (labelled tokens, pairs) does not change. The logged loss
is the unweighted one, so that runs with different weights can be compared.
"""

from typing import Any

import torch


def weigh(model: torch.nn.Module) -> None:
    """Let `model` take the keyword `weight` (one float per row of the batch)."""
    current: dict[str, torch.Tensor | None] = {}

    def take(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:  # noqa: ANN401
        current["weight"] = kwargs.pop("weight", None)
        return args, kwargs

    def scale(module: torch.nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
        weight_B = current.pop("weight")
        # a fused LM head returns log-probabilities (B x T), a reward model scores (B x 1)
        scored = output["log_probs"] if "log_probs" in output else output["logits"]
        if weight_B is not None and scored.requires_grad:
            weight_B1 = weight_B.to(scored.dtype)[:, None]
            scored.register_hook(lambda gradient: gradient * weight_B1)

    model.register_forward_pre_hook(take, with_kwargs=True)
    model.register_forward_hook(scale)
