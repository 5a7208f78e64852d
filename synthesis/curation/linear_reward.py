"""A linear reward model on sentence embeddings, by Bradley and Terry's loss: fits in milliseconds.

r(x, y) = <w, e(y)>. It is no substitute for a transformer: it sees what a frozen sentence
embedder sees. It serves small pools, experiments and machines without an accelerator.
"""

# N = pairs, D = features

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.records.schema import digest, uniform
from gristmill.pipeline.records.store import Part, Step, Store, open_entry
from gristmill.synthesis.curation.pairs import shown
from gristmill.synthesis.reward import Embed

Floats = NDArray[np.float64]
Sides = Callable[[pl.DataFrame], tuple[Floats, Floats]]  # pairs to features of both sides
RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)  # strengths of the penalty: the checkpoints, in order
_STEPS = 50
_FOLDS = 5


def fit(difference_ND: Floats, ridge: float) -> Floats:
    """The minimum of sum softplus(-X w) + ridge/2 |w|^2, by Newton's method.

    Args:
        difference_ND: features of the better side minus those of the other.
        ridge: strength of the penalty; above 0, so that there is one minimum.
    """
    w_D = np.zeros(difference_ND.shape[1])
    for _ in range(_STEPS):
        wrong_N = 1.0 / (1.0 + np.exp(np.clip(difference_ND @ w_D, -500, 500)))
        gradient_D = ridge * w_D - difference_ND.T @ wrong_N
        if np.abs(gradient_D).max() < 1e-9 * max(1, len(difference_ND)):
            break
        curve_N = wrong_N * (1.0 - wrong_N)
        hessian_DD = (difference_ND.T * curve_N) @ difference_ND + ridge * np.eye(len(w_D))
        step_D = np.asarray(np.linalg.solve(hessian_DD, gradient_D), dtype=np.float64)
        w_D = w_D - _damped(difference_ND, w_D, step_D, ridge)
    return w_D


def _damped(difference_ND: Floats, w_D: Floats, step_D: Floats, ridge: float) -> Floats:
    """The step, halved until the loss falls."""

    def loss(at_D: Floats) -> float:
        penalty = float(at_D @ at_D) * ridge / 2
        return float(np.logaddexp(0.0, -difference_ND @ at_D).sum()) + penalty

    now = loss(w_D)
    for _ in range(30):
        if loss(w_D - step_D) <= now:
            break
        step_D = step_D / 2
    return step_D


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """Features of the sides of pairs: the embeddings of their answers.

    The prompt is left out: it is the same on both sides, and a long one would fill what the
    embedder reads.

    Attributes:
        rows: text -> its embedding.
    """

    rows: Mapping[str, Floats]

    @classmethod
    def of(cls, pairs: pl.DataFrame, embed: Embed) -> "Embedded":
        """Both sides of all pairs, embedded at once."""
        texts = sorted({text for pair in shown(pairs) for text in (pair.chosen, pair.rejected)})
        return cls(rows=dict(zip(texts, embed(texts), strict=True)) if texts else {})

    def __call__(self, pairs: pl.DataFrame) -> tuple[Floats, Floats]:
        """Features of the chosen and of the rejected sides."""
        texts = shown(pairs)
        chosen_ND = np.stack([self.rows[p.chosen] for p in texts])
        return chosen_ND, np.stack([self.rows[p.rejected] for p in texts])


@dataclass(frozen=True, kw_only=True)
class LinearReward:
    """Bradley-Terry heads on embeddings, one for each strength of the ridge penalty.

    Attributes:
        store: where they are kept.
        sides: features of the chosen and of the rejected sides.
        name: all that `sides` depends on.
    """

    store: Store
    sides: Sides
    name: str

    def fit(self, pairs: pl.DataFrame) -> list[str]:
        """The heads, the most penalised first: references for `margins`."""
        pairs = pairs.sort("id")
        step = Step(
            name="linear_reward",
            version=1,
            settings={"ridges": RIDGES},
            inputs={"features": self.name, "pairs": digest(pairs["id"].to_list())},
        )
        difference: list[Floats] = []

        def write(ridge: float, path: Path) -> None:
            if not difference:
                chosen_ND, rejected_ND = self.sides(pairs)
                difference.append(chosen_ND - rejected_ND)
            with path.open("wb") as file:
                np.save(file, fit(difference[0], ridge), allow_pickle=False)

        names = [f"head-{n}.npy" for n in range(len(RIDGES))]
        parts = [Part(name=n, write=partial(write, r)) for n, r in zip(names, RIDGES, strict=True)]
        entry = self.store.run(step, parts)
        return [(entry.path / n).relative_to(self.store.root).as_posix() for n in names]

    def fit_alone(self, pairs: pl.DataFrame) -> str:
        """The head whose ridge does best on held-out folds of the pairs themselves."""
        references = self.fit(pairs)
        if pairs.height < 2 * _FOLDS:
            return references[0]
        chosen_ND, rejected_ND = self.sides(pairs)
        difference_ND = chosen_ND - rejected_ND
        fold_N = np.array([int(_FOLDS * uniform(0, "fold", i)) for i in pairs["id"]])
        right = []
        for ridge in RIDGES:
            margin_N = np.zeros(len(fold_N))
            for fold in range(_FOLDS):
                out_N = fold_N == fold
                margin_N[out_N] = difference_ND[out_N] @ fit(difference_ND[~out_N], ridge)
            right.append(int((margin_N > 0).sum()))
        return references[int(np.argmax(right))]

    def margins(self, reference: str, pairs: pl.DataFrame) -> Floats:
        """Reward of the chosen minus reward of the rejected side of each pair."""
        if pairs.is_empty():
            return np.zeros(0)
        path = self.store.path(reference)
        raw = open_entry(path.parent).read(path.name)
        w_D = np.load(BytesIO(raw), allow_pickle=False)
        chosen_ND, rejected_ND = self.sides(pairs)
        return np.asarray((chosen_ND - rejected_ND) @ w_D, dtype=np.float64)
