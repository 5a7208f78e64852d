"""Length bias, planted labels and the pair report, against counts by hand."""

import numpy as np
import polars as pl
import pytest

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.report import pairs
from gristmill.pipeline.selection.length_bias import length_bias, length_strata, side_lengths
from gristmill.pipeline.selection.rules.band import Band
from gristmill.pipeline.selection.rules.stratified import Stratified
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.pipeline.signals.pair_signals import counts, length_table


def names(n):
    return [f"{i:03d}" for i in range(n)]


def test_length_bias_before_and_after():
    tokens = pl.DataFrame(
        {"id": names(6), "chosen_length": [9, 8, 7, 5, 5, 5], "rejected_length": [5, 5, 5, 7, 8, 9]}
    )
    scores = pl.DataFrame({"id": names(6), "score": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]})
    found = length_bias(scores, tokens, pl.Series(["000", "001", "005"]))
    assert found.row(0) == ("pool", 6, pytest.approx(1.0), 1.0, 0.5, 0.0)
    assert found.row(1) == ("kept", 3, pytest.approx(1.0), 1.0, 2 / 3, 1.0)
    flat = length_bias(scores.with_columns(score=pl.lit(1.0)), tokens)
    assert flat.row(0) == ("pool", 6, None, 0.5, 0.5, 0.0)
    nobody = length_bias(scores, tokens, pl.Series([], dtype=pl.String))
    assert nobody["rows"].to_list() == [6, 0]
    unknown = scores.with_columns(score=pl.when(pl.col("id") != "000").then("score"))
    assert length_bias(unknown, tokens)["rows"].to_list() == [5]


def test_lengths_come_from_what_was_observed():
    columns = [s.column for s in counts()]
    block = pl.DataFrame(
        {
            "id": ["a", "b"],
            columns[0]: [{"answer_tokens": 3}, {"answer_tokens": None}],
            columns[1]: [{"answer_tokens": 5}, {"answer_tokens": 2}],
        }
    )
    table = length_table(Frames(parts=(block,)))
    assert table.rows() == [("a", 3.0, 5.0), ("b", None, 2.0)]


def test_a_matched_selection_keeps_the_differences_as_they_were():
    draw = np.random.default_rng(1)
    apart = draw.integers(-20, 21, 400)
    tokens = pl.DataFrame(
        {"id": names(400), "chosen_length": 30 + apart, "rejected_length": np.full(400, 30)}
    )
    scores = pl.DataFrame(
        {
            "id": names(400),
            "source": "s",
            "row": np.arange(400),
            "kind": "pair",
            "tokens": 60,
            "score": apart + draw.normal(size=400),  # a score that is little but length
            "reason": pl.Series([None] * 400, dtype=pl.String),
        }
    )
    strata = length_strata(scores, tokens)
    assert strata["length_stratum"].n_unique() == 5
    budget = Budget(fraction=0.25)
    matched = Stratified(by="length_stratum", balanced=False)
    biased, fair = (
        length_bias(scores, tokens, ledger.filter(pl.col("verdict") == "kept")["id"])
        for ledger in (
            select(scores, rule=Top(), budget=budget),
            select(scores, rule=matched, budget=budget, extra=strata),
        )
    )
    before = biased["difference"][0]
    assert biased["difference"][1] > before + 10
    assert abs(fair["difference"][1] - before) < 4
    assert fair["rows"][1] == biased["rows"][1] == 100
    with pytest.raises(ValueError, match="at least 2 classes"):
        length_strata(scores, tokens, strata=1)


def test_lengths_in_characters_count_what_stands_in_calls():
    turns = lambda *said: [{"role": "assistant", "content": c, "extra": e} for c, e in said]  # noqa: E731
    pairs = pl.DataFrame(
        {
            "id": ["a"],
            "chosen": [turns(("four", None), ("", '{"x":1}'))],
            "rejected": [turns(("sixsix", None))],
        }
    )
    assert side_lengths(pairs).rows() == [("a", 11.0, 6.0)]


def test_every_publication_of_pairs_tells_its_length_bias(tmp_path, store):
    from published import frame, publish, stored
    from published import pairs as pairs_of

    from gristmill.pipeline.report.build import report

    records = frame(pairs_of(30), "pair")
    dataset = stored(store, records, "pair")
    folder = publish(
        tmp_path / "out",
        store,
        rows=pairs_of(30),
        kind="pair",
        keep=10,
        report=lambda facts: report(facts, dataset),
    )
    page = (folder / "report.html").read_text("utf-8")
    assert 'id="length-bias"' in page
    assert "Does a score prefer pairs whose chosen response is longer?" in page


def test_what_a_rule_keeps_of_planted_labels():
    ids = names(200)
    wrong = pl.Series(ids[:40])
    low = pl.DataFrame({"id": ids, "score": np.arange(200.0)})  # the planted ones are the lowest
    none = pl.DataFrame({"id": ids, "score": [(i * 7919) % 200 for i in range(200)]})
    none = none.with_columns(pl.col("score").cast(pl.Float64))
    rules = {"low": Band(low=0.1, high=0.9), "none": Band(low=0.1, high=0.9)}
    found = pairs.planted({"low": low, "none": none}, rules, wrong)
    first = found.row(0, named=True)
    assert first["kept"] == 160
    assert first["wrong_before"] == 0.2
    assert first["wrong_after"] == 20 / 160
    assert (first["out_wrong"], first["out_right"]) == (0.5, 20 / 160)
    assert first["ratio"] == pytest.approx(4.0)
    assert 1 < first["low"] < 4 < first["high"]
    second = found.row(1, named=True)
    assert second["low"] < 1 < second["high"]
    top = pairs.planted({"low": low}, {"low": Top()}, wrong, remaining=100).row(0, named=True)
    assert (top["kept"], top["wrong_after"], top["out_wrong"]) == (100, 0.0, 1.0)
    everything = pairs.planted({"low": low}, {"low": Top()}, wrong).row(0, named=True)
    assert (everything["out_right"], everything["ratio"]) == (0.0, None)


def test_figures_of_the_pair_report():
    draw = np.random.default_rng(0)
    scores = pl.DataFrame(
        {
            "id": names(60),
            "score": draw.random(60),
            "score_lossdiff": draw.normal(size=60),
            "score_irm": draw.normal(size=60),
        }
    )
    drawn = pairs.plane(scores).text
    assert drawn.count('class="cut"') == 4  # two edges of each band
    inside = Band(columns=pairs.PLANE).order(scores, np.inf).height
    taken = drawn.partition("dots t")[0].rpartition("<path")[2]
    assert taken.count("M") == inside
    assert f">{inside}<" in drawn  # the table's last line
    empty = scores.with_columns(score_irm=pl.lit(None, pl.Float64))
    assert "No pair has both scores" in pairs.plane(empty).text
    shown = pairs.margins({"irm": scores["score_irm"]}, scores["score"] > 0.5).text
    assert shown.count("<figure>") == 1
    other = scores.with_columns(score=-pl.col("score"))
    listed, heat = pairs.agreement({"a": scores, "b": other}, 20)
    assert listed == ["a", "b"]
    assert "-1.00" in heat.text
    kept = pairs.kept_by(scores.with_columns(score=pl.lit(None, pl.Float64)), Top())
    assert kept.is_empty()
