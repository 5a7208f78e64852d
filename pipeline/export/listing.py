"""Listing: the published datasets in a folder, a line a version."""

from pathlib import Path
from typing import Any

from gristmill.pipeline.export import verify
from gristmill.pipeline.export.versions import homes_in, number, versions
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.store import MANIFEST, walk


def listed(root: Path) -> list[dict[str, Any]]:
    """Every version of every dataset in a folder, or of the one dataset that it is.

    Raises:
        ValueError: there is none.
    """
    homes = homes_in(root)
    if not homes:
        raise ValueError(f"there is no published dataset under {root}.")
    return [_line(home, v) for home in homes for v in sorted(versions(home), key=number)]


def _line(home: Path, version: Path) -> dict[str, Any]:
    path = version / MANIFEST
    told = json_text.loads(path.read_text("utf-8")) if path.is_file() else {}
    rows = told.get("rows") or {}
    gate = ((told.get("evaluation") or {}).get("gate") or {}).get("promoted")
    link = home / "latest"
    return {
        "dataset": home.name,
        "version": version.name,
        "kind": told.get("kind"),
        "rows": sum(n for name, n in rows.items() if name.startswith("default/")),
        "of": rows.get("ledger/pool"),
        "bytes": sum(p.stat().st_size for p in walk(version)),
        "gate": None if gate is None else "promoted" if gate else "held",
        "latest": "latest" if link.is_symlink() and link.resolve().name == version.name else None,
        "state": "whole" if (version / verify.SUCCESS).exists() else "unfinished",
    }
