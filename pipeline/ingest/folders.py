"""A folder of data as a closed room: what is in it, and the refusal of what leads out of it.

A data set may come from a stranger. A link, a pattern of its card or a path in its state that names
a file elsewhere would put that file into the records, so each is refused by name. The one way out
is the Hub's own cache, where `snapshots/<revision>/x` links to `blobs/<hash>` beside it.
"""

import functools
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def names(folder: Path) -> list[str]:
    """Every file below the folder but hidden ones, in order; links to folders are not entered."""
    return listing(folder)[0]


def listing(folder: Path) -> tuple[list[str], list[str]]:
    """Every file below the folder, in order, and what is passed over by its name or kind.

    Passed over are files whose name begins with a dot or an underscore, folders of such a name, and
    links to folders, which end in a slash. Folders of a dot or of two underscores belong to tools
    and are no part of the folder.
    """
    found: list[str] = []
    over: list[str] = []
    for place, inner, files in os.walk(folder, onerror=functools.partial(_fail, folder)):
        linked = [name for name in inner if Path(place, name).is_symlink() and name[0] not in "._"]
        for name in linked:
            check_inside(folder, _below(folder, place, name), regular=False)
        named = [n for n in inner if n.startswith("_") and not n.startswith("__")]
        over += [_below(folder, place, name) + "/" for name in (*linked, *named)]
        inner[:] = [name for name in inner if name[0] not in "._"]
        for name in files:
            (over if name[0] in "._" else found).append(_below(folder, place, name))
    return [p.as_posix() for p in sorted(map(PurePosixPath, found))], sorted(over)


def _below(folder: Path, place: str, name: str) -> str:
    return Path(place, name).relative_to(folder).as_posix()


def _fail(folder: Path, error: OSError) -> None:
    name = Path(error.filename).relative_to(folder.parent)
    raise ValueError(
        f"the folder {name} cannot be read ({error.strerror}): "
        "change its permissions, or give the files"
    ) from error


def check_inside(folder: Path, name: str, *, regular: bool = True) -> None:
    """Refuse a file whose place, links followed, is not in the folder, or that is no file.

    Args:
        folder: the folder, itself resolved.
        name: the file's name below it.
        regular: whether it must be a plain file.
    """
    path = folder / name
    if path.is_symlink() or len(PurePosixPath(name).parts) > 1:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{folder.name}/{name} is a link to nothing: remove it, or bring its file back"
            ) from error
        if not target.is_relative_to(folder) and not _in_hub_cache(folder, target):
            raise ValueError(
                f"{folder.name}/{name} leads out of the folder {folder.name}: put the file itself "
                "there, or name it as a source of its own"
            )
    if regular:
        check_regular(path, f"{folder.name}/{name}")


def check_regular(path: Path, name: str) -> None:
    """Refuse pipes, sockets and devices, which may never end, and folders named like files."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "no file")
        raise ValueError(f"{name} is {what}: write its content to a file, or remove it")


def check_pattern(pattern: str, where: str) -> None:
    """Refuse a name or pattern, found in the file `where`, that can name something elsewhere."""
    parts = PurePosixPath(pattern).parts
    windows = PureWindowsPath(pattern)
    if (
        not parts
        or ".." in (*parts, *windows.parts)
        or pattern.startswith(("/", "~"))
        or windows.drive
        or "://" in pattern
        or "::" in pattern  # `zip://x::/y` and its like chain what fsspec opens
    ):
        raise ValueError(
            f"{where} names {pattern!r} as data, which is not a place in its own folder: correct "
            "it, or name those files as a source of their own"
        )


def _in_hub_cache(folder: Path, target: Path) -> bool:
    homes = [place.parent for place in (folder, *folder.parents) if place.name == "snapshots"]
    return target.parent in [home / "blobs" for home in homes]
