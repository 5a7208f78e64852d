"""What an endpoint's response means: a reply, or what to do about it.

Pure, but for the clock that a dated `Retry-After` is held against.
"""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gristmill.pipeline.models.completion.rate_limit import Verdict
from gristmill.pipeline.models.completion.requests import Reply

_AGAIN = {408, 409, 425, 429}
_TERMINAL = {401, 402, 403, 404}
_NO_CREDIT = ("insufficient_quota", "billing", "credit", "quota_exceeded")
_TOO_LONG = ("context_length", "context length", "maximum context", "too long", "exceed_context")
_LONGEST_WAIT = 900.0  # seconds; an endpoint that asks for more is not worth waiting for


class Asked(Protocol):
    """What is known of the endpoint that answered."""

    @property
    def url(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def served_as(self) -> str | None: ...

    @property
    def key_variable(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """An attempt without an answer: what to do next, and what it says of the endpoint."""

    reason: str
    again: bool = False
    terminal: bool = False
    verdict: Verdict = "fine"
    wait: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0


def read_response(
    status: int, headers: Mapping[str, str], body: bytes, endpoint: Asked
) -> Reply | Trouble:
    """What one HTTP response means; pure."""
    if status != 200:
        return read_error(status, headers, body, endpoint)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Trouble(reason=f"not_json: {_excerpt(body)}", again=True, verdict="sick")
    return read_completion(document, endpoint)


def read_completion(document: Any, endpoint: Asked) -> Reply | Trouble:  # noqa: ANN401 (JSON)
    """The body of a good response as a reply."""
    try:
        usage = document.get("usage") or {}
        served = str(document.get("model") or "")
        paid = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        if served and not _same_model(endpoint.served_as or endpoint.model, served):
            return Trouble(
                reason=f"wrong_model: asked for {endpoint.model!r}, answered by {served!r}; if "
                f"that is the same model, set served_as={served!r}",
                terminal=True,
            )
        choice = document["choices"][0]
        message = choice["message"]
        text, calls = message.get("content") or "", tuple(message.get("tool_calls") or ())
        reasoning, finish = message.get("reasoning_content"), choice.get("finish_reason")
        if not all(isinstance(x, str) for x in (text, reasoning or "", finish or "")):
            raise TypeError("an answer is text")
        reply = Reply(
            text=text,
            tokens_in=paid[0],
            tokens_out=paid[1] or -(-len(text.encode("utf-8", "replace")) // 4),
            finish=finish or "stop",
            served=served,
            reasoning=reasoning or "",
            tool_calls=calls,
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
        reason = f"no_choice: {_excerpt(json.dumps(document).encode())}"
        return Trouble(reason=reason, again=True, verdict="sick")
    if not text.strip() and not calls and reply.finish not in ("length", "content_filter"):
        return Trouble(
            reason="empty_answer: the model said nothing",
            again=True,
            tokens_in=paid[0],
            tokens_out=paid[1],
        )
    return reply


def read_error(status: int, headers: Mapping[str, str], body: bytes, endpoint: Asked) -> Trouble:
    """What a response other than 200 means; pure."""
    text = _error_text(body)
    low = text.lower()
    if status in _TERMINAL or (status == 429 and any(word in low for word in _NO_CREDIT)):
        advice = {
            401: f"check the key in {endpoint.key_variable or 'key_variable'}",
            404: f"check the URL {endpoint.url} and the model name {endpoint.model!r}",
        }.get(status, "the endpoint refuses this account")
        return Trouble(reason=f"http_{status}: {text}; {advice}", terminal=True)
    if status in _AGAIN or status >= 500:
        wait = retry_after(headers, time.time())
        if wait > _LONGEST_WAIT:
            reason = f"http_{status}: the endpoint asks to wait {wait:.0f} s"
            return Trouble(reason=reason, terminal=True)
        busy = status in (429, 503) and (status == 429 or wait > 0)
        verdict: Verdict = "busy" if busy else "sick"
        return Trouble(reason=f"http_{status}: {text}", again=True, verdict=verdict, wait=wait)
    if any(words in low for words in _TOO_LONG):
        return Trouble(reason=f"context_too_long: {text}")
    return Trouble(reason=f"http_{status}: {text}")


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds that `Retry-After` (seconds or a date) or `retry-after-ms` ask for; 0 if neither."""
    millis, wish = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if millis is not None:
            return max(0.0, float(millis) / 1000)
        return 0.0 if wish is None else max(0.0, float(wish))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(wish or "").timestamp() - now)
    except (ValueError, TypeError):
        return 0.0


def _same_model(asked: str, served: str) -> bool:
    """Equal, or the same with its date or revision: "gpt-4o-2024-08-06", "org/name@main"."""
    return served == asked or bool(re.match(re.escape(asked) + r"(-\d{4}|@|:latest$)", served))


def _error_text(body: bytes) -> str:
    """The message and code of an error body, or its beginning."""
    try:
        error = json.loads(body)["error"]
        if isinstance(error, str):
            return error[:300]
        return f"{error.get('message', '')} ({error.get('code') or error.get('type')})"[:300]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _excerpt(body)


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode("utf-8", "replace").split()) or "(no text)"
