"""Rows that lose their end are told of; an answer or example that is gone altogether is no score."""

import json
import logging

import polars as pl
import pytest
from encoded import chat, record
from ingested import dataset
from rows import chat_rows, pair_rows

from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.signals.next_token import JudgePrompt
from gristmill.selectors.judged._one_shot import Exemplar
from gristmill.selectors.judged.nuggets import Nuggets
from gristmill.selectors.likelihood.ifd import Ifd
from gristmill.selectors.preference.ica import Ica


def run_of(scorer, store, tiny, tmp_path, pool, reference=None, **passes):
    held = dataset(store, tmp_path, "reference", reference) if reference else None
    roles = {"target": (str(tiny),), "embedder": (str(tiny),)}
    return ScoreRun(
        scorer=scorer,
        dataset=dataset(store, tmp_path, "pool", pool),
        reference=held,
        context=RunContext(
            models=Models(store=store, roles=roles), passes=Passes(device="cpu", **passes)
        ),
    )


def asked(question, answer):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def by_question(run):
    rows = run.dataset.frame(["id", "messages"])
    first = pl.col("messages").list.first().struct.field("content").str.head(4)
    scores = score(run).frame().join(rows.select("id", first.alias("asked")), on="id")
    return {r["asked"]: r for r in scores.iter_rows(named=True)}


def test_cuts_are_told_for_every_view_with_the_limit_that_acted(store, tiny, tmp_path, caplog):
    pool = [asked("Say?", "so " * 500), *chat_rows(3)]  # the model's context is 1,024
    with caplog.at_level(logging.WARNING):
        score(run_of(Ifd(), store, tiny, tmp_path, pool))
    (told,) = [r.getMessage() for r in caplog.records if "cut at the end" in r.getMessage()]
    assert told == (
        "of 4 rows of the pool, these are longer than what the role target is shown and were cut "
        "at the end (at most 1,024 tokens): answer_alone 1, dialogue 1."
    )


def test_cuts_of_the_reference_set_and_of_other_roles_are_told_too(store, tiny, tmp_path, caplog):
    from gristmill.selectors.hidden.embedding_similarity import EmbeddingSimilarity

    long = [asked("Say?", "so " * 40)]
    with caplog.at_level(logging.WARNING):
        score(
            run_of(EmbeddingSimilarity(), store, tiny, tmp_path, chat_rows(3), long, max_length=100)
        )
    told = [r.getMessage() for r in caplog.records if "cut at the end" in r.getMessage()]
    of = [t for t in told if "of the reference set" in t]
    assert len(of) == 1
    assert "the role embedder" in of[0]
    assert "(at most 100 tokens)" in of[0]


def test_a_worked_example_without_its_answer_is_no_example(store, tiny, tmp_path):
    pool = [asked("Long" + "x" * 900, "y"), asked("Fine?", "Yes."), asked("Half", "y" * 900)]
    scores = by_question(run_of(Nuggets(), store, tiny, tmp_path, pool, chat_rows(3, start=9)))
    assert (scores["Long"]["score"], scores["Long"]["reason"]) == (None, "answer_cut")
    assert scores["Fine"]["score"] is not None
    assert scores["Half"]["score"] is not None  # a part of its answer is there
    cut = Exemplar().encode(record(("user", "x" * 60), ("assistant", "y")), chat(limit=240))
    assert cut.reason == "answer_cut"


@pytest.mark.parametrize("kind", ["chats", "pairs"])
def test_a_row_behind_no_example_has_no_gain(store, tiny, tmp_path, kind):
    rows, long = (
        (chat_rows, asked("Long" + "x" * 330, "y")) if kind == "chats" else (pair_rows, None)
    )
    if kind == "pairs":
        long = pair_rows(1)[0]
        long["prompt"] = [{"role": "user", "content": "Long" + "x" * 350}]
    pool, reference = [long, *rows(4)], rows(9)[6:]
    run = run_of(Ica(k=2), store, tiny, tmp_path, pool, reference, max_length=400)
    scores = score(run).frame()
    content = run.dataset.frame().with_columns(
        long=pl.col("messages" if kind == "chats" else "prompt")
        .list.first()
        .struct.field("content")
        .str.starts_with("Long")
    )
    joined = scores.join(content.select("id", "long"), on="id")
    (gone,) = joined.filter("long").iter_rows(named=True)
    assert (gone["score"], gone["reason"]) == (None, "no_example_fits")
    assert joined.filter(~pl.col("long"))["score"].null_count() == 0


def test_a_row_whose_only_neighbour_is_itself_has_no_gain(store, tiny, tmp_path):
    rows = chat_rows(2)
    run = run_of(Ica(k=2), store, tiny, tmp_path, rows, rows[:1])
    scores = score(run).frame()
    assert sorted(scores["reason"].to_list(), key=str) == [None, "no_example"]


def test_a_judge_is_asked_nothing_about_a_part_that_is_gone():
    ask = JudgePrompt(label="t", question="Q: {prompt}\nA: {answer}\nGood?", part_tokens=1)
    both = ask.encode(record(("user", "What?"), ("assistant", "That.")), chat())
    assert both.reason in ("prompt_cut", "answer_cut")
    assert both.cut > 0
    assert ask.cut_at(500).startswith("1 tokens")


CALL = {"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]}


def test_judges_and_worked_examples_show_reasoning_and_calls():
    row = record(("user", "Rain?"), ("assistant", ""))
    row["messages"][1]["extra"] = json.dumps({"reasoning_content": "Look it up.", **CALL})
    ask = JudgePrompt(label="t", question="Q: {prompt}\nA: {answer}\n{text}")
    shown = ask.encode(row, chat())
    assert shown.reason is None
    for part in ("Look it up.", "weather", "Oslo"):
        assert shown.text.count(part) == 2  # in the answer and in the transcript
        assert part in Exemplar().encode(row, chat()).text
