"""Labels: which of two answers won, and which single answers are no examples."""

import json
import logging

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import write_jsonl

from gristmill.pipeline.ingest.binding import shape_of
from gristmill.pipeline.ingest.columns import fields
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.ingest.verdicts import first_wins

MAPPED = {"chosen": "output_1", "rejected": "output_2", "preferred": "label"}


def read(store, path, *, max_bad_share=1.0, **source):
    return ingest(store, [Source(path=str(path), **source)], max_bad_share=max_bad_share)


def chosen(dataset) -> dict[str, str]:
    """Prompt -> chosen answer."""
    return {
        r["prompt"][0]["content"]: r["chosen"][0]["content"] for r in dataset.frame().to_dicts()
    }


def two(label: object, number: int = 0) -> dict:
    row = {"input": f"q{number}", "output_1": "first", "output_2": "second"}
    return row if label is Ellipsis else {**row, "label": label}


FIRST = [1, 1.0, "1", "1.0", " 1 ", "A", "a", "[[A]]", "model_a", "output_1", "response_1", "first"]
FIRST += [True, "true", "chosen", "Response A", "slightly_1", "Output 1"]
SECOND = [2, 2.0, "2", "2.0", "2e0", "B", "model_b", "Assistant B", "output_2", "second", False]
SECOND += ["False", "rejected", "slightly_2", "answer-2", "OUTPUT_2"]
NEITHER = [0, 3, 1.5, -1, "0", "tie", "tie (bothbad)", "", "both", None, Ellipsis, [2], {"w": 2}]


@pytest.mark.parametrize("mapped", [True, False])
def test_a_winner_is_read_in_every_form_or_its_row_is_bad(store, tmp_path, mapped):
    rows = [two(label, i) for i, label in enumerate([*FIRST, *SECOND, *NEITHER])]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    found = read(store, path, columns=MAPPED if mapped else {})
    expected = ["first"] * len(FIRST) + ["second"] * len(SECOND)
    assert chosen(found) == {f"q{i}": e for i, e in enumerate(expected)}
    reasons = found.quarantine()["reason"]
    assert len(reasons) == len(NEITHER)
    assert reasons.str.starts_with("no_preference: ").all()


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt16, pl.Int64, pl.Float32, pl.Float64, pl.String])
def test_a_gap_makes_a_column_float_and_turns_no_pair_round(store, tmp_path, dtype):
    frame = pl.DataFrame([two(2, 0), two(None, 1), two(1, 2)]).cast({"label": dtype})
    frame.write_parquet(tmp_path / "p.parquet")
    found = read(store, tmp_path / "p.parquet", columns=MAPPED)
    assert chosen(found) == {"q0": "second", "q2": "first"}
    assert found.quarantine()["reason"].to_list() == ["no_preference: null"]


def test_a_winner_in_csv(store, tmp_path):
    (tmp_path / "p.csv").write_text(
        "question,answer_a,answer_b,winner\nq0,x,y,model_b\nq1,x,y,A\nq2,x,y,tie\nq3,x,y,\n"
    )
    found = read(store, tmp_path / "p.csv")
    assert chosen(found) == {"q0": "y", "q1": "x"}
    assert found.quarantine()["reason"].to_list() == ["no_preference: tie", "no_preference: "]


def test_columns_that_are_counted_from_0(store, tmp_path):
    rows = [
        {"prompt": f"q{i}", "response_0": "zero", "response_1": "one", "better_response_id": i}
        for i in (0, 1, 2)
    ]
    assert chosen(read(store, write_jsonl(tmp_path / "p.jsonl", rows))) == {
        "q0": "zero",
        "q1": "one",
    }
    assert first_wins("0", "label", "answer_0", "answer_1")
    assert not first_wins(1.0, "label", "answer_0", "answer_1")
    with pytest.raises(BadRow):
        first_wins(2, "label", "answer_0", "answer_1")


def test_a_strength_has_a_sign(store, tmp_path):
    shape = {"prompt": "q", "response_1": "first", "response_2": "second"}
    rows = [{**shape, "prompt": str(s), "preference_strength": s} for s in (-3, -1.0, 0, 1, 2)]
    found = read(store, write_jsonl(tmp_path / "p.jsonl", rows))
    assert chosen(found) == {"-3": "first", "-1.0": "first", "1": "second", "2": "second"}
    mapped = {"chosen": "response_1", "rejected": "response_2", "preferred": "preference_strength"}
    assert chosen(read(store, tmp_path / "p.jsonl", columns=mapped)) == chosen(found)
    messages = [{"role": "user", "content": "q"}]
    row = {"context": messages, "response1": "a", "response2": "b", "overall_preference": 2}
    assert chosen(read(store, write_jsonl(tmp_path / "h.jsonl", [row]))) == {"q": "b"}


def test_conversations_of_two_models(store, tmp_path):
    def talk(*answers):
        turns = [("user", "q"), ("assistant", answers[0]), ("user", "r"), ("assistant", answers[1])]
        return [{"role": r, "content": c} for r, c in turns]

    row = {"model_a": "m", "model_b": "n", "winner": "model_b", "turn": 1, "question_id": 81}
    row |= {"conversation_a": talk("a1", "a2"), "conversation_b": talk("b1", "b2")}
    rows = [row, {**row, "turn": 2}, {**row, "winner": "tie"}, {**row, "winner": None}]
    found = read(store, write_jsonl(tmp_path / "p.jsonl", rows))
    turns = [[t["content"] for t in r["chosen"]] for r in found.frame().to_dicts()]
    assert turns == [["b1"], ["b1", "r", "b2"]]  # a first turn is judged by itself
    assert found.quarantine().height == 2


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
answers = st.lists(text.filter(str.strip), min_size=2, max_size=2, unique=True)
SWAPPED = [(1, 2), (1.0, 2.0), ("1", "2"), ("A", "B"), ("model_a", "model_b"), (True, False)]
SWAPPED += [
    ("output_1", "output_2"),
    ("chosen", "rejected"),
    ("first", "second"),
    ("left", "right"),
]


@settings(max_examples=40, deadline=None)
@given(answers, st.sampled_from(SWAPPED), st.booleans(), st.booleans())
def test_swapping_the_sides_and_the_label_is_the_identity(texts, labels, second, mapped):
    one = {"input": "q", "output_1": texts[0], "output_2": texts[1], "label": labels[second]}
    other = {"input": "q", "output_1": texts[1], "output_2": texts[0], "label": labels[not second]}
    made = []
    for row in (one, other):
        shape = shape_of([row], fields(MAPPED) if mapped else {}, None)
        record = shape.record(row, source="s", license=None, revision=None)
        made.append({k: record[k] for k in ("id", "prompt", "chosen", "rejected")})
    assert made[0] == made[1]
    assert made[0]["chosen"][0]["content"] == texts[second]


# ---------------------------------------------------------------- mappings


@pytest.mark.parametrize(
    ("field", "column", "hint"),
    [
        ("preferred", "lable", " (did you mean 'label'?)"),
        ("system", "sytem_text", " (did you mean 'system_text'?)"),
        ("tools", "tool", ""),
        ("history", "past", ""),
        ("input", "contxt", ""),
        ("user_id", "nr", ""),
        ("source", "origin", ""),
        ("license", "licence", ""),
    ],
)
def test_a_mapping_to_a_column_that_no_row_has(store, tmp_path, field, column, hint):
    row = {**two(1), "system_text": "s"}
    path = write_jsonl(tmp_path / "p.jsonl", [row] * 3)
    columns = {**MAPPED, "prompt": "input", field: column}
    with pytest.raises(ValueError, match="columns maps") as error:
        read(store, path, columns=columns)
    assert f"columns maps {field!r} to {column!r}, which p.jsonl does not have{hint};" in str(
        error.value
    )
    assert "\n" not in str(error.value)
    assert not (store.root / "ingest").exists() or not list((store.root / "ingest").glob("[!.]*"))


def test_a_mapped_column_may_be_rare_but_not_absent(store, tmp_path):
    rows = [{"q": f"q{i}", "answer": "a"} for i in range(100)]
    rows[90]["sys"] = "Be brief."
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    write_jsonl(tmp_path / "in" / "b.jsonl", rows[:3])  # another file of the source has it
    columns = {"prompt": "q", "system": "sys"}
    frame = read(store, path.parent, columns=columns).frame()
    assert frame["messages"].list.first().struct.field("role").to_list().count("system") == 1
    with pytest.raises(ValueError, match=r"which the files a\.jsonl, b\.jsonl do not have"):
        read(store, path.parent, columns={"prompt": "q", "system": "system_prompt"})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"promt": "question"}, r"no field is called 'promt' \(did you mean 'prompt'\?\)"),
        ({"weight": "w"}, "no field is called 'weight'"),
        ({"prompt": "question", "query": "answer"}, "maps the field 'prompt' twice"),
        ({"prompt": "question", "completion": "question"}, "the column 'question' to two fields"),
        ({"preferred": "score"}, "known shape with preferred"),  # examples have no second side
        ({"history": "score", "text": "answer"}, "known shape with history, text"),
    ],
)
def test_a_mapping_that_cannot_be_meant(store, tmp_path, columns, words):
    path = write_jsonl(tmp_path / "p.jsonl", [{"question": "q", "answer": "a", "score": 1}])
    with pytest.raises(ValueError, match=words) as error:
        read(store, path, columns=columns)
    assert "\n" not in str(error.value)


def test_two_answers_without_a_verdict_are_no_pair(store, tmp_path):
    row = {"prompt": "q", "response_a": "x", "response_b": "y"}
    with pytest.raises(ValueError, match=r"two answers, response_a and response_b, and no column"):
        read(store, write_jsonl(tmp_path / "p.jsonl", [row]))
    sides = {"chosen": "response_a", "rejected": "response_b"}
    assert chosen(read(store, tmp_path / "p.jsonl", columns=sides)) == {"q": "x"}


# ---------------------------------------------------------------- answers that stand alone

GOOD = [True, 1, 1.0, "true", "True", "1", "desirable", "correct", "thumbs up"]
BAD = [False, 0, 0.0, "false", "FALSE", "0", -1, "undesirable", "Incorrect", "thumbs_down", "wrong"]
UNCLEAR = [None, "maybe", [True], {"a": 1}, 7]


@pytest.mark.parametrize("columns", [{}, {"label": "label"}])
@pytest.mark.parametrize("form", ["prompt", "messages"])
def test_an_undesirable_answer_is_no_example(store, tmp_path, caplog, columns, form):
    labels = [*GOOD, *BAD, *UNCLEAR]
    rows = []
    for i, label in enumerate(labels):
        turns = [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]
        row = {"prompt": f"q{i}", "completion": "a"} if form == "prompt" else {"messages": turns}
        rows.append({**row, "label": label})
    with caplog.at_level(logging.WARNING):
        found = read(store, write_jsonl(tmp_path / "kto.jsonl", rows), columns=columns)
    assert found.frame()["messages"].list.first().struct.field("content").to_list() == [
        f"q{i}" for i in range(len(GOOD))
    ]
    reasons = found.quarantine()["reason"].to_list()
    assert [r.partition(":")[0] for r in reasons] == (
        ["undesirable"] * len(BAD) + ["unjudged"] * len(UNCLEAR)
    )
    assert f"{len(BAD)} of {len(labels)} rows are set aside by their own labels" in caplog.text


def test_what_labels_set_aside_is_no_fault_of_the_file(store, tmp_path):
    rows = [{"question": f"q{i}", "answer": "a", "is_true": i % 2 == 0} for i in range(10)]
    found = read(store, write_jsonl(tmp_path / "t.jsonl", rows), max_bad_share=0.0)
    assert found.frame().height == 5
    assert found.quarantine_reasons() == {"undesirable: is_true=False": 5}
    bad = [{**row, "is_true": False} for row in rows]
    with pytest.raises(ValueError, match=r"all 10 rows are set aside.*undesirable: is_true=False"):
        read(store, write_jsonl(tmp_path / "u.jsonl", bad))


def test_a_grade_sets_aside_what_it_calls_wrong(store, tmp_path):
    grades = ["Incorrect", "Related", "Incomplete", "Excellent"]
    rows = [
        {"question": g, "answer": "a", "grade": i, "grade_name": g, "label": f"topic {i}"}
        for i, g in enumerate(grades)
    ]
    found = read(store, write_jsonl(tmp_path / "g.jsonl", rows)).frame()
    asked = found["messages"].list.first().struct.field("content").to_list()
    assert asked == ["Related", "Incomplete", "Excellent"]


def test_a_class_is_no_judgement(store, tmp_path):
    rows = [{"question": f"q{i}", "answer": "a", "label": i} for i in range(4)]
    assert read(store, write_jsonl(tmp_path / "c.jsonl", rows)).frame().height == 4
    rows = [{"question": "q", "answer": "a", "label": t} for t in ("weak", "strong", "neutral")]
    frame = read(store, write_jsonl(tmp_path / "d.jsonl", rows)).frame()
    assert [json.loads(m)["label"] for m in frame["meta"]] == ["weak", "strong", "neutral"]
