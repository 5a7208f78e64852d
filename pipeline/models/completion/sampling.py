"""The next token of each row of a batch, and where a row ends."""

# B = rows of a batch, V = vocabulary

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from gristmill.pipeline.models.completion.requests import Request
from gristmill.pipeline.records.schema import uniform


@dataclass(frozen=True, kw_only=True)
class Row:
    """A request on its way; `out` and `finish` (empty or one word) grow while it is generated."""

    index: int
    request: Request
    key: str
    ids: Sequence[int]
    matcher: Any
    out: list[int] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)

    @cached_property
    def reach(self) -> int:
        """A stop text of n bytes lies within the last n tokens, one more for a cut character."""
        return 1 + max(len(stop.encode()) for stop in self.request.sampling.stop)


def choose(rows: Sequence[Row], logits_BV: torch.Tensor) -> list[int]:
    """The next token of every row."""
    for i, row in enumerate(rows):
        sampling = row.request.sampling
        if sampling.presence_penalty and row.out:
            logits_BV[i, list(set(row.out))] -= sampling.presence_penalty
        if row.matcher is not None:
            bits = np.frombuffer(row.matcher.compute_bitmask(), dtype=np.uint8)
            allowed_V = np.unpackbits(bits, bitorder="little")[: logits_BV.shape[1]] > 0
            logits_BV[i, torch.from_numpy(~allowed_V).to(logits_BV.device)] = -torch.inf
    token_B: list[int] = logits_BV.argmax(-1).tolist()
    drawn = [i for i, r in enumerate(rows) if r.request.sampling.temperature > 0]
    if drawn:
        tokens = draw([rows[i] for i in drawn], logits_BV[drawn])
        for i, token in zip(drawn, tokens, strict=True):
            token_B[i] = token
    return token_B


def draw(rows: Sequence[Row], logits_BV: torch.Tensor) -> list[int]:
    """Sample by inverting the cumulated probabilities, in the order of token ids."""
    samplings = [r.request.sampling for r in rows]
    device = logits_BV.device

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=device, dtype=torch.float64)[:, None]

    p_BV = (logits_BV.double() / column([s.temperature for s in samplings])).softmax(-1)
    width = p_BV.shape[1]
    if any(s.top_p < 1 or 0 < s.top_k < width for s in samplings):
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
        rank_V = torch.arange(width, device=device)
        k_B1 = column([s.top_k or width for s in samplings])
        kept_BV = sorted_BV * (rank_V < k_B1)
        kept_BV = kept_BV / kept_BV.sum(-1, keepdim=True)  # top_p counts among the top_k
        before_BV = kept_BV.cumsum(-1) - kept_BV
        kept_BV = kept_BV * (before_BV < column([s.top_p for s in samplings]))
        p_BV = torch.zeros_like(p_BV).scatter(-1, order_BV, kept_BV)
    sum_BV = p_BV.cumsum(-1)
    u_B1 = column([uniform(r.request.seed, f"token {len(r.out)}", r.key) for r in rows])
    found_B1 = torch.searchsorted(sum_BV, u_B1 * sum_BV[:, -1:], right=True)
    return [int(i) for i in found_B1[:, 0].clamp(max=width - 1)]


def first_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first of the stop texts begins, or -1."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return min(found, default=-1)
