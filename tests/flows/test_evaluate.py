"""Evaluate: the command, its files, and what it refuses."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml
from colours import TASK
from repository import ROOT
from rows import chat_rows, pair_rows, write_jsonl

from gristmill.flows import checks, evaluate_steps, files
from gristmill.flows.evaluate_config import EvaluateConfig
from gristmill.flows.problems import Problems

QUESTIONS = [
    {"query": f"Which of these two colours is nearer to that of {thing}?",
     "choices": ["red", "green"], "gold": n % 2}
    for n, thing in enumerate(("a ripe tomato", "fresh grass in May", "old brick", "moss"))
]  # fmt: skip


@pytest.fixture
def asked(tmp_path):
    """Held-out rows, pairs and a task, as files."""
    (tmp_path / "colours.yaml").write_text(TASK)
    folder = tmp_path / "rows"
    folder.mkdir()
    write_jsonl(folder / "colours.jsonl", QUESTIONS)
    write_jsonl(tmp_path / "test.jsonl", chat_rows(4, start=50))
    write_jsonl(tmp_path / "pairs.jsonl", pair_rows(4))
    return tmp_path


def test_a_model_is_measured_and_every_answer_is_kept(gristmill, tiny, asked):
    words = (
        "evaluate", tiny, "--data", "test.jsonl", "--data", "pairs.jsonl", "--task", "colours.yaml",
        "--eval-data", "rows", "--limit", 3, "--store", "st", "--device", "cpu", "--out", "ev/one",
    )  # fmt: skip
    code, out, err = gristmill(*words)
    assert code == 0, err
    assert "ev/one" in out
    figures = pl.read_parquet("ev/one/figures.parquet")
    assert figures.select("measure", "set", "part", "items").rows() == [
        ("loss per token", "test", None, 3),
        ("preference accuracy", "pairs", None, 3),
        ("preference margin", "pairs", None, 3),
        ("task", "colours", "acc", 3),
    ]
    assert (figures["low"] <= figures["value"]).all()
    assert (figures["value"] <= figures["high"]).all()
    for line in evaluate_steps.shown(figures.to_dicts()):
        assert line["value"] in out
    told = json.loads(Path("ev/one/summary.json").read_text())
    assert told["tasks"]["colours"]["figures"]["acc,none"] == figures["value"][3]
    assert told["tasks"]["colours"]["made_of"]["harness"] == "0.4.13"
    assert told["model_sha"] == told["tasks"]["colours"]["made_of"]["model_sha"]
    assert told["trained_on_checked"] is False
    assert (
        pl.read_parquet("ev/one/tasks.parquet")["answer"]
        .str.strip_chars()
        .is_in(["red", "green"])
        .all()
    )
    assert pl.read_parquet("ev/one/heldout.parquet")["set"].to_list() == ["test"] * 3
    assert pl.read_parquet("ev/one/preference.parquet").height == 3
    code, out, _ = gristmill(*words, "--json")
    assert [line["measure"] for line in json.loads(out)] == figures["measure"].to_list()


def test_a_judge_compares_with_a_baseline(gristmill, tiny, asked):
    config = EvaluateConfig.model_validate(
        {
            "name": "judged",
            "model": str(tiny),
            "held_out": [{"path": "test.jsonl"}],
            "win_rate": {
                "baseline": str(tiny),
                "judge": {"recorded": "judge.jsonl"},
                "max_tokens": 16,
            },
            "passes": {"device": "cpu"},
            "store": "st",
            "out": "ev",
        }
    )
    from gristmill.pipeline.ingest.ingest import Source, ingest

    rows = ingest(evaluate_steps.open_store("st"), [Source(path="test.jsonl")]).frame()
    said = [
        {"id": f"{i}:{order}-first", "text": '{"better": "first"}'}
        for i in rows["id"]
        for order in ("candidate", "baseline")
    ]
    write_jsonl(Path("judge.jsonl"), said)
    found = evaluate_steps.run(config)
    lines = {(x["measure"], x["part"]): x["value"] for x in found.lines.to_dicts()}
    assert lines["win rate", "raw"] == 0.5
    assert lines["win rate", "equal lengths"] == pytest.approx(0.5)
    assert found.facts["win_rate"]["test"]["first"] == 1.0
    answers = pl.read_parquet("ev/judged/win_rate.parquet")
    assert answers.height == 4
    assert (answers["candidate"] == answers["baseline"]).all()


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (chat_rows(2, start=52), "test: 2 of 4 rows repeat rows that were trained on"),
        (
            [{"messages": [{"role": "user", "content": QUESTIONS[1]["query"]},
                           {"role": "assistant", "content": "Green."}]}],
            "task colours: 1 of 4 row repeats rows that were trained on (first: colours:1",
        ),
    ],
)  # fmt: skip
def test_what_was_trained_on_is_refused_before_any_pass(gristmill, asked, seen, message):
    write_jsonl(asked / "pool.jsonl", [*chat_rows(3, start=80), *seen])
    code, _, err = gristmill(
        "evaluate", "tiny", "--data", "test.jsonl", "--task", "colours.yaml", "--eval-data", "rows",
        "--trained-on", "pool.jsonl", "--store", "st", "--device", "cpu", "--out", "ev/one",
    )  # fmt: skip
    assert (code, message in err) == (2, True), err
    assert not Path("ev").exists()
    assert not list(Path("st").glob("heldout*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing is asked: give held-out rows (--data) or tasks (--task)"),
        (("--data", "test.jsonl", "--judge", "x"), "--baseline and --judge go together"),
        (("--task", "copa"), "tasks.data is not given: name the folder"),
        (("--task", "copa", "--eval-data", "rows"), "reads copa.jsonl, which is not under"),
        (("--task", "cpoa", "--eval-data", "rows"), "there is no task 'cpoa'"),
        (("--data", "test.jsonl", "--data", "./test.jsonl"), "two sets of `held_out` are called"),
        (("--data", "test.jsonl", "--data", "copy.jsonl"), "test: 4 of 4 rows repeat rows of copy"),
    ],
)
def test_mistakes_are_told_in_a_sentence(gristmill, monkeypatch, asked, words, message):
    monkeypatch.delenv("GRISTMILL_DATA", raising=False)
    write_jsonl(asked / "copy.jsonl", chat_rows(4, start=50))
    code, _, err = gristmill("evaluate", "tiny", *words, "--store", "st", "--out", "ev/one")
    assert (code, message in err) == (2, True), err


def test_a_file_of_an_evaluation_is_known_and_checked(gristmill, tiny, asked):
    values = {
        "name": "mine",
        "model": str(tiny),
        "held_out": [{"path": "test.jsonl"}],
        "tasks": {"names": ["colours.yaml"], "data": "rows"},
        "store": "st",
    }
    path = asked / "evaluate.yaml"
    path.write_text(yaml.safe_dump(values))
    flow, config = files.read_any(path)
    assert (flow, type(config)) == ("evaluate", EvaluateConfig)
    code, out, err = gristmill("validate", path)
    assert (code, "valid (an evaluation)" in out, "rows/colours.jsonl" in out) == (0, True, True), (
        err
    )
    assert "has no plan" in gristmill("plan", path)[2]
    short = files.limited(config, 2)
    assert (short.name, short.held_out[0].limit, short.tasks.limit) == ("mine-try", 2, 2)
    values |= {"held_out": [{"path": "none.jsonl"}], "tasks": {"names": ["copa"], "data": "rows"}}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(Problems) as error:
        checks.check(files.read_any(path)[1], "evaluate.yaml")
    assert [s.split(":")[0] for s in error.value.sentences] == ["held_out.0", "tasks"]


def test_the_deployment_asks_what_the_flow_takes():
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (found,) = [d for d in deployments if d["name"] == "evaluate"]
    config = EvaluateConfig.model_validate(found["parameters"]["config"])
    assert all((ROOT / s.path).exists() for s in config.held_out)
    file, _, name = found["entrypoint"].partition(":")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
