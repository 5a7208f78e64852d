"""Explore: the routes of a page that looks at one ledger; `assets/explore.js` asks them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gristmill.flows.pages import nodes
from gristmill.flows.pages.questions import number, question
from gristmill.flows.pages.serving import application
from gristmill.flows.pages.visible import plain
from gristmill.flows.reports import PAGE
from gristmill.pipeline.explore.dialogue import Turn
from gristmill.pipeline.explore.explorer import Explorer
from gristmill.pipeline.explore.opening import versions_beside
from gristmill.pipeline.explore.story import Stories
from gristmill.pipeline.report.examples import EXPLORER

PIECE = nodes.LONGEST  # characters of a turn that are sent at once
_OF_REPORT = "default-src 'none'; style-src 'unsafe-inline'; sandbox allow-top-navigation"
_KINDS = ("keep", "drop", "takedown")


class Page:
    """One ledger, open in a page; it may be opened again when there is a newer version.

    Attributes:
        where: the path of the ledger.
        store: where the text of rows that were left out lies.
    """

    def __init__(self, where: Path, store: Path | None, against: Path | None = None) -> None:
        self.where = where
        self.store = store
        self._open(against)

    def _open(self, against: Path | None) -> None:
        self._explorer = Explorer.of(self.where, store=self.store, against=against)
        self._stories = Stories(explorer=self._explorer)

    def close(self) -> None:
        """Give up what was made for the page."""
        self._explorer.close()

    def app(self) -> Starlette:
        """The page and its routes."""
        asked: Mapping[str, Callable[[Request], Any]] = {
            "/api/about": self._about,
            "/api/rows": self._rows,
            "/api/counts": self._counts,
            "/api/row": self._row,
            "/api/more": self._more,
            "/api/tokens": self._tokens,
            "/api/nearest": self._nearest,
            "/api/map": lambda r: self._explorer.points(),
            "/api/map/colours": lambda r: self._explorer.colours(r.query_params.get("by", "")),
            "/api/map/shown": lambda r: self._explorer.on_map(question(r.query_params)),
        }
        return application(
            "explore.html",
            [
                *(Route(path, _json(answer)) for path, answer in asked.items()),
                Route("/api/ids", self._ids, methods=["POST"]),
                Route("/api/open", self._again, methods=["POST"]),
                Route("/report.html", self._report),
            ],
        )

    def _about(self, request: Request) -> dict[str, Any]:
        opened = self._explorer.opened
        return {
            **self._explorer.about(),
            "changed": opened.changed(),
            "versions": versions_beside(opened),
            "map": self._explorer.observed.map_note,
        }

    def _rows(self, request: Request) -> dict[str, Any]:
        asked = request.query_params
        found = self._explorer.window(
            question(asked), number(asked, "offset"), number(asked, "limit", 100)
        )
        return {**found, "rows": _seen(found["rows"]), "changed": self._explorer.opened.changed()}

    def _counts(self, request: Request) -> dict[str, Any]:
        found = self._explorer.counts(question(request.query_params))
        for values in found["values"].values():
            for value in values:
                value["shown"] = plain(value["value"])
        return found

    def _row(self, request: Request) -> dict[str, Any]:
        at = number(request.query_params, "at")
        found = self._stories.of(at)
        turns, note = self._stories.turns(at)
        as_written = request.query_params.get("as") == "written"
        return {
            **found,
            "sentences": [plain(s) for s in found["sentences"]],
            "copies": _seen(found["copies"]),
            "line": {k: plain(str(v)) for k, v in found["line"].items()},
            "note": note,
            "turns": [_turn(turn, as_written) for turn in turns],
        }

    def _more(self, request: Request) -> dict[str, Any]:
        """The next piece of a long text, as it stands."""
        asked = request.query_params
        turns, _ = self._stories.turns(number(asked, "at"))
        at, offset = number(asked, "turn"), number(asked, "offset")
        texts = dict(_texts(turns[at])) if 0 <= at < len(turns) else {}
        said = texts.get(asked.get("name", ""))
        if said is None or offset < 0:
            raise ValueError("this row has no such text: open it again.")
        return {"nodes": nodes.text(said[offset : offset + PIECE]), **_rest(said, offset)}

    def _tokens(self, request: Request) -> dict[str, Any]:
        found = self._stories.shaded(number(request.query_params, "at"))
        return {
            "note": plain(found.note),
            "tokens": [[plain(text), trained, loss] for text, trained, loss in found.tokens],
        }

    def _nearest(self, request: Request) -> dict[str, Any]:
        found = self._stories.nearest(number(request.query_params, "at"))
        return {**found, "rows": _seen(found["rows"])}

    async def _ids(self, request: Request) -> Response:
        """The ids of a question's answer, or of rows that were picked, a line each."""
        told = await _body(request)
        kind = told.get("as")
        if kind not in _KINDS:
            raise ValueError(f"a list of ids is for {', '.join(_KINDS)}; found {kind!r}.")
        asked = question(QueryParams(str(told.get("query", ""))), told.get("picked"))
        ids = self._explorer.ids(asked)
        if not ids:
            raise ValueError("no row is selected: there is no id to export.")
        name = f"{kind}-{self._explorer.opened.name.removesuffix('.parquet')}.txt"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return PlainTextResponse("".join(f"{i}\n" for i in ids), headers=headers)

    async def _again(self, request: Request) -> Response:
        """Open what the path names by now, beside another version or none."""
        told = await _body(request)
        other = told.get("against")
        folder = self._explorer.opened.folder
        if other is not None and (folder is None or other not in versions_beside(
            self._explorer.opened
        )):  # fmt: skip
            raise ValueError(f"there is no version {other!r} of this dataset.")
        before = self._explorer
        self._open(folder.parent / other if folder is not None and other is not None else None)
        before.close()
        return JSONResponse({})

    def _report(self, request: Request) -> Response:
        """The dataset's report; its links to rows lead here."""
        folder = self._explorer.opened.folder
        try:
            page = b"" if folder is None else (folder / PAGE).read_bytes()
        except OSError:
            page = b""
        if not page:
            raise ValueError("this ledger has no report.")
        here = page.replace(f'href="{EXPLORER}'.encode(), b'href="/')
        return Response(here, media_type="text/html; charset=utf-8",
                        headers={"content-security-policy": _OF_REPORT})  # fmt: skip


def _json(answer: Callable[[Request], Any]) -> Callable[[Request], Response]:
    return lambda request: JSONResponse(answer(request))


async def _body(request: Request) -> dict[str, Any]:
    try:
        told = json.loads(await request.body())
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise ValueError("the page sent no JSON object.")
    return told


def _seen(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table, with marks for what cannot be seen."""
    return [{k: plain(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]


def _turn(turn: Turn, as_written: bool) -> dict[str, Any]:
    read = as_written or turn.part in ("tools", "quarantine")
    return {
        "part": turn.part,
        "role": plain(turn.role),
        "trained": turn.trained,
        "texts": [_text(name, said, as_written=read) for name, said in _texts(turn)],
    }


def _texts(turn: Turn) -> Iterator[tuple[str, str]]:
    """The texts of a turn by name, in the order in which they are read."""
    if turn.reasoning:
        yield "reasoning", turn.reasoning
    if turn.content or not (turn.reasoning or turn.calls):
        yield "", turn.content
    for place, (name, arguments) in enumerate(turn.calls, start=1):
        yield f"call {place}: {name}", arguments
    yield from turn.further.items()


def _text(name: str, said: str, *, as_written: bool) -> dict[str, Any]:
    prose = not as_written and name in ("", "reasoning")
    piece = said[:PIECE]
    made = nodes.markdown(piece) if prose and len(said) <= PIECE else nodes.text(piece)
    return {"name": name, "shown": plain(name), "nodes": made, **_rest(said, 0)}


def _rest(said: str, offset: int) -> dict[str, int]:
    return {"rest": max(len(said) - offset - PIECE, 0), "next": offset + PIECE}
