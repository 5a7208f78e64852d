"""Choices: what a form and an editor offer where a setting names something of the catalogue.

They are part of a model's JSON schema alone, and looked up when one is asked for: names become
enums, and the settings that go with a name are checked by its own types. A file of settings is
judged by the catalogue itself, which also reads values that are written as text.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema

from gristmill.pipeline.records.build import default
from gristmill.pipeline.records.settings import comments

Known = Callable[[], Mapping[str, type[Any]]]
Json = dict[str, Any]

# A scorer's name in the run.
CALLED: Json = {
    "anyOf": [{"type": "string"}, {"type": "null"}],
    "title": "Name",
    "description": "its name in the run, where a method stands twice; default: the method",
    "default": None,
    "position": 1,
}


def methods() -> Mapping[str, type[Any]]:
    """Scoring methods."""
    from gristmill.selectors import catalog

    return catalog.methods()


def rules() -> Mapping[str, type[Any]]:
    """Rules of selection."""
    from gristmill.pipeline.selection import rules as found

    return found.rules()


def filters() -> Mapping[str, type[Any]]:
    """Filters of cleaning."""
    from gristmill.pipeline.clean import filters as found

    return found.filters()


def generators() -> Mapping[str, type[Any]]:
    """What makes records of documents."""
    from gristmill.synthesis import generators as found

    return found.generators()


def pair_rules() -> Mapping[str, type[Any]]:
    """Rules that make pairs of candidates."""
    from gristmill.synthesis.preference import rules as found

    return found.rules()


@dataclass(frozen=True)
class _OneOf:
    """A text that is one of some names."""

    known: Known

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        return {**handler(core), "enum": list(self.known())}


MethodName = Annotated[str, _OneOf(methods)]
RuleName = Annotated[str, _OneOf(rules)]
FilterName = Annotated[str, _OneOf(filters)]
GeneratorName = Annotated[str, _OneOf(generators)]
PairRuleName = Annotated[str, _OneOf(pair_rules)]


@cache
def fitting(named: str, known: Known) -> Json:
    """Keywords for an object with the keys `named` and `settings`: the latter by the former's type.

    Args:
        named: the key that holds the name.
        known: the classes by name.

    Returns:
        One and the same object each time, since Prefect asks for each task's schema; change none.
    """
    return {
        "allOf": [
            {
                "if": {"properties": {named: {"const": name}}, "required": [named]},
                "then": {"properties": {"settings": settings_of(cls, as_text=True)}},
            }
            for name, cls in known().items()
        ]
    }


@cache
def method_tabs() -> tuple[Json, ...]:
    """The methods that a form shows with their settings as fields; as `fitting`, to read alone."""
    from gristmill.selectors import catalog

    return tuple(tab(name, catalog.method(name)) for name in catalog.FORMS)


def tab(name: str, cls: type[Any]) -> Json:
    """A choice of its own for one class: its name is the key, and its settings are fields."""
    inner = {**settings_of(cls, as_text=False), "title": "Settings", "default": {}}
    return {
        "type": "object",
        "title": name,
        "description": (cls.__doc__ or "").split("\n")[0],
        "properties": {name: inner, "name": CALLED},
        "required": [name],
        "additionalProperties": False,
    }


def settings_of(cls: type[Any], *, as_text: bool) -> Json:
    """The JSON schema of a class's settings.

    Args:
        cls: a dataclass: a method, a rule, a filter ...
        as_text: a setting may also be given as the command line has it.
    """
    hints, told = typing.get_type_hints(cls, include_extras=True), comments(cls)
    properties: Json = {}
    required: list[str] = []
    for name, usual in _fields(cls).items():
        inner = usual if dataclasses.is_dataclass(usual) else None
        shown = (
            settings_of(type(inner), as_text=as_text)
            if inner is not None
            else _plain(hints[name], as_text=as_text)
        )
        if usual is dataclasses.MISSING:
            required.append(name)
        else:
            shown["default"] = _jsonable(usual)
        if name in told:
            shown["description"] = told[name]
        properties[name] = {"title": name, **shown, "position": len(properties)}
    found: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    if as_text:
        found["patternProperties"] = {r"\.": {}}  # warm_up.epochs: 2
    return {**found, "required": required} if required else found


def _fields(cls: type[Any]) -> Json:
    """The settings that a user may set, with their defaults; MISSING: it must be given."""
    from gristmill.pipeline.contracts import Scorer
    from gristmill.selectors import catalog

    if issubclass(cls, Scorer):
        return catalog.fields_of(cls)
    return {f.name: default(f) for f in dataclasses.fields(cls) if f.init}


def _plain(hint: Any, *, as_text: bool) -> Json:  # noqa: ANN401  (a type)
    """The JSON schema of a type, in a copy of its own."""
    found = deepcopy(_of_type(hint))
    if as_text and found.get("type") not in (None, "string"):
        return {"anyOf": [found, {"type": "string"}]}
    if as_text and "anyOf" in found and {"type": "string"} not in found["anyOf"]:
        return {**found, "anyOf": [*found["anyOf"], {"type": "string"}]}
    return found


@cache
def _of_type(hint: Any) -> Json:  # noqa: ANN401
    """The JSON schema of a type without references, so that it can stand anywhere."""
    made = TypeAdapter(hint).json_schema()
    definitions = made.pop("$defs", {})
    found: Json = _inlined(made, definitions)
    return found


def _inlined(part: Any, definitions: Json) -> Any:  # noqa: ANN401  (a piece of JSON)
    if isinstance(part, dict):
        if "$ref" in part:
            rest = {k: v for k, v in part.items() if k != "$ref"}
            part = {**definitions[part["$ref"].rpartition("/")[2]], **rest}
        return {key: _inlined(value, definitions) for key, value in part.items()}
    return [_inlined(p, definitions) for p in part] if isinstance(part, list) else part


def _jsonable(value: Any) -> Any:  # noqa: ANN401  (a default)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _jsonable(vars(value)[f.name]) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(v) for v in value]
    return value
