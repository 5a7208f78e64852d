"""A padded or packed batch as sequences: where each one lies, and which tokens carry its loss."""

# B = rows of the batch tensors, S = sequences (packed ones counted singly), T = tokens, K = labels

from dataclasses import dataclass

import torch
from torch import Tensor

from gristmill.pipeline.models.gradients.layout import Layout, packed, padded

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """A batch as the model is run on it.

    Attributes:
        ids_BT: token ids, rows pulled to the left or packed.
        position_BT: positions; None if they simply count up.
        layout: which row a token belongs to.
        label_K: labels, in the order of `place_K`.
        place_K: position, in the flattened batch, of the hidden state that predicts each label.
        owner_K: sequence of each label.
        count: number of sequences.
        reason_S: why a sequence has no loss, or None.
    """

    ids_BT: Tensor
    position_BT: Tensor | None
    layout: Layout
    label_K: Tensor
    place_K: Tensor
    owner_K: Tensor
    count: int
    reason_S: list[str | None]


def lay_out(
    ids_BT: Tensor,
    real_BT: Tensor,
    labels_BT: Tensor,
    segment_BT: Tensor | None,
    *,
    per_row: int,
    context: int,
) -> Sequences:
    """Sort a batch's tokens by sequence and find what carries loss, or say why nothing does.

    Args:
        ids_BT: token ids, padded on either side, or packed.
        real_BT: True where there is a token.
        labels_BT: the token itself where it carries loss, -100 elsewhere (not shifted).
        segment_BT: packed batches: number of each token's sequence, from 0; -1 = padding.
        per_row: consecutive sequences that make one row (2 for pairs).
        context: longest sequence; longer ones get a reason and are left out.
    """
    if not ids_BT.shape == labels_BT.shape == real_BT.shape:
        raise ValueError(
            f"token ids, mask and labels have the shapes {tuple(ids_BT.shape)}, "
            f"{tuple(real_BT.shape)} and {tuple(labels_BT.shape)}; they must be equal."
        )
    if segment_BT is None:
        count = len(ids_BT)
        length_S = real_BT.sum(1)
        real_BT = real_BT & (length_S <= context)[:, None]
        ids_BT, labels_BT, real_BT = _pulled_left(ids_BT, labels_BT, real_BT)
        owner_BT = torch.arange(count, device=ids_BT.device)[:, None].expand_as(ids_BT)
    else:
        owner_BT = torch.where(real_BT, segment_BT, -1)
        count = int(owner_BT.max()) + 1
        length_S = torch.bincount(owner_BT[owner_BT >= 0], minlength=count)
        owner_BT = torch.where((owner_BT >= 0) & (length_S <= context)[owner_BT], owner_BT, -1)
        real_BT = owner_BT >= 0
    if count % per_row or count == 0:
        raise ValueError(f"the batch has {count} sequences; expected some, in groups of {per_row}.")
    if segment_BT is None:
        layout, position_BT = padded(real_BT, per_row=per_row), None
    else:
        layout, position_BT = packed(owner_BT, count, per_row=per_row)
        position_BT = position_BT.clamp(max=context - 1)  # only padding can stand beyond
    carries_BT = (labels_BT != IGNORED) & real_BT
    carries_BT[:, 1:] &= owner_BT[:, 1:] == owner_BT[:, :-1]
    carries_BT[:, 0] = False  # nothing predicts the first token of a sequence
    place_K = carries_BT.flatten().nonzero()[:, 0]
    owner_K = owner_BT.flatten()[place_K]
    labelled_S = torch.bincount(owner_K, minlength=count)
    # attention multiplies what a token must not see by 0: a padding token that makes NaN would
    # reach real ones, so padding repeats a token of the row
    return Sequences(
        ids_BT=torch.where(real_BT, ids_BT, ids_BT[:, :1]),
        position_BT=position_BT,
        layout=layout,
        label_K=labels_BT.flatten()[place_K],
        place_K=place_K - 1,
        owner_K=owner_K,
        count=count,
        reason_S=[
            _reason(n, k, context)
            for n, k in zip(length_S.tolist(), labelled_S.tolist(), strict=True)
        ],
    )


def _reason(tokens: int, labels: int, context: int) -> str | None:
    if tokens > context:
        return f"too_long: {tokens} tokens, the model reads {context}"
    if labels == 0:
        return "no_label" if tokens else "no_tokens"
    return None


def _pulled_left(
    ids_BT: Tensor, labels_BT: Tensor, real_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Move every row's tokens to its start and cut what is padding in all rows."""
    longest = max(1, int(real_BT.sum(1).max()))
    if bool((real_BT[:, 1:] & ~real_BT[:, :-1]).any()):
        order_BT = torch.argsort(real_BT.logical_not().byte(), dim=1, stable=True)
        ids_BT, labels_BT, real_BT = (x.gather(1, order_BT) for x in (ids_BT, labels_BT, real_BT))
    return ids_BT[:, :longest], labels_BT[:, :longest], real_BT[:, :longest]
