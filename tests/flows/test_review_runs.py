"""Runs and people: what they said of rows goes into the dataset, and a run waits for them."""

import json
from pathlib import Path

import polars as pl
import pytest
import reviews
from curation import published_bytes, walk_through
from rows import pair_rows, write_jsonl

from gristmill.flows.config import CurateConfig
from gristmill.flows.steps import Curation, open_store
from gristmill.pipeline.export.why import stories
from gristmill.pipeline.review import approval, folder
from gristmill.pipeline.review.approval import Rejected, WaitsForApproval


def settings(root: Path, **more) -> dict:
    """A run over twelve pairs that needs no model."""
    pool = root / "pool.jsonl"
    if not pool.exists():
        write_jsonl(pool, pair_rows(12))
    return {
        "name": "toy",
        "sources": [{"path": str(pool), "license": "MIT"}],
        "scorers": [{"method": "random"}],
        "select": {"budget": "100%"},
        "store": str(root / "store"),
        "export": {"root": str(root / "curated"), "trainer_rows": False},
        **more,
    }


def run(root, **more):
    return CurateConfig.model_validate(settings(root, **more))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A review of the pool by two, one of them only of what is judged twice; and the run of it."""
    root = tmp_path_factory.mktemp("judged")
    raw = Curation(config=run(root)).ingest("pool")
    store = open_store(root / "store")
    from gristmill.pipeline.records.dataset import Dataset
    from gristmill.pipeline.review.desk import Desk
    from gristmill.pipeline.review.orders import Order

    review = folder.opened(store, Dataset.open(raw), "toy")
    desk = Desk(review=review, order=Order.parse("random"), double=1.0)
    rows = review.dataset.frame().sort("row")
    ids = rows["id"].to_list()
    plan = {
        "ann": ["chosen", "rejected", "tie", "both_bad", "skip", "chosen"],
        "bob": ["chosen", "rejected", "tie", "both_bad", "chosen", "rejected"],
    }
    from gristmill.pipeline.review import shown

    for name, said in plan.items():
        for ident, judgement in zip(ids, said, strict=False):
            first = shown.first(0, name, ident)
            side = {first: "first", shown.other(first): "second"}.get(judgement, judgement)
            desk.take(name, reviews.click(ident, side))
    made = walk_through(run(root, review=str(review.path)))
    return {"root": root, "review": review, "ids": ids, "rows": rows, "published": made}


def test_a_run_takes_what_people_said(judged):
    made, ids, rows = judged["published"], judged["ids"], judged["rows"]
    data = pl.read_parquet(made / "data" / "*.parquet").sort("id")
    before = {r["id"]: r for r in rows.iter_rows(named=True)}
    assert set(ids) - set(data["id"]) == {ids[n] for n in (1, 2, 3, 5)}
    (new,) = set(data["id"]) - set(ids)
    swapped = data.filter(id=new).row(0, named=True)
    old = before[ids[1]]
    assert swapped["chosen"][0]["content"] == old["rejected"][0]["content"]
    assert swapped["rejected"][0]["content"] == old["chosen"][0]["content"]


def test_the_ledger_says_who_judged_and_whose_child_a_row_is(judged):
    ids = judged["ids"]
    ledger = pl.read_parquet(judged["published"] / "ledger" / "*.parquet").sort("row")
    assert ledger["judgement"].to_list()[:6] == [
        *("chosen", "rejected", "tie", "both_bad", "chosen", "disagreed"),
    ]
    assert ledger["judgement"].to_list()[6:] == [None] * 6
    assert ledger["judged_by"].to_list()[:6] == ["ann, bob"] * 4 + ["bob", "ann, bob"]
    assert ledger["reason"].to_list()[2:6] == [
        *("judged: tie", "judged: both_bad", None, "judged: disagreed"),
    ]
    assert ledger["stage"][2] == "review"
    assert json.loads(ledger["parents"][1]) == [ids[1]]
    (told,) = stories(ids[2], judged["published"], Path(judged["root"]) / "store")
    assert "people looked at it: tie (ann, bob)" in told.sentences[0]
    assert told.turns, "the text of a dropped row is found in the reviewed records"
    (told,) = stories(ledger["id"][1], judged["published"])
    assert "Judged by ann, bob: rejected; its two answers were swapped." in told.sentences


def test_the_explorer_has_the_text_of_what_people_dropped(judged):
    """The pool of such a run is no ingested one: it lies with the reviewed rows."""
    from gristmill.pipeline.explore.explorer import Explorer
    from gristmill.pipeline.explore.story import Stories

    found = Explorer.of(judged["published"], store=Path(judged["root"]) / "store")
    try:
        assert found.text_note is None
        ledger = found.ledger
        dropped = int(ledger.filter(reason="judged: tie")["at"][0])
        assert Stories(explorer=found).turns(dropped)[0]
    finally:
        found.close()


def test_card_and_manifest_say_how_far_people_agreed(judged):
    """ann and bob on five pairs: chosen-chosen, rejected-rejected, tie, both bad, chosen-rejected.

    p_o = 4 / 5; p_e = (2 * 1 + 1 * 2 + 1 + 1) / 25 = 6 / 25; kappa = (20 - 6) / (25 - 6) = 14 / 19.
    """
    made = judged["published"]
    review = json.loads((made / "manifest.json").read_text())["selection"]["review"]
    assert review["annotators"] == {"ann": 5, "bob": 6}
    assert review["rows"] == {"both_bad": 1, "chosen": 2, "disagreed": 1, "rejected": 1, "tie": 1}
    assert review["pairs"][0]["kappa"]["value"] == pytest.approx(14 / 19, abs=1e-12)
    card = (made / "README.md").read_text()
    assert "## What people said" in card
    assert "6 rows were judged, 5 of them by several annotators (ann 5, bob 6)" in card
    assert "0.737" in card
    assert "people did not check it" not in card


def test_the_same_run_is_found_and_more_judgements_are_another_version(judged):
    root, review = judged["root"], judged["review"]
    asked = run(root, review=str(review.path))
    bytes_ = published_bytes(judged["published"])
    assert walk_through(asked) == judged["published"]
    assert published_bytes(judged["published"]) == bytes_
    table = review.write()
    assert walk_through(run(root, review=str(table))) == judged["published"], "folder or table"


def test_a_published_dataset_is_reviewed_by_the_ids_of_its_ledger(judged):
    from gristmill.flows import reviewing

    home = judged["published"].parent
    store = str(Path(judged["root"]) / "other")
    asked = reviewing.Asked(data=str(home), store=store, order="-score", double=0.0)
    desk = reviewing.desk(asked)[0]
    ledger = pl.read_parquet(judged["published"] / "ledger" / "*.parquet")
    kept = ledger.filter(verdict="kept").sort("score", "id")
    assert desk.items == kept["id"].to_list()


def test_a_review_that_is_none_is_told_before_the_run(judged, tmp_path):
    from gristmill.flows import checks
    from gristmill.flows.problems import Problems

    asked = run(judged["root"], review=str(tmp_path / "nothing"))
    with pytest.raises(Problems, match="review: there is no review and no table of judgements"):
        checks.check(asked, "run.yaml")
    found = checks.check(run(judged["root"], review=str(judged["review"].path)), "run.yaml")
    assert {"what": "review", "name": str(judged["review"].path), "is": "12 judgements"} in found


def test_a_run_waits_and_the_same_command_goes_on_once_somebody_approved(tmp_path):
    asked = run(tmp_path, pause="review")
    with pytest.raises(WaitsForApproval, match="12 of 12 rows would be published"):
        walk_through(asked)
    assert not (tmp_path / "curated").exists()
    (request,) = approval.waiting(tmp_path / "store")
    request.decide("rejected", "ann", "row 3 is rude")
    with pytest.raises(Rejected, match=r"rejected by ann at .*: row 3 is rude"):
        walk_through(asked)
    assert not (tmp_path / "curated").exists()
    request.decide("approved", "bob", "it is a quotation")
    made = walk_through(asked)
    assert walk_through(asked) == made
    manifest = json.loads((made / "manifest.json").read_text())
    told = manifest["evaluation"]["approval"]
    assert (told["verdict"], told["by"], told["reason"]) == ("approved", "bob", "it is a quotation")
    assert told["sample"] == 12
    card = (made / "README.md").read_text()
    assert "**Approved by bob**" in card
    ledger = pl.read_parquet(made / "ledger" / "*.parquet")
    assert ledger["approved_by"].unique().to_list() == ["bob"]
    (story,) = stories(ledger["id"][0], made)
    assert story.sentences[-1] == "bob approved this version, having looked at a sample of it."
    with pytest.raises(WaitsForApproval):
        walk_through(run(tmp_path, pause="review", select={"budget": 5}))


@pytest.mark.parametrize(("then", "stops"), [("reject", Rejected), ("publish", None)])
def test_waiting_that_is_over_does_what_the_settings_say(tmp_path, then, stops, monkeypatch):
    asked = run(tmp_path, pause={"hours": 0.5, "then": then, "sample": 3})
    with pytest.raises(WaitsForApproval):
        walk_through(asked)
    later = approval._now().replace(year=approval._now().year + 1)
    monkeypatch.setattr(approval, "_now", lambda: later)
    if stops is None:
        card = (walk_through(asked) / "README.md").read_text()
        assert "**Approved by nobody**" in card
        assert "no decision within 0.5 hours" in card
    else:
        with pytest.raises(stops, match="rejected by nobody"):
            walk_through(asked)
    (request,) = [approval.opened(p) for p in (tmp_path / "store" / "approvals").iterdir()]
    assert request.sampled().height == 3


@pytest.mark.parametrize(
    ("pause", "says"),
    [("views", "review"), ({"hours": 0}, "greater than 0"), ({"then": "wait"}, "publish")],
)
def test_a_pause_that_cannot_be_is_refused(tmp_path, pause, says):
    with pytest.raises(ValueError, match=says):
        run(tmp_path, pause=pause)


def test_the_command_line_lists_what_waits_and_takes_a_decision(gristmill, tmp_path):
    with pytest.raises(WaitsForApproval):
        walk_through(run(tmp_path, pause="review"))
    store = ("--store", tmp_path / "store")
    code, out, _ = gristmill("approve", *store)
    assert code == 0
    assert "1 runs wait" in out or "toy" in out
    code, _, err = gristmill("approve", "toy", "--reject", *store)
    assert (code, "needs its reason" in err) == (2, True)
    code, _, err = gristmill("approve", "tony", *store)
    assert (code, "there are: toy" in err) == (2, True)
    code, out, _ = gristmill("approve", "toy", "--by", "ann", *store)
    assert (code, out.strip()) == (0, "toy: approved by ann")
    assert walk_through(run(tmp_path, pause="review")).is_dir()


def test_the_exit_codes_of_waiting_and_rejected_are_their_own(monkeypatch, capsys, gristmill):
    from gristmill.flows.cli import runs

    for stop, code in ((WaitsForApproval("it waits"), 5), (Rejected("it was rejected"), 6)):
        monkeypatch.setattr(runs, "run_settings", lambda *_, stop=stop: (_ for _ in ()).throw(stop))
        Path("run.yaml").write_text("name: x\nsources: [{path: y}]\nscorers: [{method: length}]\n")
        assert gristmill("run", "curate", "run.yaml")[::2] == (code, f"gristmill: {stop}\n")
