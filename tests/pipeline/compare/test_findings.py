"""Findings in words: the Markdown of a leaderboard, its sentences and its flags."""

import re

import numpy as np
import pytest
from boards import ROWS, board, evaluation

from gristmill.pipeline.compare import findings
from gristmill.pipeline.numerics.effects import effect


@pytest.fixture(scope="module")
def found():
    return board(
        {"good": 0.1, "bad": -0.1, "long": 0.1, "vain": 0.0},
        budgets=("10%", "30%"),
        evaluations={
            "maths": evaluation(),
            "answers | right": evaluation(unit="share right"),
            "law": evaluation("elsewhere"),
        },
        times={"answers | right": -1.0, "law": -0.5},
        cost={"good": 2.5 * ROWS, "bad": 0.0},
    )


def tables(text):
    """The tables of a Markdown text, as lists of lists of cells."""
    made, before = [], ""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("| ---"):
            cells = [c.strip().strip("`").strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            if before.startswith("|"):
                made[-1].append(cells)
            else:
                made.append([cells])
        before = line
    return made


def test_markdown_has_a_table_a_target_and_budget_with_winners_and_losers_sorted(found):
    text = findings.markdown(found)
    assert re.findall("^##+ .*$", text, re.MULTILINE) == [
        "## maths: log-likelihood, nats a token",
        "### maths at 10%",
        "### maths at 30%",
        r"## `answers \| right`: share right",
        r"### `answers \| right` at 10%",
        r"### `answers \| right` at 30%",
    ]
    made = tables(text)
    assert len(made) == 8  # methods and controls of each
    names = [[line[0] for line in one[1:]] for one in made]
    assert sorted(names[0]) == ["bad", "good", "long", "vain"]
    assert names[0][-2:] == ["vain", "bad"]
    assert names[4][0] == "bad"  # where the sign is turned
    head, *rows = made[0]
    assert head[:3] == ["method", "rows", "cost, passes over the pool"]
    assert head[3::2][:5] == [
        "against random", "against balanced random", "against equal lengths",
        "against equal tokens", "against equal compute",
    ]  # fmt: skip
    assert head[-2:] == ["elsewhere: law", "flags"]
    for line in rows:
        o = found.outcomes["maths"]["10%"][line[0]]
        e = o.against["random"]
        assert line[3] == f"{e.value:+.4f} [{e.low:+.4f}, {e.high:+.4f}]"
        off = found.outcomes["law"]["10%"][line[0]].against["random"]
        assert line[-2] == f"{off.value:+.4f} [{off.low:+.4f}, {off.high:+.4f}]"
        assert len(line) == len(head)
    by_name = {line[0]: line for line in rows}
    assert by_name["good"][2] == "2.5"
    assert by_name["bad"][2] == "0"
    assert by_name["good"][-1] == "measures disagree, costs elsewhere"
    assert by_name["vain"][-1] == "-"
    assert [line[0] for line in made[1][1:]] == [
        "random", "all rows", "balanced random", "canary", "the base model",
    ]  # fmt: skip


def test_every_method_has_a_sentence_at_every_target_and_budget(found):
    told = [line for line in findings.markdown(found).splitlines() if line.startswith("- ")]
    assert len(told) == 16
    (good,) = [line for line in told[:4] if line.startswith("- good")]
    assert "after Holm it beats random, balanced random, random rows of its lengths" in good
    assert r"It costs on law: -0.0" in good
    assert r"on `answers \| right`." in good
    (bad,) = [line for line in told[:4] if line.startswith("- bad")]
    assert "against random; it is worse than random, balanced random (-0.1" in bad
    assert "beats" not in bad
    (vain,) = [line for line in told[:4] if line.startswith("- vain")]
    assert "against random; it is not shown to beat random, random rows of its lengths (" in vain


def test_the_premise_says_what_was_compared_and_what_could_be_seen(found):
    first = findings.markdown(found).splitlines()[0]
    models = len(found.cells)
    assert f"4 methods and their controls at budgets of 10% and 30%: {models} models" in first
    assert "each tiny-model after 3 epochs at batch size 16, under 3 training seeds" in first
    assert "random has 4 draws" in first
    assert r"`answers \| right` (10 rows, share right)" in first
    seen = [
        found.outcomes["maths"][b][m].against["random"].detectable
        for b in ("10%", "30%")
        for m in ("good", "bad", "long", "vain")
    ]
    assert f"four times in five: {min(seen):.4f} to {max(seen):.4f} on maths and" in first


def test_without_all_rows_a_cost_is_in_passes_of_a_row():
    found = board({"m": 0.1}, shared={"random": 0.0}, cost={"m": 2_500.0})
    text = findings.markdown(found)
    assert tables(text)[0][0][2] == "cost, passes of a row"
    assert tables(text)[0][1][2] == "2,500"
    assert "against balanced random" not in text


def test_query_rows_are_held_against_the_target_that_is_read():
    found = board(
        {"vain": -0.2},
        evaluations={"maths": evaluation(), "query": evaluation("query")},
        times={"query": -1.0},
    )
    assert "on its own query rows (query: +0.2" in findings.summary(found, "10%", "vain")
    assert tables(findings.markdown(found))[0][1][-1] == "fits its query rows"


def test_without_any_spread_no_limit_of_what_could_be_seen_is_named():
    arm = np.random.default_rng(0).normal(size=(1, 2, 4))
    told = findings.finding("a", "random", "maths", "10%", effect(arm, arm, list("abcd")))
    assert told.endswith("differ by the same, so its interval says nothing.")
    assert "0.0000 could" not in told
