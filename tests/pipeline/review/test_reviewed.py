"""Rulings by majority, and a dataset after them: swapped, corrected, dropped, with lineage."""

import json

import ingested
import polars as pl
import pytest
import reviews
from rows import chat_rows, pair_rows

from gristmill.pipeline.records.schema import CONTENT, content_id
from gristmill.pipeline.review import folder
from gristmill.pipeline.review.reviewed import reviewed
from gristmill.pipeline.review.rulings import agreement, rulings


def ruled(*lines):
    return {r["item"]: r for r in rulings(reviews.said(*lines)).iter_rows(named=True)}


def test_the_majority_rules_and_no_majority_is_said():
    found = ruled(
        ("ann", "1", "chosen"), ("bob", "1", "rejected"), ("cid", "1", "rejected"),
        ("ann", "2", "chosen"), ("bob", "2", "tie"),
        ("ann", "3", "skip"), ("bob", "3", "both_bad"),
        ("ann", "4", "chosen"), ("ann", "4", None),
        ("ann", "5", "tie"), ("ann", "5", "chosen"),
    )  # fmt: skip
    assert set(found) == {"1", "2", "3", "5"}, "taken back, and skipped, is not judged"
    assert (found["1"]["ruling"], found["1"]["judged_by"]) == ("rejected", "bob, cid")
    assert (found["2"]["ruling"], found["2"]["judged_by"]) == ("disagreed", "ann, bob")
    assert (found["3"]["ruling"], found["3"]["said"]) == ("both_bad", 1)
    assert found["5"]["ruling"] == "chosen", "the last of one annotator counts"


def test_the_correction_that_most_gave_stands():
    three = ruled(("bob", "1", "fix", "B"), ("cid", "1", "fix", "C"), ("dee", "1", "fix", "C"))
    assert three["1"]["answer"] == "C"
    assert three["1"]["judged_by"] == "bob, cid, dee"
    assert ruled(("bob", "1", "fix", "B"), ("ann", "1", "fix", "A"))["1"]["answer"] == "A"


def test_agreement_by_hand():
    """Ten items: 4 chosen-chosen, 3 rejected-rejected, 2 chosen-rejected, 1 rejected-chosen.

    p_o = 0.7; ann says chosen 6 of 10, bob 5 of 10; p_e = 0.6 * 0.5 + 0.4 * 0.5 = 0.5; kappa = 0.4.
    """
    cells = [("chosen",) * 2] * 4 + [("rejected",) * 2] * 3
    cells += [("chosen", "rejected")] * 2 + [("rejected", "chosen")]
    lines = [("ann", f"{n}", a) for n, (a, _) in enumerate(cells)]
    lines += [("bob", f"{n}", b) for n, (_, b) in enumerate(cells)]
    found = agreement(reviews.said(*lines, ("ann", "alone", "tie"), ("bob", "0", "chosen")))
    (pair,) = found["pairs"]
    assert (pair["shared"], pair["equal"]) == (10, 0.7)
    assert pair["kappa"]["value"] == pytest.approx(0.4, abs=1e-12)
    assert pair["kappa"]["low"] < 0.4 < pair["kappa"]["high"]
    assert (found["items"], found["twice"]) == (11, 10)
    assert found["annotators"] == {"ann": 11, "bob": 10}
    # n = 20, n_c = 11, n_r = 9, D_o = 6 / 20, D_e = 2 * 99 / (20 * 19)
    assert found["alpha"]["value"] == pytest.approx(1 - 0.3 / (198 / 380), abs=1e-12)


def test_nobody_agrees_alone():
    found = agreement(reviews.said(("ann", "1", "keep"), ("bob", "2", "drop")))
    assert (found["alpha"], found["pairs"], found["twice"]) == (None, [], 0)


@pytest.fixture
def pairs(store, tmp_path):
    rows = pair_rows(6)
    return ingested.dataset(store, tmp_path, "pairs", [*rows, rows[1]])


def test_pairs_are_swapped_and_dropped_with_lineage(store, pairs):
    before = pairs.frame()
    ids = before["id"].to_list()
    what = ["chosen", "rejected", "tie", "both_bad", "skip"]
    lines = [("ann", i, j) for i, j in zip(ids, what, strict=False)]
    found = reviewed(
        store, pairs, reviews.said(*lines, ("bob", ids[0], "tie"), ("bob", "gone", "tie"))
    )
    after = found.dataset.frame()
    assert after.drop("id", "meta", "chosen", "rejected").equals(
        before.drop("id", "meta", "chosen", "rejected")
    )
    for at in (1, 6):  # and its copy
        old, new = before.row(at, named=True), after.row(at, named=True)
        assert (new["chosen"], new["rejected"]) == (old["rejected"], old["chosen"])
        assert json.loads(new["meta"])["parents"] == [old["id"]]
        assert new["id"] == content_id("pair", {c: new[c] for c in CONTENT["pair"]})
    assert after["id"].to_list()[2:6] == ids[2:6]
    dropped = found.dropped.frame()
    assert dict(zip(dropped["row"], dropped["reason"], strict=True)) == {
        0: "judged: disagreed",
        2: "judged: tie",
        3: "judged: both_bad",
    }
    judged = found.judged.frame()
    assert judged.filter(judgement="rejected")["id"].to_list() == [after["id"][1]] * 2
    assert judged.filter(judgement="rejected")["item"].to_list() == [ids[1]] * 2
    assert found.facts["rows"] == {"both_bad": 1, "disagreed": 1, "rejected": 2, "tie": 1}
    assert found.facts["not_among_the_rows"] == 1
    assert found.facts["conflicts"] == {"resolved_by_majority": 0, "left_open": 1}


def test_rows_are_kept_dropped_and_corrected(store, tmp_path):
    dataset = ingested.dataset(store, tmp_path, "chats", chat_rows(4))
    before = dataset.frame()
    ids = before["id"].to_list()
    lines = [("ann", ids[0], "keep"), ("ann", ids[1], "drop"), ("ann", ids[2], "fix", "Now right.")]
    found = reviewed(store, dataset, reviews.said(*lines))
    row = found.dataset.frame().row(2, named=True)
    assert row["messages"][-1]["content"] == "Now right."
    assert row["messages"][:-1] == before.row(2, named=True)["messages"][:-1]
    assert json.loads(row["meta"])["parents"] == [ids[2]]
    assert found.dropped.frame()["row"].to_list() == [1]
    again = reviewed(store, found.dataset, reviews.said(("bob", row["id"], "fix", "Righter.")))
    assert json.loads(again.dataset.frame()["meta"][2])["parents"] == [ids[2], row["id"]]


def test_a_row_that_is_to_fall_is_not_changed(store, pairs):
    """Its id would be another one, and the list that names it would let it through."""
    ids = pairs.frame()["id"].to_list()
    said = reviews.said(("ann", ids[0], "rejected"), ("ann", ids[1], "rejected"))
    found = reviewed(store, pairs, said, apart={ids[1]})
    assert found.dataset.frame()["id"].to_list()[1:] == ids[1:]
    assert found.judged.frame()["item"].to_list() == [ids[0]]


def test_what_changes_no_text_costs_no_copy(store, tmp_path):
    dataset = ingested.dataset(store, tmp_path, "chats", chat_rows(4))
    ident = dataset.frame()["id"][0]
    assert reviewed(store, dataset, reviews.said(("ann", ident, "drop"))).dataset == dataset


def test_rows_that_could_not_be_read_stay_in_quarantine(store, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [json.dumps(r) for r in chat_rows(3)]
    path.write_text("\n".join([*rows, "{broken"]))
    from gristmill.pipeline.ingest.ingest import Source, ingest

    dataset = ingest(store, [Source(path=str(path))], max_bad_share=1.0)
    ident = dataset.frame()["id"][0]
    found = reviewed(store, dataset, reviews.said(("ann", ident, "fix", "Else."))).dataset
    assert found.quarantine().equals(dataset.quarantine())
    assert found.sources == dataset.sources


def test_judgements_of_other_rows_are_refused(store, pairs):
    ident = pairs.frame()["id"][0]
    with pytest.raises(ValueError, match="'keep' is not one of pairs"):
        reviewed(store, pairs, reviews.said(("ann", ident, "keep")))
    with pytest.raises(ValueError, match="none of the 1 judged items"):
        reviewed(store, pairs, reviews.said(("ann", "0" * 32, "tie")))


def test_what_people_said_is_read_from_a_folder_or_a_table(store, tmp_path):
    desk = reviews.desk(store, tmp_path)
    for turn in desk.turns("ann", 3):
        desk.take("ann", reviews.click(turn.item, "tie"))
    read = folder.said(desk.review.path)
    assert folder.said(desk.review.write()).equals(read)
    assert read.height == 3
    for path, says in (
        (tmp_path / "nothing", "no review and no table"),
        (tmp_path, "review.json is missing"),
        (tmp_path / "rows.jsonl", "no Parquet file"),
        (tmp_path / "other.parquet", "it lacks annotator"),
    ):
        pl.DataFrame({"item": ["x"]}).write_parquet(tmp_path / "other.parquet")
        with pytest.raises(ValueError, match=says):
            folder.said(path)
