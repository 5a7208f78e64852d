"""What the command line shows: options of every command, lists, stories, differences, progress."""

import json
import logging
import sys
import types
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from rows import chat_rows, write_jsonl

from gristmill.flows import logs, progress
from gristmill.flows.cli import shown
from gristmill.pipeline.contracts import Scorer
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors import catalog


def test_options_of_every_command_may_stand_anywhere():
    words = ["rules", "-q", "--json", "--log-file", "a.log", "--no-color"]
    assert shown.hoisted(words) == ["-q", "--log-file", "a.log", "--no-color", "rules", "--json"]
    assert shown.hoisted(["why", "--", "-q"]) == ["why", "--", "-q"]
    assert shown.hoisted(["rules", "--log-file=a.log"]) == ["--log-file=a.log", "rules"]


def test_version_help_and_completion(gristmill):
    from importlib.metadata import version

    for words in (["--version"], ["rules", "--version"]):
        assert gristmill(*words)[:2] == (0, f"gristmill {version('gristmill')}\n")
    for words in (["-h"], ["score", "-h"]):
        assert "Usage: " in gristmill(*words)[1]
    assert "--install-completion" in gristmill("-h")[1]
    assert gristmill("-q", "-v", "rules")[0] == 2


def test_quiet_verbose_and_a_log_file(gristmill, pool, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    command = ("score", "--method", "random", "--data", pool, "--out", "s.parquet")
    logger = logging.getLogger("gristmill")

    def told(*words):
        assert gristmill(*command, "--store", "st", *words)[0] == 0
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            logger.log(level, "of level %s", level)
        return [level for level in (20, 30, 40) if f"of level {level}" in sys.stderr.getvalue()]

    for words, levels in (([], [30, 40]), (["-v"], [20, 30, 40]), (["--quiet"], [40])):
        monkeypatch.setattr(sys, "stderr", StringIO())
        assert told(*words) == levels, words
    monkeypatch.setattr(sys, "stderr", StringIO())
    assert told("--log-file", "logs/a.log") == [30, 40]
    log = Path("logs/a.log").read_text()
    assert "INFO gristmill score --method random" in log
    assert all(f"of level {level}" in log for level in (20, 30, 40))
    shown.told(logging.ERROR, None)
    logs.to_terminal()  # what a flow asks for when it starts
    (terminal,) = logging.getLogger().handlers
    assert terminal.level == logging.ERROR, "what the user asked for holds"
    shown.told(logging.WARNING, None)


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["methods"], {"name", "roles", "cost", "settings"}),
        (["methods", "ifd"], {"name", "says", "settings", "rule"}),
        (["rules"], {"name", "purpose", "settings"}),
        (["rules", "band"], {"name", "says", "settings"}),
        (["filters"], {"name", "purpose", "settings"}),
        (["filters", "length"], {"name", "says", "settings"}),
    ],
)
def test_lists_as_json_and_as_text(gristmill, words, keys):
    code, out, _ = gristmill(*words, "--json")
    rows = json.loads(out)
    assert (code, keys <= set(rows[0])) == (0, True)
    code, out, _ = gristmill(*words)
    assert (code, rows[-1]["name"] in out) == (0, True)


def test_the_default_recommendation_stands_above_the_table_and_names_methods(gristmill):
    out = gristmill("methods")[1]
    assert out.index("start with") < out.index("preference pairs") < out.index(" methods; ")
    words = {w.strip("(),:") for said in catalog.STARTS.values() for w in said.split()}
    assert len(words & set(catalog.methods())) >= 6


@pytest.mark.parametrize("words", [["methods", "idf"], ["rules", "bnad"], ["filters", "lenght"]])
def test_a_name_that_is_none_is_one_sentence_with_the_nearest(gristmill, words):
    code, _, err = gristmill(*words)
    assert (code, "did you mean" in err, len(err.splitlines())) == (2, True, 1)


def plug_in(monkeypatch) -> type[Scorer]:
    """A method of a third party, in a module of its own that lies in no package."""
    module = types.ModuleType("my_method")
    monkeypatch.setitem(sys.modules, "my_method", module)

    @dataclass(frozen=True, kw_only=True)
    class Mine(Scorer):
        """Rows of few words."""

        @property
        def signals(self):
            return ()

        @property
        def record_columns(self):
            return ("user_id",)

        def score(self, pool, reference=None):
            rows = pool.frame()
            odd = pl.col("user_id").str.slice(-1).cast(pl.Int64) % 2 == 1
            return rows.select(
                "id",
                score=pl.when(~odd).then(1),
                reason=pl.when(odd).then(pl.lit("odd_by_my_own_rule")),
            )

    Mine.__module__ = "my_method"
    module.Mine = Mine
    point = types.SimpleNamespace(name="mine", load=lambda: Mine)
    monkeypatch.setattr(catalog.importlib.metadata, "entry_points", lambda group: [point])
    catalog.methods.cache_clear()
    return Mine


def test_a_plug_in_of_one_file_is_listed_and_keeps_its_own_reasons(monkeypatch, store, tmp_path):
    plug_in(monkeypatch)
    try:
        (row,) = (r for r in catalog.describe() if r["name"] == "mine")
        assert row["family"] == "plug-in"
        assert catalog.of("mine")["says"] == "Rows of few words."
        data = write_jsonl(tmp_path / "p.jsonl", chat_rows(6))
        run = ScoreRun(
            scorer=catalog.make("mine"),
            dataset=ingest(store, [Source(path=str(data))]),
            context=RunContext(models=Models(store=store, roles={})),
        )
        assert score(run).frame()["reason"].to_list() == [None, "odd_by_my_own_rule"] * 3
    finally:
        catalog.methods.cache_clear()


@pytest.fixture
def two_versions(gristmill, pool):
    """A dataset of 5 rows, then one of 7; the first version."""
    data = ("--data", pool, "--store", "st")
    gristmill("score", "--method", "random", *data, "--out", "s.parquet")
    for budget in (5, 7):
        select = ("select", "--scores", "s.parquet", *data, "--budget", budget)
        assert gristmill(*select, "--out", "l.parquet")[0] == 0
        export = ("export", "--ledger", "l.parquet", *data, "--name", "toy", "--out", "curated")
        assert gristmill(*export)[0] == 0
    return sorted(Path("curated/toy").glob("v1-*"))[0]


def test_diff_and_report_find_versions(gristmill, two_versions):
    code, out, _ = gristmill("diff", two_versions, "curated/toy", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["changes"] == [
        {"change": "added", "reason": "was dropped: below_budget", "rows": 2}
    ]
    assert told == json.loads(next(Path("curated/toy").glob("v2-*/diff.json")).read_text("utf-8"))
    code, out, _ = gristmill("diff", two_versions, "curated/toy", "--page", "changes.html")
    assert (code, "kept rows: 5 before, 7 now; 2 came, 0 went" in out) == (0, True)
    shipped = next(Path("curated/toy").glob("v2-*/diff.html"))
    assert Path("changes.html").read_bytes() == shipped.read_bytes()
    code, out, _ = gristmill("diff", "curated/toy", "curated")
    assert (code, "no row changed." in out) == (0, True)
    newest = next(Path("curated/toy").glob("v2-*"))
    for where in ("curated", "curated/toy", newest):
        assert gristmill("report", where)[1].splitlines()[-1] == str(newest / "report.html")
    assert json.loads(gristmill("report", "curated", "--json")[1])[0]["rows"] == 12
    assert gristmill("verify", "curated/toy")[0] == 0


def test_why_tells_the_story_and_shows_the_text_of_rows_in_and_out(gristmill, two_versions):
    ledger = pl.read_parquet(next(Path("curated/toy").glob("v2-*/ledger/*.parquet")))
    kept = ledger.filter(verdict="kept").row(0, named=True)
    out = gristmill("why", kept["id"], "--in", "curated", "--store", "st")[1]
    assert f"Row {kept['row']} of pool" in out
    assert f"which you call {kept['user_id']}) is in toy v2-" in out
    assert f"Its score is {kept['score']:.6g}, rank {kept['rank']} of 12; the lowest score" in out
    number = kept["user_id"].removeprefix("row-")
    assert f"Answer {number}." in out
    left = ledger.filter(reason="below_budget").row(0, named=True)
    out = gristmill("why", left["user_id"], "--in", "curated", "--store", "st")[1]
    assert "is not in toy v2-" in out
    assert "at the stage select the budget was full before its turn came" in out
    assert f"Answer {left['user_id'].removeprefix('row-')}." in out
    assert (
        "neither in the publication nor"
        in gristmill("why", left["id"], "--in", "curated", "--store", "none")[1]
    )
    told = json.loads(gristmill("why", left["id"], "--in", "curated", "--store", "st", "--json")[1])
    assert (told[0]["ledger"]["verdict"], told[0]["turns"][0][0]) == ("dropped", "user")


def test_what_a_row_says_gives_a_terminal_no_order_and_is_no_markup(capsys):
    from gristmill.flows import console
    from gristmill.pipeline.export.why import Story

    evil = "\x1b]0;owned\x07 \u202egnp.exe [bold]x[/nothing]"
    seen = "‹ESC›]0;owned‹BEL› ‹U+202E›gnp.exe [bold]x[/nothing]"
    story = Story(line={"source": evil}, sentences=[evil], turns=[(evil, f"{evil}\nnext")])
    console.stories([story], as_json=False)
    console.table([{"source": evil}], title="rows")
    said = capsys.readouterr().out
    assert said.count(seen) == 5
    assert f"{seen}\nnext" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


def test_select_as_json_its_budget_in_words_and_what_it_lacks_last(gristmill, pool):
    gristmill("score", "--method", "random", "--data", pool, "--store", "st", "--out", "s.parquet")
    select = ("select", "--scores", "s.parquet", "--out", "l.parquet")
    rows = json.loads(gristmill(*select, "--budget", "25%", "--json")[1])
    assert [(r["verdict"], r["rows"]) for r in rows] == [("kept", 3), ("dropped", 9)]
    assert "25% of the rows that are neither set aside, dropped nor copies" in gristmill(
        *select, "--budget", "25%"
    )[1].replace("\n", " ")
    out = gristmill(*select, "--budget", "20")[1]
    last = "less than was asked for: stage 'select' kept 12 of the 20 rows that its budget names"
    assert out.splitlines()[-1].startswith(last)
    export = ("export", "--ledger", "l.parquet", "--data", pool, "--store", "st", "--name", "toy")
    out = gristmill(*export, "--out", "curated")[1]
    assert out.splitlines()[-1].startswith(last)
    assert "kept 12 of the 20 rows" in Path("curated/toy/latest/README.md").read_text()


def test_a_try_on_the_first_rows(gristmill, pool):
    data = ("--data", pool, "--store", "st", "--limit", "5")
    out = gristmill("score", "--method", "random", *data, "--out", "s.parquet")[1]
    assert "5 of 5 rows scored" in out
    assert json.loads(gristmill("ingest", *data, "--json")[1])[0]["rows"] == 5


def test_progress_estimates_once_there_is_something_to_tell(monkeypatch):
    said, clock = [], [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    lines = progress.Lines(said.append)
    for seconds, done in ((0, 0), (0.1, 1), (11, 11), (12, 12), (22, 50), (23, 100), (24, 100)):
        clock[0] = float(seconds)
        lines("pool", done, 100)
    assert said == [
        "pool: 0 of 100",
        "pool: 11 of 100, about 1 min 29 s left",
        "pool: 50 of 100, about 22 s left",
        "pool: 100 of 100",
    ]
    said.clear()
    lines("one", 0, 1)
    lines("one", 1, 1)
    assert said == [], "what is over at once is not worth two lines"
    assert progress.remaining(10, 1, 1_000) == ", about 2 h 46 min left"
