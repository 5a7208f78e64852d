"""Loss at the LM head with its own backward pass: logits exist for a few labelled tokens at once.

The gradient of a token's loss with respect to its last hidden state needs nothing of the other
tokens, so it is taken chunk by chunk, with unit weight, and scaled per row afterwards. That is what
lets one pass weigh rows by what only the whole row tells (its token count, a pair's DPO margin).
"""

# K = labelled tokens, D = hidden size, V = vocabulary

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gristmill.pipeline.models.forward import HEAD_CHUNK, logits
from gristmill.pipeline.models.gradients.layout import wide

Pick = Callable[[Tensor, slice], Tensor]  # log-probabilities (chunk x V) and its place to labels


def head_gradients(model: Any, last_KD: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Loss of each token in nats and its gradient with respect to the hidden state, K and K x D.

    Args:
        model: a causal LM whose weights require no gradient.
        last_KD: last hidden states at the positions that predict a label.
        pick: names the label of each token of a chunk (see `given`, `sampled`).
    """
    losses, gradients = [], []
    for first in range(0, len(last_KD), HEAD_CHUNK):
        place = slice(first, min(first + HEAD_CHUNK, len(last_KD)))
        h_CD = last_KD[place].detach().requires_grad_()
        with torch.enable_grad():
            logits_CV = logits(model, h_CD)
        with torch.no_grad():
            log_p_CV = logits_CV.detach().to(wide(logits_CV.dtype)).log_softmax(-1)
            label_C1 = pick(log_p_CV, place)[:, None]
            losses.append(-log_p_CV.gather(1, label_C1)[:, 0])
            # softmax - onehot, made in place: the chunk is the largest tensor of the pass
            d_logits_CV = log_p_CV.exp_()
            d_logits_CV.scatter_add_(1, label_C1, d_logits_CV.new_full(label_C1.shape, -1.0))
        gradients.append(torch.autograd.grad(logits_CV, h_CD, d_logits_CV.to(logits_CV.dtype))[0])
    return torch.cat(losses), torch.cat(gradients)


def given(label_K: Tensor) -> Pick:
    """The labels of the data."""
    return lambda log_p_CV, place: label_K[place]


def sampled(uniform_K: Tensor) -> Pick:
    """Labels drawn from the model itself: what a Fisher matrix is an expectation over.

    Args:
        uniform_K: one number in [0, 1) per token; it alone decides the draw.
    """

    def pick(log_p_CV: Tensor, place: slice) -> Tensor:
        cumulated_CV = log_p_CV.double().exp().cumsum(-1)
        aim_C1 = uniform_K[place, None] * cumulated_CV[:, -1:]
        label_C = torch.searchsorted(cumulated_CV, aim_C1, right=True)[:, 0]
        return label_C.clamp(max=cumulated_CV.shape[1] - 1)

    return pick
