"""The report: figures against brute force; a page whole, escaped and sufficient unto itself."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from published import chats, frame, ledger, publish, stored, turn

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.report import page, plots, tables
from gristmill.pipeline.report.build import report
from gristmill.pipeline.report.examples import EXPLORER
from gristmill.pipeline.report.images import images
from gristmill.pipeline.report.projection import plane
from gristmill.pipeline.report.rendered import Rendered

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
EVIL = '</style><script>alert("x")</script><img src=//evil onerror=alert(1)>'


class Reader(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not nest."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.text, self.figures = [], [], [], []

    def handle_starttag(self, name, attributes):
        self.seen.append((name, dict(attributes)))
        if name == "figure":
            self.figures.append(set())
        if self.figures and "figure" in self.open:
            self.figures[-1].add(name)
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text.append(data)


def read(raw: bytes) -> Reader:
    reader = Reader()
    reader.feed(raw.decode())
    reader.close()
    assert reader.open == []
    return reader


def made(tmp_path, store, rows=None, **options) -> bytes:
    """The report of a toy publication with everything that a report can show."""
    rows = rows or chats(90)
    records = frame(rows)
    dataset = stored(store, records)
    first = records["id"][0]
    book = ledger(records, 30).with_columns(
        score_length=pl.col("tokens").cast(pl.Float64),
        cluster=pl.when(pl.col("rank") > 80).then(pl.lit("c1")),
        duplicate_of=pl.when(pl.col("rank") > 80).then(pl.lit(first)),
        contaminates=pl.when(pl.col("rank").is_between(70, 72)).then(pl.lit("gsm8k_test")),
        score=pl.when(pl.col("rank") == 90).then(None).otherwise("score"),
    )
    points = pl.DataFrame({"id": records["id"], "x": range(90), "y": [i % 7 for i in range(90)]})
    folder = publish(
        tmp_path,
        store,
        rows=rows,
        book=book,
        contamination={"sets": ["gsm8k_test", "svamp"]},
        models=[{"role": "target", "id": "tiny", "dtype": "float32"}],
        render=lambda _: Rendered(tokens=["ask ", "answer", "<end>"], trained=[False, True, True]),
        report=lambda facts: report(
            facts,
            dataset,
            projection=points.with_columns(pl.col("x", "y").cast(pl.Float64)),
            projection_note="From row numbers.",
            target={"maths.jsonl": 0.5, "org/other": 0.5},
        ),
        **options,
    )
    return (folder / "report.html").read_bytes()


def test_the_page_needs_nothing_but_itself(tmp_path, store):
    raw = made(tmp_path, store)
    seen = read(raw)
    names = {name for name, _ in seen.seen}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in seen.seen:
        assert not {a for a in attributes if a.startswith("on") or a in ("src", "srcset")}
        assert attributes.get("href", "#").startswith(("#", f"{EXPLORER}?id="))
    assert b"url(" not in raw
    assert b"@import" not in raw
    assert b"default-src 'none'" in raw
    assert b"width=device-width" in raw
    assert b"prefers-color-scheme:dark" in raw


def test_every_link_leads_to_a_section_and_every_plot_has_its_numbers(tmp_path, store):
    seen = read(made(tmp_path, store))
    targets = {a["href"][1:] for n, a in seen.seen if n == "a" and a["href"].startswith("#")}
    sections = [a["id"] for n, a in seen.seen if n == "section"]
    assert targets == set(sections)
    assert len(sections) == 12
    drawn = [f for f in seen.figures if "svg" in f]
    alone = [f for f in drawn if "table" not in f]
    assert len(drawn) >= 6
    assert len(alone) == 2  # the reasons and the map, whose tables stand beside them
    assert all(a.get("aria-label") for n, a in seen.seen if n == "svg")


def test_each_example_links_to_its_row_in_the_explorer_of_this_machine(tmp_path, store):
    seen = read(made(tmp_path, store))
    to = [a["href"] for n, a in seen.seen if n == "a" and not a["href"].startswith("#")]
    ids = set(frame(chats(90))["id"])
    assert len(to) >= 12
    assert all(link.removeprefix("http://127.0.0.1:8421/?id=") in ids for link in to)


def test_method_and_budget_come_first(tmp_path, store):
    selection = {
        "scorers": ["a", "again"],
        "methods": {"a": "a", "again": "ifd"},
        "settings": {"a": {"nested": {"k": 1}}},
        "by": "again",
        "rule": "band",
        "rule_settings": {"low": 0.1},
        "budget": "30",
        "before": [{"by": "a", "rule": None, "settings": {}, "budget": "50%"}],
        "filters": ["length"],
    }
    seen = read(made(tmp_path, store, selection=selection))
    sections = [a["id"] for n, a in seen.seen if n == "section"]
    assert sections[0] == "asked"
    text = " ".join("".join(seen.text).split())
    start = text.index("Taken: 30 of 90 rows")
    said = text[start : text.index("What was left out")]
    for words in ("the method's own50%", "2againband {low: 0.1}30", "again (ifd)", "[length]"):
        assert words in said
    assert "anested: {k: 1}" in said


def test_the_map_has_the_sources_colours_and_rings_what_was_taken(tmp_path, store):
    seen = read(made(tmp_path, store))
    dots = [a for n, a in seen.seen if n == "path"]
    drawn = {a["class"]: a["d"].count("M") for a in dots}
    taken = {k: v for k, v in drawn.items() if k.removeprefix("dots ").startswith("s")}
    assert set(drawn) == {"dots faint s0", "dots faint s1", "dots ring", "dots s0", "dots s1"}
    assert sum(taken.values()) == 30
    assert sum(a["d"].count("M") for a in dots if a["class"] == "dots ring") == 30
    assert sum(v for k, v in drawn.items() if "faint" in k) == 60
    text = "".join(seen.text)
    assert f"maths.jsonl: {taken['dots s0']} of 60" in text
    assert f"org/other: {taken['dots s1']} of 30" in text


def test_more_sources_than_colours_share_one(tmp_path, store):
    rows = chats(90)
    for i, row in enumerate(rows):
        row["source"] = f"source-{i % 12}"
    seen = read(made(tmp_path, store, rows=rows))
    kinds = {a["class"] for n, a in seen.seen if n == "path"}
    assert {k for k in kinds if "faint" in k} == {f"dots faint s{i}" for i in range(8)}
    assert "other sources: " in "".join(seen.text)


def test_the_page_is_as_wide_as_the_window(tmp_path, store):
    """At 390 pixels nothing is wider than the window but what scrolls in a box of its own."""
    raw = made(tmp_path, store).decode()
    (sheet,) = re.findall(r"<style>(.*?)</style>", raw, re.DOTALL)
    for rule, width in re.findall(r"[;{](min-width|width):([\d.]+)px", sheet):
        assert float(width) <= 320, (rule, width)
    assert all(float(w) <= 320 for w in re.findall(r"(?<!%,)minmax\(([\d.]+)px", sheet))
    assert ".scroll{overflow-x:auto" in sheet
    assert "svg{display:block;width:100%" in sheet
    assert re.search(r"\.heat th:first-child\{position:sticky;left:0", sheet)
    wrapped = re.findall(r"(.{20})<table", raw)
    assert wrapped
    assert all(before.endswith('<div class="scroll">') for before in wrapped)
    svgs = [a for n, a in read(raw.encode()).seen if n == "svg"]
    assert all(a["viewbox"].startswith("0 0 360 ") and "width" not in a for a in svgs)


def test_columns_of_a_matrix_are_as_narrow_as_their_numbers():
    names = [f"a_method_of_a_very_long_name_{i}" for i in range(9)]
    seen = read(plots.heatmap(names, np.eye(9), signed=True).text.encode())
    text = "".join(seen.text)
    assert text.startswith("123456789")
    assert [text.count(name) for name in names] == [1] * 9
    assert [a["title"] for n, a in seen.seen if n == "th" and "title" in a] == names
    assert sum(n == "wbr" for n, _ in seen.seen) == 9 * 7


def test_the_plots_are_images_of_their_own():
    book = toy_ledger(
        score=[0.1 * i for i in range(20)],
        score_other=[None, float("nan"), *range(18)],
        score_none=[float("nan")] * 20,
    ).with_columns(source=pl.Series(["a", f"<b>&\x00\uffff{EVIL}"] * 10))
    found = images(book)
    assert set(found) == {"scores", "mixture"}
    for raw in found.values():
        drawn = ElementTree.fromstring(raw)
        assert {e.tag.split("}")[1] for e in drawn.iter()} <= {
            *("svg", "style", "rect", "text", "line")
        }
        assert b"url(" not in raw
        assert b"prefers-color-scheme:dark" in raw
        inner = [e for e in drawn if e.tag.endswith("}svg")]
        bottom = float(inner[-1].get("y")) + float(inner[-1].get("height"))
        assert bottom <= float(drawn.get("height"))
    words = [t.text for t in ElementTree.fromstring(found["scores"]).iter() if t.text]
    assert "score_other: pool and taken" in words
    assert not [w for w in words if "score_none" in w]


def test_equal_inputs_give_an_equal_page(tmp_path, store):
    assert made(tmp_path / "a", store) == made(tmp_path / "b", store)


def test_what_the_data_say_is_text(tmp_path, store):
    rows = chats(90)
    for row in rows:
        row["source"] = row["license"] = row["revision"] = EVIL
        said = turn(
            "assistant",
            f"{EVIL}\x00\x1b[1m\u202egnp\U000e0041",
            json.dumps({"reasoning": f"{EVIL}Hm."}),
        )
        row["messages"] = [turn("user", EVIL), said]
    for i, row in enumerate(rows):
        row["messages"][0]["content"] += str(i)
    seen = read(made(tmp_path, store, rows=rows, tags=[EVIL]))
    assert not {n for n, _ in seen.seen} & {"script", "img"}
    assert EVIL in "".join(seen.text)
    assert not {"\x00", "\x1b", "\u202e", "\U000e0041"} & set("".join(seen.text))
    assert "‹U+202E›gnp‹U+E0041›" in "".join(seen.text)
    assert "Hm." in "".join(seen.text), "an example shows further fields beside its content"


def test_the_examples_stand_on_both_sides_of_the_cut(tmp_path, store):
    text = "".join(read(made(tmp_path, store)).text)
    for rank in (1, 2, 3, 28, 29, 30, 31, 32, 33, 88, 89, 90):
        assert f"rank {rank}" in text
    assert "answer<end>" in text
    assert "2 of 3 tokens trained" in text
    assert "From row numbers." in text
    assert "score_length follows length (rank correlation +1.00)" in text


def test_a_report_with_nothing_optional_says_so(tmp_path, store):
    records = frame(chats(20))
    dataset = stored(store, records)
    book = ledger(records, 20).with_columns(tokens=pl.lit(None, pl.Int64))
    folder = publish(
        tmp_path, store, rows=chats(20), book=book, report=lambda facts: report(facts, dataset)
    )
    text = "".join(read((folder / "report.html").read_bytes()).text)
    for words in (
        "no vectors were at hand",
        "not checked: no evaluation set",
        "not made: no tokenizer",
        "nothing was left out",
        "no tokenizer counted the rows",
        "none is on record",
    ):
        assert words in text.lower()


def toy_ledger(**columns) -> pl.DataFrame:
    n = len(next(iter(columns.values())))
    base = {
        "id": [f"r{i:03d}" for i in range(n)],
        "source": ["a"] * n,
        "row": list(range(n)),
        "verdict": ["kept" if i < n // 2 else "dropped" for i in range(n)],
        "tokens": list(range(n)),
        "cluster": [None] * n,
        "duplicate_of": [None] * n,
        "contaminates": [None] * n,
    }
    text = dict.fromkeys(("cluster", "duplicate_of", "contaminates"), pl.String)
    return pl.DataFrame({**base, **columns}, schema_overrides=text)


def test_spearman_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    y = np.round(x + rng.normal(size=60), 0)  # ties
    book = toy_ledger(score=x, score_y=y, score_up=np.exp(x), score_down=-(x**3))
    names, rho, overlap = tables.agreement(book)
    assert names == ["score", "score_down", "score_up", "score_y"]
    assert rho[0, 2] == pytest.approx(1)
    assert rho[0, 1] == pytest.approx(-1)
    ranks = [
        [np.mean([(v < w) + (v == w) / 2 for v in values]) for w in values] for values in (x, y)
    ]
    assert rho[0, 3] == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert np.allclose(rho, rho.T)
    assert overlap[0, 2] == 1
    top = [set(np.argsort(-v, kind="stable")[:30]) for v in (x, -(x**3))]
    assert overlap[0, 1] == pytest.approx(len(top[0] & top[1]) / 30)


def test_overlaps_count_the_kept_rows_among_each_top():
    book = toy_ledger(score=[4.0, 3, 2, 1], score_other=[1.0, 4, 3, 2])
    found = dict(tables.overlaps(book).rows())
    assert found["a random set of equal size (expected)"] == 0.5
    assert found["top of score"] == 1
    assert found["top of score_other"] == 0.5


def test_mixture_shares_sum_to_one_and_name_the_wanted():
    book = toy_ledger(score=[1.0] * 8).with_columns(source=pl.Series(list("aaabbbbc")))
    found = tables.mixture(book, target={"a": 0.75, "z": 0.25})
    rows = {r["source"]: r for r in found.iter_rows(named=True)}
    assert found["share_before"].sum() == pytest.approx(1)
    assert found["share_after"].sum() == pytest.approx(1)
    assert (rows["a"]["after"], rows["b"]["after"], rows["c"]["after"]) == (3, 1, 0)
    assert rows["a"]["wanted"] == 0.75
    assert rows["a"]["tokens_before"] == 0 + 1 + 2


def test_duplicates_and_contamination_are_counted():
    book = toy_ledger(
        score=[1.0] * 6,
        cluster=["x", "x", "x", "y", "y", None],
        duplicate_of=[None, "r000", "r000", None, "r003", None],
        contaminates=[None, None, "gsm8k", None, "gsm8k", None],
    )
    sizes, pairs = tables.duplicates(book)
    assert sizes.rows() == [(2, 1), (3, 1)]
    assert pairs.rows() == [("a", "a", 3)]
    found = tables.contamination(book, ["gsm8k", "svamp"])
    assert found.rows() == [("gsm8k", 2, 1), ("svamp", 0, 0)]


def test_length_in_disguise_is_named_either_way():
    length = np.arange(40)
    noise = np.random.default_rng(1).permutation(40).astype(float)
    book = toy_ledger(score=noise, score_long=length * 2.0, score_short=-length * 1.0)
    assert dict(tables.length_alarm(book)) == pytest.approx({"score_long": 1, "score_short": -1})


def test_histogram_bars_are_shares_of_their_own_set():
    rng = np.random.default_rng(0)
    pool, taken = rng.normal(size=500), rng.normal(2, 0.1, size=50)
    html = plots.histogram("x", pool, taken, mark=1.8).text
    shares = [float(s) for s in re.findall(r">(\d+\.\d)%<", html)]
    assert len(shares) == 2 * plots.BINS
    assert sum(shares[::2]) == pytest.approx(100, abs=2)
    assert sum(shares[1::2]) == pytest.approx(100, abs=2)
    assert "1.8" in html
    assert "No value" in plots.histogram("x", np.array([np.nan]), np.array([])).text


def test_the_plane_finds_the_two_widest_directions_whatever_the_blocks():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(300, 2)) * [9, 4]
    turned, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    vectors = np.hstack([wide, rng.normal(size=(300, 6)) * 0.1]) @ turned + 5
    pool = pl.DataFrame({"id": [f"i{i:03d}" for i in range(300)]}).with_columns(
        v=pl.Series(vectors, dtype=pl.Array(pl.Float64, 8))
    )
    whole = plane(Frames(parts=(pool,)), "v")
    parts = plane(Frames(parts=(pool[200:], pool[:50], pool[50:200])), "v")
    assert np.allclose(whole.select("x", "y"), parts.select("x", "y"), atol=1e-3)
    for axis, column in enumerate(("x", "y")):
        corr = np.corrcoef(whole[column].to_numpy(), wide[:, axis])[0, 1]
        assert abs(corr) > 0.999
    few = plane(Frames(parts=(pool,)), "v", points=50)
    assert 20 < few.height < 90
    joined = few.join(whole, on="id", suffix="_whole")
    assert np.allclose(joined["x"], joined["x_whole"])
    assert plane(Frames(parts=(pool[:2],)), "v").is_empty()


def test_figures_are_written_as_people_read_them():
    assert [page.number(v) for v in (1234567, 0.12345, 3.0, None, float("nan"), 12345.6)] == [
        "1,234,567",
        "0.123",
        "3",
        "–",
        "–",
        "12,346",
    ]


def test_the_page_is_small(tmp_path, store):
    assert len(made(Path(tmp_path), store)) < 150_000
