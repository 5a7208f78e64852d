"""Arrays on disk: what comes back is what was written, a bucket or a list at a time."""

from itertools import pairwise

import numpy as np
import pytest

from gristmill.pipeline.numerics.spill import buckets, lists


@pytest.mark.parametrize("number", [3, 70_000])  # small and large bucket numbers sort differently
def test_buckets_give_back_their_rows_in_order(number, tmp_path):
    rng = np.random.default_rng(0)
    row = [("key", np.uint64), ("at", np.int64)]
    given = np.zeros(900, row)
    given["at"] = np.arange(900)
    bucket_N = rng.integers(0, number, 900)
    with buckets(number, row, tmp_path) as held:
        for start, stop in ((0, 400), (400, 400), (400, 900)):
            held.append(bucket_N[start:stop], given[start:stop])
        for bucket in {0, number - 1, *bucket_N[:20].tolist()}:
            assert held.read(bucket).tolist() == given[bucket_N == bucket].tolist()
        assert not list(tmp_path.iterdir()), "a file without a name is gone with its process"


def test_buckets_hold_vectors(tmp_path):
    vector_ND = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    bucket_N = np.arange(50) % 4
    with buckets(4, (np.float32, 3), tmp_path) as held:
        held.append(bucket_N, vector_ND)
        assert np.array_equal(held.read(2), vector_ND[bucket_N == 2])
        assert held.read(2).shape == (12, 3)


def test_lists_are_read_one_at_a_time(tmp_path):
    given = [np.arange(n, dtype=np.uint64) + 10 * n for n in (3, 0, 5, 1)]
    with lists(np.uint64, tmp_path) as held:
        assert held.begins().tolist() == [0]
        for some in (given[:3], given[3:]):
            held.append(np.concatenate(some), np.array([len(g) for g in some]))
        begins = held.begins().tolist()
        found = [held.read(a, b) for a, b in pairwise(begins)]
    assert [f.tolist() for f in found] == [g.tolist() for g in given]
