"""Comparison: arms by hand, cells found again, effects and the gate on recipes in closed form."""

import re
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import pytest
from ingested import dataset
from rows import chat_rows

from gristmill.pipeline.compare import arms
from gristmill.pipeline.compare.cells import SftRecipe
from gristmill.pipeline.compare.comparison import CELLS, Design, compare
from gristmill.pipeline.compare.gate import Gate, judge
from gristmill.pipeline.compare.page import forest, leaderboard, page
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.schema import SCORES, uniform
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import Budget, select


def table(rows: int, sources=("a", "b")) -> pl.DataFrame:
    """Scores of a pool: source by number, tokens that grow."""
    frame = pl.DataFrame(
        {
            "id": [f"{i:04d}" for i in range(rows)],
            "source": [sources[i % len(sources)] for i in range(rows)],
            "row": list(range(rows)),
            "kind": "example",
            "tokens": [10 + i for i in range(rows)],
            "score": [float(i) for i in range(rows)],
            "reason": None,
        }
    )
    return frame.select(pl.col(c).cast(t) for c, t in SCORES.items())


@dataclass(frozen=True, kw_only=True)
class Worth:
    """A recipe in closed form: a model is as good as the mean worth of the rows it saw."""

    base: str = "base:0"
    noise: float = 0.05
    best: float = Training().learning_rate  # at which it learns all of it
    trained: list[tuple[tuple[str, ...], int, float]] = field(default_factory=list)

    def training(self) -> Training:
        return Training()

    def train(self, context, rows, *, seed, rate):
        self.trained.append((tuple(rows["id"]), seed, rate))
        worth = float(rows["quality"].mean()) * min(rate, self.best) / self.best
        return f"{seed}:{worth:.6f}"

    def measure(self, context, model, test):
        seed, _, worth = model.rpartition(":")
        shared = self.noise * uniform(0, f"seed {seed}", "s")
        value = [float(worth) + shared + uniform(1, f"{model}", i) * 0.1 for i in test["id"]]
        return test.select("id", value=pl.Series(value), weight=pl.lit(1.0))


@pytest.fixture
def context(store):
    return RunContext(models=Models(store=store, roles={}), passes=Passes(device="cpu"))


@pytest.fixture
def pool(store, tmp_path):
    """Forty chats; the meta column `quality` is what a row is worth."""
    rows = chat_rows(40)
    return dataset(store, tmp_path, "pool", [{**r, "quality": i / 40} for i, r in enumerate(rows)])


class Pool:
    """A pool in memory, whose rows say what they are worth."""

    def __init__(self, rows):
        self.rows = rows

    def frame(self):
        return self.rows


def world(rows=40):
    scores = table(rows)
    return Pool(scores.select("id", quality=pl.col("score") / rows)), scores


def held_rows(n=60, name="t"):
    return pl.DataFrame({"id": [f"{name}{i}" for i in range(n)]})


def design(recipe, **settings):
    return Design(recipe=recipe, tests={"maths": held_rows()}, **settings)


# ---------------------------------------------------------------- arms


def test_controls_take_the_budget_and_are_drawn_by_id():
    scores = table(40)
    budget = Budget(rows=10)
    made = arms.random(scores, budget, 3)
    assert [d.height for d in made.draws] == [10] * 3
    assert len({tuple(d["id"]) for d in made.draws}) == 3
    backwards = arms.random(scores.reverse(), budget, 3)
    assert all(a.equals(b) for a, b in zip(made.draws, backwards.draws, strict=True))
    assert set(arms.canary(scores, budget).draws[0]["id"]) not in [set(d["id"]) for d in made.draws]


def test_balanced_random_takes_alike_of_every_source():
    scores = table(40).with_columns(
        source=pl.when(pl.col("row") < 36).then(pl.lit("large")).otherwise(pl.lit("small"))
    )
    for draw in arms.balanced_random(scores, Budget(rows=8), 4).draws:
        taken = scores.join(draw, on="id", how="semi")["source"].value_counts()
        assert dict(taken.iter_rows()) == {"large": 4, "small": 4}


def test_the_longest_rows_and_all_rows_and_none():
    scores = table(40)
    (longest,) = arms.length(scores, Budget(rows=5)).draws
    assert longest["id"].to_list() == ["0035", "0036", "0037", "0038", "0039"]
    assert arms.full(scores).draws[0].height == 40
    assert arms.zero_shot().draws == ()


def test_length_matched_rows_have_the_lengths_of_the_methods_rows():
    scores = table(200)
    ledger = select(scores, rule=Top(), budget=Budget(rows=20))  # the longest
    own = arms.method("long", ledger)
    matched = arms.length_matched(scores, own, 5)
    assert (matched.name, matched.matched) == ("length_matched:long", "long")
    for draw in matched.draws:
        lengths = scores.join(draw, on="id", how="semi")["tokens"]
        assert draw.height == 20
        assert lengths.min() >= 190
    mixed = scores.with_columns(score=-(pl.col("row") - 100).abs().cast(pl.Float64))
    middle = arms.method("middle", select(mixed, rule=Top(), budget=Budget(rows=20)))
    draw = arms.length_matched(scores, middle, 1).draws[0]
    assert scores.join(draw, on="id", how="semi")["tokens"].mean() == pytest.approx(110, abs=12)


def test_copies_are_chosen_once_and_weights_are_kept():
    scores = table(4)
    ledger = select(scores, rule=Top()).with_columns(weight=pl.lit(0.5))
    twice = pl.concat([ledger, ledger])
    assert arms.method("m", twice).draws[0].rows() == [(f"{i:04d}", 0.5) for i in range(4)]


# ---------------------------------------------------------------- comparison and gate


def board(recipe=None, *, good=True, seeds=(0, 1, 2), **settings):
    pool, scores = world()
    budget = Budget(rows=8)
    order = scores if good else scores.with_columns(score=-pl.col("score"))
    method = arms.method("method", select(order, rule=Top(), budget=budget))
    made = [
        method,
        *arms.controls(
            scores, budget, ("random", "balanced_random", "canary", "full", "zero_shot"), 5
        ),
        arms.length_matched(scores, method, 5),
    ]
    return compare(CONTEXT, pool, made, design(recipe or Worth(), seeds=seeds, **settings))


class _Context:
    def advance(self, what, done, total):
        pass


CONTEXT = _Context()


def test_a_selection_of_worthy_rows_is_promoted_and_one_of_poor_rows_is_held():
    found = board()
    verdict = judge(found, "method", Gate())
    assert verdict.promoted
    assert verdict.sentence.startswith("Promoted: method beats random on maths: +0.")
    assert verdict.facts["low"] > 0
    assert found.outcomes["maths"]["method"].adjusted < 0.05
    assert found.outcomes["maths"]["random"].effect is None
    held = judge(board(good=False), "method", Gate())
    assert not held.promoted
    assert "is worse than random" in held.sentence
    canary = judge(found, "canary", Gate())
    assert not canary.promoted
    assert "is not told apart from random" in canary.sentence or "worse" in canary.sentence


def test_the_table_has_a_row_for_each_cell():
    found = board(seeds=(0, 1, 2))
    cells = found.cells
    assert cells.columns == list(CELLS)
    count = dict(cells.group_by("arm").len().iter_rows())
    assert count == {
        "method": 3, "random": 15, "balanced_random": 15, "canary": 3, "full": 3, "zero_shot": 1,
        "length_matched:method": 15,
    }  # fmt: skip
    assert found.items.height == cells.height * 60
    zero = cells.filter(arm="zero_shot").row(0, named=True)
    assert (zero["rows"], zero["draw"], zero["model"]) == (0, -1, "base:0")


def test_every_arm_gets_the_rate_that_is_best_on_rows_of_its_own():
    recipe = Worth(best=3e-3)
    found = board(recipe, validation=held_rows(20, "v"), rates=(1e-3, 3e-3, 1e-2))
    assert set(found.cells.filter(pl.col("draw") >= 0)["rate"]) == {3e-3}
    alone = Worth()
    board(alone)
    assert {rate for _, _, rate in alone.trained} == {Training().learning_rate}


def test_what_no_model_could_be_asked_leaves_every_arm():
    @dataclass(frozen=True, kw_only=True)
    class Blind(Worth):
        def measure(self, context, model, test):
            found = super().measure(context, model, test)
            return found if not model.startswith("1:") else found.filter(pl.col("id") != "t0")

    values = {n: o.value_DSN.shape[2] for n, o in board(Blind()).outcomes["maths"].items()}
    assert set(values.values()) == {59}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": (0, 1)}, "3 training seeds or more"),
        ({"against": "nobody"}, "2 draws or more of 'nobody', better 5; it is missing"),
        ({"against": "canary"}, "it is there with 1 draw"),
        ({"tests": {"maths": pl.DataFrame({"id": ["0039", "x"]})}}, "1 rows of 'maths' are among"),
        (
            {"tests": {"a": held_rows(3), "b": held_rows(3)}},
            "row t0 is in 'a' and in 'b': keep one",
        ),
        ({"validation": held_rows(5)}, "row t0 is in 'maths' and in 'validation'"),
    ],
)
def test_comparisons_that_prove_nothing_are_refused(change, sentence):
    pool, scores = world()
    made = arms.controls(scores, Budget(rows=8), ("random", "canary", "full"), 3)
    with pytest.raises(ValueError, match=sentence):
        compare(CONTEXT, pool, made, replace(design(Worth()), **change))


def test_two_arms_of_one_name_and_gates_that_say_nothing_are_refused():
    pool, scores = world()
    made = arms.controls(scores, Budget(rows=8), ("random", "canary"), 3)
    with pytest.raises(ValueError, match="two arms are called 'random'"):
        compare(CONTEXT, pool, [*made, made[0]], design(Worth()))
    found = compare(CONTEXT, pool, made, design(Worth()))
    with pytest.raises(ValueError, match="no 'm' on 'maths'; its test sets: maths"):
        judge(found, "m", Gate())
    with pytest.raises(ValueError, match="is the control that the gate compares with"):
        judge(found, "random", Gate())
    with pytest.raises(ValueError, match="level is 95"):
        Gate(level=95)


def test_random_in_disguise_is_seldom_promoted():
    promoted = 0
    for trial in range(40):
        pool, scores = world(60)
        renamed = scores.with_columns(id=pl.format("{}-{}", pl.lit(trial), "id"))
        names = pool.rows.with_columns(id=pl.format("{}-{}", pl.lit(trial), "id"))
        made = arms.controls(renamed, Budget(rows=12), ("random", "canary"), 5)
        found = compare(CONTEXT, Pool(names), made, design(Worth()))
        promoted += judge(found, "canary", Gate()).promoted
    assert promoted <= 3


# ---------------------------------------------------------------- real training


def test_cells_are_found_again_and_a_real_model_learns(context, store, tiny, tmp_path):
    rows = chat_rows(16)
    pool = dataset(store, tmp_path, "pool", rows)
    held = dataset(store, tmp_path, "held", chat_rows(6, start=50)).frame()
    training = Training(epochs=1, batch_size=4, micro_batch=4, learning_rate=3e-3, max_length=128)
    recipe = SftRecipe(base=str(tiny), stage=Sft(training=training))
    ids = pool.frame()["id"]
    scores = table(16).with_columns(id=ids)
    made = arms.controls(scores, Budget(rows=4), ("random", "full", "zero_shot"), 2)
    asked = Design(recipe=recipe, tests={"chats": held}, seeds=(0, 1, 2))
    first = compare(context, pool, made, asked)
    computed = len(store.computed())
    again = compare(context, pool, made, asked)
    assert len(store.computed()) == computed  # nothing was trained or measured twice
    assert again.cells.equals(first.cells)
    full, none = (first.outcomes["chats"][n] for n in ("full", "zero_shot"))
    assert full.value_DSN.mean() > none.value_DSN.mean()  # sixteen rows teach something
    assert np.isfinite(full.effect.value)


# ---------------------------------------------------------------- page


def test_the_page_says_who_beat_random_and_has_the_numbers_beside():
    found = board()
    text = page(found, Gate(), title="Maths <10 %>", costs={"method": 1.5}).decode()
    assert "<h1>Maths &lt;10 %&gt;</h1>" in text
    assert "method beats random on maths: +0." in text
    assert "<script" not in text
    for arm in found.outcomes["maths"]:
        assert arm in text
    table = leaderboard(found)
    assert table.height == 7
    line = table.filter(arm="method").row(0, named=True)
    assert line["low"] < line["effect"] < line["high"]
    assert line["p_holm"] is not None
    assert table.filter(arm="random").row(0, named=True)["effect"] is None


def test_a_forest_plot_holds_every_interval_and_the_line_of_no_effect():
    ranked = [o for o in board().outcomes["maths"].values() if o.effect]
    drawn = forest(ranked).inline.text
    assert drawn.count("<circle") == len(ranked)
    places = [float(x) for x in re.findall(r'x[12]="([-0-9.]+)"', drawn)]
    assert min(places) >= 0
    assert max(places) <= 360
