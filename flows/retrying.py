"""Retrying: a request that lost a race for the database is made again, by the server itself.

On SQLite, Prefect answers 503 to a transaction that read, and then could not write because another
wrote first. Its own client asks again; its UI does not, and the person who pressed Submit sees an
error. The transaction was rolled back, so asking again is safe, whatever it was.
"""

import asyncio
import random
from collections.abc import Sequence

from gristmill.flows.asgi import App, Message, Receive, Send

PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # seconds before each further attempt, about
_BUSY = 503
_LARGEST = 16 << 20  # bytes; a larger request is passed through as it comes, and tried once


def retried(app: App, pauses: Sequence[float] = PAUSES) -> App:
    """The app, asked again when it answers 503; the last answer is passed on, whatever it is."""

    async def ask(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun, whole = await _begun(receive)
        for pause in pauses if whole else ():
            attempt = _Attempt(send)
            try:
                await app(dict(scope), _again(begun, receive), attempt.send)
            except Exception:  # what was answered to is raised all the same, for a log to tell
                if not attempt.busy:
                    raise
            if not attempt.busy:
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        await app(scope, _again(begun, receive), send)

    return ask


class _Attempt:
    """An answer that is passed on as it comes, unless it says that the database was busy."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.busy = False

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on, or drop it."""
        if message["type"] == "http.response.start":
            self.busy = message["status"] == _BUSY
        if not self.busy:
            await self._send(message)


async def _begun(receive: Receive) -> tuple[list[Message], bool]:
    """The messages of a request as far as they were read, and whether they are its whole body."""
    read: list[Message] = []
    size = 0
    while size <= _LARGEST:
        read.append(await receive())
        size += len(read[-1].get("body", b""))
        if not read[-1].get("more_body", False):
            return read, True
    return read, False


def _again(begun: Sequence[Message], receive: Receive) -> Receive:
    """What was read of a request, from its first message; then what comes."""
    left = [dict(message) for message in reversed(begun)]

    async def next_message() -> Message:
        return left.pop() if left else await receive()

    return next_message
