r"""Final-token preference optimisation: the loss at one position, and the weights of its rows.

With z the logits at the position, ref those of the reference model, C the chosen tokens, r the
rejected one, V the vocabulary and delta_c = z_c - z_r:

    preference = sum_C w_c softplus(margin - delta_c) / sum_C w_c,  w_c = clip(1 - delta_c / margin)
    others     = mean over V \\ (C + r) of (z - ref)^2
    involved   = mean over C + r of max(0, |z - ref| - slack)^2
    loss       = preference + tether * others + involved_tether * involved

A chosen token that has won by the margin has the weight 0, so a row stops pulling where it is won;
where all have, all weights are 1. Weights are constants to the gradient.
"""

# B = batch rows, C = chosen tokens (filled up with -1), V = vocabulary

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import torch
from torch.nn.functional import softplus

MARGIN: Final = 2.0  # the paper's, as are those below
TETHER: Final = 0.4
INVOLVED_TETHER: Final = 0.25
SLACK: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The loss of each row by its parts, and the share of its chosen tokens that have won."""

    preference_B: torch.Tensor
    others_B: torch.Tensor
    involved_B: torch.Tensor
    wins_B: torch.Tensor

    def loss(self, tether: float = TETHER, involved_tether: float = INVOLVED_TETHER) -> Any:  # noqa: ANN401
        """The loss of each row."""
        return self.preference_B + tether * self.others_B + involved_tether * self.involved_B


def parts(
    z_BV: torch.Tensor,
    ref_BV: torch.Tensor,
    chosen_BC: torch.Tensor,
    rejected_B: torch.Tensor,
    *,
    margin: float = MARGIN,
    slack: float = SLACK,
) -> Parts:
    """The loss by its parts.

    Args:
        z_BV: logits of the model.
        ref_BV: logits of the reference model.
        chosen_BC: chosen tokens, -1 where a row has fewer.
        rejected_B: rejected tokens.
        margin: a chosen token has won when its logit is above the rejected one's by so much.
        slack: how far the logits of the tokens in question may move for nothing.
    """
    real_BC = chosen_BC >= 0
    at_BC = chosen_BC.clamp(min=0)
    delta_BC = z_BV.gather(1, at_BC) - z_BV.gather(1, rejected_B[:, None])
    weight_BC = ((margin - delta_BC) / margin).clamp(0, 1).detach() * real_BC
    won_B1 = weight_BC.sum(1, keepdim=True) == 0
    weight_BC = torch.where(won_B1, real_BC.to(weight_BC.dtype), weight_BC)
    pull_BC = softplus(margin - delta_BC)
    preference_B = (weight_BC * pull_BC).sum(1) / weight_BC.sum(1)

    involved_BV = torch.zeros_like(z_BV, dtype=torch.bool)
    involved_BV.scatter_(1, rejected_B[:, None], True)
    row_BC = torch.arange(len(z_BV), device=z_BV.device)[:, None].expand_as(at_BC)
    involved_BV[row_BC[real_BC], at_BC[real_BC]] = True
    drift_BV = z_BV - ref_BV
    beyond_BV = (drift_BV.abs() - slack).clamp(min=0) ** 2
    return Parts(
        preference_B=preference_B,
        others_B=_mean(drift_BV**2, ~involved_BV),
        involved_B=_mean(beyond_BV, involved_BV),
        wins_B=((delta_BC > 0) * real_BC).sum(1) / real_BC.sum(1),
    )


def _mean(value_BV: torch.Tensor, over_BV: torch.Tensor) -> torch.Tensor:
    return (value_BV * over_BV).sum(1) / over_BV.sum(1).clamp(min=1)


def flattened(rows: pl.DataFrame, *, rejected: float = 0.8, chosen: float = 0.2) -> pl.Series:
    """Weights by which no token makes up most of the training; their mean is 1.

    A row's weight is n(r)^-rejected times the mean of n(c)^-chosen over its chosen tokens, with
    n the number of rows that reject r, or choose c. At 1 every rejected token counts the same in
    all, at 0 every row does.

    Args:
        rows: with `rejected_token` and `chosen_tokens`.
        rejected: how far the counts of rejected tokens are flattened.
        chosen: how far those of chosen tokens are.
    """
    places: Sequence[Mapping[str, Any]] = rows.select("rejected_token", "chosen_tokens").to_dicts()
    of_rejected = Counter(p["rejected_token"] for p in places)
    of_chosen = Counter(c for p in places for c in p["chosen_tokens"])
    raw = [
        of_rejected[p["rejected_token"]] ** -rejected
        * sum(of_chosen[c] ** -chosen for c in p["chosen_tokens"])
        / len(p["chosen_tokens"])
        for p in places
    ]
    mean = sum(raw) / len(raw) if raw else 1.0
    return pl.Series("weight", [w / mean for w in raw], dtype=pl.Float64)
