"""Versions of a dataset: folders `v<N>-<key8>` and the relative link `latest`.

A dataset's folder holds nothing else of ours but a lock and, while one is made, a hidden version.
Only these names are ever written or removed; any other folder is the user's, and refused.
"""

import re
from pathlib import Path

from gristmill.pipeline.export import verify
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.store import remove

_VERSION = re.compile(r"v\d+-[0-9a-f]{8}")
_LINKS = ("latest", ".latest")


def claim(home: Path) -> None:
    """Make the folder of a dataset; refuse one that holds other things and no version of ours."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{home} is a file: give another name or another folder.") from None
    other = sorted(p.name for p in home.iterdir() if not _ours(p))
    if other and not any(map(_manifested, versions(home))):
        raise ValueError(
            f"{home} holds {other[0]} and no published version: it is not a dataset of ours, so "
            "nothing was written; give another name or another folder."
        )


def versions(home: Path) -> list[Path]:
    """The version folders of a dataset, in no order."""
    return [p for p in home.iterdir() if _VERSION.fullmatch(p.name) and p.is_dir()]


def is_name(text: str) -> bool:
    """Whether a text is the name of a version's folder."""
    return _VERSION.fullmatch(text) is not None


def named(version: Path) -> tuple[str, str]:
    """The names of dataset and version that a published folder says of itself."""
    told = json_text.loads((version / "manifest.json").read_text("utf-8"))
    return told["name"], told["version"]


def torn(home: Path) -> list[Path]:
    """What a killed publication left. Call it under the lock of `home`."""
    found = (p for p in home.iterdir() if p.name.startswith("."))
    return [p for p in found if _VERSION.fullmatch(p.name[1:])]


def newest(home: Path) -> Path | None:
    """The version with the highest number."""
    return max(versions(home), key=number, default=None)


def used(home: Path) -> Path | None:
    """The version that whoever loads a dataset gets: its `latest`, or else its newest."""
    if not home.is_dir():
        return None
    link = home / "latest"
    if link.is_dir() and (home / link.resolve().name).is_dir():
        return home / link.resolve().name
    return newest(home)


def homes_in(folder: Path) -> list[Path]:
    """The dataset that a folder is, or those that lie in it, by name."""
    if not folder.is_dir():
        return []
    if newest(folder) is not None:
        return [folder]
    return sorted(p for p in folder.iterdir() if p.is_dir() and newest(p) is not None)


def published(folder: Path) -> Path:
    """The version that a path names: a version, a dataset (its newest), or a folder with one.

    Raises:
        ValueError: there is none, or there are several datasets.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}.")
    if (folder / verify.SUMS).exists() or _VERSION.fullmatch(folder.resolve().name):
        return folder
    found = newest(folder)
    if found is not None:
        return found
    homes = homes_in(folder)
    if len(homes) == 1:
        return published(homes[0])
    if not homes:
        raise ValueError(f"there is no published dataset under {folder}.")
    names = ", ".join(p.name for p in homes)
    raise ValueError(f"{folder} holds several datasets ({names}): name one of them.")


def promoted(folder: Path) -> Path:
    """The version that a path names: itself, or the `latest` of a dataset or of a folder with one.

    Raises:
        ValueError: there is none, or none that was promoted.
    """
    newer = published(folder)
    if newer == folder:
        return folder.resolve() if folder.is_symlink() else folder
    home, link = newer.parent, newer.parent / "latest"
    if link.is_dir() and (home / link.resolve().name).is_dir():
        return home / link.resolve().name
    several = len(versions(home))
    raise ValueError(
        f"{home} has no `latest`, so none of its {several} version{'s' * (several > 1)} was "
        f"promoted: name the one to read, e.g. {newer}."
    )


def rows_of(path: str) -> str:
    """The path whose rows a path names: of a dataset the promoted version, of all else itself.

    Raises:
        ValueError: none of the dataset's versions was promoted.
    """
    home = Path(path).expanduser()
    if home.is_dir() and not (home / verify.SUMS).exists() and newest(home) is not None:
        return str(promoted(home))
    return path


def number(version: Path | None) -> int:
    """The N of `v<N>-<key8>`; 0 for none."""
    return 0 if version is None else int(version.name[1:].split("-")[0])


def finished(home: Path, key: str) -> Path | None:
    """The version with this key, if it is whole.

    One without its mark was cut off after the rename, when all it holds was on disk: if its sums
    match it is marked now. A version that was changed since is the user's to look at.
    """
    for folder in versions(home):
        if not folder.name.endswith(f"-{key[:8]}"):
            continue
        if (folder / verify.SUCCESS).exists():
            problem = verify.resized(folder) or next(iter(verify.verify(folder)), None)
            if problem is not None:
                raise ValueError(f"{folder} is damaged ({problem}): remove it and export again.")
            return folder
        for half in folder.glob(f".tmp-{verify.SUCCESS}-*"):  # cut off while the mark was written
            remove(half)
        if (folder / verify.SUMS).exists() and not verify.contents(folder):
            verify.succeed(folder)
            return folder
        raise ValueError(
            f"{folder} is not a whole version ({verify.SUCCESS} is missing, and it was changed): "
            "move it away and export again."
        )
    return None


def _manifested(folder: Path) -> bool:
    try:
        manifest = json_text.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "gristmill" in (manifest.get("generator") or {})


def point(home: Path, version: Path) -> None:
    """Let `latest` name a version, in one rename. Call it under the lock of `home`."""
    for name in _LINKS:
        if (home / name).exists() and not (home / name).is_symlink():
            raise ValueError(
                f"{home / name} is not a link: move it away, so that it can name {version.name}."
            )
    link = home / ".latest"
    remove(link)
    link.symlink_to(version.name)
    link.rename(home / "latest")


def _ours(path: Path) -> bool:
    if path.name in _LINKS:
        return path.is_symlink()
    return path.name == ".lock" or _VERSION.fullmatch(path.name.removeprefix(".")) is not None
