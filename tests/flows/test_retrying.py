"""A request that the server could not serve at once is made again, with the same body."""

import asyncio
from contextlib import suppress

import pytest

from gristmill.flows import retrying

BODY = [
    {"type": "http.request", "body": b"ab", "more_body": True},
    {"type": "http.request", "body": b"c", "more_body": False},
]


def asked(statuses, *, body=BODY, kind="http", pauses=(0, 0, 0)):
    """What a client got, and the bodies that the app saw, where it answers with these statuses."""
    left, got, seen = list(statuses), [], []
    incoming = [dict(part) for part in body] + [{"type": "http.disconnect"}]

    async def app(scope, receive, send):
        assert "mine" not in scope
        scope["mine"] = True  # as routers do
        whole = b""
        while (part := await receive())["type"] == "http.request":
            whole += part["body"]
            if not part["more_body"]:
                break
        seen.append(whole)
        status = left.pop(0)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two", "more_body": False})
        if status >= 500:
            raise OSError("as Starlette does, once it has answered")

    async def receive():
        return incoming.pop(0)

    async def send(message):
        got.append(message.get("status") or message["body"])

    with suppress(OSError):
        asyncio.run(retrying.retried(app, pauses)({"type": kind}, receive, send))
    return got, seen


@pytest.mark.parametrize(
    ("statuses", "attempts"),
    [
        pytest.param([201], 1, id="served at once"),
        pytest.param([503, 201], 2, id="served at the second attempt"),
        pytest.param([503, 503, 503, 404], 4, id="another answer is no reason to ask again"),
        pytest.param([500], 1, id="what failed for good"),
        pytest.param([503] * 4, 4, id="never served"),
    ],
)
def test_one_answer_is_passed_on_and_each_attempt_sees_the_whole_body(statuses, attempts):
    got, seen = asked(statuses)
    assert got == [statuses[attempts - 1], b"one", b"two"]
    assert seen == [b"abc"] * attempts


def test_a_body_too_large_to_keep_is_tried_once(monkeypatch):
    monkeypatch.setattr(retrying, "_LARGEST", 1)
    assert asked([503, 201]) == ([503, b"one", b"two"], [b"abc"])


def test_what_is_no_request_passes_through():
    assert asked([503], kind="lifespan") == ([503, b"one", b"two"], [b"abc"])
