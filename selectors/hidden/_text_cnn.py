"""A text CNN over hidden states: two logits for an answer, from its tokens at all layers.

    X_TCD                  hidden states of the answer's T tokens at C layers
    a_k = relu(conv_k X)   for k = 3, 4, 5: 256 filters over k tokens, all layers and all features
    b_k = relu(h(relu(g(a_k))))          g, h: 256 filters over 3 tokens, shared by the three k
    logits = V drop(relu(U drop([max_t b_3, max_t b_4, max_t b_5])))

Answers shorter than a kernel are filled up with zeros at the end. "full" convolves over all layers
and features at once: 12 * 256 * C * D weights, 416 million for a 7B model. "slim" mixes the layers
with learned weights that sum to 1, takes the mix to `rank` features, and convolves over those. It
scales each layer's state to mean square 1 first, as "full" does if it is `scaled`: in raw states a
few features of a few tokens are a thousand times the rest.

Zhang and Wallace, arXiv:1510.03820, for the architecture; layer mixing after Peters et al.,
arXiv:1802.05365.
"""

# B = answers, T = tokens, C = layers, D = hidden size, F = features that are convolved,
# J = offsets of the kernels, K = kernels

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Weights = dict[str, Any]  # name -> torch.Tensor
KERNELS = (3, 4, 5)
FILTERS = 256
INNER = 512
DROPOUT = 0.5


@dataclass(frozen=True, kw_only=True)
class TextCnn:
    """The shape of a classifier; its weights are a plain dict.

    Attributes:
        layers: C, the layers it reads.
        width: D, their hidden size.
        form: "full" or "slim".
        rank: features of a slim classifier's input.
        scaled: each layer's state of a token is scaled to mean square 1; slim always does.
    """

    layers: int
    width: int
    form: Literal["full", "slim"] = "full"
    rank: int = 64
    scaled: bool = False
    OFFSETS: ClassVar[int] = sum(KERNELS)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each tensor. `conv` holds the three kernels side by side, one slice an offset."""
        slim = self.form == "slim"
        first = {"mix": (self.layers,), "down": (self.width, self.rank)} if slim else {}
        features = self.rank if slim else self.layers * self.width
        return {
            **first,
            "conv": (features, self.OFFSETS, FILTERS),
            "conv.bias": (len(KERNELS), FILTERS),
            "inner.0": (FILTERS, FILTERS, 3),
            "inner.0.bias": (FILTERS,),
            "inner.1": (FILTERS, FILTERS, 3),
            "inner.1.bias": (FILTERS,),
            "dense.0": (INNER, len(KERNELS) * FILTERS),
            "dense.0.bias": (INNER,),
            "dense.1": (2, INNER),
            "dense.1.bias": (2,),
        }

    @property
    def parameters(self) -> int:
        """How many numbers there are to learn."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def init(self, seed: int, device: str = "cpu") -> Weights:
        """Uniform within 1 / sqrt(inputs of the filter), drawn on the CPU; equal layer mix."""
        import torch

        draw = torch.Generator().manual_seed(seed)
        weights: Weights = {}
        features = self.shapes["conv"][0]
        for name, shape in self.shapes.items():
            flat = torch.rand(shape, generator=draw) * 2 - 1
            if name in ("conv", "conv.bias"):
                bound_K = torch.tensor([1 / math.sqrt(features * k) for k in KERNELS])
                if name == "conv":
                    bound_K = bound_K.repeat_interleave(torch.tensor(KERNELS))
                flat *= bound_K[:, None]
            elif name == "mix":
                flat.zero_()
            elif name == "down":
                flat /= math.sqrt(self.width)
            else:
                flat /= math.sqrt(math.prod(self.shapes[name.removesuffix(".bias")][1:]))
            weights[name] = flat.to(device)
        return weights

    def pooled(self, weights: Mapping[str, Any], states: Sequence[Any]) -> Any:  # noqa: ANN401
        """Per answer, the three branches after the maximum over time, side by side: B x 768."""
        import torch

        lengths = [len(s) for s in states]
        x_TF = self._features(weights, torch.cat([s.float() for s in states]))
        # all answers go through the widest product together: its weights are read once
        part_TJ = (x_TF @ weights["conv"].flatten(1)).unflatten(1, (self.OFFSETS, FILTERS))
        rows = [self._branches(weights, part) for part in part_TJ.split(lengths)]
        return torch.stack(rows)

    def _features(self, weights: Mapping[str, Any], states_TCD: Any) -> Any:  # noqa: ANN401
        if self.form == "full" and not self.scaled:
            return states_TCD.flatten(1)
        scale_TC = states_TCD.square().mean(-1).add(1e-6).rsqrt()
        if self.form == "full":
            return (states_TCD * scale_TC[..., None]).flatten(1)
        mixed = states_TCD.transpose(1, 2) @ (scale_TC * weights["mix"].softmax(0))[..., None]
        return mixed[..., 0] @ weights["down"]

    def _branches(self, weights: Mapping[str, Any], part_TJ: Any) -> Any:  # noqa: ANN401
        import torch
        from torch.nn.functional import conv1d, pad

        length = len(part_TJ)
        branches, offset = [], 0
        for b, k in enumerate(KERNELS):
            steps = max(length, k) - k + 1
            full_TJ = pad(part_TJ, (0, 0, 0, 0, 0, max(0, k - length)))
            y_TK = sum(full_TJ[j : j + steps, offset + j] for j in range(k))
            y_KT = (y_TK + weights["conv.bias"][b]).relu().T
            for inner in ("inner.0", "inner.1"):
                y_KT = conv1d(y_KT, weights[inner], weights[f"{inner}.bias"], padding=1).relu()
            branches.append(y_KT.amax(1))
            offset += k
        return torch.cat(branches)

    def logits(
        self,
        weights: Mapping[str, Any],
        states: Sequence[Any],
        dropout: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Weak and strong, B x 2 in float32.

        Args:
            weights: see `init`.
            states: per answer, its hidden states, T x C x D.
            dropout: the generator that draws what is dropped; None drops nothing.
        """
        from torch.nn.functional import linear

        x_BF = _drop(self.pooled(weights, states), dropout)
        x_BF = _drop(linear(x_BF, weights["dense.0"], weights["dense.0.bias"]).relu(), dropout)
        return linear(x_BF, weights["dense.1"], weights["dense.1.bias"])


def _drop(x: Any, generator: Any) -> Any:  # noqa: ANN401  (torch)
    if generator is None:
        return x
    import torch

    kept = torch.rand(x.shape, generator=generator) >= DROPOUT
    return x * (kept / (1 - DROPOUT)).to(x.device)
