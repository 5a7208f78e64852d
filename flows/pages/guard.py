"""Guard: who may ask a page's server, and what a browser may do with its answers.

The token comes once, in the address that the command prints, and stays as a cookie that no script
reads. `Host` and `Origin` are looked at first (`server.guarded`). The content security policy
allows files and questions of this server alone: no inline script or style, no text as script, no
frame, no form to elsewhere. What a browser blocks it reports, and the reports are kept.
"""

import hmac
import json
import logging
from collections import deque
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from gristmill.flows.asgi import App, Message, Receive, Send
from gristmill.flows.server import Names, guarded

LOG = logging.getLogger(__name__)
REPORTS = "/blocked"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    f"require-trusted-types-for 'script'; trusted-types 'none'; report-uri {REPORTS}"
)
_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=(), clipboard-read=()",
    b"cache-control": b"no-store",
}
_REPORT_BYTES = 16_384
_PARAMETER = "token"


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The door of one server.

    Attributes:
        token: who knows it may ask.
        port: at which the server listens.
        reports: what browsers have blocked, the last of it.
    """

    token: str
    port: int
    reports: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=200))

    @property
    def address(self) -> str:
        """Where a browser is sent first."""
        return f"http://127.0.0.1:{self.port}/?{urlencode({_PARAMETER: self.token})}"

    def around(self, app: App) -> App:
        """The app behind this door."""
        hosts = ("127.0.0.1", "localhost")
        names = Names(
            hosts=frozenset(hosts), origins=frozenset(f"http://{h}:{self.port}" for h in hosts)
        )

        async def answer(scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            if scope["path"] == REPORTS and scope["method"] == "POST":
                await self._noted(receive)
                await _say(send, 204, b"")
            elif _PARAMETER in asked and self._is(asked.pop(_PARAMETER)):
                rest = urlencode(asked)
                to = "/" + quote(scope["path"].lstrip("/")) + (f"?{rest}" if rest else "")
                cookie = f"{self._cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
                further = [(b"location", to.encode())]
                await _say(send, 303, b"", [*further, (b"set-cookie", cookie.encode())])
            elif self._is(_cookies(scope).get(self._cookie, "")):
                await app(scope, receive, _with_headers(send))
            else:
                await _say(send, 403, b"open the address that the command printed: it has a key\n")

        return guarded(answer, names)

    @property
    def _cookie(self) -> str:
        return f"gristmill-{self.port}"  # browsers share cookies among the ports of a host

    def _is(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())

    async def _noted(self, receive: Receive) -> None:
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body") or len(raw) > _REPORT_BYTES:
                break
        try:
            told = json.loads(raw[:_REPORT_BYTES])
        except (ValueError, RecursionError):
            told = None
        if isinstance(told, dict):
            self.reports.append(told)
            LOG.warning("the page was kept from something: %s", json.dumps(told)[:500])


def _cookies(scope: Message) -> dict[str, str]:
    found: SimpleCookie = SimpleCookie()
    for name, value in scope["headers"]:
        if name.lower() == b"cookie":
            try:
                found.load(value.decode("latin-1"))
            except CookieError:  # of another server on this host
                continue
    return {name: morsel.value for name, morsel in found.items()}


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = dict(_HEADERS)
            for name, value in message.get("headers", ()):
                own[bytes(name).lower()] = bytes(value)
            message = {**message, "headers": list(own.items())}
        await send(message)

    return sent


async def _say(
    send: Send, status: int, text: bytes, further: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS.items()]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, *(further or ())]}
    )
    await send({"type": "http.response.body", "body": text})
