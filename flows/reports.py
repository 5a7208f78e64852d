"""Reports: a published report.html at the address of the server that shows its run.

A browser that follows a link sends no secret, so the link proves by itself that whoever made it
knows the secret: its last part is a keyed hash of the folder, or of its page of what changed. It
opens that page and nothing else. The page may run no script, and stands in a sandbox, since the UI
keeps the secret under the same origin.
"""

import base64
import binascii
import hmac
import os
from pathlib import Path

from gristmill.flows.asgi import App, Message, Receive, Send

PAGE = "report.html"
CHANGES = "diff.html"  # what changed since the version before
PAGES = "GRISTMILL_PAGES"  # where browsers find the server, if it shows reports
_AT = "/gristmill/report/"
_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; sandbox"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


def link(folder: Path, page: str = PAGE) -> str | None:
    """Where a page of a folder opens; None: no server shows it, or there is no such page."""
    pages, secret = os.environ.get(PAGES), os.environ.get("PREFECT_API_AUTH_STRING")
    if not pages or not secret or not (folder / page).is_file():
        return None
    name = str(folder.resolve() if page == PAGE else folder.resolve() / page).encode()
    written = base64.urlsafe_b64encode(name).decode().rstrip("=")
    return f"{pages}{_AT}{written}/{_proof(secret, name)}"


def shown(app: App, secret: str) -> App:
    """The app, with the reports beside it.

    Args:
        app: what answers everything else.
        secret: of the server.
    """

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_AT):
            await app(scope, receive, send)
            return
        page = _page(scope["path"].removeprefix(_AT), secret) if scope["method"] == "GET" else None
        kind = b"text/plain" if page is None else b"text/html"
        headers = [(b"content-type", kind + b"; charset=utf-8"), *_HEADERS]
        status = 404 if page is None else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"there is no such report on this machine\n" if page is None else page
        await send({"type": "http.response.body", "body": body})

    return answer


def _page(asked: str, secret: str) -> bytes | None:
    """The page that a link asks for; None: the link is not ours, or the page is gone."""
    written, _, proof = asked.partition("/")
    try:
        name = base64.urlsafe_b64decode(written + "=" * (-len(written) % 4))
    except (binascii.Error, ValueError):
        return None
    if not hmac.compare_digest(_proof(secret, name).encode(), proof.encode()):
        return None
    path = Path(name.decode())
    try:
        return (path if path.name == CHANGES else path / PAGE).read_bytes()
    except OSError:
        return None


def _proof(secret: str, name: bytes) -> str:
    return hmac.new(secret.encode(), b"gristmill report\0" + name, "sha256").hexdigest()
