"""Rollouts: a model tries a record's task several times, and is graded by the known answer.

`Task` shows the record up to its last answer; `Rollouts` keeps what the model wrote, and how
probable it found it. Grading is apart and cheap (`graded`): another grader needs no new rollouts.
Data that carry outcomes of their own need no model at all (`given_outcomes`).
"""

# K = rollouts of a row

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import (
    ID_BYTES,
    ModelShape,
    ModelSignal,
    View,
    of_role,
    settings_of,
)
from gristmill.pipeline.models.chat_tokenizer import (
    TULU_TEMPLATE,
    ChatTokenizer,
    Encoded,
    reason_of,
)
from gristmill.pipeline.models.forward import batches, forward
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.numerics.answers import Grade, known_answer, marked_answer, solves
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.text import message_text

ROLLOUT = pl.Struct(
    {"text": pl.String, "tokens": pl.Int64, "logprob": pl.Float64, "whole": pl.Boolean}
)
LOSS_TOKENS = 4_096  # of a batch that reads the log-probabilities


@dataclass(frozen=True, kw_only=True)
class Task(View):
    """The record up to its last answer, and the header of the turn that would answer it.

    A task is shown whole or not at all: its end is what is asked.
    """

    version: ClassVar[int] = 2

    @property
    def name(self) -> str:
        return "task"

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        messages = list(record["messages"] if "messages" in record else record["prompt"])
        if messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not any(message_text(m) for m in messages):
            return Encoded(reason="empty_prompt")
        try:
            text = chat.render(messages, record.get("tools"), generation=True)
            ids, offsets = chat.tokenise(text)
        except Exception as error:  # a template may fail in any way; it costs its row alone
            return Encoded(reason=reason_of(error))
        if chat.template == TULU_TEMPLATE and chat.tokenizer.bos_token_id is not None:
            ids, offsets = [chat.tokenizer.bos_token_id, *ids], [(0, 0), *offsets]
        if len(ids) >= chat.limit:
            return Encoded(reason=f"too_long: {len(ids)} tokens leave no room to answer")
        task = Encoded(text=text, ids=ids, offsets=offsets, turn=[0] * len(ids), length=len(ids))
        return chat.released(task)


@dataclass(frozen=True, kw_only=True)
class Rollouts(ModelSignal):
    """What the model writes when it is given the record's task several times.

    Per rollout: `text`; `tokens`, the end marker included; `logprob`, their sum of log p in nats
    under the model itself (temperature 1, nothing cut off); `whole`, false if it reached its limit.
    Draws are keyed by seed, prompt and number of the rollout, so equal prompts get equal rollouts.

    Attributes:
        view: the task.
        samples: rollouts of a row.
        temperature: of the draws.
        max_tokens: longest rollout; less where the context leaves less.
        seed: of the draws.
    """

    view: View = field(default_factory=Task)
    samples: int = 16
    temperature: float = 1.0
    max_tokens: int = 1_024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1 or self.temperature <= 0:
            raise ValueError(
                "rollouts need samples and max_tokens of at least 1 and a temperature above 0; "
                f"found {self.samples}, {self.max_tokens} and {self.temperature}."
            )

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}rollouts.{self.view.name}.{digest(settings_of(self))[:12]}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.List(ROLLOUT)

    def cost(self, tokens: float) -> float:
        # each rollout reads the prompt and writes; all of it is read once more for its probability
        return 2 * self.samples * (1 + self.max_tokens / max(tokens, 1))

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return ID_BYTES + self.samples * (3 * self.max_tokens + 24)

    def tokens(self, encoded: Sequence[Encoded], values: Sequence[Any]) -> int:
        """Prompts and rollouts, and both once more for the probabilities."""
        drawn = sum(int(told["tokens"]) for row in values for told in row or ())
        return 2 * (self.samples * sum(len(e.ids) for e in encoded) + drawn)

    def open(self, model: LoadedModel) -> Callable[[Sequence[Encoded]], list[Any]]:
        return lambda encoded: self._roll(encoded, model)

    def _roll(self, encoded: Sequence[Encoded], model: LoadedModel) -> list[Any]:
        from gristmill.pipeline.models.completion.local import Local
        from gristmill.pipeline.models.completion.requests import (
            Failure,
            Reply,
            Request,
            Sampling,
            request_key,
        )
        from gristmill.pipeline.models.completion.sampling import Row

        backend = Local(loaded=model)
        rows = []
        for e in encoded:
            remaining = min(self.max_tokens, model.chat.limit - len(e.ids))
            sampling = Sampling(max_tokens=remaining, temperature=self.temperature)
            for k in range(self.samples):
                told = ({"role": "prompt", "content": e.text},)
                request = Request(
                    id=str(k), messages=told, sampling=sampling, seed=self.seed, sample=k
                )
                key = request_key(request, backend.identity)
                rows.append(Row(index=k, request=request, key=key, ids=e.ids, matcher=None))
        replies = backend.generate(rows)
        logprobs = _logprobs([list(r.ids) for r in rows], [r.out for r in rows], model)
        values: list[Any] = []
        for first in range(0, len(rows), self.samples):
            mine: list[Reply] = []
            for reply in replies[first : first + self.samples]:
                if isinstance(reply, Failure):  # the device has no memory for this row alone
                    break
                mine.append(reply)
            told_K = [
                {
                    "text": reply.text,
                    "tokens": reply.tokens_out,
                    "logprob": logprob,
                    "whole": reply.finish != "length",
                }
                for reply, logprob in zip(mine, logprobs[first:], strict=False)
            ]
            values.append(told_K if len(mine) == self.samples else None)
        return values


def _logprobs(
    prompts: Sequence[list[int]], drawn: Sequence[list[int]], model: LoadedModel
) -> list[float]:
    """Sum of log p of the drawn tokens, each sequence in one ordinary pass."""
    whole = [
        Encoded(ids=[*p, *d], turn=[0] * len(p) + [1] * len(d))
        for p, d in zip(prompts, drawn, strict=True)
    ]
    sums = [0.0] * len(whole)
    for rows in batches([len(e.ids) for e in whole], LOSS_TOKENS):
        batch = forward([whole[i] for i in rows], model, frozenset({"losses"}))
        for b, i in enumerate(rows):
            loss_T = batch.losses(b)[len(prompts[i]) :].astype(np.float64)
            sums[i] = -float(loss_T.sum())
    return sums


def from_meta(meta: str | None, path: str) -> Any:  # noqa: ANN401  (JSON)
    """The value in a record's `meta` at a dotted path, or None."""
    value = json.loads(meta) if meta else None
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def graded(
    row: Mapping[str, Any], column: str, grade: Grade, answer: str = ""
) -> tuple[list[bool] | None, str | None]:
    """Which rollouts of a row reach its known answer, and why it cannot be told.

    A rollout that reached its limit is right only if it marks its answer, or if last numbers are
    compared: half a derivation has no end.

    Args:
        row: the record's content columns, `meta` and the rollouts in `column`.
        column: of the signal `Rollouts`.
        grade: how the known answer is found in the reference solution.
        answer: path in `meta` of the reference solution; empty: the last assistant turn.
    """
    if row[column] is None:
        return None, None  # the facts say why
    if answer:
        told = from_meta(row["meta"], answer)
        reference = None if told is None or isinstance(told, (dict, list)) else str(told)
    else:
        last = row["messages"][-1] if row["messages"] else {"role": ""}
        reference = last["content"] if last["role"] == "assistant" else None
    known = known_answer(reference, grade) if reference else None
    if known is None:
        return None, "no_verifiable_answer"
    return [_done(r, grade) and solves(r["text"], known) for r in row[column]], None


def _done(rollout: Mapping[str, Any], grade: Grade) -> bool:
    """Whether the end of a rollout can be an answer."""
    return bool(rollout["whole"] or grade == "number" or marked_answer(rollout["text"]) is not None)


def given_outcomes(meta: str | None, path: str) -> tuple[list[bool] | None, str | None]:
    """Outcomes that the data carry: a list of flags, or a mapping of failures and n.

    A bare number is refused: 3 failures of 4 and 3 of 16 are different tasks.
    """
    value = from_meta(meta, path)
    if value is None:
        return None, f"no_outcomes: {path}"
    if isinstance(value, list) and value and all(flag in (0, 1) for flag in value):
        return [bool(flag) for flag in value], None
    if isinstance(value, dict):
        failures, n = value.get("failures"), value.get("n")
        if isinstance(failures, int) and isinstance(n, int) and 0 <= failures <= n and n:
            return [True] * (n - failures) + [False] * failures, None
    if isinstance(value, (int, float)):
        return None, "bare_count: give failures and n, or a list of 0 and 1"
    return None, f"outcomes_unreadable: {path}"
