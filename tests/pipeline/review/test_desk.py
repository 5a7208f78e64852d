"""The desk: whose turn is which item, which side stands first, and what a click becomes."""

import polars as pl
import pytest
import reviews
from rows import chat_rows, document_rows, pair_rows

from gristmill.pipeline.records.judgements import current
from gristmill.pipeline.review import folder, shown


def through(desk, name, judgement="first"):
    """Judge all that an annotator is given; the items, in order."""
    items = []
    while turns := desk.turns(name):
        items.append(turns[0].item)
        desk.take(name, reviews.click(items[-1], judgement))
    return items


def test_each_item_is_judged_once_and_each_annotator_has_an_order_of_their_own(store, tmp_path):
    desk = reviews.desk(store, tmp_path, pair_rows(30))
    first = [t.item for t in desk.turns("ann", 30)]
    assert len(set(first)) == 30
    assert desk.turns("bob") == [], "all are on the first one's screen"
    desk = reviews.desk(store, tmp_path, pair_rows(30))
    assert [t.item for t in desk.turns("bob", 30)] not in (first, first[::-1])


def test_a_share_is_judged_twice_and_the_rest_once(store, tmp_path):
    desk = reviews.desk(store, tmp_path, pair_rows(40), double=0.25)
    ann = [t.item for t in desk.turns("ann", 15)]
    for item in ann:
        desk.take("ann", reviews.click(item, "first"))
    bob, rest = through(desk, "bob"), through(desk, "ann")
    both = set(bob) & {*ann, *rest}
    assert {*bob, *ann, *rest} == set(desk.items)
    assert 4 <= len(both) <= 16, "about a quarter of 40"
    assert desk.progress("ann") == {"mine": 15 + len(rest), "left": 0, "done": 40, "items": 40}
    again = reviews.desk(store, tmp_path, pair_rows(40), double=0.25)
    assert again.turns("ann") == again.turns("bob") == [], "a restart knows it all"
    assert through(again, "cid") == [], "nobody else is wanted"


def test_an_item_on_a_screen_comes_back_to_others_after_a_while(store, tmp_path):
    now = [0.0]
    desk = reviews.desk(store, tmp_path, pair_rows(1), clock=lambda: now[0])
    (item,) = desk.turns("ann")
    assert desk.turns("bob") == []
    now[0] = 1_000.0
    assert desk.turns("bob")[0].item == item.item
    desk.take("bob", reviews.click(item.item, "second"))
    desk.take("ann", reviews.click(item.item, "second"))
    assert folder.said(desk.review.path).height == 2, "both answers stand"


def test_the_screen_is_blind_and_a_click_names_the_record(store, tmp_path):
    rows = pair_rows(60)
    desk = reviews.desk(store, tmp_path, rows, double=1.0)
    chosen = {r["prompt"][0]["content"]: r["chosen"][0]["content"] for r in rows}
    stood = {"ann": [], "bob": []}
    for name, firsts in stood.items():
        for turn in desk.turns(name, 60):
            better = chosen[turn.shown.context[0]["content"]]
            at = [answer[0]["content"] for answer in turn.shown.answers].index(better)
            firsts.append((turn.item, at))
            line = desk.take(name, reviews.click(turn.item, ("first", "second")[at])).line
            assert line["judgement"] == "chosen"
            assert line["shown_first"] == ("chosen", "rejected")[at]
        assert 18 <= sum(at for _, at in firsts) <= 42, "either side, about as often"
    assert len(set(stood["ann"]) & set(stood["bob"])) < 50, "and not the same for both"


def test_a_mutant_that_forgets_to_turn_sides_back_would_show(store, tmp_path):
    desk = reviews.desk(store, tmp_path)
    said = {
        desk.take("ann", reviews.click(t.item, "first")).line["judgement"]
        for t in desk.turns("ann", 12)
    }
    assert said == {"chosen", "rejected"}


def test_undo_takes_back_the_last_one_after_the_other(store, tmp_path):
    desk = reviews.desk(store, tmp_path)
    items = [t.item for t in desk.turns("ann", 3)]
    for item in items:
        desk.take("ann", reviews.click(item, "tie"))
    assert desk.undo("ann", "u1")["item"] == items[2]
    assert desk.undo("ann", "u1")["item"] == items[2], "sent again"
    assert desk.turns("ann")[0].item == items[2], "it comes again at once"
    assert desk.undo("ann", "u2")["item"] == items[1]
    assert desk.progress("ann")["mine"] == 1
    assert desk.undo("ann", "u3")["item"] == items[0]
    assert desk.undo("ann", "u4") is None
    assert desk.undo("bob", "u1") is None
    table = folder.said(desk.review.path)
    assert table.height == 6
    assert current(table).is_empty()


def test_a_skip_is_not_asked_again_and_leaves_the_item_to_others(store, tmp_path):
    desk = reviews.desk(store, tmp_path, pair_rows(1))
    (turn,) = desk.turns("ann")
    desk.take("ann", reviews.click(turn.item, "skip"))
    assert desk.turns("ann") == []
    assert desk.progress("ann")["done"] == 0
    assert desk.turns("bob")[0].item == turn.item


def test_a_correction_is_kept_and_what_is_none_is_refused(store, tmp_path):
    desk = reviews.desk(store, tmp_path, chat_rows(2))
    (turn,) = desk.turns("ann")
    assert desk.choices == ("keep", "drop", "fix", "skip")
    old = turn.shown.editable
    for answer, says in ((None, "needs a text"), (" \n", "needs a text"), (old, "as it was")):
        with pytest.raises(ValueError, match=says):
            desk.take("ann", reviews.click(turn.item, "fix", answer=answer))
    line = desk.take(
        "ann", reviews.click(turn.item, "fix", answer="Better \ud800.", comment="\n")
    ).line
    assert line["answer"] == "Better \ufffd."
    assert line["comment"] is None
    with pytest.raises(ValueError, match="at most 4,000 characters"):
        desk.take("ann", reviews.click(turn.item, "keep", comment="x" * 5_000))
    assert folder.said(desk.review.path).height == 1


@pytest.mark.parametrize("judgement", ["keep", "chosen", "", "FIRST"])
def test_a_judgement_that_the_page_does_not_offer_is_refused(store, tmp_path, judgement):
    desk = reviews.desk(store, tmp_path)
    (turn,) = desk.turns("ann")
    with pytest.raises(ValueError, match="there are: first, second, tie, both_bad, skip"):
        desk.take("ann", reviews.click(turn.item, judgement))
    with pytest.raises(ValueError, match="no item"):
        desk.take("ann", reviews.click("0" * 32, "first"))


def test_the_order_is_the_rules_and_a_limit_cuts_it(store, tmp_path):
    desk = reviews.desk(store, tmp_path, pair_rows(6))
    scores = pl.DataFrame({"id": desk.items, "score_x": [float(n) for n in range(6)]})
    ordered = reviews.desk(store, tmp_path, pair_rows(6), order="x", scores=scores, limit=4)
    assert [t.item for t in ordered.turns("ann", 9)] == desk.items[:1:-1]
    assert ordered.progress("ann")["items"] == 4
    with pytest.raises(ValueError, match="give 0 to 1"):
        reviews.desk(store, tmp_path, pair_rows(6), double=1.5)


def test_two_servers_on_one_review_see_each_others_clicks(store, tmp_path):
    one, other = (reviews.desk(store, tmp_path, pair_rows(2)) for _ in range(2))
    (turn,) = one.turns("ann")
    one.take("ann", reviews.click(turn.item, "first"))
    assert other.turns("ann")[0].item != turn.item
    assert other.progress("bob")["done"] == 1


def test_a_review_keeps_its_seed_and_its_records(store, tmp_path):
    desk = reviews.desk(store, tmp_path)
    with pytest.raises(ValueError, match="begun with seed 0"):
        folder.opened(store, desk.review.dataset, "toy", seed=1)
    other = reviews.desk(store, tmp_path, pair_rows(3))
    assert other.review.path != desk.review.path
    (desk.review.path / folder.FACTS).write_text("{}")
    with pytest.raises(ValueError, match="missing or damaged"):
        folder.said(desk.review.path)


def test_documents_and_examples_without_an_answer(store, tmp_path):
    desk = reviews.desk(store, tmp_path, document_rows(2))
    (turn,) = desk.turns("ann")
    assert turn.shown.editable == turn.shown.answers[0][0]["content"]
    messages = [{"role": "user", "content": "Hello?", "extra": None}]
    alone = shown.single({"messages": messages, "tools": None}, "example")
    assert alone.editable is None
    assert alone.context == messages
