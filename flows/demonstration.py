"""Demonstration: settings and rows of `gristmill demo`, which an installed package brings too."""

import shutil
from pathlib import Path
from typing import Any

from gristmill.flows.config import CurateConfig, settings_in, validated
from gristmill.flows.connection import ROOT

HERE = Path("data") / "demo"  # as settings name it, and `gristmill demo --copy` makes it
FOLDER = ROOT / HERE
FILE = FOLDER / "curate.yaml"


def settings(store: str, root: str) -> CurateConfig:
    """The settings of the demo, whose rows are those here, or else those of the package.

    Args:
        store: folder of the store.
        root: folder of published datasets.
    """
    values = settings_in(FILE, "the demo's settings")
    if not (HERE / FILE.name).is_file():
        values = _moved(values)
    return validated(CurateConfig, {**values, "store": store, "export": {"root": root}}, str(FILE))


def _moved(value: Any) -> Any:  # noqa: ANN401  (a piece of YAML)
    """The same settings with paths to the package's rows."""
    if isinstance(value, dict):
        return {key: _moved(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner) for inner in value]
    mine = isinstance(value, str) and value.startswith(f"{HERE.as_posix()}/")
    return str(ROOT / value) if mine else value


def copied() -> Path:
    """Put the demo's rows where the files of `gristmill init` name them.

    Raises:
        ValueError: there is something already.
    """
    if HERE.exists():
        raise ValueError(f"{HERE} is there already: nothing was copied.")
    shutil.copytree(FOLDER, HERE)
    return HERE
