"""Markdown with other people's words in it: tables and cells that data cannot break."""

import html
from collections.abc import Iterable, Sequence


def cell(value: object) -> str:
    """A value as one table cell: one line, no bar, no markup."""
    text = " ".join(str(value).split())
    return html.escape(text, quote=False).replace("|", "\\|").replace("`", "'")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
