"""The cache of completions: one SQLite file, one row per answer, the answer as it came.

Write-ahead log with full sync: an answer that was paid for is on disk before anyone reads it, a
process may be killed at any instant, and two processes may share the file. When both ask the same
thing the first answer stands and both see it. Failures never come here.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gristmill.pipeline.models.completion_types import Reply

_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,  -- SHA-256 of all that changes the answer
    request TEXT NOT NULL,  -- the caller's id of the request that was paid for
    reply TEXT NOT NULL  -- JSON of Reply, unread
) WITHOUT ROWID"""
_PATIENCE = 60.0  # seconds to wait for another process's commit


@dataclass(frozen=True, kw_only=True)
class Cache:
    """One connection to a cache file; `open_cache` makes it."""

    connection: sqlite3.Connection

    def get(self, key: str) -> Reply | None:
        row = self.connection.execute("SELECT reply FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else Reply.from_json(row[0])

    def put(self, rows: Sequence[tuple[str, str, Reply]]) -> list[Reply]:
        """Commit (key, request id, reply) rows at once; return the replies that stand."""
        with self.connection:
            for key, request, reply in rows:
                self.connection.execute(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)",
                    (key, request, reply.to_json()),
                )
        standing = [self.get(key) for key, _, _ in rows]
        return [reply for reply in standing if reply is not None]

    def keys(self) -> set[str]:
        return {key for (key,) in self.connection.execute("SELECT key FROM answers")}

    def close(self) -> None:
        self.connection.close()


def open_cache(path: Path) -> Cache:
    """Open (or begin) the cache file at `path`.

    Raises:
        ValueError: the file is there and is no completion cache.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        with connection:
            connection.execute(_TABLE)
        columns = [row[1] for row in connection.execute("PRAGMA table_info(answers)")]
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise  # locked, read-only or full: not the file's fault
        raise ValueError(
            f"the completion cache {path} is damaged ({error}): move it away to begin a new one."
        ) from error
    if columns != ["key", "request", "reply"]:
        connection.close()
        raise ValueError(
            f"the completion cache {path} has a table `answers` with columns {columns}, expected "
            "key, request, reply: name another file."
        )
    return Cache(connection=connection)


def cached_keys(path: Path) -> set[str]:
    """Keys of all answers in a cache file."""
    with closing(open_cache(path)) as cache:
        return cache.keys()
