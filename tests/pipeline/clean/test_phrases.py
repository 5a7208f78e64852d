"""Over-used phrases: counts against a plain loop, ratios by hand, and the command."""

import json
from collections import Counter

import polars as pl
import pytest
from rows import write_jsonl

from gristmill.flows.cli import app
from gristmill.pipeline.clean.phrases import OverUse, hits, over_used
from gristmill.pipeline.clean.text import words

HERE = [f"The rich tapestry of town {i} is a testament to its people." for i in range(6)]
THERE = [f"The market of town {i} is the pride of its people, a small one." for i in range(20)]


def blocks(*parts):
    return lambda: (pl.Series(part) for part in parts)


def test_phrases_of_the_set_rank_by_how_often_the_reference_says_them():
    found = over_used(blocks(HERE[:2], HERE[2:]), blocks(THERE), OverUse(longest=4))
    first = found.row(0, named=True)
    assert first["phrase"] == "a testament to its"
    assert {"the rich tapestry of", "rich tapestry of town"} < set(found["phrase"])
    assert (first["count"], first["rows"], first["in_reference"]) == (6, 6, 0)
    total, known = sum(len(words(t)) for t in HERE), sum(len(words(t)) for t in THERE)
    assert first["ratio"] == pytest.approx(6 / total * (known + 1))
    assert first["per_million"] == pytest.approx(6e6 / total)
    assert found["ratio"].is_sorted(descending=True)
    assert "of town" not in set(found["phrase"]), "both say it as often"
    assert "tapestry" not in set(found["phrase"]), "it stands inside a longer one"


def test_counts_are_those_of_a_plain_loop():
    here = [*HERE, "the the the market of the town", ""]
    found = over_used(
        blocks(here[:3], here[3:]),
        blocks(THERE),
        OverUse(longest=2, least_rows=1, least_ratio=0.01),
    )
    plain: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for text in here:
        split = words(text)
        said = [" ".join(split[i : i + n]) for n in (1, 2) for i in range(len(split) - n + 1)]
        plain.update(said)
        rows.update(set(said))
    for row in found.iter_rows(named=True):
        assert (row["count"], row["rows"]) == (plain[row["phrase"]], rows[row["phrase"]])
    assert {"the", "the the"} < set(found["phrase"])


def test_few_rows_and_low_ratios_are_left_out():
    many = over_used(blocks(HERE), blocks(THERE), OverUse(least_rows=7))
    assert many.is_empty()
    assert over_used(blocks(HERE), blocks(HERE), OverUse(least_rows=1, least_ratio=1.2)).is_empty()
    for given, said in (({"longest": 0}, "1 to 8"), ({"least_rows": 0}, "at least 1")):
        with pytest.raises(ValueError, match=said):
            OverUse(**given)
    with pytest.raises(ValueError, match="the reference has no words"):
        over_used(blocks(HERE), blocks(["...", ""]))


def test_phrases_are_found_by_their_words():
    text = "A testament, to them; a TESTAMENT to us. Attestament to."
    assert hits(text, ["a testament to", "tapestry"]) == {"a testament to": 2}
    assert hits("so so so", ["so", "so so"]) == {"so": 3, "so so": 1}


def test_the_command_writes_all_and_shows_the_first(tmp_path, capsys):
    def rows(texts):
        turns = [[("user", "Why?"), ("assistant", t)] for t in texts]
        return [{"messages": [{"role": r, "content": c} for r, c in t]} for t in turns]

    data, other = tmp_path / "data.jsonl", tmp_path / "other.jsonl"
    write_jsonl(data, rows(HERE))
    write_jsonl(other, rows(THERE))
    given = ["--data", str(data), "--against", str(other), "--store", str(tmp_path / "store")]
    app(
        [*["phrases", "--longest", "4", "--json", "--out"], str(tmp_path / "p.parquet"), *given],
        standalone_mode=False,
    )
    shown = json.loads(capsys.readouterr().out)
    written = pl.read_parquet(tmp_path / "p.parquet")
    assert shown == written.head(20).to_dicts()
    assert shown[0]["phrase"] == "a testament to its"
    with pytest.raises(ValueError, match="--part is one of all, dialogue, prompt, answer"):
        app(["phrases", "--part", "chosen", *given], standalone_mode=False)
