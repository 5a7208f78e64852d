"""Embeddings in memory for coverage methods"""

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Frames
from gristmill.selectors.coverage.kcenter import KCenter


def distances(points):
    points = np.asarray(points, float).reshape(len(points), -1)
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def units(seed, rows, size=8):
    draw = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    return draw / np.linalg.norm(draw, axis=1, keepdims=True)


def observed(unit_ND, order=None, parts=1, ids=None):
    names = ids or [f"{i:03d}" for i in range(len(unit_ND))]
    frame = pl.DataFrame(
        {"id": names, KCenter().signals[0].column: unit_ND},
        schema_overrides={KCenter().signals[0].column: pl.Array(pl.Float32, unit_ND.shape[1])},
    )
    frame = frame[order] if order is not None else frame
    size = -(-frame.height // parts)
    return Frames(parts=tuple(frame[i : i + size] for i in range(0, frame.height, size)))
