"""Exact duplicates, and the words and hashes on which all cleaning stands."""

import numpy as np
import polars as pl
import pytest
from clean_records import documents, examples, records, turn
from hypothesis import given
from hypothesis import strategies as st

from gristmill.pipeline.clean.exact import exact_duplicates, fingerprints
from gristmill.pipeline.clean.text import (
    ngram_hashes,
    slices,
    spaced,
    window_hashes,
    word_hashes,
    words,
)
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.text import texts

PROSE = st.lists(st.text(alphabet="ab 你好é,.\n1Ⅷคำ가", max_size=12), min_size=1, max_size=8)


def test_words_of_many_scripts() -> None:
    assert words("Don't panic: x² costs $1,000!") == [
        "don",
        "t",
        "panic",
        "x2",
        "costs",
        "1",
        "000",
    ]
    assert words("ＦＵＬＬ width") == ["full", "width"]
    assert words("我爱北京 and Kyōto") == ["我", "爱", "北", "京", "and", "kyōto"]
    assert words("한국어 문장") == ["한국어", "문장"]  # written with spaces
    assert words("हिन्दी में") == ["हिन्दी", "में"]  # vowel signs are part of the word
    assert words("...") == []


@given(PROSE)
def test_word_hashes_are_the_hashes_of_the_words(lines: list[str]) -> None:
    """Equal words, and only they, have equal hashes, wherever they stand."""
    series = pl.Series(lines)
    word_L, offsets_N1 = word_hashes(series)
    plain = [words(line) for line in lines]
    assert np.diff(offsets_N1).tolist() == [len(p) for p in plain]
    flat = [w for p in plain for w in p]
    assert len(set(zip(flat, word_L.tolist(), strict=True))) == len(set(flat))
    assert len(set(word_L.tolist())) == len(set(flat))
    assert [s.split() for s in spaced(series)] == plain


@given(PROSE, st.integers(1, 4), st.booleans())
def test_ngram_hashes_are_those_of_the_ngrams(lines: list[str], n: int, whole: bool) -> None:
    word_L, offsets_N1 = word_hashes(pl.Series(lines))
    hash_W, begin_N1 = ngram_hashes(word_L, offsets_N1, n, whole=whole)
    plain = []
    for line in lines:
        w = words(line)
        grams = [tuple(w[i : i + n]) for i in range(len(w) - n + 1)]
        plain.append(grams or ([tuple(w)] if whole and w else []))
    assert np.diff(begin_N1).tolist() == [len(p) for p in plain]
    flat = [g for p in plain for g in p]
    assert len(set(zip(flat, hash_W.tolist(), strict=True))) == len(set(flat))
    assert len(set(hash_W.tolist())) == len(set(flat))


def test_window_hash_is_the_polynomial() -> None:
    """The running sum and the inverse power give the hash a plain loop over the window gives."""
    rng = np.random.default_rng(0)
    value_L = rng.integers(0, 2**63, 300).astype(np.uint64)
    begin_W, end_W = np.array([0, 7, 290]), np.array([5, 8, 300])
    again = window_hashes(value_L[290:300], np.array([0]), np.array([10]))
    assert window_hashes(value_L, begin_W, end_W)[2] == again[0]


def test_slices_cover_every_text_once() -> None:
    lines = pl.Series(["x" * 400_000] * 7 + [""] * 3 + ["y" * 3_000_000] + ["z"])
    runs = slices(lines)
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(len(lines)))
    assert len(runs) > 2
    assert slices(pl.Series([], dtype=pl.String)) == []


def test_parts_of_a_record() -> None:
    chat = [turn("system", "S"), turn("user", "Q"), turn("assistant", "A"), turn("user", "R")]
    example = records("example", [{"messages": chat, "tools": None}])
    said = {p: texts(example, p)[0] for p in ("all", "dialogue", "prompt", "answer")}
    assert said == {"all": "S\nQ\nA\nR", "dialogue": "Q\nA\nR", "prompt": "Q\nR", "answer": "A"}
    pair = records(
        "pair",
        [
            {
                "prompt": [turn("system", "S"), turn("user", "Q")],
                "chosen": [turn("assistant", "A")],
                "rejected": [turn("assistant", "B")],
            }
        ],
    )
    said = {p: texts(pair, p)[0] for p in ("all", "dialogue", "prompt", "answer")}
    assert said == {"all": "S\nQ\nA\nB", "dialogue": "Q\nA\nB", "prompt": "Q", "answer": "A"}
    assert texts(documents(["T"]), "answer").to_list() == ["T"]
    silent = records("example", [{"messages": [turn("user", "Q")], "tools": None}])
    assert texts(silent, "answer").to_list() == [""]


def test_copies_after_normalisation() -> None:
    pool = examples(
        [
            ("What is 3-2?", "One."),
            ("  what IS\n 3-2? ", "ONE."),
            ("What is 3+2?", "One."),  # a different question
            ("What is 3-2?", "One"),  # punctuation counts
            ("Caf\u00e9?", "Yes"),
            ("Cafe\u0301?", "Yes"),  # the same letter, composed
        ]
    )
    drops = exact_duplicates([pool])
    assert drops["row"].to_list() == [1, 5]
    assert drops["duplicate_of"].to_list() == [pool["id"][0], pool["id"][4]]
    assert drops["cluster"].to_list() == drops["duplicate_of"].to_list()
    assert set(drops["reason"]) == {"exact_duplicate"}
    assert set(drops["stage"]) == {"clean"}


def test_roles_tool_calls_and_tools_count() -> None:
    said = [turn("user", "Q"), turn("assistant", "A")]
    swapped = [turn("user", "A"), turn("assistant", "Q")]
    joined = [turn("user", "Q\x1fassistant"), turn("assistant", "A")]
    calling = [turn("user", "Q"), turn("assistant", "A", '{"tool_calls":[]}')]
    contents = [
        {"messages": said, "tools": None},
        {"messages": swapped, "tools": None},
        {"messages": joined, "tools": None},
        {"messages": calling, "tools": None},
        {"messages": said, "tools": "[]"},
    ]
    assert exact_duplicates([records("example", contents)]).height == 0


def test_which_copy_stays() -> None:
    pool = pl.concat([documents(["a b", "A  B"], "late"), documents(["a b", "c"], "early")])
    by_place = exact_duplicates([pool])
    assert by_place.select(KEY[1:]).rows() == [("late", 0), ("late", 1)]
    scores = pool.select(*KEY, score=pl.Series([0.1, 0.9, None, 0.5]))
    by_score = exact_duplicates([pool], scores=scores)
    assert by_score.select(KEY[1:]).rows() == [("early", 0), ("late", 0)]
    assert set(by_score["duplicate_of"]) == {pool["id"][1]}


def test_rows_that_stand_stay_before_better_and_earlier_copies() -> None:
    pool = documents(["same", "Same", "other"])
    first, second, _ = pool["id"]
    scores = pool.select(*KEY, score=pl.Series([3.0, 1.0, 2.0]))
    for told in (None, scores):
        dropped = exact_duplicates([pool], scores=told, standing=pl.Series([second]))
        assert dropped.select("id", "duplicate_of").rows() == [(first, second)]
        assert exact_duplicates([pool], scores=told)["id"].to_list() == [second]


def test_order_and_sharding_change_nothing() -> None:
    pool = documents([f"text {i % 7}" for i in range(40)])
    whole = exact_duplicates([pool])
    assert whole.height == 33
    parts = pool.sample(fraction=1.0, shuffle=True, seed=1)
    assert exact_duplicates([parts[:9], parts[9:30], parts[30:]]).equals(whole)


def test_published_rows_stay() -> None:
    old, new = documents(["one", "two"], "old"), documents(["Two", "three", "THREE"], "new")
    drops = exact_duplicates([new], published=fingerprints(old))
    assert drops.select("row", "duplicate_of").rows() == [(0, old["id"][1]), (2, new["id"][1])]


def test_no_rows() -> None:
    assert exact_duplicates([]).height == 0
    assert exact_duplicates([documents([])]).height == 0


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_a_plain_dictionary(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = documents(["".join(rng.choice(list("aA b\n"), 4)) for _ in range(300)])
    first: dict[str, int] = {}
    expected = []
    for row, text in enumerate(pool["text"]):
        if first.setdefault(" ".join(text.lower().split()), row) != row:
            expected.append(row)
    assert exact_duplicates([pool])["row"].to_list() == expected
