"""Answering: candidates from several writers, each with its sampling, and answers from files.

A writer is a model under one set of sampling settings, asked so many times a prompt; the same model
may stand twice. All its answers go through the completion client, so that what is paid for once is
never asked again. An answer that is cut, empty or a tool call is no candidate, and says why.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.completion.budget import Budget, Price, Report
from gristmill.pipeline.models.completion.client import complete
from gristmill.pipeline.models.completion.requests import (
    Answer,
    CompletionBackend,
    Request,
    Sampling,
)
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.text import whole
from gristmill.synthesis.preference.candidates import Candidate, prompt_id
from gristmill.synthesis.preference.prompts import Prompt, asked_in

UNANSWERED: dict[str, Any] = {
    "prompt": pl.String,
    "role": pl.String,
    "sample": pl.Int64,
    "reason": pl.String,
}
Tell = Any  # (done, in all) -> None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What writers made.

    Attributes:
        candidates: the answers, in order of prompts.
        unanswered: rows of `UNANSWERED`.
        labels: what files say of two answers to a prompt: (prompt, better text, worse text).
        fused: rows of `fused.FUSED`.
        places: rows of `avoiding.PLACES`.
    """

    candidates: tuple[Candidate, ...] = ()
    unanswered: tuple[Mapping[str, Any], ...] = ()
    labels: tuple[tuple[str, str, str], ...] = ()
    fused: tuple[Mapping[str, Any], ...] = ()
    places: tuple[Mapping[str, Any], ...] = ()

    def __add__(self, other: "Answered") -> "Answered":
        return Answered(
            candidates=(*self.candidates, *other.candidates),
            unanswered=(*self.unanswered, *other.unanswered),
            labels=(*self.labels, *other.labels),
            fused=(*self.fused, *other.fused),
            places=(*self.places, *other.places),
        )


class Writer(Protocol):
    """Who writes candidates; each sees those that the writers before it wrote."""

    @property
    def role(self) -> str:
        """What the run calls it."""

    def answer(
        self, prompts: Sequence[Prompt], before: Sequence[Candidate], client: "Client"
    ) -> Answered:
        """Its candidates.

        Args:
            prompts: what is asked.
            before: what earlier writers wrote.
            client: how models are asked.
        """


@dataclass(frozen=True, kw_only=True)
class Client:
    """How models are asked in a run.

    Attributes:
        cache: of completions.
        caps: of the run.
        progress: told of what is being done (what, done, in all).
    """

    cache: Path | None = None
    caps: RunCaps = field(default_factory=RunCaps)
    progress: Any = None

    def budget(self, price: Price) -> Budget:
        """What the answers of one model are counted on."""
        return Budget(price=price, caps=self.caps)

    def tell(self, what: str) -> Any:  # noqa: ANN401  (a function of a client's report)
        """What a client calls with its reports."""

        def told(report: Report) -> None:
            if self.progress is not None:
                self.progress(what, report.rows, report.total or report.rows)
            self.caps.told(what, report.rows, report.total or report.rows)

        return told


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model under one set of sampling settings.

    Attributes:
        role: what the run calls it.
        backend: who answers.
        sampling: how its tokens are drawn.
        samples: answers a prompt.
        system: what it is told before a prompt; it is no part of the prompt of a pair.
        on_policy: whether it is the model that is to be trained.
        price: of its tokens.
        seed: of the draws.
    """

    role: str
    backend: CompletionBackend
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    system: str | None = None
    on_policy: bool = False
    price: Price = field(default_factory=Price)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"{self.role}: samples is {self.samples}; give at least 1.")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"{self.role}: {self.samples} samples at temperature 0 are one answer repeated; "
                "give a temperature."
            )

    def answer(
        self, prompts: Sequence[Prompt], before: Sequence[Candidate], client: Client
    ) -> Answered:
        asked = [(prompt, sample) for prompt in prompts for sample in range(self.samples)]
        candidates: list[Candidate] = []
        unanswered: list[Mapping[str, Any]] = []
        for result in complete(
            asked,
            self.backend,
            prompt=self.request,
            parse=_text,
            cache=client.cache,
            budget=client.budget(self.price),
            progress=client.tell(f"answers of {self.role}"),
        ):
            prompt, sample = result.row
            if result.status != "ok":
                place = {"prompt": prompt.id, "role": self.role, "sample": sample}
                unanswered.append({**place, "reason": result.reason})
                continue
            assert result.answer is not None, "an answer is ok"
            read, written = result.answer.all_tokens
            candidates.append(
                Candidate(
                    prompt=prompt.id,
                    text=result.value,
                    role=self.role,
                    model=self.backend.model,
                    sampling=settings_of(self.sampling),
                    sample=sample,
                    on_policy=self.on_policy,
                    tokens_in=read,
                    tokens_out=written,
                    cost=self.price.of(read, written),
                )
            )
        return Answered(candidates=tuple(candidates), unanswered=tuple(unanswered))

    def request(self, asked: tuple[Prompt, int]) -> Request:
        """What is asked for a prompt and the number of a sample."""
        prompt, sample = asked
        messages = [whole(m) for m in prompt.messages]
        if self.system is not None:
            told = self.system
            if messages[0]["role"] == "system":
                told = f"{messages.pop(0)['content']}\n\n{told}"
            messages = [{"role": "system", "content": told}, *messages]
        ident = f"{self.role}/{prompt.id}"
        return Request(
            id=ident if self.samples == 1 else f"{ident}/{sample}",
            messages=messages,
            sampling=self.sampling,
            seed=self.seed,
            sample=sample,
            tools=tuple(json.loads(prompt.tools)) if prompt.tools else (),
        )


@dataclass(frozen=True, kw_only=True)
class File:
    """Answers that stand in rows: of an example the last one, of a pair both, with its label.

    Attributes:
        role: what the run calls it.
        rows: examples or pairs, whose prompts are the run's.
        rating: column of examples that holds a number: how good the answer is.
        on_policy: whether the model that is to be trained wrote them.
    """

    role: str
    rows: Dataset
    rating: str | None = None
    on_policy: bool = False

    def answer(
        self, prompts: Sequence[Prompt], before: Sequence[Candidate], client: Client
    ) -> Answered:
        wanted = {p.id for p in prompts}
        candidates: list[Candidate] = []
        unanswered: list[Mapping[str, Any]] = []
        labels: list[tuple[str, str, str]] = []
        numbers: dict[str, int] = {}
        for row in self.rows.frame().sort("source", "row", "id").iter_rows(named=True):
            turns, reply = asked_in(row)
            ident = prompt_id(turns, row.get("tools"))
            if ident not in wanted:
                continue
            sides = [reply] if "prompt" not in row else [row["chosen"], row["rejected"]]
            texts = [_plain(side) for side in sides]
            for text in texts:
                sample = numbers[ident] = numbers.get(ident, -1) + 1
                place = {"prompt": ident, "role": self.role, "sample": sample}
                if text is None:
                    reason = "not_plain: the row has no single answer in plain text"
                    unanswered.append({**place, "reason": reason})
                else:
                    candidates.append(self._candidate(place, row, text))
            if len(texts) == 2 and None not in texts:
                labels.append((ident, texts[0] or "", texts[1] or ""))
        if prompts and not candidates and not unanswered:
            raise ValueError(
                f"{self.role}: its rows answer none of the prompts: give answers to the same turns."
            )
        return Answered(
            candidates=tuple(candidates), unanswered=tuple(unanswered), labels=tuple(labels)
        )

    def _candidate(self, place: Mapping[str, Any], row: Mapping[str, Any], text: str) -> Candidate:
        aspects = {}
        if self.rating is not None and "messages" in row:
            told = json.loads(row["meta"] or "{}").get(self.rating)
            is_number = isinstance(told, (int, float)) and not isinstance(told, bool)
            aspects = {self.rating: _finite(told) if is_number else None}
        return Candidate(
            **place, text=text, model=row["source"], on_policy=self.on_policy, aspects=aspects
        )


def _text(row: object, answer: Answer) -> str:
    if answer.tool_calls:
        raise ValueError("a tool call, and no answer in plain text")
    return answer.text


def _finite(told: float) -> float | None:
    """A number that can be compared; JSON has larger ones than a float holds."""
    try:
        found = float(told)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _plain(turns: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of one assistant turn without further fields; None if it is anything else."""
    if len(turns) != 1 or turns[0].get("extra") is not None:
        return None
    text = turns[0]["content"]
    return text if text and text.strip() else None
