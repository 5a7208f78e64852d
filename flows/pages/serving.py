"""Serving: a page's app at an address of this machine, until Ctrl-C or the end of a block."""

import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gristmill.flows.pages.guard import Guard
from gristmill.pipeline.report.style import PALETTE

_HOST = "127.0.0.1"
_ASSETS = Path(__file__).parent / "assets"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def application(page: str, routes: Sequence[BaseRoute]) -> Starlette:
    """An app: a page of `assets/` at `/`, the other assets beside it, and routes of its own.

    A `ValueError` in a route is the user's: status 400, with its sentence as `{"error": ...}`.
    """

    def file(request: Request) -> Response:
        return asset(request.path_params.get("name", page))

    return Starlette(
        routes=[*routes, Route("/", file), Route("/assets/{name}", file)],
        exception_handlers={ValueError: _refused, HTTPException: _refused},
    )


def asset(name: str) -> Response:
    """A file of `assets/`; the palette is that of reports."""
    if name == "palette.css":
        return Response(PALETTE, media_type=_KINDS[".css"])
    path = _ASSETS / name
    if path.parent != _ASSETS or path.suffix not in _KINDS or not path.is_file():
        raise HTTPException(404, "there is no such page here.")
    return FileResponse(path, media_type=_KINDS[path.suffix])


def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 400
    said = error.detail if isinstance(error, HTTPException) else " ".join(str(error).split())
    return JSONResponse({"error": said}, status_code=status)


class _Server(uvicorn.Server):
    """A server that a signal ends quietly: to stop it is the ordinary end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def listening(port: int | None, usual: int) -> socket.socket:
    """A socket of this machine alone.

    Args:
        port: as the user asks; None: the usual one, or, where that is taken, a free one.
        usual: port that other pages know this one by.

    Raises:
        ValueError: the port that was asked for is taken.
    """
    for wanted in (port,) if port is not None else (usual, 0):
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((_HOST, wanted))
        except OSError as error:
            found.close()
            said = error.strerror
        else:
            return found
    raise ValueError(f"cannot listen at {_HOST}:{port} ({said}): choose another --port, or none.")


def door(at: socket.socket) -> Guard:
    """The guard of a server at this socket, with a token of its own."""
    return Guard(token=secrets.token_urlsafe(32), port=at.getsockname()[1])


def serve(app: Starlette, at: socket.socket, guard: Guard) -> None:
    """Answer until a signal comes."""
    _server(app, guard).run(sockets=[at])


@contextmanager
def served(app: Starlette, port: int = 0) -> Iterator[Guard]:
    """The app on a thread of its own, as long as the block lasts."""
    at = listening(port, port)
    guard = door(at)
    server = _server(app, guard)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield guard
    finally:
        server.should_exit = True
        thread.join()


def _server(app: Starlette, guard: Guard) -> _Server:
    settings = uvicorn.Config(
        guard.around(app),
        log_level="warning",
        timeout_graceful_shutdown=1,
        lifespan="off",
        ws="none",
    )
    return _Server(settings)
