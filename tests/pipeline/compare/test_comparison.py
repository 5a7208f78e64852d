"""Comparison: arms by hand, cells found again, effects and the gate on recipes in closed form."""

import re
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import pytest
from ingested import dataset
from rows import chat_rows

from gristmill.pipeline.compare import arms, findings
from gristmill.pipeline.compare.cells import StageRecipe
from gristmill.pipeline.compare.comparison import Design, compare, missing
from gristmill.pipeline.compare.forest import forest
from gristmill.pipeline.compare.gate import Gate, judge
from gristmill.pipeline.compare.measures import Evaluation, LogLikelihood
from gristmill.pipeline.compare.page import page
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
    trained_cells: list[tuple[tuple[str, ...], int, float]] = field(default_factory=list)

    @property
    def training(self):
        return Training()

    def trained(self, context, rows, *, seed, rate):
        return (tuple(rows["id"]), seed, rate) in self.trained_cells

    @property
    def facts(self):
        return {"noise": self.noise}

    def fingerprint(self, context, model):
        return model

    def train(self, context, rows, *, seed, rate):
        self.trained_cells.append((tuple(rows["id"]), seed, rate))
        worth = float(rows["quality"].mean()) * min(rate, self.best) / self.best
        return f"{seed}:{worth:.6f}"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a model of `Worth` is worth, on rows that differ a little."""

    rows: pl.DataFrame
    noise: float = 0.05
    times: float = 1.0  # -1: elsewhere, or another metric, says the contrary
    unit: str = "worth"
    blind: str = ""  # models of a seed that cannot be asked the first row

    @property
    def facts(self):
        return {"rows": self.rows["id"].to_list(), "times": self.times}

    def items(self, context, model):
        seed, _, worth = model.rpartition(":")
        shared = self.noise * uniform(0, f"seed {seed}", "s")
        value = [
            self.times * float(worth) + shared + uniform(1, f"{model}", i) * 0.1
            for i in self.rows["id"]
        ]
        found = self.rows.select("id", value=pl.Series(value), weight=pl.lit(1.0))
        return found[1:] if self.blind and model.startswith(self.blind) else found


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


def evaluation(name="t", n=60, part="target", **settings):
    return Evaluation(measure=Asked(rows=held_rows(n, name), **settings), part=part)


def design(recipe, **settings):
    return Design(recipe=recipe, **{"evaluations": {"maths": evaluation()}, **settings})


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
    rows = [(f"{i:04d}", 0.5, 10 + i) for i in range(4)]
    assert arms.method("m", twice).draws[0].rows() == rows


def test_equal_tokens_and_equal_compute_are_drawn_beside_a_method():
    scores = table(200)
    own = arms.method("long", select(scores, rule=Top(), budget=Budget(rows=20)), cost=180.0)
    wanted = own.draws[0]["tokens"].sum()
    tokens = arms.token_matched(scores, own, 4)
    assert len({tuple(d["id"]) for d in tokens.draws}) == 4
    for draw in tokens.draws:
        assert abs(draw["tokens"].sum() - wanted) <= scores["tokens"].max() / 2
        assert draw.height > 20  # the method's rows are the longest
    # 3 epochs of 3 forward passes: what the choice cost would have trained 20 rows
    compute = arms.compute_matched(scores, own, 3, trained_row=9.0)
    assert [d.height for d in compute.draws] == [40] * 3
    everything = arms.compute_matched(scores, replace(own, cost=1e6), 3, trained_row=9.0)
    assert [d.height for d in everything.draws] == [200]


# ---------------------------------------------------------------- comparison and gate


def board(recipe=None, *, good=True, lengths=None, **settings):
    pool, scores = world()
    if lengths is not None:
        scores = scores.with_columns(tokens=pl.lit(lengths, dtype=pl.Int64))
    budget = Budget(rows=8)
    order = scores if good else scores.with_columns(score=-pl.col("score"))
    method = arms.method("method", select(order, rule=Top(), budget=budget), cost=40.0)
    names = ("random", "balanced_random", "canary", "full", "zero_shot")
    made = [
        method,
        *arms.controls(scores, budget, names, 5),
        *arms.beside(scores, method, arms.MATCHED, 5, trained_row=9.0),
    ]
    return compare(CONTEXT, pool, {"20%": made}, design(recipe or Worth(), **settings))


class _Context:
    def advance(self, what, done, total):
        pass


CONTEXT = _Context()


def test_a_selection_of_worthy_rows_is_promoted_and_one_of_poor_rows_is_held():
    found = board()
    verdict = judge(found, "20%", "method", Gate())
    assert verdict.promoted
    assert verdict.sentence.startswith("Promoted: method beats random on maths at 20%: +0.")
    assert verdict.facts["low"] > 0
    outcome = found.outcomes["maths"]["20%"]["method"]
    assert set(outcome.against) == {
        "random", "balanced_random", "full", "zero_shot",
        "length_matched", "token_matched", "compute_matched",
    }  # fmt: skip
    assert outcome.adjusted["random"] < 0.05
    assert "random" not in found.outcomes["maths"]["20%"]["random"].against
    held = judge(board(good=False), "20%", "method", Gate())
    assert not held.promoted
    assert "is worse than random" in held.sentence
    canary = judge(found, "20%", "canary", Gate())
    assert not canary.promoted
    assert "is not told apart from random" in canary.sentence or "worse" in canary.sentence


def test_the_table_has_a_row_for_each_cell():
    found = board(seeds=(0, 1, 2))
    cells = findings.cells(found)
    count = dict(cells.group_by("arm").len().iter_rows())
    assert count == {
        "method": 3, "random": 15, "balanced_random": 15, "canary": 3, "full": 3, "zero_shot": 1,
        "length_matched:method": 15, "token_matched:method": 15, "compute_matched:method": 15,
    }  # fmt: skip
    assert findings.items(found).height == cells.height * 60
    zero = cells.filter(arm="zero_shot").row(0, named=True)
    assert (zero["rows"], zero["tokens"], zero["draw"], zero["model"]) == (0, 0, -1, "base:0")


def test_every_arm_gets_the_rate_that_is_best_on_rows_of_its_own():
    recipe = Worth(best=3e-3)
    found = board(recipe, validation=Asked(rows=held_rows(20, "v")), rates=(1e-3, 3e-3, 1e-2))
    assert set(findings.cells(found).filter(pl.col("draw") >= 0)["rate"]) == {3e-3}
    alone = Worth()
    board(alone)
    assert {rate for _, _, rate in alone.trained_cells} == {Training().learning_rate}


def test_what_no_model_could_be_asked_leaves_every_arm():
    found = board(evaluations={"maths": evaluation(blind="1:")}).outcomes["maths"]["20%"]
    assert {o.value_DSN.shape[2] for o in found.values()} == {59}


def test_the_table_says_what_a_method_costs_and_where_its_measures_disagree():
    found = board(
        evaluations={
            "maths": evaluation(),
            "answers": evaluation("a", times=-1.0, unit="accuracy"),
            "general": evaluation("g", part="elsewhere", times=-1.0),
        }
    )
    told = findings.flags(found, "20%", "method")
    assert any(s.startswith("It costs on general: -0.") for s in told)
    assert any(s.startswith("Its measures disagree: +0.") for s in told)
    assert len(told) == 2
    text = findings.summary(found, "20%", "method")
    assert "after Holm it beats random, balanced random, random rows of as many tokens" in text
    assert "it is not shown to beat random rows of its lengths (" in text  # the longest are best


def test_a_claim_rests_on_rows_mixture_and_lengths():
    short = {"maths": evaluation(), "law": evaluation("l", part="elsewhere", times=-1.0)}
    assert not findings.claimed(board(), "maths", "20%", "method")  # the longest rows are as good
    found = board(lengths=30, evaluations=short)
    assert findings.claimed(found, "maths", "20%", "method")
    assert not findings.claimed(found, "law", "20%", "method")


def test_a_method_that_fits_its_query_rows_alone_is_said_to():
    found = board(
        good=False,
        evaluations={
            "maths": evaluation(),
            "maths, query rows": evaluation("0039", n=8, part="query", times=-1.0),
        },
    )
    (told,) = findings.flags(found, "20%", "method")
    assert "beats random on its own query rows (maths, query rows: +0." in told
    assert "not on the test rows of maths" in told


def test_what_is_still_to_be_trained_is_counted():
    recipe, pool, scores = Worth(), *world()
    made = {"20%": arms.controls(scores, Budget(rows=8), ("random", "full", "zero_shot"), 2)}
    asked = design(recipe, validation=Asked(rows=held_rows(5, "v")), rates=(1e-3, 2e-5))
    # two draws and all rows, under three seeds; one rate more for the first draw of each arm
    assert len(missing(CONTEXT, pool, made, asked)) == 11
    compare(CONTEXT, pool, made, asked)
    assert {len(rows) for rows in missing(CONTEXT, pool, made, asked)} <= {8, 40}
    again = design(recipe, rates=(2e-5,))
    compare(CONTEXT, pool, made, again)
    assert missing(CONTEXT, pool, made, again) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": (0, 1)}, "3 training seeds or more"),
        ({"against": "nobody"}, "2 draws or more of 'nobody', better 5; it is missing"),
        ({"against": "canary"}, "it is there with 1 draw"),
        (
            {
                "evaluations": {
                    "maths": Evaluation(measure=Asked(rows=pl.DataFrame({"id": ["0039", "x"]})))
                }
            },
            "maths: 1 of 2 row repeats rows that were trained on",
        ),
        (
            {"evaluations": {"a": evaluation(n=3), "b": evaluation(n=3)}},
            "a: 3 of 3 rows repeat rows of b",
        ),
        ({"validation": Asked(rows=held_rows(5))}, "maths: 5 of 60 rows repeat rows of validation"),
    ],
)
def test_comparisons_that_prove_nothing_are_refused(change, sentence):
    pool, scores = world()
    made = arms.controls(scores, Budget(rows=8), ("random", "canary", "full"), 3)
    with pytest.raises(ValueError, match=sentence):
        compare(CONTEXT, pool, {"20%": made}, replace(design(Worth()), **change))


def test_two_arms_of_one_name_and_gates_that_say_nothing_are_refused():
    pool, scores = world()
    made = arms.controls(scores, Budget(rows=8), ("random", "canary"), 3)
    with pytest.raises(ValueError, match="two arms are called 'random'"):
        compare(CONTEXT, pool, {"20%": [*made, made[0]]}, design(Worth()))
    found = compare(CONTEXT, pool, {"20%": made}, design(Worth()))
    with pytest.raises(ValueError, match="no arm 'm' at 20%; it has"):
        judge(found, "20%", "m", Gate())
    with pytest.raises(ValueError, match="no evaluation 'law'; it has maths"):
        judge(found, "20%", "canary", Gate(evaluation="law"))
    with pytest.raises(ValueError, match="'random' stands against no control 'random'"):
        judge(found, "20%", "random", Gate())
    with pytest.raises(ValueError, match="level is 95"):
        Gate(level=95)


def test_random_in_disguise_is_seldom_promoted():
    promoted = 0
    for trial in range(40):
        pool, scores = world(60)
        renamed = scores.with_columns(id=pl.format("{}-{}", pl.lit(trial), "id"))
        names = pool.rows.with_columns(id=pl.format("{}-{}", pl.lit(trial), "id"))
        made = arms.controls(renamed, Budget(rows=12), ("random", "canary"), 5)
        found = compare(CONTEXT, Pool(names), {"20%": made}, design(Worth()))
        promoted += judge(found, "20%", "canary", Gate()).promoted
    assert promoted <= 3


# ---------------------------------------------------------------- real training


def test_cells_are_found_again_and_a_real_model_learns(context, store, tiny, tmp_path):
    rows = chat_rows(16)
    pool = dataset(store, tmp_path, "pool", rows)
    asked_rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in (("Which way is north?", "Up the hill."), ("Who sings?", "The kettle, softly."))
    ]
    held = dataset(store, tmp_path, "held", asked_rows).frame()
    training = Training(epochs=1, batch_size=4, micro_batch=4, learning_rate=3e-3, max_length=128)
    recipe = StageRecipe(base=str(tiny), stage=Sft(training=training))
    ids = pool.frame()["id"]
    scores = table(16).with_columns(id=ids)
    names = ("random", "full", "zero_shot")
    made = {"4": arms.controls(scores, Budget(rows=4), names, 2)}
    chats = Evaluation(measure=LogLikelihood(rows=held))
    asked = Design(recipe=recipe, evaluations={"chats": chats}, seeds=(0, 1, 2))
    assert len(missing(context, pool, made, asked)) == 9
    first = compare(context, pool, made, asked)
    assert missing(context, pool, made, asked) == []
    computed = len(store.computed())
    again = compare(context, pool, made, asked)
    assert len(store.computed()) == computed  # nothing was trained or measured twice
    assert findings.items(again).equals(findings.items(first))
    full, none = (first.outcomes["chats"]["4"][n] for n in ("full", "zero_shot"))
    assert full.value > none.value  # sixteen rows teach something
    assert np.isfinite(full.against["random"].value)
    assert str(store.root) not in str(findings.cells(first).rows())  # the same on any machine


# ---------------------------------------------------------------- page


def test_the_page_says_who_beat_random_and_has_the_numbers_beside():
    found = board()
    text = page(found, title="Maths <10 %>").decode().replace("<wbr>", "")
    assert "<h1>Maths &lt;10 %&gt;</h1>" in text
    assert "method at 20%: +0." in text
    assert "<script" not in text
    for arm in found.outcomes["maths"]["20%"]:
        assert arm in text
    table = findings.leaderboard(found)
    line = table.filter(arm="method", against="random").row(0, named=True)
    assert line["low"] < line["effect"] < line["high"]
    assert line["p_holm"] is not None
    assert line["cost"] == 40
    assert table.filter(arm="random", against="random").is_empty()


def test_a_forest_plot_holds_every_interval_and_the_line_of_no_effect():
    found = board().outcomes["maths"]["20%"].values()
    ranked = [o for o in found if "random" in o.against]
    drawn = forest(ranked, "random", 0.95).inline.text
    assert drawn.count("<circle") + drawn.count("<polygon") == len(ranked)
    assert drawn.count("whisker") == len(ranked)
    places = [float(x) for x in re.findall(r'x[12]="([-0-9.]+)"', drawn)]
    assert min(places) >= 0
    assert max(places) <= 360
