"""Columns: the fields of a record, the usual names of their columns, and a user's own mapping."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Usual column names of each field, the surest first; case, spaces and hyphens do not matter.
ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "instruction", "question", "query", "problem", "input", "context"),
    "ranking": ("output",),  # a list of answers, best first
    "candidates": ("completions", "solutions", "responses", "candidates"),  # answers with marks
    "completion": (
        *("completion", "response", "output", "answer", "solution", "target", "answers"),
        *("best_answer", "instances"),
    ),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "text": ("text", "content"),
    "input": ("input", "context"),  # what the instruction is about
    "system": ("system", "system_prompt"),
    "history": ("history",),  # earlier turns, as messages or as pairs
    "tools": ("tools", "functions"),
    "reasoning": ("reasoning_content", "thinking"),  # what the answer was thought out with
    "preferred": (),  # which answer won, where the columns are not called chosen and rejected
    "label": (),  # whether a single answer is desirable
    "user_id": ("user_id", "id", "uid", "uuid", "_id", "idx", "task_id"),
    "source": ("source",),
    "license": ("license",),
}
# Two answers by the names of their columns; a column of `VERDICTS` says which is better.
SIDES: tuple[tuple[str, str], ...] = (
    *((f"{name}_{a}", f"{name}_{b}") for name in ("response", "output", "answer", "completion",
      "conversation", "model_response") for a, b in (("1", "2"), ("a", "b"), ("0", "1"))),
    *((f"{name}{a}", f"{name}{b}") for name in ("response", "output", "answer", "completion")
      for a, b in (("1", "2"), ("a", "b"), ("0", "1"))),
    ("human_ref_a", "human_ref_b"),
)  # fmt: skip
VERDICTS = (
    *("preferred", "preference", "preference_strength", "overall_preference", "winner"),
    *("better_response_id", "better", "label", "labels"),
)
# Aliases in a user's mapping; where two fields share one ("input"), the later field has it.
_FIELD = {alias: name for name, names in ALIASES.items() for alias in names}
_FIELD.update({name: name for name in ALIASES})
_SHOWN = 20


def folded(name: str) -> str:
    """A column's name as it is compared: lower case, with underscores between its words."""
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of some rows, and what the user says of them.

    Attributes:
        names: the columns' own names, in the order in which they were met.
        mapped: field -> column, as the user gave it.
    """

    names: tuple[str, ...]
    mapped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, object]], mapped: Mapping[str, str]) -> "Columns":
        """The columns of `rows`, with a mapping that `fields` has checked."""
        return cls(names=tuple(dict.fromkeys(n for row in rows for n in row)), mapped=mapped)

    def named(self, usual: Iterable[str]) -> tuple[str, ...]:
        """Those of the usual names that are here, as they are written here."""
        by_name = {folded(name): name for name in reversed(self.names)}
        taken = [u if u in self.names else by_name.get(folded(u)) for u in usual]
        return tuple(dict.fromkeys(name for name in taken if name is not None))

    def candidates(self, name: str) -> tuple[str, ...]:
        """The columns that may hold a field: the one that the user named, or the usual ones."""
        if name in self.mapped:
            return (self.mapped[name],)
        taken = set(self.mapped.values())
        return tuple(c for c in self.named(ALIASES[name]) if c not in taken)


def fields(columns: Mapping[str, str]) -> dict[str, str]:
    """A user's mapping by field, whichever of a field's names was used.

    Raises:
        ValueError: a name is no field's, or two stand for one field or one column.
    """
    unknown = sorted(set(columns) - set(_FIELD))
    if unknown:
        raise ValueError(
            f"columns: no field is called {unknown[0]!r}{near(unknown[0], _FIELD)}; "
            f"fields: {', '.join(ALIASES)}"
        )
    mapped: dict[str, str] = {}
    for name, column in columns.items():
        if _FIELD[name] in mapped:
            raise ValueError(
                f"columns maps the field {_FIELD[name]!r} twice, the second time as {name!r}: "
                "keep one of them"
            )
        if column in mapped.values():
            raise ValueError(f"columns gives the column {column!r} to two fields: keep one of them")
        mapped[_FIELD[name]] = column
    return mapped


def near(name: str, known: Iterable[str]) -> str:
    """A question in brackets where a known name is close to this one, else nothing."""
    by_name = {folded(k): k for k in known}
    close = difflib.get_close_matches(folded(name), by_name, n=1, cutoff=0.6)
    return f" (did you mean {by_name[close[0]]!r}?)" if close else ""


def some(names: Iterable[str]) -> str:
    """The names, or the first of them, short enough for a sentence."""
    listed = list(names)
    shown = ", ".join(name[:80] for name in listed[:_SHOWN])
    return f"{shown} and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else shown
