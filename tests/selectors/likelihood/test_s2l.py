"""S2L: any beginning of the order is the paper's choice; clusters, sources, the proxy"""

import numpy as np
import polars as pl
from answers_as_chats import chat
from rows import write_jsonl
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors.likelihood.s2l import ProxyTraining, S2l, in_turn, spaced, trajectories


def smallest_first(sizes, budget):
    """What each group gives, in the paper's words."""
    given, left = [0] * len(sizes), budget
    order = sorted(range(len(sizes)), key=lambda g: (sizes[g], -g))
    for done, g in enumerate(order):
        given[g] = min(sizes[g], left // (len(sizes) - done))
        left -= given[g]
    return given


def test_any_beginning_of_the_order_is_the_papers_choice():
    rng = np.random.default_rng(0)
    for _ in range(30):
        sizes = rng.integers(1, 9, rng.integers(1, 7)).tolist()
        group = pl.Series(rng.permutation(np.repeat(np.arange(len(sizes)), sizes)))
        place = in_turn(group).to_numpy()
        assert sorted(place) == list(range(len(group)))
        for budget in range(len(group) + 1):
            taken = group.filter(pl.Series(place < budget)).to_numpy()
            assert np.bincount(taken, minlength=len(sizes)).tolist() == smallest_first(
                sizes, budget
            )
        for g in range(len(sizes)):  # within a group, rows keep their order
            assert (np.diff(place[group.to_numpy() == g]) > 0).all()


def trajectory_pool(losses, *, sources=None, seed=0):
    """A pool of trajectories, ids in random order."""
    ids = np.random.default_rng(seed).permutation([f"{i:04}" for i in range(len(losses))])
    names = [f"{S2l().signals[0].column}@{k}" for k in range(losses.shape[1])]
    frame = pl.DataFrame({"id": ids, **{n: losses[:, k] for k, n in enumerate(names)}})
    frame = frame.with_columns(
        source=pl.Series(sources if sources is not None else ["s"] * len(ids)),
        meta=pl.lit(None, dtype=pl.String),
    )
    weights = {"history": tuple([1 / losses.shape[1]] * losses.shape[1])}
    return Frames(parts=(frame.head(30), frame.tail(-30)), weights=weights), ids


def test_all_of_a_rare_type_are_taken():
    rng = np.random.default_rng(1)
    falling, flat = np.array([3.0, 2.0, 1.0]), np.array([3.0, 3.0, 3.0])
    losses = np.stack([*[falling] * 95, *[flat] * 5]) + rng.normal(0, 0.01, (100, 3))
    pool, ids = trajectory_pool(losses)
    found = S2l().score(pool).sort(-pl.col("score"))
    assert sorted(found["score"].to_list()) == [-float(i) for i in range(100, 0, -1)]
    taken = found.head(50)["id"]
    assert set(ids[95:]) <= set(taken)
    again = S2l().score(Frames(parts=(pool.frame().sort("id"),), weights=pool.weights))
    assert again.sort("id").equals(found.sort("id"))


def test_sources_share_the_budget():
    rng = np.random.default_rng(2)
    losses = rng.normal(2, 0.5, (110, 2))
    pool, ids = trajectory_pool(losses, sources=["big"] * 100 + ["small"] * 10)
    found = S2l(by="source").score(pool).sort(-pl.col("score"))
    small = set(ids[100:])
    assert [len(small & set(found.head(n)["id"])) for n in (4, 20, 40)] == [2, 10, 10]
    one = S2l().score(pool).sort(-pl.col("score")).head(20)
    assert len(small & set(one["id"])) < 10


def test_lost_trajectories():
    losses = np.full((40, 2), 1.0)
    losses[3, 1] = np.nan
    pool, _ = trajectory_pool(losses)
    assert S2l().score(pool)["score"].null_count() == 0  # a loss that is no number counts as 0
    first = S2l().signals[0].column + "@0"
    part = pool.parts[0].with_columns(
        pl.when(pl.int_range(pl.len()) > 0).then(pl.col(first)).alias(first)
    )
    lost = S2l().score(Frames(parts=(part, pool.parts[1]), weights=pool.weights))
    assert lost["score"].is_null().to_list() == [True] + [False] * 39


def test_clusters_of_planted_trajectories():
    rng = np.random.default_rng(3)
    kinds = np.repeat(np.arange(4), 50)
    x = np.eye(4)[kinds] * 3 + rng.normal(0, 0.05, (200, 4))
    found = trajectories(x, 4, 20, 0)
    pairs = {(k, c) for k, c in zip(kinds.tolist(), found.tolist(), strict=True)}
    assert len(pairs) == 4
    assert trajectories(x[:9], None, 20, 0).tolist() == [0] * 9  # too few rows for two clusters
    assert len(set(trajectories(x[::50], 4, 20, 0).tolist())) == 4, "as many as were asked for"


def test_checkpoints_are_spaced():
    paper = Training(epochs=3, learning_rate=2e-5, max_length=512, checkpoints=500)
    kept = {
        rows: len(spaced(paper, rows)[0].published(rows)) for rows in (16, 200, 20_000, 262_000)
    }
    assert kept == {16: 3, 200: 5, 20_000: 8, 262_000: 12}
    assert spaced(paper, 20_000) == (paper, [])
    assert spaced(paper, 200)[1] == ["a checkpoint every 9 steps, not 500: the run has 39 steps."]


def test_the_proxy_is_trained_where_it_is_asked_for(tiny, tmp_path, store):
    rows = [{"messages": chat(f"Q{i}", f"The number {i % 7}.")} for i in range(20)]
    pool = ingest(store, [Source(path=str(write_jsonl(tmp_path / "pool.jsonl", rows)))])
    models = Models(store=store, roles={"proxy": (str(tiny),)})
    scorer = S2l(train=True, training=ProxyTraining(epochs=2, learning_rate=1e-3))
    run = ScoreRun(
        scorer=scorer, dataset=pool, context=RunContext(models=models, passes=Passes(device="cpu"))
    )
    entry = score(run)
    assert sorted(entry.frame()["score"].to_list()) == [-float(i) for i in range(20, 0, -1)]
    assert entry.note["prepared"][0] == "a checkpoint every 1 steps, not 500: the run has 4 steps."
    columns = [e["part"] for e in store.computed() if e["step"] == "observe"]
    assert len(columns) >= 4  # one table a checkpoint
