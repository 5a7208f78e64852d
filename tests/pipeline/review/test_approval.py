"""Approval: a stratified sample, and a decision with a name that holds for these rows alone."""

from datetime import UTC, datetime, timedelta

import ingested
import polars as pl
import pytest
import reviews
from rows import chat_rows

from gristmill.pipeline.review import approval
from gristmill.pipeline.review.sample import shares, stratified


@pytest.fixture
def pool(store, tmp_path):
    return ingested.dataset(store, tmp_path, "pool", chat_rows(14))


@pytest.fixture
def request_(store, pool):
    return reviews.request(store, pool)


def test_the_sample_takes_of_every_stratum_by_its_share():
    rows = pl.DataFrame(
        {
            "id": [f"{n:03d}" for n in range(92)],
            "source": ["large"] * 60 + ["small"] * 30 + ["gone"] * 2,
            "row": list(range(92)),
        }
    )
    ledger = reviews.ledger_of(rows)
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
    again = reviews.request(store, pool)
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
    assert reviews.request(store, pool).decision == now
    other = reviews.request(
        store, pool, gate={"promoted": False, "sentence": "It did not beat random."}
    )
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
