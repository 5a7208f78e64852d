"""Approval: what a run is about to publish waits for somebody who has looked at a sample of it.

    <store>/approvals/<name>-<key8>/
        request.json     sealed: what is to be published, when it was asked
        sample.parquet   the rows to look at: `KEY`, `stratum`, and the record
        report.html      the same as a page, which runs no script
        diff.html        what changed since the version before, if the run was asked to look
        decision.json    sealed, once it has fallen: which, by whom, why, when

The key holds the content of the ledger and of the records (and of what a gate was told), so that
the same command, run again, finds the decision on exactly what it would publish; anything else is
asked anew. Whoever decides last prevails, and the decisions before stay on record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import KEY, digest
from gristmill.pipeline.records.sealed import read_sealed, seal
from gristmill.pipeline.records.store import (
    Entry,
    Store,
    differing,
    listing,
    locked,
    remove,
    write_table,
    write_text,
)
from gristmill.pipeline.review import approval_page, sample

Verdict = Literal["approved", "rejected"]
_REQUEST, _DECISION, SAMPLE, PAGE = "request.json", "decision.json", "sample.parquet", "report.html"
CHANGES = "diff.html"


class WaitsForApproval(Exception):
    """A run stands before publication, and nobody has decided yet; its text says what to do."""


class Rejected(Exception):
    """Somebody rejected what a run would publish; its text says who and why."""


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A request that stands.

    Attributes:
        path: its folder.
        request: what was asked: `name`, `asked_at`, `rows`, `of`, `verdicts`, `gate`, `alarms`.
    """

    path: Path
    request: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The dataset that is to be published."""
        return str(self.request["name"])

    @property
    def alarms(self) -> list[str]:
        """Sentences on limits that the rows are beyond."""
        return [str(s) for s in self.request.get("alarms") or ()]

    @property
    def decision(self) -> Mapping[str, Any] | None:
        """The decision that holds: `verdict`, `by`, `reason`, `at`, `before`; None: there is none.

        Raises:
            ValueError: it was damaged.
        """
        path = self.path / _DECISION
        found = read_sealed(path)
        if found is None and path.exists():
            raise ValueError(f"{path} is damaged: remove it, and decide again.")
        return found

    def sampled(self) -> pl.DataFrame:
        """The rows to look at.

        Raises:
            ValueError: they are not those that were drawn.
        """
        if differing(self.path, self.request.get("files", ())) is not None:
            raise ValueError(
                f"the sample in {self.path} is damaged: run the command again that asks, which "
                "makes it again."
            )
        return pl.read_parquet(self.path / SAMPLE)

    def sampled_rows(self) -> list[dict[str, Any]]:
        """The same as plain values: key, stratum, score, rank, and `turns`."""
        told = (*KEY, "stratum", "score", "rank")
        rows = self.sampled().iter_rows(named=True)
        return [{k: r[k] for k in told} | {"turns": approval_page.turns(r)} for r in rows]

    def decide(self, verdict: Verdict, by: str, reason: str = "") -> Mapping[str, Any]:
        """Put a decision on the disk; the one that holds.

        Args:
            verdict: of the person.
            by: who they are.
            reason: a rejection needs one.

        Raises:
            ValueError: there is no name, or a rejection without a reason.
        """
        who, why = " ".join(by.split())[:120], " ".join(reason.split())[:2_000]
        if not who:
            raise ValueError("a decision needs the name of whoever takes it.")
        if verdict == "rejected" and not why:
            raise ValueError("a rejection needs its reason: say what is wrong with the rows.")
        with locked(self.path / ".lock"):
            now = self.decision
            said = {"verdict": verdict, "by": who, "reason": why}
            if now is not None and said == {k: now[k] for k in said}:
                return now
            earlier = [] if now is None else [*now["before"], {**now, "before": []}]
            made = {**said, "at": _now().isoformat(timespec="seconds"), "before": earlier}
            write_text(self.path / _DECISION, seal(made))
            return made

    def overdue(self, hours: float | None) -> bool:
        """Whether nobody has decided within some hours; None: there is no end to waiting."""
        if hours is None or self.decision is not None:
            return False
        asked = datetime.fromisoformat(str(self.request["asked_at"]))
        return (_now() - asked).total_seconds() > hours * 3_600


def asked(
    store: Store,
    name: str,
    dataset: Dataset,
    ledger: Entry,
    *,
    rows: int,
    gate: Mapping[str, Any] | None = None,
    alarms: Sequence[str] = (),
    changes: bytes | None = None,
) -> Approval:
    """The request to publish what a ledger keeps; made, with its sample, if it is not there whole.

    Args:
        store: where it lies.
        name: of the dataset.
        dataset: the records.
        ledger: whose kept rows would be published.
        rows: of the sample, at most.
        gate: what a gate said of them, if there is one.
        alarms: sentences on limits that they are beyond.
        changes: page of what changed since the version before, if there is one.
    """
    key = digest([name, dataset.content, ledger.content, dict(gate) if gate else None])
    path = store.root / "approvals" / f"{name}-{key[:8]}"
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / ".lock"):
        there = read_sealed(path / _REQUEST)
        if there is None or differing(path, there.get("files", ())) is not None:
            table = ledger.frame()
            drawn = sample.stratified(table, rows)
            kept = table.filter(verdict="kept")
            request = {
                "name": name,
                "key": key,
                "asked_at": (there or {}).get("asked_at", _now().isoformat(timespec="seconds")),
                "rows": kept.height,
                "of": table.height,
                "verdicts": sample.counted(table),
                "strata": sample.shares(kept, drawn),
                "gate": dict(gate) if gate else None,
                "alarms": list(alarms),
            }
            for name in (_REQUEST, SAMPLE, PAGE, CHANGES):
                remove(path / name)
            if changes is not None:
                (path / CHANGES).write_bytes(changes)
            shown = _with_texts(dataset, drawn)
            write_table(shown, path / SAMPLE)
            (path / PAGE).write_bytes(approval_page.page(request, shown))
            made = [path / name for name in (SAMPLE, PAGE, CHANGES) if (path / name).exists()]
            request["files"] = [{**f, "path": p.name} for p in made for f in listing(p)]
            write_text(path / _REQUEST, seal(request))
    return opened(path)


def opened(path: Path) -> Approval:
    """The request in a folder.

    Raises:
        ValueError: there is none.
    """
    request = read_sealed(path / _REQUEST)
    if request is None:
        raise ValueError(
            f"{path / _REQUEST} is missing or damaged: give a folder under `approvals` of a store, "
            "or run the command again that asks, which makes it again."
        )
    return Approval(path=path, request=request)


def is_request(path: Path) -> bool:
    """Whether a folder is that of a request."""
    return (path / _REQUEST).is_file()


def waiting(store: Path) -> list[Approval]:
    """The requests of a store on which nobody has decided, the oldest first."""
    found = [opened(p.parent) for p in (store / "approvals").glob(f"*/{_REQUEST}")]
    left = [one for one in found if one.decision is None]
    return sorted(left, key=lambda one: (str(one.request["asked_at"]), one.path))


def named(name: str, store: Path) -> Approval:
    """The request that a folder or the name of a dataset means: of a name, the newest.

    Raises:
        ValueError: there is none.
    """
    if is_request(Path(name)):
        return opened(Path(name))
    found = [opened(p.parent) for p in (store / "approvals").glob(f"*/{_REQUEST}")]
    meant = [one for one in found if name in (one.name, one.path.name)]
    if not meant:
        known = ", ".join(sorted({one.name for one in found})) or "none"
        raise ValueError(
            f"nothing called {name!r} was put up for approval in {store}; there are: {known} "
            "(--store names another store)."
        )
    return max(meant, key=lambda one: (str(one.request["asked_at"]), one.path))


def _with_texts(dataset: Dataset, drawn: pl.DataFrame) -> pl.DataFrame:
    texts = [b.join(drawn.select(*KEY), on=KEY, how="semi") for b in dataset.blocks()]
    return drawn.join(pl.concat(texts), on=KEY, how="left", maintain_order="left")


def _now() -> datetime:
    return datetime.now(UTC)
