"""MIG: the printed order, plain greedy, labels that are alike, rows that say nothing."""

import json

import numpy as np
import polars as pl
import pytest

from gristmill.pipeline.contracts import Artifact, Frames, Given
from gristmill.selectors.data_space._labels import alike
from gristmill.selectors.data_space.mig import EPSILON, Mig, picked, spread_of


def graph(pairs):
    both = [*pairs, *((b, a, c) for a, b, c in pairs)]
    return pl.DataFrame(both, schema=["label", "other", "cosine"], orient="row").sort("label")


def scored(tmp_path, rows, pairs=(), **settings):
    path = tmp_path / "label_graph.parquet"
    schema = {"label": pl.String, "other": pl.String, "cosine": pl.Float64}
    graph(pairs).cast(schema).write_parquet(path) if pairs else pl.DataFrame(
        schema=schema
    ).write_parquet(path)
    made = Artifact(name="label_graph", content="x", path=path)
    metas = [json.dumps({"tags": t, "q": q}) for t, q in rows]
    frame = pl.DataFrame({"id": [f"{i}" for i in range(1, len(rows) + 1)], "meta": metas})
    scorer = Mig(quality="q", **settings).with_given(Given(artifacts={"label_graph": made}))
    return scorer.score(Frames(parts=(frame,)))


def test_the_printed_rows_are_picked_in_the_printed_order(tmp_path):
    rows = [(["a"], 5), ("b", 4.9), (["c"], 1), (["a"], 4), (["c"], [0.9, 0.9])]
    found = scored(tmp_path, rows, [("a", "b", 0.95)], picks=1.0)
    assert found.sort("score", descending=True)["id"].to_list() == ["1", "3", "2", "4", "5"]
    assert found["reason"].null_count() == 5, "the whole pool can be picked"
    # columns add up to 1: 5 becomes 5 / 1.95 and 5 * .95 / 1.95
    both = 0.8 * EPSILON**-0.2
    assert found["score_gain"][0] == pytest.approx(both * 5)
    few = scored(tmp_path, rows, [("a", "b", 0.95)], picks=2.0)
    assert few["reason"].to_list() == [None, "not_reached", None, "not_reached", "not_reached"]


@pytest.mark.parametrize("seed", range(3))
def test_lazy_picks_are_those_of_plain_greedy(seed):
    draw = np.random.default_rng(seed)
    u = draw.gamma(1, size=(25, 6)) * (draw.random((25, 6)) < 0.5)
    u[3] = u[7]
    rows = {f"{i:02d}": {str(c): u[i, c] for c in range(6) if u[i, c]} for i in range(25)}
    z, plain = np.zeros(6), []
    for _ in range(25):
        gain = [
            -1 if i in plain else round(float(u[i] @ (z + EPSILON) ** -0.2), 12) for i in range(25)
        ]
        plain.append(int(np.argmax(gain)))
        z += u[plain[-1]]
    assert picked(rows, 0.8, 25)[0] == [f"{i:02d}" for i in plain]


def test_labels_that_are_alike_are_found_in_both_orders_and_share():
    vectors = np.float32([[1, 0], [0.96, 0.28], [0, 1]])
    found = alike(["a", "b", "c"], vectors, 0.9)
    assert found.select("label", "other").rows() == [("a", "b"), ("b", "a")]
    assert found["cosine"].to_list() == pytest.approx([0.96, 0.96])
    p = spread_of(found, 0.5)
    assert p["a"] == pytest.approx({"a": 1 / 1.48, "b": 0.48 / 1.48})
    assert "c" not in p


def test_rows_that_say_nothing_have_a_reason(tmp_path):
    rows = [([], 5), (["a"], None), (["a"], 0), (["a", "b"], 2), (" , ", 1)]
    found = scored(tmp_path, rows, picks=1.0, per_label=True)
    assert found["reason"].to_list() == ["no_label", "no_quality", "no_quality", None, "no_label"]
    assert found["score_gain"][3] == pytest.approx(2 * 0.8 * EPSILON**-0.2), "1 for each of two"
    with pytest.raises(ValueError, match=r"exponent is between 0 and 1 .* found 1 and 1\.0"):
        Mig(exponent=1)
