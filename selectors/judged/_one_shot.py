"""One-shot gains: how much more probable do a task's answers become behind a record?

The record stands before each of a few anchors (records of a reference set) as a worked example. Its
keys and values are computed once and shared by all anchors; the same code, with the start token
alone as prefix, gives the anchors' log-probabilities without it, so equal prefixes give equal
numbers to the last bit.
"""

# A = anchors, T = tokens, K = answer tokens, D = hidden size, V = vocabulary

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import (
    ID_BYTES,
    ModelShape,
    ModelSignal,
    View,
    of_role,
    settings_of,
)
from gristmill.pipeline.models.calling import cached
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.control_markers import NotTokenised
from gristmill.pipeline.models.forward import HEAD_CHUNK, backbone, logits, pad
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.records.schema import digest, uniform
from gristmill.pipeline.signals.next_token import record_parts

TOKENS = 16_384  # prefix and anchor tokens whose keys and values are held at once
ROUNDS = 50  # of k-means
GAINS = pl.Struct(
    {"anchor": pl.List(pl.Int32), "gain": pl.List(pl.Float64), "floor": pl.List(pl.Float64)}
)


@dataclass(frozen=True, kw_only=True)
class Exemplar(View):
    """A record as a worked example before another task: plain text, without a chat template.

    Attributes:
        task_tokens: tokens that the task behind it may take; a longer example is cut at its end.
        parity: nothing between example and task, as in the authors' code, instead of a blank line.
    """

    version: ClassVar[int] = 2
    task_tokens: int = 200
    parity: bool = False

    @property
    def name(self) -> str:
        return f"exemplar_{self.task_tokens}" + ("_parity" if self.parity else "")

    @property
    def gap(self) -> str:
        return "" if self.parity else "\n\n"

    def cut_at(self, limit: int) -> str:
        most = limit - self.task_tokens - 1
        return f"{most:,} tokens, which leaves {self.task_tokens:,} for a task"

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        shown = worked(record)
        if isinstance(shown, str):
            return Encoded(reason=shown)
        try:
            task, answer = map(chat.hold, shown)
            text = task + answer + self.gap
            ids, offsets = chat.tokenise(text)
        except NotTokenised as error:
            return Encoded(reason=str(error))
        most = chat.limit - self.task_tokens - 1
        if len(ids) > most and (chat.overlong == "skip" or most < 1):
            return Encoded(reason=f"too_long: {len(ids)} tokens and {self.task_tokens} for a task")
        cut = max(0, len(ids) - most)
        shows_answer = offsets[min(most, len(offsets)) - 1][1] > len(task)
        example = Encoded(
            text=text,
            ids=[chat.start_id, *ids[:most]],
            offsets=[(0, 0), *offsets[:most]],
            turn=[0] * (len(ids[:most]) + 1),
            cut=cut,
            length=len(ids) + 1,
            reason=None if shows_answer else "answer_cut",  # a task alone is no example
        )
        return chat.released(example)

    def empty(self, chat: ChatTokenizer) -> list[int]:
        """The prefix of an example that says nothing."""
        return [chat.start_id, *chat.tokenise(self.gap)[0]]


def worked(record: Mapping[str, Any]) -> tuple[str, str] | str:
    """Task and answer as blocks of text; or the reason why the record has none."""
    parts, reason = record_parts(record)
    if reason is not None:
        return reason
    if not parts["answer"].strip():
        return "empty_answer"
    return f"Instruction:\n{parts['prompt']}\n\nResponse:\n", parts["answer"]


@dataclass(frozen=True, kw_only=True)
class OneShotGains(ModelSignal):
    """Summed log-probability of each anchor's answer behind the record, less that without it.

    Per row: `anchor`, numbers of the given records that serve; `gain` in nats; `floor`, what an
    empty example gains. Given records longer than `Exemplar.task_tokens` tokens, or without an
    answer, do not serve: an anchor is never cut. Of more than `anchors`, those nearest to the
    centroids of k-means over the model's mean hidden states serve.

    Attributes:
        view: the record as example.
        records: canonical JSON of the given records: their content is the setting.
        anchors: how many serve at most.
        seed: of k-means' first centroids.
    """

    view: Exemplar = field(default_factory=Exemplar)
    records: tuple[str, ...] = ()
    anchors: int = 100
    seed: int = 0

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}one_shot.{self.view.name}.{digest(settings_of(self))[:12]}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return GAINS

    def cost(self, tokens: float) -> float:
        return 1 + self.anchors * self.view.task_tokens / max(tokens, 1)

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return ID_BYTES + 20 * self.anchors

    def open(self, model: LoadedModel) -> Callable[[Sequence[Encoded]], list[Any]]:
        """Choose the anchors and read them without an example, once."""
        served = self._anchors(model)
        numbers, tasks = list(served), list(served.values())
        start = [] if self.view.parity else [model.chat.start_id]
        bare_A = answer_logprobs(start, tasks, model)
        floor_A = answer_logprobs(self.view.empty(model.chat), tasks, model) - bare_A

        def run(encoded: Sequence[Encoded]) -> list[Any]:
            return [
                {
                    "anchor": numbers,
                    "gain": (answer_logprobs(e.ids, tasks, model) - bare_A).tolist(),
                    "floor": floor_A.tolist(),
                }
                for e in encoded
            ]

        return run

    def _anchors(self, model: LoadedModel) -> dict[int, Encoded]:
        """The given records that serve as anchors, by number."""
        fit = {
            number: task
            for number, record in enumerate(self.records)
            if (task := anchor(json.loads(record), model.chat)) is not None
            and len(task.ids) <= self.view.task_tokens
        }
        if not fit:
            raise ValueError(
                f"none of the {len(self.records)} reference records serves as an anchor: give "
                f"examples with an answer and at most {self.view.task_tokens} tokens (setting "
                "anchor_tokens)."
            )
        if len(fit) <= self.anchors:
            return fit
        numbers = list(fit)
        draws = [uniform(self.seed, "anchors", digest(self.records[n])) for n in numbers]
        mean_AD = _mean_states([fit[n] for n in numbers], model)
        nearest = nearest_to_centroids(mean_AD, self.anchors, np.argsort(draws, kind="stable"))
        return {numbers[i]: fit[numbers[i]] for i in nearest}


def anchor(record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded | None:
    """A record as a task whose answer is scored, tokenised by itself; None where it cannot be."""
    shown = worked(record)
    if isinstance(shown, str):
        return None
    task, answer = shown
    try:
        task, answer = chat.hold(task), chat.hold(answer)
        ids, offsets = chat.tokenise(task + answer)
    except NotTokenised:
        return None
    turn = [int(end > len(task)) for _, end in offsets]
    whole = Encoded(text=task + answer, ids=ids, offsets=offsets, turn=turn, length=len(ids))
    return chat.released(whole)


def answer_logprobs(
    prefix: Sequence[int], tasks: Sequence[Encoded], model: LoadedModel
) -> npt.NDArray[np.float64]:
    """Sum of log p over each task's answer tokens, in nats, all behind the same prefix."""
    import torch
    from transformers import DynamicCache

    sums = np.zeros(len(tasks))
    longest = max(len(t.ids) for t in tasks)
    rows = max(1, TOKENS // (len(prefix) + longest))
    net = backbone(model.model)
    with torch.inference_mode():
        held = DynamicCache(config=model.model.config)
        before_1D = None
        if prefix:
            ids_1T = torch.tensor([list(prefix)], device=model.device)
            out = net(input_ids=ids_1T, **cached(net, held))
            before_1D = out.last_hidden_state[:, -1]
        for first in range(0, len(tasks), rows):
            part = tasks[first : first + rows]
            ids_AT = torch.from_numpy(pad(part, model.chat, "right")[0]).to(model.device)
            behind: dict[str, Any] = {"use_cache": False}
            if prefix:
                cache = copy.deepcopy(held)
                cache.batch_repeat_interleave(len(part))
                behind = cached(net, cache)
            # padding is on the right, where a causal model's real tokens cannot see it
            out = net(input_ids=ids_AT, **behind)
            for a, task in enumerate(part):
                at = np.flatnonzero(task.turn)
                state_TD = out.last_hidden_state[a]
                if before_1D is not None:  # the prefix predicts the first token
                    state_TD = torch.cat([before_1D, state_TD])
                    source = at
                else:
                    at = at[at > 0]
                    source = at - 1
                sums[first + a] = _sum_logprob(state_TD[source], ids_AT[a, at], model)
    return sums


def _sum_logprob(state_KD: Any, ids_K: Any, model: LoadedModel) -> float:  # noqa: ANN401
    total = 0.0
    for k in range(0, len(ids_K), HEAD_CHUNK):
        logits_KV = logits(model.model, state_KD[k : k + HEAD_CHUNK]).float()
        ids_K1 = ids_K[k : k + HEAD_CHUNK, None]
        logp_K = logits_KV.gather(1, ids_K1)[:, 0] - logits_KV.logsumexp(-1)
        total += float(logp_K.double().sum())
    return total


def _mean_states(tasks: Sequence[Encoded], model: LoadedModel) -> npt.NDArray[np.float64]:
    """Mean of the last hidden states of each task, one at a time."""
    import torch

    means = []
    with torch.inference_mode():
        for task in tasks:
            ids_1T = torch.tensor([[model.chat.start_id, *task.ids]], device=model.device)
            out = backbone(model.model)(input_ids=ids_1T, use_cache=False)
            means.append(out.last_hidden_state[0].double().mean(0).cpu().numpy())
    return np.stack(means)


def nearest_to_centroids(
    vector_AD: npt.NDArray[np.float64], clusters: int, order: npt.NDArray[np.int64]
) -> list[int]:
    """Rows nearest to the centroids of k-means, sorted; `order` says who are the first centroids.

    Two centroids may share their nearest row, so there can be fewer rows than clusters.
    """
    centroid_KD = vector_AD[order[:clusters]].copy()
    square_A1 = (vector_AD**2).sum(1, keepdims=True)
    for _ in range(ROUNDS):
        far_AK = square_A1 - 2 * vector_AD @ centroid_KD.T + (centroid_KD**2).sum(1)
        of_A = far_AK.argmin(1)
        moved = centroid_KD.copy()
        for k in np.unique(of_A):
            moved[k] = vector_AD[of_A == k].mean(0)
        if np.array_equal(moved, centroid_KD):
            break
        centroid_KD = moved
    far_AK = square_A1 - 2 * vector_AD @ centroid_KD.T + (centroid_KD**2).sum(1)
    return sorted({int(i) for i in far_AK.argmin(0)})
