"""SPICE: how much does this record's gradient add to the others, without pulling against them?"""

# N = rows, D = features

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.selection.picks import number_of
from gristmill.pipeline.selection.rules.mixture import largest_remainder
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient

LOG = logging.getLogger(__name__)
ROOM = 2**28  # bytes of features that are held at once
CHUNK = 4_096  # rows turned into float64 at once
Fisher = Literal["exact", "diag_g2", "code_g4"]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Spice(Scorer):
    """Greedy log-determinant of the empirical Fisher matrix, less a penalty for conflict.

    With F_S = sum_{y in S} g_y g_y^T over the picks S of a block, m their mean gradient, the gain
    of x is log(1 + alpha g_x^T (I + alpha F_S)^-1 g_x) and its conflict max(0, -cos(g_x, m)); the
    next pick is argmax_x gain - penalty * conflict. score(z) = minus the place of the pick: first
    picks of all blocks, then all second ones, and so on.

    Also called: submodular penalised information-conflict selection. Not gradient-norm ranking,
    which is what its first pick of a block amounts to: later gains shrink along what S spans.

    Reads: `ProjectedGradient`, raw scale, of the model in the role that `role` names ("proxy": a
        small model of the target's family, perhaps warmed up).
    Reference: none.
    Higher means: picked earlier, adds more information. Keep it. Rows never picked have no score
        (`not_reached`); `score_gain` and `score_conflict` are those at the time of the pick.
    Cost: 1 forward and 1 backward of the proxy and 4 D bytes a row to observe; O(N k D) to score
        with k picks a block.
    Paper: "SPICE: Submodular Penalized Information-Conflict Selection for Efficient Large Language
        Model Training", ICLR 2026, arXiv:2601.23155.
    Departures: the exact gain, where the paper takes the diagonal of F_S (`diag_g2`) and its code
        squares that once more (`code_g4`); one checkpoint, where the paper trains the proxy on
        its picks every few rounds; projected gradients of all linear layers ("lora": of an
        adapter); labels on answers, where the paper trains on prompts too (`token_mask="all"`).
        Blocks are drawn by a hash of the ids, so that neither order nor shards matter.
        Greedy reaches (1 - e^-c)/c of the best set, c = max_x |gain(x | rest) - gain(x)| / gain(x).
    Relations: needs no target set, unlike `less`; `facility_location` covers topics, this covers
        directions of learning. Watch the scale: gains are flat if alpha |g|^2 is far from 1.
    Example: `Spice(picks=0.1).score(pool)`
    """

    scope: ClassVar = "pool"
    greedy: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv:2601.23155"
    cost: ClassVar[str] = "2 fe of the proxy"
    role: Literal["target", "proxy"] = "proxy"
    picks: float | None = None  # share, 12 of 120; from 2, a number of rows; none: by budget
    pool_size: int | None = 120  # rows of a block; None: one greedy over all, in memory
    alpha: float = 1.0
    penalty: float = 0.1
    omega: float | None = None  # a block ends before a gain of at most omega times its first
    fisher: Fisher = "exact"
    layers: str = "linear"
    token_mask: Literal["answer", "all"] = "answer"
    k: int = 16  # numbers kept on each side of a layer
    size: int = 8_192
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        of = Backward(layers=self.layers, token_mask=self.token_mask)
        return (ProjectedGradient(role=self.role, of=of, k=self.k, size=self.size, seed=self.seed),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        column = pool.columns(self.signals[0])[0][0]
        found = [b.select("id", there=pl.col(column).is_not_null()) for b in pool.blocks()]
        everything = pl.concat(found)
        ids = everything.filter("there")["id"].sort().to_list()
        if not ids:
            return everything.select("id", score=pl.lit(None, pl.Float64))
        blocks = self._blocks(ids)
        sizes = {f"{b:09d}": Fraction(len(rows)) for b, rows in enumerate(blocks)}
        wanted = number_of(self.picks, self.given, pool, len(ids))
        quotas = list(largest_remainder(wanted, sizes).values())
        taken: list[tuple[int, int, str, float, float]] = []
        squares: list[float] = []
        for b, x_ND in enumerate(_features(pool, column, blocks)):
            squares += _times(x_ND, None).tolist()
            trace = greedy(
                x_ND,
                quotas[b],
                alpha=self.alpha,
                penalty=self.penalty,
                fisher=self.fisher,
                omega=self.omega,
            )
            taken += [
                (t, b, blocks[b][row], gain, conflict)
                for t, (row, gain, conflict) in enumerate(trace)
            ]
        _log_scale(self.alpha * np.asarray(squares))
        taken.sort()
        picked = pl.DataFrame(
            {
                "id": [ident for _, _, ident, _, _ in taken],
                "score": -np.arange(1.0, len(taken) + 1),
                "score_gain": [gain for *_, gain, _ in taken],
                "score_conflict": [conflict for *_, conflict in taken],
            }
        )
        late = pl.col("there") & pl.col("score").is_null()
        return (
            everything.join(picked, on="id", how="left", maintain_order="left")
            .with_columns(reason=pl.when(late).then(pl.lit("not_reached")))
            .drop("there")
        )

    def _blocks(self, ids: Sequence[str]) -> list[list[str]]:
        """Rows drawn into blocks by a hash of their ids; within a block by id."""
        if self.pool_size is not None and self.pool_size < 2:
            raise ValueError(f"pool_size is at least 2, or none; found {self.pool_size}.")
        size = self.pool_size or len(ids)
        drawn = sorted(ids, key=lambda i: (uniform(self.seed, "spice", i), i))
        return [sorted(drawn[at : at + size]) for at in range(0, len(drawn), size)]


def greedy(
    x_ND: npt.NDArray[np.floating[Any]],
    picks: int,
    *,
    alpha: float = 1.0,
    penalty: float = 0.1,
    fisher: Fisher = "exact",
    omega: float | None = None,
) -> list[tuple[int, float, float]]:
    """Rows in pick order, each with its gain and conflict at the time; ties go to the lower row.

    The exact gain comes from the Cholesky factor L of I / alpha + K_S, K_S the Gram matrix of the
    picks, which grows by a row a pick: `whitened` holds L^-1 X_S, and what it leaves of |g_x|^2 is
    g_x^T (I + alpha F_S)^-1 g_x.
    """
    square_N = _times(x_ND, None)
    left_N = square_N.copy()
    along_N = np.zeros(len(x_ND))  # products with the sum of the picks
    total_D = np.zeros(x_ND.shape[1])
    weight_D = np.ones(x_ND.shape[1])
    whitened: list[Doubles] = []
    open_N = np.ones(len(x_ND), bool)
    trace: list[tuple[int, float, float]] = []
    while len(trace) < min(picks, len(x_ND)):
        if fisher != "exact":
            left_N = _times(x_ND, 1 / weight_D, power=2)
        gain_N = np.log1p(alpha * left_N)
        conflict_N = np.zeros(len(x_ND))
        if trace:
            norm = np.sqrt(total_D @ total_D) / len(trace)
            conflict_N = np.maximum(0, -(along_N / len(trace)) / (np.sqrt(square_N) * norm + 1e-8))
        best = int(np.argmax(np.where(open_N, gain_N - penalty * conflict_N, -np.inf)))
        if omega is not None and trace and gain_N[best] <= omega * trace[0][1]:
            break
        trace.append((best, float(gain_N[best]), float(conflict_N[best])))
        open_N[best] = False
        pick_D = x_ND[best].astype(np.float64)
        total_D += pick_D
        along_N += _times(x_ND, pick_D)
        if fisher == "exact":
            rest_D = pick_D - sum((b_D @ pick_D) * b_D for b_D in whitened)
            whitened.append(rest_D / np.sqrt(1 / alpha + left_N[best]))
            left_N = np.maximum(left_N - _times(x_ND, whitened[-1]) ** 2, 0)
        else:
            weight_D += alpha * pick_D ** (2 if fisher == "diag_g2" else 4)
    return trace


def _times(x_ND: npt.NDArray[np.floating[Any]], by_D: Doubles | None, power: int = 1) -> Doubles:
    """Rows, entries raised to `power`, times a vector; squared norms without one. In float64."""
    parts = []
    for first in range(0, len(x_ND), CHUNK):
        part_ND = x_ND[first : first + CHUNK].astype(np.float64)
        if by_D is None:
            parts.append(np.einsum("nd,nd->n", part_ND, part_ND))
        else:
            parts.append((part_ND if power == 1 else part_ND**power) @ by_D)
    return np.concatenate(parts)


def _features(
    pool: Observations, column: str, blocks: Sequence[Sequence[str]]
) -> Iterator[npt.NDArray[np.float32]]:
    """The features of each block in the order of its ids, as many blocks a sweep as fit."""
    width = next(len(b[column].drop_nulls()[0]) for b in pool.blocks() if b[column].count())
    together = max(1, ROOM // (4 * width * max(map(len, blocks))))
    for first in range(0, len(blocks), together):
        part = blocks[first : first + together]
        wanted = pl.DataFrame({"id": [i for ids in part for i in ids]})
        rows = [b.select("id", column).join(wanted, on="id", how="semi") for b in pool.blocks()]
        frame = wanted.join(pl.concat(rows), on="id", how="left", maintain_order="left")
        x_ND = frame[column].to_numpy()
        yield from np.split(x_ND, np.cumsum([len(ids) for ids in part])[:-1])


def _log_scale(scaled_N: Doubles) -> None:
    """Gains are flat where alpha |g|^2 is small, and logarithms of norms where it is large."""
    top, middle = float(scaled_N.max()), float(np.median(scaled_N))
    if not 0.01 <= top <= 100:
        LOG.warning(
            "alpha |g|^2 is %.3g at most (median %.3g): set alpha so that it is about 1, "
            "e.g. alpha times %.2g.",
            top,
            middle,
            1 / middle if middle else 1,
        )
    else:
        LOG.info("alpha |g|^2: median %.3g, at most %.3g.", middle, top)
