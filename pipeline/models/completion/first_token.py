"""First token: how likely a local model begins its turn with each of a few allowed answers.

A back end like any other, so that what it says is cached, counted and capped like an answer: the
text of its reply is JSON, allowed answer -> probability out of the whole vocabulary.
"""

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gristmill.pipeline.models.completion.requests import (
    Answering,
    Failure,
    Outcome,
    Reply,
    Request,
)


class Readable(Protocol):
    """A model whose next token can be read: `local.Local` is one."""

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def model(self) -> str: ...

    @property
    def group(self) -> int: ...

    def prompt_tokens(self, request: Request) -> int: ...

    def first_logprobs(
        self, requests: Sequence[Request], answers: Sequence[str]
    ) -> Sequence[Mapping[str, float] | Failure]: ...


@dataclass(frozen=True, kw_only=True)
class FirstToken:
    """A model in memory that is read, not let speak.

    Attributes:
        of: the model.
        answers: the allowed answers; they differ in their first token.
    """

    of: Readable
    answers: tuple[str, ...]

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "first_token", "of": dict(self.of.identity), "answers": list(self.answers)}

    @property
    def model(self) -> str:
        return self.of.model

    @property
    def workers(self) -> int:
        return 1

    @property
    def group(self) -> int:
        return self.of.group

    def prompt_tokens(self, request: Request) -> int:
        return self.of.prompt_tokens(request)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Answering]:
        yield self._answer

    async def _answer(self, requests: Sequence[Request]) -> AsyncGenerator[Outcome, None]:
        for index, found in enumerate(self.of.first_logprobs(requests, self.answers)):
            if isinstance(found, Failure):
                yield index, found
                continue
            p = {answer: math.exp(value) for answer, value in found.items()}
            read = self.prompt_tokens(requests[index])
            yield index, Reply(text=json.dumps(p), tokens_in=read, tokens_out=0, served=self.model)


def shares(text: str, least_mass: float) -> tuple[dict[str, float], float]:
    """The probabilities of a reply among themselves, and what they are together.

    Args:
        text: of a `FirstToken` reply.
        least_mass: what the allowed answers must have together.

    Raises:
        ValueError: they have less, so that the model would rather say something else.
    """
    p: dict[str, float] = json.loads(text)
    mass = sum(p.values())
    if not mass >= least_mass:  # also if it is no number
        raise ValueError(f"the allowed answers have {mass:.3g} of the probability together")
    return {answer: value / mass for answer, value in p.items()}, mass


def mean_mass(texts: Iterable[str]) -> float | None:
    """What the allowed answers had of the probability, in the mean of replies; null without any."""
    masses = [sum(json.loads(text).values()) for text in texts]
    return sum(masses) / len(masses) if masses else None
