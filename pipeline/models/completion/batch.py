"""Completions by batch file: half the price at most hosts, an answer within a day.

    POST /files, POST /batches, GET /batches/<id> ... GET /files/<output>/content

A batch carries our tag, and each of its lines the request's key. A run that was killed while it
waited finds its batches by the tag and takes their answers, instead of paying for them again.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from gristmill.pipeline.models.completion.endpoint import Clients, Endpoint, open_clients
from gristmill.pipeline.models.completion.requests import (
    Answering,
    Failure,
    Outcome,
    Reply,
    Request,
    request_key,
)
from gristmill.pipeline.models.completion.responses import read_completion, read_error
from gristmill.pipeline.records.schema import digest

_ALIVE = ("validating", "in_progress", "finalizing", "cancelling")
_TAG = "gristmill"


@dataclass(frozen=True, kw_only=True)
class BatchEndpoint:
    """The batch side of an endpoint. Same cache keys: what one of them paid, the other finds.

    Attributes:
        endpoint: address, model, key, timeout, attempts and backoff.
        group: requests in one batch file.
        workers: batch files in flight.
        poll: seconds between looks at a batch.
    """

    endpoint: Endpoint
    group: int = 10_000
    workers: int = 1
    poll: float = 30.0

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.endpoint.identity

    @property
    def model(self) -> str:
        return self.endpoint.model

    def prompt_tokens(self, request: Request) -> int:
        return self.endpoint.prompt_tokens(request)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Answering]:
        async with open_clients(self.endpoint) as clients:

            async def answering(requests: Sequence[Request]) -> AsyncGenerator[Outcome, None]:
                index = {request_key(r, self.identity): i for i, r in enumerate(requests)}
                try:
                    async for key, outcome in self._answers(requests, index, clients):
                        yield index.pop(key), outcome
                except ConnectionError as error:
                    for i in index.values():
                        yield i, Failure(reason=str(error), terminal=True)

            yield answering

    async def _answers(
        self, requests: Sequence[Request], index: Mapping[str, int], clients: Clients
    ) -> AsyncIterator[tuple[str, Reply | Failure]]:
        """Answers by key: from earlier batches that hold some of them, the rest from a new one."""
        waiting = dict(index)
        async for batch in self._earlier(clients):
            lines = await self._file(clients, batch["input_file_id"])
            mine = {line["custom_id"] for line in lines} & waiting.keys()
            if mine and batch["status"] != "failed":
                async for key, outcome in self._harvest(clients, batch):
                    if key in mine and isinstance(outcome, Reply):
                        del waiting[key]
                        yield key, outcome
            if not waiting:
                return
        batch = await self._submit(clients, {key: requests[i] for key, i in waiting.items()})
        async for key, outcome in self._harvest(clients, batch):
            if waiting.pop(key, None) is not None:
                yield key, outcome
        for key in waiting:
            yield key, Failure(reason="batch_unanswered: the batch ended without this request")

    async def _earlier(self, clients: Clients) -> AsyncIterator[dict[str, Any]]:
        after = ""
        while True:
            page = await self._call(clients, "GET", f"batches?limit=100{after}")
            for batch in page["data"]:
                if (batch.get("metadata") or {}).get(_TAG) == digest(self.identity):
                    yield batch
            if not page.get("has_more"):
                return
            after = f"&after={page['data'][-1]['id']}"

    async def _submit(self, clients: Clients, requests: Mapping[str, Request]) -> dict[str, Any]:
        lines = [
            {
                "custom_id": key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": self.endpoint.body(request),
            }
            for key, request in requests.items()
        ]
        data = "\n".join(json.dumps(line) for line in lines).encode()
        file = {"file": ("requests.jsonl", data, "application/jsonl")}
        upload = await self._call(clients, "POST", "files", data={"purpose": "batch"}, files=file)
        order = {
            "input_file_id": upload["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {_TAG: digest(self.identity)},
        }
        return dict(await self._call(clients, "POST", "batches", json=order))

    async def _harvest(
        self, clients: Clients, batch: Mapping[str, Any]
    ) -> AsyncIterator[tuple[str, Reply | Failure]]:
        while batch["status"] in _ALIVE:
            await asyncio.sleep(self.poll)
            batch = await self._call(clients, "GET", f"batches/{batch['id']}")
        if batch["status"] == "failed":
            errors = (batch.get("errors") or {}).get("data") or [{"message": "no reason given"}]
            raise ConnectionError(f"batch_failed: {errors[0]['message']}")
        for name in ("output_file_id", "error_file_id"):
            if batch.get(name):
                for line in await self._file(clients, batch[name]):
                    yield line["custom_id"], self._read(line, clients)

    def _read(self, line: Mapping[str, Any], clients: Clients) -> Reply | Failure:
        response = line.get("response")
        if response is None:
            return Failure(reason=f"batch_error: {json.dumps(line.get('error'))[:300]}")
        if response["status_code"] == 200:
            read = read_completion(response["body"], self.endpoint)
        else:
            body = json.dumps(response["body"]).encode()
            read = read_error(response["status_code"], {}, body, self.endpoint)
        if isinstance(read, Reply):
            return read
        return Failure(
            reason=clients.redact(read.reason),
            terminal=read.terminal,
            tokens_in=read.tokens_in,
            tokens_out=read.tokens_out,
        )

    async def _file(self, clients: Clients, name: str) -> list[dict[str, Any]]:
        text = await self._call(clients, "GET", f"files/{name}/content", lines=True)
        return [json.loads(line) for line in text.split("\n") if line.strip()]

    async def _call(
        self,
        clients: Clients,
        method: str,
        path: str,
        *,
        lines: bool = False,
        **body: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401  (JSON)
        """A REST call, tried again on the same troubles as a chat."""
        reason = ""
        for attempt in range(1, self.endpoint.attempts + 1):
            client = clients.take()
            try:
                response = await client.request(method, path, **body)
            except httpx.TransportError as error:
                reason = f"connection: {type(error).__name__} {error}"
            else:
                content = clients.without_key(response.content)
                if response.status_code in (200, 201):
                    return content.decode("utf-8", "replace") if lines else json.loads(content)
                trouble = read_error(response.status_code, response.headers, content, self.endpoint)
                reason = trouble.reason
                if not trouble.again:
                    break
            finally:
                clients.give(client)
            await asyncio.sleep(min(60.0, self.endpoint.backoff * 2 ** (attempt - 1)))
        raise ConnectionError(clients.redact(f"{reason} (on {method} {path.split('?')[0]})"))
