"""The settings of a class, a row each: what `gristmill methods NAME` and the docs show."""

import dataclasses
import inspect
import io
import linecache
import re
import tokenize
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: as it is written; dotted, where it stands inside another.
        default: as Python writes it; empty for what only holds others.
        told: its choices, and what the file says of it.
    """

    name: str
    default: str
    told: str


def settings_rows(cls: type, fields: Mapping[str, Any], prefix: str = "") -> list[Setting]:
    """A dataclass's settings, in the order of its file.

    Args:
        cls: the dataclass.
        fields: those that a user may set, with their defaults.
        prefix: the dotted path to it.
    """
    hints, beside = typing.get_type_hints(cls), comments(cls)
    rows = []
    for name, value in fields.items():
        if dataclasses.is_dataclass(value):
            if name in beside:
                rows.append(Setting(name=f"{prefix}{name}", default="", told=beside[name]))
            inner = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            rows += settings_rows(type(value), inner, f"{prefix}{name}.")
            continue
        shown = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
        told = [*choices(hints[name]), *([beside[name]] if name in beside else [])]
        rows.append(Setting(name=f"{prefix}{name}", default=shown, told="; ".join(told)))
    return rows


def settings_table(cls: type, fields: Mapping[str, Any]) -> list[dict[str, str]]:
    """The same for a table that people read."""
    return [
        {"setting": s.name, "default": s.default, "what it is": s.told}
        for s in settings_rows(cls, fields)
    ]


def choices(hint: object) -> list[str]:
    """The values that a setting may have, where they are listed."""
    values = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return [" or ".join(f"`{v!r}`" for v in values)] if values else []


def _source(cls: type) -> str:
    """The lines of a class down to its first method, where its fields are."""
    try:
        lines = linecache.getlines(inspect.getsourcefile(cls) or "")
    except TypeError:  # a plug-in made without a file: its docstring says what it says
        return ""
    begun = [n for n, line in enumerate(lines) if re.match(rf"class {cls.__name__}\b", line)]
    if not begun:
        return ""
    body = lines[begun[0] + 1 :]
    ended = (n for n, line in enumerate(body) if re.match(r"[^\s)]|    (def |async def |@)", line))
    return "".join([lines[begun[0]], *body[: next(ended, len(body))]])


def comments(cls: type) -> dict[str, str]:
    """Field -> the comment on its line or above it, or what the docstring's Attributes say."""
    found: dict[str, str] = {}
    above: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(_source(cls)).readline):
        field = re.match(r"\s+(\w+): ", token.line)
        if token.type == tokenize.COMMENT and "noqa" not in token.string:
            text = token.string.lstrip("# ")
            if token.line.lstrip().startswith("#"):
                above.append(text)
            elif field:
                found[field[1]] = text
        elif token.type == tokenize.NEWLINE:
            if field and above:
                found.setdefault(field[1], " ".join(above))
            above = []
    doc = inspect.getdoc(cls) or ""
    _, _, attributes = doc.partition("Attributes:\n")
    for name, told in re.findall(r"^    (\w+): ((?:.|\n(?!    \w|\n|\S))+)", attributes, re.M):
        found.setdefault(name, " ".join(told.split()))
    return found
