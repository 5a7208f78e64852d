"""The journal of one annotator: a line a click, on the disk before anyone is told that it counts.

    what "ann" said  ─▶  journal/ann.jsonl, append only: objects of `JUDGEMENTS` and `click`

A line is written whole, synced, and only then confirmed. A process that is killed in the middle
leaves a torn last line, which nobody was told of: it is cut off before the next one is written.
Each line bears a checksum, and beside the journal stands how many were confirmed
(`.ann.confirmed`): a journal that was changed, cut or deleted since is refused, not read as less.
Several servers may write to one journal: each line is written under a lock of the file, after what
others have added was read. A click is known by the key that the page gave it, so that one that is
sent twice is written once.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.records.disk import sync
from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.records.schema import canonical_json, digest
from gristmill.pipeline.records.sealed import read_sealed, seal
from gristmill.pipeline.records.store import write_text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}")
_CLICK = "click"
_SUM = "checksum"
_SUFFIX = ".jsonl"
_CONFIRMED = ".confirmed"


def annotator(name: str) -> str:
    """The name of an annotator, as it was given, if it can be one.

    Raises:
        ValueError: it would not do as the name of a file.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} is not a valid name of an annotator: give 1 to 64 letters, digits, "
            "dots, dashes, underscores, + or @, a letter or digit first."
        )
    return name


@dataclass(kw_only=True)
class Journal:
    """What one annotator said, in the order in which it was given.

    Attributes:
        path: the file; it is made with the first line.
        lines: those that are known so far, `click` included.
    """

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    _clicks: dict[str, dict[str, Any]] = field(default_factory=dict)
    _read: int = 0  # bytes of the file that `lines` holds

    @property
    def annotator(self) -> str:
        """Whose it is."""
        return self.path.name.removesuffix(_SUFFIX)

    def known(self, click: str) -> dict[str, Any] | None:
        """The line of a click that was written already."""
        return self._clicks.get(click)

    def refresh(self) -> "Journal":
        """Take in what other processes have added; a torn last line is left where it is."""
        confirmed = self._count()  # before the lines: another process may be adding some
        if self.path.is_file() and self.path.stat().st_size != self._read:
            with self.path.open("rb", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                self._take(file)
        self._demand(confirmed)
        return self

    def append(self, judgement: Mapping[str, Any], click: str) -> dict[str, Any]:
        """Write a judgement, and return its line once the disk has it.

        Args:
            judgement: the columns of `JUDGEMENTS` but `annotator` and `number`.
            click: the key of the click; of one that is known, the line that stands is returned.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.path.exists()
        with self.path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._take(file)
            self._demand(self._count())
            if click in self._clicks:
                return self._clicks[click]
            line = {**judgement, "annotator": self.annotator, "number": len(self.lines)}
            line[_CLICK] = click
            assert set(line) == {*JUDGEMENTS, _CLICK}, f"a judgement has the columns {set(line)}"
            raw = canonical_json({**line, _SUM: digest(line)}).encode() + b"\n"
            file.truncate(self._read)  # what is beyond was torn, and never confirmed
            try:
                left = raw
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:  # a full disk: nothing was confirmed, so nothing may stay
                file.truncate(self._read)
                raise
            self._note(line)
            self._read += len(raw)
            write_text(self._confirmed, seal({"lines": len(self.lines)}))
        if fresh:
            sync(self.path.parent)
        return line

    @property
    def _confirmed(self) -> Path:
        return self.path.with_name(f".{self.annotator}{_CONFIRMED}")

    def _count(self) -> int:
        """How many lines were confirmed, as far as that is known."""
        told = read_sealed(self._confirmed)
        return 0 if told is None else int(told["lines"])

    def _demand(self, confirmed: int) -> None:
        """Stop where fewer lines are left than were confirmed."""
        if len(self.lines) < confirmed:
            raise ValueError(
                f"{self.path} holds {len(self.lines)} judgements, and {confirmed} were given: "
                f"restore the file; or remove {self._confirmed.name} beside it to go on without "
                "the others."
            )

    def _take(self, file: FileIO) -> None:
        """Read the whole lines that were added since."""
        if file.seek(0, os.SEEK_END) < self._read:
            raise ValueError(
                f"{self.path} became shorter while it was in use, so judgements are missing: "
                "restore it, and start the review again."
            )
        file.seek(self._read)
        whole, newline, _ = file.read().rpartition(b"\n")
        for raw in whole.split(b"\n") if newline else ():
            self._note(self._parsed(raw))
        self._read += len(whole) + len(newline)

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        line: Any = None
        with contextlib.suppress(ValueError):
            line = json.loads(raw)
        told = line.pop(_SUM, None) if isinstance(line, dict) else None
        known = isinstance(line, dict) and set(line) == {*JUDGEMENTS, _CLICK}
        if not known or (told is not None and told != digest(line)):
            raise ValueError(
                f"{self.path}, line {len(self.lines) + 1}: this is no line as a journal has it "
                f"({raw[:60].decode('utf-8', 'replace')!r}): restore the file, or remove the line "
                "and number those after it from there."
            )
        if line["number"] != len(self.lines):
            raise ValueError(
                f"{self.path}, line {len(self.lines) + 1}: it bears the number {line['number']}, "
                f"expected {len(self.lines)}: lines are missing, or stand twice; restore the file."
            )
        return dict(line)

    def _note(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self._clicks[line[_CLICK]] = line


def journals(folder: Path) -> list[Journal]:
    """The journals in a folder, as they stand now, by name."""
    return [journal(folder, name) for name in annotators(folder)]


def annotators(folder: Path) -> list[str]:
    """Whose journals are in a folder, or were."""
    names = {p.name.removesuffix(_SUFFIX) for p in folder.glob(f"[!.]*{_SUFFIX}")}
    return sorted(
        names | {p.name[1:].removesuffix(_CONFIRMED) for p in folder.glob(f".*{_CONFIRMED}")}
    )


def journal(folder: Path, name: str) -> Journal:
    """The journal of an annotator; the file is made with the first line."""
    return Journal(path=folder / f"{annotator(name)}{_SUFFIX}").refresh()


def table(found: Sequence[Journal]) -> pl.DataFrame:
    """All lines of some journals as one table of `JUDGEMENTS`."""
    rows = [{c: line[c] for c in JUDGEMENTS} for one in found for line in one.lines]
    return pl.DataFrame(rows, schema=JUDGEMENTS).sort("annotator", "number")
