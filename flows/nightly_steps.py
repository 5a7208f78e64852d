"""What a nightly run does beside a curate run: it compares with the version before.

No Prefect here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.flows.nightly_config import NightlyConfig
from gristmill.flows.steps import Curation, Rows
from gristmill.pipeline.export import diff, diff_page, verify
from gristmill.pipeline.export.diff import Diff
from gristmill.pipeline.export.drift import Limits, beyond
from gristmill.pipeline.export.versions import newest, used
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import MANIFEST, open_entry
from gristmill.pipeline.road.curated import as_published

# What settings say of where a run works and what it may take; the rows are the same wherever.
_ELSEWHERE = {"store", "limits", "sources", "reference", "allow_network", "drift", "pause"}
_TOLD: ContextVar[list[str] | None] = ContextVar("told", default=None)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a run would publish, held against what is published.

    Attributes:
        before: the version that is used; None: there is none.
        diff: what changed since; None: there is none.
        alarms: sentences on limits that it is beyond.
        unchanged: a sentence, if the newest version holds the same rows already; else None.
    """

    before: Path | None = None
    diff: Diff | None = None
    alarms: tuple[str, ...] = ()
    unchanged: str | None = None

    @property
    def taken_down(self) -> list[str]:
        """The ids of rows that were published and that a takedown list names."""
        if self.diff is None:
            return []
        return self.diff.ids("takedown")


def compared(run: Curation, rows: Rows) -> Compared:
    """Hold a run's rows against the version that is used, and against the newest.

    Args:
        run: a nightly run.
        rows: as the last stage left them.
    """
    config = nightly(run)
    home = Path(config.export.root, config.name)
    before, last = used(home), newest(home) if home.is_dir() else None
    if before is None or last is None:
        return Compared()
    found = _since(before, run, rows)
    alarms = beyond(found, Limits(**config.drift.limits))
    last_diff = found if last == before else _since(last, run, rows)
    return Compared(
        before=before,
        diff=found,
        alarms=tuple(alarms),
        unchanged=_unchanged(run, last, last_diff) if _whole(last, before) else None,
    )


def nightly(run: Curation) -> NightlyConfig:
    """The settings of a nightly run."""
    assert isinstance(run.config, NightlyConfig), "a nightly run"
    return run.config


def facts(run: Curation) -> dict[str, Any]:
    """What a version says of the run that made it, so that the next one can tell what is new."""
    asked = nightly(run).model_dump(mode="json", exclude=_ELSEWHERE)
    models = run.context.models
    described = models.describe(sorted(models.roles))
    return {"against": asked["against"], "settings": digest([asked, described])}


def page(run: Curation, found: Compared) -> bytes | None:
    """The page of what changed; None: there is nothing to compare with."""
    if found.diff is None:
        return None
    return diff_page.page(run.config.name, found.diff, found.alarms)


def stands(config: NightlyConfig) -> Path:
    """The newest version, where nothing follows it."""
    found = newest(Path(config.export.root, config.name))
    assert found is not None, "it was compared with"
    return found


@contextmanager
def announced() -> Iterator[list[str]]:
    """The sentences of runs in this block that had nothing new to publish."""
    told: list[str] = []
    token = _TOLD.set(told)
    try:
        yield told
    finally:
        _TOLD.reset(token)


def announce(sentence: str) -> None:
    """Tell whoever started the run."""
    told = _TOLD.get()
    if told is not None:
        told.append(sentence)


def _since(version: Path, run: Curation, rows: Rows) -> Diff:
    """What changed since a version, as it will be told once the rows are published."""
    assert rows.ledger is not None, "a stage has decided"
    ledger, dataset = open_entry(rows.ledger).scan(), Dataset.open(rows.pool)
    return diff.since(version, as_published(ledger, dataset, list(run.scorers)))


def _whole(last: Path, before: Path) -> bool:
    """Whether a version came to its end: it is used, or its gate held it."""
    return (last / verify.SUCCESS).exists() and (last == before or _held(_manifest(last)))


def _unchanged(run: Curation, last: Path, found: Diff) -> str | None:
    """Why no version follows the last one; None: one does."""
    told = _manifest(last)
    then = (told.get("selection") or {}).get("nightly") or {}
    if not found.same or then.get("settings") != facts(run)["settings"]:
        return None
    new = found.counts["pool_after"] - found.counts["pool_before"]
    rows = f"none of the {new:,} new rows was taken" if new > 0 else "there is nothing new"
    held = ", which its gate held," if _held(told) else ""
    return f"{rows}: {last.parent.name} {last.name}{held} stands, and no version was made."


def _held(manifest: Mapping[str, Any]) -> bool:
    gate = (manifest.get("evaluation") or {}).get("gate") or {}
    return gate.get("promoted") is False


def _manifest(version: Path) -> dict[str, Any]:
    verify.demand(version, [MANIFEST])
    found: dict[str, Any] = json_text.loads((version / MANIFEST).read_text("utf-8"))
    return found
