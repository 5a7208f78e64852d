"""Registry: the classes of a folder by the names of their files. Nothing is registered by hand."""

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from gristmill.pipeline.records.build import default, did_you_mean
from gristmill.pipeline.records.settings import settings_table

T = TypeVar("T")


def registry(folder: Path, prefix: str, base: type[Any]) -> dict[str, type[Any]]:
    """Id -> class, sorted by id: the id is the file's name, and a file defines one such class.

    Args:
        folder: a package; files whose names begin with `_` hold what the others share.
        prefix: the package's full name.
        base: what the class of a file descends from, or a protocol that it fulfils.
    """
    found: dict[str, type[Any]] = {}
    for path in sorted(folder.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        module = importlib.import_module(f"{prefix}.{path.stem}")
        classes = [
            c
            for c in vars(module).values()
            if isinstance(c, type) and issubclass(c, base) and c.__module__ == module.__name__
        ]
        assert len(classes) == 1, (
            f"{path} defines {len(classes)} of {base.__name__}, not one: split it, or begin its "
            "name with _."
        )
        found[path.stem] = classes[0]
    return found


def chosen(kind: str, name: str, known: Mapping[str, type[T]]) -> type[T]:
    """The class of that id.

    Raises:
        ValueError: there is none; the sentence lists those that there are.
    """
    if name not in known:
        raise ValueError(
            f"there is no {kind} {name!r}; there are: {', '.join(known)}{did_you_mean(name, known)}"
        )
    return known[name]


def described(known: Mapping[str, type[Any]]) -> list[dict[str, Any]]:
    """A line per class: its name, what it does, and its settings with their defaults."""
    return [
        {
            "name": name,
            "purpose": (cls.__doc__ or "").split("\n")[0].rstrip(),
            "settings": {
                f.name: "required" if default(f) is dataclasses.MISSING else default(f)
                for f in dataclasses.fields(cls)
                if f.init
            },
        }
        for name, cls in known.items()
    ]


def documented(kind: str, name: str, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The line of one class, with all that its docstring says.

    Raises:
        ValueError: there is none of that name.
    """
    cls = chosen(kind, name, known)
    (line,) = described({name: cls})
    options = settings_table(cls, line["settings"])
    return {**line, "options": options, "says": inspect.cleandoc(cls.__doc__ or "")}
