"""Curvature of the loss from stored features, layer by layer: fitted once, kept as a file, reused.

| what | rule |
|---|---|
| `Fisher` | `(R + d)^-1 x` or `(R + d)^-1/2 x`, with R = E[x x^T] |
| `datainf` | `1/(n d) sum_i [v - (g_i . v) / (d + g_i . g_i) g_i]`: mean and inverse swapped |

Damping `d` is relative by default and taken layer by layer: a factor times the mean eigenvalue
(trace over dimension). Published absolute values differ by orders of magnitude between code bases.
"""

# N = rows, W = width of a feature, K = target gradients

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Damping:
    """What is added to eigenvalues before they are inverted."""

    value: float = 0.1
    mode: Literal["relative", "absolute"] = "relative"

    def of(self, eigenvalues: Doubles) -> float:
        """The amount for one layer."""
        if self.mode == "absolute":
            return self.value
        return self.value * float(eigenvalues.mean())


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """Uncentred second moments of stored features, layer by layer, as eigenvectors and -values."""

    vectors: tuple[Doubles, ...]
    values: tuple[Doubles, ...]
    rows: int

    def solve(self, x_NW: Floats, damping: Damping | None = None) -> Doubles:
        """(R + d)^-1 x for every row."""
        return self._apply(x_NW, -1.0, damping)

    def whiten(self, x_NW: Floats, damping: Damping | None = None) -> Doubles:
        """(R + d)^-1/2 x for every row: inner products of two whitened rows are preconditioned."""
        return self._apply(x_NW, -0.5, damping)

    def _apply(self, x_NW: Floats, power: float, damping: Damping | None) -> Doubles:
        parts = split_layers(x_NW, [len(v) for v in self.values])
        solved = []
        for i, (vectors, values, part) in enumerate(
            zip(self.vectors, self.values, parts, strict=True)
        ):
            damped = values + (damping or Damping()).of(values)
            if damped.min() <= 1e-12 * max(1e-300, damped.max()):
                raise ValueError(
                    f"the second moments of block {i} ({len(values)} dimensions) come from "
                    f"{self.rows} rows and cannot be inverted: use damping above 0 or more rows."
                )
            solved.append((part @ vectors) * damped**power @ vectors.T)
        return np.concatenate(solved, axis=1)

    def save(self, path: Path) -> Path:
        """Write as safetensors."""
        from safetensors.numpy import save_file

        arrays = {f"vectors/{i}": np.ascontiguousarray(v) for i, v in enumerate(self.vectors)}
        arrays |= {f"values/{i}": v for i, v in enumerate(self.values)}
        save_file(arrays, path, metadata=facts(rows=self.rows, blocks=len(self.values)))
        return path

    @staticmethod
    def load(path: Path) -> "Fisher":
        """Read what `save` wrote."""
        arrays, told = load_arrays(path, "blocks")
        blocks = range(told["blocks"])
        return Fisher(
            vectors=tuple(arrays[f"vectors/{i}"] for i in blocks),
            values=tuple(arrays[f"values/{i}"] for i in blocks),
            rows=told["rows"],
        )


def fit_fisher(blocks: Iterable[Floats], widths: Sequence[int]) -> Fisher:
    """Fit on features that come in blocks of rows; rows with NaN (no gradient) are left out.

    Args:
        blocks: N x W features, read once.
        widths: numbers per layer, as they stand side by side; `(W,)` for one block over all.
    """
    sums = [np.zeros((w, w)) for w in widths]
    rows = 0
    for block in blocks:
        used = block[np.isfinite(block).all(1)]
        rows += len(used)
        for total, part in zip(sums, split_layers(used, widths), strict=True):
            total += part.T @ part
    if rows == 0:
        raise ValueError("no row has a finite feature, so there is no curvature to fit.")
    solved = [np.linalg.eigh(total / rows) for total in sums]
    return Fisher(
        vectors=tuple(vectors for _, vectors in solved),
        values=tuple(np.maximum(values, 0.0) for values, _ in solved),
        rows=rows,
    )


def datainf(
    blocks: Callable[[], Iterable[Floats]],
    targets_KW: Floats,
    widths: Sequence[int],
    damping: Damping | None = None,
    *,
    dimensions: Sequence[int] | None = None,
) -> Doubles:
    """DataInf's `H^-1 v` for every target: the mean of the inverses, not the inverse of the mean.

    Relative damping is a factor (.1) times the mean over rows of the mean square of a row's part.
    A projection keeps squared norms and has fewer numbers to share them: a mean over those would
    damp a layer more the more it is projected, and weigh layers by it.

    Args:
        blocks: gives the training features again, block by block; read twice.
        targets_KW: the vectors v.
        widths: numbers per layer.
        damping: per layer.
        dimensions: numbers per layer before they were projected; none: `widths`.
    """
    damping, dimensions = damping or Damping(), dimensions or widths
    squares, rows = np.zeros(len(widths)), 0
    for block in blocks():
        used = block[np.isfinite(block).all(1)]
        rows += len(used)
        squares += [float(np.square(part).sum()) for part in split_layers(used, widths)]
    if rows == 0:
        raise ValueError("no row has a finite feature, so there is no curvature to fit.")
    means = [s / (rows * d) for s, d in zip(squares, dimensions, strict=True)]
    ridges = [damping.of(np.array([mean])) for mean in means]
    if min(ridges) < 0 or not any(ridges):
        raise ValueError("DataInf divides by its damping: it must be above 0 in every layer.")
    targets = split_layers(targets_KW, widths)
    pulled = [np.zeros_like(v) for v in targets]
    for block in blocks():
        used = block[np.isfinite(block).all(1)]
        for total, part, v, ridge in zip(
            pulled, split_layers(used, widths), targets, ridges, strict=True
        ):
            if ridge:
                share_NK = part @ v.T / (ridge + np.square(part).sum(1))[:, None]
                total += share_NK.T @ part
    # a layer in which no row has a gradient (A of an adapter whose B is 0) says nothing
    solved = [
        (v - p / rows) / r if r else np.zeros_like(v)
        for v, p, r in zip(targets, pulled, ridges, strict=True)
    ]
    return np.concatenate(solved, axis=1)


def split_layers(x_NW: Floats, widths: Sequence[int]) -> list[Doubles]:
    """Columns of features by layer, in float64."""
    if x_NW.shape[1] != sum(widths):
        raise ValueError(
            f"features have {x_NW.shape[1]} columns; the curvature is of {sum(widths)}: both must "
            "come from the same layers and the same projection."
        )
    return np.split(x_NW.astype(np.float64), np.cumsum(widths)[:-1], axis=1)


def facts(**values: Any) -> dict[str, str]:  # noqa: ANN401  (JSON)
    """Metadata for a safetensors file, in one key: it writes several in any order."""
    return {"curvature": json.dumps(values)}


def load_arrays(path: Path, fact: str) -> tuple[dict[str, Doubles], dict[str, Any]]:
    """Arrays and metadata of a file that must carry the fact `fact`."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        told = json.loads((file.metadata() or {}).get("curvature", "{}"))
        if fact not in told:
            raise ValueError(f"{path.name} holds no curvature of this kind (no {fact!r} in it).")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return arrays, told
