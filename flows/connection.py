"""Which Prefect server a run talks to: the one that is there, or one of its own that ends with it.

| there is | then |
|---|---|
| `PREFECT_API_URL` in the environment | that server is asked; nothing is started |
| `make serve`, on the run's Prefect home or on the clone's | its server, with its secret |
| neither | a temporary server with a database of its own, for this run alone |

The run's Prefect home is `PREFECT_HOME`, or else `prefect/` in its store. A home that was named is
looked at alone.

No two servers ever share a database file: SQLite would lock them out of each other's runs.
"""

import atexit
import fcntl
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from gristmill.flows import logs, processes
from gristmill.flows.reports import PAGES
from gristmill.pipeline.records.place import folder_of

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 300.0  # seconds for a first start on a busy machine
ALONE = "GRISTMILL_ALONE"  # set where a run has a server of its own, which nobody looks at
TAG = "gristmill"  # of every run of ours, on a server that others use as well
HEARTBEAT = "30"  # seconds; `serve` takes a run for dead that is silent for three of them


@dataclass(frozen=True, kw_only=True)
class Address:
    """A server of ours.

    Attributes:
        url: where programs ask it.
        secret: what opens it.
        pages: where browsers find it, and in it the reports of its runs; "": nobody does.
    """

    url: str
    secret: str
    pages: str = ""

    @property
    def client(self) -> dict[str, str]:
        """Settings of whoever asks the server."""
        return {
            "PREFECT_API_URL": self.url,
            "PREFECT_API_AUTH_STRING": self.secret,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT,
            **({PAGES: self.pages} if self.pages else {}),
        }

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner alone from the first byte."""
        half = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file)
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


def default_home() -> Path:
    """Where `make serve` keeps its database unless told otherwise."""
    return ROOT / "data" / "work" / "prefect"


def connect(store: str) -> None:
    """Settle on a server; call it before Prefect is imported. What the user has set stays."""
    logs.to_terminal()
    named = os.environ.get("PREFECT_HOME")
    home = Path(named or folder_of(store).absolute() / "prefect")
    home.mkdir(parents=True, exist_ok=True)
    chosen = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "INFO",  # into the run's page; the terminal shows our own alone
        "DO_NOT_TRACK": "1",
    }
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    if asked := os.environ.get("PREFECT_API_URL"):
        if not answers(asked):
            raise ValueError(
                f"no Prefect server answers at PREFECT_API_URL = {asked}: start it, or unset the "
                "variable and the run has a server of its own."
            )
        return
    homes = [home] if named else [home, default_home()]
    found = next((address for h in homes if (address := served(h)) is not None), None)
    os.environ.update((found or temporary(home)).client)


def demand_clone() -> None:
    """Refuse to deploy from an installed package: a worker loads flows from the files of a clone.

    Raises:
        ValueError: this is no clone.
    """
    if not (ROOT / "prefect.yaml").is_file():
        raise ValueError(
            f"there is no prefect.yaml in {ROOT}: deployments are those of a clone of the "
            "repository, not of an installed package; run the command there."
        )


def reach() -> None:
    """Settle on the server that is there: of PREFECT_API_URL, or else of `make serve`.

    Raises:
        ValueError: there is none, or there are no deployments to bring to it.
    """
    demand_clone()
    os.environ.setdefault("GRISTMILL_ROOT", str(ROOT))
    if url := os.environ.get("PREFECT_API_URL"):
        if not answers(url):
            raise ValueError(f"no Prefect server answers at PREFECT_API_URL = {url}: start it.")
        return
    home = Path(os.environ.get("PREFECT_HOME") or default_home())
    if (found := served(home)) is None:
        raise ValueError(
            "no Prefect server is up: `make serve` starts one, or set PREFECT_API_URL."
        )
    os.environ.update(found.client)


class ServerGoneError(Exception):
    """The server that a run told of itself no longer answers."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the Prefect server at {url} no longer answers; every finished part is kept in the "
            "store: run the same command again to go on from there."
        )


@contextmanager
def telling() -> Iterator[None]:
    """Say in one sentence that the server went away, in the place of what a library made of it.

    Raises:
        ServerGoneError: something failed in this block, and nobody answers there any more.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        url = os.environ.get("PREFECT_API_URL", "")
        if answers(url):
            raise
        raise ServerGoneError(url) from error


def served(home: Path) -> Address | None:
    """The server of `make serve` on this home, if it is up."""
    if not (home / ".serving").exists():
        return None
    try:
        with serving(home):
            return None
    except BlockingIOError:  # someone serves: the kernel frees the lock when they die
        address = Address.load(address_file(home))
        return address if address is not None and healthy(address.url) else None


@contextmanager
def serving(home: Path, seconds: float = 0.0) -> Iterator[None]:
    """Be the one who serves this home; a run that asks who does holds the lock for an instant.

    Raises:
        BlockingIOError: another process does, and did for some seconds.
    """
    until = time.monotonic() + seconds
    with (home / ".serving").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.05)
        yield


def healthy(url: str, seconds: float = 5.0) -> bool:
    """Whether the server at an address says within some seconds that it is well."""
    return _asked(url, seconds) == 200


def answers(url: str) -> bool:
    """Whether a server is at an address, whatever it says."""
    return _asked(url, 0.0) is not None


def _asked(url: str, seconds: float) -> int | None:
    """The last status that a server's health endpoint gave within some seconds."""
    until = time.monotonic() + seconds
    while True:
        status = None
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
                status = int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                status = error.code
        except (OSError, ValueError):
            status = None
        if status == 200 or time.monotonic() > until:
            return status
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
            line = told.readline() if ready else ""
        url, _, own = line.strip().partition(" ")
        if not (own and line.endswith("\n")):  # torn: the folder is one that may be removed
            child.stop()
            errors.seek(0)
            said = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"the temporary Prefect server did not start: {said}")
    # Prefect sends its last words at exit; what is registered before it is imported runs after it.
    ending = threading.Event()
    atexit.register(child.process.terminate)
    atexit.register(ending.set)

    def gone() -> None:
        if not ending.is_set():
            _end_without(url, Path(own))

    processes.when_gone(child, gone)
    os.environ[ALONE] = "1"
    return Address(url=url, secret=secret)


def _end_without(url: str, folder: Path) -> None:
    """End this process at once: its own server was killed, and nobody starts it again.

    Prefect would ask for minutes, again and again. What is in flight is lost, as with any kill.
    """
    shutil.rmtree(folder, ignore_errors=True)  # which the server would have removed
    sys.stderr.write(f"\ngristmill: {ServerGoneError(url)}\n")
    sys.stderr.flush()
    os._exit(2)
