"""Patterns: paths that stand for several files, as `incoming/*.jsonl` or `days/**/*.parquet` do."""

import glob
from pathlib import Path


def is_pattern(path: str) -> bool:
    """Whether a path may stand for several files: `incoming/*.jsonl`, `days/**/*.parquet`."""
    return glob.has_magic(path) and "://" not in path


def matches(path: str) -> list[Path]:
    """The files of a pattern, in order of their names; hidden ones are none of them."""
    place = Path(path).expanduser()
    fixed = root_of(place)
    found = [p for p in fixed.glob(str(place.relative_to(fixed))) if p.is_file()]
    return sorted(p for p in found if not _hidden(p.relative_to(fixed)))


def root_of(pattern: Path) -> Path:
    """The folder below which a pattern looks."""
    return next(p for p in pattern.parents if not glob.has_magic(str(p)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
