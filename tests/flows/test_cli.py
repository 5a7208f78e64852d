"""The command line: the black-box contract, and one sentence for every mistake."""

import errno
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from repository import ROOT
from rows import chat_rows, pair_rows, write_jsonl

from gristmill.flows import interrupted
from gristmill.pipeline.clean.drops import DROPS
from gristmill.pipeline.ingest import sharding as shards
from gristmill.pipeline.records.schema import LEDGER, SCORES


def test_help_teaches(gristmill):
    code, out, _ = gristmill("--help")
    assert code == 0
    for word in ("gristmill demo", "gristmill init", "gristmill score", "gristmill why"):
        assert word in out


def test_a_large_table_is_selected_in_parts_and_its_ledger_is_the_same(
    gristmill, tmp_path, monkeypatch
):
    rows = {
        "id": [f"{i * 7919:032x}" for i in range(40)],
        "source": ["a", "b"] * 20,
        "row": range(40),
        "kind": ["example"] * 40,
        "tokens": [10] * 40,
        "score": [i % 7 / 7 for i in range(40)],
        "reason": [None] * 40,
    }
    table, folder = pl.DataFrame(rows, schema=SCORES), tmp_path / "scores"
    folder.mkdir()
    table.write_parquet("scores.parquet")
    for number in range(2):
        table[number * 20 : (number + 1) * 20].write_parquet(folder / f"part-{number}.parquet")
    asked = ("--rule", "mixture", "--set", "shares=a:1,b:3", "--budget", "90%", "--store", "st")
    code, said, _ = gristmill(
        "select", "--scores", "scores.parquet", *asked, "--out", "one.parquet"
    )
    assert code == 0, said
    monkeypatch.setattr("gristmill.pipeline.selection.streaming.scores.UNIT_ROWS", 16)
    code, parts, _ = gristmill("select", "--scores", folder, *asked, "--out", "two.parquet")
    assert code == 0, parts
    assert parts == said.replace("one.parquet", "two.parquet")
    assert pl.read_parquet("two.parquet").equals(pl.read_parquet("one.parquet"))
    assert pl.read_parquet_metadata("two.parquet") | {"ARROW:schema": ""} == (
        pl.read_parquet_metadata("one.parquet") | {"ARROW:schema": ""}
    )
    assert len(list((tmp_path / "st" / "ledger").glob("*/ledger-*.parquet"))) == 3
    wrong = ("select", "--scores", folder, "--rule", "mixture", "--set", "shares=c:1", "--out", "x")
    code, _, told = gristmill(*wrong)
    assert (code, "source 'c', which no row has" in told) == (2, True)


def test_score_select_export_verify_why(gristmill, pool, tiny, tmp_path):
    target = write_jsonl(tmp_path / "target.jsonl", chat_rows(4, start=90))
    code, out, _ = gristmill(
        "score", "--method", "rds_plus", "--data", pool, "--reference", target,
        "--model", tiny, "--set", "reduce=mean", "--store", "st", "--out", "scores.parquet",
    )  # fmt: skip
    assert (code, "12 of 12 rows scored" in out) == (0, True)
    scores = pl.read_parquet("scores.parquet")
    assert scores.columns[: len(SCORES)] == list(SCORES)

    code, out, _ = gristmill(
        "select", "--scores", "scores.parquet", "--data", pool, "--budget", "25%",
        "--store", "st", "--out", "ledger.parquet",
    )  # fmt: skip
    assert code == 0
    ledger = pl.read_parquet("ledger.parquet")
    assert set(LEDGER) <= set(ledger.columns)
    assert ledger["verdict"].value_counts().sort("verdict")["count"].to_list() == [9, 3]

    code, out, _ = gristmill(
        "export", "--ledger", "ledger.parquet", "--data", pool, "--name", "toy",
        "--model", tiny, "--store", "st", "--out", "curated",
    )  # fmt: skip
    assert code == 0, out
    folder = tmp_path / out.strip().splitlines()[-1]
    assert gristmill("verify", folder)[0] == 0
    kept = ledger.filter(verdict="kept")["id"][0]
    code, out, _ = gristmill("why", kept[:12], "--in", "curated")
    assert (code, "verdict" in out, "kept" in out) == (0, True, True)
    assert gristmill("why", "row-3", "--in", "curated")[0] == 0, "by the user's own id"
    code, out, _ = gristmill("report", folder)
    assert (code, "kept" in out) == (0, True)

    shard = next((folder / "data").glob("*.parquet"))
    raw = bytearray(shard.read_bytes())
    raw[100] ^= 1
    shard.write_bytes(raw)
    code, out, _ = gristmill("verify", folder)
    assert code == 1
    assert shard.name in out


def test_the_help_imports_nothing_heavy():
    code = "import sys, gristmill.flows.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "gristmill.flows.cli.scoring" in loaded
    assert not loaded & {"polars", "numpy", "torch", "pydantic", "prefect"}


LEAK = "How many clips did Natalia sell altogether in April and May of that year in the market?"


@pytest.fixture
def mixed(tmp_path):
    """13 rows that stay, and one of each: copy, near copy, evaluation item, too long, target row."""

    def row(question, answer):
        return {"question": question, "answer": answer, "license": "MIT"}

    long = (
        "A farmer keeps seven hens and two goats behind the barn near the river, and she walks past "
        "the mill every morning to count them before the rain begins to fall on the bridge."
    )
    rows = [row(f"What is {i} and {i}?", f"It is {2 * i}.") for i in range(12)]
    rows += [row("Tell me a story.", long), row("Tell me a story.", long.replace("seven", "nine"))]
    rows += [row("what is 3  and 3?", "It is 6."), row(LEAK, "72"), row("Say it.", "word " * 90)]
    rows += [row("What of the target?", "It never ships.")]
    write_jsonl(tmp_path / "target.jsonl", [row("What of the target?", "It never ships.")])
    write_jsonl(tmp_path / "sets" / "clips.jsonl", [{"q": LEAK}])
    (tmp_path / "sets.yaml").write_text("clips: {files: clips.jsonl, fields: [q], license: MIT}\n")
    return write_jsonl(tmp_path / "mixed.jsonl", rows)


DROPPED = {
    "contaminated: clips": 1,
    "exact_duplicate": 1,
    "near_duplicate": 1,
    "reference_row": 1,
    "too_long": 1,
}


def cleaned(gristmill, mixed, *more):
    (Path("clean.yaml")).write_text(
        "near: {bands: 40, rows: 4}\ndecontaminate: {config: sets.yaml, similarity: null}\n"
    )
    code, out, err = gristmill(
        "clean", "--data", mixed, "--reference", "target.jsonl", "--config", "clean.yaml",
        "--filter", "length:max_words=80,part=answer", "--filter", "license:allowed=MIT,CC-BY-4.0",
        "--near", "0.6", "--decontaminate", "sets", "--store", "st", "--out", "drops.parquet", *more,
    )  # fmt: skip
    assert code == 0, err
    return out


def observed_ids():
    paths = Path("st/observe").rglob("*.parquet")
    return set().union(*(pl.read_parquet(p, columns=["id"])["id"] for p in paths))


def test_clean_says_what_falls_and_what_falls_costs_no_pass(gristmill, mixed, tiny):
    out = cleaned(gristmill, mixed)
    drops = pl.read_parquet("drops.parquet")
    assert drops.columns == list(DROPS)
    assert dict(drops.group_by("reason").len().iter_rows()) == DROPPED
    assert "5 of 18 rows dropped" in out
    for reason, rows in DROPPED.items():
        assert re.search(rf"{reason} +{rows}\b", out), reason
    assert out.splitlines()[-1] == "drops.parquet"

    with_drops = ("--data", mixed, "--drops", "drops.parquet", "--store", "st", "--model", tiny)
    code, out, _ = gristmill("observe", "--method", "perplexity", *with_drops)
    assert (code, "13 records observed" in out) == (0, True)
    code, out, _ = gristmill("score", "--method", "perplexity", *with_drops, "--out", "s.parquet")
    assert (code, "13 of 13 rows scored" in out) == (0, True)
    seen = observed_ids()
    assert seen == set(pl.read_parquet("s.parquet")["id"])
    assert pl.read_parquet_metadata("s.parquet")["gristmill.method"] == "perplexity"
    assert not seen & set(drops.filter(pl.col("reason") != "exact_duplicate")["id"])
    code, out, err = gristmill("check-scores", "--method", "perplexity", *with_drops)
    assert (code, "self-checks" in out) == (0, True), err
    assert observed_ids() == seen, "the checks look at no row that fell"

    code, out, _ = gristmill(
        "select", "--scores", "s.parquet", "--data", mixed, "--drops", "drops.parquet",
        "--budget", "4", "--store", "st", "--out", "ledger.parquet",
    )  # fmt: skip
    assert code == 0
    ledger = pl.read_parquet("ledger.parquet")
    counts = dict(ledger.group_by("reason").len().iter_rows())
    assert counts == {**DROPPED, None: 4, "below_budget": 9}
    # a ledger says what is left as well as a table of drops does
    code, out, _ = gristmill(
        "score", "--method", "random", "--data", mixed, "--drops", "ledger.parquet",
        "--store", "st", "--out", "second.parquet",
    )  # fmt: skip
    assert (code, "4 of 4 rows scored" in out) == (0, True)
    assert set(pl.read_parquet("second.parquet")["id"]) == set(ledger.filter(verdict="kept")["id"])


def test_clean_takes_the_settings_of_a_run(gristmill, mixed):
    Path("run.yaml").write_text(
        "name: run\nclean:\n  filters: [{filter: length, settings: {max_words: 80}}]\n"
    )
    clean = (
        "clean",
        "--data",
        mixed,
        "--config",
        "run.yaml",
        "--store",
        "st",
        "--out",
        "d.parquet",
    )
    assert gristmill(*clean)[0] == 0
    reasons = pl.read_parquet("d.parquet")["reason"].to_list()
    assert sorted(reasons) == ["exact_duplicate", "too_long"]
    assert gristmill(*clean, "--filter", "length:max_words=30")[0] == 0, "both, the file's first"
    assert pl.read_parquet("d.parquet")["reason"].to_list().count("too_long") == 3


def test_clean_compares_meanings_by_the_embedder_that_is_bound(gristmill, mixed, tiny):
    clean = ("clean", "--data", mixed, "--store", "st", "--out", "d.parquet")
    code, out, _ = gristmill(*clean, "--semantic", "0.9", "--model", tiny)
    assert (code, "semantic_duplicate" in out) == (0, True)


def test_pairs_in_both_directions_are_one_line_of_the_drops(gristmill, tmp_path):
    def pair(chosen, rejected):
        sides = {"chosen": chosen, "rejected": rejected}
        said = {s: [{"role": "assistant", "content": text}] for s, text in sides.items()}
        return {"prompt": [{"role": "user", "content": "Which?"}], **said}

    data = write_jsonl(tmp_path / "p.jsonl", [pair("a", "b"), pair("b", "a"), pair("c", "d")])
    code, out, _ = gristmill("clean", "--data", data, "--store", "st", "--out", "d.parquet")
    assert (code, "2 of 3 rows dropped" in out) == (0, True)
    assert re.search(r"^ *both_directions +2 *$", out, re.MULTILINE)


def test_a_greedy_method_picks_what_the_budget_names(gristmill, pool, tiny):
    score = ("score", "--data", pool, "--store", "st", "--out", "s.parquet")
    kcenter = (*score, "--method", "kcenter", "--model", f"embedder={tiny}")
    for budget, scored in (("5", 5), ("25%", 3)):
        code, out, _ = gristmill(*kcenter, "--budget", budget)
        assert (code, f"{scored} of 12 rows scored" in out) == (0, True)
        assert pl.read_parquet("s.parquet")["score"].count() == scored
    code, out, _ = gristmill(*kcenter, "--model", tiny, "--budget", "300tok")
    picked = pl.read_parquet("s.parquet").filter(pl.col("score").is_not_null())
    shortest = pl.read_parquet("s.parquet")["tokens"].sort()
    assert (code, picked.height) == (0, (shortest.cum_sum() <= 300).sum())
    assert 1 < picked.height < 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["score", "--method", "length", "--budget", "3", "--out", "x"],
            "length scores every row whatever the budget",
        ),
        (
            ["score", "--method", "kcenter", "--set", "picks=3", "--budget", "3", "--out", "x"],
            "--budget and --set picks say the same",
        ),
        (
            ["score", "--method", "kcenter", "--budget", "much", "--out", "x"],
            "a budget is a share, a number of rows or a number of tokens",
        ),
        (
            ["score", "--method", "length", "--drops", "none.parquet", "--out", "x"],
            "there is no drops file none.parquet",
        ),
        (
            ["score", "--method", "length", "--drops", "other.parquet", "--out", "x"],
            "--drops other.parquet has no column 'source' of String",
        ),
        (["clean", "--filter", "nope", "--out", "x"], "there is no filter 'nope'"),
        (["clean", "--filter", "length:9", "--out", "x"], "expected NAME or NAME:key=value"),
        (["clean", "--filter", "license", "--out", "x"], "license needs its setting 'allowed'"),
        (["clean", "--filter", "length:min_words=few", "--out", "x"], "length.min_words = 'few'"),
        (["clean", "--near", "2", "--out", "x"], "near.threshold: "),
        (["clean", "--config", "none.yaml", "--out", "x"], "there is no config file none.yaml"),
        (["clean", "--config", "odd.yaml", "--out", "x"], "odd.yaml: clean: "),
        (["clean", "--config", "best.yaml", "--out", "x"], "keep: best needs scores"),
        (["clean", "--decontaminate", "nowhere", "--out", "x"], "name the folder"),
    ],
)  # fmt: skip
def test_a_wrong_use_of_cleaning_or_budgets_is_one_sentence(gristmill, pool, words, sentence):
    pl.DataFrame({"id": ["a"]}).write_parquet("other.parquet")
    Path("odd.yaml").write_text("clean: [1]\n")
    Path("best.yaml").write_text("keep: best\n")
    code, _, err = gristmill(*words, "--data", pool, "--store", "st")
    assert (code, sentence in err) == (2, True), err
    assert len([s for s in err.splitlines() if s.startswith("gristmill: ")]) == 1
    assert "Traceback" not in err


def test_drops_without_the_data_are_one_sentence(gristmill, pool):
    gristmill("score", "--method", "random", "--data", pool, "--store", "st", "--out", "s.parquet")
    select = ("select", "--scores", "s.parquet", "--drops", "s.parquet", "--out", "l.parquet")
    code, _, err = gristmill(*select)
    assert (code, "--drops names rows of the data: give --data as well" in err) == (2, True)


def test_a_rule_of_the_methods_own_is_named_after_scoring(gristmill, pool, tiny, tmp_path):
    from gristmill.pipeline.models.tiny import make_tiny

    data = write_jsonl(tmp_path / "pairs.jsonl", pair_rows(8))
    other = make_tiny(tmp_path / "other", seed=1)
    code, out, _ = gristmill(
        "score", "--method", "irm", "--data", data, "--store", "st", "--out", "s.parquet",
        "--set", "warm_up=none", "--model", tiny, "--model", f"reference={other}",
    )  # fmt: skip
    assert code == 0
    assert "irm is selected by the rule band: gristmill select --rule band\n" in out
    assert out.splitlines()[-1] == "s.parquet"
    code, out, _ = gristmill(
        "score", "--method", "random", "--data", pool, "--store", "st", "--out", "s.parquet"
    )
    assert (code, "is selected by" in out) == (0, False)


def test_the_rule_that_is_named_can_be_typed_as_it_stands(tmp_path):
    """For every method, with its settings: what is printed is what `select` understands."""
    from gristmill.flows.commands import advice, pairs
    from gristmill.pipeline.selection.rules import rule_named
    from gristmill.selectors import catalog

    told = {name: advice(name, catalog.make(name)) for name in catalog.methods()}
    assert {name for name, line in told.items() if line} == {
        name for name, cls in catalog.methods().items() if cls.rule != "top"
    }
    for name, line in told.items():
        if line is not None:
            words = shlex.split(line.partition("gristmill select ")[2])
            given = [words[i + 1] for i, w in enumerate(words) if w == "--set"]
            own = catalog.methods()[name]
            assert rule_named(words[1], pairs(given)) == rule_named(own.rule, own.rule_settings)


def test_scores_as_weights(gristmill, pool):
    gristmill(
        "score", "--method", "column", "--set", "name=quality", "--data", pool,
        "--store", "st", "--out", "s.parquet",
    )  # fmt: skip
    code, out, _ = gristmill(
        "select", "--scores", "s.parquet", "--rule", "weighted", "--set", "stretch=true",
        "--out", "ledger.parquet",
    )  # fmt: skip
    assert (code, "rows of equal weight" in out) == (0, True)
    kept = pl.read_parquet("ledger.parquet").filter(verdict="kept")["weight"]
    assert 0 < kept.min() < kept.max() == 1


def test_check_scores_prints_each_finding(gristmill, pool, tiny):
    code, out, _ = gristmill(
        "check-scores", "--method", "perplexity", "--data", pool, "--store", "st", "--model", tiny
    )
    assert (code, "perplexity: self-checks" in out) == (0, True)
    assert "length" in out
    assert "batches" in out


def test_details_beside_the_scores(gristmill, pool, tiny):
    code, out, _ = gristmill(
        "score", "--method", "teacher_divergence", "--data", pool, "--store", "st",
        "--model", f"teacher={tiny}", "--model", f"student={tiny}",
        "--out", "s.parquet", "--details", "sentences.parquet",
    )  # fmt: skip
    assert (code, "lines of details" in out) == (0, True)
    assert set(pl.read_parquet("sentences.parquet")["provenance"]) == {"common"}
    code, _, err = gristmill(
        "score", "--method", "length", "--data", pool, "--store", "st", "--out", "s.parquet",
        "--details", "d.parquet",
    )  # fmt: skip
    assert (code, "length has no details beside its scores" in err) == (2, True)


def test_a_score_column_of_the_users_is_a_scorer(gristmill, pool):
    code, _, _ = gristmill(
        "score", "--method", "column", "--set", "name=quality", "--data", pool,
        "--store", "st", "--out", "s.parquet",
    )  # fmt: skip
    assert code == 0
    scores = pl.read_parquet("s.parquet").sort("row")["score"].to_list()
    assert scores == [(i * 37) % 100 / 10 for i in range(12)]


def test_a_run_that_scores_nothing_fails_and_says_why(gristmill, pool, tiny, tmp_path):
    """A template that fails on every row, and texts that are all cut off before their answer."""
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / "chat_template.jinja").write_text("{{ raise_exception('no such turns') }}")
    for model, more, reason in (
        (broken, (), "template_error: no such turns (12)"),
        (tiny, ("--max-length", "3"), "answer_cut (12)"),
    ):
        code, _, err = gristmill(
            "score", "--method", "perplexity", "--data", pool, "--store", "st", "--model", model,
            "--out", "s.parquet", *more,
        )  # fmt: skip
        assert code == 2
        assert f"perplexity could score none of 12 rows with {model}: {reason}." in " ".join(
            err.split()
        )
        assert not Path("s.parquet").exists()


def test_models_bind_by_role(tiny):
    from gristmill.flows.asked import EMBEDDER
    from gristmill.flows.commands import roles
    from gristmill.selectors import catalog

    near, seen = catalog.make("embedding_similarity"), catalog.make("rds_plus")
    assert roles(["a"], [seen]) == {"target": ["a"]}
    assert roles(["a"], [near]) == {"embedder": ["a"]}
    assert roles(["a", "embedder=b"], [near]) == {"target": ["a"], "embedder": ["b"]}
    assert roles(["embedder=b", "a"], [near]) == {"target": ["a"], "embedder": ["b"]}
    assert roles([], [near]) == {"embedder": [EMBEDDER]}
    assert roles(["a"], [near, seen]) == {"target": ["a"], "embedder": [EMBEDDER]}


def test_one_method_with_its_settings(gristmill):
    code, out, _ = gristmill("methods", "less")
    assert code == 0
    assert out.startswith("less\n\nCosine of Adam's step on a record")
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "4" in rows["warm_up.epochs"].split()
    assert "passes over these rows." in rows["warm_up.epochs"]
    assert (
        json.loads(gristmill("methods", "less", "--json")[1])[0]["settings"]["warm_up"]["rank"]
        == 128
    )
    code, out, err = gristmill("methods", "lss")
    assert (code, out) == (2, "")
    assert "there is no method 'lss'" in err
    assert "did you mean 'less'?" in err


def test_methods_as_json(gristmill):
    code, out, _ = gristmill("methods", "--json")
    rows = json.loads(out)
    assert code == 0
    keys = {"name", "family", "records", "reference", "roles", "scope", "cost", "paper"}
    assert all(keys <= set(r) for r in rows)
    assert {"random", "length", "perplexity", "ifd", "rds_plus", "embedding_similarity"} <= {
        r["name"] for r in rows
    }


def test_init_validate_plan(gristmill, pool, tiny, tmp_path):
    assert gristmill("init", "run.yaml")[0] == 0
    settings = yaml.safe_load((tmp_path / "run.yaml").read_text())
    target = write_jsonl(tmp_path / "target.jsonl", chat_rows(4, start=90))
    settings |= {
        "sources": [{"path": str(pool)}],
        "reference": [{"path": str(target)}],
        "models": {"target": str(tiny), "embedder": str(tiny)},
        "select": {"budget": "20%"},
        "store": "st",
    }
    settings["clean"]["decontaminate"]["folder"] = str(ROOT / "data" / "demo")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    code, out, _ = gristmill("validate", "run.yaml")
    assert (code, "rds_plus" in out) == (0, True)
    code, out, _ = gristmill("plan", "run.yaml", "--no-probe")
    assert code == 0
    assert "forward" in out
    assert "MiB" in out
    assert "FLOP" in out
    code, out, _ = gristmill("plan", "run.yaml", "--no-probe", "--json")
    *lines, whole = json.loads(out)
    assert whole["data"] == "in all"
    assert whole["tokens_read"]["value"] == sum(x["tokens_read"]["value"] for x in lines)
    assert whole["tokens_read"]["low"] <= whole["tokens_read"]["value"]
    assert whole["hours"] is None, "nothing was probed"
    code, _, err = gristmill("init", "run.yaml")
    assert code == 2
    assert "is there already" in err


@pytest.mark.slow
def test_a_plan_with_a_probe_says_hours_for_all_of_a_run(gristmill, pool, tiny, tmp_path):
    settings = {
        "name": "probed",
        "sources": [{"path": str(pool)}],
        "models": {"target": str(tiny)},
        "scorers": [{"method": "perplexity"}],
        "limits": {"hour_price": 2.0},
        "store": "st",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    code, out, err = gristmill("plan", "run.yaml", "--json")
    assert code == 0, err
    *lines, whole = json.loads(out)
    assert [line["data"] for line in lines] == ["start and end", "pool", "publish: trainer rows"]
    hours = whole["hours"]
    assert 0 < hours["low"] < hours["value"] < hours["high"]
    assert whole["money"]["value"] == pytest.approx(2.0 * hours["value"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["score", "--method", "nope", "--data", "pool.jsonl", "--out", "x"], "no method 'nope'"),
        (["score", "--method", "ifd", "--data", "none.jsonl", "--out", "x"], "none.jsonl"),
        (
            ["score", "--method", "ifd", "--data", "pool.jsonl", "--out", "x"],
            "no model is bound to the role 'target'",
        ),
        (
            ["score", "--method", "ifd", "--data", "pool.jsonl", "--model", "no/such", "--out", "x"],
            "network was not allowed",
        ),
        (
            ["score", "--method", "rds_plus", "--data", "pool.jsonl", "--model", "tiny", "--out", "x"],
            "needs a reference (target) set",
        ),
        (
            ["score", "--method", "random", "--data", "pool.jsonl", "--model", "boss=x", "--out", "x"],
            "'boss' is not a role",
        ),
        (
            ["score", "--method", "random", "--data", "pool.jsonl", "--set", "seed", "--out", "x"],
            "expected key=value",
        ),
        (["score", "--method", "random", "--data", "bad.jsonl", "--out", "x"], "invalid_json"),
        (["select", "--scores", "pool.jsonl", "--out", "x"], "is no Parquet file"),
        (["select", "--scores", "none.parquet", "--out", "x"], "there is no scores file"),
        (["run", "curate", "none.yaml"], "gristmill init"),
        (["run", "fly", "none.yaml"], "there is no flow 'fly'"),
        (["why", "abc", "--in", "nowhere"], "no published dataset"),
        (["verify", "nowhere"], "nowhere"),
        (["score"], "method"),
        (["frobnicate"], "frobnicate"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(gristmill, pool, tmp_path, words, sentence):
    good = pool.read_text("utf-8")
    (tmp_path / "bad.jsonl").write_text(good + '{"a\n' * 9, "utf-8")
    code, out, err = gristmill(*words)
    assert code in {1, 2}
    assert sentence in err + out
    assert "Traceback" not in err + out
    assert len(err.strip().splitlines()) <= 1


def test_budgets_and_rules_are_checked(gristmill, pool):
    gristmill("score", "--method", "random", "--data", pool, "--store", "st", "--out", "s.parquet")
    for budget in ("0%", "x", "120%"):
        code, _, err = gristmill(
            "select", "--scores", "s.parquet", "--budget", budget, "--out", "l.parquet"
        )
        assert (code, len(err.strip().splitlines())) == (2, 1)
    code, _, err = gristmill(
        "select", "--scores", "s.parquet", "--rule", "no", "--store", "st", "--out", "l.parquet"
    )
    assert (code, "there is no rule 'no'" in err) == (2, True)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "st/ingest"),
        pl.exceptions.ComputeError("parquet: No space left on device (os error 28)"),
        RuntimeError("database or disk is full"),
    ],
)
@pytest.mark.fault("full disk: the command line", ends="refused")
def test_a_full_disk_is_one_sentence(gristmill, pool, monkeypatch, error):
    def full(*_):
        raise error

    command = ("ingest", "--data", pool, "--store", "st")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_table", full)
        code, _, err = gristmill(*command)
    assert code == 2
    assert err.startswith("gristmill: the disk is full (")
    assert err.endswith("make room and run the same command again; it goes on where it stopped.\n")
    assert err.count("\n") == 1
    assert gristmill(*command)[0] == 0


def test_what_why_and_report_read_is_hashed_first(gristmill, pool):
    folder = exported(gristmill, pool)
    ident = pl.read_parquet(folder / "ledger/*.parquet")["id"][0]
    assert gristmill("why", ident, "--in", folder)[0] == 0
    (ledger,) = (folder / "ledger").iterdir()
    raw = bytearray(ledger.read_bytes())
    raw[len(raw) // 2] ^= 1
    ledger.write_bytes(raw)
    for command in (("why", ident, "--in", folder), ("report", folder)):
        code, _, err = gristmill(*command)
        assert code == 2
        assert f"ledger/{ledger.name} does not match its sha256 in SHA256SUMS" in err


def exported(gristmill, pool):
    score = ("score", "--method", "random", "--data", pool, "--store", "st")
    assert gristmill(*score, "--out", "scores.parquet")[0] == 0
    select = ("select", "--scores", "scores.parquet", "--budget", "5", "--out", "ledger.parquet")
    assert gristmill(*select)[0] == 0
    export = ("export", "--ledger", "ledger.parquet", "--data", pool, "--name", "toy")
    code, out, err = gristmill(*export, "--store", "st", "--out", "curated")
    assert code == 0, err
    return Path(out.strip())


WAITS = """
import sys, time
from gristmill.flows import cli

@cli.app.command()
def wait(swallow: bool = False):
    print("up", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        if not swallow:
            raise

cli.main()
"""
DEAF = """
import sys, time
from gristmill.flows import cli

class Unheard:
    def __del__(self):  # Python drops what is raised here
        print("up", flush=True)
        time.sleep(60)

@cli.app.command()
def wait():
    Unheard()
    time.sleep(60)

cli.main()
"""
STUBBORN = """
import time
from gristmill.flows import cli

@cli.app.command()
def wait():
    print("up", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print("no", flush=True)

cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [[], ["--swallow"]])
def test_a_stop_is_an_error_to_the_shell_and_one_line_to_the_user(number, words):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, "wait", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    (line,) = err.splitlines()
    assert line.startswith(f"gristmill: stopped by {number.name}; every finished part is kept")
    assert "run the same command again" in line


@pytest.mark.fault("stopped where Python drops what is raised, and again while it stops")
def test_a_stop_that_is_dropped_or_swallowed_ends_the_command_all_the_same():
    """One that a destructor drops is raised again; a second one, some time later, ends at once."""
    for code, signals in ((DEAF, [signal.SIGTERM]), (STUBBORN, [signal.SIGINT, signal.SIGTERM])):
        with subprocess.Popen(
            [sys.executable, "-c", code, "wait"],
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also below `nohup`
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "up\n"
            process.send_signal(signals[0])
            for number in signals[1:]:
                assert process.stdout.readline() == "no\n"
                process.send_signal(number)  # at once: of the same wish
                time.sleep(2.1)
                assert process.poll() is None
                process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signals[0]
        (line,) = err.split("\n")[-2:-1]
        assert line == f"gristmill: {interrupted.sentence(signals[0])}"
        assert "Traceback" not in err


def test_a_signal_that_the_shell_ignores_stays_ignored():
    """`nohup` and `&` in a script let SIGINT pass by: so do we."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS.replace("60", "3"), "wait"],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
