"""Model folder: a trained model where the user wants it, with all that is said of it.

It is written as a hidden sibling, synced and renamed, so that it is whole or not there. A folder
that holds anything that was not written here is left alone; a model that was written before, and
is as it was then, gives way to the new one.
"""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from gristmill.pipeline.export.verify import SUMS
from gristmill.pipeline.records.disk import sync
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import (
    Store,
    locked,
    remove,
    sha256,
    walk,
    write_text,
)
from gristmill.pipeline.road.finetuned import ABOUT, Finetuned

Sums = Mapping[str, str]  # path below the folder -> sha256


def write_folder(made: Finetuned, out: Path, store: Store) -> Path:
    """Write a model to a folder of its own, if it is not there; returns the folder.

    Args:
        made: the model.
        out: the folder.
        store: where the model was made; its lock keeps two writers apart.

    Raises:
        ValueError: there is something that was not written here.
    """
    out = _place(out)
    sources = _sources(made)
    with locked(store.root / f".lock-out-{digest(str(out))}"):
        work, old = (out.with_name(f".{out.name}.gristmill-{end}") for end in ("new", "old"))
        if old.exists() and not out.exists():  # killed between two renames
            old.rename(out)
        for left in (work, old):  # of a write that was killed
            remove(left)
        there = _written(out)
        if there == sources:
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        _copy(made, work, sources)
        if there is not None:
            out.rename(old)
        work.rename(out)
        sync(out.parent)
        remove(old)
    return out


def check_free(out: Path) -> None:
    """Refuse a folder that a model could not be written to, before it is trained."""
    _written(_place(out))


def _place(out: Path) -> Path:
    out = out.expanduser().absolute()
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        what = "a link" if out.is_symlink() else "a file"
        raise ValueError(f"{out} is {what}: give the name of a folder to write the model to.")
    return out.resolve()


def _sources(made: Finetuned) -> Sums:
    """What the folder is to hold."""
    checkpoint = f"checkpoints/{made.trained.final.name}/"
    parts = ((made.trained.entry, checkpoint), (made.about, f"{ABOUT}/"))
    return {
        file["path"].removeprefix(prefix): file["sha256"]
        for entry, prefix in parts
        for file in entry.files
        if file["path"].startswith(prefix)
    }


def _written(out: Path) -> Sums | None:
    """What an earlier call wrote there; None: nothing is there.

    Raises:
        ValueError: it was changed since, or was not written here.
    """
    found = sorted(p.relative_to(out).as_posix() for p in walk(out)) if out.exists() else []
    if not found:
        return None
    listed: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        lines = (out / SUMS).read_text("utf-8").splitlines()
        listed = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    ours = [SUMS, *(n for n in found if n in listed and sha256(out / n) == listed[n])]
    strange = next((n for n in found if "manifest.json" not in ours or n not in ours), None)
    if strange is not None:
        raise ValueError(
            f"{out} holds {strange}, which is not as this command writes it: move the folder away, "
            "or give another one."
        )
    return {name: listed[name] for name in ours if name != SUMS}


def _copy(made: Finetuned, work: Path, sources: Sums) -> None:
    """Copy everything and write the checksums; a damaged source is refused."""
    for folder in (made.trained.final.path, made.about.path / ABOUT):
        # without the modes: libraries write weights that their owner alone may read
        shutil.copytree(folder, work, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for name, expected in sources.items():
        if not (work / name).is_file() or sha256(work / name) != expected:
            raise ValueError(
                f"{name} of the model in the store is damaged: set GRISTMILL_VERIFY=1 and run the "
                "same command again, which makes it again."
            )
    lines = (f"{sha}  {name}\n" for name, sha in sorted(sources.items()))
    write_text(work / SUMS, "".join(lines))
    sync(*work.rglob("*"), work)
