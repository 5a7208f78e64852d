"""What a per-example gradient is made of: layers, their tokens, and which row a token belongs to.

For a linear layer `W` (O x I) and one row of T tokens with layer inputs `a` (T x I) and output
gradients `g` (T x O), the row's weight gradient is `G = g^T a`. Nothing else in this package knows
how rows lie in a batch: `Layout.spread` turns any of padded, packed or paired into R x T x D.
"""

# B = sequences of the batch, R = rows, T = tokens, D = features, I, O = layer inputs, outputs

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gristmill.pipeline.models.gradients.layers import Layer

NUMBERS_AT_ONCE = 2**26  # of explicit gradients: 256 MiB in float32


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of outer products and sums: float32, or float64 for a float64 model."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the rows lie in the activations of a pass.

    Attributes:
        shape: leading dimensions of every activation: (B, T), or (B,) for nets without tokens.
        rows: R. A row may own several sequences (chosen and rejected of a pair).
        blank_N: entries of the flattened spread form that are no tokens; None if there are none.
        index_RT: packed tokens only: position of each entry in the flattened batch.
        batch: the same for all layouts of one pass, whatever tokens and rows they are of.
    """

    shape: tuple[int, ...]
    rows: int
    blank_N: Tensor | None = None
    index_RT: Tensor | None = None
    batch: object = field(default_factory=object)

    def spread(self, x: Tensor, *, mine: bool = False) -> Tensor:
        """Sort tokens by row: B x T x D to R x T' x D in float32, zero where there is no token.

        Args:
            x: activations, or something made of each of them.
            mine: `x` was made for this call and may be overwritten; else it is left alone.
        """
        flat = x.reshape(-1, x.shape[-1])
        if self.index_RT is None:
            x_RTD = flat.reshape(self.rows, -1, x.shape[-1])
        else:
            x_RTD = flat[self.index_RT]
        x_RTD = x_RTD.to(wide(x.dtype))
        if self.blank_N is not None:
            if not mine and x_RTD.data_ptr() == x.data_ptr():
                x_RTD = x_RTD.clone()
            # set, not multiplied: NaN at a padded position times 0 would enter the sum
            x_RTD.view(-1, x.shape[-1]).index_fill_(0, self.blank_N, 0)
        return x_RTD

    @cached_property
    def _row_N(self) -> Tensor:
        """The row of each token of the flattened batch, -1 for padding."""
        tokens = math.prod(self.shape)
        if self.index_RT is None:
            device = None if self.blank_N is None else self.blank_N.device
            row_N = torch.arange(tokens, device=device) // (tokens // self.rows)
            return row_N if self.blank_N is None else row_N.index_fill(0, self.blank_N, -1)
        row_N = torch.full((tokens,), -1, device=self.index_RT.device)
        row_RT = torch.arange(self.rows, device=row_N.device)[:, None].expand_as(self.index_RT)
        real = torch.ones(self.index_RT.numel(), dtype=torch.bool, device=row_N.device)
        if self.blank_N is not None:
            real[self.blank_N] = False
        row_N[self.index_RT.flatten()[real]] = row_RT.flatten()[real]
        return row_N

    def routed(self, token_M: Tensor) -> "Layout":
        """The layout of some tokens alone: what is spread is M x D, in the order of `token_M`.

        Args:
            token_M: positions in the flattened batch, such as those that a router sent to one of
                its experts.
        """
        row_M = self._row_N.to(token_M.device)[token_M]
        order_M = torch.argsort(row_M, stable=True)
        order_M = order_M[row_M[order_M] >= 0]
        sorted_M = row_M[order_M]
        count_R = torch.bincount(sorted_M, minlength=self.rows)
        start_R = count_R.cumsum(0) - count_R
        place_M = torch.arange(len(sorted_M), device=token_M.device) - start_R[sorted_M]
        longest = max(1, int(count_R.max()))
        index_RT = torch.zeros(self.rows, longest, dtype=torch.int64, device=token_M.device)
        index_RT[sorted_M, place_M] = order_M
        real_RT = torch.arange(longest, device=token_M.device) < count_R[:, None]
        return replace(self, shape=(len(token_M),), index_RT=index_RT, blank_N=_blank(real_RT))

    def without(self, row_N: Tensor) -> "Layout":
        """The same without the tokens of these rows: sums over the batch leave them out."""
        tokens = math.prod(self.shape) // self.rows
        if self.index_RT is not None:
            tokens = self.index_RT.shape[1]
        more_N = (row_N[:, None] * tokens + torch.arange(tokens, device=row_N.device)).flatten()
        if self.blank_N is not None:
            more_N = torch.cat([self.blank_N, more_N])
        return replace(self, blank_N=more_N)


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """What one layer's gradients are reduced to, in two steps that never need the gradient itself.

    Attributes:
        width: numbers per row that `meet` returns.
        keep: layer input (B x T x I) to what must be held until the backward pass.
        meet: held part and output gradient (B x T x O) to R x width.
        shared: the layers' numbers are added up; else they stand side by side.
        linear: the numbers of two calls of a layer may be added.
        inner: if set, `keep` is the product with this matrix (I x K), so layers that read the same
            input can have theirs in one product.
    """

    width: int
    keep: Callable[[Tensor, Layout], Any]
    meet: Callable[[Any, Tensor, Layout], Tensor]
    shared: bool = False
    linear: bool = True
    inner: Tensor | None = None


Feature = Callable[[Layer], Sketch]


def explicit(
    read: Callable[[Tensor], Tensor],
    layer: Layer,
    width: int,
    *,
    shared: bool = True,
    linear: bool = True,
) -> Sketch:
    """A sketch that reads the gradients themselves, a bounded number of rows at a time.

    Args:
        read: R x O x I gradients to R x width numbers.
        layer: whose gradients.
        width: numbers per row.
        shared: see `Sketch`.
        linear: see `Sketch`.
    """
    at_once = max(1, NUMBERS_AT_ONCE // (layer.inputs * layer.outputs))

    def meet(a_BTI: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
        a_RTI, g_RTO = layout.spread(a_BTI), layout.spread(g_BTO)
        return torch.cat(
            [
                read(g.mT @ a)
                for g, a in zip(
                    torch.split(g_RTO, at_once), torch.split(a_RTI, at_once), strict=True
                )
            ]
        )

    return Sketch(width=width, keep=whole, meet=meet, shared=shared, linear=linear)


def whole(a_BTI: Tensor, layout: Layout) -> Tensor:
    """Keep the layer input as it is (a reference, not a copy)."""
    return a_BTI


def padded(real_BT: Tensor, *, per_row: int = 1) -> Layout:
    """Rows in a padded batch.

    Args:
        real_BT: True where there is a token.
        per_row: consecutive sequences that make one row (2 for pairs).
    """
    rows = real_BT.shape[0] // per_row
    return Layout(shape=tuple(real_BT.shape), rows=rows, blank_N=_blank(real_BT))


def _blank(real_BT: Tensor) -> Tensor | None:
    blank_N = real_BT.flatten().logical_not().nonzero()[:, 0]
    return blank_N if len(blank_N) else None


def packed(segment_BT: Tensor, count: int, *, per_row: int = 1) -> tuple[Layout, Tensor]:
    """Rows in packed sequences, and each token's position within its own row.

    Args:
        segment_BT: number of the sequence that a token belongs to, from 0; -1 for padding.
        count: number of sequences, some of which may be empty.
        per_row: consecutive sequences that make one row (2 for pairs).
    """
    width = segment_BT.shape[1]
    start_BT = torch.ones_like(segment_BT, dtype=torch.bool)
    start_BT[:, 1:] = segment_BT[:, 1:] != segment_BT[:, :-1]
    place_T = torch.arange(width, device=segment_BT.device)
    first_BT = torch.where(start_BT, place_T, 0).cummax(1).values
    segment_N, start_N = segment_BT.reshape(-1), start_BT.reshape(-1)
    begun = segment_N[start_N & (segment_N >= 0)]
    if len(begun) != len(torch.unique(begun)):
        raise ValueError(
            "a segment id is in two places of the packed batch; every sequence must be one "
            "unbroken run of tokens with an id of its own."
        )
    length_S = torch.bincount(segment_N[segment_N >= 0], minlength=count)
    offset_S = segment_N.new_zeros(count)
    offset_S[begun] = (start_N & (segment_N >= 0)).nonzero()[:, 0]
    longest_T = torch.arange(max(1, int(length_S.max())), device=segment_BT.device)
    real_ST = longest_T < length_S[:, None]
    index_ST = torch.where(real_ST, offset_S[:, None] + longest_T, 0)
    rows = count // per_row
    layout = Layout(
        shape=tuple(segment_BT.shape),
        rows=rows,
        blank_N=_blank(real_ST),
        index_RT=index_ST.reshape(rows, -1),
    )
    return layout, place_T - first_BT
