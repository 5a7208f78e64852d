"""Visible: characters that cannot be seen, or that turn a line around, as marks that can.

A row may hold terminal codes, bidirectional overrides, invisible letters (tags, variation
selectors) and lone surrogates. A reader must see that they are there; the page must not obey them.
Joiners stay as they are: scripts and emoji need them.
"""

import json
import re

# A piece of a page: text, or [element, class, children]; see `nodes`.
Node = str | list["str | list[Node]"]

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_SHOWN = {"\x1b": "ESC", "\x00": "NUL", "\x07": "BEL", "\x08": "BS", "\x7f": "DEL", "\r": "CR"}


def visible(text: str) -> list[Node]:
    """A text in pieces: what can be seen as it is, and marks for what cannot."""
    pieces: list[Node] = []
    at = 0
    for found in _HIDDEN.finditer(text):
        if found.group() == "\r" and text[found.end() : found.end() + 1] == "\n":
            name = ""  # the end of a line
        else:
            name = _SHOWN.get(found.group(), f"U+{ord(found.group()):04X}")
        if found.start() > at:
            pieces.append(text[at : found.start()])
        if name:
            pieces.append(["span", "hidden-mark", [name]])
        at = found.end()
    if at < len(text):
        pieces.append(text[at:])
    return pieces


def plain(text: str) -> str:
    """The same as one text, for a table's cell: marks stand in angle quotes."""
    return "".join(p if isinstance(p, str) else f"‹{p[2][0]}›" for p in visible(text))


def in_json(text: str) -> str:
    """A JSON text with its hidden characters escaped: the same values, and all of them seen."""
    return _HIDDEN.sub(lambda found: json.dumps(found.group())[1:-1], text)
