"""Reviewing: what a command opens for people to look at, as an app with its address."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from gristmill.flows import steps
from gristmill.flows.pages import approve as approve_page
from gristmill.flows.pages import review as review_page
from gristmill.flows.pages.guard import Guard
from gristmill.pipeline.export.versions import rows_of
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.review import approval, folder
from gristmill.pipeline.review.desk import Desk
from gristmill.pipeline.review.orders import Order
from gristmill.pipeline.review.scores import scores_of

PORT = 8790
_ADDRESS = "address.json"
_GUIDELINE = 200_000  # characters


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `gristmill review` was asked for: its options."""

    data: str
    store: str
    split: str | None = None
    order: str = "random"
    scores: Path | None = None
    double: float = 0.1
    guideline: Path | None = None
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A page that is ready to be served.

    Attributes:
        title: what it is of.
        app: what answers.
        home: where its address is kept, so that a page that is open outlives the server: who comes
            back finds the same port, and the key that the browser holds.
    """

    title: str
    app: Starlette
    home: Path

    @property
    def usual_port(self) -> int:
        """The port of last time, or the one of all."""
        return int(self._kept().get("port") or PORT)

    def door(self, at: Any) -> Guard:  # noqa: ANN401  (a socket)
        """The guard of a server at a socket, with the key of last time."""
        port = at.getsockname()[1]
        token = str(self._kept().get("token") or secrets.token_urlsafe(32))
        path = self.home / _ADDRESS
        half = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"port": port, "token": token}, file)
        half.rename(path)
        return Guard(token=token, port=port)

    def _kept(self) -> dict[str, Any]:
        try:
            found = json.loads((self.home / _ADDRESS).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def reviewing(asked: Asked) -> Opened:
    """The page on which rows are judged."""
    found, name, rows = desk(asked)
    page = review_page.Page(
        desk=found,
        title=name,
        guideline=_guideline(asked.guideline),
        changed=changes(asked.data, rows),
    )
    kind = "pairs" if found.pairs else "rows"
    path = found.review.path
    title = f"review of {len(found.items):,} {kind} of {asked.data}, kept in {path}"
    return Opened(title=title, app=page.app(), home=path)


def desk(asked: Asked) -> tuple[Desk, str, str]:
    """What is reviewed, what people call it, and the path that its rows were read from."""
    store = steps.open_store(asked.store)
    home = Path(asked.data).expanduser().resolve()
    rows = rows_of(asked.data)
    order = Order.parse(asked.order)
    scores = scores_of(Path(rows), asked.scores) if order.shared else None
    dataset = ingest(store, [Source(path=rows, split=asked.split)], max_bad_share=1.0)
    name = home.stem if home.is_file() else home.name
    review = folder.opened(store, dataset, name, asked.seed)
    made = Desk(review=review, order=order, scores=scores, double=asked.double, limit=asked.limit)
    return made, name, rows


def approving(path: Path) -> Opened:
    """The page on which a run that waits is approved, or rejected."""
    asked = approval.opened(path)
    return Opened(
        title=f"{asked.name} waits for approval: {asked.request['rows']:,} rows to publish",
        app=approve_page.app(asked),
        home=path,
    )


def changes(data: str, rows: str) -> Callable[[], str | None]:
    """A question to ask now and then: is what the review was opened on still what lies there?

    Args:
        data: as the user named it.
        rows: the path that was read for it: of a dataset, one version.
    """
    before = _stamps(Path(rows))

    def changed() -> str | None:
        try:
            now = rows_of(data)
        except ValueError:
            now = rows
        if now != rows:
            return (
                f"{Path(data).name} has a new version, {Path(now).name}. This review stays with "
                f"{Path(rows).name}; to review the new one, start the command again."
            )
        if _stamps(Path(rows)) != before:
            return (
                f"{Path(data).name} was changed since the review was opened. This review stays "
                "with the rows as they were; to review the new ones, start the command again."
            )
        return None

    return changed


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of all in a folder."""

    def found() -> Iterator[tuple[str, int, int]]:
        for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if one.is_file():
                stat = one.stat()
                yield str(one), stat.st_size, stat.st_mtime_ns

    try:
        return list(found())
    except OSError:  # it goes while it is looked at
        return []


def _guideline(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--guideline {path} is no UTF-8 text: give a Markdown file.") from None
    if len(text) > _GUIDELINE:
        raise ValueError(
            f"--guideline {path} has {len(text):,} characters; expected {_GUIDELINE:,} at most."
        )
    return text
