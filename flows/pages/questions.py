"""Questions: what the words of an address ask of a ledger."""

from collections.abc import Sequence

from starlette.datastructures import QueryParams

from gristmill.pipeline.explore.asked import FACETS, Asked


def question(asked: QueryParams, picked: Sequence[int] | None = None) -> Asked:
    """What the words of an address ask for.

    `q` words; `verdict`, `reason`, `stage`, `source`, `change` values; `in.COLUMN=LOW,HIGH` a
    range; `around=x,y,x,y,...` a polygon; `sort`, and `down=1` for the highest first.
    """
    values = tuple((f, tuple(asked.getlist(f))) for f in FACETS if f in asked)
    ranges: list[tuple[str, float, float]] = []
    for name, text in asked.multi_items():
        if name.startswith("in."):
            numbers = _floats(text)
            if len(numbers) != 2:
                raise ValueError(f"{name}={text} must be two numbers, e.g. 0.1,0.5.")
            ranges.append((name[3:], numbers[0], numbers[1]))
    if picked is not None and not all(type(at) is int for at in picked):
        raise ValueError("picked rows are given by their numbers.")
    return Asked(
        words=asked.get("q", ""),
        values=values,
        ranges=tuple(ranges),
        around=tuple(_floats(asked.get("around", ""))),
        picked=None if picked is None else tuple(picked),
        sort=asked.get("sort", ""),
        descending=asked.get("down") == "1",
    )


def number(asked: QueryParams, name: str, default: int = 0) -> int:
    """A whole number of an address."""
    text = asked.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}={text} must be a whole number.") from None


def _floats(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError(f"{text[:80]!r} must be numbers with commas between.") from None
