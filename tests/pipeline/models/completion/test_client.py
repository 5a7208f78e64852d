"""The completion client: driver, cache, budget, schema, endpoint and batch files.

Everything runs against `fake_openai.py`, which counts what it is asked and breaks on request.
"""

import asyncio
import errno
import itertools
import json
import random
import sqlite3
import time
import tracemalloc
from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import Literal

import httpx
import pytest
import warm
from fake_openai import FakeOpenAI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gristmill.pipeline.models.completion.batch import BatchEndpoint
from gristmill.pipeline.models.completion.cache import Cache, cached_keys, open_cache
from gristmill.pipeline.models.completion.client import (
    Budget,
    Price,
    Reply,
    Request,
    Sampling,
    complete,
    estimate,
    request_key,
)
from gristmill.pipeline.models.completion.endpoint import Endpoint
from gristmill.pipeline.models.completion.rate_limit import Pace
from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.pipeline.models.completion.responses import retry_after

KEY = "sk-test-1234567890"


class Verdict(BaseModel):
    label: Literal["good", "bad"]
    score: int


def ask(text, **settings):
    return Request(id=f"id of {text}", messages=[{"role": "user", "content": text}], **settings)


def at(fake, **settings):
    quick = {"model": "fake-1", "workers": 8, "backoff": 0.01, "pause": 0.05, "timeout": 2.0}
    return Endpoint(**{"url": fake.url, **quick, **settings})


def statuses(results):
    return Counter(result.status for result in results)


@pytest.fixture
def fake():
    with FakeOpenAI() as server:
        yield server


# --- the key and the cache


BASE = Request(
    id="a",
    messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}),
    schema={"type": "string"},
)
CHANGED_REQUESTS = {
    "system prompt": replace(
        BASE, messages=({"role": "system", "content": "Be long."}, BASE.messages[1])
    ),
    "message": replace(BASE, messages=(BASE.messages[0], {"role": "user", "content": "Ho."})),
    "role": replace(BASE, messages=({**BASE.messages[0], "role": "user"}, BASE.messages[1])),
    "temperature": replace(BASE, sampling=Sampling(temperature=0.5)),
    "max_tokens": replace(BASE, sampling=Sampling(max_tokens=7)),
    "top_p": replace(BASE, sampling=Sampling(top_p=0.9)),
    "top_k": replace(BASE, sampling=Sampling(top_k=5)),
    "presence_penalty": replace(BASE, sampling=Sampling(presence_penalty=1.0)),
    "stop": replace(BASE, sampling=Sampling(stop=("\n",))),
    "seed": replace(BASE, seed=1),
    "sample": replace(BASE, sample=1),
    "schema": replace(BASE, schema={"type": "string", "maxLength": 30}),
    "no schema": replace(BASE, schema=None),
    "tools": replace(BASE, tools=({"type": "function", "function": {"name": "add"}},)),
}
CHANGED_ENDPOINTS = {
    "model": {"model": "fake-2"},
    "revision": {"revision": "2"},
    "place": {"name": "elsewhere"},
    "structured": {"structured": "prompt"},
    "extra": {"extra": {"min_p": 0.1}},
}
SAME = {
    "workers": {"workers": 3},
    "timeout": {"timeout": 9.0},
    "attempts": {"attempts": 2},
    "backoff": {"backoff": 0.5},
    "rate": {"requests_per_minute": 1e6, "tokens_per_minute": 1e9},
    "breaker": {"pause": 1.0, "probes": 2},
}


def calls_after(fake, tmp_path, request, **settings):
    """Calls at the server for BASE, and then for the changed request on the same cache."""
    fake.answer = lambda body: '"text"'
    for one, changes in ((BASE, {}), (request, settings)):
        (result,) = complete([one], at(fake, **changes), cache=tmp_path / "c.db")
        assert result.status == "ok"
    return fake.calls.total()


@pytest.mark.parametrize("what", CHANGED_REQUESTS)
def test_whatever_changes_the_answer_misses_the_cache(fake, tmp_path, what):
    assert calls_after(fake, tmp_path, CHANGED_REQUESTS[what]) == 2


@pytest.mark.parametrize("what", CHANGED_ENDPOINTS)
def test_another_model_or_place_misses_the_cache(fake, tmp_path, what):
    assert calls_after(fake, tmp_path, BASE, **CHANGED_ENDPOINTS[what]) == 2


@pytest.mark.parametrize("what", SAME)
def test_what_leaves_the_answer_alone_hits_the_cache(fake, tmp_path, what):
    assert calls_after(fake, tmp_path, BASE, **SAME[what]) == 1


def test_the_callers_id_and_the_form_of_the_schema_are_not_in_the_key():
    assert request_key(BASE, {}) == request_key(replace(BASE, id="b"), {})
    typed = replace(BASE, schema=Verdict)
    written = replace(BASE, schema=Verdict.model_json_schema())
    assert request_key(typed, {}) == request_key(written, {})


def test_equal_prompts_give_a_row_each_and_samples_are_asked_for_one_by_one(fake, tmp_path):
    rows = [ask("same"), ask("same"), ask("same", sample=1), ask("same", sample=2)]
    results = list(complete(rows, at(fake), cache=tmp_path / "c.db"))
    assert [r.request for r in results] == rows
    assert statuses(results) == {"ok": 4}
    assert fake.calls["same"] == 3  # the second row shares the first row's answer


def test_results_come_in_input_order_whatever_ends_first(fake):
    rows = [ask(f"q {i}") for i in range(60)]
    fake.script = {f"q {i}": ["500", "429"] for i in range(0, 60, 7)}
    fake.delay = 0.01
    results = list(complete(rows, at(fake)))
    assert [r.row for r in results] == rows
    assert statuses(results) == {"ok": 60}
    assert 1 < fake.most_in_flight <= 8


def test_failures_are_never_cached(fake, tmp_path):
    fake.script = {"q": ["500"] * 3}
    (first,) = complete([ask("q")], at(fake, attempts=3), cache=tmp_path / "c.db")
    assert (first.status, fake.calls["q"]) == ("failed", 3)
    assert not cached_keys(tmp_path / "c.db")
    (second,) = complete([ask("q")], at(fake, attempts=3), cache=tmp_path / "c.db")
    assert (second.status, fake.calls["q"]) == ("ok", 4)


def test_the_answer_is_on_disk_before_parse_sees_it(fake, tmp_path):
    seen = []

    def parse(row, answer):
        seen.append(answer.lineage["key"] in cached_keys(tmp_path / "c.db"))
        return 1 / 0  # a bug in the method: it must surface, and cost nothing

    with pytest.raises(ZeroDivisionError):
        list(complete([ask("q")], at(fake), parse=parse, cache=tmp_path / "c.db"))
    assert seen == [True]
    (result,) = complete([ask("q")], at(fake), cache=tmp_path / "c.db")
    assert (result.status, result.answer.cached, fake.calls["q"]) == ("ok", True, 1)


def test_a_cut_answer_fails_but_was_paid_and_is_kept(fake, tmp_path):
    fake.always = "cut"
    (result,) = complete([ask("q")], at(fake), cache=tmp_path / "c.db")
    assert result.status == "failed"
    assert result.reason.startswith("length: ")
    (result,) = complete([ask("q")], at(fake), cache=tmp_path / "c.db", keep_cut=True)
    assert (result.status, fake.calls["q"]) == ("ok", 1)


def test_replay_is_quick_and_in_constant_memory(tmp_path):
    backend = Recorded(answers={})
    count = 4_000
    reply = Reply(text="tide " * 200, tokens_in=4, tokens_out=200)
    with closing(open_cache(tmp_path / "c.db")) as cache:
        cache.put([(request_key(ask(str(i)), backend.identity), "", reply) for i in range(count)])

    def peak(rows):
        tracemalloc.start()
        good = sum(
            result.status == "ok"
            for result in complete((ask(str(i)) for i in range(rows)), backend, cache=cache_path)
        )
        assert good == rows
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    cache_path = tmp_path / "c.db"
    peak(100)  # imports, SQLite's pages
    assert peak(count) < 1.5 * peak(count // 8) + 200_000
    began = time.process_time()  # other load must not decide a test
    assert sum(1 for _ in complete((ask(str(i)) for i in range(count)), backend, cache=cache_path))
    assert time.process_time() - began < 60 * count / 100_000


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    path = tmp_path / "c.db"
    path.write_bytes(b"this is no database, but long enough to look like one" * 40)
    with pytest.raises(ValueError, match="damaged"):
        list(complete([ask("q")], Recorded(answers={}), cache=path))


def test_first_answer_stands_when_two_runs_ask_the_same(tmp_path):
    with (
        closing(open_cache(tmp_path / "c.db")) as one,
        closing(open_cache(tmp_path / "c.db")) as two,
    ):
        first, second = (Reply(text=t, tokens_in=1, tokens_out=1) for t in ("first", "second"))
        assert one.put([("k", "a", first)]) == [first]
        assert two.put([("k", "b", second), ("l", "b", second)]) == [first, second]


@pytest.fixture
def filled(tmp_path):
    """A cache of 40 answers, the rows that ask for them, and who answers."""
    rows = numbered(40)
    backend = Recorded(answers={r.id: f"the answer to {r.id} " * 9 for r in rows})
    path = tmp_path / "c.db"
    list(complete(rows, backend, cache=path))
    backend.asked.clear()
    return path, rows, backend


def test_an_answer_that_does_not_match_its_checksum_is_asked_for_again(filled):
    path, rows, backend = filled
    keys = [request_key(row, backend.identity) for row in rows]
    changes = (
        "reply = replace(reply, 'the answer', 'THE ANSWER')",
        "request = 'another'",
        "reply = CAST(x'ff' AS TEXT)",
        "reply = x'00'",
        "checksum = NULL",
        "checksum = ''",
        "reply = ''",
    )
    with closing(sqlite3.connect(path)) as connection, connection:
        for change, key in zip(changes, keys, strict=False):
            connection.execute(f"UPDATE answers SET {change} WHERE key = ?", (key,))
    assert cached_keys(path) == set(keys[len(changes) :])
    results = list(complete(rows, backend, cache=path))
    assert [r.value for r in results] == [backend.answers[r.id] for r in rows]
    assert backend.asked == [r.id for r in rows[: len(changes)]]
    assert cached_keys(path) == set(keys)  # and they stand where the damaged ones stood
    assert statuses(complete(rows, backend, cache=path)) == {"ok": 40}
    assert len(backend.asked) == len(changes)


@pytest.mark.parametrize("seed", range(3))
def test_no_flip_anywhere_in_the_cache_changes_an_answer_or_stops_runs_for_ever(filled, seed):
    path, rows, backend = filled
    raw, draw = path.read_bytes(), random.Random(seed)
    for trial in range(16):
        harmed = bytearray(raw)
        if trial % 4 == 3:  # a whole page
            page = 4_096 * draw.randrange(1, len(raw) // 4_096)
            harmed[page : page + 4_096] = bytes(4_096)
        else:  # the header in every other trial
            harmed[draw.randrange(120 if trial % 2 else len(raw))] ^= 1 << draw.randrange(8)
        for old in path.parent.glob("*c.db*"):
            old.unlink()
        path.write_bytes(harmed)
        for _ in range(3):
            backend.asked.clear()
            results = list(complete(rows, backend, cache=path))
            assert [r.value for r in results] == [backend.answers[r.id] for r in rows]
        assert not backend.asked


def test_a_damaged_cache_is_kept_and_what_can_be_read_of_it_goes_on(filled, caplog):
    path, rows, backend = filled
    raw = bytearray(path.read_bytes())
    raw[5 * 4_096 : 6 * 4_096] = bytes(4_096)
    path.write_bytes(raw)
    with closing(open_cache(path)) as other:  # another process's, open on the old file
        assert statuses(complete(rows, backend, cache=path)) == {"ok": 40}
        assert 0 < len(backend.asked) < 40
        assert path.with_name("c.db.damaged-0").exists()
        assert len(caplog.messages) == 1
        assert "was damaged" in caplog.messages[0]
        late = Reply(text="late", tokens_in=1, tokens_out=1)
        other.put([("k", "a", late)])
    with closing(open_cache(path)) as cache:  # it went to the new file
        assert cache.get("k") == late


def test_answers_of_a_cache_without_checksums_are_taken_over(filled):
    path, rows, backend = filled
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "CREATE TABLE old (key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL)"
            " WITHOUT ROWID; INSERT INTO old SELECT key, request, reply FROM answers;"
            "DROP TABLE answers; ALTER TABLE old RENAME TO answers"
        )
    assert statuses(complete(rows, backend, cache=path)) == {"ok": 40}
    assert not backend.asked
    assert len(cached_keys(path)) == 40


@pytest.mark.fault("full disk: the cache of answers", ends="refused")
def test_a_full_disk_under_the_cache_raises_and_stops_the_paying(tmp_path, fake, monkeypatch):
    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.path))

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "put", full)
        with pytest.raises(OSError, match="No space left"):
            list(complete(numbered(400), at(fake), cache=tmp_path / "c.db"))
    assert fake.calls.total() <= 8 + 8  # in flight, or sent before the first answer came
    assert statuses(complete(numbered(20), at(fake), cache=tmp_path / "c.db")) == {"ok": 20}


@pytest.mark.parametrize("lost", ["budget", "count", "prompt"])
def test_whatever_fails_behind_an_answer_is_raised_and_nobody_waits(
    tmp_path, fake, monkeypatch, lost
):
    def broken(*_):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        if lost == "budget":
            patch.setattr(Budget, "settle", broken)
        elif lost == "count":  # fewer replies than rows
            patch.setattr(Cache, "put", lambda *_: [])
        else:
            patch.setattr(Endpoint, "prompt_tokens", broken)
        rows = [ask("same"), ask("same"), *numbered(20)]
        with pytest.raises((RuntimeError, ValueError)):
            list(complete(rows, at(fake), cache=tmp_path / "c.db"))
    assert statuses(complete(rows, at(fake), cache=tmp_path / "c.db")) == {"ok": 22}


LIMITED = """
import resource, sys
from pathlib import Path
from gristmill.pipeline.models.completion.client import Request, complete
from gristmill.pipeline.models.completion.recorded import Recorded
path, limit = Path(sys.argv[1]), int(sys.argv[2])
rows = [Request(id=str(i), messages=[{"role": "user", "content": f"q {i}"}]) for i in range(300)]
backend = Recorded(answers={str(i): f"{i} " * 500 for i in range(300)})
if limit:  # the log grows to it, and then SQLite is told that it cannot write
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(sum(r.status == "ok" for r in complete(rows, backend, cache=path)), len(backend.asked))
except OSError as error:
    print("OSError", len(backend.asked), error)
"""


@pytest.mark.fault("full disk: the cache of answers", ends="refused")
def test_sqlite_without_room_raises_and_a_rerun_asks_only_for_the_rest(tmp_path):
    def run(limit):
        limited = warm.Child(LIMITED, tmp_path / "c.db", limit)
        told, error = limited.communicate(timeout=120)
        assert limited.returncode == 0, error
        return told.split()

    kind, asked, *_ = run(200_000)
    assert kind == "OSError"
    kept = len(cached_keys(tmp_path / "c.db"))
    assert 0 < kept <= int(asked) < 300
    assert run(0) == ["300", str(300 - kept)]


CHILD = """
import sys
from pathlib import Path
from gristmill.pipeline.models.completion.client import Request, complete
from gristmill.pipeline.models.completion.endpoint import Endpoint
url, cache, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
backend = Endpoint(url=url, model="fake-1", workers=8)
rows = [Request(id=str(i), messages=[{"role": "user", "content": f"q {i}"}]) for i in range(count)]
results = list(complete(rows, backend, cache=cache))
print(sum(r.status == "ok" for r in results))
"""


def child(fake, cache, count):
    return warm.Child(CHILD, fake.url, cache, count)


@pytest.mark.fault("killed: completions, while answers come")
def test_after_sigkill_no_finished_request_is_repeated(tmp_path):
    count, cache = 200, tmp_path / "c.db"
    with FakeOpenAI(delay=0.02) as fake:
        process = child(fake, cache, count)
        while fake.calls.total() < count // 2 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        backend = at(fake)
        keys = {request_key(ask(f"q {i}"), backend.identity): f"q {i}" for i in range(count)}
        finished = [keys[key] for key in cached_keys(cache)]
        sent = fake.calls.total()
        assert 0 < len(finished) < count
        assert sent - len(finished) <= 8 + 8  # in flight, or answered and not yet written
        results = list(complete([ask(f"q {i}") for i in range(count)], backend, cache=cache))
        assert statuses(results) == {"ok": count}
        assert {fake.calls[text] for text in finished} == {1}
        assert fake.calls.total() == count + sent - len(finished)


@pytest.mark.fault("two processes on one cache of answers")
def test_two_processes_share_a_cache(tmp_path):
    with FakeOpenAI(delay=0.005) as fake:
        pair = [child(fake, tmp_path / "c.db", 150) for _ in range(2)]
        assert [int(process.communicate()[0]) for process in pair] == [150, 150]
        assert len(cached_keys(tmp_path / "c.db")) == 150


# --- faults


def numbered(count):
    return [ask(f"q {i}") for i in range(count)]


@pytest.mark.parametrize(
    "faults",
    [
        ["429"],
        ["500"],
        ["502", "503", "504"],
        ["500", "429", "500"],
        ["reset"],
        ["truncated"],
        ["short"],
        ["html"],
        ["empty"],
        ["blank"],
        ["slow"],
        ["408", "529"],
    ],
    ids="-".join,
)
@pytest.mark.fault("endpoint: troubles that pass")
def test_passing_faults_are_tried_again_exactly_as_often_as_needed(fake, faults):
    fake.script = {"q 3": faults}
    patience = 0.4 if "slow" in faults else 30.0  # a busy machine is no fault
    results = list(complete(numbered(8), at(fake, timeout=patience)))
    assert statuses(results) == {"ok": 8}
    assert fake.calls["q 3"] == len(faults) + 1
    assert fake.calls.total() == 8 + len(faults)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "http_500"),
        ("429", "http_429"),
        ("reset", "connection"),
        ("truncated", "not_json"),
        ("html", "not_json"),
        ("empty", "no_choice"),
        ("blank", "empty_answer"),
        ("slow", "timeout"),
    ],
)
@pytest.mark.fault("endpoint: troubles that stay, of one request", ends="refused")
def test_a_fault_that_stays_fails_its_row_alone_after_all_attempts(fake, fault, reason):
    fake.script = {"q 3": [fault] * 3}
    patience = 0.3 if fault == "slow" else 30.0
    results = list(complete(numbered(16), at(fake, attempts=3, timeout=patience)))
    assert statuses(results) == {"ok": 15, "failed": 1}
    assert results[3].reason.startswith(reason + ": ")
    assert results[3].reason.endswith("(after 3 attempts)")
    assert fake.calls["q 3"] == 3


@pytest.mark.parametrize(
    ("fault", "reason"), [("context", "context_too_long"), ("400", "http_400"), ("422", "http_422")]
)
@pytest.mark.fault("endpoint: refusals, of one request", ends="refused")
def test_a_refused_request_is_not_tried_again_and_ends_nothing(fake, fault, reason):
    fake.script = {"q 3": [fault]}
    results = list(complete(numbered(16), at(fake)))
    assert statuses(results) == {"ok": 15, "failed": 1}
    assert results[3].reason.startswith(reason)
    assert fake.calls["q 3"] == 1


def test_a_response_is_read_up_to_a_limit(fake, monkeypatch):
    from gristmill.pipeline.models.completion import endpoint as completion_http

    fake.answer = lambda body: "x" * (50_000 if body["messages"][-1]["content"] == "q 3" else 9)
    monkeypatch.setattr(completion_http, "LARGEST_RESPONSE", 10_000)
    results = list(complete(numbered(16), at(fake)))
    assert statuses(results) == {"ok": 15, "failed": 1}
    assert results[3].reason.startswith("response_too_large: over")
    assert fake.calls["q 3"] == 1, "it would be as large again"


def test_no_more_of_a_response_is_taken_in_than_the_limit():
    """A body of 600 MiB in pieces of 1 MiB: 17 of them are asked for."""
    from gristmill.pipeline.models.completion.endpoint import LARGEST_RESPONSE, read_body

    sent = []

    async def pieces():
        for _ in range(600):
            sent.append(1)
            yield b"x" * 2**20

    found = asyncio.run(read_body(httpx.Response(200, content=pieces())))
    assert found.reason.startswith("response_too_large: over 16 MiB")
    assert len(sent) == LARGEST_RESPONSE // 2**20 + 1


def test_a_packing_that_was_not_asked_for_is_not_opened(fake):
    fake.script = {"q 3": ["br"]}
    results = list(complete(numbered(16), at(fake)))
    assert results[3].reason.startswith("encoded: the response is br")
    assert {h["accept-encoding"] for h in fake.headers} == {"identity"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("deep", "not_json"),
        ("list-text", "no_choice"),
        ("number-finish", "no_choice"),
        ("endless-count", "no_choice"),
    ],
)
@pytest.mark.fault("endpoint: answers of no form", ends="refused")
def test_a_reply_of_another_shape_fails_its_row_alone(fake, fault, reason):
    fake.script = {"q 3": [fault] * 2}
    results = list(complete(numbered(16), at(fake, attempts=2)))
    assert statuses(results) == {"ok": 15, "failed": 1}
    assert results[3].reason.startswith(reason + ": ")


@pytest.mark.parametrize("fault", ["401", "402", "403", "404", "quota", "other-model"])
@pytest.mark.fault("endpoint: refusals of the account, or another model", ends="refused")
def test_a_fault_of_the_account_stops_the_run_at_once(fake, fault):
    fake.always = fault
    results = list(complete(numbered(300), at(fake, workers=4)))
    assert statuses(results) == {"failed": 300}
    assert fake.calls.total() <= 4
    assert len({r.reason.split(":")[0] for r in results}) == 1


def test_a_dated_name_is_the_same_model_and_another_size_is_not(fake):
    for served, good in (
        ("m", True),
        ("m-2024-08-06", True),
        ("m@main", True),
        ("m-mini", False),
        ("m-70b", False),
    ):
        backend = at(fake, model="m", extra={"model": served})  # the fake echoes what it is sent
        (result,) = complete([ask(served)], backend)
        assert (result.status == "ok") is good
    (result,) = complete([ask("q")], at(fake, model="m", extra={"model": "x"}, served_as="x"))
    assert result.status == "ok"


def test_an_endpoint_that_is_down_is_given_up_and_every_row_says_so(fake):
    fake.always = "500"
    results = list(complete(numbered(400), at(fake, probes=3, attempts=20)))
    assert statuses(results) == {"failed": 400}
    assert {r.reason.split(":")[0] for r in results} == {"endpoint_down"}
    # 10 attempts fill the window, 8 workers may overshoot it, then 3 probes, one at a time
    assert fake.calls.total() <= 10 + 8 + 3


def test_nobody_listens():
    backend = Endpoint(url="http://127.0.0.1:9/v1", model="m", backoff=0.01, pause=0.01, workers=4)
    results = list(complete(numbered(40), backend))
    assert statuses(results) == {"failed": 40}
    assert {r.reason.split(":")[0] for r in results} <= {"connection", "endpoint_down"}


def test_an_endpoint_that_comes_back_is_used_again(fake):
    fake.script = {f"q {i}": ["500"] for i in range(8)}  # all workers see a failure first
    results = list(complete(numbered(40), at(fake, attempts=20)))
    assert statuses(results) == {"ok": 40}


def test_the_endpoints_wish_to_wait_holds_everyone_back(fake):
    fake.script, fake.retry_after = {"q 0": ["429"]}, "0.6"
    backend = at(fake, workers=1)
    assert statuses(complete(numbered(3), backend)) == {"ok": 3}
    assert fake.times[1] - fake.times[0] >= 0.6


def test_an_endpoint_that_wants_hours_is_not_waited_for(fake):
    fake.always, fake.retry_after = "429", "7200"
    results = list(complete(numbered(20), at(fake, workers=2)))
    assert statuses(results) == {"failed": 20}
    assert "7200 s" in results[0].reason


def test_retry_after_in_all_its_forms():
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    then = 1445412480.0  # that date, in seconds
    assert retry_after({"retry-after": "3"}, then) == 3
    assert retry_after({"retry-after-ms": "250"}, then) == 0.25
    assert retry_after({"retry-after": date}, then - 30) == 30
    assert retry_after({"retry-after": date}, then + 30) == 0
    assert retry_after({"retry-after": "soon"}, then) == 0
    assert retry_after({}, then) == 0


def test_too_many_at_once_makes_the_client_slow_down(fake):
    fake.limit, fake.delay = 3, 0.01
    results = list(complete(numbered(100), at(fake, workers=32, attempts=50)))
    assert statuses(results) == {"ok": 100}
    assert fake.statuses[-40:].count("429") < fake.statuses[:40].count("429")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.lists(
            st.sampled_from(["429", "500", "reset", "truncated", "empty", "blank", "400", "cut"]),
            max_size=4,
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_row_has_one_result_whatever_happens(faults):
    with FakeOpenAI(script={f"q {i}": f for i, f in enumerate(faults)}) as fake:
        reports = []
        backend = at(fake, attempts=3, backoff=0.001, pause=0.001, probes=50)
        results = list(complete(numbered(len(faults)), backend, progress=reports.append))
    last = reports[-1]
    assert last.rows == len(faults) == last.ok + last.rejected + last.failed == last.total
    assert all((r.reason is None) == (r.status == "ok") for r in results)
    for row, result in zip(faults, results, strict=True):
        lasting = [f for f in row[:3] if f in ("400", "cut")]
        whole = len(row) < 3 or bool(lasting)  # an attempt that ends the row comes in time
        assert (result.status == "ok") == (whole and not lasting)


# --- pace


def attempt(pace, now, verdict, wait=0.0):
    assert pace.delay(now) == 0
    pace.start(now, tokens=100)
    pace.end(now, verdict, probe=pace.state["probing"] > 0, wait=wait)


def test_limit_falls_by_a_quarter_and_grows_by_one_in_25():
    pace = Pace(most=16)
    attempt(pace, 10.0, "busy")
    attempt(pace, 11.0, "busy")  # within two seconds: the same crowd
    assert pace.state["limit"] == 12
    attempt(pace, 12.5, "busy")
    assert pace.state["limit"] == 9
    for _ in range(75):
        attempt(pace, 20.0, "fine")
    assert pace.state["limit"] == 12
    for _ in range(500):
        attempt(pace, 20.0, "fine")
    assert pace.state["limit"] == 16


def test_no_more_than_the_limit_in_flight():
    pace = Pace(most=2)
    pace.start(0.0, 1)
    pace.start(0.0, 1)
    assert pace.delay(0.0) is None
    pace.end(0.0, "fine", probe=False)
    assert pace.delay(0.0) == 0


@pytest.mark.parametrize(
    ("limits", "spacing"),
    [
        ({"requests_per_minute": 30}, 2.0),
        ({"tokens_per_minute": 1_000}, 6.0),  # 100 tokens an attempt
        ({"requests_per_minute": 30, "tokens_per_minute": 1_000}, 6.0),
    ],
)
def test_rate_limits_space_the_attempts(limits, spacing):
    pace, now, starts = Pace(most=99, **limits), 0.0, []
    for _ in range(20):
        now += pace.delay(now)
        pace.start(now, tokens=100)
        starts.append(now)
    gaps = {round(b - a, 9) for a, b in itertools.pairwise(starts)}
    assert gaps == {spacing}


def test_breaker_opens_at_half_of_ten_and_probes_one_by_one():
    pace = Pace(most=16, pause=5.0, probes=2)
    for verdict in ["fine"] * 5 + ["sick"] * 4 + ["busy"] * 9:  # being busy is not being sick
        attempt(pace, 0.0, verdict)
    assert pace.delay(0.0) == 0
    attempt(pace, 0.0, "sick")  # the tenth that counts, the fifth sick
    assert pace.delay(1.0) == 4.0
    pace.start(5.0, 1)
    assert pace.delay(5.0) is None  # one probe at a time
    pace.end(5.0, "sick", probe=True)
    assert pace.delay(5.0) == 10.0  # twice as long
    assert not pace.given_up
    attempt(pace, 15.0, "fine")
    assert pace.delay(15.0) == 0
    for _ in range(9):  # the answer at 15 is the tenth
        pace.start(16.0, 1)
        pace.end(16.0, "sick", probe=False)
    for now in (100.0, 200.0):
        assert not pace.given_up
        attempt(pace, now, "sick")
    assert pace.given_up


# --- budget


def test_a_budget_of_tokens_is_never_exceeded_and_what_is_finished_stays(fake, tmp_path):
    fake.delay = 0.005
    fake.answer = lambda body: "word " * 10
    sampling = Sampling(max_tokens=10)
    rows = [ask(f"q {i}", sampling=sampling) for i in range(200)]  # 2 + 10 tokens each
    budget, most = Budget(tokens=600), []
    backend = at(fake, workers=16)
    results = []
    for result in complete(rows, backend, budget=budget, cache=tmp_path / "c.db"):
        results.append(result)
        most.append(budget.spent["tokens"])
    count = statuses(results)
    spent = fake.calls.total() * 12
    assert max(most) == budget.spent["tokens"] == spent <= 600
    assert 600 - spent < backend.prompt_tokens(rows[0]) + 10 + 12  # and well used
    assert count["ok"] == fake.calls.total() == 200 - count["failed"]
    assert {r.reason.split(":")[0] for r in results if r.status == "failed"} == {"budget"}
    again = list(complete(rows, backend, cache=tmp_path / "c.db"))
    assert statuses(again) == {"ok": 200}
    assert fake.calls.total() == 200  # nothing that was finished is paid twice


def test_a_budget_of_money_counts_at_the_price_table(fake):
    fake.answer = lambda body: "word " * 10
    price = Price(tokens_in=1_000_000.0, tokens_out=100_000.0)  # 1 a token in, 0.1 a token out
    rows = [ask(f"q {i}", sampling=Sampling(max_tokens=10)) for i in range(100, 150)]
    bound = at(fake).prompt_tokens(rows[0]) + 1.0
    budget = Budget(money=bound + 30.5, price=price)
    results = list(complete(rows, at(fake), budget=budget))
    good = [r for r in results if r.status == "ok"]
    assert len(good) == 11  # 11 of them cost 33, so a 12th might cost too much
    assert {r.answer.cost for r in good} == {3.0}
    assert budget.spent["money"] == pytest.approx(33.0)


def test_a_budget_of_requests_and_of_hours():
    budget = Budget(requests=7)
    answers = {f"id of q {i}": "yes" for i in range(20)}
    results = list(complete(numbered(20), Recorded(answers=answers), budget=budget))
    assert [r.status for r in results] == ["ok"] * 7 + ["failed"] * 13
    slow = Reply(text="yes", tokens_in=1, tokens_out=1, seconds=1800.0)
    budget = Budget(money=2.5, price=Price(hour=2.0))
    backend = Recorded(answers=dict.fromkeys(answers, slow), group=1)
    results = list(complete(numbered(20), backend, budget=budget))
    assert statuses(results) == {"ok": 3, "failed": 17}  # 1.0 each: the third one is in flight


def test_failures_that_were_paid_count(fake):
    fake.script = {"q 0": ["blank", "blank"]}
    fake.answer = lambda body: "one two three"
    budget = Budget()
    (result,) = complete(numbered(1), at(fake, attempts=3), budget=budget)
    assert result.status == "ok"
    assert budget.spent["tokens_in"] == 3 * 2
    assert budget.spent["tokens_out"] == 3


def test_estimate_after_a_pilot_is_within_a_fifth(fake, tmp_path):
    fake.answer = lambda body: "word " * (5 + len(body["messages"][-1]["content"]) % 9)
    rows = [ask(f"question number {i} " + "more " * (i % 11)) for i in range(300)]
    price = Price(tokens_in=2.0, tokens_out=6.0)
    before = estimate(rows, at(fake), cache=tmp_path / "c.db", price=price)
    assert fake.calls.total() == 0
    assert (before.requests, before.cached) == (300, 0)
    list(complete(rows[:40], at(fake), cache=tmp_path / "c.db"))
    guess = estimate(rows, at(fake), cache=tmp_path / "c.db", price=price)
    assert guess.cached == 40
    budget = Budget(price=price)
    list(complete(rows, at(fake), cache=tmp_path / "c.db", budget=budget))
    for name, guessed in (("tokens_in", guess.tokens_in), ("tokens_out", guess.tokens_out)):
        assert guessed == pytest.approx(budget.spent[name], rel=0.2)
    assert guess.cost == pytest.approx(budget.spent["money"], rel=0.2)
    assert before.cost_most > budget.spent["money"]


def test_progress_reports_what_is_spent_and_what_remains(fake, tmp_path):
    fake.delay, reports = 0.02, []
    rows = numbered(60)
    price = Price(tokens_in=1e6)
    list(complete(rows[:20], at(fake), cache=tmp_path / "c.db"))
    results = complete(
        rows,
        at(fake),
        cache=tmp_path / "c.db",
        budget=Budget(price=price),
        progress=reports.append,
        every=0.02,
    )
    assert statuses(results) == {"ok": 60}
    assert len(reports) > 2
    assert [r.rows for r in reports] == sorted(r.rows for r in reports)
    last = reports[-1]
    assert (last.rows, last.total, last.cached, last.sent) == (60, 60, 20, 40)
    assert (last.tokens_in, last.tokens_out, last.cost) == (80, 120, 80.0)
    assert last.remaining_seconds == 0


# --- rows, prompt, parse


def test_prompt_and_parse_are_two_functions_around_the_client():
    rows = [{"id": "a", "n": 1}, {"id": "b", "n": None}, {"id": "c", "n": 3}, {"id": "d", "n": 4}]

    def prompt(row):
        if row["n"] is None:
            raise ValueError("row has no n")
        return Request(id=row["id"], messages=[{"role": "user", "content": str(row["n"])}])

    def parse(row, answer):
        return row["n"] + int(answer.text)

    backend = Recorded(answers={"a": "10", "c": "ten"})
    results = list(complete(rows, backend, prompt=prompt, parse=parse))
    assert [r.row for r in results] == rows
    assert [r.status for r in results] == ["ok", "failed", "rejected", "failed"]
    assert [r.value for r in results] == [11, None, None, None]
    assert results[1].reason == "prompt: row has no n"
    assert results[2].reason.startswith("parse: ")
    assert results[2].answer.text == "ten"
    assert results[3].reason.startswith("not_recorded: ")


def test_rows_without_a_prompt_function_are_a_mistake():
    with pytest.raises(TypeError, match="pass prompt="):
        list(complete([{"id": "a"}], Recorded(answers={})))


def test_walking_away_keeps_what_was_in_flight(fake, tmp_path):
    fake.delay = 0.05
    results = complete(numbered(100), at(fake, workers=4), cache=tmp_path / "c.db")
    next(results)
    results.close()
    assert len(cached_keys(tmp_path / "c.db")) == fake.calls.total() < 100


def test_every_answer_says_where_it_came_from(fake, tmp_path):
    for cached in (False, True):
        row = ask("q", seed=3, sample=2)
        (result,) = complete([row], at(fake, revision="r1"), cache=tmp_path / "c.db")
        lineage = result.answer.lineage
        assert result.answer.cached is cached
        assert lineage["key"] == request_key(row, at(fake, revision="r1").identity)
        assert (lineage["request"], lineage["seed"], lineage["sample"]) == ("id of q", 3, 2)
        assert (lineage["model"], lineage["served"]) == ("fake-1", "fake-1")
        assert lineage["from"]["revision"] == "r1"
        assert lineage["from"]["endpoint"] == fake.url
        json.dumps(lineage)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_k": -1},
        {"stop": ("",)},
    ],
)
def test_impossible_sampling_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


# --- the endpoint's settings


def test_the_body_says_what_was_asked_and_nothing_else(fake):
    plain = at(fake).body(ask("q"))
    assert plain == {
        "model": "fake-1",
        "messages": [{"role": "user", "content": "q"}],
        "max_tokens": 512,
        "temperature": 0.0,
    }
    sampling = Sampling(
        max_tokens=9, temperature=0.7, top_p=0.9, top_k=4, presence_penalty=1.5, stop=("\n",)
    )
    backend = at(fake, length_field="max_completion_tokens", extra={"min_p": 0.05})
    body = backend.body(ask("q", sampling=sampling, tools=({"type": "function"},)))
    seed = body.pop("seed")
    assert body == {
        "model": "fake-1",
        "messages": [{"role": "user", "content": "q"}],
        "max_completion_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 4,
        "presence_penalty": 1.5,
        "stop": ["\n"],
        "tools": [{"type": "function"}],
        "min_p": 0.05,
    }
    other = backend.body(ask("q", sampling=sampling, tools=({"type": "function"},), sample=1))
    assert other["seed"] != seed


def test_the_key_goes_to_the_endpoint_and_nowhere_else(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("GRISTMILL_TEST_KEY", KEY)
    backend = at(fake, key_variable="GRISTMILL_TEST_KEY")
    reports = []
    fake.script = {"q 1": ["echo-key"]}
    results = list(complete(numbered(3), backend, cache=tmp_path / "c.db", progress=reports.append))
    assert {h["authorization"] for h in fake.headers} == {f"Bearer {KEY}"}
    assert results[1].reason == "http_400: bad key *** (None)"
    shown = repr(results) + repr(reports) + repr(backend) + str(backend.identity)
    assert KEY not in shown
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"id of q 0" in kept
    assert KEY.encode() not in kept
    monkeypatch.delenv("GRISTMILL_TEST_KEY")
    with pytest.raises(ValueError, match="GRISTMILL_TEST_KEY is not set"):
        list(complete(numbered(1), backend))


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "localhost:8000/v1"},
        {"url": "http://user:secret@host/v1"},
        {"url": "http://host/v1?key=secret"},
        {"workers": 0},
        {"attempts": 0},
    ],
)
def test_impossible_endpoints_are_refused_without_showing_secrets(wrong):
    with pytest.raises(ValueError, match=r"\.$") as error:
        Endpoint(**{"url": "http://host/v1", "model": "m", **wrong})
    assert "secret" not in str(error.value)


# --- structured output

GOOD = '{"label": "good", "score": 4}'


@pytest.mark.parametrize(
    "text", [GOOD, f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```", f"  {GOOD}\n"]
)
def test_an_answer_that_fits_is_typed(text):
    (result,) = complete([ask("q", schema=Verdict)], Recorded(answers={"id of q": text}))
    assert result.value == Verdict(label="good", score=4)
    plain = ask("q", schema=Verdict.model_json_schema())
    (result,) = complete([plain], Recorded(answers={"id of q": text}))
    assert result.value == {"label": "good", "score": 4}


BAD = {
    "half": ('{"label": "good", "sc', "not JSON"),
    "talk": (f"Sure! {GOOD}", "not JSON"),
    "echo": (json.dumps(Verdict.model_json_schema()), "the schema itself"),
    "enum": ('{"label": "fine", "score": 4}', "label"),
    "type": ('{"label": "good", "score": "many"}', "score"),
    "lacking": ('{"label": "good"}', "score"),
    "endless": ("[" * 20_000, "nested too deep"),  # as models do that cannot stop
}


@pytest.mark.parametrize("schema", [Verdict, Verdict.model_json_schema()], ids=["model", "json"])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_answer_gets_one_repair_turn_with_the_error(fake, what, schema, tmp_path):
    text, complaint = BAD[what]
    fake.answer = lambda body: text if len(body["messages"]) == 1 else GOOD
    for _ in range(2):  # the second time from the cache, both turns
        (result,) = complete([ask("q", schema=schema)], at(fake), cache=tmp_path / "c.db")
        assert result.status == "ok"
        assert dict(result.value) == {"label": "good", "score": 4}
        assert len(result.answer.lineage["repairs"]) == 1
    first, second = fake.bodies
    assert second["messages"][:1] == first["messages"]
    assert second["messages"][1] == {"role": "assistant", "content": text}
    assert complaint in second["messages"][2]["content"]


def test_an_answer_that_stays_bad_is_rejected_and_kept_to_look_at(fake, tmp_path):
    fake.answer = lambda body: "no idea"
    rows = [ask(f"q {i}", schema=Verdict) for i in range(5)]
    fake.script = {"q 1": ["cut"], "q 2": ["400"]}
    for calls in (5 + 3, 5 + 3 + 1):  # only the refused request is asked for again
        results = list(complete(rows, at(fake), cache=tmp_path / "c.db"))
        assert fake.calls.total() == calls
        fake.script = {"q 2": ["400", "400"]}
        assert [r.status for r in results] == ["rejected", "failed", "failed"] + ["rejected"] * 2
        assert results[0].answer.text == "no idea"
        assert results[0].reason.startswith("schema: not JSON")


def test_a_repair_that_fails_leaves_the_row_rejected_with_both_reasons(fake):
    backend = at(fake, attempts=1)

    def refuse_repairs(body):
        if len(body["messages"]) > 1:
            fake.always = "400"
        return "no idea"

    fake.answer = refuse_repairs
    (result,) = complete([ask("q", schema=Verdict)], backend)
    assert result.status == "rejected"


@pytest.mark.parametrize("mode", ["json_schema", "json_object", "prompt"])
def test_the_schema_is_asked_for_as_the_endpoint_understands_it(fake, mode):
    fake.answer = lambda body: GOOD
    (result,) = complete([ask("q", schema=Verdict)], at(fake, structured=mode))
    assert result.status == "ok"
    (body,) = fake.bodies
    format_ = body.get("response_format", {}).get("type")
    assert format_ == (None if mode == "prompt" else mode)
    assert ("JSON schema" in body["messages"][0]["content"]) == (mode != "json_schema")


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(ValueError, match="is not a valid schema"):
        ask("q", schema={"type": "number or text"})


# --- batch files


def batch_at(fake, **settings):
    return BatchEndpoint(endpoint=at(fake), poll=0.01, **settings)


def test_batch_files_give_the_same_results_and_keys(fake, tmp_path):
    fake.script = {"q 4": ["context"]}
    results = list(complete(numbered(20), batch_at(fake, group=8), cache=tmp_path / "c.db"))
    assert [r.request for r in results] == numbered(20)
    assert statuses(results) == {"ok": 19, "failed": 1}
    assert results[4].reason.startswith("context_too_long: ")
    assert len(fake.batches) == 3
    again = list(complete(numbered(4), at(fake), cache=tmp_path / "c.db"))  # by single requests
    assert all(r.answer.cached for r in again)


def test_a_run_killed_while_it_waits_takes_the_answers_of_its_batch(fake, tmp_path):
    fake.batch_polls = 10**9  # not done while the first run lives
    process = warm.Child(BATCH_CHILD, fake.url, tmp_path / "c.db")
    while not fake.batches and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    fake.batch_polls = 1
    results = list(complete(numbered(12), batch_at(fake), cache=tmp_path / "c.db"))
    assert statuses(results) == {"ok": 12}
    assert len(fake.batches) == 1
    assert set(fake.calls.values()) == {1}
    more = list(complete(numbered(15), batch_at(fake), cache=tmp_path / "c.db"))
    assert statuses(more) == {"ok": 15}
    assert len(fake.batches) == 2
    assert set(fake.calls.values()) == {1}


BATCH_CHILD = """
import sys
from pathlib import Path
from gristmill.pipeline.models.completion.client import Request, complete
from gristmill.pipeline.models.completion.batch import BatchEndpoint
from gristmill.pipeline.models.completion.endpoint import Endpoint
backend = BatchEndpoint(endpoint=Endpoint(url=sys.argv[1], model="fake-1"), poll=0.05)
rows = [Request(id=str(i), messages=[{"role": "user", "content": f"q {i}"}]) for i in range(12)]
list(complete(rows, backend, cache=Path(sys.argv[2])))
"""
