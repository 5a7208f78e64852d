"""The graph of neighbours against brute force, and greedy cover over it against the exact one."""

import numpy as np
import pytest
from embeddings import units

from gristmill.pipeline.numerics import neighbours as module
from gristmill.pipeline.numerics.coverage import cosine, facility_location
from gristmill.pipeline.numerics.neighbours import neighbours
from gristmill.pipeline.numerics.sparse_cover import cover_graph, covers

FOUND = 0.9  # of the true neighbours, where a tenth of the rows is looked at
ROUNDING = 1e-5  # float32 similarities of unit vectors
WITHIN = 0.98  # of the exact greedy's objective


def topics(rows, seed=0, size=16):
    """Rows around 20 topics, some crowded and some not."""
    rng = np.random.default_rng(seed)
    topic = rng.choice(20, rows, p=np.arange(1, 21) / 210)
    near = units(seed, 20, size)[topic] + 0.15 * rng.normal(size=(rows, size))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def test_a_small_pool_is_searched_whole():
    unit_ND = topics(200)
    graph = neighbours(unit_ND, 7)
    far = np.argsort(-(unit_ND @ unit_ND.T), axis=1, kind="stable")[:, :7]
    assert [set(a) for a in graph.index_NL.tolist()] == [set(b) for b in far.tolist()]
    assert graph.index_NL[:, 0].tolist() == list(range(200)), "a row is nearest to itself"
    assert neighbours(unit_ND, 1_000).index_NL.shape == (200, 200)


def test_cells_find_most_neighbours_and_look_at_few_rows(monkeypatch):
    unit_ND = topics(2_000)
    crowd = np.repeat(unit_ND[:1], 500, axis=0)  # larger than what a row is compared with
    unit_ND = np.concatenate((unit_ND, crowd))
    monkeypatch.setattr(module, "LOOKED", 250)
    monkeypatch.setattr(module, "CELL", 100)
    searches = list(module._searches(unit_ND, 250))
    assert sorted(np.concatenate([own for own, _ in searches]).tolist()) == list(range(2_500))
    assert all(set(own) <= set(others) for own, others in searches)
    assert min(len(o) for _, o in searches) >= 250
    assert max(len(o) for _, o in searches) < 750
    graph = neighbours(unit_ND, 10)
    least = np.sort(unit_ND @ unit_ND.T, axis=1)[:, -10]  # equal rows are all as near
    assert (graph.cosine_NL >= least[:, None] - ROUNDING).mean() >= FOUND


@pytest.mark.parametrize("picks", [1, 12, 60])
def test_where_every_row_neighbours_every_other_the_picks_are_exact(picks):
    unit_ND = topics(60, seed=1)
    got = cover_graph(unit_ND, neighbours(unit_ND, 60), picks)
    exact = facility_location(cosine(unit_ND), covered=60, candidates=60, picks=picks)
    # of the last two rows of a topic either gains the same: rounding decides
    assert got.rows[:12].tolist() == exact.rows[:12].tolist()
    assert len(set(got.rows.tolist())) == picks
    np.testing.assert_allclose(got.worth, exact.worth, atol=ROUNDING)
    assert covers(unit_ND, got.rows).sum() == pytest.approx(exact.worth.sum(), rel=ROUNDING)


@pytest.mark.parametrize("picks", [8, 40, 200])
def test_the_objective_is_near_that_of_the_exact_greedy(picks):
    unit_ND = topics(800, seed=2)
    got = cover_graph(unit_ND, neighbours(unit_ND, 16), picks)
    exact = facility_location(cosine(unit_ND), covered=800, candidates=800, picks=picks)
    assert len(set(got.rows.tolist())) == picks
    reached = covers(unit_ND, got.rows).sum() / covers(unit_ND, exact.rows).sum()
    assert reached >= WITHIN


def test_a_pick_covers_rows_that_it_does_not_neighbour():
    """With itself as its only neighbour a row gains what its own cover lacks: the farthest wins."""
    unit_ND = topics(100, seed=3)
    first, second = cover_graph(unit_ND, neighbours(unit_ND, 1), 2).rows
    near_N = unit_ND @ unit_ND[first]
    assert near_N[second] <= max(0, near_N.min()) + ROUNDING
