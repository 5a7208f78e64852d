"""The page of a comparison: its plots against the numbers, and what it must not keep to itself."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from boards import ROWS, board, evaluation

from gristmill.pipeline.compare import curves, standings, tradeoff
from gristmill.pipeline.compare.axes import Axis, ends
from gristmill.pipeline.compare.forest import forest
from gristmill.pipeline.compare.page import page
from gristmill.pipeline.compare.words import shown
from gristmill.pipeline.numerics.effects import Effect
from gristmill.pipeline.report.plots import WIDTH

WORTH = {"best": 0.1, "cheap": 0.06, "costly": 0.05, "vain": 0.0, "poor <b>": -0.04, "lost": -0.5}
COST = {"best": 2 * ROWS, "costly": 3 * ROWS, "vain": ROWS, "poor <b>": 0.02 * ROWS}


@pytest.fixture(scope="module")
def found():
    return board(
        WORTH,
        budgets=("10%", "30%"),
        evaluations={
            "maths": evaluation(),
            "shown": evaluation("query"),
            "law": evaluation("elsewhere"),
        },
        times={"shown": -1.0, "law": -0.5},
        cost=COST,
    )


@pytest.fixture(scope="module")
def text(found):
    return page(found, title="Maths & law").decode()


def drawn(drawing):
    return ElementTree.fromstring(drawing.inline.text)


def marks(svg):
    return [e for e in svg if e.tag in ("circle", "polygon")]


def place(mark):
    """Where a mark stands."""
    if mark.tag == "circle":
        return float(mark.get("cx")), float(mark.get("cy"))
    return tuple(map(float, re.findall(r"-?[\d.]+", mark.get("transform"))))


def an_effect(low, high):
    return Effect(
        value=(low + high) / 2, low=low, high=high, error=0.01, freedom=5.0, p=0.5,
        detectable=0.02, level=0.95,
    )  # fmt: skip


# ---------------------------------------------------------------- axes


def test_an_arm_that_is_far_off_does_not_stretch_the_axis():
    near = [an_effect(0.01 * i - 0.02, 0.01 * i + 0.02) for i in range(-4, 5)]
    low, high = ends([*near, an_effect(-3.0, -2.9)])
    assert -0.1 < low <= -0.06
    assert 0.06 <= high < 0.1
    assert ends([an_effect(0.5, 0.6)])[0] < 0 < 0.6 < ends([an_effect(0.5, 0.6)])[1]
    assert ends([an_effect(0.0, 0.0)]) == (-1.0, 1.0)
    assert ends([]) == (-1.0, 1.0)


@pytest.mark.parametrize("high", [0.00013, 0.07, 1.0, 2.0, 37.0, 1e5])
def test_ticks_are_round_and_few(high):
    ticks = Axis(low=-high / 3, high=high, start=0, end=100).ticks()
    assert 3 <= len(ticks) <= 7
    assert 0.0 in ticks
    assert -high / 3 <= ticks[0] <= ticks[-1] <= high
    step = ticks[1] - ticks[0]
    assert f"{step:.0e}"[0] in "125"
    assert np.allclose(np.diff(ticks), step)


# ---------------------------------------------------------------- plots


def test_a_forest_plot_has_its_marks_at_the_effects_and_its_figures_beside(found):
    arms = found.outcomes["maths"]["10%"]
    ranked = standings.ranked(arms, "random")
    assert {o.arm.name for o in ranked} == {
        *WORTH, "balanced_random", "canary", "full", "zero_shot",
    }  # fmt: skip
    svg = drawn(forest(ranked, "random", 0.95))
    texts = [e.text for e in svg.iter("text")]
    values = [o.against["random"].value for o in ranked]
    assert values == sorted(values, reverse=True)
    shapes = marks(svg)
    assert len(shapes) == len(ranked)
    for o, mark in zip(ranked, shapes, strict=True):
        assert shown(o.against["random"]) in texts
        how = "control" if o.arm.control else "sure" if o.beats("random", 0.95) else "unsure"
        assert mark.get("class") == how
        assert mark.tag == ("circle" if how != "control" and o.arm.name != "lost" else "polygon")
    kinds = {m.get("class") for m in shapes}
    assert kinds == {"control", "sure", "unsure"}
    # on one line: what is not off the axis
    on = [(v, place(m)[0]) for v, m in zip(values, shapes, strict=True) if -0.2 < v < 0.15]
    slope, start = np.polyfit(*zip(*on, strict=True), 1)
    assert np.allclose([slope * v + start for v, _ in on], [x for _, x in on], atol=0.2)
    (zero,) = [e for e in svg.iter("line") if e.get("class") == "cut"]
    assert float(zero.get("x1")) == pytest.approx(start, abs=0.2)


def test_the_front_is_what_none_as_cheap_surpasses(found):
    arms = found.outcomes["maths"]["10%"]
    made = tradeoff.points(arms, "random", 0.95)
    assert [p.cost for p in made] == sorted(p.cost for p in made)
    assert {p.name: p.cost for p in made}["costly"] == 3.0  # passes over the pool
    free = [(0.0, 0.0), *((p.cost, p.effect.value) for p in made)]
    brute = {
        p.name
        for p in made
        if not any(
            (c, v) != (p.cost, p.effect.value) and c <= p.cost and v >= p.effect.value
            for c, v in free
        )
    }
    assert {p.name for p in tradeoff.front(made)} == brute
    assert {"best", "cheap"} <= brute
    assert not {"poor <b>", "lost", "costly"} & brute


def test_costs_and_effects_are_drawn_where_they_are_and_names_do_not_collide(found):
    arms = found.outcomes["maths"]["10%"]
    made = tradeoff.points(arms, "random", 0.95)
    svg = drawn(tradeoff.tradeoff(arms, "random", 0.95))
    x = [place(m)[0] for m in marks(svg)]
    assert x == sorted(x)
    assert len(x) == len(made)
    by_name = dict(zip((p.name for p in made), x, strict=True))
    step = by_name["best"] - by_name["vain"]  # 2 passes against 1, on a logarithmic axis
    assert by_name["costly"] - by_name["vain"] == pytest.approx(step * np.log2(3), abs=0.5)
    words = [e for e in svg.iter("text") if e.get("class") in ("name", "label")]
    assert {e.text for e in words} == set(WORTH)
    boxes = [(float(e.get("x")), float(e.get("y")), 6.3 * len(e.text)) for e in words]
    assert all(left >= 0 and left + wide <= WIDTH for left, _, wide in boxes)
    for i, (left, y, wide) in enumerate(boxes):
        for other, up, far in boxes[:i]:
            assert abs(y - up) >= 12 or left + wide <= other or other + far <= left


def test_budget_curves_share_a_scale_over_the_draws_of_random(found):
    outcomes = found.outcomes["maths"]
    scale = curves.scale(outcomes, "random")
    assert list(scale.rows) == ["10%", "30%"]
    random = outcomes["10%"]["random"]
    means = random.value_DSN.mean((1, 2))
    assert scale.band["10%"] == pytest.approx((means.min(), means.mean(), means.max()))
    assert curves.best(outcomes, "random")[:2] == ["best", "cheap"]
    own = {b: arms["best"] for b, arms in outcomes.items()}
    svg = drawn(curves.curve("best", own, scale, "random"))
    assert [place(m) for m in marks(svg) if m.tag == "circle"] == [
        (pytest.approx(scale.at(b), abs=0.1), pytest.approx(scale.up.at(o.value), abs=0.1))
        for b, o in own.items()
    ]
    assert len([e for e in svg.iter("line") if "whisker" in e.get("class")]) == 2
    assert f"10%: {shown(own['10%'].against['random'])}" in svg.get("aria-label")
    lost = {b: arms["lost"] for b, arms in outcomes.items()}
    arrows = marks(drawn(curves.curve("lost", lost, scale, "random")))
    assert [m.tag for m in arrows] == ["polygon"] * 3  # the band, and two that are off the scale


# ---------------------------------------------------------------- page


def test_no_effect_stands_without_its_interval(text):
    bare = re.sub(r"</?(div|td|span)[^>]*>", " ", text)
    bare = re.sub(r"<text[^>]*>[-+][\d.e-]+</text>", "", bare)  # ticks
    effects = list(re.finditer(r"[-+]\d+\.\d{4}", bare))
    assert len(effects) > 500
    for e in effects:
        before, after = bare[: e.start()].rstrip(), bare[e.end() :].lstrip()
        inside = before.endswith(("[", ",")) and after.startswith((",", "]"))
        assert inside or after.startswith("["), bare[e.start() - 80 : e.end() + 40]


def test_the_page_flags_query_rows_that_were_fitted_and_what_is_paid_elsewhere(found, text):
    assert "At 10% better than random on query rows, but not on test rows: poor &lt;b&gt;" in text
    assert "it fits what it was shown" in text
    assert "costs elsewhere" in text
    assert "✓ beats all three" in text
    assert "▼ worse than random" in text
    beside = text.partition('id="beside"')[2].partition("</section>")[0]
    assert beside.count("▲") >= 2
    assert beside.count("▼") >= 2
    for name in ("target: maths", "query rows: shown", "elsewhere: law"):
        assert name in beside


def test_the_page_has_no_script_and_names_its_plots_rows_and_columns(text):
    assert "<script" not in text
    assert "<b>" not in text
    plots = re.findall(r"<svg [^>]*>", text)
    assert all('role="img" aria-label="' in p or 'aria-hidden="true"' in p for p in plots)
    tables = re.findall("<table.*?</table>", text)
    assert tables
    assert all('scope="col"' in t and 'scope="row"' in t for t in tables)
    assert "<h3>At 10%</h3>" in text


def test_equal_rows_tokens_lengths_and_compute_stand_in_one_table(found, text):
    head = standings.head(found, "maths", "10%")
    for wanted in ("against equal lengths", "against equal tokens", "against equal compute"):
        assert wanted in head
        assert wanted in text
    best = found.outcomes["maths"]["30%"]["best"]
    for control in ("length_matched", "token_matched", "compute_matched"):
        assert shown(best.against[control]) in text


def test_a_canary_that_beats_random_is_an_alarm():
    broken = board({"m": 0.1}, shared={"random": 0.0, "canary": 0.1})
    text = page(broken, title="t").decode()
    assert '<p class="alarm">A random draw in disguise beats random on maths at 10%' in text
    sound = page(board({"m": 0.1}, shared={"random": 0.0, "canary": 0.0}), title="t").decode()
    assert "A random draw in disguise beats" not in sound
    assert "The canary is random in disguise: at 10% it" in sound


def test_controls_alone_and_one_budget_make_a_page():
    text = page(board({}), title="t").decode()
    assert "the base model" in text
    assert "Value on" not in text  # a curve of one budget says nothing
    assert "random; not held" not in text
    few = page(board({"m": 0.1}, shared={"random": 0.0}), title="t").decode()
    assert "not held against balanced random" in few
