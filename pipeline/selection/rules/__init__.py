"""The rules, one file each: scores in, an order of preference out. The file's name is the rule's.

A rule sees the candidates and what remains of the budget. It answers with row positions, best
first: pure, ties by id, every row at most once. The budget then walks that order
(`numerics.ordering.fitting`): a row that would exceed it is skipped.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.records.build import build
from gristmill.pipeline.records.registry import chosen, registry


@cache
def rules() -> dict[str, type[Rule]]:
    """Name -> class, sorted by name."""
    return registry(Path(__file__).parent, __name__, Rule)


def rule_named(name: str, settings: Mapping[str, Any] | None = None) -> Rule:
    """The rule of that name; text, as on a command line, becomes what the setting needs.

    Args:
        name: e.g. "top", "round_robin".
        settings: field -> value; as text, a mapping is `a:1,b:0.5` and a list is `x,y`.

    Raises:
        ValueError: unknown rule or setting, or a value that does not fit.
    """
    return build(chosen("rule", name, rules()), settings, f"rule {name}")
