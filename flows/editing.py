"""Editing: JSON schemas of run files, by which an editor completes and checks them.

They are made here and now, so they know the methods that are installed, plug-ins included.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gristmill.flows.config import CleanConfig
from gristmill.flows.files import FLOWS
from gristmill.flows.settings import Settings
from gristmill.pipeline.records.build import did_you_mean

FOLDER = ".gristmill"  # beside a run file
# What a file may be for -> its settings.
KINDS: Mapping[str, type[Settings]] = {**FLOWS, "cleaners": CleanConfig}


def schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a kind of run file.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        meant = did_you_mean(kind, KINDS)
        raise ValueError(f"there is no kind {kind!r} of file; there are: {', '.join(KINDS)}{meant}")
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **KINDS[kind].model_json_schema()}


def write(kind: str, folder: Path) -> Path:
    """Write the schema of a kind of run file into a folder.

    Args:
        kind: of file.
        folder: made where it is not there.
    """
    text = json.dumps(schema(kind), indent=1, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}.schema.json"
    path.write_text(text + "\n", "utf-8")
    return path


def pointed(kind: str) -> str:
    """The first line of a run file, which tells an editor where its schema is."""
    return f"# yaml-language-server: $schema={FOLDER}/{kind}.schema.json\n"
