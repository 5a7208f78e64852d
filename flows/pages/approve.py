"""The page on which a run that waits is approved, or rejected: the sample, and a decision."""

from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gristmill.flows.pages import serving
from gristmill.flows.pages.review import body, message
from gristmill.pipeline.review.approval import Approval, Verdict

_VERDICTS: dict[str, Verdict] = {"approve": "approved", "reject": "rejected"}


def app(asked: Approval) -> Starlette:
    """What answers for a request."""

    def state(request: Request) -> Response:
        rows = asked.sampled_rows()
        told = {
            "request": dict(asked.request),
            "rows": [{**row, "turns": [message(m) for m in row["turns"]]} for row in rows],
            "decision": _plain(asked),
        }
        return JSONResponse(told)

    async def decide(request: Request) -> Response:
        said = await body(request)
        verdict = _VERDICTS.get(str(said.get("verdict")))
        if verdict is None or not all(isinstance(said.get(k), str) for k in ("by", "reason")):
            raise ValueError("expected a verdict (approve or reject), a name and a reason.")
        await run_in_threadpool(asked.decide, verdict, said["by"], said["reason"])
        return JSONResponse({"decision": _plain(asked)})

    routes = [Route("/request", state), Route("/decision", decide, methods=["POST"])]
    return serving.application("approve.html", routes)


def _plain(asked: Approval) -> dict[str, Any] | None:
    found = asked.decision
    return None if found is None else dict(found)
