"""Density: the closed form of the kernel, plain counting, planted crowds, memory that stays."""

import dataclasses
import logging
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.selection.rules import rule_named
from gristmill.selectors.coverage import density
from gristmill.selectors.coverage.density import Density, collision

COLUMN = Density().signals[0].column
# p(c) at a bandwidth of 1, of the specification; six digits
GOLDEN = {0.1: 0.920212, 0.5: 0.609548, 1: 0.368746, 2: 0.195417, 5: 0.079524}
SIX_DIGITS = 6e-7


def pool(unit_ND, parts=1, ids=None):
    ids = ids or [f"row-{i:05d}" for i in range(len(unit_ND))]
    array = pl.Series(
        COLUMN, unit_ND.astype(np.float32), dtype=pl.Array(pl.Float32, len(unit_ND[0]))
    )
    frame = pl.DataFrame({"id": ids}).with_columns(array)
    size = -(-len(ids) // parts)
    return Frames(parts=tuple(frame.iter_slices(size)))


def units(seed, rows, size):
    draw = np.random.default_rng(seed).normal(size=(rows, size))
    return draw / np.linalg.norm(draw, axis=1, keepdims=True)


def crowd(seed, rows, size, distance):
    """Unit vectors round one point, so far from each other on average."""
    draw = np.random.default_rng(seed)
    near = units(seed, 1, size) + distance / math.sqrt(2 * size) * draw.normal(size=(rows, size))
    return near / np.linalg.norm(near, axis=1, keepdims=True)


def s_of(scorer, unit_ND):
    return scorer.score(pool(unit_ND))["score_density"].to_numpy()


def exact(unit_ND, scorer):
    """The kernel density in expectation: sum_y p^k + (1 - p^k) / B, over all pairs."""
    apart = np.linalg.norm(unit_ND[:, None] - unit_ND[None], axis=-1)
    near = np.vectorize(collision)(apart / scorer.bandwidth) ** scorer.concat
    return (near + (1 - near) / scorer.buckets).sum(axis=1)


# -------------------------------------------------------------------------------- the closed form


def test_the_chance_of_a_collision_is_the_golden_one():
    for distance, p in GOLDEN.items():
        assert collision(distance) == pytest.approx(p, abs=SIX_DIGITS)
    assert collision(0) == 1
    assert 0 <= collision(1e9) < 1e-9


@pytest.mark.parametrize("concat", [1, 2, 8])
def test_two_rows_share_as_many_buckets_as_the_closed_form_says(concat):
    scorer = Density(hashes=4_000, buckets=97, bandwidth=0.2, concat=concat)
    for distance, p in GOLDEN.items():
        half = math.asin(0.2 * distance / 2)  # two unit vectors that far from each other
        rows = np.array([[math.cos(half), s * math.sin(half), 0, 0] for s in (-1, 1)])
        # a single hash has fewer values here than there are buckets: none meet by chance
        chance = 0 if concat == 1 else (1 - p**concat) / scorer.buckets
        shared = p**concat + chance
        deviation = math.sqrt(shared * (1 - shared) / scorer.hashes)
        first, second = s_of(scorer, rows)
        assert first == second == pytest.approx(1 + shared, abs=4 * deviation)


def test_the_error_falls_like_one_over_the_root_of_the_hashes():
    rows = np.concatenate([units(1, 60, 8), crowd(2, 40, 8, 0.5), crowd(3, 20, 8, 0.2)])

    def error(hashes):
        made = [Density(hashes=hashes, buckets=512, concat=2, seed=s) for s in range(12)]
        return math.sqrt(np.mean([(s_of(m, rows) - exact(rows, m)) ** 2 for m in made]))

    few, many = error(250), error(1_000)
    assert 1.6 < few / many < 2.5  # twice, but for the luck of twelve draws
    assert many < 0.02 * len(rows)


# ------------------------------------------------------------------------------- plain counting


@pytest.mark.parametrize("concat", [1, 3])
def test_counters_and_sums_are_those_of_plain_exact_arithmetic(concat):
    rows = np.concatenate([units(4, 12, 5), crowd(5, 8, 5, 0.1)]).astype(np.float32)
    scorer = Density(hashes=7, buckets=11, concat=concat, bandwidth=0.3)
    drawn = density._Hashing.draw(scorer, 5)
    total = Counter()
    cells = []
    for x in rows:
        whole = [round(float(v) * density.GRID) for v in x]
        for r in range(scorer.hashes):
            bucket = 0
            for c in range(concat):
                inner = sum(
                    v * int(w) for v, w in zip(whole, drawn.normal_DRC[:, r, c], strict=True)
                )
                at = Fraction(inner, density.GRID**2) + Fraction(drawn.shift_RC[r, c])
                bucket += int(drawn.factor_RC[r, c]) * math.floor(at / Fraction(scorer.bandwidth))
            cells.append((r, bucket % scorer.buckets))
    total.update(cells)
    plain = np.array([total[c] for c in cells]).reshape(len(rows), scorer.hashes).mean(axis=1)
    np.testing.assert_array_equal(s_of(scorer, rows), plain)
    assert (drawn.factor_RC[:, 0] == 1).all()  # so that one hash alone is the paper's


def test_scores_are_the_same_bits_whatever_the_blocks_and_their_order(monkeypatch):
    rows = np.concatenate([units(6, 90, 48), crowd(7, 30, 48, 0.1)])
    scorer = Density(hashes=64, buckets=256)
    base = scorer.score(pool(rows)).sort("id")
    ids = [f"row-{i:05d}" for i in range(len(rows))]
    other = scorer.score(pool(rows[::-1], parts=7, ids=ids[::-1])).sort("id")
    assert other.equals(base)
    monkeypatch.setattr(density, "TOGETHER", 1)  # one row at a time
    assert scorer.score(pool(rows)).sort("id").equals(base)
    assert not dataclasses.replace(scorer, seed=1).score(pool(rows)).sort("id").equals(base)


def test_a_row_on_the_edge_of_a_bucket_stays_there_in_whatever_order_its_products_are_added():
    size = 96
    row_D = units(15, 1, size)[0].astype(np.float32)
    drawn = density._Hashing.draw(Density(hashes=50, buckets=100, concat=1), size)
    whole = [round(float(v) * density.GRID) for v in row_D]
    inner = [
        sum(v * int(w) for v, w in zip(whole, normal_D, strict=True))
        for normal_D in drawn.normal_DRC[:, :, 0].T
    ]
    edge_R1 = np.array([[-i / density.GRID**2] for i in inner])  # then each hash is at 0, exactly
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(size)
        turned = dataclasses.replace(drawn, normal_DRC=drawn.normal_DRC[order], shift_RC=edge_R1)
        np.testing.assert_array_equal(turned(row_D[None, order]), 100 * np.arange(50)[None])


# ------------------------------------------------------------------------------- planted crowds


def one_in_eleven(size=64):
    """90 copies of one row, and 10 rows at right angles to it and to each other."""
    return np.eye(size)[[0] * 90 + list(range(1, 11))]


def test_ninety_copies_weigh_as_much_as_one_row():
    s_N = s_of(Density(hashes=200), one_in_eleven())
    # chance collisions: 1 in 20,000 per pair and hash
    np.testing.assert_allclose(s_N, [90.0] * 90 + [1.0] * 10, atol=0.1)
    assert (1 / s_N)[:90].sum() / (1 / s_N).sum() == pytest.approx(1 / 11, rel=0.02)


def test_the_rule_of_the_method_draws_in_proportion_to_one_over_s():
    scored = Density(hashes=200).score(pool(one_in_eleven())).with_columns(cost=pl.lit(1.0))
    draws = 2_000
    first = [
        rule_named(Density.rule, {**Density.rule_settings, "seed": seed}).order(scored, 1.0)
        for seed in range(draws)
    ]
    share = np.mean([order["index"][0] < 90 for order in first])
    assert share == pytest.approx(1 / 11, abs=4 * math.sqrt(1 / 11 * 10 / 11 / draws))


def planted(rows=20_000, copies=500, size=64, distance=0.072):
    return np.concatenate([crowd(8, copies, size, distance), units(9, rows - copies, size)])


def ratio(scorer, rows, copies=500):
    s_N = s_of(scorer, rows)
    return s_N[:copies].mean(), s_N[copies:].mean()


def test_eight_joined_hashes_find_the_crowd(caplog):
    near, others = ratio(Density(hashes=200), planted())
    # the crowd's own kernel, which its average distance gives well enough
    assert near == pytest.approx(2 + 499 * collision(0.072 / 0.5) ** 8, rel=0.1)
    assert others == pytest.approx(2, abs=0.15)  # itself, and N / B = 1 stranger
    assert near / others > 80
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_one_hash_as_printed_finds_nothing_and_says_so(caplog):
    near, others = ratio(Density(hashes=200, concat=1, bandwidth=0.05), planted())
    strangers = 20_000 * collision(math.sqrt(2) / 0.05)
    assert others == pytest.approx(strangers, rel=0.05)  # whatever the number of buckets
    assert near / others < 1.6
    s_of(Density(hashes=200, concat=1, bandwidth=0.05), units(9, 2_000, 64))
    assert "is effectively uniform (max/min = 1." in caplog.text


@pytest.mark.parametrize(("buckets", "s"), [(2_000, 2), (200, 11)])
def test_rows_far_apart_meet_by_chance_alone(buckets, s):
    s_N = s_of(Density(hashes=200, buckets=buckets), units(10, 2_000, 64))
    assert s_N.mean() == pytest.approx(s, rel=0.01)


# ------------------------------------------------------------------------------------ the pool


class Swept:
    """A pool that counts its sweeps, makes its blocks as they are asked for, and has no frame."""

    def __init__(self, blocks, rows):
        self.made, self.size, self.sweeps = blocks, rows, 0

    @property
    def rows(self):
        return self.made * self.size

    def blocks(self):
        self.sweeps += 1
        for b in range(self.made):
            yield pool(units(b, self.size, 16), ids=[f"{b}-{i}" for i in range(self.size)]).frame()


def test_memory_is_the_counters_and_two_sweeps_are_enough(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(density, "TOGETHER", 1 << 14)
    scorer = Density(hashes=50, buckets=4_000, concat=4)

    def peak(blocks):
        swept = Swept(blocks, 400)
        tracemalloc.start()
        out = scorer.score(swept)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert swept.sweeps == 2
        assert out.height == swept.rows
        return top

    counters = 4 * scorer.hashes * scorer.buckets
    small, large = peak(2), peak(20)
    assert small > counters
    # what grows is the table of scores, not what is hashed: 8 bytes a hash and row were 3 MB more
    assert large - small < 18 * 400 * 48


def test_rows_without_an_embedding_have_no_score_and_count_for_nobody():
    rows = np.concatenate([units(11, 6, 8)[:1]] * 3 + [units(12, 3, 8)])
    whole = pool(rows).frame()
    broken = rows.copy()
    broken[1, 2] = np.nan
    holes = (
        pool(broken)
        .frame()
        .with_columns(pl.when(pl.col("id") != "row-00002").then(pl.col(COLUMN)).alias(COLUMN))
    )
    scorer = Density(hashes=40)
    out = scorer.score(Frames(parts=(holes[:2], holes[2:3], holes[3:])))
    assert out["id"].to_list() == whole["id"].to_list()
    assert out["score"].is_null().to_list() == [False, True, True, False, False, False]
    left = scorer.score(Frames(parts=(whole[[0, 3, 4, 5]],)))
    assert out.drop_nulls().equals(left)
    assert out["score_density"][0] == pytest.approx(1, abs=0.2)
    none = scorer.score(Frames(parts=(holes[2:3],)))
    assert none.to_dict(as_series=False) == {
        "id": ["row-00002"],
        "score": [None],
        "score_density": [None],
    }


def test_crowded_buckets_are_told_of(caplog):
    Density(hashes=10, buckets=5).score(pool(units(13, 60, 8)))
    assert "each bucket holds 12 strangers of 60 rows" in caplog.text
    assert "set buckets to 6 or more (240 bytes of counters)" in caplog.text


def test_details_say_how_many_hashes_the_embedder_needs():
    rows = units(14, 3_000, 64)
    table = Density().details(pool(rows, parts=4))
    assert table["distance"].to_list()[:-1] == list(density.NEAR)
    middle = table.row(-1, named=True)
    assert middle["distance"] == pytest.approx(math.sqrt(2), rel=0.01)
    p = collision(middle["distance"] / 0.5)
    assert middle["collision"] == p
    assert middle["kernel"] == pytest.approx(p**8)
    assert middle["rows"] == pytest.approx(3_000 * p**8)
    assert 3_000 * p ** middle["concat"] <= 1 < 3_000 * p ** (middle["concat"] - 1)
    copies = Density().details(pool(np.eye(4)[[0] * 5])).row(-1, named=True)
    assert (copies["distance"], copies["rows"], copies["concat"]) == (0, 5, None)
    with pytest.raises(ValueError, match="1 rows have an embedding; a distance takes two"):
        Density().details(pool(rows[:1]))


@pytest.mark.parametrize("bad", [{"hashes": 0}, {"buckets": 0}, {"concat": 0}, {"bandwidth": 0}])
def test_settings_that_hash_nothing_are_refused(bad):
    with pytest.raises(ValueError, match="are at least 1 and the bandwidth is above 0; found"):
        Density(**bad)
