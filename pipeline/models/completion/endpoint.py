"""Completions from an endpoint that speaks the OpenAI protocol: vLLM, llama.cpp, TGI, hosted.

One connection per worker: a shared pool searches all its connections on every request, which at 64
of them costs more than everything else here together.

| the endpoint says | then |
|---|---|
| 408, 409, 425, 429, 5xx; timeout, reset, half a body, HTML, no choice, blank | tried again |
| 400, 413, 422 and other refusals; more than `LARGEST_RESPONSE` | this row fails |
| 401, 402, 403, 404, 429 for want of credit, another model's name | the run stops |

A wait that the endpoint asks for (`Retry-After`) holds back all requests, not only the one.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx

from gristmill.pipeline.models.completion.address import check_address, check_variable
from gristmill.pipeline.models.completion.rate_limit import Gate, Pace
from gristmill.pipeline.models.completion.requests import (
    Answering,
    Failure,
    Outcome,
    Reply,
    Request,
    draw_seed,
    request_key,
)
from gristmill.pipeline.models.completion.responses import Trouble, read_response
from gristmill.pipeline.models.completion.schema import schema_prompt, with_schema
from gristmill.pipeline.records.schema import canonical_json, uniform

# What is asked for plain is counted as it comes; a small gzip may hold gigabytes.
_JSON = {"content-type": "application/json", "accept-encoding": "identity"}
LARGEST_RESPONSE = 16 * 2**20  # bytes; an answer of 100,000 tokens has about one
_SECRET = 16  # characters from which on a key is one: "EMPTY" is a word of answers too


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model behind `<url>/chat/completions`.

    Attributes:
        url: up to and with `/v1`; no key in it.
        model: the name that the endpoint knows.
        revision: which weights those are, as far as you know; part of the cache key.
        name: represents the URL in cache keys, so that the same server may move; default: the URL.
        key_variable: environment variable that holds the API key; its value is never kept.
        workers: requests in flight at most; fewer when the endpoint says so.
        requests_per_minute: rate limit, spread evenly.
        tokens_per_minute: rate limit, spread evenly.
        timeout: seconds an answer may take.
        attempts: tries at a request, the first included.
        backoff: seconds before the second try at most; doubles, up to a minute.
        pause: seconds the circuit breaker stays open at first.
        probes: failed probes after which the run stops.
        structured: how a schema is asked for: by the endpoint's decoder ("json_schema"), as any
            JSON plus the schema in the prompt ("json_object"), or in the prompt alone ("prompt").
        served_as: the model name that answers carry, where it is not (the start of) `model`.
        length_field: some hosted models take only "max_completion_tokens".
        extra: further fields of the request body; part of the cache key.
    """

    url: str
    model: str
    revision: str = ""
    name: str | None = None
    key_variable: str | None = None
    workers: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 300.0
    attempts: int = 6
    backoff: float = 1.0
    pause: float = 5.0
    probes: int = 5
    structured: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    served_as: str | None = None
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_address(self.url)
        check_variable(self.key_variable)
        if self.workers < 1 or self.attempts < 1:
            raise ValueError(
                f"workers={self.workers}, attempts={self.attempts}: give at least 1 of each."
            )

    @property
    def group(self) -> int:
        return 1

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "kind": "openai",
            "endpoint": self.name or self.url.rstrip("/"),
            "model": self.model,
            "revision": self.revision,
            "structured": self.structured,
            "extra": dict(self.extra),
        }

    def prompt_tokens(self, request: Request) -> int:
        """A token is at least one byte; 16 a message and 64 in all pay for the template."""
        size = len(canonical_json([list(request.messages), list(request.tools)]).encode())
        if request.schema is not None:
            size += len(schema_prompt(request).encode())
        return size + 16 * len(request.messages) + 64

    def body(self, request: Request) -> dict[str, Any]:
        """The JSON that is sent for a request."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(m) for m in request.messages],
            self.length_field: sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature > 0:
            body |= {"seed": draw_seed(request_key(request, self.identity))}
        optional = {
            "top_p": (sampling.top_p, 1.0),
            "top_k": (sampling.top_k, 0),
            "presence_penalty": (sampling.presence_penalty, 0.0),
            "stop": (list(sampling.stop), []),
            "tools": ([dict(t) for t in request.tools], []),
        }
        body |= {name: value for name, (value, usual) in optional.items() if value != usual}
        if request.schema is not None:
            self._ask_for_schema(request, body)
        return body | dict(self.extra)

    def _ask_for_schema(self, request: Request, body: dict[str, Any]) -> None:
        if self.structured == "json_schema":
            schema = {"name": "answer", "schema": request.json_schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
            return
        if self.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        body["messages"] = with_schema(request)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Answering]:
        async with open_clients(self) as clients:
            pace = Pace(
                most=self.workers,
                requests_per_minute=self.requests_per_minute,
                tokens_per_minute=self.tokens_per_minute,
                pause=self.pause,
                probes=self.probes,
            )
            gate = Gate(pace=pace, clock=time.monotonic)

            async def answering(requests: Sequence[Request]) -> AsyncGenerator[Outcome, None]:
                for index, request in enumerate(requests):
                    yield index, await self._answer(request, clients, gate)

            yield answering

    async def _answer(self, request: Request, clients: "Clients", gate: Gate) -> Reply | Failure:
        """Try until there is an answer, a refusal, or no try left."""
        key = request_key(request, self.identity)
        data = json.dumps(self.body(request), ensure_ascii=False).encode("utf-8", "replace")
        expected = len(data) // 4 + request.sampling.max_tokens
        paid_in = paid_out = 0
        read: Reply | Trouble
        for attempt in range(1, self.attempts + 1):
            probe = await gate.enter(expected)
            if gate.pace.given_up:
                gate.leave("busy", probe=False)
                return Failure(reason=_given_up(self), terminal=True)
            read = Trouble(reason="cancelled: the run ended", verdict="busy")
            try:
                read = await self._attempt(data, clients)
            finally:
                if isinstance(read, Reply):
                    gate.leave("fine", probe=probe)
                else:
                    gate.leave(read.verdict, probe=probe, wait=read.wait)
            if isinstance(read, Reply):
                tokens_in = read.tokens_in or len(data) // 4  # some endpoints do not count
                return replace(
                    read, tokens_in=tokens_in + paid_in, tokens_out=read.tokens_out + paid_out
                )
            paid_in, paid_out = paid_in + read.tokens_in, paid_out + read.tokens_out
            if not read.again:
                break
            if attempt < self.attempts:
                longest = min(60.0, self.backoff * 2 ** (attempt - 1))
                jitter = uniform(attempt, "backoff", key)  # full jitter, the same on every rerun
                await asyncio.sleep(longest * jitter)
        assert isinstance(read, Trouble)
        tried = f" (after {attempt} attempts)" if attempt > 1 else ""
        return Failure(
            reason=clients.redact(read.reason) + tried,
            terminal=read.terminal,
            tokens_in=paid_in,
            tokens_out=paid_out,
        )

    async def _attempt(self, data: bytes, clients: "Clients") -> "Reply | Trouble":
        client = clients.take()
        try:
            async with (
                asyncio.timeout(self.timeout),  # httpx's own limit is per read
                client.stream("POST", "chat/completions", content=data, headers=_JSON) as response,
            ):
                body = await read_body(response)
        except (httpx.TimeoutException, TimeoutError):
            reason = f"timeout: no answer within {self.timeout:g} s"
            return Trouble(reason=reason, again=True, verdict="sick")
        except httpx.TransportError as error:
            reason = f"connection: {type(error).__name__} {error}"
            return Trouble(reason=reason, again=True, verdict="sick")
        finally:
            clients.give(client)
        if isinstance(body, Trouble):
            return body
        body = clients.without_key(body)
        return read_response(response.status_code, response.headers, body, self)


async def read_body(response: httpx.Response) -> bytes | Trouble:
    """The body of a response, of which no more is taken in than an answer can need."""
    packed = response.headers.get("content-encoding", "identity")
    if packed not in ("identity", "gzip", "deflate"):  # of others, 64 KiB may hold gigabytes
        return Trouble(reason=f"encoded: the response is {packed}, which was not asked for")
    kept, size = [], 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > LARGEST_RESPONSE:
            reason = f"response_too_large: over {LARGEST_RESPONSE / 2**20:.0f} MiB; it was not read"
            return Trouble(reason=reason, verdict="sick")
        kept.append(piece)
    return b"".join(kept)


@dataclass(frozen=True, kw_only=True)
class Clients:
    """Connections that are free, and the key that no message may show."""

    endpoint: Endpoint
    key: str
    verify: Any
    free: list[httpx.AsyncClient] = field(default_factory=list)

    def take(self) -> httpx.AsyncClient:
        if self.free:
            return self.free.pop()
        return httpx.AsyncClient(
            base_url=self.endpoint.url.rstrip("/") + "/",
            headers={"authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx.Timeout(self.endpoint.timeout, connect=10.0),
            verify=self.verify,
        )

    def give(self, client: httpx.AsyncClient) -> None:
        self.free.append(client)

    def redact(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text

    def without_key(self, body: bytes) -> bytes:
        """What an endpoint sent, the key left out: answers are kept, and excerpts cut a key."""
        if len(self.key) < _SECRET:
            return body
        as_json = json.dumps(self.key)[1:-1]
        for written in (self.key, as_json, as_json.replace("/", r"\/")):
            body = body.replace(written.encode(), b"***")
        return body


@asynccontextmanager
async def open_clients(endpoint: Endpoint) -> AsyncIterator[Clients]:
    """Read the key and make ready to connect."""
    key = ""
    if endpoint.key_variable is not None:
        key = os.environ.get(endpoint.key_variable, "").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(  # httpx would say which, and repeat it
                f"the environment variable {endpoint.key_variable} holds what no API key does, a "
                "space, a line break or a letter beyond ASCII: set it to the key alone."
            )
        if not key:
            raise ValueError(
                f"the environment variable {endpoint.key_variable} is not set: it should hold the "
                f"API key of {endpoint.url}."
            )
    verify = httpx.create_ssl_context() if endpoint.url.startswith("https") else False
    clients = Clients(endpoint=endpoint, key=key, verify=verify)
    try:
        yield clients
    finally:
        for client in clients.free:
            await client.aclose()


def _given_up(endpoint: Endpoint) -> str:
    return (
        f"endpoint_down: {endpoint.url} failed at least half of 10 attempts and then "
        f"{endpoint.probes} probes; nothing more was sent"
    )
