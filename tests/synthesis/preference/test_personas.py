"""Personas, refinement and few-shot windows, with eight review users who decide by a rule."""

import json
import math

import numpy as np
import polars as pl
import pytest
from review_users import ask_by_rule, reviews, users

from gristmill.pipeline.evaluate.judging import Judged
from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.synthesis.preference.answering import Client
from gristmill.synthesis.preference.few_shot import FewShot, few_shot, windows
from gristmill.synthesis.preference.length import LengthControl
from gristmill.synthesis.preference.outcome import Controls
from gristmill.synthesis.preference.persona_writer import PersonaWriter
from gristmill.synthesis.preference.personal import personal
from gristmill.synthesis.preference.personas import (
    Label,
    Labelled,
    User,
    entropy,
    labels_table,
    users_table,
)
from gristmill.synthesis.preference.prompts import ASIDE
from gristmill.synthesis.preference.records import ident
from gristmill.synthesis.preference.refinement import (
    Refinement,
    disagreement,
    labelled,
    outliers,
)


def words(text):
    return len(text.split())


@pytest.fixture(scope="module")
def found():
    prompts, pairs = reviews(24)
    return prompts, pairs, labelled(users(), pairs, ask_by_rule)


# ---------------------------------------------------------------- labels


def test_labels_of_the_review_users_are_those_of_their_rule(found):
    _, pairs, made = found
    assert len(made.labels) == 8 * len(pairs)
    for label in made.labels:
        (user,) = (u for u in users() if u.id == label.user)
        one, two = (user.worth(c.text) for c in (label.of.one, label.of.two))
        expected = None if one == two else label.of.one if one > two else label.of.two
        assert label.winner == expected
    table = labels_table(made.labels)
    assert table.filter(user="positive")["label"].null_count() == 0
    assert table.filter(user="concise")["reason"].unique().to_list() == [None]


def test_a_judge_that_always_says_first_keeps_no_pair():
    prompts, pairs = reviews(6)

    def first(user, several):
        return [Label(user=user.id, of=v, said=_said(1, 0)) for v in several]

    made = labelled(users(), pairs, first)
    assert [x for x in made.labels if x.winner is not None] == []
    assert {x.reason for x in made.labels} == {"orders_disagree"}
    rows, aside = few_shot(made.users, made.labels, prompts, FewShot(shots=2), words)
    assert rows == []
    assert len(aside) == 8 * 6


def _said(one_first, two_first):
    return Judged(id="x", one_first=one_first, two_first=two_first)


def test_orders_that_disagree_are_no_preference_whatever_their_mean():
    _, (pair, *_) = reviews(1)
    read = Judged(id="x", one_first=0.9, two_first=0.3, band=0.0)  # as probabilities: 0.6
    one = Label(user="u", of=pair, said=read)
    assert read.label == "one"
    assert (one.winner, one.loser, one.reason) == (None, None, "orders_disagree")
    assert labels_table([one])["label"].to_list() == [None]
    agree = Label(user="u", of=pair, said=Judged(id="x", one_first=0.9, two_first=0.6, band=0.0))
    assert (agree.winner, agree.reason) == (pair.one, None)


def test_a_judge_without_a_verdict_is_no_label():
    _, pairs = reviews(2)
    made = labelled(
        users()[:1],
        pairs,
        lambda user, several: [
            Label(
                user=user.id,
                of=v,
                said=Judged(id="x", one_first=None, two_first=1.0, reason="schema: no verdict"),
            )
            for v in several
        ],
    )
    assert {x.reason for x in made.labels} == {"judge: schema: no verdict"}
    assert users_table(made)["entropy"].to_list() == [pytest.approx(math.log(2))]


# ---------------------------------------------------------------- refinement


def vague(user, several):
    """Decides what a fact of the description names; a bad fact undoes everything."""
    if any("bad" in f for f in user.facts):
        return [Label(user=user.id, of=v, said=_said(0.5, 0.5)) for v in several]
    known = {f.split()[-1] for f in user.facts} | {"m0"}
    return [
        Label(user=user.id, of=v, said=_said(1, 1) if v.prompt in known else _said(0.5, 0.5))
        for v in several
    ]


def test_refinement_decides_by_facts_and_labels_all_pairs_again():
    _, pairs = reviews(6)
    asked = []

    def ask(user, several):
        asked.append(len(several))
        return vague(user, several)

    made = labelled(
        [User(id="u", description="Likes reviews.")],
        pairs,
        ask,
        Refinement(rounds=3),
        imply=lambda user, of, winner: f"prefers {winner.id[:4]} for {of.prompt}",
    )
    (user,) = made.users
    assert len(user.facts) == 3
    assert asked == [6] * 4, "every round labels all pairs"
    table = users_table(made)
    assert table["entropy_before"][0] == pytest.approx(math.log(2) * 5 / 6)
    assert table["entropy"][0] == pytest.approx(math.log(2) * 2 / 6)
    assert table["description"][0].startswith("Likes reviews.\nprefers ")


def test_a_fact_that_leaves_more_open_is_not_taken():
    _, pairs = reviews(6)
    made = labelled(
        [User(id="u", description="Likes reviews.")],
        pairs,
        vague,
        Refinement(rounds=4),
        imply=lambda user, of, winner: "a bad fact" if of.prompt < "m3" else f"x {of.prompt}",
    )
    assert not any("bad" in f for f in made.users[0].facts)
    assert entropy(made.labels) < made.before["u"]


def test_winners_are_drawn_by_a_seed_from_both_sides():
    _, pairs = reviews(24)
    winners = []

    def imply(user, of, winner):
        winners.append((of.key, winner == of.one))
        return None

    settings = Refinement(rounds=24, seed=1)
    for _ in range(2):
        labelled([User(id="u", description="d")], pairs, vague, settings, imply=imply)
    assert winners[:23] == winners[23:]
    assert 4 < sum(one for _, one in winners[:23]) < 19


def test_outliers_of_the_disagreement_matrix_are_written_anew(found):
    _, pairs, made = found
    several = [[x for x in made.labels if x.user == u.id] for u in users()]
    differ = disagreement(several)
    names = [u.id for u in users()]
    one, two = names.index("positive"), names.index("negative")
    assert differ[one, two] == 1
    assert np.allclose(differ, differ.T, equal_nan=True)
    flock = [*several[:1] * 6, several[two]]
    called = [f"u{i}" for i in range(7)]
    assert outliers(flock, called, 2.0) == ["u6"]
    assert outliers(flock[:2], called[:2], 2.0) == []
    base = {u.id: u for u in users()}

    def ask(user, pairs):
        rule = "positive" if "glad" in user.description else "negative"
        return [Label(user=user.id, of=x.of, said=x.said) for x in ask_by_rule(base[rule], pairs)]

    crowd = [User(id=f"u{i}", description="glad" if i < 6 else "grim") for i in range(7)]
    renewed = labelled(crowd, pairs, ask, renew=lambda user: "glad again")
    assert [u.renewed for u in renewed.users] == [0] * 6 + [1]
    assert renewed.users[6].description == "glad again"


def test_two_users_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two users are called 'u'"):
        labelled([User(id="u", description="a")] * 2, [], ask_by_rule)


# ---------------------------------------------------------------- few-shot prompts


@pytest.mark.parametrize("shots", [2, 5])
def test_windows_advance_by_shots_and_one_and_never_overlap(found, shots):
    _, _, made = found
    own = [x for x in made.labels if x.user == "positive"]
    cut = windows(own, shots, seed=0)
    assert {len(w) for w in cut} == {shots + 1}
    assert len(cut) == 24 // (shots + 1)
    used = [x.of.key for w in cut for x in w]
    assert len(used) == len(set(used))
    for *examples, last in cut:
        assert last.of.prompt not in {x.of.prompt for x in examples}
    assert cut == windows(own[::-1], shots, seed=0)
    assert cut != windows(own, shots, seed=1)


def test_rows_show_a_users_examples_and_end_in_another_pair(found):
    prompts, _, made = found
    rows, aside = few_shot(made.users, made.labels, prompts, FewShot(shots=3), words)
    assert len(rows) + len(aside) <= 8 * 24
    by_user = {u.id: u for u in users()}
    for made_row in rows:
        user = by_user[made_row.user]
        pair = made_row.pair
        assert user.worth(pair.chosen.text) > user.worth(pair.rejected.text)
        assert pair.verdict.label == "one"
        text = made_row.prompt.messages[0]["content"]
        assert text.count("### Example") == 3 == len(made_row.shots)
        assert text.index("### Question") > text.index("### Example 3")
        assert pair.prompt == pair.chosen.prompt == made_row.prompt.id
        assert "Other answer" not in text
    assert len({r.prompt.id for r in rows}) == len(rows)


def test_a_long_prompt_loses_its_oldest_examples_and_never_its_question(found):
    prompts, _, made = found
    whole, _ = few_shot(made.users, made.labels, prompts, FewShot(shots=3), words)
    most = words(whole[0].prompt.text) - 1
    cut, aside = few_shot(
        made.users, made.labels, prompts, FewShot(shots=3, most_tokens=most), words
    )
    assert cut[0].cut > 0
    assert cut[0].shots == whole[0].shots[cut[0].cut :]
    assert cut[0].prompt.text.endswith(whole[0].prompt.text.partition("### Question")[2])
    assert all(words(r.prompt.text) <= most for r in cut)
    none, aside = few_shot(made.users, made.labels, prompts, FewShot(most_tokens=3), words)
    assert none == []
    assert any(a["reason"].startswith("too_long") for a in aside)


def test_both_answers_of_an_example_stand_in_a_drawn_order(found):
    prompts, _, made = found
    rows, _ = few_shot(made.users, made.labels, prompts, FewShot(shots=5, both=True), words)
    first = [
        part.index("Preferred") < part.index("Other answer")
        for r in rows
        for part in r.prompt.text.split("### Question")[0].split("### Example")[1:]
    ]
    assert 0.3 < sum(first) / len(first) < 0.7


@pytest.mark.parametrize("describe", ["other", "own"])
def test_descriptions_stand_before_both_answers(found, describe):
    prompts, _, made = found
    rows, _ = few_shot(made.users, made.labels, prompts, FewShot(shots=3, describe=describe), words)
    who = {u.id: u.whole for u in made.users}
    for r in rows:
        assert f"## User description\n{who[r.user]}\n\n## Response\n" in r.pair.chosen.text
        assert (who[r.user] in r.pair.rejected.text) == (describe == "own")
        assert "section '## User description'" in r.prompt.text


# ---------------------------------------------------------------- a model that writes of users


def author(**answers):
    prompts, _ = reviews(3)
    return PersonaWriter(
        backend=Recorded(answers={f"personas/{k}": v for k, v in answers.items()}),
        client=Client(),
        prompts=tuple(prompts.values()),
    )


def test_users_are_invented_and_none_counts_twice():
    told = json.dumps({"descriptions": ["Likes  wit.", "Likes wit.", "Wants facts.", "Is new."]})
    made = author(invent=told).invent(2)
    assert [(u.id, u.description) for u in made] == [
        ("user-001", "Likes wit."),
        ("user-002", "Wants facts."),
    ]
    with pytest.raises(ValueError, match="4 users were asked for and 3 came back"):
        author(invent=told).invent(4)
    with pytest.raises(ValueError, match="2 users were asked for and 0 came back"):
        author(invent="a poem").invent(2)


def test_facts_and_new_descriptions_are_asked_for_by_schema():
    _, (pair, *_) = reviews(3)
    user = User(id="u", description="Likes wit.")
    name = f"imply/u/{pair.key}"
    wrote = author(**{name: json.dumps({"fact": "Minds length."}), "renew/u/0": "nonsense"})
    assert wrote.imply(user, pair, pair.one) == "Minds length."
    assert wrote.renew(user) is None
    assert author(**{name: "nonsense"}).imply(user, pair, pair.two) is None
    new = author(**{"renew/u/0": json.dumps({"descriptions": ["Reads aloud."]})})
    assert new.renew(user) == "Reads aloud."


# ---------------------------------------------------------------- as a run's outcome


def same_tastes(prefers, count=2):
    """Users of the same two prompts, with one example: their prompts are often the same."""
    prompts, pairs = reviews(count)
    who = [User(id=name, description=name) for name in prefers]
    labels = [
        Label(user=u.id, of=v, said=_said(value, value), cost=0.25)
        for u in who
        for v, value in zip(pairs, prefers[u.id], strict=True)
    ]
    return prompts, pairs, Labelled(users=tuple(who), labels=tuple(labels))


def outcome(prompts, pairs, made, *, truncated=None, **controls):
    settings = FewShot(shots=1)
    return personal(
        list(prompts.values()),
        pl.DataFrame(schema=ASIDE),
        [c for v in pairs for c in (v.one, v.two)],
        made,
        settings,
        Controls(**{"length": LengthControl(by="none"), **controls}),
        words,
        truncated,
    )


def test_users_who_agree_on_the_examples_make_one_pair_and_none_where_they_differ():
    agree = outcome(*same_tastes({f"u{n}": (1, 1) for n in range(5)}))
    ids = [ident(p, agree.prompts[p.prompt]) for p in agree.kept]
    assert len(agree.pairs) == 5
    assert len(ids) == len(set(ids)) == 2  # either prompt may be the question
    assert agree.refused == {"repeated": 3}
    differ = outcome(*same_tastes({f"u{n}": (n % 2, n % 2) for n in range(2)} | {f"v{n}": (1, 0) for n in range(6)}))  # fmt: skip
    sides = {(p.prompt, p.chosen.id, p.rejected.id) for p in differ.kept}
    assert not sides & {(p, r, c) for p, c, r in sides}
    assert differ.refused["conflict"] >= 2


def test_every_prompt_of_users_is_used_or_has_its_reason_and_pairs_cost_their_verdicts():
    prompts, pairs, made = same_tastes({"a": (1, 1)})
    kept = outcome(prompts, pairs, made)
    assert {u["prompt"]: u["pairs"] for u in kept.uses} == {"m0": 1, "m1": 1}
    assert kept.aside.is_empty()
    assert kept.kept[0].judging == 0.25
    assert (kept.quality.comparisons, kept.quality.first) == (2, 0.5)
    cut = outcome(prompts, pairs, made, truncated=lambda shown: lambda prompt, text: "")
    assert (cut.kept, cut.uses) == ((), ())
    assert dict(cut.aside.select("prompt", "reason").iter_rows()) == dict.fromkeys(
        ("m0", "m1"), "same_after_truncation"
    )
    (chosen,) = (p.chosen for p in kept.kept)
    longer = chosen.length > kept.kept[0].rejected.length
    short = outcome(prompts, pairs, made, length=LengthControl(cap=0.0))
    assert short.set_aside == ({"length": 2} if longer else {})
