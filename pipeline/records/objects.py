"""Objects: the few calls that a store in object storage takes of a server (`s3.S3` makes them).

Names are relative to the store's prefix. An object is put whole or not at all, and a tag names what
it holds: a **conditional put** writes only where nothing is yet, or only over what was read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Found:
    """A small object.

    Attributes:
        raw: its bytes.
        tag: what a conditional put over it must name.
        age: seconds since it was put, all by the server's clock.
    """

    raw: bytes
    tag: str
    age: float


class Objects(Protocol):
    """The objects of a store.

    All raise ConnectionError where the server does not answer, after attempts and pauses, and
    ValueError where it refuses; each in one sentence.
    """

    def get(self, name: str) -> Found | None:
        """A small object; None: it is not there."""

    def create(self, name: str, raw: bytes) -> str | None:
        """Put a small object where there is none; its tag, or None: there is one."""

    def replace(self, name: str, raw: bytes, tag: str) -> str | None:
        """Put a small object over the one of this tag; the new tag, or None: it is another now."""

    def upload(self, name: str, path: Path) -> None:
        """Put a file."""

    def download(self, name: str, path: Path) -> bool:
        """Write an object to a file; False: it is not there."""

    def sizes(self, prefix: str) -> Mapping[str, int]:
        """The bytes of every object whose name begins so, by the rest of its name."""

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
