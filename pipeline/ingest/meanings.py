"""What the files of a run mean: the shape of each, checked against what the user said of them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gristmill.pipeline.ingest import leftovers, threads
from gristmill.pipeline.ingest.binding import shape_of
from gristmill.pipeline.ingest.columns import ALIASES, SIDES, Columns, fields, folded, near, some
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.ingest.shapes import Shape
from gristmill.pipeline.ingest.sharding import File
from gristmill.pipeline.records.schema import canonical_json

LOG = logging.getLogger(__name__)
# A column whose name has such a word may be the field's, where no shape is known.
_GUESSES = {
    "prompt": ("question", "prompt", "instruction", "query", "problem", "input", "ask"),
    "completion": ("answer", "response", "output", "completion", "solution", "reply", "target"),
}

# Fields whose mapping says that rows are no single turns.
_CONTENT = ("messages", "prompt", "completion", "chosen", "rejected", "text", "ranking")


def understood(files: Sequence[File]) -> list[tuple[File, Shape | None]]:
    """Each file with its shape; files of single turns as files of dialogues.

    A shape is None where no row of the file can be read.

    Raises:
        ValueError: a mapping names a column that no row has, or a file has no known shape.
    """
    read = [_with_sample(file) for file in files]
    _check_mappings(read)
    found: list[tuple[File, Shape | None]] = []
    for file, sample in read:
        shape = shape_of(sample, fields(file.settings["columns"]), file.settings["kind"])
        if shape is None and sample:
            raise ValueError(_no_shape(file, sample))
        if shape is not None:
            for sentence in leftovers.sentences(file.settings["name"], shape, sample):
                LOG.warning("%s", sentence)
        found.append((file, shape))
    return found


def _with_sample(file: File) -> tuple[File, list[dict[str, Any]]]:
    """A file and some of its rows, or of its dialogues where its rows are single turns."""
    sample, kind = file.sample(), file.settings["kind"]
    if kind not in (None, "example") or set(fields(file.settings["columns"])) & set(_CONTENT):
        return file, sample
    try:
        layout = threads.layout_of(sample, whole=file.format.name == "JSON array")
    except ValueError as error:
        raise ValueError(f"{file.settings['name']}: {error}") from error
    if layout is None:
        return file, sample
    file = replace(file, format=threads.joined(file.format, layout))
    return file, file.sample()


def _check_mappings(read: Sequence[tuple[File, Sequence[dict[str, Any]]]]) -> None:
    """Refuse a mapping to a column that no row of the files has for which it was given."""
    given: dict[str, list[tuple[File, Sequence[dict[str, Any]]]]] = {}
    for file, sample in read:
        given.setdefault(canonical_json(file.settings["columns"]), []).append((file, sample))
    for group in given.values():
        for field, column in group[0][0].settings["columns"].items():
            seen = Columns.of((row for _, sample in group for row in sample), {})
            if column in seen.names or not seen.names:
                continue
            if any(_has(file, column) for file, _ in group):
                continue
            names = [file.settings["name"] for file, _ in group]
            who = f"{names[0]} does" if len(names) == 1 else f"the files {some(names)} do"
            raise ValueError(
                f"columns maps {field!r} to {column!r}, which {who} not have"
                f"{near(column, seen.names)}; found: {some(sorted(seen.names))}"
            )


def _has(file: File, column: str) -> bool:
    """Whether any row of the file has the column: it may be rarer than a sample shows."""
    for _, raw in file.format.items(file.path):
        try:
            if file.format.parse(raw).get(column) is not None:
                return True
        except (BadRow, RecursionError):
            continue
    return False


def _no_shape(file: File, sample: Sequence[dict[str, Any]]) -> str:
    name, mapped = file.settings["name"], fields(file.settings["columns"])
    columns = Columns.of(sample, mapped)
    found = some(sorted(columns.names))
    kind = file.settings["kind"]
    sides = next((s for names in SIDES if len(s := columns.named(names)) == 2), None)
    if sides is not None and "preferred" not in mapped and kind in (None, "pair"):
        return (
            f"{name} has two answers, {sides[0]} and {sides[1]}, and no column that says which is "
            f"better (found: {found}); name it, for instance columns={{'preferred': 'winner'}}, or "
            f"say columns={{'chosen': '{sides[0]}', 'rejected': '{sides[1]}'}}"
        )
    what = f"a known shape of the kind {kind}" if kind else "a known shape"
    if mapped:
        what += f" with {some(sorted(mapped))}"
    guess = {f: _guess(columns, f) or "..." for f in _GUESSES}
    said = ", ".join(f'"{field}": "{column}"' for field, column in guess.items())
    return (
        f"{name} has no columns of {what} (found: {found}); map them, for instance "
        f"columns={{{said}}}, with the fields {', '.join(ALIASES)}"
    )


def _guess(columns: Columns, field: str) -> str | None:
    words = _GUESSES[field]
    names = [c for c in columns.names if not {"id", "type"} & set(folded(c).split("_"))]
    named = [c for word in words for c in names if word in folded(c).split("_")]
    within = [c for word in words for c in names if word in folded(c)]
    return next(iter([*named, *within]), None)
