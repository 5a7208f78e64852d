"""The report: figures against plain sums, and a page that holds whatever a model wrote."""

from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
import topic_world
from topic_world import Reader, pool, run_equal

from gristmill.pipeline.models.completion.client import Price
from gristmill.synthesis import figures, report
from gristmill.synthesis.equal import Equal
from gristmill.synthesis.rounds import PULLS


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    names = ["", "", "LEAK", "BARREN"]
    frame = pool(planted=lambda topic, number: names[(topic + number) % 4])
    equal = Equal(share=0.6, batch=2, arms=2)
    return run_equal(tmp_path_factory.mktemp("report"), Reader(), frame=frame, equal=equal)


def test_tables_are_plain_sums(outcome):
    pulls, sent = outcome.table("pulls"), outcome.table("sent")
    candidates = outcome.table("candidates")
    price = Price(tokens_in=2.0, tokens_out=8.0)
    clusters, rounds = figures.by_cluster(pulls), figures.by_round(pulls, price)
    assert clusters["documents"].sum() == rounds["documents"].sum() == len(sent)
    for row in clusters.iter_rows(named=True):
        mine = sent.filter(cluster=row["cluster"])
        assert row["documents"] == len(mine)
        assert row["kept"] == mine["kept"].sum()
        assert row["tokens"] == mine["tokens_in"].sum() + mine["tokens_out"].sum()
        assert row["per_document"] == mine["kept"].sum() / len(mine)
    for row in rounds.iter_rows(named=True):
        mine = sent.filter(round=row["round"])
        tokens_in, tokens_out = mine["tokens_in"].sum(), mine["tokens_out"].sum()
        assert row["money"] == pytest.approx((2 * tokens_in + 8 * tokens_out) / 1e6)
        kept = mine["kept"].sum()
        assert row["pairs_per_1000"] == pytest.approx(1_000 * kept / (tokens_in + tokens_out))
        assert row["money_per_pair"] == (pytest.approx(row["money"] / kept) if kept else None)
    told = figures.reasons(sent, candidates)
    assert set(told.select("what", "reason").iter_rows()) == {
        ("pair", "leak"),
        ("document", "parse"),
    }
    assert (
        told["count"].sum() == candidates["reason"].is_not_null().sum() + (sent["pairs"] == 0).sum()
    )


def pulls_of(costs, first):
    rows = [
        {
            **dict.fromkeys(PULLS),
            "round": 0 if i < first else 1,
            "why": "probe" if i < first else "chosen",
            "cluster": i,
            "cost": w,
            "full": True,
            "documents": 1,
            "pairs": 1,
            "kept": 1,
            "tokens_in": 1,
            "tokens_out": 1,
        }
        for i, w in enumerate(costs)
    ]
    return pl.DataFrame(rows, schema=PULLS)


def test_the_advantage_is_the_plain_difference_and_its_band_covers():
    found = figures.advantage(pulls_of([1.0, 0.8, 1.2, 0.7, 0.9, 1.1], 3))
    assert found.uniform == pytest.approx(1.0)
    assert found.error == pytest.approx(0.2 / 3**0.5)
    assert found.saved_T == pytest.approx([0.3, 0.4, 0.3])
    assert found.half_T == pytest.approx(1.96 * found.error * np.array([1, 2, 3]))
    assert not found.clear
    assert figures.advantage(pulls_of([1.0, 0.8], 2)) is None
    # Pulls that are uniform themselves are seldom called better: 2.5 % of the time, one-sided.
    generator = np.random.default_rng(0)
    called = sum(
        figures.advantage(pulls_of(generator.normal(1.0, 0.1, 420), 20)).clear for _ in range(400)
    )
    assert called / 400 < 0.07
    better = np.concatenate([generator.normal(1.0, 0.1, 20), generator.normal(0.8, 0.1, 50)])
    assert figures.advantage(pulls_of(better, 20)).clear


class Reading(HTMLParser):
    """Collects elements, and checks that each one closes."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_reaches_for_nothing(outcome):
    html = report.page(outcome, title="Topics", price=Price(tokens_in=1.0, tokens_out=4.0)).decode()
    reading = Reading()
    reading.feed(html)
    assert reading.open == []
    tags = [t for t, _ in reading.seen]
    assert tags.count("svg") == 6  # two of yield, one of uniform, two of cost, one of reasons
    assert "script" not in tags
    for _, attributes in reading.seen:
        assert not {"src", "srcset"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
    text = " ".join(reading.text)
    assert "Against uniform pulls" in text
    assert "money a kept pair" in text
    assert "topic0.md" in text


def test_what_a_model_writes_stays_text(tmp_path, monkeypatch):
    attack = '<img src=x onerror="alert(1)"></table>\x07'
    real = topic_world.read

    def read(request):
        said = real(request)
        return said.replace("Weight of", attack.replace('"', "'").replace("\x07", "\\u0007"))

    monkeypatch.setattr(topic_world, "read", read)
    equal = Equal(share=1.0, batch=2, arms=2)
    made = run_equal(tmp_path, Reader(), frame=pool(size=3, topics=2), equal=equal)
    reading = Reading()
    reading.feed(report.page(made, title=attack).decode())
    assert reading.open == []
    assert "img" not in [t for t, _ in reading.seen]
    assert "<img src=x onerror='alert(1)'></table>" in " ".join(reading.text)
