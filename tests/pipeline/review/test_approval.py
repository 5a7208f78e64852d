"""Approval: a stratified sample, and a decision with a name that holds for these rows alone."""

from datetime import UTC, datetime, timedelta

import ingested
import polars as pl
import pytest
from rows import chat_rows

from gristmill.pipeline.records.schema import KEY, LEDGER
from gristmill.pipeline.records.store import Step
from gristmill.pipeline.review import approval
from gristmill.pipeline.review.sample import shares, stratified


def ledger_of(rows, **columns):
    """Kept rows, ranked as they stand, of which the last two are dropped."""
    count = len(rows)
    told = {
        "score": [float(count - n) for n in range(count)],
        "rank": list(range(1, count + 1)),
        "verdict": ["kept"] * (count - 2) + ["dropped"] * 2,
        "reason": [None] * (count - 2) + ["below_budget"] * 2,
        **columns,
    }
    frame = rows.select(*KEY).with_columns(pl.Series(k, v) for k, v in told.items())
    null = [pl.lit(None, t).alias(c) for c, t in LEDGER.items() if c not in frame.columns]
    return frame.with_columns(null).select(pl.col(c).cast(t) for c, t in LEDGER.items())


@pytest.fixture
def pool(store, tmp_path):
    return ingested.dataset(store, tmp_path, "pool", chat_rows(14))


@pytest.fixture
def request_(store, pool):
    return asked(store, pool)


def asked(store, pool, rows=6, **how):
    ledger = store.put(Step(name="select", version=1), ledger_of(pool.frame()))
    return approval.asked(store, "toy", pool, ledger, rows=rows, **how)


def test_the_sample_takes_of_every_stratum_by_its_share():
    rows = pl.DataFrame(
        {
            "id": [f"{n:03d}" for n in range(92)],
            "source": ["large"] * 60 + ["small"] * 30 + ["gone"] * 2,
            "row": list(range(92)),
        }
    )
    ledger = ledger_of(rows)
    drawn = stratified(ledger, 12)
    counts = dict(drawn.group_by("stratum").len().iter_rows())
    thirds = ("best", "middle", "last in")
    assert counts == {f"{s}: {t}": n for s, n in (("large", 3), ("small", 1)) for t in thirds}
    best = drawn.filter(stratum="large: best")["rank"]
    assert best.max() <= 20
    assert stratified(ledger.sort("id", descending=True), 12).equals(drawn), "whatever the order"
    told = shares(ledger.filter(verdict="kept"), drawn)
    assert {s["stratum"]: s["rows"] for s in told}["small: middle"] == 10
    assert stratified(ledger, 500).height == 90
    assert set(stratified(ledger, 2)["stratum"]) <= set(counts), "more strata than rows"
    flat = ledger.with_columns(rank=pl.lit(None, pl.Int64), score=pl.lit(None, pl.Float64))
    assert set(stratified(flat, 12)["stratum"]) == {"large", "small"}


def test_a_request_holds_what_is_to_be_published_and_rows_to_look_at(store, pool, request_):
    assert (request_.request["rows"], request_.request["of"]) == (12, 14)
    assert request_.request["verdicts"][1] == {
        "verdict": "dropped", "reason": "below_budget", "rows": 2,
    }  # fmt: skip
    sample = request_.sampled()
    assert sample.height == 6
    assert sample["messages"].null_count() == 0
    page = (request_.path / approval.PAGE).read_text()
    assert all(m["content"].splitlines()[0] in page for m in sample["messages"][0])
    assert request_.decision is None
    again = asked(store, pool)
    assert again == request_, "the same rows, the same request, asked at the same time"
    assert [one.path for one in approval.waiting(store.root)] == [request_.path]


def test_a_decision_needs_a_name_and_a_rejection_its_reason(store, pool, request_):
    for verdict, by, reason, says in (
        ("approved", " ", "", "needs the name"),
        ("rejected", "ann", "\n", "needs its reason"),
    ):
        with pytest.raises(ValueError, match=says):
            request_.decide(verdict, by, reason)
    first = request_.decide("rejected", "ann", "too many\n copies")
    assert (first["verdict"], first["by"], first["reason"]) == (
        "rejected",
        "ann",
        "too many copies",
    )
    assert request_.decide("rejected", "ann", "too many copies") == first, "said twice"
    now = request_.decide("approved", "bob")
    assert [b["by"] for b in now["before"]] == ["ann"]
    assert approval.waiting(store.root) == []
    assert asked(store, pool).decision == now
    other = asked(store, pool, gate={"promoted": False, "sentence": "It did not beat random."})
    assert other.decision is None, "what a gate said is part of what is approved"
    assert "did not beat random" in (other.path / approval.PAGE).read_text()


def test_a_damaged_decision_is_no_decision(request_):
    request_.decide("approved", "ann")
    path = request_.path / "decision.json"
    path.write_text(path.read_text().replace("ann", "eve"))
    with pytest.raises(ValueError, match="is damaged"):
        _ = request_.decision
    (request_.path / "request.json").write_text("{}")
    with pytest.raises(ValueError, match="missing or damaged"):
        approval.opened(request_.path)


def test_waiting_ends_after_some_hours_if_it_is_asked_to(request_, monkeypatch):
    assert not request_.overdue(None)
    assert not request_.overdue(1.0)
    later = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(approval, "_now", lambda: later)
    assert request_.overdue(1.0)
    assert not request_.overdue(3.0)
    request_.decide("approved", "ann")
    assert not request_.overdue(1.0)


def test_a_request_is_found_by_its_folder_or_by_the_name(store, request_):
    for name in (str(request_.path), "toy", request_.path.name):
        assert approval.named(name, store.root) == request_
    with pytest.raises(ValueError, match=r"nothing called 'tor' .* there are: toy"):
        approval.named("tor", store.root)
