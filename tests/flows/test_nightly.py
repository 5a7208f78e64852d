"""Nightly: a pool that grows over several nights, without Prefect; what each night costs and says."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from curation import walk_through
from plain_diff import plain_diff
from rows import chat_rows, write_jsonl

from gristmill.flows import checks, files, nightly_steps, publishing, reports, steps
from gristmill.flows.config import CurateConfig
from gristmill.flows.nightly_config import NightlyConfig
from gristmill.pipeline.export import diff
from gristmill.pipeline.export.versions import published

LONG = " ".join(f"hen{i} and goat{i}" for i in range(30))


def chat(question: str, answer: str, **more) -> dict:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


COPIES = [
    chat("Tell me a story.", LONG.replace("hen7 ", "duck7 "), id="near"),
    chat("tell me a STORY.", LONG.upper(), id="exact"),
]


@dataclass(frozen=True)
class Night:
    """A night: its run, what models read in it, what it compared, the version, if one was made."""

    run: steps.Curation
    tokens: int
    found: nightly_steps.Compared
    folder: Path | None

    @property
    def ledger(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "ledger" / "*.parquet")


def night(config: dict) -> Night:
    """What the flow does, without Prefect."""
    run = steps.Curation(config=NightlyConfig.model_validate(config))
    rows, seen, scores = steps.walk(run)
    found = nightly_steps.compared(run, rows)
    folder = None
    if found.unchanged is None:
        folder = publishing.publish(run, rows, seen, scores)
    return Night(run, run.context.caps.spent_tokens, found, folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny):
    """Settings, and three nights: the first, one with nothing new, one with three new rows."""
    root = tmp_path_factory.mktemp("nightly")
    incoming, lists = root / "incoming", root / "takedown.txt"
    lists.write_text("# nobody yet\n")
    write_jsonl(root / "sets" / "clips.jsonl", [{"q": "How many clips did she sell in May?"}])
    (root / "sets.yaml").write_text("clips: {files: clips.jsonl, fields: [q], license: MIT}\n")
    against = {"folder": str(root / "sets"), "config": str(root / "sets.yaml"), "similarity": 1.0}
    config = {
        "name": "toy",
        "sources": [{"path": f"{incoming}/*.jsonl"}],
        "models": {"target": str(tiny), "embedder": str(tiny)},
        "takedown": [str(lists)],
        "clean": {"decontaminate": against, "semantic": {"epsilon": 1e-6}},
        "scorers": [{"method": "perplexity"}, {"method": "length"}],
        "select": {"budget": "100%"},
        "store": str(root / "store"),
        "export": {"root": str(root / "curated"), "trainer_rows": False},
        "shard_rows": 32,
    }
    nights = {}
    write_jsonl(incoming / "a.jsonl", [*chat_rows(60), chat("Tell me a story.", LONG, id="story")])
    write_jsonl(incoming / "b.jsonl", chat_rows(60, start=200))
    nights["first"] = night(config)
    nights["again"] = night(config)
    write_jsonl(incoming / "0.jsonl", [*COPIES, *chat_rows(1, start=400)])  # before the old files
    nights["grown"] = night(config)
    return config, nights


@pytest.fixture(scope="module")
def later(world):
    """Further nights: copies alone, rows taken down, a file that is gone, odd rows."""
    config, nights = world
    nights = dict(nights)
    incoming, lists = Path(config["sources"][0]["path"]).parent, Path(config["takedown"][0])
    write_jsonl(incoming / "c.jsonl", COPIES)
    nights["copies"] = night(config)
    lists.write_text("story  # asked by its author\nsource: b  # the licence was withdrawn\n")
    nights["taken"] = night(config)
    (incoming / "a.jsonl").unlink()  # the taken row lies nowhere but in the versions
    write_jsonl(incoming / "d.jsonl", [*chat_rows(60), COPIES[1]])
    nights["back"] = night(config)
    odd = [chat(f"Q{i}?", "x " * 200 + str(i)) for i in range(60)]
    write_jsonl(incoming / "e.jsonl", odd)
    clean = {**config["clean"], "near": None, "semantic": None}
    nights["odd"] = night({**config, "clean": clean})
    return config, nights


def test_a_night_reads_what_is_new_and_no_more(world):
    _, nights = world
    first, grown = nights["first"], nights["grown"]
    assert first.found == nightly_steps.Compared(), "there is nothing to compare with"
    assert first.tokens > 0
    new = grown.ledger.join(first.ledger, on="id", how="anti")
    assert new.height == 3
    assert 0 < grown.tokens < 0.03 * first.tokens
    assert nights["again"].tokens == 0


def test_nothing_new_makes_no_version_and_says_so(world):
    _, nights = world
    again, v1 = nights["again"], nights["first"].folder.name
    assert again.folder is None
    assert again.found.unchanged == (
        f"there is nothing new: toy {v1} stands, and no version was made."
    )


@pytest.mark.slow
def test_new_rows_of_which_none_is_taken_make_no_version(later):
    _, nights = later
    copies, v2 = nights["copies"], nights["grown"].folder.name
    assert copies.folder is None
    assert copies.found.unchanged == (
        f"none of the 2 new rows was taken: toy {v2} stands, and no version was made."
    )


def test_new_rows_that_repeat_a_published_one_fall_whatever_their_place(world):
    _, nights = world
    ledger = nights["grown"].ledger
    fates = dict(ledger.filter(source="0").select("user_id", "reason").iter_rows())
    assert fates == {"near": "near_duplicate", "exact": "exact_duplicate", "row-400": None}
    story = ledger.filter(user_id="story").row(0, named=True)
    assert story["verdict"] == "kept", "though the copies come first in order"
    assert set(ledger.filter(source="0")["duplicate_of"].drop_nulls()) == {story["id"]}


def test_the_diff_equals_plain_loops_over_both_ledgers_and_is_what_the_run_was_told(world):
    as_plain_loops_say(world[1])


@pytest.mark.slow
def test_so_do_the_diffs_of_later_nights(later):
    as_plain_loops_say(later[1])


def as_plain_loops_say(nights: dict[str, Night]) -> None:
    versions = [n for n in nights.values() if n.folder is not None]
    assert len(versions) > 1
    for before, after in pairwise(versions):
        told = json.loads((after.folder / "diff.json").read_text("utf-8"))
        truth = plain_diff(before.ledger.to_dicts(), after.ledger.to_dicts())
        assert {(c["change"], c["reason"]): c["rows"] for c in told["changes"]} == truth["changes"]
        assert [told["counts"][f"rows_{w}"] for w in ("before", "after")] == truth["rows"]
        assert told["shift"] == pytest.approx(truth["shift"])
        assert {s["source"] for s in told["sources"] if s["change"] == "new"} == truth["new"]
        assert (told["before"], told["after"]) == (before.folder.name, after.folder.name)
        known = {**after.found.diff.facts, "after": after.folder.name}
        assert told == json.loads(json.dumps(known)), "limits judge what is published"


@pytest.mark.slow
def test_what_is_taken_down_is_gone_from_all_later_versions(later):
    _, nights = later
    taken, back = nights["taken"], nights["back"]
    fates = dict(taken.ledger.group_by("reason").len().iter_rows())
    assert (fates["takedown"], fates["takedown: source"]) == (3, 60)  # the story, and its copy
    story = taken.ledger.filter(user_id="story")["id"][0]
    ids = set(nights["grown"].ledger.filter(source="b", verdict="kept")["id"])
    assert len(ids) > 40
    assert set(taken.found.taken_down) == {story, *ids}
    later = back.ledger.filter(source="d", user_id="exact").row(0, named=True)
    assert later["reason"] == "takedown", "it says the same as a row that only versions hold"
    assert back.found.diff.rows.is_empty(), "the same rows, from another file"
    assert back.found.diff.counts["relabelled"] == 60
    for n in (taken, back, nights["odd"]):
        kept = n.ledger.filter(verdict="kept")
        assert not {story, *ids} & set(kept["id"])


@pytest.mark.slow
def test_rows_unlike_those_before_raise_alarms_that_the_page_shows(later):
    _, nights = later
    odd = nights["odd"]
    limits = [a.partition(":")[0] for a in odd.found.alarms]
    assert {"rows", "mixture", "score"} <= set(limits), odd.found.alarms
    page = (odd.folder / "diff.html").read_text("utf-8")
    assert page.count("Beyond a limit: ") == len(limits)
    assert not nights["grown"].found.alarms
    assert odd.run.config.clean.near is None, "null is respected"
    assert nights["grown"].run.config.clean.near is not None


@pytest.mark.slow
def test_beyond_a_limit_a_run_that_is_to_pause_waits_for_a_person(later):
    from gristmill.flows import approving
    from gristmill.pipeline.review.approval import WaitsForApproval

    config, _ = later
    config = {**config, "name": "waits", "drift": {"then": "pause", "pause": {"sample": 5}}}
    first = {**config, "sources": [{"path": f"{config['sources'][0]['path'][:-7]}c.jsonl"}]}
    first["takedown"] = []
    assert night(first).folder is not None, "the first version has nothing to drift from"
    run = steps.Curation(config=NightlyConfig.model_validate(config))
    rows, seen, scores = steps.walk(run)
    with pytest.raises(WaitsForApproval, match="Beyond a limit: rows: 1 became"):
        approving.demanded(run, rows)
    asked = approving.request(run, rows)
    assert "Beyond a limit" in (asked.path / "report.html").read_text("utf-8")
    assert "what changed" in (asked.path / reports.CHANGES).read_text("utf-8")
    asked.decide("approved", "Ada")
    folder = publishing.publish(run, rows, seen, scores)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["evaluation"]["approval"]["by"] == "Ada"


@pytest.mark.slow
def test_other_settings_make_a_version_of_the_same_rows(later):
    config, nights = later
    last = nights["odd"].run.config.model_dump(mode="json")
    same = night({**last, "store": config["store"]})
    assert same.found.unchanged is not None
    other = night({**last, "export": {**last["export"], "validation_fraction": 0.1}})
    assert other.found.diff.same
    assert other.folder is not None


@pytest.mark.slow
def test_a_curate_run_over_the_same_pool_publishes_its_diff_too(later):
    config, _ = later
    own = {k: v for k, v in config.items() if k != "takedown"} | {"name": "plain"}
    own["clean"] = {}
    first = walk_through(CurateConfig.model_validate({**own, "select": {"budget": "50%"}}))
    second = walk_through(CurateConfig.model_validate({**own, "select": {"budget": "60%"}}))
    found = diff.between(first, published(second.parent))
    assert found.counts["added"] > 0
    assert found.counts["dropped"] == 0
    assert (second / "diff.html").is_file()


def test_settings_are_known_by_their_own_keys_and_a_pattern_needs_a_file(world, tmp_path):
    config, _ = world
    assert files.flow_of({**config, "drift": {}}) == "nightly"
    assert files.flow_of(config) == "curate"
    none = {**config, "sources": [{"path": f"{tmp_path}/*.jsonl"}]}
    with pytest.raises(ValueError, match=r"\*\.jsonl: no file matches"):
        checks.check(NightlyConfig.model_validate(none), "nightly.yaml")


def test_the_page_that_links_open_is_the_one_that_is_written():
    assert reports.CHANGES == diff.PAGE
