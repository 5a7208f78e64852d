"""Moving: what changed between two comparisons, or between two published versions."""

from pathlib import Path
from typing import Any

from gristmill.flows.publishing import verdict
from gristmill.pipeline.compare import moved, movement
from gristmill.pipeline.compare.compared import TABLES
from gristmill.pipeline.export.changes import changes
from gristmill.pipeline.export.verify import SUMS
from gristmill.pipeline.export.versions import published


def between(before: Path, after: Path) -> tuple[str, list[dict[str, Any]]]:
    """What moved, in Markdown and as lines.

    Args:
        before: a finished comparison, or a published version (or dataset: its newest).
        after: the same kind of thing, later.

    Raises:
        ValueError: one of them is neither, or they are not alike.
    """
    boards = [(_newest(path) / TABLES[0]).is_file() for path in (before, after)]
    if all(boards):
        old, new = (moved.read(_newest(path)) for path in (before, after))
        return movement.leaderboards(old, new), moved.moved(old, new).to_dicts()
    if any(boards):
        board, other = (before, after) if boards[0] else (after, before)
        raise ValueError(
            f"{board} is a comparison and {other} is none: give two comparisons, or two published "
            "versions."
        )
    was, now = published(before), published(after)
    rows = changes(was, now)
    return movement.versions(verdict(was), verdict(now), rows), rows.to_dicts()


def _newest(path: Path) -> Path:
    """A comparison's folder: itself, or the one that was finished last in the folder of a name."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}.")
    if (path / TABLES[0]).is_file() or (path / SUMS).is_file():
        return path
    inside = [p for p in path.iterdir() if (p / TABLES[0]).is_file() and p.name[0] != "."]
    return max(inside, key=lambda p: p.stat().st_mtime, default=path)
