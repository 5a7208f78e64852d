"""Length control, people's verdicts, and decontamination of built pairs."""

import polars as pl
import pytest

from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.synthesis.preference.building import Building, Pair
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.length import LengthControl, controlled, longer_share
from gristmill.synthesis.preference.people import decided, verdicts
from gristmill.synthesis.preference.records import lineage
from gristmill.synthesis.preference.rules import rule_named


def pair(n, chosen, rejected, **more):
    """A pair whose sides have so many characters."""
    sides = [
        Candidate(prompt=str(n), text=f"{letter}" * size, role="m", score=score)
        for letter, size, score in (("c", chosen, 1.0), ("r", rejected, 0.0))
    ]
    return Pair(prompt=str(n), chosen=sides[0], rejected=sides[1], gap=1.0, **more)


def kept(pairs):
    return [p for p in pairs if p.reason is None]


@pytest.mark.parametrize("cap", [0.0, 0.1, 0.3, 0.5, 0.6, 0.9])
@pytest.mark.parametrize(("longer", "shorter"), [(0, 5), (5, 0), (7, 3), (9, 1), (90, 10), (1, 1)])
def test_the_share_of_longer_chosen_ends_within_the_cap_and_no_more_is_dropped(
    cap, longer, shorter
):
    pairs = [pair(n, 100 + n, 50) for n in range(longer)]
    pairs += [pair(100 + n, 10, 50) for n in range(shorter)]
    found = controlled(pairs, LengthControl(cap=cap))
    left = kept(found)
    assert len(found) == len(pairs)
    assert (longer_share(left) or 0.0) <= cap
    dropped = len(pairs) - len(left)
    if dropped:  # with one more longer pair it would be beyond
        still = sum(p.chosen.length > p.rejected.length for p in left)
        assert still + 1 > cap * (len(left) + 1) - 1e-9
        assert max((p.chosen.length for p in left), default=0) < min(
            p.chosen.length for p in found if p.reason
        )
    assert controlled(pairs[::-1], LengthControl(cap=cap))[::-1] == found


def test_bands_keep_as_many_of_either_side():
    near = [pair(n, 105, 100) for n in range(5)] + [pair(10 + n, 100, 105) for n in range(2)]
    far = [pair(20 + n, 900, 100) for n in range(3)] + [pair(30, 100, 100)]
    found = kept(controlled([*near, *far], LengthControl(by="bands")))
    assert sorted(p.chosen.length - p.rejected.length for p in found) == [-5, -5, 0, 5, 5]
    assert kept(controlled(far, LengthControl(by="none"))) == far


def test_pairs_that_are_refused_already_do_not_count():
    pairs = [pair(0, 9, 1), pair(1, 1, 9, reason="tied")]
    assert [p.reason and p.reason.split(":")[0] for p in controlled(pairs, LengthControl())] == [
        "length",
        "tied",
    ]
    twice = [pair(0, 9, 1), pair(0, 9, 1, reason="repeated")]
    assert [p.reason.split(":")[0] for p in controlled(twice, LengthControl())] == [
        "length",
        "repeated",
    ]


def judgements(*rows):
    made = [
        {**dict.fromkeys(JUDGEMENTS), "item": i, "annotator": a, "number": n, "judgement": j}
        for n, (i, a, j) in enumerate(rows)
    ]
    return pl.DataFrame(made, schema=JUDGEMENTS)


def test_what_most_people_say_prevails():
    said = verdicts(
        judgements(
            ("turn", "a", "chosen"), ("turn", "a", "rejected"), ("turn", "b", "rejected"),
            ("split", "a", "chosen"), ("split", "b", "rejected"),
            ("bad", "a", "both_bad"), ("none", "a", "skip"),
        )
    )  # fmt: skip
    assert said == {"turn": "rejected", "split": "disagree", "bad": "both_bad"}
    pairs = [pair(n, 5, 6, reason="orders_disagree") for n in ("turn", "split", "bad", "none")]
    building = Building(rule=rule_named("best_worst"), min_gap=9.0)
    turn, split, bad, none = decided(pairs, said, lambda p: p.prompt, building)
    assert (turn.reason, turn.decided_by, turn.gap) == (None, "people", -1.0)
    assert turn.chosen == pairs[0].rejected
    assert [split.reason, bad.reason] == ["people: disagree", "people: both_bad"]
    assert none == pairs[3]


def test_people_do_not_make_a_wrong_answer_right():
    wrong = pair(0, 5, 6)
    wrong = Pair(
        prompt="0",
        chosen=wrong.chosen,
        rejected=Candidate(prompt="0", text="no", role="m", score=0.0, verified=False),
    )
    (found,) = decided(
        [wrong], {"0": "rejected"}, lambda p: p.prompt, Building(rule=rule_named("best_worst"))
    )
    assert found.reason.startswith("chosen_wrong")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("chosen", "chosen", "rejected"), "chosen"),
        (("chosen", "chosen", "rejected", "tie"), "disagree"),  # no more than half
        (("tie", "both_bad"), "tie"),
        (("chosen", "skip"), "chosen"),
    ],
)
def test_more_than_half_decide_as_in_the_curation_of_labels(given, said):
    rows = [("i", str(n), j) for n, j in enumerate(given)]
    assert verdicts(judgements(*rows)) == {"i": said}


@pytest.mark.parametrize(
    ("said", "reason", "turned"),
    [
        ({"c/r": "chosen"}, None, False),
        ({"r/c": "chosen"}, None, True),  # of the two the other way round
        ({"r/c": "rejected"}, None, False),
        ({"c/r": "rejected", "r/c": "chosen"}, None, True),
        ({"c/r": "chosen", "r/c": "chosen"}, "people: disagree", False),
        ({"r/c": "both_bad"}, "people: both_bad", False),
    ],
)
def test_what_people_said_holds_whichever_side_was_called_chosen(said, reason, turned):
    one = pair(0, 5, 6)
    (found,) = decided(
        [one],
        said,
        lambda p: f"{p.chosen.text[0]}/{p.rejected.text[0]}",
        Building(rule=rule_named("best_worst")),
    )
    assert (found.reason, found.chosen == one.rejected) == (reason, turned)
    assert found.decided_by == "people"
    assert lineage(found, "people", 0.0)["margin"] == (0.0 if turned else 1.0)
