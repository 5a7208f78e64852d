"""Avoiding: answers without over-used phrases, against the same answers with them.

A writer of two candidates a prompt: what the model says (role `<role>:plain`), and what it says
where it may not say the phrases (role `<role>`). Both draw the same up to the first phrase, so the
pair of the two differs by the phrase and what follows from it. Each place where the answer went
back is a final-token pair as well (`records.final_tokens`), which the stage `ftpo` trains on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.models.completion.budget import Price
from gristmill.pipeline.models.completion.client import complete
from gristmill.pipeline.models.completion.requests import Answer, CompletionBackend, Sampling
from gristmill.pipeline.models.completion.written import Avoids, Written
from gristmill.pipeline.records.final_tokens import FINAL_TOKENS, row_id
from gristmill.synthesis.preference.answering import Answered, Client, Model
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.prompts import Prompt

PLAIN = ":plain"
PLACES: dict[str, Any] = {
    "candidate": pl.String,  # that was written by going back
    **{name: kind for name, kind in FINAL_TOKENS.items() if name != "pair"},
}


@dataclass(frozen=True, kw_only=True)
class Avoiding:
    """A model on this machine that takes back what it says too often.

    Attributes:
        role: what the run calls it.
        backend: the model, and the phrases.
        sampling: how its tokens are drawn.
        samples: answers a prompt.
        on_policy: whether it is the model that is to be trained; final tokens are of no other.
        price: of its tokens.
        seed: of the draws.
    """

    role: str
    backend: Avoids
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    on_policy: bool = True
    price: Price = field(default_factory=Price)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.backend.phrases:
            raise ValueError(f"{self.role}: there are no phrases to avoid; give some.")

    def answer(
        self, prompts: Sequence[Prompt], before: Sequence[Candidate], client: Client
    ) -> Answered:
        """Both candidates of each answer that had something to avoid, and its places."""
        asked = [(prompt, sample) for prompt in prompts for sample in range(self.samples)]
        plain, without = (
            complete(
                asked,
                backend,
                prompt=self._model(backend).request,
                parse=_written,
                cache=client.cache,
                budget=client.budget(self.price),
                progress=client.tell(f"answers of {name}"),
            )
            for name, backend in (
                (f"{self.role}{PLAIN}", self.backend.plain),
                (self.role, self.backend),
            )
        )
        candidates: list[Candidate] = []
        unanswered: list[Mapping[str, Any]] = []
        places: list[Mapping[str, Any]] = []
        said = list(plain)
        for own, other in zip(said, without, strict=True):
            prompt, sample = own.row
            reason = own.reason or other.reason or self._nothing(other.value)
            if reason is not None:
                place = {"prompt": prompt.id, "role": self.role, "sample": sample}
                unanswered.append({**place, "reason": reason})
                continue
            assert own.answer is not None, "an answer is ok"
            assert other.answer is not None, "an answer is ok"
            made = self._candidate(prompt, sample, self.role, other.value, other.answer)
            candidates += [
                made,
                self._candidate(prompt, sample, f"{self.role}{PLAIN}", own.value, own.answer),
            ]
            places += self._places(made, other.value)
        return Answered(
            candidates=tuple(candidates), unanswered=tuple(unanswered), places=tuple(places)
        )

    def _nothing(self, found: Written) -> str | None:
        """Why an answer is no alternative to the plain one."""
        if not found.places:
            return "no_phrase: the model says none of the phrases here"
        if found.standing:
            return f"phrase_stands: {found.standing[0]!r} could not be avoided"
        return None

    def _model(self, backend: CompletionBackend) -> Model:
        return Model(
            role=self.role,
            backend=backend,
            sampling=self.sampling,
            samples=self.samples,
            on_policy=self.on_policy,
            price=self.price,
            seed=self.seed,
        )

    def _candidate(
        self, prompt: Prompt, sample: int, role: str, found: Written, answer: Answer
    ) -> Candidate:
        avoided = list(self.backend.phrases) if role == self.role else []
        return Candidate(
            prompt=prompt.id,
            text=found.text,
            role=role,
            model=self.backend.model,
            sampling={**settings_of(self.sampling), "avoided": avoided},
            sample=sample,
            on_policy=self.on_policy,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            cost=self.price.of(answer.tokens_in, answer.tokens_out),
        )

    def _places(self, candidate: Candidate, found: Written) -> list[dict[str, Any]]:
        """Rows of `PLACES`."""
        told = self.backend
        rows = []
        for place in found.places:
            prefix = [*found.prompt, *place.before]
            rows.append(
                {
                    "candidate": candidate.id,
                    "id": row_id(prefix, place.rejected),
                    "phrase": place.phrase,
                    "prefix_ids": prefix,
                    "rejected_token": place.rejected,
                    "chosen_tokens": list(place.chosen),
                    "rejected": told.text([place.rejected]),
                    "chosen": [told.text([t]) for t in place.chosen],
                    "tokenizer": told.tokenizer,
                }
            )
        return rows


def final_tokens(places: pl.DataFrame, pairs: Mapping[str, str]) -> pl.DataFrame:
    """The final tokens of published pairs: `FINAL_TOKENS`.

    Args:
        places: `PLACES`.
        pairs: id of the chosen candidate -> id of the pair.
    """
    known = pl.DataFrame(
        {"candidate": list(pairs), "pair": list(pairs.values())},
        schema={"candidate": pl.String, "pair": pl.String},
    )
    found = places.join(known, on="candidate").filter(pl.col("chosen_tokens").list.len() > 0)
    once = found.unique("id", keep="first", maintain_order=True)
    return once.select(list(FINAL_TOKENS)).sort("id")


def _written(row: object, answer: Answer) -> Written:
    return Written.from_json(answer.text)
