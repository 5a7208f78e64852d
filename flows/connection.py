"""Which Prefect server a run talks to: the one that is there, or one of its own that ends with it.

| there is | then |
|---|---|
| `PREFECT_API_URL` in the environment | that server is asked; nothing is started |
| `make serve` on the same Prefect home | its server is asked, with its secret |
| neither | a temporary server with a database of its own, for this run alone |

No two servers ever share a database file: SQLite would lock them out of each other's runs.
"""

import atexit
import fcntl
import json
import os
import secrets
import select
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from gristmill.flows import processes

_PATIENCE = 300.0  # seconds for a first start on a busy machine
HEARTBEAT = "30"  # seconds; `serve` takes a run for dead that is silent for three of them


@dataclass(frozen=True, kw_only=True)
class Address:
    """A server of ours: where it is, and what opens it."""

    url: str
    secret: str

    @property
    def client(self) -> dict[str, str]:
        """Settings of whoever asks the server."""
        return {
            "PREFECT_API_URL": self.url,
            "PREFECT_API_AUTH_STRING": self.secret,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT,
        }

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner alone from the first byte."""
        half = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"url": self.url, "secret": self.secret}, file)
        half.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Address | None":
        """What `save` wrote, if it is there and whole."""
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def address_file(home: Path) -> Path:
    """Where the address of the server that serves this Prefect home is kept."""
    return home / "server.json"


def new_secret() -> str:
    """User and password, as Prefect wants them in one."""
    return f"gristmill:{secrets.token_urlsafe(24)}"


def prefect_home(store: str) -> Path:
    """The user's Prefect home, or the one in the store."""
    home = Path(os.environ.get("PREFECT_HOME") or Path(store).absolute() / "prefect")
    home.mkdir(parents=True, exist_ok=True)
    return home


def connect(store: str) -> None:
    """Settle on a server; call it before Prefect is imported. What the user has set stays."""
    home = prefect_home(store)
    chosen = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "INFO" if os.environ.get("GRISTMILL_DEBUG") else "CRITICAL",
        "DO_NOT_TRACK": "1",
    }
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.update((served(home) or temporary(home)).client)


def served(home: Path) -> Address | None:
    """The server of `make serve` on this home, if it is up."""
    try:
        with serving(home):
            return None
    except BlockingIOError:  # someone serves: the kernel frees the lock when they die
        address = Address.load(address_file(home))
        return address if address is not None and healthy(address.url) else None


@contextmanager
def serving(home: Path) -> Iterator[None]:
    """Be the one who serves this home.

    Raises:
        BlockingIOError: another process does.
    """
    with (home / ".serving").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def healthy(url: str, seconds: float = 5.0) -> bool:
    """Whether the server at an address answers within some seconds."""
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            if time.monotonic() > until:
                return False
            time.sleep(0.2)


def temporary(home: Path) -> Address:
    """A server for this process; it ends with it, and its database with it."""
    secret = new_secret()
    template = home / f"empty-{version('prefect')}.db"
    with tempfile.TemporaryFile("w+") as errors:
        child = processes.start(
            "gristmill.flows.server",
            "temporary",
            str(template),
            environment={"PREFECT_SERVER_API_AUTH_STRING": secret},
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert child.process.stdout is not None, "it was asked for"
        with child.process.stdout as told:
            ready, _, _ = select.select([told], [], [], _PATIENCE)
            url = told.readline().strip() if ready else ""
        if not url:
            child.stop()
            errors.seek(0)
            said = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"the temporary Prefect server did not start: {said}")
    # Prefect sends its last words at exit; what is registered before it is imported runs after it.
    atexit.register(child.process.terminate)
    return Address(url=url, secret=secret)
