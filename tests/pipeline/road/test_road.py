"""The road: what cleaning and earlier stages drop costs nothing, and nothing is read twice."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from rows import chat_rows, pair_rows, write_jsonl

from gristmill.flows import steps
from gristmill.flows.config import CurateConfig
from gristmill.pipeline.clean.cleaning import Cleaning, clean
from gristmill.pipeline.clean.filters.length import Length
from gristmill.pipeline.contracts import Artifact, Prepared, Recipe, Scorer
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.road import stages
from gristmill.pipeline.road.stages import Stage, rows_left
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget
from gristmill.pipeline.signals.forward_signals import HiddenState, MeanLoss
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors import catalog

CPU = Passes(device="cpu")
SEEN: dict[str, set[str]] = {"shown": set(), "prepared": set()}


@pytest.fixture
def context(store, tiny):
    roles = ("target", "embedder", "proxy", "judge", "reference")
    models = Models(store=store, roles={r: (str(tiny),) for r in roles})
    return RunContext(models=models, passes=replace(CPU, batch_tokens=1))


def pool_of(store, tmp_path, rows, *, name="pool", shard_rows=7):
    path = write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return ingest(store, [Source(path=str(path))], shard_rows=shard_rows)


def some(dataset, rows):
    """Drops of the rows with these numbers."""
    return dataset.frame(list(KEY)).filter(pl.col("row").is_in(rows))


def test_a_masked_pool_is_the_pool_without_rows(store, tmp_path):
    pool = pool_of(store, tmp_path, chat_rows(20))
    masked = pool.without([some(pool, [0, 3, 19]), some(pool, [3])])
    assert masked.frame(["row"])["row"].to_list() == [r for r in range(20) if r not in (0, 3, 19)]
    assert sum(b.height for b in masked.blocks()) == 17
    assert pool.frame(["id"]).height == 20, "nothing is changed in place"
    assert masked.content != pool.content
    twice = pool.without([some(pool, [19])]).without([some(pool, [0, 3])])
    assert twice.content == masked.content, "which rows are gone, not how they went"
    assert pool.without([some(pool, [])]).content == pool.content


def test_rows_observed_under_one_mask_are_found_under_another(store, tmp_path, context, read):
    pool = pool_of(store, tmp_path, chat_rows(24))
    signals = [MeanLoss(), HiddenState()]
    whole = observe(context, pool, signals).frame()
    read.clear()
    masked = pool.without([some(pool, [1, 2, 9, 23])])
    again = observe(context, masked, signals).frame()
    assert sum(read) == 0, "all of it was there"
    kept = whole.join(again.select("id"), on="id", how="semi")
    assert again.sort("id").equals(kept.sort("id"))


def test_a_wider_mask_costs_the_rows_that_come_back(store, tmp_path, context, read):
    pool = pool_of(store, tmp_path, chat_rows(24))
    chat = context.models.load(context.models.files("target")[0], CPU).chat
    length = {
        r["id"]: len(Dialogue().encode(r, chat).ids) for r in pool.frame().iter_rows(named=True)
    }
    gone = some(pool, [2, 3, 11, 12, 13, 20])
    observe(context, pool.without([gone]), [MeanLoss()])
    assert sum(read) == sum(length.values()) - sum(length[i] for i in gone["id"])
    read.clear()
    seen = observe(context, pool.without([some(pool, [2])]), [MeanLoss(), HiddenState()])
    assert seen.frame()["loss.dialogue.answer"].null_count() == 0
    # of the rows that come back both signals are read, of the others the new one
    assert sum(read) == sum(length.values()) - length[some(pool, [2])["id"][0]]
    read.clear()
    observe(context, pool.without([some(pool, [5])]), [MeanLoss(), HiddenState()])
    assert sum(read) == length[some(pool, [2])["id"][0]]


def test_another_source_costs_its_own_rows(store, tmp_path, context, read):
    first = write_jsonl(tmp_path / "a.jsonl", chat_rows(12))
    second = write_jsonl(tmp_path / "b.jsonl", chat_rows(5, start=40))
    one = ingest(store, [Source(path=str(first))], shard_rows=5)
    observe(context, one.without([some(one, [4])]), [MeanLoss()])
    read.clear()
    both = ingest(store, [Source(path=str(first)), Source(path=str(second))], shard_rows=5)
    gone = both.frame(list(KEY)).filter(pl.col("row") == 4, pl.col("source") == "a")
    observe(context, both.without([gone]), [MeanLoss()])
    chat = context.models.load(context.models.files("target")[0], CPU).chat
    new = both.frame().filter(pl.col("source") == "b").iter_rows(named=True)
    assert sum(read) == sum(len(Dialogue().encode(r, chat).ids) for r in new)


@dataclass(frozen=True, kw_only=True)
class Watching(Dialogue):
    """A dialogue that remembers which records were shown."""

    @property
    def name(self):
        return "watched"

    def encode(self, record, chat):
        SEEN["shown"].add(record["id"])
        return Dialogue().encode(record, chat)


@dataclass(frozen=True, kw_only=True)
class Remember(Recipe):
    """A recipe that remembers which records it was given."""

    artifact: ClassVar[str] = "memory"

    def make(self, context):
        ids = context.pool.frame(["id"])["id"]
        SEEN["prepared"] |= set(ids)
        found = Artifact(name="memory", content=str(len(ids)), path=context.models.store.root)
        return Prepared(artifact=found)


@dataclass(frozen=True, kw_only=True)
class Watcher(Scorer):
    """A scorer that says which rows it, and its recipe, see."""

    view: Watching = field(default_factory=Watching)

    @property
    def signals(self):
        return (MeanLoss(view=self.view),)

    @property
    def recipes(self):
        return (Remember(),)

    def score(self, pool, reference=None):
        return pool.frame().select("id", score=pl.col(self.signals[0].column))


def test_a_dropped_row_is_in_no_preparation_and_in_no_pass(store, tmp_path, context):
    for ids in SEEN.values():
        ids.clear()
    rows = chat_rows(30)
    rows += rows[:6]  # copies
    pool = pool_of(store, tmp_path, rows)
    target = pool_of(store, tmp_path, chat_rows(2, start=4), name="target")
    cleaning = Cleaning(filters=(Length(min_words=5),))
    drops = clean(context, pool, cleaning, target)
    reasons = pl.concat([d.frame() for d in drops])["reason"].unique().to_list()
    assert sorted(reasons) == ["exact_duplicate", "reference_row", "too_short"]
    left = rows_left(pool, [d.frame() for d in drops])
    stage = Stage(name="select", scorers={"watch": Watcher()}, by="watch", rule=rule_named("top"))
    runs = stages.prepared(stages.score_runs(context, stage, left, None))
    stages.observe_together(list(runs.values()))
    score(runs["watch"])
    survivors = set(left.frame(["id"])["id"])
    assert 10 < len(survivors) < 30
    assert {"shown": survivors, "prepared": survivors} == SEEN


def test_a_cascade_reads_backwards_only_what_the_stage_before_kept(tmp_path, tiny):
    rows = chat_rows(40)
    config = CurateConfig.model_validate(
        {
            "name": "narrow",
            "sources": [{"path": str(write_jsonl(tmp_path / "pool.jsonl", rows + rows[:8]))}],
            "reference": [
                {"path": str(write_jsonl(tmp_path / "target.jsonl", chat_rows(3, start=80)))}
            ],
            "models": {"target": str(tiny)},
            "scorers": [{"method": m} for m in ("length", "rds_plus", "gradient_cosine")],
            "select": {
                "by": "gradient_cosine",
                "budget": "3",
                "before": [
                    {"by": "length", "budget": "50%"},
                    {"by": "rds_plus", "budget": "40%"},
                ],
            },
            "passes": {"device": "cpu"},
            "store": str(tmp_path / "store"),
            "export": {"root": str(tmp_path / "curated")},
            "shard_rows": 16,
        }
    )
    curation = steps.Curation(config=config)
    kept, seen, _ = steps.walk(curation)
    from gristmill.pipeline.records.store import open_entry

    ledger = open_entry(kept.ledger).frame()
    assert dict(ledger.group_by("stage").len().iter_rows()) == {
        "clean": 8,
        "1-length": 20,
        "2-rds_plus": 12,
        "select": 8,
    }
    assert ledger["verdict"].value_counts().sort("verdict")["count"].to_list() == [45, 3]
    last = set(curation.left(seen).frame(["id"])["id"])
    assert len(last) == 8
    observed = [
        set(pl.read_parquet(p, columns=["id"])["id"])
        for p in (tmp_path / "store" / "observe").glob("*/*/*.parquet")
        if any(c.startswith("gradient.") for c in pl.read_parquet_schema(p))
    ]
    targets = set(curation_reference(curation))
    assert set().union(*observed) - targets == last, "no backward pass of a row that fell before"
    scores = ledger.filter(pl.col("stage") == "2-rds_plus")
    assert scores["score"].null_count() == 12, "nor a score"
    assert scores["score_1-length"].null_count() == 0, "what an earlier stage said stays"


def curation_reference(curation):
    from gristmill.pipeline.records.dataset import Dataset

    return Dataset.open(curation.ingest("reference")).frame(["id"])["id"]


GREEDY = {
    "kcenter": chat_rows,
    "facility_location": chat_rows,
    "facility_location_knn": chat_rows,
    "spice": chat_rows,
    "active_dpo": pair_rows,
    "deita": chat_rows,
}


@pytest.mark.parametrize("method", sorted(GREEDY))
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_greedy_picks_fill_the_budget_as_if_the_drops_had_never_been(
    method, seed, store, tmp_path, context
):
    """40 rows asked of what random drops leave: as many, and the same as of a pool without them."""
    rows = GREEDY[method](48)
    pool = pool_of(store, tmp_path, rows)
    gone = np.random.default_rng(seed).permutation(48)[: 12 + 4 * seed]
    left = pool.without([some(pool, gone)])
    bare = pool_of(
        store, tmp_path, [r for i, r in enumerate(rows) if i not in set(gone)], name="bare"
    )
    settings = {"threshold": "1.0"} if method == "deita" else {}
    scorer = catalog.make(method, settings)
    assert scorer.greedy or method == "deita"
    stage = Stage(
        name="select",
        scorers={method: scorer},
        by=method,
        rule=rule_named("top"),
        budget=Budget(rows=20),
    )
    kept = []
    for dataset in (left, bare):
        run = stages.prepared(stages.score_runs(context, stage, dataset, None))[method]
        entry = score(run)
        ledger = stages.select_stage(context, [stage], dataset, {method: entry}, [])
        kept.append(ledger.frame().filter(verdict="kept").sort("order")["id"].to_list())
    assert len(kept[0]) == 20
    assert kept[0] == kept[1]


def test_a_greedy_method_picks_what_the_budget_asks(store, tmp_path, context):
    pool = pool_of(store, tmp_path, chat_rows(30))
    for budget, picked in ((Budget(rows=17), 17), (Budget(fraction=0.5), 15), (None, 30)):
        stage = Stage(
            name="select",
            scorers={"kcenter": catalog.make("kcenter")},
            by="kcenter",
            rule=rule_named("top"),
            budget=budget,
        )
        run = stages.score_runs(context, stage, pool, None)["kcenter"]
        assert score(run).frame()["score"].count() == picked
    apart = ScoreRun(scorer=catalog.make("kcenter", {"picks": "4"}), dataset=pool, context=context)
    assert score(apart).frame()["score"].count() == 4
    tokens = Stage(
        name="select",
        scorers={"kcenter": catalog.make("kcenter")},
        by="kcenter",
        rule=rule_named("top"),
        budget=Budget(tokens=600),
    )
    run = stages.score_runs(context, tokens, pool, None)["kcenter"]
    table = score(run).frame()
    fit = int((table["tokens"].sort().cum_sum() <= 600).sum())
    assert table["score"].count() == fit, "no selection of 600 tokens holds more rows"


def test_the_best_copy_is_a_second_look(tmp_path, tiny):
    """Near copies go on together, and the one that the deciding scorer prefers stays."""
    text = "the old mill by the river grinds the corn of all the farms along the road to the town"
    rows = [
        {"question": "Say something.", "answer": f"{text} {'and more ' * n}".strip()}
        for n in (0, 2, 1)
    ]
    rows += [{"question": f"What is {i}?", "answer": f"A number, {i}."} for i in range(5)]
    base = {
        "name": "copies",
        "sources": [{"path": str(write_jsonl(tmp_path / "pool.jsonl", rows))}],
        "models": {"target": str(tiny)},
        "scorers": [{"method": "length"}],
        "clean": {"near": {"threshold": 0.5, "bands": 40, "rows": 3}},
        "select": {"budget": "100%"},
        "passes": {"device": "cpu"},
        "store": str(tmp_path / "store"),
        "export": {"root": str(tmp_path / "curated")},
    }
    from gristmill.pipeline.records.store import open_entry

    stayed = {}
    for keep in ("first", "best"):
        run = {**base, "clean": {**base["clean"], "keep": keep}}
        rows_, _, _ = steps.walk(steps.Curation(config=CurateConfig.model_validate(run)))
        ledger = open_entry(rows_.ledger).frame()
        near = ledger.filter(reason="near_duplicate")
        assert near.height == 2
        stayed[keep] = ledger.filter(pl.col("row") < 3, verdict="kept")["row"].to_list()
    assert stayed == {"first": [0], "best": [1]}
    greedy = {
        **base,
        "models": {"embedder": str(tiny)},
        "scorers": [{"method": "kcenter"}],
        "clean": {"keep": "best"},
    }
    with pytest.raises(ValueError, match=r"scores a row by the rows around it: use keep: first"):
        steps.Curation(config=CurateConfig.model_validate(greedy)).stages  # noqa: B018


def test_one_method_stands_twice_with_other_settings(tmp_path, tiny):
    from gristmill.pipeline.records.store import open_entry

    run = {
        "name": "twice",
        "sources": [{"path": str(write_jsonl(tmp_path / "pool.jsonl", chat_rows(12)))}],
        "models": {"target": str(tiny)},
        "scorers": [
            {"method": "random"},
            {"method": "random", "name": "other", "settings": {"seed": 1}},
        ],
        "select": {"by": "other", "budget": "4"},
        "store": str(tmp_path / "store"),
        "export": {"root": str(tmp_path / "curated")},
    }
    rows, _, scores = steps.walk(steps.Curation(config=CurateConfig.model_validate(run)))
    assert sorted(scores) == ["other", "random"]
    ledger = open_entry(rows.ledger).frame()
    assert ledger["score"].equals(ledger["score_other"], check_names=False)
    assert not ledger["score"].equals(ledger["score_random"], check_names=False)
    twice = {**run, "scorers": [{"method": "random"}, {"method": "random"}]}
    with pytest.raises(ValueError, match="two scorers are called random"):
        CurateConfig.model_validate(twice)


def test_a_method_brings_its_own_rule_and_the_run_says_so(tmp_path, tiny):
    from gristmill.pipeline.selection.rules.band import Band
    from gristmill.pipeline.selection.rules.top import Top

    run = {
        "name": "pairs",
        "sources": [{"path": str(write_jsonl(tmp_path / "pool.jsonl", pair_rows(12)))}],
        "models": {"target": str(tiny)},
        "scorers": [{"method": "irm"}],
        "select": {"budget": "4"},
        "store": str(tmp_path / "store"),
        "export": {"root": str(tmp_path / "curated")},
    }
    own = steps.Curation(config=CurateConfig.model_validate(run))
    assert own.stages[0].rule == Band()
    assert steps.chosen_rule(own, 0) == [
        "stage 'select' takes rows by the rule band, which is that of irm: no rule was named."
    ]
    named = {**run, "select": {"budget": "4", "rule": "top"}}
    other = steps.Curation(config=CurateConfig.model_validate(named))
    assert other.stages[0].rule == Top()
    assert steps.chosen_rule(other, 0) == []


def test_s2l_and_ica_run_together(tmp_path, tiny):
    """One makes checkpoints in the role history, the other tables: neither is in the other's way."""
    from gristmill.pipeline.records.store import open_entry

    run = {
        "name": "both",
        "sources": [{"path": str(write_jsonl(tmp_path / "pool.jsonl", chat_rows(16)))}],
        "reference": [
            {"path": str(write_jsonl(tmp_path / "target.jsonl", chat_rows(4, start=60)))}
        ],
        "models": {"target": str(tiny), "embedder": str(tiny), "proxy": str(tiny)},
        "scorers": [
            {"method": "ica", "settings": {"k": 2}},
            {
                "method": "s2l",
                "settings": {"train": True, "training": {"epochs": 1, "learning_rate": 1e-4}},
            },
        ],
        "select": {"budget": "5"},
        "passes": {"device": "cpu", "max_length": 1024},
        "store": str(tmp_path / "store"),
        "export": {"root": str(tmp_path / "curated")},
    }
    rows, _, scores = steps.walk(steps.Curation(config=CurateConfig.model_validate(run)))
    for path in scores.values():
        assert open_entry(path).frame()["score"].count() > 10
    assert open_entry(rows.ledger).frame().filter(verdict="kept").height == 5
