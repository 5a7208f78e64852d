"""Observing on engines: the same bytes and keys, each part once, device facts from the workers."""

import pickle
from dataclasses import dataclass, replace

import pytest
from deadly_signal import Deadly
from rows import chat_rows, write_jsonl

from gristmill.pipeline.engine import on_ray
from gristmill.pipeline.engine.engine import Local, UnitsLost
from gristmill.pipeline.engine.on_ray import Ray
from gristmill.pipeline.engine.processes import Processes
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe import observe as module
from gristmill.pipeline.observe.observe import model_passes, observe
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun
from gristmill.pipeline.signals.forward_signals import HiddenState, MeanLoss, SentenceEmbedding
from gristmill.pipeline.signals.gradient_signals import GradientNorm
from gristmill.selectors import catalog

SIGNALS = (MeanLoss(), HiddenState(), GradientNorm(), SentenceEmbedding())


def context_of(tiny, folder, engine, **how):
    folder.mkdir(exist_ok=True)
    models = Models(
        store=Store(root=folder), roles=dict.fromkeys(("target", "embedder"), (str(tiny),))
    )
    return RunContext(models=models, passes=Passes(device="cpu"), engine=engine, **how)


def pool_of(context, folder, rows=24, shard_rows=6):
    path = write_jsonl(folder / "pool.jsonl", chat_rows(rows))
    return ingest(context.store, [Source(path=str(path))], shard_rows=shard_rows)


def kept(store):
    """What the store holds of observations, byte for byte."""
    return {
        p.relative_to(store.root).as_posix(): p.read_bytes()
        for p in (store.root / "observe").rglob("*")
        if p.is_file() and p.name != ".stamps.json" and ".lock-" not in p.name
    }


def made(store):
    return [line["key"] for line in store.computed() if line["step"] == "observe"]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """What one process with one thread finds."""
    folder = tmp_path_factory.mktemp("whole")
    context = context_of(tiny, folder / "store", Local(threads=1))
    return context.store, observe(context, pool_of(context, folder), SIGNALS).frame()


def test_threads_that_are_pinned_are_in_the_keys_and_are_the_passes_own(tiny, tmp_path):
    import torch

    before = torch.get_num_threads()
    context = context_of(tiny, tmp_path / "store", Local(threads=before + 1))
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Counting(MeanLoss):
        def read(self, batch):
            seen.append(torch.get_num_threads())
            return super().read(batch)

    pool = pool_of(context, tmp_path, rows=6)
    observe(context, pool, [Counting()])
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
    keys = []
    for engine in (Local(), Local(threads=1), Local(threads=2)):
        (work,) = model_passes(replace(context, engine=engine), pool, [MeanLoss()])
        keys.append(work.step(MeanLoss(), 0, pool.frame(["id"])["id"]).settings.get("threads"))
    assert keys == [None, 1, 2]


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Local):
    """Workers of another kind than the driver."""

    def ask(self, question, needs):
        return replace(question(), dtype="bfloat16", threads=None)


def test_what_auto_is_is_asked_where_the_work_is_done(tiny, tmp_path):
    named = context_of(tiny, tmp_path / "store", Elsewhere(threads=1))
    assert (named.pinned.dtype, named.pinned.threads) == ("float32", 1), "cpu is cpu everywhere"
    context = replace(named, passes=Passes(device="auto"))
    pool = pool_of(context, tmp_path, rows=3)
    (work,) = model_passes(context, pool, [MeanLoss()])
    assert work.step(MeanLoss(), 0, pool.frame(["id"])["id"]).settings["dtype"] == "bfloat16"
    assert work.model([MeanLoss()]).dtype == "bfloat16"
    run = ScoreRun(scorer=catalog.make("perplexity"), dataset=pool, context=context)
    assert "bfloat16" in run.step().settings["passes"]


def test_signals_travel_to_workers():
    for method in catalog.methods():
        try:
            scorer = catalog.make(method)
        except (TypeError, ValueError):  # it has settings that must be given
            continue
        signals = (*scorer.signals, *scorer.reference_signals)
        assert pickle.loads(pickle.dumps(signals)) == signals, method


def test_a_shard_that_is_begun_again_goes_on_where_its_worker_died(
    tiny, tmp_path, monkeypatch, read
):
    monkeypatch.setattr(module, "most_of", lambda *_: 400.0)

    class Dying(Local):
        """Its worker dies once in the middle of the first shard, and another takes it up."""

        def map(self, units, worker, needs, listener):
            first = worker.open(Dies(listener))
            with pytest.raises(Death):
                first(units[0])
            half.append(sum(read))
            return super().map(units, worker, needs, listener)

    class Death(BaseException):
        pass

    class Dies:
        writer = ""

        def __init__(self, listener):
            self.told = lambda done, tokens: None

        def check(self):
            raise Death

    half = []
    context = context_of(tiny, tmp_path / "store", Dying())
    pool = pool_of(context, tmp_path, rows=12, shard_rows=12)
    observe(context, pool, SIGNALS[:2])
    whole = context_of(tiny, tmp_path / "other", Local())
    died = sum(read)
    read.clear()
    observe(whole, pool_of(whole, tmp_path, rows=12, shard_rows=12), SIGNALS[:2])
    assert 0 < half[0] < died == sum(read), "nothing is read twice"
    assert kept(context.store) == kept(whole.store)


def test_a_context_travels_without_the_model_in_memory(tiny, tmp_path):
    context = context_of(tiny, tmp_path / "store", Local())
    context.models.load(context.models.files("target")[0], context.passes)
    again = pickle.loads(pickle.dumps(context.models))
    assert context.models._resident
    assert not again._resident
    assert again.files("target") == context.models.files("target")


def engines():
    """Engines, and what has to stand for them."""
    yield pytest.param(Processes(workers=2), (), id="processes")
    for workers in (1, 2):
        mark = pytest.mark.skipif(not on_ray.there(), reason=f"no Ray: {on_ray.INSTALL}")
        yield pytest.param(Ray(workers=workers), ("two_nodes",), id=f"ray-{workers}", marks=mark)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "fixtures"), engines())
def test_two_workers_write_the_same_bytes_each_part_once(
    engine, fixtures, tiny, tmp_path, whole, request
):
    for name in fixtures:
        request.getfixturevalue(name)
    told = []
    caps = RunCaps()
    context = context_of(
        tiny, tmp_path / "store", engine, caps=caps, progress=lambda *line: told.append(line)
    )
    found = observe(context, pool_of(context, tmp_path), SIGNALS).frame()
    store, frame = whole
    assert found.equals(frame)
    assert kept(context.store) == kept(store)
    assert sorted(made(context.store)) == sorted(set(made(store)))
    names = {p.name for p in context.store.root.glob("journal-*.jsonl")}
    assert len(names) == engine.workers, "a journal each"
    assert caps.spent_tokens > 24
    assert all(what.startswith(("target", "embedder")) for what, *_ in told)
    assert {total for *_, total in told} == {24}
    assert max(done for _, done, _ in told) == 24
    before = made(context.store)
    again = replace(context, engine=Local(threads=1))
    assert observe(again, pool_of(context, tmp_path), SIGNALS).frame().equals(frame)
    assert made(context.store) == before, "a run in one process finds what workers made"


@pytest.mark.slow
@pytest.mark.skipif(not on_ray.there(), reason=f"no Ray: {on_ray.INSTALL}")
def test_a_node_that_goes_away_costs_what_it_was_at(two_nodes, tiny, tmp_path, whole):
    cluster, node = two_nodes
    gone = []

    def told(what, done, total):
        if not gone:
            cluster.remove_node(node, allow_graceful=False)
            gone.append(node)

    context = context_of(tiny, tmp_path / "store", Ray(), progress=told)
    found = observe(context, pool_of(context, tmp_path), SIGNALS).frame()
    store, frame = whole
    assert gone
    assert found.equals(frame)
    assert kept(context.store) == kept(store)
    again = [key for key in made(context.store) if made(context.store).count(key) > 1]
    assert len(again) <= 2 * 10, "only what was being done is done again"


def deadly():
    """Engines, what has to stand for them, and how they say that a worker ended."""
    yield pytest.param(Processes(workers=2), (), "exit code 9", id="processes")
    mark = pytest.mark.skipif(not on_ray.there(), reason=f"no Ray: {on_ray.INSTALL}")
    yield pytest.param(Ray(workers=2), ("two_nodes",), "its actor is gone: ", id="ray", marks=mark)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "fixtures", "why"), deadly())
def test_a_worker_that_dies_on_a_shard_leaves_that_shard_alone_to_a_rerun(
    engine, fixtures, why, tiny, tmp_path, request
):
    for name in fixtures:
        request.getfixturevalue(name)
    flag = tmp_path / "deadly"
    flag.touch()
    signals = [Deadly(flag=str(flag), word="Question 13:")]
    context = context_of(tiny, tmp_path / "store", engine)
    pool = pool_of(context, tmp_path)
    with pytest.raises(UnitsLost, match=rf"observe: target: dialogue, shard 2 \({why}"):
        observe(context, pool, signals)
    before = made(context.store)
    flag.unlink()
    assert observe(context, pool, signals).frame()["deadly"].null_count() == 0
    new = set(made(context.store)) - set(before)
    assert len(before) == 3 * len(new) > 0
