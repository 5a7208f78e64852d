"""What is no text: parts of a message and columns that hold images, video or sound."""

from collections.abc import Mapping
from typing import Any

from gristmill.pipeline.ingest.columns import folded
from gristmill.pipeline.ingest.json_values import is_empty, unpadded
from gristmill.pipeline.ingest.raw_rows import BadRow

NOT_TEXT = "not_text"
_MEDIA = ("image", "video", "audio")
_HOLDERS = frozenset(
    (
        *(f"{medium}{form}" for medium in _MEDIA for form in ("", "s")),
        *(
            f"{medium}{form}{number}"
            for medium in _MEDIA
            for form in ("_path", "_url", "_file", "_data", "_base64", "_bytes")
            for number in ("", "s")
        ),
        *(f"input_{medium}" for medium in _MEDIA),
        "pixel_values",
    )
)
_WITHIN_PART = frozenset(("inline_data", "inlinedata", "file_data", "filedata", "bytes"))
_TEXTS = (None, "text", "input_text", "output_text")


def check_columns(row: Mapping[str, Any]) -> None:
    """Refuse a row, or a turn, that holds something to look at or to listen to.

    Raises:
        BadRow: `not_text`, with the column.
    """
    for name, value in row.items():
        if folded(name) in _HOLDERS and _holds(value):
            raise BadRow(f"{NOT_TEXT}: {name[:40]}")


def _holds(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_holds, value))
    if isinstance(value, dict):
        return not is_empty(unpadded(value))
    return isinstance(value, str) and bool(value.strip())


def part_text(part: object) -> str:
    """The text of one part of a content, or `BadRow` where it is no text."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        held = any(
            folded(k) in _HOLDERS | _WITHIN_PART and _holds(v)
            for k, v in part.items()
            if k != "type"
        )
        if part.get("type") == "refusal" and isinstance(part.get("refusal"), str):
            return str(part["refusal"])
        if part.get("type") in _TEXTS and not held and isinstance(part.get("text"), str):
            return str(part["text"])
    raise BadRow(NOT_TEXT)
