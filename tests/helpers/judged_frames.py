"""What a judge gave, as a frame"""

import math

import polars as pl

from gristmill.pipeline.contracts import Frames


def recorded(columns, ids=None, weights=None):
    """Observations of a judge whose answers are known: column -> one value a row."""
    rows = len(next(iter(columns.values())))
    frame = pl.DataFrame({"id": ids or [f"r{i}" for i in range(rows)]})
    for name, values in columns.items():
        series = pl.Series(name, values)
        if isinstance(next(v for v in values if v is not None), (list, tuple)):
            width = len(next(v for v in values if v is not None))
            series = pl.Series(name, values, dtype=pl.Array(pl.Float32, width))
        frame = frame.with_columns(series)
    return Frames(parts=(frame,), weights=weights or {})


ANGLES = (0.0, 0.2, 0.4, math.pi / 2)


def vectors(angles):
    return [[math.cos(a), math.sin(a)] for a in angles]


def one_hot(digit):
    return [float(i == digit) for i in range(1, 7)]


def deita_pool(scorer, complexity, quality, angles, ids=None):
    embedding, *asked = scorer.signals
    c, q = asked[: scorer.turns], asked[scorer.turns :]
    columns = {embedding.column: vectors(angles)}
    columns |= {s.column: [row[t] for row in complexity] for t, s in enumerate(c)}
    columns |= {s.column: [row[t] for row in quality] for t, s in enumerate(q)}
    return recorded(columns, ids=ids)


P = [0.05, 0.05, 0.1, 0.3, 0.5]
