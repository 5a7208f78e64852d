"""Server: Prefect's server, answering only those who know its secret and only by its own name.

    python -m gristmill.flows.server                      with UI, schedules, a lasting database
    python -m gristmill.flows.server temporary TEMPLATE   for one run, with a database of its own

Prefect checks the secret (basic authentication) but lets every origin ask, and answers to every
name. So a request is looked at first: `Host` must be a name of this server (a foreign name that
resolves to this machine is DNS rebinding) and `Origin`, which browsers send and programs do not,
must be its own UI.
"""

import os
import signal
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from gristmill.flows import reports
from gristmill.flows.asgi import App, Message, Receive, Send
from gristmill.flows.processes import follow
from gristmill.flows.retrying import retried

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::", "")  # to listen at; no one's name


@dataclass(frozen=True, kw_only=True)
class Names:
    """What this server is called.

    Attributes:
        hosts: names without port, as in `Host`.
        origins: as in `Origin`: of the UI, wherever it is opened.
    """

    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> "Names":
        """Loopback, the address listened at, and the address that browsers are told to ask."""
        port = settings["PREFECT_SERVER_API_PORT"]
        listening = settings.get("PREFECT_SERVER_API_HOST", _LOOPBACK[0])
        hosts = [*_LOOPBACK, *([] if listening in _EVERYWHERE else [listening])]
        origins = {f"http://[{h}]:{port}" if ":" in h else f"http://{h}:{port}" for h in hosts}
        ui = urlsplit(settings.get("PREFECT_UI_API_URL", ""))
        if ui.hostname:
            hosts.append(ui.hostname)
            origins.add(f"{ui.scheme}://{ui.netloc}".lower())
        return cls(hosts=frozenset(h.lower() for h in hosts), origins=frozenset(origins))

    def refusal(self, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Why a request with these headers is not answered, or None."""
        found: dict[bytes, list[str]] = {b"host": [], b"origin": []}
        for name, value in headers:
            if name.lower() in found:
                found[name.lower()].append(value.decode("latin-1").lower())
        hosts, origins = found[b"host"], found[b"origin"]
        if len(hosts) != 1 or _name(hosts[0]) not in self.hosts:
            return f"this server is not called {', '.join(hosts) or 'nothing'}"
        if any(o not in self.origins for o in origins):
            return f"pages of {', '.join(origins)} may not ask this server"
        return None


def guarded(app: App, names: Names) -> App:
    """The app behind the check of `Host` and `Origin`."""

    async def guard(scope: Message, receive: Receive, send: Send) -> None:
        why = None if scope["type"] == "lifespan" else names.refusal(scope["headers"])
        if why is None:
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": why})
        else:
            text = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": text})
            await send({"type": "http.response.body", "body": f"{why}\n".encode()})

    return guard


def main() -> None:
    """Run the server that the arguments ask for."""
    match sys.argv[1:]:
        case []:
            host = os.environ.get("PREFECT_SERVER_API_HOST", _LOOPBACK[0])
            with _listening(host, int(os.environ["PREFECT_SERVER_API_PORT"])) as listening:
                _run(listening, ephemeral=False)
        case ["temporary", template]:
            _temporary(Path(template))
        case other:
            raise ValueError(f"expected nothing, or `temporary TEMPLATE`; found {other}.")


def _temporary(template: Path) -> None:
    """A server whose database goes with it: with the run it serves, or when it is told to end."""
    folder = tempfile.TemporaryDirectory(prefix="gristmill-prefect-", ignore_cleanup_errors=True)

    def end() -> None:  # at once: nobody will ask again, and nothing is to be kept
        folder.cleanup()
        os._exit(0)

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    follow(os.getppid(), end)
    signal.signal(signal.SIGTERM, leave)  # uvicorn passes it on when it has shut down
    with folder as home, _listening(_LOOPBACK[0], 0) as listening:
        database = Path(home) / "prefect.db"
        os.environ |= {
            "PREFECT_HOME": home,
            "PREFECT_SERVER_API_PORT": str(listening.getsockname()[1]),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        }
        _copy(template, database)
        _run(listening, ephemeral=True, ready=lambda: _copy(database, template))


def _run(
    listening: socket.socket, *, ephemeral: bool, ready: Callable[[], None] = lambda: None
) -> None:
    """Serve until a signal comes; tells its address on standard output once it answers."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    chosen = get_current_settings().server.api
    assert chosen.auth_string is not None, "a server without a secret answers everyone"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()
                sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}/api\n")
                sys.stdout.flush()

    app: App = retried(create_app(ephemeral=ephemeral, final=True))
    if not ephemeral:  # one that ends with its run has nobody to show a report to
        app = reports.shown(app, chosen.auth_string.get_secret_value())
    settings = uvicorn.Config(
        guarded(app, Names.of(os.environ)),
        log_level="error" if ephemeral else "warning",
        timeout_keep_alive=chosen.keepalive_timeout,
        timeout_graceful_shutdown=3,
        ws_ping_interval=chosen.websocket_ping_interval,
        ws_ping_timeout=chosen.websocket_ping_timeout,
    )
    Server(settings).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise ValueError(
            f"cannot listen at {host}:{port} ({error.strerror}): choose another port with "
            "PREFECT_SERVER_API_PORT."
        ) from None
    return found


def _copy(source: Path, target: Path) -> None:
    """Copy a database with tables and no runs: making one takes longer than all the rest."""
    if not source.exists() or target.exists():
        return
    half = target.with_name(f"{target.name}.{os.getpid()}")
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(half)) as new:
        old.backup(new)
    half.rename(target)


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"gristmill: {error}")
