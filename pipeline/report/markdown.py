"""Other people's words in Markdown: settings as text, tables and cells that data cannot break.

Renderers differ in what they make of a text: links of bare addresses and names of hosts, mentions,
HTML, mathematics. None of them looks into a code span, so what is not plainly words and figures is
shown as one.
"""

import re
from collections.abc import Iterable, Sequence

import yaml

# Words and figures: dots that end a word or are in a number join no host's name, slashes that
# follow neither slash nor colon begin no address, underscores within words emphasise nothing.
_PLAIN = re.compile(
    r"(?:[^\W_]|[ ,;()%+=-]|:(?!/)|/(?!/)|(?<!www)\.(?=[\d ,;)]|$)|(?<=[^\W_])_(?=[^\W_]))*",
    re.IGNORECASE,
)


def line(value: object) -> str:
    """A value as one line: white space is one space, and nothing is there that cannot be seen."""
    return " ".join("".join(c for c in str(value) if c.isprintable() or c.isspace()).split())


def cell(value: object) -> str:
    """A value as one line without markup, to be in a table or among our words."""
    text = line(value)
    if _PLAIN.fullmatch(text):
        return text
    # Some take a backslash before the bar's own for an escaped backslash, and end the cell. And
    # what opens no tag is safe even where code spans are not known.
    text = re.sub(r"\\(?=\|)|<(?=[A-Za-z/!?])", r"\g<0> ", text).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    gap = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{gap}{text}{gap}{fence}"


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
