"""Problems: everything that is wrong with a file of settings, told at once, a sentence each."""

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from gristmill.pipeline.records.build import did_you_mean

_SHOWN = 80  # characters of a value that a sentence repeats


class Problems(ValueError):
    """What is wrong with one thing; `str` is one line, the command line prints one a sentence.

    Attributes:
        where: the file.
        sentences: one for each problem.
    """

    def __init__(self, where: str, sentences: Sequence[str]) -> None:
        self.where, self.sentences = where, tuple(sentences)
        if len(self.sentences) == 1:
            super().__init__(f"{where}: {self.sentences[0]}")
        else:
            told = " ".join(f"({n}) {s}" for n, s in enumerate(self.sentences, 1))
            super().__init__(f"{where}: {len(self.sentences)} problems: {told}")


def sentences(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """All problems of a pydantic error; unknown keys with the nearest that there is.

    Args:
        error: what validation raised.
        model: what was validated.
    """
    return list(dict.fromkeys(_sentence(found, model) for found in error.errors()))


def first_letter_lower(text: str) -> str:
    """A message as the end of a sentence; what it quotes stays as it is."""
    return text[:1].lower() + text[1:]


def _sentence(found: Any, model: type[BaseModel]) -> str:  # noqa: ANN401  (pydantic's error)
    unknown = found["type"] == "extra_forbidden"  # whatever it is called, its end is a key
    *outer, last = found["loc"] or ("settings",)
    path = [p for p in outer if isinstance(p, int) or _is_key(p)]
    path += [last] if unknown or isinstance(last, int) or _is_key(last) else []
    where = ".".join(map(str, path)) or "settings"
    if unknown:
        known = sorted(_keys(model, path[:-1]))
        there = f"; there are: {', '.join(known)}" if known else ""
        return f"{where}: there is no such setting{there}{did_you_mean(str(path[-1]), known)}"
    if found["type"] == "missing":
        return f"{where}: is missing; give it a value."
    said = first_letter_lower(found["msg"].removeprefix("Value error, "))
    value = repr(found["input"])
    hidden = value in said or len(value) > _SHOWN or _may_hold_a_key(path, found["input"])
    shown = "" if hidden else f"; found {value}"
    return f"{where}: {said.rstrip('.')}{shown}."


def _may_hold_a_key(path: Sequence[int | str], value: object) -> bool:
    """Whether a value may be, or hold, an API key that somebody wrote where none belongs."""
    rest = [value]
    while rest:
        node = rest.pop()
        if isinstance(node, dict) and node:
            return True
        rest += node if isinstance(node, (list, tuple)) else ()
    return bool(path) and path[-1] in ("key_variable", "url")


def _is_key(part: str) -> bool:
    """Whether a part of a path is a key; pydantic also names the branch of a union."""
    return not part.endswith("]") and part not in {"constrained-str", "str", "int", "float"}


def _keys(model: type[BaseModel], path: Sequence[int | str]) -> set[str]:
    """The keys that a mapping at a path may have; none, where it is no model of ours."""
    here: type[BaseModel] | None = model
    for part in path:
        if here is None or isinstance(part, int):
            continue
        field = here.model_fields.get(part)
        here = None if field is None else next(_models(field.annotation), None)
    return set() if here is None else set(here.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401  (a type)
    """The models that an annotation names, through lists, unions and optionals."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _models(inner)
