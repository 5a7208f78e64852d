"""A folder without a layout: which of its files are data, and what is said of the others.

What is not read is counted and named by its kind. Files about the data (README.md, LICENSE) are no
data and need no word, unless files of their suffix are: among Markdown pages a README may be one.
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from gristmill.pipeline.ingest import folders
from gristmill.pipeline.ingest.bounds import ROW
from gristmill.pipeline.ingest.json_rows import opens_with_an_object
from gristmill.pipeline.ingest.packing import (
    SUFFIXES,
    TABLES,
    TEXTS,
    ZIP,
    Content,
    members,
    stem,
    suffixes,
)

# Names of files about the data: of texts, and of JSON that tools write.
_ABOUT = {"readme", "license", "licence", "licenses", "copying", "notice", "changelog"}
_ABOUT_JSON = {"dataset_info", "dataset_infos", "dataset_dict", "config"}
_HIDDEN = "hidden or linked"
_NAMES = 3  # files of a kind that a sentence names

Left = dict[str, list[str]]  # files that are not read, by kind
Name = tuple[str, str | None]  # of a file below the folder, and of a member of it


def data_files(folder: Path, say: Callable[[str], None]) -> list[Name]:
    """The data files of a folder, in order.

    Args:
        folder: the folder.
        say: told of the files that are not read.
    """
    names, over = folders.listing(folder)
    left: Left = {}
    found: list[Name] = []
    about = [name for name in names if is_about(name)]
    for name in names:
        if name in about:
            continue
        kind = _why_not(folder, name)
        if kind is not None:
            left.setdefault(kind, []).append(name)
        elif _is_archive(name):
            found += [(name, member) for member in _archived(folder / name, name, left)]
        else:
            found.append((name, None))
    read = {suffixes(member or name)[0] for name, member in found}
    left["about the data"] = [name for name in about if suffixes(name)[0] in read - {""}]
    left[_HIDDEN] = [name for name in over if name.endswith("/") or is_known(name)]
    _tell(folder.name, left, say)
    return found


def archive_files(path: Path, say: Callable[[str], None]) -> list[Name]:
    """The data files of a ZIP archive, in order.

    Args:
        path: the archive.
        say: told of the files that are not read.
    """
    left: Left = {}
    found: list[Name] = [(path.name, member) for member in _archived(path, path.name, left)]
    _tell(path.name, left, say)
    return found


def is_known(name: str) -> bool:
    """Whether a file's name says that its format is read."""
    suffix, packed = suffixes(name)
    return suffix in SUFFIXES and not (packed and suffix in TABLES)


def _archived(path: Path, name: str, left: Left) -> Iterator[str]:
    for member in members(path):
        *inner, base = PurePosixPath(member).parts
        if any(part.startswith((".", "__")) for part in inner) or is_about(member):
            continue
        if base.startswith((".", "_")) or any(part.startswith("_") for part in inner):
            kind = _HIDDEN if is_known(member) else None
        elif suffixes(member)[0] in TABLES:
            kind = "tables inside an archive"
        elif (kind := _kind(member)) is None:
            yield member
        if kind is not None:
            left.setdefault(kind, []).append(f"{name}/{member}")


def _why_not(folder: Path, name: str) -> str | None:
    """The kind of a file that is not read, or None if it is."""
    suffix, packed = suffixes(name)
    unnamed = suffix == "" and (folder / name).is_file()  # JSON lines may have no suffix
    kind = None if unnamed or _is_archive(name) else _kind(name)
    if kind is not None:
        return kind
    folders.check_inside(folder, name)
    if _is_archive(name):
        return None if zipfile.is_zipfile(folder / name) else "that cannot be unpacked"
    content = Content(path=folder / name)
    if (unnamed or packed) and not content.starts():
        return "that cannot be unpacked"
    return "without a suffix" if unnamed and not opens_with_an_object(content, ROW) else None


def _kind(name: str) -> str | None:
    if is_known(name):
        return None
    return "".join(suffixes(name)) or PurePosixPath(name).suffix.lower() or "without a suffix"


def _is_archive(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() == ZIP


def is_about(name: str) -> bool:
    """Whether a file's name says that it is about the data: a README, a licence, a tool's notes."""
    base, suffix = stem(PurePosixPath(name).name).lower(), suffixes(name)[0]
    return base in (_ABOUT if suffix in ("", *TEXTS) else _ABOUT_JSON if suffix == ".json" else ())


def _tell(where: str, left: Left, say: Callable[[str], None]) -> None:
    held = sorted(((k, n) for k, n in left.items() if n), key=lambda item: (-len(item[1]), item[0]))
    if not held:
        return
    kinds = [
        f"{len(names)} {kind} ({', '.join(names[:_NAMES])}{', ...' * (len(names) > _NAMES)})"
        for kind, names in held
    ]
    count = sum(len(names) for _, names in held)
    say(
        f"{where}: {count} file{'s are' if count > 1 else ' is'} not read: {', '.join(kinds)}; "
        "write what is data of it as JSON lines, or name it as a source"
    )
