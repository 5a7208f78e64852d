"""The leaderboard's committed rows: what is trained on, chosen by and measured on stay apart."""

import json
import re
from collections import Counter

import pytest
from repository import ROOT

HOME = ROOT / "benchmarks" / "data" / "leaderboard"
WORDS = 10  # in a row, which no two parts share


def rows(name: str) -> list[dict[str, str | None]]:
    return [json.loads(line) for line in (HOME / name).read_text("utf-8").splitlines()]


def runs_of_words(text: str) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))}


def test_no_row_of_one_part_repeats_ten_words_of_another():
    owner: dict[str, str] = {}
    for row in rows("rows.jsonl"):
        for run in runs_of_words(f"{row['question']} {row['answer']}"):
            if row["planted"] not in ("swapped", "cut", "near_copy"):
                assert owner.setdefault(run, str(row["part"])) == row["part"], run


@pytest.mark.parametrize("name", ["rows.jsonl", "pairs.jsonl"])
def test_a_question_is_in_one_part_alone(name):
    parts: dict[str, set[str]] = {}
    for row in rows(name):
        parts.setdefault(str(row["question"]), set()).add(str(row["part"]))
    assert [q for q, found in parts.items() if len(found) > 1] == []


def test_planted_faults_are_in_the_pool_alone_and_are_what_they_say():
    found = rows("rows.jsonl")
    assert {r["part"] for r in found if r["planted"]} == {"pool"}
    counts = Counter(r["planted"] for r in found if r["planted"])
    assert counts == {"copy": 16, "near_copy": 20, "off_target": 28, "swapped": 32, "cut": 24}
    texts = Counter((r["question"], r["answer"]) for r in found)
    assert all(texts[r["question"], r["answer"]] == 2 for r in found if r["planted"] == "copy")
    assert {r["source"] for r in found if r["planted"] == "swapped"} == {"maths", "medical"}
    swapped = Counter(r["planted"] for r in rows("pairs.jsonl") if r["part"] == "pool")
    assert swapped["swapped"] == 62
