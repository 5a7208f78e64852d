"""The page on which a run that waits is approved, or rejected: the sample, and a decision."""

from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gristmill.flows.pages import serving
from gristmill.flows.pages.review import body, message
from gristmill.flows.pages.visible import plain
from gristmill.pipeline.review.approval import Approval, Verdict

_VERDICTS: dict[str, Verdict] = {"approve": "approved", "reject": "rejected"}


def app(asked: Approval) -> Starlette:
    """What answers for a request."""

    def state(request: Request) -> Response:
        strata = [{**s, "stratum": plain(s["stratum"])} for s in asked.request["strata"]]
        told = {
            "request": {**asked.request, "strata": strata},
            "rows": [_row(row) for row in asked.sampled_rows()],
            "decision": _plain(asked),
        }
        return JSONResponse(told)

    async def decide(request: Request) -> Response:
        said = await body(request)
        verdict = _VERDICTS.get(str(said.get("verdict")))
        if verdict is None or not all(isinstance(said.get(k), str) for k in ("by", "reason")):
            raise ValueError("expected a verdict (approve or reject), a name and a reason.")
        now = asked.decision
        if "seen" in said and now is not None and said["seen"] != now["at"]:
            raise HTTPException(
                409,
                f"{now['by']} decided meanwhile ({now['verdict']} at {now['at']}): decide again if "
                "yours is to stand in its place.",
            )
        await run_in_threadpool(asked.decide, verdict, said["by"], said["reason"])
        return JSONResponse({"decision": _plain(asked)})

    routes = [Route("/request", state), Route("/decision", decide, methods=["POST"])]
    return serving.application("approve.html", routes)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the sample; its source is named in the data, and may hold anything."""
    named = {k: plain(row[k]) for k in ("source", "stratum")}
    return {**row, **named, "turns": [message(m) for m in row["turns"]]}


def _plain(asked: Approval) -> dict[str, Any] | None:
    found = asked.decision
    return None if found is None else dict(found)
