"""The disk: what is forced on to it, and one that is full, told from other errors in a sentence."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_CODES = (errno.ENOSPC, errno.EDQUOT)
# polars, safetensors, SQLite and numpy raise errors of their own, which have the words alone
_WORDS = (
    "no space left on device",
    "not enough free space",
    "disk is full",
    "disk quota exceeded",
)
_AGAIN = "then run the same command again; it goes on where it stopped."
_TOLD = {
    errno.EROFS: "the disk is read-only, so {where} cannot be written: name another folder.",
    errno.EACCES: "you may not open {where}: change its permissions, or name another.",
    errno.EPERM: "you may not open {where}: change its permissions, or name another.",
    errno.EIO: f"the disk fails at {{where}} (input/output error): check the disk, {_AGAIN}",
    errno.EISDIR: f"{{where}} is a folder, where a file belongs: move it away, {_AGAIN}",
    errno.EEXIST: f"{{where}} is there already and is of another kind: move it away, {_AGAIN}",
    errno.ENOTDIR: f"{{where}} needs a folder where there is a file: move that away, {_AGAIN}",
    errno.ELOOP: f"{{where}} is a link that leads back to itself: remove it, {_AGAIN}",
    errno.ENOENT: "there is no {where}: check the name, or run the same command again, if it was "
    "removed meanwhile.",
    errno.EFBIG: f"{{where}} grew larger than is allowed: raise the limit (ulimit -f), {_AGAIN}",
    errno.EMFILE: f"too many files are open ({{where}}): raise the limit (ulimit -n), {_AGAIN}",
    **dict.fromkeys(
        (errno.ENOLCK, errno.EOPNOTSUPP),
        "the disk of {where} knows no locks of files (flock): put the store on another one.",
    ),
    errno.ENAMETOOLONG: "the name {where} is too long for this disk: give a shorter one.",
}
_NOTHING = 1 << 16  # bytes; torch does not say, but leaves a disk without a free block


def sync(*paths: Path) -> None:
    """Force files or folders (their names, not what they hold) to disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def full_disk(error: BaseException, folder: Path | None = None) -> bool:
    """Whether an error, or what it was raised from, comes of a full disk.

    Args:
        error: what was raised.
        folder: where was being written: a disk there without free space decides where words do not.
    """
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _CODES:
            return True
        if any(words in str(cause).lower() for words in _WORDS):
            return True
    if folder is None or isinstance(error, ValueError):  # a mistake in what was asked
        return False
    return shutil.disk_usage(folder).free < _NOTHING


def no_space(place: Path | str) -> OSError:
    """The error to raise for a disk that was found to be full."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def sentence(error: BaseException) -> str:
    """What to tell a user of a full disk."""
    names = [c.filename for c in _chain(error) if isinstance(c, OSError) and c.filename]
    where = f" ({names[0]})" if names else ""
    return (
        f"the disk is full{where}: make room and run the same command again; "
        "it goes on where it stopped."
    )


def trouble(error: OSError) -> str:
    """What to tell a user of a disk, or a system, that lets something not be read or written."""
    said = _TOLD.get(error.errno or 0)
    if said is None:
        return " ".join(str(error).split())
    return said.format(where=error.filename or "a file")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
