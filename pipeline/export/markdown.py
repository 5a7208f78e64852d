"""Other people's words in Markdown: settings as text, tables and cells that data cannot break."""

import html
from collections.abc import Iterable, Sequence

import yaml


def cell(value: object) -> str:
    """A value as one table cell: one line, no bar, no markup."""
    text = " ".join(str(value).split())
    return html.escape(text, quote=False).replace("|", "\\|").replace("`", "'")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def plain(value: object) -> str:
    """A setting as text, nested ones as YAML flow."""
    if isinstance(value, str):
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()
