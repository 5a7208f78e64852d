"""Terminal: what others wrote is shown on it, and never obeyed by it.

A row, a file's name, a column or an endpoint's words may hold codes that move the cursor, retitle
the window, link elsewhere or turn a line around. They pass through tables and through sentences
that say what is wrong, so the streams themselves show such codes as marks. Rich, which draws
tables and bars, writes its own codes past this (`rich_proxied_file`); what it draws of others is
made plain before.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from gristmill.flows.pages.visible import plain


class Shown:
    """A text stream that shows codes of a terminal as marks."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # rich's own name for the stream that it writes to

    def write(self, text: str) -> int:
        """Write a text; its length as it was given."""
        self.rich_proxied_file.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the stream has)
        return getattr(self.rich_proxied_file, name)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Let standard output and standard error show codes in this block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Shown(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
