"""Completions from a transformers model in memory: batched, left-padded, with a key-value cache.

Rows are sorted by length and generated in batches; a row that has ended leaves its batch. Sampled
tokens are the inverse of the cumulated probabilities at a number keyed by (seed, position, request
key), so a row draws the same whatever stands beside it; its logits move with the batch by rounding
alone. Only `Sampling` counts: defaults in the model's generation config are not used.

A JSON schema is enforced while decoding (llguidance): tokens that would leave it get no chance.
"""

# B = rows of a batch, T = prompt tokens, S = prompt and answer tokens, N = answer tokens,
# V = vocabulary, A = answers of a judge

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from transformers import DynamicCache

from gristmill.pipeline.models.calling import cached
from gristmill.pipeline.models.chat_tokenizer import reason_of
from gristmill.pipeline.models.completion.requests import (
    Answering,
    Failure,
    Outcome,
    Reply,
    Request,
    request_key,
)
from gristmill.pipeline.models.completion.sampling import Row, choose, first_stop
from gristmill.pipeline.models.completion.schema import with_schema
from gristmill.pipeline.models.load import LoadedModel

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Local:
    """A loaded model as a back end.

    Attributes:
        loaded: model and tokenizer.
        rows: requests in a batch, at most.
        tokens: prompt and answer tokens in a batch, at most (one row may be longer).
        group: requests that are sorted by length together.
        constrain: hold answers to their schema while decoding; otherwise the prompt asks for it.
    """

    loaded: LoadedModel
    rows: int = 64
    tokens: int = 32_768
    group: int = 256
    constrain: bool = True
    workers: int = field(default=1, init=False)

    @property
    def model(self) -> str:
        return self.loaded.files.reference

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "kind": "local",
            "weights": self.loaded.files.fingerprint,
            "template": self.loaded.chat.template_sha,
            "dtype": self.loaded.dtype,
            "constrained": self.constrain,
        }

    @cached_property
    def grammar_tokenizer(self) -> Any:  # noqa: ANN401  (llguidance's)
        """The vocabulary as the grammar engine sees it."""
        from llguidance.hf import from_tokenizer

        width = int(self.loaded.model.config.get_text_config().vocab_size)
        ends = sorted(self.ends)
        return from_tokenizer(self.loaded.chat.tokenizer, n_vocab=width, eos_token=ends)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's and the model's."""
        named = self.loaded.model.generation_config.eos_token_id
        several = named if isinstance(named, list) else [named]
        return frozenset(
            i for i in (*several, self.loaded.chat.tokenizer.eos_token_id) if i is not None
        )

    def prompt_tokens(self, request: Request) -> int:
        try:
            return len(self._encode(request))
        except ValueError:
            return 0  # it will fail by itself, with the reason

    def _encode(self, request: Request) -> list[int]:
        chat = self.loaded.chat
        messages = request.messages
        if request.schema is not None and not self.constrain:
            messages = with_schema(request)
        plain = [
            {
                "role": m["role"],
                "content": m["content"],
                "extra": json.dumps({k: v for k, v in m.items() if k not in ("role", "content")}),
            }
            for m in messages
        ]
        tools = json.dumps([dict(t) for t in request.tools]) if request.tools else None
        try:
            ids, _ = chat.tokenise(chat.render(plain, tools, generation=True))
        except Exception as error:  # a template may fail in any way; it costs its request alone
            raise ValueError(reason_of(error)) from None
        return ids

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Answering]:
        yield self._answer

    async def _answer(self, requests: Sequence[Request]) -> AsyncGenerator[Outcome, None]:
        rows: list[Row] = []
        for index, request in enumerate(requests):
            try:
                rows.append(self.row(index, request))
            except ValueError as error:
                yield index, Failure(reason=str(error))
        for batch in _batches(rows, self.rows, self.tokens):
            for row, outcome in zip(batch, _halving(self._generate, batch), strict=True):
                yield row.index, outcome

    def generate(self, rows: Sequence[Row]) -> list[Reply | Failure]:
        """Replies to rows that are tokens already, in order; each row keeps what it drew in `out`.

        For callers that need the tokens themselves: a text does not say how it was split.
        """
        found: dict[int, Reply | Failure] = {}
        for batch in _batches(rows, self.rows, self.tokens):
            for row, outcome in zip(batch, _halving(self._generate, batch), strict=True):
                found[id(row)] = outcome
        return [found[id(row)] for row in rows]

    def row(self, index: int, request: Request) -> Row:
        """A request as tokens, with the number that its outcome will bear.

        Raises:
            ValueError: it cannot be shown, does not fit, or its schema is not supported.
        """
        ids, limit = self._encode(request), self.loaded.chat.limit
        whole = len(ids) + request.sampling.max_tokens
        if whole > limit:
            raise ValueError(
                f"context_too_long: {len(ids)} prompt tokens and max_tokens="
                f"{request.sampling.max_tokens} exceed the context of {limit}"
            )
        matcher = None
        if request.schema is not None and self.constrain:
            from llguidance import LLMatcher

            grammar = LLMatcher.grammar_from_json_schema(
                json.dumps(request.json_schema),
                overrides={"whitespace_flexible": False},  # or a model may emit blanks for ever
            )
            matcher = LLMatcher(self.grammar_tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise ValueError(f"schema_unsupported: {matcher.get_error()[:200]}")
        key = request_key(request, self.identity)
        return Row(index=index, request=request, key=key, ids=ids, matcher=matcher)

    @torch.inference_mode()
    def _generate(self, rows: Sequence[Row]) -> list[Reply | Failure]:
        began = time.monotonic()
        model, device = self.loaded.model, self.loaded.device
        alive = list(rows)
        longest = max(r.request.sampling.max_tokens for r in rows)
        ids_BT, mask_BT = self._pad(rows)
        ones_BN = torch.ones(len(rows), longest, dtype=mask_BT.dtype, device=device)
        mask_BS = torch.cat([mask_BT, ones_BN], dim=1)
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        reading = cached(model, cache)
        for length in range(ids_BT.shape[1], mask_BS.shape[1] + 1):
            logits_BV = model(
                input_ids=ids_BT,
                attention_mask=mask_BS[:, :length],
                position_ids=position_BT,
                **reading,
                logits_to_keep=1,
            ).logits[:, -1]
            token_B = choose(alive, logits_BV.float())
            going = [i for i, r in enumerate(alive) if not self._add(r, token_B[i])]
            if not going:
                break
            ids_BT = torch.tensor([[token_B[i]] for i in going], device=device)
            position_BT = position_BT[going, -1:] + 1
            if len(going) < len(alive):
                keep_B = torch.tensor(going, device=device)
                cache.batch_select_indices(keep_B)
                mask_BS = mask_BS[keep_B]
                alive = [alive[i] for i in going]
        seconds = time.monotonic() - began
        total = sum(len(r.out) for r in rows)
        return [self._reply(r, seconds * len(r.out) / total) for r in rows]

    def _pad(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(r.ids) for r in rows)
        pad = self.loaded.chat.pad_id
        ids = [[pad] * (width - len(r.ids)) + list(r.ids) for r in rows]
        mask = [[0] * (width - len(r.ids)) + [1] * len(r.ids) for r in rows]
        device = self.loaded.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _add(self, row: Row, token: int) -> bool:
        """Append a token to a row; True if that ends it."""
        row.out.append(token)
        sampling = row.request.sampling
        if row.matcher is not None:
            row.matcher.consume_token(token)
        tail = self.text(row.out[-row.reach :]) if sampling.stop else ""
        if token in self.ends or first_stop(tail, sampling.stop) >= 0:
            row.finish.append("stop")
        elif len(row.out) == sampling.max_tokens:
            row.finish.append("length")
        return bool(row.finish)

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say, without the marks that end an answer."""
        kept = [i for i in ids if i not in self.ends]
        text: str = self.loaded.chat.tokenizer.decode(
            kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _reply(self, row: Row, seconds: float) -> Reply:
        text = self.text(row.out)
        stop = first_stop(text, row.request.sampling.stop)
        return Reply(
            text=text if stop < 0 else text[:stop],
            tokens_in=len(row.ids),
            tokens_out=len(row.out),
            finish=row.finish[0],
            served=self.model,
            seconds=seconds,
        )

    def first_logprobs(
        self, requests: Sequence[Request], answers: Sequence[str]
    ) -> list[Mapping[str, float] | Failure]:
        """Log-probability of each answer as the first token of the model's turn.

        What a judge is read by: "yes" and "no", or digits. An answer of several tokens counts with
        its first one.

        Raises:
            ValueError: two answers begin with the same token, so they cannot be told apart.
        """
        first = [self.loaded.chat.tokenise(answer)[0][0] for answer in answers]
        if len(set(first)) < len(first):
            raise ValueError(
                f"some of the answers {list(answers)} begin with the same token: give answers "
                "that differ in their first token."
            )
        found: dict[int, Mapping[str, float] | Failure] = {}
        rows: list[Row] = []
        for index, request in enumerate(requests):
            try:
                ids = self._encode(request)
                if len(ids) >= self.loaded.chat.limit:
                    raise ValueError(f"context_too_long: {len(ids)} prompt tokens")
                rows.append(Row(index=index, request=request, key="", ids=ids, matcher=None))
            except ValueError as error:
                found[index] = Failure(reason=str(error))

        @torch.inference_mode()
        def read(batch: Sequence[Row]) -> list[Mapping[str, float] | Failure]:
            ids_BT, mask_BT = self._pad(batch)
            logits_BV = self.loaded.model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen_BA = logits_BV.double().log_softmax(-1)[:, first].tolist()
            return [dict(zip(answers, values, strict=True)) for values in chosen_BA]

        for batch in _batches(rows, self.rows, self.tokens):
            for row, value in zip(batch, _halving(read, batch), strict=True):
                found[row.index] = value
        return [found[i] for i in range(len(requests))]


def _batches(rows: Sequence[Row], most: int, tokens: int) -> Iterator[list[Row]]:
    """Rows of like length together, the longest first: what does not fit shows at once."""
    ordered = sorted(
        rows, key=lambda r: (-r.request.sampling.max_tokens, -len(r.ids), r.request.id, r.index)
    )
    batch: list[Row] = []
    widest = 0
    for row in ordered:
        wide = max(widest, len(row.ids) + row.request.sampling.max_tokens)
        if batch and (len(batch) == most or wide * (len(batch) + 1) > tokens):
            yield batch
            batch, wide = [], len(row.ids) + row.request.sampling.max_tokens
        batch.append(row)
        widest = wide
    if batch:
        yield batch


def _halving(
    work: Callable[[Sequence[Row]], Sequence[T | Failure]], batch: Sequence[Row]
) -> list[T | Failure]:
    """Do a batch; where the device has no memory for it, do its halves, and say so."""
    try:
        return list(work(batch))
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            return [Failure(reason=f"out_of_memory: {len(batch[0].ids)} prompt tokens alone")]
    half = len(batch) // 2
    _LOG.warning("out of memory with %d rows in a batch; going on with %d", len(batch), half)
    torch.cuda.empty_cache()
    for row in batch:
        row.out.clear()
        row.finish.clear()
        if row.matcher is not None:
            row.matcher.reset()
    return [*_halving(work, batch[:half]), *_halving(work, batch[half:])]
