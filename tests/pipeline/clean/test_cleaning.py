"""Cleaning and cascades inside a run: every cleaner at once, each row's fate in the ledger."""

import polars as pl
import pytest
import yaml
from curation import walk_through
from rows import write_jsonl

from gristmill.flows import checks
from gristmill.flows.config import CurateConfig
from gristmill.pipeline.clean.filters import filter_named


def qa(question: str, answer: str, **more) -> dict:
    return {"question": question, "answer": answer, **more}


LONG = (
    "A farmer keeps seven hens and two goats behind the barn near the river, and every morning she "
    "walks past the mill to count them before the rain begins to fall on the old wooden bridge."
)
LEAK = (
    "How many clips did Natalia sell altogether in April and May if she sold half as many in May?"
)


@pytest.fixture
def run(tmp_path, tiny) -> dict:
    rows = [
        qa(f"What is {i} plus {i}?", f"It is {2 * i}, since {i} twice is {2 * i}.")
        for i in range(20)
    ]
    rows += [
        qa("Tell me a story.", LONG),
        qa("Tell me a story.", LONG.replace("seven", "eight")),  # near duplicate
        qa("tell me  a STORY.", LONG.upper()),  # equal after normalisation
        qa(LEAK, "72"),  # repeats an evaluation item
        qa("Write to me.", "My address is jane.doe@northmill.co.uk, write soon."),  # personal data
        qa("Is this free?", "No.", license="CC-BY-NC-4.0"),
        qa("What of the target?", "It is never shipped."),
    ]
    pool = write_jsonl(tmp_path / "pool.jsonl", [{"license": "MIT", **r} for r in rows])
    target = write_jsonl(
        tmp_path / "target.jsonl", [qa("What of the target?", "It is never shipped.")]
    )
    write_jsonl(tmp_path / "sets" / "clips.jsonl", [{"q": LEAK}])
    (tmp_path / "sets.yaml").write_text("clips: {files: clips.jsonl, fields: [q], license: MIT}\n")
    return {
        "name": "clean",
        "sources": [{"path": str(pool)}],
        "reference": [{"path": str(target)}],
        "models": {"target": str(tiny), "embedder": str(tiny)},
        "scorers": [{"method": "length"}, {"method": "rds_plus"}, {"method": "random"}],
        "clean": {
            "near": {"threshold": 0.6, "bands": 40, "rows": 4},
            "semantic": {"epsilon": 0.000001},
            "decontaminate": {
                "folder": str(tmp_path / "sets"),
                "config": str(tmp_path / "sets.yaml"),
                "similarity": None,
            },
            "filters": [
                {"filter": "pii"},
                {"filter": "license", "settings": {"allowed": ["MIT"]}},
            ],
        },
        "select": {
            "by": "rds_plus",
            "budget": "5",
            "before": [{"by": "length", "budget": "50%"}],
        },
        "store": str(tmp_path / "store"),
        "export": {"root": str(tmp_path / "curated")},
    }


def ledger_of(folder) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(p) for p in (folder / "ledger").glob("*.parquet")])


def test_every_cleaner_says_why_and_the_cascade_says_where(run):
    folder = walk_through(CurateConfig.model_validate(run))
    ledger = ledger_of(folder)
    assert ledger.height == 27
    reasons = dict(ledger.group_by("reason").len().iter_rows())
    assert reasons.pop(None) == 5, "kept"
    assert reasons["contaminated: clips"] == 1
    assert reasons["pii: email"] == 1
    assert reasons["reference_row"] == 1
    assert reasons["exact_duplicate"] == 1
    assert reasons["near_duplicate"] == 1
    assert sum(n for r, n in reasons.items() if r.startswith("license")) == 1
    stages = set(ledger.filter(reason="below_budget")["stage"])
    assert stages == {"1-length", "select"}
    assert ledger.filter(pl.col("contaminates") == "clips").height == 1
    card = (folder / "README.md").read_text("utf-8")
    assert "clips" in card, "the card names what was checked"
    again = walk_through(CurateConfig.model_validate(run))
    assert again == folder


def test_pairs_in_both_directions_are_dropped(run, tmp_path):
    def pair(chosen, rejected, prompt="Which?"):
        turns = {"chosen": chosen, "rejected": rejected}
        said = {s: [{"role": "assistant", "content": text}] for s, text in turns.items()}
        return {"prompt": [{"role": "user", "content": prompt}], **said}

    rows = [pair(f"{i} is it.", "I do not know.", f"Is it {i}?") for i in range(6)]
    rows += [pair("This.", "That."), pair("That.", "This.")]
    pool = write_jsonl(tmp_path / "pairs.jsonl", rows)
    asked = {"sources": [{"path": str(pool)}], "reference": [], "clean": {}}
    config = {**run, **asked, "scorers": [{"method": "random"}], "select": {"budget": "100%"}}
    ledger = ledger_of(walk_through(CurateConfig.model_validate(config))).sort("row")
    assert ledger["verdict"].to_list() == ["kept"] * 6 + ["dropped"] * 2
    assert ledger["reason"][6] == f"both_directions: {ledger['id'][7]}"


def test_rows_published_before_do_not_come_again(run):
    first = walk_through(CurateConfig.model_validate(run))
    taken = set(ledger_of(first).filter(verdict="kept")["id"])
    run["clean"]["published"] = [str(first)]
    run["name"] = "next"
    second = walk_through(CurateConfig.model_validate(run))
    assert not taken & set(ledger_of(second).filter(verdict="kept")["id"])


def test_the_same_pool_in_another_order_loses_the_same_rows(run, tmp_path):
    run["clean"]["keep"] = "best"  # which copy is the first depends on the order
    first = ledger_of(walk_through(CurateConfig.model_validate(run)))
    pool = tmp_path / "pool.jsonl"
    lines = pool.read_text("utf-8").splitlines()
    pool.write_text("\n".join(reversed(lines)) + "\n", "utf-8")
    second = ledger_of(walk_through(CurateConfig.model_validate(run)))
    fate = ["id", "verdict", "reason"]
    assert first.select(fate).sort(fate).equals(second.select(fate).sort(fate))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"clean": {"filters": [{"filter": "nope"}]}}, "there is no filter 'nope'; there are:"),
        (
            {"clean": {"filters": [{"filter": "pii", "settings": {"x": 1}}]}},
            "filter pii has no setting 'x'",
        ),
        ({"clean": {"decontaminate": {"folder": "no/such"}}}, "name the folder"),
        ({"select": {"by": "ifd"}}, "none of the scorers"),
    ],
)
def test_mistakes_are_told_before_anything_runs(run, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        checks.check(CurateConfig.model_validate({**run, **wrong}), "run.yaml")


def test_filters_are_found_by_name():
    made = filter_named("length", {"min_words": "3"})
    assert vars(made)["min_words"] == 3


def test_the_config_survives_yaml(run):
    config = CurateConfig.model_validate(run)
    assert (
        CurateConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config
    )
