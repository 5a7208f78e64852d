"""The cache of completions: one SQLite file, one row per answer, the answer as it came.

Write-ahead log with full sync: an answer that was paid for is on disk before anyone reads it, a
process may be killed at any instant, and two processes may share the file. When both ask the same
thing the first answer stands and both see it. Failures never come here.

Every answer has a checksum. One that does not match counts as missing and is asked for again. A
file that SQLite itself finds damaged is set aside, and a new one begun with the answers that can
still be read and match; other connections see the new file and change over to it.
"""

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from gristmill.pipeline.models.completion.requests import Reply
from gristmill.pipeline.records.disk import full_disk, no_space
from gristmill.pipeline.records.store import locked, remove

_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,  -- SHA-256 of all that changes the answer
    request TEXT NOT NULL,  -- the caller's id of the request that was paid for
    reply TEXT NOT NULL,  -- JSON of Reply, unread
    checksum TEXT  -- SHA-256 of the three
) WITHOUT ROWID"""
_COLUMNS = ("key", "request", "reply", "checksum")
_SEALED = ", ".join(f"CAST(answers.{c} AS BLOB)" for c in _COLUMNS)  # text may not decode
_PUT = f"""INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE
    SET request = excluded.request, reply = excluded.reply, checksum = excluded.checksum
    WHERE NOT sound({_SEALED})"""
_PATIENCE = 60.0  # seconds to wait for another process's commit
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_MARKS = (b"CREATE TABLE answers", b"SHA-256 of all that changes", b"JSON of Reply, unread")

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class Cache:
    """One connection to a cache file; `open_cache` makes it."""

    path: Path
    connection: sqlite3.Connection
    _file: tuple[int, int] | None = field(init=False)  # device and inode of what is open

    def __post_init__(self) -> None:
        self._file = _identity(self.path)

    def get(self, key: str) -> Reply | None:
        query = f"SELECT {', '.join(_COLUMNS)} FROM answers WHERE key = ?"
        row = self._do(lambda connection: connection.execute(query, (key,)).fetchone())
        return Reply.from_json(row[2].decode()) if row is not None and sound(*row) else None

    def put(self, rows: Sequence[tuple[str, str, Reply]]) -> list[Reply]:
        """Commit (key, request id, reply) rows at once; return the replies that stand."""
        sealed = [sealed_row(key, request, reply.to_json()) for key, request, reply in rows]

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany(_PUT, sealed)

        for _ in range(2):
            self._do(write)
            standing = [self.get(key) for key, _, _ in rows]
            found = [reply for reply in standing if reply is not None]
            if len(found) == len(rows):
                return found
            self._begin_again("answers that were written cannot be found")
        raise OSError(f"the completion cache {self.path} loses what is written: check this disk.")

    def keys(self) -> set[str]:
        """The keys of all answers that match their checksums."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM answers"
        found = self._do(lambda c: [r[0] for r in c.execute(query) if sound(*r)])
        return {key.decode() for key in found}

    def close(self) -> None:
        self.connection.close()

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Work on the file that is there now; on a new one if it turns out to be damaged."""
        if _identity(self.path) != self._file:  # another connection has set it aside
            self._reopen()
        try:
            return work(self.connection)
        except sqlite3.DatabaseError as error:
            self._undo()
            if not _damaged(error):
                raise trouble(self.path, error) from error
            self._begin_again(str(error))
            return work(self.connection)

    def _begin_again(self, problem: str) -> None:
        with locked(_lock(self.path)):
            if _identity(self.path) == self._file:  # and no other connection was first
                begin_again(self.path, problem)
        self._reopen()

    def _undo(self) -> None:
        with suppress(sqlite3.Error):
            self.connection.rollback()

    def _reopen(self) -> None:
        self.connection.close()
        self.connection = _open(self.path)
        self._file = _identity(self.path)


def open_cache(path: Path) -> Cache:
    """Open (or begin) the cache file at `path`.

    Raises:
        ValueError: what is there is no completion cache.
        OSError: it cannot be opened: no room, no permission, or locked for too long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return Cache(path=path, connection=_open(path))


def cached_keys(path: Path) -> set[str]:
    """Keys of all answers in a cache file."""
    with closing(open_cache(path)) as cache:
        return cache.keys()


def sealed_row(key: str, request: str, reply: str) -> tuple[str, str, str, str]:
    """A row of the table with its checksum."""
    parts = [text.encode() for text in (key, request, reply)]
    return key, request, reply, _checksum(*parts)


def sound(*row: Any) -> bool:  # noqa: ANN401  (a damaged row holds values of any type)
    """Whether a row, read as bytes, matches its checksum."""
    if not all(isinstance(value, bytes) for value in row):
        return False
    *parts, checksum = row
    return bool(_checksum(*parts).encode() == checksum)


def trouble(path: Path, error: sqlite3.Error) -> OSError:
    """SQLite's word for a fault of the disk or of another process, as the system's own."""
    if full_disk(error, path.parent):
        return no_space(path)
    return OSError(f"the completion cache {path} cannot be used ({error}): run the command again.")


def begin_again(path: Path, problem: str) -> None:
    """Set a damaged file aside and begin a new one with what can be saved. Call it under the lock.

    The log goes first: beside another file it would be taken for that file's.
    """
    fresh = path.with_name(f".{path.name}.new")
    _discard(fresh)
    with closing(_connect(fresh)) as made, made:
        made.execute(_TABLE)
        made.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", _saved(path))
        (kept,) = made.execute("SELECT count(*) FROM answers").fetchone()
    aside = _aside(path)
    for end in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    fresh.rename(path)
    _LOG.warning(
        "the completion cache %s was damaged (%s): it is kept as %s, %d of its answers are kept on "
        "and the others are asked for again.",
        path,
        problem,
        aside.name,
        kept,
    )


def _aside(path: Path) -> Path:
    """A free name for what is kept of a damaged file."""
    names = (path.with_name(f"{path.name}.damaged-{n}") for n in count())
    return next(name for name in names if not os.path.lexists(name))


def _open(path: Path) -> sqlite3.Connection:
    if path.is_dir():
        raise ValueError(
            f"the completion cache {path} is a folder: move it away, or name another file."
        )
    with locked(_lock(path)):
        for end in ("-wal", "-shm"):  # never anything but files: SQLite opens no other
            beside = path.with_name(path.name + end)
            if beside.is_dir() or beside.is_symlink():
                beside.rename(_aside(beside))
        try:
            return _ready(path)
        except sqlite3.DatabaseError as error:
            if not _damaged(error):
                raise trouble(path, error) from error
            if not _ours(path):
                raise ValueError(
                    f"the completion cache {path} is damaged ({error}): move it away to begin a "
                    "new one."
                ) from error
            begin_again(path, str(error))
            return _ready(path)


def _ready(path: Path) -> sqlite3.Connection:
    """A connection to a cache with a table of today's columns."""
    connection = _connect(path)
    try:
        with connection:
            connection.execute(_TABLE)
        columns = _columns(connection)
        if columns == _COLUMNS[:-1]:  # of a version without checksums: taken as it stands
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                connection.execute("ALTER TABLE answers ADD COLUMN checksum TEXT")
                rows = connection.execute("SELECT key, request, reply FROM answers").fetchall()
                connection.executemany(
                    "UPDATE answers SET checksum = ? WHERE key = ?",
                    ((_checksum(*row), row[0].decode()) for row in rows),
                )
            columns = _columns(connection)
    except BaseException:
        connection.close()
        raise
    if columns != _COLUMNS:
        connection.close()
        raise ValueError(
            f"the completion cache {path} has a table `answers` with columns {list(columns)}, "
            f"expected {', '.join(_COLUMNS)}: name another file."
        )
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
    try:
        connection.text_factory = bytes  # a flipped text need not decode
        connection.create_function("sound", 4, sound, deterministic=True)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _columns(connection: sqlite3.Connection) -> tuple[str, ...]:
    described = connection.execute("PRAGMA table_info(answers)")
    return tuple(row[1].decode("utf-8", "replace") for row in described)


def _saved(path: Path) -> Iterator[tuple[str, ...]]:
    """The sound rows of a damaged file: from either end up to where it cannot be read."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        for order in ("ASC", "DESC"):
            query = f"SELECT {', '.join(_COLUMNS)} FROM answers ORDER BY key {order}"
            with suppress(sqlite3.Error):
                for row in connection.execute(query):
                    if sound(*row):
                        yield tuple(value.decode() for value in row)


def _checksum(key: bytes, request: bytes, reply: bytes) -> str:
    parts = (b"%d:%b" % (len(part), part) for part in (key, request, reply))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _damaged(error: sqlite3.Error) -> bool:
    """Whether SQLite blames the file, and not the disk or another process."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in (*_DAMAGE, sqlite3.SQLITE_ERROR)  # our SQL is fixed: the file's fault


def _ours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return any(mark in head for mark in _MARKS)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _discard(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        remove(path.with_name(path.name + end))
