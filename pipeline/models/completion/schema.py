"""Is an answer whole, and does it fit its schema? If not, what to say to the model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from gristmill.pipeline.models.completion.requests import Reply, Request, Status
from gristmill.pipeline.records.schema import canonical_json

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A reply's verdict: `status`, the typed value, the reason; `repair` = worth one more turn."""

    status: Status
    parsed: Any = None
    reason: str | None = None
    repair: bool = False


def check(request: Request, reply: Reply, *, keep_cut: bool) -> Checked:
    """Judge a reply without its meaning: cut, blank, filtered, outside the schema.

    Args:
        request: what was asked.
        reply: what came.
        keep_cut: take answers without a schema that reached `max_tokens`.
    """
    if reply.finish == "content_filter":
        return Checked(status="failed", reason="content_filter: the endpoint withheld the answer")
    if reply.finish == "length" and (request.schema is not None or not keep_cut):
        return Checked(
            status="failed",
            reason=f"length: cut at {reply.tokens_out} tokens; raise max_tokens",
        )
    if reply.tool_calls:
        return Checked(status="ok")
    if not reply.text.strip():
        return Checked(status="failed", reason="empty_answer: the model said nothing")
    if request.schema is None:
        return Checked(status="ok")
    try:
        return Checked(status="ok", parsed=fit(request, reply.text))
    except RecursionError:  # a model that says [[[[ without end
        reason = "schema: lists and objects are nested too deep"
        return Checked(status="rejected", reason=reason, repair=True)
    except ValueError as error:
        return Checked(status="rejected", reason=f"schema: {error}", repair=True)


def fit(request: Request, text: str) -> Any:  # noqa: ANN401  (the user's type)
    """The answer as the schema's type: an instance of the pydantic model, or plain JSON.

    One Markdown fence around the whole answer is taken off; nothing else is forgiven.

    Raises:
        ValueError: it does not fit, and how.
    """
    schema = request.schema
    assert schema is not None
    fenced = _FENCE.match(text.strip())
    text = fenced[1] if fenced else text.strip()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos})") from None
    if canonical_json(value) == canonical_json(request.json_schema):
        raise ValueError("the schema itself came back instead of a value")
    if isinstance(schema, Mapping):
        _validate(value, schema)
        return value
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{_place(first['loc'])}: {first['msg']}") from None


def _validate(value: object, schema: Mapping[str, Any]) -> None:
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for

    error = best_match(validator_for(schema)(schema).iter_errors(value))
    if error is not None:
        raise ValueError(f"{_place(tuple(error.absolute_path))}: {error.message[:300]}")


def _place(path: tuple[int | str, ...]) -> str:
    return ".".join(str(p) for p in path) or "answer"


def repair(request: Request, reply: Reply, reason: str) -> Request:
    """The same request with the bad answer and what was wrong with it: one turn to mend it."""
    complaint = (
        f"That answer cannot be used ({reason}). Answer again with one JSON value that fits the "
        f"schema, and nothing around it.\n{schema_prompt(request)}"
    )
    turns = ({"role": "assistant", "content": reply.text}, {"role": "user", "content": complaint})
    return replace(request, messages=(*request.messages, *turns))


def schema_prompt(request: Request) -> str:
    """The schema in words, for models that are not held to it by the decoder."""
    return f"JSON schema:\n{canonical_json(request.json_schema)}"


def with_schema(request: Request) -> list[dict[str, Any]]:
    """The messages, with the schema at the end of the last one."""
    *before, last = ({**m} for m in request.messages)
    words = f"{last['content']}\n\nAnswer with one JSON value only.\n{schema_prompt(request)}"
    return [*before, {**last, "content": words}]
