"""Which shape the rows of a file have: fields bound to columns by usual names and by the user."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.pipeline.ingest.columns import ALIASES, SIDES, VERDICTS, Columns, folded
from gristmill.pipeline.ingest.json_values import is_empty
from gristmill.pipeline.ingest.pairs import mark_of
from gristmill.pipeline.ingest.shapes import Shape
from gristmill.pipeline.ingest.verdicts import judgements
from gristmill.pipeline.records.schema import Kind

_PROMPT = ("input", "system", "history", "tools")
_ALWAYS = ("user_id", "source", "license")
# Kind, fields it must have, fields it may have; the first that fits a row is its shape. `first` and
# `second` are answers of which another column says which is better.
_SHAPES: tuple[tuple[Kind, tuple[str, ...], tuple[str, ...]], ...] = (
    ("pair", ("messages", "chosen", "rejected"), ("system", "tools", "preferred")),
    ("pair", ("prompt", "chosen", "rejected"), (*_PROMPT, "preferred")),
    ("pair", ("chosen", "rejected"), ("system", "history", "tools", "preferred")),
    ("pair", ("messages", "first", "second"), ("system", "tools", "preferred")),
    ("pair", ("prompt", "first", "second"), (*_PROMPT, "preferred")),
    ("pair", ("first", "second"), ("system", "history", "tools", "preferred")),
    ("example", ("messages",), ("system", "tools", "label")),
    ("pair", ("prompt", "ranking"), _PROMPT),
    ("pair", ("prompt", "candidates"), _PROMPT),
    ("example", ("prompt", "completion"), (*_PROMPT, "reasoning", "label")),
    ("example", ("prompt", "candidates"), (*_PROMPT, "reasoning", "label")),
    ("document", ("text",), ()),
)


def shape_of(
    rows: Sequence[Mapping[str, Any]], mapped: Mapping[str, str], kind: Kind | None
) -> Shape | None:
    """The shape that fits most of `rows`, or None if none fits any.

    Args:
        rows: a sample of one file.
        mapped: field -> column, as the user gave it (`columns.fields`).
        kind: the only kind to look for, or None.
    """
    columns = Columns.of(rows, mapped)
    verdict = mapped.get("preferred") or next(iter(columns.named(VERDICTS)), None)
    known = {field: columns.candidates(field) for field in ALIASES}
    known["tools"] = tuple(c for c in known["tools"] if _may_be_tools(rows, c))
    sides = [s for names in SIDES if len(s := columns.named(names)) == 2][:1]
    if sides and verdict is not None and not {"chosen", "rejected"} & set(mapped):
        known |= {"first": sides[0][:1], "second": sides[0][1:]}
    bound = (_bind(row, known, mapped, kind) for row in rows)
    votes = Counter(b for b in bound if b is not None)
    if not votes:
        return None
    (index, found), _ = votes.most_common(1)[0]
    kind, needed, optional = _SHAPES[index]
    used = {*found, *mapped.values()}
    options = {
        field: known[field] if field in mapped else tuple(c for c in known[field] if c not in used)
        for field in (*optional, *_ALWAYS)
    }
    named_sides = "first" not in needed and "preferred" not in mapped
    judged = judgements(rows, columns.names, mapped.get("label")) if "label" in optional else ()
    return Shape(
        kind=kind,
        fields=dict(zip(needed, found, strict=True)),
        options=options,
        verdict=None if named_sides else verdict,
        judged=tuple(j for j in judged if j.column not in found),
    )


def _bind(
    row: Mapping[str, Any],
    known: Mapping[str, tuple[str, ...]],
    mapped: Mapping[str, str],
    kind: Kind | None,
) -> tuple[int, tuple[str, ...]] | None:
    """Index of the first shape that fits the row and all that is mapped, and its columns."""
    for index, (of_kind, needed, optional) in enumerate(_SHAPES):
        if kind in (None, of_kind) and set(mapped) <= {*needed, *optional, *_ALWAYS}:
            columns = [_column(row, field, known, mapped) for field in needed]
            found = tuple(c for c in columns if c is not None)
            if len(found) == len(needed) and _fits(needed, found, mapped):
                return index, found
    return None


def _column(
    row: Mapping[str, Any],
    field: str,
    known: Mapping[str, tuple[str, ...]],
    mapped: Mapping[str, str],
) -> str | None:
    fits = {"ranking": _is_ranking, "candidates": _is_marked}.get(field, _is_there)
    names = known.get(field, ())
    if field in mapped:
        fits = _is_there
    return next((name for name in names if fits(row.get(name))), None)


def _fits(needed: tuple[str, ...], found: tuple[str, ...], mapped: Mapping[str, str]) -> bool:
    """Whether columns are what their fields say: one column for each, and a list that is ranked.

    A list of outputs is ranked where it follows an `instruction`, as LLaMA-Factory writes pairs;
    elsewhere it holds several right answers.
    """
    ranked = "ranking" not in needed or "ranking" in mapped or folded(found[0]) == "instruction"
    return ranked and len(set(found)) == len(found)


def _may_be_tools(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column holds tools: `functions` may hold anything else."""
    values = [row[column] for row in rows if not is_empty(row.get(column))]
    return folded(column) != "functions" or all(
        isinstance(v, list) and isinstance(v[0], dict) for v in values
    )


def _is_there(value: object) -> bool:
    return value is not None


def _is_ranking(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value)


def _is_marked(value: object) -> bool:
    return isinstance(value, list) and any(mark_of(item) is not None for item in value)
