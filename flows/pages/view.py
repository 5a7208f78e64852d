"""A view: what one opening of a ledger answers to its page; row numbers are of this view alone."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gristmill.flows.pages import nodes
from gristmill.flows.pages.questions import number, question
from gristmill.flows.pages.visible import plain
from gristmill.flows.reports import PAGE
from gristmill.pipeline.explore.dialogue import Turn
from gristmill.pipeline.explore.explorer import Explorer
from gristmill.pipeline.explore.opening import versions_beside
from gristmill.pipeline.explore.story import Stories
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.report.examples import EXPLORER

PIECE = nodes.LONGEST  # characters of a turn that are sent at once
_OF_REPORT = "default-src 'none'; style-src 'unsafe-inline'; sandbox allow-top-navigation"
_KINDS = ("keep", "drop", "takedown")


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One opening of a ledger.

    Attributes:
        explorer: the ledger.
        stories: its rows, one at a time.
        key: what a page says that it shows.
    """

    explorer: Explorer
    stories: Stories
    key: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def of(cls, where: Path, store: Path | None, against: Path | None) -> "View":
        """Open a ledger."""
        explorer = Explorer.of(where, store=store, against=against)
        return cls(explorer=explorer, stories=Stories(explorer=explorer))

    def about(self, request: Request) -> dict[str, Any]:
        """What a page must know at first."""
        opened = self.explorer.opened
        return {
            **self.explorer.about(),
            "view": self.key,
            "book": self._book,
            "changed": opened.changed(),
            "versions": versions_beside(opened),
            "map": self.explorer.observed.map_note,
        }

    @property
    def _book(self) -> str:
        """The same for the same ledgers, opened again: a browser remembers rows by it."""
        both = [one for one in (self.explorer.opened, self.explorer.before) if one is not None]
        return digest([[list(map(str, one.paths)), one.stamps] for one in both])

    def rows(self, request: Request) -> dict[str, Any]:
        """Some rows of a question's answer."""
        asked = request.query_params
        found = self.explorer.window(
            question(asked), number(asked, "offset"), number(asked, "limit", 100)
        )
        return {**found, "rows": _seen(found["rows"]), "changed": self.explorer.opened.changed()}

    def counts(self, request: Request) -> dict[str, Any]:
        """Rows by value and bin."""
        found = self.explorer.counts(question(request.query_params))
        for values in found["values"].values():
            for value in values:
                value["shown"] = plain(value["value"])
        return found

    def row(self, request: Request) -> dict[str, Any]:
        """All of one row."""
        at = number(request.query_params, "at")
        found = self.stories.of(at)
        turns, note = self.stories.turns(at)
        as_written = request.query_params.get("as") == "written"
        return {
            **found,
            "sentences": [plain(s) for s in found["sentences"]],
            "copies": _seen(found["copies"]),
            "line": {k: plain(str(v)) for k, v in found["line"].items()},
            "note": note,
            "turns": [_turn(turn, as_written) for turn in turns],
        }

    def more(self, request: Request) -> dict[str, Any]:
        """The next piece of a long text, as it stands."""
        asked = request.query_params
        turns, _ = self.stories.turns(number(asked, "at"))
        at, offset = number(asked, "turn"), number(asked, "offset")
        texts = dict(_texts(turns[at])) if 0 <= at < len(turns) else {}
        said = texts.get(asked.get("name", ""))
        if said is None or offset < 0:
            raise ValueError("this row has no such text: open it again.")
        return {"nodes": nodes.text(said[offset : offset + PIECE]), **_rest(said, offset)}

    def tokens(self, request: Request) -> dict[str, Any]:
        """A row as its model reads it."""
        found = self.stories.shaded(number(request.query_params, "at"))
        sides = [
            {
                "side": one.side,
                "note": plain(one.note),
                "tokens": [[plain(text), trained, loss] for text, trained, loss in one.tokens],
            }
            for one in found
        ]
        return {"sides": sides}

    def nearest(self, request: Request) -> dict[str, Any]:
        """The rows that are most like one."""
        found = self.stories.nearest(number(request.query_params, "at"))
        return {**found, "rows": _seen(found["rows"])}

    def points(self, request: Request) -> dict[str, Any]:
        """The map."""
        return self.explorer.points()

    def colours(self, request: Request) -> dict[str, Any]:
        """The colours of its points."""
        found = self.explorer.colours(request.query_params.get("by", ""))
        return {**found, "names": [plain(n) for n in found["names"]]} if "names" in found else found

    def shown(self, request: Request) -> dict[str, Any]:
        """Which of its points are in a question's answer."""
        return self.explorer.on_map(question(request.query_params))

    def ids(self, told: Mapping[str, Any]) -> Response:
        """The ids of a question's answer, or of rows that were picked, a line each."""
        kind = told.get("as")
        if kind not in _KINDS:
            raise ValueError(f"a list of ids is for {', '.join(_KINDS)}; found {kind!r}.")
        asked = question(QueryParams(str(told.get("query", ""))), told.get("picked"))
        ids = self.explorer.ids(asked)
        if not ids:
            raise ValueError("no row is selected: there is no id to export.")
        name = f"{kind}-{self.explorer.opened.name.removesuffix('.parquet')}.txt"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return PlainTextResponse("".join(f"{i}\n" for i in ids), headers=headers)

    def report(self) -> Response:
        """The dataset's report; its links to rows lead here."""
        folder = self.explorer.opened.folder
        try:
            page = b"" if folder is None else (folder / PAGE).read_bytes()
        except OSError:
            page = b""
        if not page:
            raise ValueError("this ledger has no report.")
        here = page.replace(f'href="{EXPLORER}'.encode(), b'href="/')
        return Response(here, media_type="text/html; charset=utf-8",
                        headers={"content-security-policy": _OF_REPORT})  # fmt: skip


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
