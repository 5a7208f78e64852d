"""Build: settings, as text of a command line or as values of YAML, to a dataclass's fields.

Text becomes what the field's type says: `a:1,b:0.5` a mapping (a key may hold colons: the last one
parts it from its value), `x,y` a list, `none` or `null` nothing, where nothing is allowed.
Everything else is pydantic's to judge. A field that is itself a dataclass is set by a mapping, or
field by field with dotted keys (`warm_up.epochs=2`); what is not named stays at its default.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_NOTHING = ("none", "null")


def build(
    cls: type[T],
    settings: Mapping[str, Any] | None,
    where: str,
    names: Collection[str] | None = None,
) -> T:
    """An object of a dataclass from its settings.

    Args:
        cls: a dataclass.
        settings: field -> value or text.
        where: what is being set, as messages begin: "rule top".
        names: the fields that may be set; None: all.

    Raises:
        ValueError: an unknown setting, one that is lacking, or a value that does not fit.
    """
    return cls(**_values(cls, settings or {}, where, "", names))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that lists what is known: the nearest of it, if one is near.

    Of what stands inside something else (`warm_up.epochs`) its own name may be the near one.
    """
    names = list(known)
    inner = {path.rpartition(".")[2]: path for path in reversed(names)}
    near = [inner[name]] if name in inner else difflib.get_close_matches(name, names, n=1)
    near = near or [inner[n] for n in difflib.get_close_matches(name, inner, n=1)]
    return f"; did you mean {near[0]!r}?" if near else "."


def paths(cls: Any, names: Collection[str] | None = None, prefix: str = "") -> list[str]:  # noqa: ANN401
    """The settings of a dataclass as they are written: those of a dataclass within, dotted."""
    hints = typing.get_type_hints(cls)
    found: list[str] = []
    for field in dataclasses.fields(cls):
        if field.init and (names is None or field.name in names):
            part = _dataclass_in(hints[field.name])
            path = f"{prefix}{field.name}"
            found += [path] if part is None else paths(part, prefix=f"{path}.")
    return found


def _values(
    cls: Any,  # noqa: ANN401  (a dataclass: the standard library has no name for its type)
    settings: Mapping[str, Any],
    where: str,
    prefix: str,
    names: Collection[str] | None = None,
    changed: Any = None,  # noqa: ANN401
) -> dict[str, Any]:
    """The arguments of a class; `prefix` is the dotted path to it, `changed` what they change."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    known = [name for name in fields if names is None or name in names]
    values: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        name, dot, inner = key.partition(".")
        part = _dataclass_in(hints[name]) if name in known else None
        if name not in known or (dot and part is None):
            path, has = f"{prefix}{key}", paths(cls, names, prefix)
            raise ValueError(
                f"{where} has no setting {path!r}; it has: {', '.join(has) or 'none'}"
                f"{did_you_mean(path, has)}"
            )
        if dot:
            inside.setdefault(name, {})[inner] = value
        elif part is not None and isinstance(value, Mapping):
            inside.setdefault(name, {}).update(value)
        elif part is not None and not _whole(value, hints[name], part):
            inner_paths = paths(part, prefix=f"{prefix}{name}.")
            off = ", or none to do without" if type(None) in _choices(hints[name]) else ""
            raise ValueError(
                f"{where}.{prefix}{name} = {value!r}: it has settings of its own; give "
                f"{', '.join(inner_paths)}{off}."
            )
        else:
            values[name] = _fitted(value, hints[name], f"{where}.{prefix}{name}")
    for name, given in inside.items():
        if name in values:
            raise ValueError(f"{where}.{prefix}{name} is set as a whole and in part: choose one.")
        part = _dataclass_in(hints[name])
        assert part is not None  # a part of it was set
        now = default(fields[name]) if changed is None else getattr(changed, name)
        within = _values(
            part, given, where, f"{prefix}{name}.", changed=now if isinstance(now, part) else None
        )
        values[name] = (
            dataclasses.replace(now, **within) if isinstance(now, part) else part(**within)
        )
    for name, field in fields.items():
        if changed is None and name not in values and default(field) is dataclasses.MISSING:
            raise ValueError(f"{where} needs its setting {prefix + name!r}.")
    return values


def _whole(value: Any, hint: Any, part: Any) -> bool:  # noqa: ANN401
    """Whether a value stands for a whole dataclass: one of it, or nothing where that is allowed."""
    if isinstance(value, part):
        return True
    nothing = value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING)
    return nothing and type(None) in _choices(hint)


def default(field: "dataclasses.Field[Any]") -> Any:  # noqa: ANN401
    """The default of a field; MISSING, if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _fitted(value: Any, hint: Any, where: str) -> Any:  # noqa: ANN401
    """A value, or what a text says, as the type of its field has it."""
    import pydantic

    part = _dataclass_in(hint)
    if part is not None and isinstance(value, part):
        return value
    try:
        read = _read(value, hint) if isinstance(value, str) else value
        return pydantic.TypeAdapter(hint).validate_python(read)
    except pydantic.ValidationError as error:
        said = error.errors()[0]["msg"]
        raise ValueError(f"{where} = {value!r}: {said[:1].lower()}{said[1:]}.") from None
    except _NotPairsError as error:
        raise ValueError(f"{where} = {value!r}: {error}") from None


class _NotPairsError(Exception):
    """A text is no mapping."""


def _read(text: str, hint: Any) -> Any:  # noqa: ANN401
    """A text as nothing, a mapping, a list or itself; the type of the field decides."""
    choices = _choices(hint)
    if type(None) in choices and text.strip().lower() in _NOTHING:
        return None
    plain = [typing.get_origin(c) or c for c in choices]
    kinds = [k for k in plain if isinstance(k, type)]
    if str in kinds:
        return text
    items = [item.strip() for item in text.split(",") if item.strip()]
    if any(issubclass(k, Mapping) for k in kinds):
        single = [item for item in items if ":" not in item]
        if single:
            raise _NotPairsError(f"{single[0]!r} is not a valid pair; expected the form a:1,b:0.5.")
        return {key.strip(): value.strip() for key, _, value in (i.rpartition(":") for i in items)}
    return items if any(issubclass(k, Collection) for k in kinds) else text


def _choices(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """The types that a field's type offers: those of a union, or itself."""
    union = typing.get_origin(hint) in {typing.Union, types.UnionType}
    return typing.get_args(hint) if union else (hint,)


def _dataclass_in(hint: Any) -> Any:  # noqa: ANN401
    """The one dataclass that a field may hold, if there is one."""
    found = [c for c in _choices(hint) if isinstance(c, type) and dataclasses.is_dataclass(c)]
    return found[0] if len(found) == 1 else None
