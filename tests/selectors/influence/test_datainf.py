"""DataInf: golden scores, layer by layer on a drawn part of the pool"""

import numpy as np
import polars as pl
import pytest
from influence_frames import gradients, values

from gristmill.pipeline.contracts import Frames
from gristmill.selectors.influence.datainf import DataInf


def datainf(pool, target, widths, whole=None, **settings):
    """A DataInf run on given gradients; `whole` are the layers before a projection."""
    scorer = DataInf(**settings)
    plain, layers = scorer.reference_signals
    reference = gradients([target], plain, prefix="t").frame()
    sizes = [{"kept": k, "whole": w} for k, w in zip(widths, whole or widths, strict=True)]
    dtype = pl.List(pl.Struct({"kept": pl.Int64, "whole": pl.Int64}))
    reference = reference.with_columns(pl.Series(layers.column, [sizes] * len(target), dtype=dtype))
    blocks = settings.get("blocks", 2)
    return scorer.score(gradients([pool], plain, blocks=blocks), Frames(parts=(reference,)))


def test_golden_datainf_scores():
    one = np.array([1.71428571, -0.57142857])  # influence.md 9
    assert np.allclose(values(datainf([[1.0, 2]], [[1.0, 1]], (2,))), one @ [1, 2] / one.sum())
    two = np.array([4.44444444, 4.12121212])
    found = values(datainf([[1.0, 0], [0, 2]], [[1.0, 1]], (2,)))
    assert np.allclose(found, [two[0] / two.sum(), 2 * two[1] / two.sum()])


def test_datainf_works_layer_by_layer_on_a_drawn_part_of_the_pool():
    draw = np.random.default_rng(4)
    pool, target = draw.normal(size=(40, 6)) * [5, 1, 1, 1, 1, 9], draw.normal(size=(3, 6))
    v = target.mean(0)

    def by_hand(rows, widths):
        parts, at = [], 0
        for width in widths:
            g, part = pool[rows, at : at + width], v[at : at + width]
            ridge = 0.1 * np.square(g).mean()
            terms = [part - (r @ part) / (ridge + r @ r) * r for r in g]
            parts.append(np.mean(terms, axis=0) / ridge)
            at += width
        u = np.concatenate(parts)
        return pool @ u / (u @ v)

    everything = range(40)
    assert np.allclose(
        values(datainf(pool, target, (2, 4))), by_hand(everything, (2, 4)), rtol=1e-4
    )
    assert np.allclose(values(datainf(pool, target, (6,))), by_hand(everything, (6,)), rtol=1e-4)
    some = values(datainf(pool, target, (2, 4), probes=7))
    scorer = DataInf(probes=7)
    frame = gradients([pool], scorer.signals[0], blocks=5)
    drawn = scorer._drawn(frame, scorer.signals[0].column)["id"].to_list()
    rows = [int(i[1:]) for i in drawn]
    assert len(set(rows)) == 7
    assert np.allclose(some, by_hand(rows, (2, 4)), rtol=1e-4)
    with pytest.raises(ValueError, match="probes is at least 1"):
        datainf(pool, target, (6,), probes=0)


def test_projected_datainf_is_on_average_over_seeds_what_it_is_without():
    """Two layers of which one is projected to a ninth of its numbers, and the other not at all."""
    draw, k = np.random.default_rng(0), 8
    shapes = ((24, 24), (8, 8))  # O x I
    rows = []  # pool rows, and at last a target that likes their common part
    for outputs, inputs in shapes:
        a = draw.normal(size=(41, 5, inputs)) + draw.normal(size=inputs)
        g = draw.normal(size=(41, 5, outputs)) + draw.normal(size=outputs)
        rows.append(np.einsum("nto,nti->noi", g, a))
    whole = [o * i for o, i in shapes]

    def scores(parts, **sizes):
        x = np.concatenate([p.reshape(41, -1) for p in parts], axis=1)
        return values(datainf(x[:40], x[40:], [p[0].size for p in parts], **sizes))

    expected = scores(rows)
    found, damped_by_width = [], []
    for seed in range(150):
        sides = np.random.default_rng([1, seed]).choice([-1.0, 1.0], size=(2, 24, k)) / np.sqrt(k)
        parts = [np.einsum("noi,ok,il->nkl", rows[0], *sides), rows[1]]
        found.append(scores(parts, whole=whole))
        damped_by_width.append(scores(parts))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    gap = np.abs(np.mean(found, axis=0) - expected)
    # what remains is of second order, a few per cent; damping by width is a quarter off
    assert gap.mean() < 0.05 * np.abs(expected).mean() + error.mean()
    old = np.abs(np.mean(damped_by_width, axis=0) - expected)
    assert old.mean() > 4 * gap.mean()
