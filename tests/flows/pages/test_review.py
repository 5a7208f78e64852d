"""The server of the review page: what it says, what it refuses, and what outlives it."""

import http.client
import random
import threading
import time
from dataclasses import replace

import pytest
import reviews
from review_server import Server
from rows import chat_rows, pair_rows, write_jsonl
from starlette.testclient import TestClient

from gristmill.flows import reviewing
from gristmill.flows.pages import nodes
from gristmill.pipeline.review import approval, shown


def opened(root, rows=None, **how):
    data = write_jsonl(root / "rows.jsonl", pair_rows(6) if rows is None else rows)
    return reviewing.reviewing(reviewing.Asked(data=str(data), store=str(root / "store"), **how))


@pytest.fixture
def client(tmp_path):
    with TestClient(opened(tmp_path).app) as found:
        yield found


def click(client, item, judgement, key="k1", **more):
    told = {"as": "ann", "review": client.get("/desk").json()["review"]}
    told |= {"key": key, "item": item, "judgement": judgement}
    return client.post("/judgements", json=told | more)


def test_what_the_page_is_told_is_blind(client):
    told = client.get("/turns?as=ann&count=6").json()
    text = str(told) + str(client.get("/desk").json()["choices"])
    assert len(told["turns"]) == 6
    assert not any(word in text for word in ("chosen", "rejected", "score", "quality"))
    answer = click(client, told["turns"][0]["item"], "first").json()
    assert set(answer) == {"number", "again", "progress"}
    assert "chosen" not in str(answer)


def test_a_click_counts_once_and_a_second_one_on_the_row_is_said(client):
    item = client.get("/turns?as=ann").json()["turns"][0]["item"]
    assert click(client, item, "first").json()["again"] is False
    assert click(client, item, "second").json()["number"] == 0, "the same click, sent again"
    told = click(client, item, "second", key="k2").json()
    assert (told["again"], told["number"], told["progress"]["mine"]) == (True, 1, 1)
    undo = {"as": "ann", "review": client.get("/desk").json()["review"], "key": "u1"}
    assert client.post("/undo", json={**undo, "item": "0" * 32}).json()["turn"] is None
    assert (
        client.post("/undo", json={**undo, "key": "u2", "item": item}).json()["turn"]["item"]
        == item
    )
    assert client.post("/undo", json={**undo, "key": "u3"}).json()["turn"] is None


def test_finishing_writes_the_table_and_tells_how_far_people_agree(client, tmp_path):
    item = client.get("/turns?as=ann").json()["turns"][0]["item"]
    click(client, item, "tie", comment="hm", seconds=2, age=3.5)
    review = client.get("/desk").json()["review"]
    told = client.post("/finish", json={"as": "ann", "review": review}).json()
    assert (told["items"], told["annotators"], told["alpha"]) == (1, {"ann": 1}, None)
    import polars as pl

    (row,) = pl.read_parquet(told["table"]).to_dicts()
    assert (row["judgement"], row["comment"], row["seconds"]) == ("tie", "hm", 2.0)


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"review": "other"}, 409, "another review"),
        ({"as": "../x"}, 400, "not a valid name"),
        ({"as": None}, 400, "as: expected a text"),
        ({"key": ""}, 400, "key: expected a text"),
        ({"judgement": "chosen"}, 400, "not a judgement"),
        ({"item": "x"}, 400, "no item"),
        ({"seconds": "long"}, 400, "seconds: expected a number"),
        ({"comment": 1}, 400, "comment: expected a text"),
        ({"comment": "x" * 5_000}, 400, "at most 4,000"),
    ],
)
def test_what_is_no_click_is_refused_in_a_sentence(client, change, status, says):
    item = client.get("/turns?as=ann").json()["turns"][0]["item"]
    told = {"as": "ann", "review": client.get("/desk").json()["review"], "key": "k", "item": item}
    answer = client.post("/judgements", json={**told, "judgement": "first", **change})
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.json()
    assert client.get("/turns?as=ann").json()["progress"]["mine"] == 0


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"as": NaN}'])
def test_a_body_that_is_no_question_is_refused(client, raw):
    assert client.post("/judgements", content=raw).status_code in (400, 409)


def test_a_body_that_is_too_large_is_refused(client):
    assert client.post("/judgements", content=b" " * 16_000_001).status_code == 413


def test_a_changed_dataset_is_said_and_the_review_stays(tmp_path):
    found = opened(tmp_path)
    with TestClient(found.app) as client:
        assert client.get("/desk").json()["changed"] is None
        item = client.get("/turns?as=ann").json()["turns"][0]["item"]
        write_jsonl(tmp_path / "rows.jsonl", pair_rows(9))
        assert "was changed since" in client.get("/turns?as=ann").json()["changed"]
        assert click(client, item, "tie").status_code == 200
    again = opened(tmp_path, pair_rows(9))
    assert again.home != found.home, "the new rows are another review"
    assert opened(tmp_path).home == found.home


def test_a_new_version_is_said_by_its_name(tmp_path):
    home = tmp_path / "toy"
    versions = [home / f"v{n}-{str(n) * 8}" for n in (1, 2)]
    for version in versions:
        version.mkdir(parents=True)
        (version / "manifest.json").write_text("{}")
    link = home / "latest"
    link.symlink_to(versions[0].name)
    changed = reviewing.changes(str(home), str(versions[0]))
    assert changed() is None
    link.unlink()
    link.symlink_to(versions[1].name)
    assert changed() == (
        f"toy has a new version, {versions[1].name}. This review stays with {versions[0].name}; "
        "to review the new one, start the command again."
    )


def test_an_address_outlives_its_server_and_is_its_owners_alone(tmp_path):
    found = opened(tmp_path)

    class At:
        def getsockname(self):
            return "127.0.0.1", 4711

    first = found.door(At())
    again = opened(tmp_path)
    assert again.usual_port == 4711
    assert again.door(At()).token == first.token
    assert (found.home / "address.json").stat().st_mode & 0o077 == 0


def test_a_guideline_that_is_none_is_refused(tmp_path):
    guide = tmp_path / "guide.md"
    guide.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        opened(tmp_path, guideline=guide)
    guide.write_text("# Be fair")
    with TestClient(opened(tmp_path, guideline=guide).app) as client:
        assert client.get("/desk").json()["guideline"] == nodes.markdown("# Be fair")


def test_rows_offer_their_answer_to_correct_and_pairs_do_not(tmp_path):
    with TestClient(opened(tmp_path, chat_rows(3)).app) as client:
        told = client.get("/turns?as=ann&count=3").json()["turns"]
        assert all(isinstance(t["editable"], str) for t in told)
        answer = click(client, told[0]["item"], "fix", answer="Better.")
        assert answer.status_code == 200
        assert click(client, told[1]["item"], "fix", "k2").status_code == 400


def test_scores_come_from_the_table_that_is_named(tmp_path):
    import polars as pl

    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("x")
    for name, says in (
        ("none", "no column 'id'"),
        ("text", "no Parquet"),
        ("gone", "no such file"),
    ):
        with pytest.raises(ValueError, match=says):
            opened(tmp_path, order="x", scores=tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="there are none: give a published dataset"):
        opened(tmp_path, order="x")


def test_a_table_of_gristmill_score_orders_by_the_name_of_its_method(tmp_path):
    import polars as pl

    from gristmill.pipeline.export.user_tables import save

    data = write_jsonl(tmp_path / "rows.jsonl", pair_rows(6))
    scores = tmp_path / "scores.parquet"
    asked = reviewing.Asked(
        data=str(data), store=str(tmp_path / "store"), order="-active_dpo", scores=scores
    )
    items = reviewing.desk(replace(asked, order="random"))[0].items
    table = pl.DataFrame({"id": items, "score": [3.0, None, 1.0, 2.0, 5.0, 4.0]})
    save(table, scores, method="active_dpo")
    found = reviewing.desk(asked)[0].items
    assert found == [items[n] for n in (2, 3, 0, 5, 4, 1)]
    assert reviewing.desk(replace(asked, order="-score"))[0].items == found
    with pytest.raises(ValueError, match="did you mean 'active_dpo'"):
        reviewing.desk(replace(asked, order="active_dp"))


def test_the_page_of_an_approval_takes_a_decision(tmp_path, store):
    import ingested

    pool = ingested.dataset(store, tmp_path, "odd \u202e<b>", chat_rows(14))
    request = reviews.request(store, pool)
    found = reviewing.approving(request.path)
    with TestClient(found.app) as client:
        told = client.get("/request").json()
        assert (told["request"]["rows"], len(told["rows"]), told["decision"]) == (12, 6, None)
        assert told["rows"][0]["source"] == "odd ‹U+202E›<b>"
        assert told["rows"][0]["stratum"] in [s["stratum"] for s in told["request"]["strata"]]
        for said, says in (
            ({"verdict": "approve", "by": "", "reason": ""}, "needs the name"),
            ({"verdict": "reject", "by": "ann", "reason": ""}, "needs its reason"),
            ({"verdict": "maybe", "by": "ann", "reason": ""}, "approve or reject"),
        ):
            answer = client.post("/decision", json=said)
            assert (answer.status_code, says in answer.json()["error"]) == (400, True)
        said = {"verdict": "approve", "by": "ann", "reason": "", "seen": None}
        made = client.post("/decision", json=said).json()["decision"]
        assert made["verdict"] == "approved"
        said = {"verdict": "reject", "by": "bob", "reason": "rude", "seen": None}
        late = client.post("/decision", json=said)
        assert late.status_code == 409, "a page that knows nothing of it does not undo it"
        assert "ann decided meanwhile (approved at" in late.json()["error"]
        assert approval.opened(request.path).decision["by"] == "ann"
        for who in ("bob", "ann"):
            seen = approval.opened(request.path).decision["at"]
            said |= {"by": who, "seen": seen, "verdict": "reject" if who == "bob" else "approve"}
            assert client.post("/decision", json=said).status_code == 200
    assert approval.opened(request.path).decision["by"] == "ann"


SAYS = ("first", "second", "tie", "both_bad", "skip")


def killed_at(server, moments, draw):
    """Kill the server at so many moments while somebody clicks.

    Each click says something else than the one before. One that is not confirmed is sent again as
    it was, as the page does. After each kill all that was confirmed must be on the disk, to the
    word.

    Returns:
        Key of a click -> what it said: those that were confirmed, and all that were sent.
    """
    confirmed, sent, stop = {}, {}, threading.Event()

    def clicking():
        told = None
        while not stop.is_set():
            try:
                if told is None:
                    number = len(sent)
                    (turn,) = server.ask("/turns?as=ann&count=1")[1]["turns"]
                    told = {"as": "ann", "review": review, "key": f"click-{number}",
                            "item": turn["item"], "judgement": SAYS[number % len(SAYS)],
                            "comment": f"no. {number}: " + "so it is " * draw.randint(0, 400)}  # fmt: skip
                    sent[told["key"]] = told
                status, answer = server.ask("/judgements", told)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.01)
                continue
            assert (status, answer["number"]) == (200, len(confirmed)), answer
            confirmed[told["key"]] = told
            told = None

    def further(count=3):
        at = len(confirmed)
        while len(confirmed) < at + count:
            assert thread.is_alive(), "the clicking ended"
            time.sleep(0.002)

    server.start()
    review = server.ask("/desk")[1]["review"]
    thread = threading.Thread(target=clicking)
    thread.start()
    try:
        for _ in range(moments):
            further()
            time.sleep(draw.uniform(0, 0.03))
            server.kill()
            known, lines = dict(confirmed), server.clicks()
            lost = [key for key, told in known.items() if not wrote(lines.get(key), told)]
            assert not lost, f"confirmed, and not on the disk as it was said: {lost}"
            server.start()
        further()
    finally:
        stop.set()
        thread.join()
        server.kill()
    return confirmed, sent


def wrote(line, told):
    """Whether a line of the journal says what a click said."""
    if line is None:
        return False
    side = shown.first(0, "ann", told["item"])
    judgement = {"first": side, "second": shown.other(side)}.get(
        told["judgement"], told["judgement"]
    )
    expected = (told["item"], "ann", judgement, told["comment"])
    return (line["item"], line["annotator"], line["judgement"], line["comment"]) == expected


@pytest.mark.slow
@pytest.mark.fault("killed: the review page, between clicks")
def test_a_server_that_is_killed_loses_no_click_that_it_confirmed(tmp_path, record_property):
    data = write_jsonl(tmp_path / "rows.jsonl", pair_rows(2_000))
    server = Server(data, tmp_path / "store", double=0.0)
    confirmed, sent = killed_at(server, 20, random.Random(20))
    clicks = server.clicks()
    assert set(confirmed) <= set(clicks) <= set(sent)
    assert all(wrote(line, sent[key]) for key, line in clicks.items())
    lines = server.lines()
    assert len(lines) == len(clicks), "a click that was sent again counts once"
    assert [line["number"] for line in lines] == list(range(len(lines)))
    assert len({line["item"] for line in lines}) == len(clicks)
    record_property("fault", ("right", 20))
