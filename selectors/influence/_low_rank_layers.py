"""IProX: low-rank layers that keep the inner products of gradients, not the outputs.

With layer inputs h and output gradients d of probe tokens, replacing `W` by `W + E` moves influence
by way of `d^T E h`, whose mean square is `||C_d^1/2 E C_h^1/2||^2` (C_h = E[h h^T], C_d = E[d d^T],
taken as independent). The low-rank form is the rank-R minimum of that: a truncated SVD between the
two roots, undone on either side. `alignment` trains its factors further.

Paper: "Influence-Preserving Proxies for Gradient-Based Data Selection in LLM Fine-tuning",
arXiv:2602.17835.
"""

# I, O = layer inputs, outputs; R = rank; N = probe tokens; B, T = rows and tokens of a batch;
# D = I or O; M = min(D, N)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gristmill.pipeline.models.gradients.layers import Layer
from gristmill.pipeline.models.gradients.layout import Layout, Sketch
from gristmill.pipeline.models.low_rank import LowRankLinear

Weighting = Literal["both", "activation", "none"]
Ridge = Literal["relative", "absolute"]
LEAST_SINGULAR = 1e-6  # the authors' bound
SMALL = 1_024  # hidden size below which the authors' settings do not fit


def kept_rank(outputs: int, inputs: int, rho: float, multiple: int) -> int | None:
    """Rank that leaves about 1 - rho of a layer's weights; None if the layer stays dense.

    Args:
        outputs: O.
        inputs: I.
        rho: share of the weights that go.
        multiple: the rank is rounded up to a multiple of it.
    """
    rank = round((1 - rho) * inputs * outputs / (inputs + outputs))
    rank = max(1, -(-rank // multiple)) * multiple
    return None if rank >= min(inputs, outputs) else rank


def multiple_for(hidden_size: int) -> int:
    """Ranks are multiples of the authors' 128, of 16 in small models."""
    return 16 if hidden_size < SMALL else 128


def alignment_rate(hidden_size: int) -> float:
    """Learning rate of alignment: the authors' 1e-4, which undoes the factors of small models."""
    return 1e-5 if hidden_size < SMALL else 1e-4


@dataclass(frozen=True, kw_only=True)
class Side:
    """The root of a second moment `U diag(scale^2) U^T` on the span of its probes.

    Attributes:
        basis_DM: U; None represents the identity, with scale 1.
        scale_M: root of each eigenvalue plus ridge.
    """

    basis_DM: Tensor | None = None
    scale_M: Tensor | None = None

    def whiten(self, x: Tensor) -> Tensor:
        """`diag(scale) U^T x`: D x ... to M x ..."""
        if self.basis_DM is None or self.scale_M is None:
            return x
        return self.scale_M[:, None] * (self.basis_DM.T @ x)

    def restore(self, x: Tensor) -> Tensor:
        """`U diag(1 / scale) x`: M x ... to D x ..."""
        if self.basis_DM is None or self.scale_M is None:
            return x
        return self.basis_DM @ (x / self.scale_M[:, None])


def side(probes_ND: Tensor, gamma: float, ridge: Ridge = "relative") -> Side:
    """Root of the second moment of layer inputs or output gradients, in float64.

    The D x D matrix is never larger than the probes allow: with fewer probes than dimensions, it is
    taken in an orthonormal basis of their span.

    Args:
        probes_ND: one probe token a row.
        gamma: what is added to the eigenvalues.
        ridge: "relative": gamma times their mean over all D; "absolute": gamma itself.
    """
    probes = probes_ND.double()
    count, width = probes.shape
    if count < width:
        span_DN, corner_NN = torch.linalg.qr(probes.T)
        square_N, turn_NN = torch.linalg.eigh(corner_NN @ corner_NN.T)
        basis = span_DN @ turn_NN
    else:
        square_N, basis = torch.linalg.eigh(probes.T @ probes)
    square_N = square_N.clamp(min=LEAST_SINGULAR**2)
    mean = float(probes.square().sum()) / count / width
    return Side(
        basis_DM=basis,
        scale_M=(square_N / count + gamma * (mean if ridge == "relative" else 1)).sqrt(),
    )


def factorise(weight_OI: Tensor, rank: int, inner: Side, outer: Side) -> tuple[Tensor, Tensor]:
    """The factors up (O x R) and down (R x I) whose product is nearest to W between the two sides.

    Each column of `up` is as long as its row of `down`.

    Two sides without probes give the plain truncated SVD.

    Args:
        weight_OI: W.
        rank: R.
        inner: of the layer inputs.
        outer: of the output gradients.

    Raises:
        ValueError: fewer probes than the rank; the layer would be left to chance.
    """
    white = inner.whiten(outer.whiten(weight_OI.double()).T).T
    if rank > min(white.shape):
        raise ValueError(
            f"a rank of {rank} needs as many probe tokens, and {min(white.shape)} were found: give "
            "more or longer rows to draw probes from, or a higher rho."
        )
    left, singular, right = torch.linalg.svd(white, full_matrices=False)
    up_OR = outer.restore(left[:, :rank] * singular[:rank])
    down_RI = inner.restore(right[:rank].T).T
    # the two roots differ by orders of magnitude; with equal norms one step size suits both
    tiny = torch.finfo(torch.float32).tiny
    scale_R = (down_RI.norm(dim=1).clamp(min=tiny) / up_OR.norm(dim=0).clamp(min=tiny)).sqrt()
    up_OR, down_RI = up_OR * scale_R, down_RI / scale_R[:, None]
    return up_OR.to(weight_OI.dtype), down_RI.to(weight_OI.dtype).contiguous()


@dataclass(frozen=True, kw_only=True)
class ProbeTokens:
    """Keeps layer inputs and output gradients of chosen tokens of every pass. Adds no feature.

    Attributes:
        picks: the last entry says which tokens of the pass under way: positions in rows x tokens.
        inputs: by layer name, one n x I tensor a pass; layers that read the same input have one.
        gradients: by layer name, one n x O tensor a pass.
        source: layer name to the layer that holds its inputs.
    """

    picks: list[Tensor] = field(default_factory=list)
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    gradients: dict[str, list[Tensor]] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    _latest: list[tuple[Tensor, str]] = field(default_factory=list, repr=False)

    def __call__(self, layer: Layer) -> Sketch:
        def gather(x_BTD: Tensor, layout: Layout) -> Tensor:
            return layout.spread(x_BTD).flatten(0, 1)[self.picks[-1]]

        def keep(a_BTI: Tensor, layout: Layout) -> None:
            if not (self._latest and self._latest[0][0] is a_BTI):
                self._latest[:] = [(a_BTI, layer.name)]
                self.inputs.setdefault(layer.name, []).append(gather(a_BTI, layout))
            self.source[layer.name] = self._latest[0][1]

        def meet(_: None, g_BTO: Tensor, layout: Layout) -> Tensor:
            self.gradients.setdefault(layer.name, []).append(gather(g_BTO, layout))
            return g_BTO.new_zeros(layout.rows, 0)

        return Sketch(width=0, keep=keep, meet=meet)


def low_rank_layers(
    layers: Sequence[Layer],
    ranks: Mapping[str, int],
    probes: ProbeTokens | None,
    *,
    weighting: Weighting = "both",
    gamma: float = 1e-3,
    ridge: Ridge = "relative",
) -> dict[str, LowRankLinear]:
    """The low-rank form of each of `layers`.

    Args:
        layers: dense ones.
        ranks: of each, by name.
        probes: what was kept of the probe tokens; not needed for "none".
        weighting: "both" sides, the layer inputs ("activation") alone, or "none": plain SVD.
        gamma: see `side`.
        ridge: see `side`.

    Raises:
        ValueError: fewer probes than a rank, or a layer whose probes are all zero.
    """
    made: dict[str, LowRankLinear] = {}
    sides: dict[str, Side] = {}
    for layer in layers:
        inner = outer = Side()
        if weighting != "none":
            assert probes is not None
            source = probes.source[layer.name]
            if source not in sides:
                sides = {source: _fitted(source, probes.inputs[source], gamma, ridge)}
            inner = sides[source]
        if weighting == "both":
            assert probes is not None
            outer = _fitted(layer.name, probes.gradients[layer.name], gamma, ridge)
        module: Any = layer.modules[0]
        weight = module.weight.detach().T if layer.transposed else module.weight.detach()
        up, down = factorise(weight, ranks[layer.name], inner, outer)
        made[layer.name] = LowRankLinear.of(up, down, module.bias)
    return made


def _fitted(name: str, probes: list[Tensor], gamma: float, ridge: Ridge) -> Side:
    probes_ND = torch.cat(probes)
    if not bool(probes_ND.any()) or not bool(probes_ND.isfinite().all()):
        raise ValueError(
            f"the probes of layer {name} are all zero, or not finite: draw them from rows that the "
            "model can read and does not know by heart."
        )
    return side(probes_ND, gamma, ridge)
