"""The catalogue: every method there is, found by walking the family folders.

A method is a file `selectors/<family>/<id>.py` that defines exactly one `Scorer`; third parties add
theirs through entry points of the group `gristmill.selectors` (name = id, value = the class).
Nothing is registered by hand.
"""

import dataclasses
import importlib.metadata
import inspect
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gristmill.pipeline.contracts import Scorer, View, asked_roles
from gristmill.pipeline.records.build import build
from gristmill.pipeline.records.registry import chosen, registry
from gristmill.pipeline.records.settings import settings_table

GROUP = "gristmill.selectors"
# What to begin with: what there is -> the method, above the table of all of them.
STARTS = {
    "examples and some target rows": "rds_plus (without a language model: embedding_similarity)",
    "examples and no target": "random under the rule stratified, then ifd",
    "preference pairs": "irm (with a reward model: reward_margin)",
    "scores of your own": "column",
}

# Methods whose settings a run form shows as fields, a tab each: as many as its width holds. Those
# of the others are written as JSON.
FORMS = ("rds_plus", "embedding_similarity", "less", "ifd", "irm", "column")


@cache
def methods() -> dict[str, type[Scorer]]:
    """Id -> class, sorted by id."""
    found: dict[str, type[Scorer]] = {}
    for family in sorted(p.parent for p in Path(__file__).parent.glob("*/__init__.py")):
        found |= registry(family, f"gristmill.selectors.{family.name}", Scorer)
    for point in importlib.metadata.entry_points(group=GROUP):
        found[point.name] = point.load()
    return dict(sorted(found.items()))


def make(name: str, settings: Mapping[str, Any] | None = None) -> Scorer:
    """Build a method from its id and settings (values may be text, as on a command line).

    Raises:
        ValueError: unknown method or setting, or a value that does not fit.
    """
    cls = method(name)
    return build(cls, settings, name, fields_of(cls))


def method(name: str) -> type[Scorer]:
    """The class of a method.

    Raises:
        ValueError: there is none of that id.
    """
    return chosen("method", name, methods())


def fields_of(cls: type[Scorer]) -> dict[str, Any]:
    """Settings a user may set, with their defaults. Views are set in code, `given` by the run."""
    hints = typing.get_type_hints(cls)
    default = cls()
    return {
        f.name: vars(default)[f.name]
        for f in dataclasses.fields(cls)
        if f.name != "given"
        if not (isinstance(hints[f.name], type) and issubclass(hints[f.name], View))
    }


def describe() -> list[dict[str, Any]]:
    """One row per method: what `gristmill methods` prints and the docs are made of."""
    return [described(name) for name in methods()]


def described(name: str) -> dict[str, Any]:
    """The row of one method."""
    cls = method(name)
    return {
        "name": name,
        "family": family(cls),
        "records": list(cls.records),
        "reference": cls.reference,
        "roles": sorted(asked_roles(cls())),
        "scope": cls.scope,
        "cost": cls.cost,
        "paper": cls.paper,
        "purpose": (cls.__doc__ or "").split("\n")[0],
        "settings": {k: _jsonable(v) for k, v in fields_of(cls).items()},
    }


def family(cls: type[Scorer]) -> str:
    """The folder of a method of ours; a third party's method has none."""
    top, _, rest = cls.__module__.partition(".selectors.")
    return rest.split(".")[0] if top == "gristmill" else "plug-in"


def of(name: str) -> dict[str, Any]:
    """The line of one method, with all that its docstring says."""
    cls = method(name)
    options = settings_table(cls, fields_of(cls))
    return {
        **described(name),
        "options": options,
        "rule": cls.rule,
        "says": inspect.cleandoc(cls.__doc__ or ""),
    }


def plain(scorer: Scorer) -> dict[str, Any]:
    """The settings of a built method as JSON-able values."""
    return {name: _jsonable(vars(scorer)[name]) for name in fields_of(type(scorer))}


def markdown() -> str:
    """The table of `docs/choosing.md`, "what I have -> which method"."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in describe():
        groups.setdefault(have(row), []).append(row)
    lines = [
        "| I have | method | what it keeps | needs | cost | paper |",
        "|---|---|---|---|---|---|",
    ]
    for what in sorted(groups):
        for row in groups[what]:
            roles = ", ".join(row["roles"]) or "no model"
            lines.append(
                f"| {what} | `{row['name']}` | {row['purpose']} | {roles} | {row['cost']} "
                f"| {row['paper'] or '-'} |"
            )
    return "\n".join(lines) + "\n"


def have(row: Mapping[str, Any]) -> str:
    """What a user must have for a method, in words."""
    kinds = (
        "any records" if len(row["records"]) == 3 else " or ".join(f"{k}s" for k in row["records"])
    )
    with_target = {
        "required": " and a target set",
        "optional": ", perhaps a target set",
        "none": "",
    }
    return f"{kinds}{with_target[row['reference']]}"


def _jsonable(value: Any) -> Any:  # noqa: ANN401
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _jsonable(vars(value)[f.name]) for f in dataclasses.fields(value)}
    return dict(value) if isinstance(value, Mapping) else value
