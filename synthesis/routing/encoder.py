"""Which reward model is right where, learnt offline from pairs whose label is known.

h = MLP([e + e'; |e - e'|]) and one vector an arm, all of length 1; <h, E[n]> is high where arm n is
right. The order of the two sides does not matter. Loss of a pair: the mean over arms n that are
right and m that are wrong of softplus(-(s_n - s_m)), plus `classify` times the cross entropy of
every arm's being right.
"""

# N = pairs, K = arms, F = features of a side, D = features of the router

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.synthesis.routing.posterior import WIDEST

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the encoder is fitted, on all pairs at once.

    Attributes:
        width: features of the router, D.
        hidden: units of the hidden layer.
        steps: of Adam.
        learning_rate: of Adam.
        decay: of the weights.
        classify: weight of the cross entropy.
        seed: of the weights at the start.
    """

    width: int = 32
    hidden: int = 64
    steps: int = 200
    learning_rate: float = 1e-2
    decay: float = 1e-2
    classify: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDEST:
            raise ValueError(f"width is {self.width}; give 1 to {WIDEST}.")
        if min(self.hidden, self.steps) < 1 or self.learning_rate <= 0 or self.classify < 0:
            raise ValueError(
                "hidden and steps are at least 1, learning_rate is above 0 and classify not below "
                f"0; found {self.hidden}, {self.steps}, {self.learning_rate} and {self.classify}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """A fitted encoder.

    Attributes:
        network: the MLP (torch).
        arm_KD: the arms' vectors, each of length 1.
    """

    network: Any
    arm_KD: Floats

    def encode(self, first_NF: Floats, second_NF: Floats) -> Floats:
        """Vectors of pairs, N x D, each of length 1."""
        import torch

        with torch.inference_mode():
            h_ND = _unit(self.network(_together(first_NF, second_NF)))
        return np.asarray(h_ND.double().numpy(), dtype=np.float64)

    @cached_property
    def arms(self) -> int:
        """How many there are."""
        return len(self.arm_KD)


def fit(first_NF: Floats, second_NF: Floats, right_NK: NDArray[np.bool_], how: Training) -> Encoder:
    """Fit the encoder.

    Args:
        first_NF: features of one side of each pair.
        second_NF: of the other.
        right_NK: whether an arm agrees with the known label.
        how: settings.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(2 * first_NF.shape[1], how.hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(how.hidden, how.width),
        )
        arm_KD = torch.nn.Parameter(torch.randn(right_NK.shape[1], how.width))
    x_NF, right = _together(first_NF, second_NF), torch.from_numpy(np.array(right_NK))
    weights = [*network.parameters(), arm_KD]
    adam = torch.optim.AdamW(weights, lr=how.learning_rate, weight_decay=how.decay)
    for _ in range(how.steps):
        score_NK = _unit(network(x_NF)) @ _unit(arm_KD).T
        loss = ranking_loss(score_NK, right)
        if how.classify:
            loss = loss + how.classify * binary_cross_entropy_with_logits(score_NK, right.float())
        adam.zero_grad()
        loss.backward()
        adam.step()
    return Encoder(network=network, arm_KD=_unit(arm_KD).detach().double().numpy())


def ranking_loss(score_NK: Any, right_NK: Any) -> Any:  # noqa: ANN401  (torch)
    """Mean over pairs of the mean over (right, wrong) arms of softplus(-(s_right - s_wrong)).

    Pairs on which all arms are right, or all wrong, order no two arms and are left out.
    """
    from torch.nn.functional import softplus

    valid_NKK = right_NK[:, :, None] & ~right_NK[:, None, :]
    loss_NKK = softplus(-(score_NK[:, :, None] - score_NK[:, None, :])) * valid_NKK
    count_N = valid_NKK.sum((1, 2))
    mean_N = loss_NKK.sum((1, 2)) / count_N.clamp(min=1)
    return mean_N.sum() / (count_N > 0).sum().clamp(min=1)


def _together(first_NF: Floats, second_NF: Floats) -> Any:  # noqa: ANN401  (torch)
    import torch

    both = np.concatenate([first_NF + second_NF, np.abs(first_NF - second_NF)], axis=1)
    return torch.from_numpy(both.astype(np.float32))


def _unit(x_ND: Any) -> Any:  # noqa: ANN401  (torch)
    return x_ND / x_ND.norm(dim=-1, keepdim=True).clamp(min=1e-12)
