"""Recorded completions: answers known beforehand, by request id. For tests and for replays."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gristmill.pipeline.models.completion.requests import (
    Answering,
    Failure,
    Outcome,
    Reply,
    Request,
)
from gristmill.pipeline.records.schema import digest


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Answers from a table. A text counts one token a word; an id without an entry fails.

    Attributes:
        answers: request id -> text, `Reply` or `Failure`; a list of texts is read by sample index.
        model: name in the lineage.
        role: what they were recorded for: two roles that are asked the same may have one table.
        group: requests taken at once.
        asked: ids of the requests that came here, in order; made by the class.
    """

    answers: Mapping[str, "str | Sequence[str] | Reply | Failure"]
    model: str = "recorded"
    role: str = ""
    group: int = 16
    workers: int = 1
    asked: list[str] = field(default_factory=list, compare=False, repr=False)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        texts = {
            key: value if isinstance(value, str) else repr(value)
            for key, value in self.answers.items()
        }
        known = {"kind": "recorded", "model": self.model, "answers": digest(texts)}
        return {**known, "role": self.role} if self.role else known

    def prompt_tokens(self, request: Request) -> int:
        return sum(len(str(message["content"]).split()) for message in request.messages)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Answering]:
        yield self._answer

    async def _answer(self, requests: Sequence[Request]) -> AsyncGenerator[Outcome, None]:
        for index, request in enumerate(requests):
            self.asked.append(request.id)
            yield index, self._look_up(request)

    def _look_up(self, request: Request) -> Reply | Failure:
        found = self.answers.get(request.id)
        if found is None:
            return Failure(reason=f"not_recorded: no answer for request {request.id!r}")
        if isinstance(found, (Reply, Failure)):
            return found
        text = found if isinstance(found, str) else found[request.sample % len(found)]
        return Reply(text=text, tokens_in=self.prompt_tokens(request), tokens_out=len(text.split()))
