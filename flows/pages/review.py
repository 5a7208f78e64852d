"""The page on which people judge rows: what it asks the server, and what the server answers.

    GET  /desk?as=NAME        what is reviewed, and how far it is
    GET  /turns?as=NAME       the next rows of an annotator
    POST /judgements          one click: {as, review, key, item, judgement, ...}
    POST /undo                take the last one back, or the one on an item: {as, review, key, item}
    POST /finish              the table of all judgements is written: {as, review}

A click is answered once its line is on the disk, and not before. What is answered says nothing of
which answer of a pair was chosen, nor what models said of a row.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gristmill.flows.pages import nodes, serving
from gristmill.flows.pages.visible import Node, visible
from gristmill.pipeline.review.desk import Click, Desk, Turn
from gristmill.pipeline.review.folder import said
from gristmill.pipeline.review.rulings import agreement

T = TypeVar("T")
_BODY = 16_000_000  # bytes of a question
_TURNS = 12  # rows that a page may hold ahead
_WHERE = "review"


@dataclass(frozen=True, kw_only=True)
class Page:
    """One review, served.

    Attributes:
        desk: what is reviewed.
        title: what people call it.
        guideline: Markdown beside each row; "": there is none.
        changed: a sentence if the data is no longer what it was when the review was opened.
    """

    desk: Desk
    title: str
    guideline: str
    changed: Callable[[], str | None]

    def app(self) -> Starlette:
        """What answers."""
        routes = [
            Route("/desk", self.state),
            Route("/turns", self.turns),
            Route("/judgements", self.judge, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
            Route("/finish", self.finish, methods=["POST"]),
        ]
        return serving.application("review.html", routes)

    def state(self, request: Request) -> Response:
        """What is reviewed."""
        told = {
            "review": self.desk.review.key,
            "title": self.title,
            "pairs": self.desk.pairs,
            "choices": list(self.desk.choices),
            "guideline": nodes.markdown(self.guideline),
            "changed": self.changed(),
        }
        return JSONResponse(told)

    def turns(self, request: Request) -> Response:
        """The next rows of an annotator."""
        name = request.query_params.get("as", "")
        wanted = request.query_params.get("count", "1")
        count = min(_TURNS, int(wanted)) if wanted.isascii() and wanted.isdigit() else 1
        found = self.desk.turns(name, count)
        return JSONResponse(
            {
                "turns": [_turn(t, pairs=self.desk.pairs) for t in found],
                "progress": self.desk.progress(name),
                "changed": self.changed(),
            }
        )

    async def judge(self, request: Request) -> Response:
        """One click."""
        asked = await self._asked(request)
        click = Click(
            key=_text(asked, "key", 200),
            item=_text(asked, "item", 200),
            judgement=_text(asked, "judgement", 40),
            answer=_perhaps(asked, "answer", str),
            comment=_perhaps(asked, "comment", str),
            seconds=_perhaps(asked, "seconds", float),
            age=_perhaps(asked, "age", float) or 0.0,
        )
        return await run_in_threadpool(self._judged, _text(asked, "as", 100), click)

    def _judged(self, name: str, click: Click) -> Response:
        taken = self.desk.take(name, click)
        return JSONResponse(
            {
                "number": taken.line["number"],
                "again": taken.again,
                "progress": self.desk.progress(name),
            }
        )

    async def undo(self, request: Request) -> Response:
        """Take one back."""
        asked = await self._asked(request)
        name, key = _text(asked, "as", 100), _text(asked, "key", 200)
        return await run_in_threadpool(self._undone, name, key, _perhaps(asked, "item", str))

    def _undone(self, name: str, key: str, item: str | None) -> Response:
        line = self.desk.undo(name, key, item)
        turn = None if line is None else self.desk.turn(name, line["item"])
        return JSONResponse(
            {
                "turn": None if turn is None else _turn(turn, pairs=self.desk.pairs),
                "progress": self.desk.progress(name),
            }
        )

    async def finish(self, request: Request) -> Response:
        """The table of all judgements, and how far annotators agree."""
        await self._asked(request)
        return await run_in_threadpool(self._finished)

    def _finished(self) -> Response:
        review = self.desk.review
        table = review.write()
        told = agreement(said(review.path))
        return JSONResponse({**told, "table": str(table), "folder": str(review.path)})

    async def _asked(self, request: Request) -> dict[str, Any]:
        """The question of a page of this review."""
        asked = await body(request)
        if asked.get(_WHERE) != self.desk.review.key:
            raise HTTPException(
                409,
                "this page is of another review than the one that is served here: nothing was "
                "written; reload the page.",
            )
        return asked


async def body(request: Request) -> dict[str, Any]:
    """The JSON object that a page sends.

    Raises:
        ValueError: it is none, or too large.
    """
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > _BODY:
            raise HTTPException(413, f"a question has at most {_BODY:,} bytes.")
    try:
        asked = json.loads(raw)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ValueError("expected a JSON object.")
    return asked


def _text(asked: Mapping[str, Any], name: str, most: int) -> str:
    found = asked.get(name)
    if not isinstance(found, str) or not 0 < len(found) <= most:
        raise ValueError(f"{name}: expected a text of 1 to {most} characters.")
    return found


def _perhaps(asked: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    found = asked.get(name)
    if found is None:
        return None
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    if not isinstance(found, kind):
        raise ValueError(f"{name}: expected {'a number' if kind is float else 'a text'}.")
    return found


def _turn(turn: Turn, *, pairs: bool) -> dict[str, Any]:
    """A row as the page shows it."""
    shown = turn.shown
    return {
        "item": turn.item,
        "context": [message(m) for m in shown.context],
        "answers": [[message(m) for m in answer] for answer in shown.answers],
        "editable": None if pairs else shown.editable,
        "tools": [] if shown.tools is None else nodes.text(shown.tools),
    }


def message(found: Mapping[str, Any]) -> dict[str, Any]:
    """A turn of a dialogue: who, what (as Markdown, and as written), its further fields."""
    content, extra = found["content"] or "", found["extra"]
    who: Sequence[Node] = visible(str(found["role"]))
    return {
        "role": who,
        "said": nodes.markdown(content),
        "written": nodes.text(content) if len(content) <= nodes.LONGEST else None,
        "length": len(content),
        "further": [] if not extra else nodes.text(extra),
    }
