"""Selection: oracles of every rule, the ledger's promises, and properties over random tables."""

import math
import random
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.pipeline.numerics.ordering import best_first, fitting
from gristmill.pipeline.records.schema import KEY, LEDGER, SCORES
from gristmill.pipeline.selection import possible
from gristmill.pipeline.selection.cascade import Stage, cascade, decided
from gristmill.pipeline.selection.rules import rule_named, rules
from gristmill.pipeline.selection.rules.band import Band
from gristmill.pipeline.selection.rules.curriculum import Curriculum
from gristmill.pipeline.selection.rules.gumbel import Gumbel
from gristmill.pipeline.selection.rules.mixture import Mixture
from gristmill.pipeline.selection.rules.round_robin import RoundRobin
from gristmill.pipeline.selection.rules.stratified import Stratified
from gristmill.pipeline.selection.rules.threshold import Threshold
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.rules.weighted import Weighted
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.pipeline.selection.shortfall import shortfalls


def table(score, *, source="s", tokens=10, reason=None, ids=None, **parts):
    """A table of scores; a plain value represents every row."""
    n = len(score)
    names = ids or [f"{i:04d}" for i in range(n)]
    spread = {"source": source, "tokens": tokens, "reason": reason}
    columns = {k: v if isinstance(v, list) else [v] * n for k, v in spread.items()}
    frame = {"id": names, "row": list(range(n)), "kind": ["example"] * n, "score": score}
    whole = pl.DataFrame({**columns, **frame, **parts}, schema_overrides=SCORES, strict=False)
    return whole.select(*SCORES, *parts)


def kept(ledger):
    """Ids of the kept rows in the rule's order."""
    return ledger.filter(verdict="kept").sort("order")["id"].to_list()


def kept_numbers(ledger):
    return [int(i) for i in kept(ledger)]


def reasons(ledger):
    return dict(Counter(ledger["reason"].to_list()))


# ---- budgets


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10%", Budget(fraction=0.1)),
        ("12.5 %", Budget(fraction=0.125)),
        ("500", Budget(rows=500)),
        ("1,000 rows", Budget(rows=1000)),
        ("20000tok", Budget(tokens=20000)),
        ("20_000 tokens", Budget(tokens=20000)),
    ],
)
def test_budget_is_read_as_written(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "many", "0.1", "1.5tok", "-3", "10%%", "5 GB", "%"])
def test_budget_that_is_none_is_named(text):
    with pytest.raises(ValueError, match=r"such as 10%, 500 or 20000tok; found"):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "give exactly one of rows, fraction and tokens; found none."),
        ({"rows": 500, "fraction": 0.05}, "found rows=500 and fraction=0.05."),
        ({"rows": 0}, "a budget of rows must be above 0; found 0."),
        ({"tokens": -1}, "a budget of tokens must be above 0; found -1."),
        ({"fraction": 10.0}, r"a fraction is at most 1; found 10.0 \(write rows=10\?\)."),
        ({"fraction": math.nan}, "a budget of fraction must be above 0; found nan."),
    ],
)
def test_budget_wants_exactly_one(given_, said):
    with pytest.raises(ValueError, match=said):
        Budget(**given_)


def test_a_fraction_is_rounded_down_and_is_at_least_one_row():
    assert Budget(fraction=0.29).amount(100) == 29  # 0.29 * 100 is 28.999... in binary
    assert Budget(fraction=0.1).amount(39) == 3
    assert Budget(fraction=0.001).amount(10) == 1
    assert Budget(fraction=0.5).amount(0) == 0
    assert Budget(fraction=1.0).amount(7) == 7


def test_a_fraction_is_of_the_candidates_scored_or_not():
    scores = table(
        [None if i >= 2 else 1.0 for i in range(20)] + [1.0, None],
        ids=[f"{i:04d}" for i in range(20)] + ["0000", "bad"],
        reason=[None] * 2 + ["not_reached"] * 18 + [None, "quarantine: broken JSON"],
    )
    ledger = select(scores, rule=Top(), budget=Budget(fraction=0.1))
    assert kept_numbers(ledger) == [0, 1]
    assert reasons(ledger) == {
        None: 2,
        "unscored: not_reached": 18,
        "exact_duplicate": 1,
        "quarantine: broken JSON": 1,
    }


def test_tokens_skip_what_does_not_fit():
    scores = table([5.0, 4, 3, 2, 1], tokens=[60, 50, 30, 20, 10])
    assert kept_numbers(select(scores, rule=Top(), budget=Budget(tokens=100))) == [0, 2, 4]
    missing = scores.with_columns(tokens=pl.when(pl.col("row") != 3).then("tokens"))
    with pytest.raises(ValueError, match=r"1 have none, first id 0003: score with a tokenizer"):
        select(missing, rule=Top(), budget=Budget(tokens=100))
    assert len(kept(select(missing, rule=Top(), budget=Budget(rows=5)))) == 5


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 200), st.integers(1, 7))
def test_fitting_is_the_plain_walk(costs, remaining, chunk):
    taken, left = [], remaining
    for cost in costs:
        taken.append(cost <= left)
        left -= cost if cost <= left else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gristmill.pipeline.numerics.ordering.CHUNK", chunk)
        assert fitting(np.array(costs, np.int64), remaining).tolist() == taken


# ---- rules


def test_top_breaks_ties_by_id():
    scores = table([1.0, 2, 2, 1, 2], ids=["e", "d", "b", "a", "c"])
    ledger = select(scores, rule=Top(), budget=Budget(rows=4))
    assert kept(ledger) == ["b", "c", "d", "a"]
    assert dict(ledger.select("id", "rank").rows()) == {"b": 1, "c": 2, "d": 3, "a": 4, "e": 5}
    assert kept(select(table([0.0, -0.0, 0.0]), rule=Top())) == ["0000", "0001", "0002"]


names = st.text("aé漢\0", max_size=10) | st.sampled_from(["prefixes", "prefixes of", "prefixes to"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(names, st.sampled_from([-1.0, -0.0, 0.0, 2.5]), max_size=20))
def test_ranking_is_by_score_and_then_the_bytes_of_the_id(scores):
    frame = pl.DataFrame(
        {"id": list(scores), "score": list(scores.values())},
        schema={"id": pl.String, "score": pl.Float64},
    )
    want = sorted(scores, key=lambda i: (-scores[i], i.encode()))
    assert frame["id"].gather(best_first(frame)).to_list() == want


def test_threshold_keeps_its_edges_and_names_the_side():
    scores = table([0.1, 0.2, 0.3, 0.4])
    low = select(scores, rule=Threshold(min=0.2))
    assert kept_numbers(low) == [3, 2, 1]
    assert reasons(low) == {None: 3, "below_threshold": 1}
    assert reasons(select(scores, rule=Threshold(max=0.2))) == {None: 2, "above_threshold": 2}
    both = select(scores, rule=Threshold(min=0.2, max=0.3), budget=Budget(rows=1))
    assert reasons(both) == {None: 1, "outside_threshold": 2, "below_budget": 1}
    with pytest.raises(ValueError, match="needs min, max or both"):
        Threshold()


def test_weights_are_the_scores_above_zero():
    scores = table([0.5, -0.2, 0.0, 0.9])
    plain = select(scores, rule=Weighted())
    assert kept_numbers(plain) == [3, 0]
    assert plain.filter(verdict="kept").sort("order")["weight"].to_list() == [0.9, 0.5]
    assert reasons(plain) == {None: 2, "no_positive_weight": 2}
    stretched = select(scores, rule=Weighted(stretch=True), budget=Budget(rows=2))
    weights = stretched.filter(verdict="kept").sort("order")["weight"].to_list()
    assert weights == pytest.approx([1.0, 0.7 / 1.1])
    assert reasons(stretched) == {None: 2, "no_positive_weight": 1, "below_budget": 1}


def test_band_is_strict_between_linear_quantiles():
    hundred = select(table([float(i) for i in range(100)]), rule=Band())
    assert sorted(kept_numbers(hundred)) == list(range(10, 90))
    assert reasons(hundred) == {None: 80, "outside_band": 20}
    ten = select(table([float(i) for i in range(10)]), rule=Band())
    assert sorted(kept_numbers(ten)) == list(range(1, 9))
    few = select(table([float(i) for i in range(9)]), rule=Band(), budget=Budget(rows=3))
    assert kept_numbers(few) == [4, 3, 5]  # the middle first, then its neighbours by id


def test_band_of_values_and_of_two_parts():
    scores = table([0.0, 1, 2, 3, 4])
    values = select(scores, rule=Band(low=0, high=4, unit="value"))
    assert kept_numbers(values) == [2, 1, 3]
    n = 100
    parts = {"score_a": [float(i) for i in range(n)], "score_b": [float(-i) for i in range(n)]}
    parts["score_b"][50] = math.nan
    both = select(table([0.0] * n, **parts), rule=Band(columns=("score_a", "score_b")))
    a, b = np.array(parts["score_a"]), np.array(parts["score_b"])
    inside = (a > np.quantile(a, 0.1)) & (a < np.quantile(a, 0.9))
    inside &= (b > np.nanquantile(b, 0.1)) & (b < np.nanquantile(b, 0.9))
    assert sorted(kept_numbers(both)) == np.flatnonzero(inside).tolist()
    assert not inside[50]
    with pytest.raises(ValueError, match=r"quantiles lie in \[0, 1\]"):
        Band(low=-1, high=3)
    with pytest.raises(ValueError, match="low < high"):
        Band(low=0.9, high=0.1)


def sizes(ledger, by="source"):
    return dict(ledger.filter(verdict="kept").group_by(by).len().rows())


def test_balanced_strata_share_out_what_is_left():
    sources = ["a"] * 10 + ["b"] * 100 + ["c"] * 1000
    score = np.random.default_rng(0).normal(size=1110).tolist()
    scores = table(score, source=sources)
    ledger = select(scores, rule=Stratified(), budget=Budget(rows=60))
    assert sizes(ledger) == {"a": 10, "b": 25, "c": 25}
    for source in "bc":  # the best of each
        own = scores.filter(source=source).sort("score", descending=True)["id"][:25]
        mine = ledger.filter(verdict="kept", source=source)["id"]
        assert set(mine) == set(own)
    shares = select(scores, rule=Stratified(balanced=False), budget=Budget(rows=111))
    assert sizes(shares) == {"a": 1, "b": 10, "c": 100}


def test_strata_share_tokens_and_any_column():
    scores = table([9.0, 8, 7, 6, 5, 4, 3, 2], source=list("aaaabbbb"), tokens=[40] * 4 + [10] * 4)
    ledger = select(scores, rule=Stratified(), budget=Budget(tokens=80))
    assert sizes(ledger) == {"a": 1, "b": 4}  # 40 tokens each, not as many rows
    extra = scores.select(*KEY, license=pl.Series(["mit", None] * 4))
    ledger = select(scores, rule=Stratified(by="license"), budget=Budget(rows=4), extra=extra[::-1])
    joined = ledger.join(extra, on=KEY)
    assert sizes(joined, "license") == {"mit": 2, None: 2}
    with pytest.raises(ValueError, match="Stratified needs the column 'license', which neither"):
        select(scores, rule=Stratified(by="license"))


def test_round_robin_retries_the_same_target():
    similarity = np.array([[0.9, 0.8, 0.1, 0.2], [0.95, 0.3, 0.7, 0.1]])
    parts = {f"score_target_{j}": row.tolist() for j, row in enumerate(similarity)}
    scores = table(similarity.max(axis=0).tolist(), **parts)
    assert kept_numbers(select(scores, rule=RoundRobin(), budget=Budget(rows=4))) == [0, 2, 1, 3]
    assert kept_numbers(select(scores, rule=RoundRobin(), budget=Budget(rows=2))) == [0, 2]
    unseen = scores.with_columns(
        score_target_0=pl.Series([None, None, 0.1, 0.2]), score_target_1=None
    )
    rest = select(unseen.cast({"score_target_1": pl.Float64}), rule=RoundRobin())
    assert kept_numbers(rest) == [3, 2]
    with pytest.raises(
        ValueError, match=r"one score column per target, named score_task_<j>; found"
    ):
        select(scores, rule=RoundRobin(prefix="score_task_"))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 10_000))
def test_round_robin_is_the_plain_loop(targets, rows, seed):
    values = np.random.default_rng(seed).integers(0, 5, (targets, rows)) / 4
    parts = {f"score_target_{j}": values[j].tolist() for j in range(targets)}
    used: list[int] = []
    while len(used) < rows:
        for j in range(targets):
            free = [i for i in range(rows) if i not in used]
            if free:
                used.append(min(free, key=lambda i: (-values[j][i], i)))
    ledger = select(table(values.max(axis=0).tolist(), **parts), rule=RoundRobin())
    assert kept_numbers(ledger) == used


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(0, 10_000))
def test_shares_of_targets_hold_at_every_budget(shares, seed):
    """Each target finds its own rows best; before any runs out it has its part of every prefix."""
    rows, targets = 60, len(shares)
    values = np.random.default_rng(seed).random((targets, rows)) + 10 * (
        np.arange(rows) % targets == np.arange(targets)[:, None]
    )
    parts = {f"score_target_{j}": values[j].tolist() for j in range(targets)}
    rule = RoundRobin(shares={str(j): share for j, share in enumerate(shares)})
    order = kept_numbers(select(table(values.max(axis=0).tolist(), **parts), rule=rule))
    assert sorted(order) == list(range(rows))
    of = np.array(order) % targets
    part_S = np.array(shares) / sum(shares)
    for taken in range(1, rows // targets):  # no target can have run out of its own
        have_S = np.bincount(of[:taken], minlength=targets)
        assert (np.abs(have_S - taken * part_S) < targets).all()


def test_shares_of_targets_name_all_of_them():
    scores = table([1.0, 2.0], score_target_a=[1.0, 2.0], score_target_b=[2.0, 1.0])
    with pytest.raises(ValueError, match="shares name a, c, and the scores have the targets a, b"):
        select(scores, rule=RoundRobin(shares={"a": 1, "c": 2}))
    with pytest.raises(ValueError, match="shares must be above 0; found"):
        RoundRobin(shares={"a": 0})


def test_gumbel_draws_in_proportion_to_the_weights():
    weights = np.array([1, 2, 3, 4]) / 10
    frame = pl.DataFrame({"id": ["0000", "0001", "0002", "0003"], "score": np.log(weights)})
    drawn = [Gumbel(seed=seed).order(frame, math.inf)["index"][0] for seed in range(600)]
    firsts = Counter(frame["id"].gather(drawn))
    shares = np.array([firsts[f"{i:04d}"] for i in range(4)]) / 600
    error = np.sqrt(weights * (1 - weights) / 600)
    assert (np.abs(shares - weights) < 4 * error).all()
    scores = table([0.0, 1, 2, 3])
    assert kept_numbers(select(scores, rule=Gumbel(temperature=1e-6))) == [3, 2, 1, 0]
    assert kept(select(scores, rule=Gumbel(seed=3))) == kept(select(scores, rule=Gumbel(seed=3)))
    with pytest.raises(ValueError, match="above 0; found 0"):
        Gumbel(temperature=0)


# ---- mixtures


def test_shares_are_met_by_largest_remainder():
    scores = table([float(i) for i in range(300)], source=["a", "b", "c"] * 100)
    rule = Mixture(shares={"a": 1, "b": 1, "c": 1})
    assert sizes(select(scores, rule=rule, budget=Budget(rows=100))) == {"a": 34, "b": 33, "c": 33}
    rule = Mixture(shares={"a": 0.5, "b": 0.3, "c": 0.2})
    ledger = select(scores, rule=rule, budget=Budget(rows=10))
    assert sizes(ledger) == {"a": 5, "b": 3, "c": 2}
    assert kept_numbers(ledger)[:2] == [299, 298]  # best first over all groups
    ledger = select(scores, rule=Mixture(shares={"a": 3, "b": 1}), budget=Budget(rows=8))
    assert sizes(ledger) == {"a": 6, "b": 2}
    assert set(reasons(ledger)) == {None, "outside_mixture"}
    assert sizes(select(scores, rule=rule)) == {"a": 100, "b": 60, "c": 40}  # as far as all reach


def test_a_short_group_gives_all_it_has_and_says_so():
    scores = table([float(i) for i in range(110)], source=["a"] * 10 + ["b"] * 100)
    rule, budget = Mixture(shares={"a": 0.5, "b": 0.5}), Budget(rows=40)
    ledger = select(scores, rule=rule, budget=budget)
    assert sizes(ledger) == {"a": 10, "b": 20}
    of_budget, of_share = shortfalls(ledger, rule, budget)
    assert of_share == "mixture: source 'a' has 10 of the 20 that its share asks for."
    assert of_budget == (
        "stage 'select' kept 30 of the 40 rows that its budget names: of 110 candidates, 80 were "
        "left out by the rule."
    )
    rule = Mixture(shares={"missing": 1, "b": 1})
    _, of_share = shortfalls(select(scores, rule=rule, budget=budget), rule, budget)
    assert "'missing' has 0 of the 20" in of_share
    (of_share,) = shortfalls(select(scores, rule=rule), rule, None)
    assert "'missing' has no row with a score" in of_share


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(rows=8), "kept 6 of the 8 rows that its budget names: of 10 candidates, 4 have no"),
        (Budget(fraction=0.7), "kept 6 of the 7 rows"),
        (Budget(tokens=90), "kept 60 of the 90 tokens"),
        (Budget(tokens=59), None),  # the last row does not fit: no row is wanting
        (Budget(rows=6), None),
        (None, None),
    ],
)
def test_what_a_budget_lacks_is_told(budget, said):
    scores = table([float(i) for i in range(6)] + [None] * 4, reason=[None] * 6 + ["why"] * 4)
    found = shortfalls(select(scores, rule=Top(), budget=budget), Top(), budget)
    assert (found == []) if said is None else (len(found) == 1 and said in found[0]), found


def test_tokens_that_stay_empty_because_a_rule_passes_rows_over_are_told():
    scores = table([float(i) for i in range(10)])
    rule, budget = Threshold(min=5), Budget(tokens=100)
    (said,) = shortfalls(select(scores, rule=rule, budget=budget), rule, budget)
    assert "kept 50 of the 100 tokens" in said
    assert "5 were left out by the rule" in said


def test_a_name_that_no_row_has_is_refused():
    scores = table([1.0, 2.0], source=["medqa", "web"])
    for rule in (Mixture(shares={"medquad": 1, "web": 1}), Mixture(caps={"medquad": 0.2})):
        with pytest.raises(ValueError, match="source 'medquad', which no row has") as error:
            decided(scores, rule, None)
        assert str(error.value).endswith("there are: medqa, web; did you mean 'medqa'?")
    assert not possible.nameless(Mixture(shares={"web": 1}), scores)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Stratified(by="length_stratum"), "reads the column 'length_stratum', which neither"),
        (Mixture(by="sourcce", caps={"a": 1}), "did you mean 'source'?"),
        (Band(columns=("score_ifd",)), None),
        (Curriculum(by="tokens"), "tokenizer of the role target"),
        (Curriculum(by="user_id", within="own_source"), None),
    ],
)
def test_a_column_that_nothing_makes_is_known_before_any_score(rule, said):
    found = possible.unreadable(rule, ["ifd"], counted=False)
    assert (found == []) if said is None else (len(found) == 1 and said in found[0]), found


def test_upsampling_is_a_weight_and_fills_the_share():
    scores = table([float(i) for i in range(110)], source=["a"] * 10 + ["b"] * 100)
    rule = Mixture(shares={"a": 0.5, "b": 0.5}, upsample=3)
    ledger = select(scores, rule=rule, budget=Budget(rows=50)).filter(verdict="kept")
    weight = dict(ledger.group_by("source").agg(pl.sum("weight")).rows())
    assert weight == {"a": 25.0, "b": 25.0}
    assert ledger.filter(source="a")["weight"].unique().to_list() == [2.5]
    ledger = select(scores, rule=rule, budget=Budget(rows=80))
    *_, said = shortfalls(ledger, rule, Budget(rows=80))
    assert "10 of the 40 that its share asks for, even if each counts for 3" in said
    assert ledger.filter(verdict="kept", source="a")["weight"].unique().to_list() == [3.0]


def test_caps_hold_for_what_is_kept():
    scores = table([float(i) for i in range(130)], source=["b"] * 30 + ["web"] * 100)
    rule = Mixture(caps={"web": 0.2})
    full = select(scores, rule=rule, budget=Budget(rows=20))
    assert sizes(full) == {"web": 4, "b": 16}
    short = select(scores, rule=rule, budget=Budget(rows=100))
    assert sizes(short) == {"web": 7, "b": 30}  # 7 of 37 is the most that 20 % allows
    with pytest.raises(ValueError, match="together allow 70% of what is kept"):
        select(scores, rule=Mixture(caps={"web": 0.2, "b": 0.5}))


def test_mixture_says_what_is_wrong_with_it():
    for given_, said in (
        ({}, "either shares or caps"),
        ({"shares": {"a": 1}, "caps": {"a": 1}}, "either shares or caps"),
        ({"shares": {"a": 0}}, "shares must be above 0"),
        ({"caps": {"a": 1.2}}, r"caps must lie in \(0, 1\]"),
        ({"shares": {"a": 1}, "upsample": 0.5}, "at least 1; found 0.5"),
        ({"caps": {"a": 1}, "upsample": 2}, "upsample serves shares only"),
    ):
        with pytest.raises(ValueError, match=said):
            Mixture(**given_)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=60),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1),
    st.integers(1, 40),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_mixture_is_within_one_row_of_its_target(sources, shares, remaining, tokens, rng):
    cost = [rng.randint(1, 9) if tokens else 1 for _ in sources]
    scores = table([rng.random() for _ in sources], source=sources, tokens=cost)
    budget = Budget(tokens=remaining) if tokens else Budget(rows=remaining)
    ledger = select(scores, rule=Mixture(shares=shares), budget=budget)
    said = shortfalls(ledger, Mixture(shares=shares), budget)
    short = {s.split("'")[1] for s in said if s.startswith("mixture: ")}
    taken = ledger.filter(verdict="kept")
    assert sum(taken["tokens"] if tokens else [1] * taken.height) <= remaining
    for group in "abcd":
        stock = [c for s, c in zip(sources, cost, strict=True) if s == group]
        target = remaining * shares.get(group, 0) / sum(shares.values())
        mine = taken.filter(source=group)
        got = mine["tokens"].sum() if tokens else mine.height
        one_row = max(stock, default=1)
        if group in short:
            assert got == sum(stock) < target + 1
        else:
            assert abs(got - target) < one_row + 1  # the share itself is rounded to a whole token
            if not tokens:
                assert abs(got - target) < 1


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=60),
    st.dictionaries(st.sampled_from("ab"), st.sampled_from([0.1, 0.25, 0.3, 0.5]), min_size=1),
    st.integers(1, 60),
)
def test_caps_are_never_exceeded_and_never_wasteful(sources, caps, remaining):
    scores = table([float(i) for i in range(len(sources))], source=sources)
    if set(sources) <= set(caps) and sum(caps[s] for s in set(sources)) < 1:
        with pytest.raises(ValueError, match="raise them"):
            select(scores, rule=Mixture(caps=caps), budget=Budget(rows=remaining))
        return
    got = sizes(select(scores, rule=Mixture(caps=caps), budget=Budget(rows=remaining)))
    total = sum(got.values())
    assert total <= remaining
    assert all(got.get(g, 0) <= c * total + 1e-9 for g, c in caps.items())
    stock = Counter(sources)
    reachable = [
        n
        for n in range(min(remaining, len(sources)) + 1)
        if sum(min(k, math.floor(caps.get(g, 1) * n + 1e-9)) for g, k in stock.items()) >= n
    ]
    assert total == max(reachable)


# ---- curriculum, cascade


def test_curriculum_keeps_the_best_and_ascends():
    scores = table([5.0, 1, 4, 2, 3], tokens=[9, 1, 7, 3, 8])
    assert kept_numbers(select(scores, rule=Curriculum(), budget=Budget(rows=3))) == [4, 2, 0]
    by_length = select(scores, rule=Curriculum(by="tokens"), budget=Budget(rows=3))
    assert kept_numbers(by_length) == [2, 4, 0]
    sources = ["hard"] * 4 + ["easy"] * 4
    score = [14.0, 13, 12, 11, 4, 3, 2, 1]
    ledger = select(table(score, source=sources), rule=Curriculum(within="source"))
    assert ledger.filter(verdict="kept").sort("order")["score"].to_list() == [
        1, 11, 2, 12, 3, 13, 4, 14,
    ]  # fmt: skip


def test_cascade_tells_where_a_row_fell():
    n = 20
    cheap = table([float(i) for i in range(n)], ids=[f"{i:04d}" for i in range(n)])
    first = Stage(name="cheap", scores=cheap, rule=Top(), budget=Budget(fraction=0.5))
    # the expensive scores exist for the rows that are still there, in any order
    expensive = cheap.filter(pl.col("score") >= 10)[::-1].with_columns(
        score=-pl.col("score"), score_part=pl.lit(1.0)
    )
    second = Stage(name="expensive", scores=expensive, rule=Top(), budget=Budget(rows=3))
    ledger = cascade([first, second])
    assert ledger["id"].to_list() == cheap["id"].to_list()
    assert kept_numbers(ledger) == [10, 11, 12]
    fell = dict(ledger.filter(verdict="dropped").group_by("stage").len().rows())
    assert fell == {"cheap": 10, "expensive": 7}
    assert ledger["score_cheap"].to_list() == cheap["score"].to_list()
    assert ledger.filter(verdict="kept")["rank_cheap"].to_list() == [10, 9, 8]
    after = list(LEDGER).index("score") + 1
    assert ledger.columns[after : after + 3] == ["score_part", "score_cheap", "rank_cheap"]
    with pytest.raises(
        ValueError, match=r"stage 'expensive' lack 1 rows .* first id 0019: score them"
    ):
        cascade([first, Stage(name="expensive", scores=expensive[1:], rule=Top())])
    with pytest.raises(ValueError, match="distinct names"):
        cascade([first, first])


def test_cascade_carries_notes_weights_and_quarantine_along():
    scores = table(
        [4.0, 3, 2, 1, 4, None],
        ids=["a", "b", "c", "d", "a", "x"],
        source=["s", "s", "t", "t", "t", "t"],
        reason=[None] * 5 + ["quarantine: broken JSON"],
    )
    clusters = scores.select(*KEY, cluster=pl.lit("k"))
    drop = scores.filter(id="d").select(*KEY, contaminates=pl.lit("gsm8k"), reason=pl.lit("leak"))
    ledger = cascade(
        [
            Stage(
                name="mix",
                scores=scores,
                rule=Mixture(shares={"s": 1, "t": 1}, upsample=2),
                budget=Budget(rows=4),
            ),
            Stage(name="best", scores=scores, rule=Top(), budget=Budget(rows=2)),
            Stage(name="last", scores=scores, rule=Threshold(max=3)),
        ],
        drops=[drop],
        extra=clusters,
    )
    told = {r["id"] + r["source"]: r for r in ledger.iter_rows(named=True)}
    assert told["at"]["duplicate_of"] == "a"
    assert told["dt"]["contaminates"] == "gsm8k"
    assert told["dt"]["reason"] == "leak"
    assert told["xt"]["verdict"] == "quarantined"
    assert told["as"]["reason"] == "above_threshold"
    assert told["as"]["stage"] == "last"
    assert told["ct"]["stage"] == "best"
    assert told["bs"]["verdict"] == "kept"
    assert set(ledger["cluster"]) == {"k"}


# ---- the ledger


def test_the_ledger_has_its_columns_and_every_reason():
    scores = table(
        [5.0, 4, 3, 2, None, math.inf, math.nan, 5, None],
        ids=["a", "b", "c", "d", "e", "f", "g", "a", "q"],
        reason=[
            None,
            None,
            None,
            None,
            "empty_answer",
            None,
            None,
            None,
            "quarantine: no messages",
        ],
        score_part=[1.0] * 9,
    )
    drop = scores.filter(id="b").select(
        *KEY, reason=pl.lit("near_duplicate"), duplicate_of=pl.lit("a")
    )
    ledger = select(scores, rule=Top(), budget=Budget(rows=2), drops=[drop])
    after = list(LEDGER).index("score") + 1
    columns = list(LEDGER)
    columns.insert(after, "score_part")
    assert ledger.columns == [*columns, "order"]
    assert {c: ledger.schema[c] for c in LEDGER} == LEDGER
    assert ledger.select(KEY).equals(scores.select(KEY))
    assert ledger.select("verdict", "reason", "stage", "duplicate_of", "rank", "weight").rows() == [
        ("kept", None, "select", None, 1, 1.0),
        ("dropped", "near_duplicate", "clean", "a", None, None),
        ("kept", None, "select", None, 2, 1.0),
        ("dropped", "below_budget", "select", None, 3, None),
        ("dropped", "unscored: empty_answer", "select", None, None, None),
        ("dropped", "unscored: the score is not a finite number", "select", None, None, None),
        ("dropped", "unscored: the score is not a finite number", "select", None, None, None),
        ("dropped", "exact_duplicate", "duplicates", "a", None, None),
        ("quarantined", "quarantine: no messages", "ingest", None, None, None),
    ]
    assert ledger["order"].to_list() == [1, None, 2, 3, None, None, None, None, None]


def test_drops_and_copies():
    scores = table([1.0] * 6, ids=["a", "a", "a", "b", "b", "c"], source=list("xyzxyz"))
    licence = scores.filter(id="a", source="x").select(*KEY, reason=pl.lit("license"))
    leak = scores.filter(id="b", source="x").select(
        *KEY, contaminates=pl.lit("gsm8k"), reason=pl.lit("contaminated"), stage=pl.lit("gate")
    )
    late = scores.filter(id="a", source="x").select(*KEY, reason=pl.lit("too late"))
    ledger = select(scores, rule=Top(), drops=[licence, leak, late])
    told = {(r["id"], r["source"]): r for r in ledger.iter_rows(named=True)}
    assert told["a", "x"]["reason"] == "license"  # of that source only: the next copy stays
    assert told["a", "y"]["verdict"] == "kept"
    assert told["a", "z"]["reason"] == "exact_duplicate"
    assert told["b", "y"]["reason"] == "contaminated"  # a leaked text leaks from every source
    assert told["b", "y"]["contaminates"] == "gsm8k"
    assert told["b", "y"]["stage"] == "gate"
    assert told["c", "z"]["verdict"] == "kept"
    # the reason is the first frame's, and the leak is one all the same
    elsewhere = scores.filter(id="b", source="x").select(*KEY, reason=pl.lit("license"))
    ledger = select(scores, rule=Top(), drops=[elsewhere, leak])
    assert ledger.filter(id="b")["reason"].to_list() == ["license", "contaminated"]
    # who stays is in the cluster of those that went for it; a stranger in none
    near = scores.filter(id="b", source="x").select(
        *KEY, reason=pl.lit("near_duplicate"), duplicate_of=pl.lit("c"), cluster=pl.lit("c")
    )
    ledger = select(scores, rule=Top(), drops=[near])
    clusters = {(r["id"], r["source"]): r["cluster"] for r in ledger.iter_rows(named=True)}
    assert clusters["b", "x"] == clusters["c", "z"] == "c"
    assert clusters["a", "x"] == clusters["a", "y"] == "a"
    assert clusters["b", "y"] is None
    stray = leak.with_columns(row=pl.lit(99, pl.Int64))
    with pytest.raises(
        ValueError, match="1 dropped rows are not among the scores, first id b of x"
    ):
        select(scores, rule=Top(), drops=[stray])


def test_wrong_tables_are_named():
    scores = table([1.0, 2.0])
    with pytest.raises(ValueError, match=r"scores lacks the columns \['tokens'\]"):
        select(scores.drop("tokens"), rule=Top())
    with pytest.raises(ValueError, match=r"4 rows of scores share their key, first id=0000"):
        select(pl.concat([scores, scores]), rule=Top())


def test_nothing_in_nothing_out():
    for rule in (Top(), Band(), Stratified(), Gumbel(), Curriculum(), Mixture(shares={"s": 1})):
        assert select(table([]), rule=rule).height == 0
        none = select(table([None], reason="empty_answer"), rule=rule)
        assert none["verdict"].to_list() == ["dropped"]


RULES = [
    Top(),
    Threshold(min=0.3),
    Band(low=0.2, high=0.9),
    Stratified(),
    Stratified(balanced=False),
    RoundRobin(prefix="score_target_"),
    Gumbel(temperature=0.5),
    Mixture(shares={"s": 2, "t": 1}),
    Mixture(caps={"s": 0.5}),
    Curriculum(),
    Curriculum(within="source"),
]


@st.composite
def pools(draw):
    """Tables with copies, quarantined and unscored rows, ties and several sources."""
    n = draw(st.integers(1, 40))
    rows = []
    for i in range(n):
        name = f"{draw(st.integers(0, 30)):02d}"
        level = draw(st.sampled_from([None, *range(5)]))
        bad = draw(st.integers(0, 9)) == 0
        reason = "quarantine: broken" if bad else "no answer" if level is None else None
        rows.append((name, draw(st.sampled_from("st")), i, None if bad else level, reason))
    once = {
        name: (level, reason)
        for name, _, _, level, reason in rows
        if reason != "quarantine: broken"
    }
    fixed = [
        (f"bad{i}", s, i, None, r) if r == "quarantine: broken" else (name, s, i, *once[name])
        for name, s, i, _, r in rows
    ]
    names, sources, places, levels, why = map(list, zip(*fixed, strict=True))
    tokens = {name: 1 + hash_of(name) % 9 for name in names}
    score = [None if v is None else v / 4 for v in levels]
    return table(
        score,
        ids=names,
        source=sources,
        reason=why,
        tokens=[tokens[name] for name in names],
        score_target_0=score,
        score_target_1=[None if v is None else 1 - v for v in score],
    ).with_columns(row=pl.Series(places, dtype=pl.Int64))


def hash_of(name):
    return sum(ord(c) * 7 for c in name)


budgets = st.one_of(
    st.none(),
    st.integers(1, 40).map(lambda n: Budget(rows=n)),
    st.sampled_from([0.05, 0.29, 0.5, 1.0]).map(lambda f: Budget(fraction=f)),
    st.integers(1, 120).map(lambda n: Budget(tokens=n)),
)


@settings(max_examples=120, deadline=None)
@given(pools(), st.sampled_from(RULES), budgets, st.randoms(use_true_random=False))
def test_every_row_once_within_budget_whatever_the_order(scores, rule, budget, rng):
    try:
        ledger = select(scores, rule=rule, budget=budget)
    except ValueError as error:
        if "caps of all groups" not in str(error):  # only source s, capped at a half
            raise
        return
    shuffled = scores[rng.sample(range(scores.height), scores.height)]
    again = select(shuffled, rule=rule, budget=budget)
    assert again.sort(KEY).equals(ledger.sort(KEY))
    assert ledger.select(KEY).equals(scores.select(KEY))
    assert ledger["verdict"].is_in(["kept", "dropped", "quarantined"]).all()
    taken = ledger.filter(verdict="kept")
    assert taken["id"].is_unique().all()
    assert taken["score"].null_count() == 0
    assert ledger.filter(pl.col("verdict") != "kept")["reason"].null_count() == 0
    assert ledger["stage"].null_count() == 0
    quarantined = ledger["verdict"] == "quarantined"
    assert quarantined.equals(scores["reason"].fill_null("").str.starts_with("quarantine:"))
    candidates = ledger.filter(pl.col("verdict") != "quarantined")["id"].n_unique()
    if budget is not None:
        used = taken["tokens"].sum() if budget.tokens else taken.height
        assert used <= budget.amount(candidates)
    order = taken["order"].to_list()
    assert len(set(order)) == len(order)
    ranks = ledger["rank"].drop_nulls().sort().to_list()
    assert ranks == list(range(1, len(ranks) + 1))
    best = ledger.filter(pl.col("rank").is_not_null()).sort("rank")["score"]
    assert best.is_sorted(descending=True)


def test_a_larger_budget_only_adds_rows():
    rng = random.Random(0)
    scores = table([rng.random() for _ in range(60)], source=[rng.choice("ab") for _ in range(60)])
    for rule in (Top(), Stratified(), Gumbel(), Band()):
        small = select(scores, rule=rule, budget=Budget(rows=10))
        large = select(scores, rule=rule, budget=Budget(rows=20))
        assert kept(large)[:10] == kept(small)
        would_enter = small.filter(pl.col("order").is_between(11, 20)).sort("order")["id"]
        assert kept(large)[10:] == would_enter.to_list()


# ---- names


def test_rules_are_found_by_name():
    names = "top threshold weighted band stratified round_robin gumbel mixture curriculum"
    assert set(rules()) == {*names.split(), "multinomial"}
    assert rule_named("band", {"low": "0.2", "columns": "score_a,score_b"}) == Band(
        low=0.2, columns=("score_a", "score_b")
    )
    shares = rule_named("mixture", {"shares": "hf:a:0.5,b:2", "upsample": 3})
    assert shares == Mixture(shares={"hf:a": 0.5, "b": 2.0}, upsample=3.0)
    assert rule_named("stratified", {"balanced": "false"}) == Stratified(balanced=False)
    assert rule_named("top") == Top()


@pytest.mark.parametrize(
    ("name", "given_", "said"),
    [
        ("best", {}, "there is no rule 'best'; there are: band, curriculum, gumbel"),
        ("top", {"k": 3}, "rule top has no setting 'k'; it has: none."),
        ("band", {"lo": 3}, "rule band has no setting 'lo'; it has: low, high, unit, columns."),
        ("band", {"low": "x"}, "rule band.low = 'x': input should be a valid number"),
        ("band", {"unit": "rank"}, "rule band.unit = 'rank': input should be 'quantile' or"),
        ("mixture", {"shares": "a"}, "rule mixture.shares = 'a'"),
    ],
)
def test_unknown_names_and_values_are_told(name, given_, said):
    with pytest.raises(ValueError, match=said):
        rule_named(name, given_)
