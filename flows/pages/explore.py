"""Explore: the routes of a page that looks at one ledger; `assets/explore.js` asks them.

A question names the view that its page shows (`view=KEY`). A server shows one at a time: a page
that another tab has opened anew since is told so, and never answered with other rows.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gristmill.flows.pages.serving import application
from gristmill.flows.pages.view import View
from gristmill.pipeline.explore.opening import versions_beside

_ANSWERS: Mapping[str, Callable[[View, Request], dict[str, Any]]] = {
    "/api/about": View.about,
    "/api/rows": View.rows,
    "/api/counts": View.counts,
    "/api/row": View.row,
    "/api/more": View.more,
    "/api/tokens": View.tokens,
    "/api/nearest": View.nearest,
    "/api/map": View.points,
    "/api/map/colours": View.colours,
    "/api/map/shown": View.shown,
}


class Page:
    """One ledger, open in a page; it may be opened again, newer or beside another version.

    Attributes:
        where: the path of the ledger.
        store: where the text of rows that were left out lies.
        view: what it shows now.
    """

    def __init__(self, where: Path, store: Path | None, against: Path | None = None) -> None:
        self.where = where
        self.store = store
        self.view = View.of(where, store, against)
        self._opening = Lock()

    def close(self) -> None:
        """Give up what was made for the page."""
        self.view.explorer.close()

    def app(self) -> Starlette:
        """The page and its routes."""

        def route(path: str, answer: Callable[[View, Request], dict[str, Any]]) -> Route:
            return Route(path, lambda r: JSONResponse(answer(self._asked(r), r)))

        return application(
            "explore.html",
            [
                *(route(path, answer) for path, answer in _ANSWERS.items()),
                Route("/api/ids", self._ids, methods=["POST"]),
                Route("/api/open", self._again, methods=["POST"]),
                Route("/report.html", lambda _: self.view.report()),
            ],
        )

    def _asked(self, request: Request) -> View:
        """The view that a question is about: a page that shows an older one is told so."""
        view = self.view
        if request.query_params.get("view", view.key) != view.key:
            raise HTTPException(
                409,
                f"Another tab has opened {view.explorer.opened.title} here meanwhile: reload this "
                "page to see it.",
            )
        return view

    async def _ids(self, request: Request) -> Response:
        view, told = self._asked(request), await _body(request)
        return await run_in_threadpool(view.ids, told)

    async def _again(self, request: Request) -> Response:
        """Open what the path names by now, beside another version or none."""
        told = await _body(request)
        await run_in_threadpool(self._opened, self._asked(request), told.get("against"))
        return JSONResponse({})

    def _opened(self, before: View, other: object) -> None:
        opened = before.explorer.opened
        if other is not None and other not in versions_beside(opened):
            raise ValueError(f"there is no version {other!r} of this dataset.")
        beside = opened.folder.parent / str(other) if opened.folder and other is not None else None
        with self._opening:
            self.view = View.of(self.where, self.store, beside)
        before.explorer.close()


async def _body(request: Request) -> dict[str, Any]:
    try:
        told = json.loads(await request.body())
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise ValueError("the page sent no JSON object.")
    return told
