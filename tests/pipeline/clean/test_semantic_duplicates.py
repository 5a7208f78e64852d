"""Semantic duplicates against the published trace, a plain loop, and planted copies."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from clean_records import documents

from gristmill.pipeline.clean import semantic_duplicates as module
from gristmill.pipeline.clean.semantic_duplicates import (
    SemDeDup,
    compare,
    semantic_duplicates,
    similarities,
)
from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.records.schema import KEY
from gristmill.selectors.coverage.semdedup import Semdedup

COLUMN = "embedding.text"
DIMS = 16


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def observed(ids: list[str], vectors: np.ndarray, parts: int = 1) -> Frames:
    frame = pl.DataFrame(
        {
            "id": ids,
            COLUMN: pl.Series(
                vectors.astype(np.float32), dtype=pl.Array(pl.Float32, vectors.shape[1])
            ),
        }
    )
    size = -(-len(ids) // parts)
    return Frames(parts=tuple(frame[i : i + size] for i in range(0, len(ids), size)))


def angles(*radians: float) -> np.ndarray:
    return np.array([[np.cos(a), np.sin(a)] for a in radians])


def planted(seed: int, originals: int) -> tuple[list[str], np.ndarray]:
    """Random directions (cosines near 0), every third with a twin at cosine above 0.99."""
    rng = np.random.default_rng(seed)
    base = unit(rng.normal(size=(originals, DIMS)))
    twins = unit(base[::3] + 0.02 * rng.normal(size=base[::3].shape))
    vectors = np.concatenate((base, twins))
    return [f"id{i:04d}" for i in range(len(vectors))], vectors


def plain(vectors: np.ndarray, epsilon: float, vs_kept: bool) -> list[bool]:
    out: list[bool] = []
    for i in range(len(vectors)):
        rivals = [j for j in range(i) if not (vs_kept and out[j])]
        out.append(any(vectors[i] @ vectors[j] > 1 - epsilon for j in rivals))
    return out


def test_published_trace() -> None:
    """Unit vectors at 0, .2, .4 rad and 90 degrees, epsilon .03: the 2nd and 3rd go."""
    vectors = angles(0, 0.2, 0.4, np.pi / 2)
    best, rival, duplicate = compare(vectors, 0.03, vs_kept=False)
    expected = [0, np.cos(0.2), np.cos(0.2), np.cos(np.pi / 2 - 0.4)]
    assert best == pytest.approx(expected)
    assert rival.tolist() == [-1, 0, 1, 2]
    assert duplicate.tolist() == [False, True, True, False]
    best, rival, duplicate = compare(vectors, 0.03, vs_kept=True)
    assert duplicate.tolist() == [False, True, False, False]
    assert best[2] == pytest.approx(np.cos(0.4))
    assert rival.tolist() == [-1, 0, 0, 2]


@pytest.mark.parametrize("vs_kept", [False, True])
def test_blocks_equal_the_plain_loop(vs_kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(60, 3)))
    duplicate = compare(vectors, 0.1, vs_kept=vs_kept)[2]
    assert 5 < duplicate.sum() < 55
    assert duplicate.tolist() == plain(vectors, 0.1, vs_kept)


def test_rows_that_are_fixed_never_fall() -> None:
    vectors = angles(0, 0.01, 0.02)
    assert compare(vectors, 0.05, vs_kept=True, fixed=2)[2].tolist() == [False, False, True]


@pytest.mark.parametrize("order", ["hard", "easy", "random"])
def test_order_in_a_cluster(order: str) -> None:
    """Of two alike, "hard" keeps the one far from the centroid and "easy" the near one."""
    vectors = angles(0.0, 0.1, 1.0, 1.0, 1.0)
    ids = list("abcde")
    found = similarities(observed(ids, vectors), COLUMN, SemDeDup(order=order, epsilon=0.01))  # type: ignore[arg-type]
    gone = set(found.filter("duplicate")["id"])
    assert len(gone & set("cde")) == 2
    if order != "random":
        assert gone >= ({"b"} if order == "hard" else {"a"})
        assert gone >= {"d", "e"}  # a tie goes by id


@pytest.mark.parametrize("clusters", [1, 4])
def test_planted_twins_fall_whatever_the_order_or_the_sharding(clusters: int) -> None:
    ids, vectors = planted(1, 90)
    settings = SemDeDup(clusters=clusters, vs_kept=True)
    whole = similarities(observed(ids, vectors), COLUMN, settings)
    assert whole["cluster"].n_unique() == clusters
    assert whole["id"].to_list() == ids
    shuffled = np.random.default_rng(2).permutation(len(ids))
    mixed = observed([ids[i] for i in shuffled], vectors[shuffled], parts=7)
    again = similarities(mixed, COLUMN, settings)
    assert again.drop("similarity").equals(whole.drop("similarity"))
    assert again["similarity"].to_numpy() == pytest.approx(whole["similarity"].to_numpy(), abs=1e-6)
    # A twin falls with its original if k-means put both in one cluster; it nearly always does.
    assert whole["duplicate"].sum() >= 29


def test_many_shards_are_read_three_times_and_wait_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, vectors = planted(3, 90)
    settings = SemDeDup(clusters=6)
    whole = similarities(observed(ids, vectors, parts=3), COLUMN, settings)
    monkeypatch.setattr(module, "_COSINES", 40)  # few at a time
    passes = []

    class Counted(Frames):
        def blocks(self) -> Iterator[pl.DataFrame]:
            passes.append(list(tmp_path.iterdir()))
            return super().blocks()

    pool = Counted(parts=observed(ids, vectors, parts=3).parts)
    again = similarities(pool, COLUMN, settings, scratch=tmp_path)
    assert again.drop("similarity").equals(whole.drop("similarity"))
    assert again["similarity"].to_numpy() == pytest.approx(whole["similarity"].to_numpy(), abs=1e-6)
    assert passes == [[]] * 3, "as many passes, and no file with a name"
    assert not list(tmp_path.iterdir())


def test_drops_keep_the_best_and_share_the_fate_of_copies() -> None:
    texts = ["a", "b", "c", "a"]  # the last is a copy: one id, two rows
    keys = documents(texts).select(KEY)
    ids = keys["id"].to_list()
    pool = observed(ids[:3], angles(0.0, 0.05, 1.5))
    drops = semantic_duplicates(keys, pool, COLUMN)
    assert drops["row"].to_list() == [1]
    assert drops["duplicate_of"].to_list() == drops["cluster"].to_list() == [ids[0]]
    assert drops["overlap"][0] == pytest.approx(np.cos(0.05))
    assert drops["reason"].to_list() == ["semantic_duplicate"]
    scores = keys.with_columns(score=pl.Series([0.1, 0.9, 0.0, 0.1]))
    drops = semantic_duplicates(keys, pool, COLUMN, scores=scores)
    assert drops["row"].to_list() == [0, 3]
    assert set(drops["duplicate_of"]) == {ids[1]}


def test_no_row_falls_for_one_that_fell() -> None:
    keys = documents(list("abc")).select(KEY)
    pool = observed(keys["id"].to_list(), angles(0.0, 0.3, 0.6))
    drops = semantic_duplicates(keys, pool, COLUMN, settings=SemDeDup(epsilon=0.05))
    assert drops["row"].to_list() == [1]  # 0.3 rad: cos .955; 0.6 rad: cos .825


def test_published_rows_stay() -> None:
    keys = documents(["new 1", "new 2"]).select(KEY)
    pool = observed(keys["id"].to_list(), angles(0.02, 1.5))
    published = [observed(["p1"], angles(0.0)), observed(["p2"], angles(0.01))]
    drops = semantic_duplicates(keys, pool, COLUMN, published=published)
    assert drops.select("row", "duplicate_of").rows() == [(0, "p2")]


def test_rows_without_a_vector_and_empty_pools() -> None:
    keys = documents(["a", "b"]).select(KEY)
    frame = pl.DataFrame(
        {"id": keys["id"], COLUMN: [None, [1.0, 0.0]]},
        schema_overrides={COLUMN: pl.Array(pl.Float32, 2)},
    )
    assert semantic_duplicates(keys, Frames(parts=(frame,)), COLUMN).height == 0
    nothing = Frames(parts=(frame[:1],))
    assert semantic_duplicates(keys, nothing, COLUMN).height == 0
    scored = Semdedup().score(Frames(parts=(frame,)))
    assert scored["score"].to_list() == [None, 1.0]


def test_scorer_is_the_published_method() -> None:
    """`hard` order, compared with all rows before; what falls has no score but a reason."""
    ids, vectors = planted(4, 30)
    scored = Semdedup(epsilon=0.05).score(observed(ids, vectors, parts=2))
    centroid = unit(vectors.mean(axis=0, keepdims=True))[0]
    order = sorted(range(len(ids)), key=lambda i: (round(vectors[i] @ centroid, 6), ids[i]))
    flags = dict(zip(order, plain(vectors[order], 0.05, vs_kept=False), strict=True))
    for place, i in enumerate(order):
        row = scored.filter(id=ids[i]).row(0, named=True)
        best = max((float(vectors[i] @ vectors[j]) for j in order[:place]), default=0.0)
        assert row["score_similarity"] == pytest.approx(best, abs=1e-6)
        if flags[i]:
            assert (row["score"], row["reason"]) == (None, "semantic_duplicate")
        else:
            assert row["score"] == pytest.approx(1 - best, abs=1e-6)
            assert row["reason"] is None


@pytest.mark.parametrize("wrong", [{"epsilon": 1.0}, {"epsilon": -0.1}, {"clusters": 0}])
def test_wrong_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"epsilon lies|clusters must"):
        SemDeDup(**wrong)  # type: ignore[arg-type]


def test_no_row_is_a_duplicate_at_epsilon_zero_whatever_float32_makes_of_its_norm() -> None:
    base = unit(np.random.default_rng(0).normal(size=(200, 384)))
    ids = [f"{i:03d}" for i in range(400)]
    pool = observed(ids, np.concatenate((base, base)))
    (signal,) = Semdedup().signals
    pool = Frames(parts=tuple(p.rename({COLUMN: signal.column}) for p in pool.parts))
    found = Semdedup(epsilon=0.0).score(pool)
    assert found["score"].null_count() == 0
    assert (found["score"] == 0).sum() == 200, "a copy scores 0 to the last digit"
    assert Semdedup(epsilon=1e-5).score(pool)["reason"].drop_nulls().len() == 200
