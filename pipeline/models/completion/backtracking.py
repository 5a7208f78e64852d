"""Backtracking: answers without banned phrases, and what each of these was begun with.

As soon as a phrase is complete, the answer goes back to the token that began it, and another token
of the same distribution is taken there (Antislop). Each such place tells a final-token pair: the
prefix, the token that led into the phrase, and the tokens that would not have.

A back end like any other, so that what it says is cached, counted and capped like an answer: the
text of its reply is the JSON of `Written`. Draws are keyed by (seed, position, attempt, request):
up to its first phrase an answer is the one that is written without any ban.
"""

# V = vocabulary, K = likeliest tokens of a position

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from transformers import DynamicCache

from gristmill.pipeline.models.calling import cached
from gristmill.pipeline.models.completion.local import Local
from gristmill.pipeline.models.completion.phrase_pattern import WORD, pattern
from gristmill.pipeline.models.completion.requests import (
    Answering,
    Failure,
    Outcome,
    Reply,
    Request,
)
from gristmill.pipeline.models.completion.sampling import Row, first_stop
from gristmill.pipeline.models.completion.written import Place, Written
from gristmill.pipeline.records.schema import uniform


@dataclass(frozen=True, kw_only=True)
class Backtracking:
    """A model in memory that takes back what it should not say. Schemas are not enforced.

    Attributes:
        of: the model.
        phrases: that must not be said, in any spelling; none: answers are plain.
        alternatives: chosen tokens of a place, at most.
        min_p: least probability of a chosen token, as a share of the likeliest one's.
        attempts: tokens that are tried at one place before the phrase may stand.
        patience: how many times `max_tokens` may be drawn for one answer; then phrases may stand.
        group: requests it likes to have at hand; they are answered one by one.
    """

    of: Local
    phrases: tuple[str, ...]
    alternatives: int = 20
    min_p: float = 0.01
    attempts: int = 20
    patience: int = 4
    group: int = 16
    workers: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        for name in ("alternatives", "attempts", "patience"):
            if vars(self)[name] < 1:
                raise ValueError(f"backtracking: {name} is {vars(self)[name]}; give at least 1.")
        if not 0 < self.min_p <= 1:
            raise ValueError(f"backtracking: min_p is {self.min_p}; give a share above 0, up to 1.")
        blank = [p for p in self.phrases if not WORD.search(p)]
        if blank:
            raise ValueError(f"backtracking: the phrase {blank[0]!r} has no words: leave it out.")

    @property
    def model(self) -> str:
        return self.of.model

    @property
    def identity(self) -> Mapping[str, Any]:
        names = ("phrases", "alternatives", "min_p", "attempts", "patience")
        settings = {name: vars(self)[name] for name in names}
        return {"kind": "backtracking", "of": dict(self.of.identity), **settings}

    @property
    def plain(self) -> "Backtracking":
        """The same model, that may say all."""
        return replace(self, phrases=())

    @property
    def tokenizer(self) -> str:
        """Hash of the tokenizer whose tokens it tells."""
        return self.of.loaded.files.tokenizer_sha

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say."""
        return self.of.text(tokens)

    def prompt_tokens(self, request: Request) -> int:
        return self.of.prompt_tokens(request)

    @cached_property
    def special(self) -> frozenset[int]:
        """Control tokens: none of them is an alternative."""
        return frozenset(self.of.loaded.chat.tokenizer.all_special_ids) | self.of.ends

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Answering]:
        yield self._answer

    async def _answer(self, requests: Sequence[Request]) -> AsyncGenerator[Outcome, None]:
        for index, request in enumerate(requests):
            try:
                yield index, self.write(self.of.row(index, request))
            except ValueError as error:
                yield index, Failure(reason=str(error))

    @torch.inference_mode()
    def write(self, row: Row) -> Reply:
        """The answer to a request that is tokens already."""
        began = time.monotonic()
        draft = _Draft(row=row)
        reader = _Reader(local=self.of, prompt=list(row.ids))
        most = row.request.sampling.max_tokens
        finish = ""
        while not finish:
            logits_V = reader.next(draft.out)
            self._draw(draft, logits_V)
            ended = draft.out[-1] in self.of.ends or self._stop(draft) >= 0
            finish = "stop" if ended else "length" if len(draft.out) == most else ""
            if draft.drawn < self.patience * most and self._back(draft, ended=bool(finish)):
                finish = ""
        text, stop = self.of.text(draft.out), self._stop(draft)
        text = text if stop < 0 else text[:stop]
        written = Written(
            text=text,
            prompt=tuple(row.ids),
            places=_consistent([draft.places[k] for k in sorted(draft.places)]),
            standing=tuple(p for p in self.phrases if pattern(p).search(text)),
        )
        return Reply(
            text=written.to_json() if text.strip() else "",
            tokens_in=len(row.ids),
            tokens_out=draft.drawn,
            finish=finish,
            served=self.model,
            seconds=time.monotonic() - began,
        )

    def _stop(self, draft: "_Draft") -> int:
        """Where a stop text begins in the answer, or -1."""
        stops = draft.row.request.sampling.stop
        return first_stop(self.of.text(draft.out), stops) if stops else -1

    def _draw(self, draft: "_Draft", logits_V: torch.Tensor) -> None:
        """Add a token to the answer."""
        at, sampling = len(draft.out), draft.row.request.sampling
        if len(draft.likely) == at:
            draft.likely.append(self._likely(logits_V))
        banned = draft.banned.get(at, [])
        if sampling.presence_penalty and draft.out:
            logits_V[list(set(draft.out))] -= sampling.presence_penalty
        logits_V[banned] = -torch.inf
        token = int(logits_V.argmax())
        if sampling.temperature > 0:
            p_V = (logits_V.double() / sampling.temperature).softmax(-1)
            sorted_V, order_V = p_V.sort(descending=True, stable=True)
            kept_V = sorted_V.clone()
            if sampling.top_k:
                kept_V[sampling.top_k :] = 0
            before_V = kept_V.cumsum(0) / kept_V.sum() - kept_V / kept_V.sum()
            kept_V[before_V >= sampling.top_p] = 0
            sum_V = kept_V.cumsum(0)
            request = draft.row.request
            u = uniform(request.seed, f"token {at} attempt {len(banned)}", draft.row.key)
            place = int(torch.searchsorted(sum_V, u * sum_V[-1:], right=True)[0])
            token = int(order_V[min(place, int((kept_V > 0).sum()) - 1)])
        draft.out.append(token)
        draft.drawn += 1

    def _likely(self, logits_V: torch.Tensor) -> list[int]:
        """The tokens of a position that may be chosen, the likeliest first."""
        several = min(len(logits_V), 2 * self.alternatives + self.attempts + len(self.special))
        logit_K, token_K = logits_V.topk(several)
        least = float(logit_K[0]) + torch.tensor(self.min_p).log()
        return [
            int(t)
            for t, z in zip(token_K.tolist(), logit_K.tolist(), strict=True)
            if z >= least and t not in self.special
        ]

    def _back(self, draft: "_Draft", *, ended: bool) -> bool:
        """Go back, if a phrase has just been completed; whether one has."""
        text = self.of.text(draft.out)
        for phrase in self.phrases:
            for found in pattern(phrase).finditer(text):
                if found.end() == len(text) and not ended:
                    continue  # its last word may go on
                at = self._token_at(draft.out, found.start())
                if len(draft.banned.get(at, ())) < self.attempts:
                    self._take_back(draft, at, phrase)
                    return True
        return False

    def _token_at(self, out: Sequence[int], start: int) -> int:
        """The token that wrote the first character of a phrase."""
        low, high = 0, len(out) - 1
        while low < high:
            middle = (low + high) // 2
            if len(self.of.text(out[: middle + 1])) > start:
                high = middle
            else:
                low = middle + 1
        return low

    def _take_back(self, draft: "_Draft", at: int, phrase: str) -> None:
        rejected = draft.out[at]
        banned = draft.banned.setdefault(at, [])
        banned.append(rejected)
        chosen = [t for t in draft.likely[at] if t not in banned and not self._begins(t, phrase)][
            : self.alternatives
        ]
        place = Place(
            phrase=phrase, before=tuple(draft.out[:at]), rejected=rejected, chosen=tuple(chosen)
        )
        draft.places[(at, len(draft.places))] = place
        del draft.out[at:], draft.likely[at + 1 :]
        for behind in [k for k in draft.banned if k > at]:
            del draft.banned[behind]

    def _begins(self, token: int, phrase: str) -> bool:
        """Whether a token may be the beginning of a phrase in another spelling."""
        said = " ".join(WORD.findall(self.of.text([token]).casefold()))
        whole = " ".join(WORD.findall(phrase.casefold()))
        return whole.startswith(said) if said else False


@dataclass(kw_only=True)
class _Draft:
    """An answer on its way; what lies behind a place is forgotten when it goes back there."""

    row: Row
    out: list[int] = field(default_factory=list)
    banned: dict[int, list[int]] = field(default_factory=dict)  # by position
    likely: list[list[int]] = field(default_factory=list)  # of each position
    places: dict[tuple[int, int], Place] = field(default_factory=dict)
    drawn: int = 0  # tokens so far, those taken back among them


def _consistent(places: Sequence[Place]) -> tuple[Place, ...]:
    """Places that choose no token which turned out to lead into a phrase as well."""
    led: dict[tuple[int, ...], set[int]] = {}
    for place in places:
        led.setdefault(place.before, set()).add(place.rejected)
    return tuple(
        replace(p, chosen=tuple(t for t in p.chosen if t not in led[p.before])) for p in places
    )


@dataclass(kw_only=True)
class _Reader:
    """The next token's logits after prompt and answer, with a cache that can be cut."""

    local: Local
    prompt: list[int]
    cache: DynamicCache | None = None
    held: int = 0  # tokens of prompt and answer in the cache

    def next(self, out: Sequence[int]) -> torch.Tensor:
        """The logits behind the prompt and an answer."""
        loaded = self.local.loaded
        if self.cache is None:
            self.cache = DynamicCache(config=loaded.model.config)
        whole = [*self.prompt, *out]
        if self.held >= len(whole):  # the last token is read again: its logits are asked for
            self._cut(len(whole) - 1)
        ids_1T = torch.tensor([whole[self.held :]], device=loaded.device)
        place_1T = torch.arange(self.held, len(whole), device=loaded.device)[None]
        logits_V: torch.Tensor = loaded.model(
            input_ids=ids_1T,
            attention_mask=torch.ones(1, len(whole), dtype=torch.long, device=loaded.device),
            position_ids=place_1T,
            **cached(loaded.model, self.cache),
            logits_to_keep=1,
        ).logits[0, -1]
        self.held = len(whole)
        return logits_V.float().clone()

    def _cut(self, length: int) -> None:
        """Forget what lies behind so many tokens; where a cache cannot, all is read again."""
        assert self.cache is not None, "something has been read"
        try:
            self.cache.crop(length - self.held)
            self.held = length
        except (RuntimeError, ValueError):  # windows and states that were overwritten
            self.cache, self.held = DynamicCache(config=self.local.loaded.model.config), 0
