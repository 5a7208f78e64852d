"""Artifacts: what a run leaves on its page, under keys that begin with the dataset's name.

Prefect keeps the versions of a key: those of one dataset are one history, and another dataset has
another. The open-source UI opens no file of a disk, so the published card stands in the artifact
itself, the plots are images in it, and the report is a link if the server shows reports.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from gristmill.flows import finetune_steps, publishing
from gristmill.pipeline.compare.compared import effects, told
from gristmill.pipeline.export import ledgers
from gristmill.pipeline.export.diff import Diff
from gristmill.pipeline.report.markdown import cell
from gristmill.pipeline.road.finetuned import Finetuned

_SHOWN = 200  # lines of a table
_CHANGES = {
    "changes": "rows in and out, and why",
    "mixture": "kept rows by source",
    "scores": "scores",
    "sources": "sources that came and went",
}


def key(dataset: str, part: str = "") -> str:
    """The key of a dataset, or of one part of what is said of it.

    Prefect allows small letters, figures and dashes; a name that has others is told apart by a
    hash, so that `a.b` and `a_b` are two. No name has two dashes in a row left, so that a part
    of one dataset is never another.
    """
    name = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-")
    if name != dataset:
        name = f"{name}-{hashlib.blake2b(dataset.encode(), digest_size=3).hexdigest()}"
    return f"{name}--{part}" if part else name


def published(dataset: str, folder: Path) -> None:
    """The published folder: its card, the way to its report, its plots."""
    version = f"{dataset} {folder.name}"
    create_markdown_artifact(publishing.announcement(folder), key=key(dataset), description=version)
    for part, image in ledgers.pictures(folder).items():
        _image(image, key(dataset, part), f"{version}: {part}")


def model(made: Finetuned, out: str | None) -> None:
    """A trained model: its card, what came of the training, the loss by step."""
    text = finetune_steps.announcement(made, out)
    create_markdown_artifact(text, key=key(made.name), description=made.name)
    listed(made.name, "metrics", [made.summary], "what came of the training")
    _image(made.curve, key(made.name, "loss"), f"{made.name}: loss by step")


def compared(name: str, comparison: Path) -> None:
    """What a comparison found: sentences, the leaderboard, and the verdict of a gate."""
    found = told(comparison)
    verdict = [found["verdict"]["sentence"]] if found["verdict"] else []
    sentences = [*verdict, *found["warnings"], *found["summaries"]]
    text = "\n".join(f"- {s}" for s in sentences)
    create_markdown_artifact(text, key=key(name, "comparison"), description=name)
    listed(name, "leaderboard", effects(comparison), "effects and intervals")


def changed(dataset: str, diff: Diff, alarms: Sequence[str]) -> None:
    """What changed since the version before: sentences, and a table of each kind."""
    beyond = [f"- **beyond a limit:** {cell(sentence)}" for sentence in alarms]
    told = [f"- {cell(sentence)}" for sentence in diff.sentences]
    text = "\n".join([f"**{dataset}: from {diff.before} to {diff.after}**\n", *beyond, *told])
    create_markdown_artifact(text, key=key(dataset, "diff"), description=f"since {diff.before}")
    for part, what in _CHANGES.items():
        rows = vars(diff)[part].head(_SHOWN).to_dicts()
        if rows:
            listed(dataset, f"diff-{part}", rows, f"{what}, since {diff.before}")


def records(dataset: str, text: str) -> None:
    """What a synthesis made."""
    create_markdown_artifact(text, key=key(dataset, "records"), description=dataset)


def listed(dataset: str, part: str, rows: Sequence[Mapping[str, Any]], what: str) -> None:
    """A table."""
    create_table_artifact([dict(r) for r in rows], key=key(dataset, part), description=what)


def _image(image: bytes, name: str, what: str) -> None:
    """An SVG image, as the UI shows it."""
    address = f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}"
    create_image_artifact(address, key=name, description=what)
