"""Texts: an index of what every row says, on disk, for search and for the first words of a row.

It is made on a thread of its own while the first rows are looked at already, in a temporary folder
as large as the text itself. Its files are mapped and not read: a search goes through them, a row's
first words are a look at one place, and the process holds none of it.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.pipeline.explore.records_of import RecordsOf
from gristmill.pipeline.records.text import texts

LOG = logging.getLogger(__name__)
EXCERPT = 240  # characters of a row in a table
_PART = 32_000_000  # bytes of text in one file of the index
_PATIENCE = 0.25  # seconds for which a window of rows waits for words that are not indexed yet


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What the rows of a ledger say.

    Attributes:
        records: where it is read.
        height: rows of the ledger.
    """

    records: RecordsOf
    height: int
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(
            prefix="gristmill-explore-", ignore_cleanup_errors=True
        ),
        repr=False,
    )
    _parts: list[pa.Table] = field(default_factory=list, repr=False)
    _places: list[NDArray[np.int64]] = field(default_factory=list, repr=False)  # at, rising, and
    _orders: list[NDArray[np.int64]] = field(default_factory=list, repr=False)  # its row in a part
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)
    _closed: threading.Event = field(default_factory=threading.Event, repr=False)
    _failed: list[str] = field(default_factory=list, repr=False)

    def start(self) -> None:
        """Make the index on a thread of its own."""
        threading.Thread(target=self._make, daemon=True).start()

    def close(self) -> None:
        """Give the index up."""
        self._closed.set()
        for held in (self._parts, self._places, self._orders):
            held.clear()
        self._folder.cleanup()

    @property
    def indexed(self) -> int:
        """How many rows are in the index so far."""
        return sum(part.num_rows for part in list(self._parts))

    @property
    def ended(self) -> bool:
        """Whether the index is whole, as far as there is text."""
        return self._ended.is_set()

    @property
    def failed(self) -> str | None:
        """Why the index could not be made whole."""
        return next(iter(self._failed), None)

    def wait(self, seconds: float) -> bool:
        """Whether the index is whole within so many seconds."""
        return self._ended.wait(seconds)

    def search(self, words: Sequence[str]) -> NDArray[np.bool_]:
        """The rows, as far as they are indexed, that say all of the words, in lower case."""
        found_N = np.zeros(self.height, dtype=bool)
        for part in list(self._parts):
            for word in words:
                part = part.filter(pc.match_substring(part["text"], word))
            found_N[part["at"].to_numpy()] = True
        return found_N

    def excerpts(self, rows: Sequence[int]) -> dict[int, str]:
        """How these rows begin: by the index, or else by the files, if that takes but a moment."""
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        found: dict[int, str] = {}
        for part, at_N, order in zip(list(self._parts), self._places, self._orders, strict=False):
            place = np.searchsorted(at_N, wanted)
            there = (place < len(at_N)) & (at_N[np.minimum(place, len(at_N) - 1)] == wanted)
            said = part["excerpt"].take(pa.array(order[place[there]])).to_pylist()
            found |= dict(zip(wanted[there].tolist(), said, strict=True))
        missing = [at for at in rows if at not in found]
        if missing and not self.ended:
            end = time.monotonic() + _PATIENCE
            for at in missing:
                found |= {at: excerpt(texts(one)[0]) for at, one in self.records.each([at])}
                if time.monotonic() > end:
                    break
        return found

    def _make(self) -> None:
        try:
            held: list[pl.DataFrame] = []
            size = 0.0
            for at, block in self.records.blocks():
                held.append(_indexed(at, block))
                size += held[-1].estimated_size()
                if self._closed.is_set():
                    return
                if size > _PART or not self._parts:  # the first rows are there at once
                    self._put(held)
                    held, size = [], 0.0
            if held:
                self._put(held)
        except (ValueError, OSError) as error:
            if not self._closed.is_set():
                self._failed.append(f"The texts could not be read: {error}")
                LOG.warning("%s", self._failed[0])
        finally:
            self._ended.set()

    def _put(self, frames: Iterable[pl.DataFrame]) -> None:
        path = Path(self._folder.name) / f"{len(self._parts):05d}.arrow"
        table = pl.concat(frames, rechunk=True).to_arrow(compat_level=pl.CompatLevel.oldest())
        with suppress(FileNotFoundError):  # closed meanwhile
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            part = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            at = part["at"].to_numpy().astype(np.int64)
            order = np.argsort(at)
            self._places.append(at[order])
            self._orders.append(order)
            self._parts.append(part)


def _indexed(at: pl.Series, block: pl.DataFrame) -> pl.DataFrame:
    said = texts(block, "all")
    begins = [excerpt(text) for text in texts(block)]
    return pl.DataFrame(
        {"at": at, "excerpt": pl.Series(begins, dtype=pl.String), "text": said.str.to_lowercase()}
    )


def excerpt(text: str) -> str:
    """The beginning of a text as one line."""
    return " ".join(text[: 4 * EXCERPT].split())[:EXCERPT]
