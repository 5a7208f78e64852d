"""What is asked of a model and what comes back: the nouns of the completion client."""

import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from gristmill.pipeline.records.schema import canonical_json

Schema = type[BaseModel] | Mapping[str, Any]
Status = Literal["ok", "rejected", "failed"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. The default is greedy.

    Attributes:
        max_tokens: longest answer; one that reaches it counts as cut.
        temperature: 0 takes the likeliest token.
        top_p: smallest set of tokens with this much probability.
        top_k: that many likeliest tokens; 0 = all.
        presence_penalty: taken off the logit of each token that the answer already has.
        stop: the answer ends before any of these texts.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; give at least 1.")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; give 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; give a share above 0 and up to 1.")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; give 0 (all) or more.")
        if "" in self.stop:
            raise ValueError("stop holds an empty text, which ends every answer; leave it out.")

    def demand_votes(self, votes: int) -> None:
        """Refuse votes that would all be the same."""
        if votes < 1:
            raise ValueError(f"votes is {votes}; give at least 1.")
        if votes > 1 and self.temperature == 0:
            raise ValueError(
                f"{votes} votes at temperature 0 are one vote repeated; give a temperature."
            )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a model.

    Attributes:
        id: the caller's name for it; says nothing to the model and is no part of the key.
        messages: the chat, system prompt first: mappings with role and content.
        sampling: how tokens are drawn.
        seed: of the draws.
        sample: 0, 1, 2 ... to ask the same thing several times.
        schema: a pydantic model or a JSON schema that the answer must fit.
        tools: tool descriptions as the chat template (or the endpoint) takes them.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    sample: int = 0
    schema: Schema | None = None
    tools: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError(f"request {self.id!r} has no messages; give at least one.")
        if isinstance(self.schema, Mapping):
            problem = _schema_problem(canonical_json(self.schema))
            if problem is not None:
                raise ValueError(
                    f"the JSON schema of request {self.id!r} is not a valid schema: {problem}"
                )

    @property
    def json_schema(self) -> Mapping[str, Any] | None:
        """The schema as JSON, whatever it was given as."""
        if self.schema is None or isinstance(self.schema, Mapping):
            return self.schema
        return _json_schema(self.schema)


@lru_cache(maxsize=256)
def _schema_problem(text: str) -> str | None:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    schema = json.loads(text)
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        return str(error.message)
    return None


@lru_cache(maxsize=256)
def _json_schema(model: type[BaseModel]) -> Mapping[str, Any]:
    return model.model_json_schema()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a back end got from a model, unread: this is what the cache keeps.

    Attributes:
        text: the answer.
        tokens_in: prompt tokens.
        tokens_out: answer tokens.
        finish: why it ended: "stop", "length", "tool_calls", "content_filter".
        served: the model that says it answered.
        reasoning: thinking that an endpoint returns apart from the answer.
        tool_calls: calls that the model asks for.
        seconds: time of the model (its share of a batch), for models paid by the hour.
    """

    text: str
    tokens_in: int
    tokens_out: int
    finish: str = "stop"
    served: str = ""
    reasoning: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(vars(self), ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Reply":
        fields = json.loads(text)
        return Reply(**{**fields, "tool_calls": tuple(fields["tool_calls"])})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """No answer, and why. Never cached.

    Attributes:
        reason: a word, a colon, and one sentence.
        terminal: nothing after it can succeed (bad key, no quota, wrong model): the run stops.
        tokens_in: prompt tokens that were paid all the same.
        tokens_out: answer tokens that were paid all the same.
    """

    reason: str
    terminal: bool = False
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A reply with what it cost and where it came from.

    Attributes:
        text: the answer.
        parsed: the typed value, if the request has a schema.
        tool_calls: calls that the model asks for.
        reasoning: thinking that an endpoint returns apart from the answer.
        tokens_in: prompt tokens.
        tokens_out: answer tokens.
        repaired: prompt and answer tokens of earlier answers that this one repairs.
        cost: money at the price table of the run; what the cache serves costs 0.
        finish: why it ended.
        cached: served without asking the model.
        lineage: request id and key, sample and seed, model as asked and as served, back end, and
            the keys of earlier answers that this one repairs.
    """

    text: str
    parsed: Any = None
    tool_calls: Sequence[Mapping[str, Any]] = ()
    reasoning: str = ""
    tokens_in: int
    tokens_out: int
    cost: float
    finish: str
    cached: bool
    lineage: Mapping[str, Any]
    repaired: tuple[int, int] = (0, 0)

    @property
    def all_tokens(self) -> tuple[int, int]:
        """Prompt and answer tokens of every turn that led to it, newly paid or not."""
        return self.tokens_in + self.repaired[0], self.tokens_out + self.repaired[1]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one row: one result per row, in input order.

    Attributes:
        row: the row (the request itself, if the driver was handed requests).
        request: what was asked; None if `prompt` refused the row.
        status: "ok"; "rejected" = answered, but the schema or `parse` refused it; "failed" = no
            (whole) answer.
        value: what `parse` made of the answer, if ok.
        answer: the answer; also of a rejected row, so that it can be looked at.
        reason: why it is not ok.
    """

    row: Any
    request: Request | None
    status: Status
    value: Any = None
    answer: Answer | None = None
    reason: str | None = None


Outcome = tuple[int, Reply | Failure]
Answering = Callable[[Sequence[Request]], AsyncGenerator[Outcome, None]]


class CompletionBackend(Protocol):
    """Who answers. `complete` hands it groups of requests and takes replies as they come."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that changes an answer beside the request: weights, revision, endpoint ..."""

    @property
    def model(self) -> str:
        """The model's name, for people."""

    @property
    def workers(self) -> int:
        """Groups in flight at once."""

    @property
    def group(self) -> int:
        """Requests it likes to have at hand at once."""

    def prompt_tokens(self, request: Request) -> int:
        """Upper bound on the prompt's tokens: what the budget reserves."""

    def session(self) -> AbstractAsyncContextManager[Answering]:
        """Open what a run needs; `answering(requests)` yields (index in requests, outcome)."""


def request_key(request: Request, identity: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of everything that changes the answer."""
    whole = {
        "from": identity,
        "messages": [dict(m) for m in request.messages],
        "sampling": vars(request.sampling),
        "seed": request.seed,
        "sample": request.sample,
        "schema": request.json_schema,
        "tools": list(request.tools),
    }
    text = canonical_json(whole).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def draw_seed(key: str) -> int:
    """The seed of a request's own draws (31 bits, as every server takes it)."""
    return int(key[:8], 16) >> 1
