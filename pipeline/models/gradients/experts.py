"""Mixture-of-experts blocks: the weight matrices of each expert, and a pass that shows each apart.

transformers keeps the experts of a block as 3-D parameters of one module (`gate_up_proj`, or
`up_proj` without a gate, and `down_proj`) and multiplies by all of them in one kernel, so hooks see
neither what goes into an expert nor what comes out. While gradients are read, the module does the
same arithmetic an expert at a time, and says of each product which tokens it was of.
"""

# N = tokens of the batch, M = tokens of an expert, K = experts of a token, I, O = inputs, outputs

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_CONTRACT = ("num_experts", "has_gate", "has_bias", "is_transposed", "_apply_gate", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Expert:
    """One matrix of one expert.

    Attributes:
        module: the experts of a block.
        part: name of the 3-D parameter.
        number: which expert.
    """

    module: Any = field(repr=False)
    part: str
    number: int

    @property
    def weight(self) -> Tensor:
        """The matrix as it is stored."""
        matrix: Tensor = getattr(self.module, self.part)[self.number]
        return matrix


# an expert's number, the parameter, its tokens (M), what goes in (M x I), what comes out (M x O)
See = Callable[[int, str, Tensor, Tensor, Tensor], None]


def experts_of(module: nn.Module) -> Iterator[Expert]:
    """The matrices of a module of experts that can be read apart; of other modules none."""
    if not all(hasattr(module, name) for name in _CONTRACT):
        return
    inner: Any = module
    for part in (_first(inner), "down_proj"):
        if getattr(inner, part).ndim == 3:
            yield from (Expert(module=inner, part=part, number=e) for e in range(inner.num_experts))


def _first(module: Any) -> str:  # noqa: ANN401
    return "gate_up_proj" if module.has_gate else "up_proj"


@contextmanager
def expert_by_expert(modules: Sequence[tuple[nn.Module, See]]) -> Iterator[None]:
    """For the time of a pass these modules run an expert at a time and show each product."""
    before = [module.__dict__.get("forward") for module, _ in modules]
    for module, see in modules:
        module.forward = partial(_run, module, see)
    try:
        yield
    finally:
        for (module, _), own in zip(modules, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own


def _run(
    module: Any,  # noqa: ANN401
    see: See,
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
) -> Tensor:
    """What the module of experts gives, under the names by which blocks call it."""
    hidden_NI, chosen_NK = hidden_states.flatten(0, -2), top_k_index
    kind = torch.promote_types(hidden_NI.dtype, torch.float32)
    out_NO = hidden_NI.new_zeros(hidden_NI.shape, dtype=kind)
    for expert in sorted(set(chosen_NK.flatten().tolist())):
        if expert >= module.num_experts:  # of another device
            continue
        token_M, place_M = (chosen_NK == expert).nonzero(as_tuple=True)
        first = _first(module)
        inner_MI = hidden_NI[token_M]
        raw_MO = _linear(module, first, expert, inner_MI)
        see(expert, first, token_M, inner_MI, raw_MO)
        inner_MI = module._apply_gate(raw_MO) if module.has_gate else module.act_fn(raw_MO)
        last_MO = _linear(module, "down_proj", expert, inner_MI)
        see(expert, "down_proj", token_M, inner_MI, last_MO)
        if getattr(module, "has_post_expert_norm", False):
            last_MO = module.post_expert_norm(last_MO)
        weighted_MO = last_MO * top_k_weights[token_M, place_M, None]
        out_NO = out_NO.index_add(0, token_M, weighted_MO.to(out_NO.dtype))
    return out_NO.to(hidden_states.dtype).reshape(hidden_states.shape)


def _linear(module: Any, part: str, expert: int, x_MI: Tensor) -> Tensor:  # noqa: ANN401
    weight = getattr(module, part)[expert]
    bias = getattr(module, f"{part}_bias")[expert] if module.has_bias else None
    return nn.functional.linear(x_MI, weight.T if module.is_transposed else weight, bias)
