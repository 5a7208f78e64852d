"""Adam's saved state as part of a gradient feature: what step would the optimizer take on this row?

With state M, V (before the step), `m = b1 M + (1-b1) g`, `v = b2 V + (1-b2) g^2`, t = step + 1:

| form | formula | |
|---|---|---|
| `adam` | `(m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)` | the real update direction |
| `adam_eps_inside` | `m / sqrt(v + eps)` | what released LESS code computes |
| `frozen_v` | `g / (sqrt(V / (1-b2^(t-1))) + eps)` | linear in g |
| `adafactor` | `g` over the root of the rank-1 form of V | linear; two factors, before projecting |

State is matched to weights by parameter name, never by position, and its shapes are checked.
"""

# I, O = layer inputs, outputs; R = rows

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gristmill.pipeline.models.gradients.layers import Layer
from gristmill.pipeline.models.gradients.layout import wide

Form = Literal["adam", "adam_eps_inside", "frozen_v"]
PREFIXES = ("module.", "_orig_mod.")  # of distributed and compiled wrappers
FLOOR = 1e-10  # of a row or column mean of V, relative to their mean


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """Both moments of every trained parameter, by name, in the parameter's own shape."""

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    step: int
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def of(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """M and V of a layer, O x I, with the bias as last column if the layer reads it."""
        return self._matrix(self.first, layer), self._matrix(self.second, layer)

    def _matrix(self, moments: Mapping[str, Tensor], layer: Layer) -> Tensor:
        weight = self._stored(moments, layer, "weight")
        matrix = weight.T if layer.transposed and weight.ndim == 2 else weight
        expected = (layer.outputs, layer.inputs - layer.bias)
        if tuple(matrix.shape) != expected:
            raise ValueError(
                f"the optimizer state of {layer.name}.weight has shape {tuple(weight.shape)}; the "
                f"layer is {expected[0]} x {expected[1]}: state and model do not belong together."
            )
        if layer.bias:
            bias = self._stored(moments, layer, "bias")
            matrix = torch.cat([matrix, bias.reshape(-1, 1)], dim=1)
        return matrix.to(layer.device, wide(layer.dtype))

    def _stored(self, moments: Mapping[str, Tensor], layer: Layer, what: str) -> Tensor:
        if layer.expert is None:
            return _named(moments, f"{layer.name}.{what}")
        name = layer.name.rpartition(".")[0]  # of the parameter that all experts share
        return _named(moments, name if what == "weight" else f"{name}_bias")[layer.expert.number]


def _named(moments: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in moments:
        raise ValueError(
            f"the optimizer state holds nothing for {name} ({len(moments)} parameters, first "
            f"{min(moments, default='none')}): read layers that were trained, or save the state "
            "with parameter names."
        )
    return moments[name]


def step_taken(
    gradient: Tensor, first: Tensor, second: Tensor, step: int, state: OptimizerState, form: Form
) -> Tensor:
    """The update direction for a gradient, given the moments before it; `step` is t."""
    b1, b2, eps = state.beta1, state.beta2, state.eps
    if form == "frozen_v":
        return gradient / ((second / (1 - b2 ** max(1, step - 1))).sqrt() + eps)
    m = b1 * first + (1 - b1) * gradient
    v = b2 * second + (1 - b2) * gradient.square()
    if form == "adam_eps_inside":
        return m / (v + eps).sqrt()
    return (m / (1 - b1**step)) / ((v / (1 - b2**step)).sqrt() + eps)


@dataclass(frozen=True, kw_only=True)
class AdamUpdate:
    """The optimizer's step on a row's gradient, for features that form it (`CountSketched`)."""

    state: OptimizerState
    form: Form = "adam"

    def __call__(self, layer: Layer) -> Callable[[Tensor], Tensor]:
        first, second = self.state.of(layer)
        step = self.state.step + 1
        return lambda g_ROI: step_taken(g_ROI, first, second, step, self.state, self.form)


@dataclass(frozen=True, kw_only=True)
class AdafactorScales:
    """Factors of a and g that divide G by the root of V's rank-1 form, for linear features.

    `V ~ r c^T / mean(r)` with row means r and column means c, so
    `G / sqrt(V) = (g sqrt(mean(r) / r))^T (a / sqrt(c))`, exactly.
    """

    state: OptimizerState

    def __call__(self, layer: Layer) -> tuple[Tensor, Tensor]:
        second_OI = self.state.of(layer)[1].double().cpu()
        second_OI = second_OI / (1 - self.state.beta2 ** max(1, self.state.step))
        if not bool(second_OI.any()):
            raise ValueError(
                f"the second moments of {layer.name} are all zero: train for a step or more before "
                "scaling gradients by them."
            )
        return adafactor_scales(second_OI.mean(1), second_OI.mean(0))


def adafactor_scales(row_O: Tensor, column_I: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of a (I) and of g (O) from row and column means of V.

    Means are floored relative to their own mean: a weight that was never updated would otherwise
    outweigh all the others.
    """
    row_O = row_O.clamp(min=FLOOR * float(row_O.mean()))
    column_I = column_I.clamp(min=FLOOR * float(column_I.mean()))
    return column_I.rsqrt(), (row_O.mean() / row_O).sqrt()


def read_state(state_dict: Mapping[str, Any], names: Sequence[str] | None = None) -> OptimizerState:
    """Read the state dictionary of a torch Adam or AdamW.

    Args:
        state_dict: as saved; its parameters are numbered, or named if the optimizer was made from
            `model.named_parameters()`.
        names: for numbered parameters: names in the order in which the optimizer was given them.
    """
    groups = state_dict["param_groups"]
    keys = [key for group in groups for key in group["params"]]
    known = [n for group in groups for n in group.get("param_names", ())] or names
    if known is None:
        raise ValueError(
            "the optimizer state numbers its parameters and names none: make the optimizer from "
            "model.named_parameters(), or give the names in the order of its parameters."
        )
    if len(known) != len(keys):
        raise ValueError(
            f"the optimizer holds {len(keys)} parameters and {len(known)} names were given: the "
            "state belongs to another set of trainable parameters."
        )
    plain = [_stripped(name) for name in known]
    twice = sorted({name for name in plain if plain.count(name) > 1})
    if twice:
        raise ValueError(f"the optimizer state names {twice[0]} twice: which one is meant?")
    of = {
        n: state_dict["state"][k]
        for n, k in zip(plain, keys, strict=True)
        if k in state_dict["state"]
    }
    if not of or "exp_avg" not in next(iter(of.values())):
        raise ValueError("the optimizer holds no Adam moments: train for at least one step first.")
    steps = {int(s["step"]) for s in of.values()}
    constants = {(*map(float, group["betas"]), float(group["eps"])) for group in groups}
    if len(steps) > 1 or len(constants) > 1:
        raise ValueError(
            f"the parameters stand at steps {sorted(steps)} with (beta1, beta2, eps) "
            f"{sorted(constants)}; one of each is expected."
        )
    beta1, beta2, eps = constants.pop()
    return OptimizerState(
        first={n: s["exp_avg"] for n, s in of.items()},
        second={n: s["exp_avg_sq"] for n, s in of.items()},
        step=steps.pop(),
        beta1=beta1,
        beta2=beta2,
        eps=eps,
    )


def _stripped(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name
