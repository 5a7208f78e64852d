"""Written: an answer that avoids phrases, as the text of a reply holds it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gristmill.pipeline.models.completion.requests import CompletionBackend


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an answer began a phrase.

    Attributes:
        phrase: that was begun.
        before: tokens of the answer before the place.
        rejected: the token that began it.
        chosen: tokens of the same distribution that do not, the likeliest first.
    """

    phrase: str
    before: tuple[int, ...]
    rejected: int
    chosen: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """An answer: what the reply's text holds.

    Attributes:
        text: of it.
        prompt: tokens of the rendered prompt.
        places: where it went back, in order.
        standing: banned phrases that it says all the same.
    """

    text: str
    prompt: tuple[int, ...]
    places: tuple[Place, ...]
    standing: tuple[str, ...]

    @staticmethod
    def from_json(text: str) -> "Written":
        """An answer from the text of a reply."""
        told = json.loads(text)
        places = tuple(
            Place(
                phrase=p["phrase"],
                before=tuple(p["before"]),
                rejected=p["rejected"],
                chosen=tuple(p["chosen"]),
            )
            for p in told["places"]
        )
        return Written(
            text=told["text"],
            prompt=tuple(told["prompt"]),
            places=places,
            standing=tuple(told["standing"]),
        )

    def to_json(self) -> str:
        """The text of a reply."""
        return json.dumps(
            {**vars(self), "places": [vars(p) for p in self.places]}, ensure_ascii=False
        )


class Avoids(CompletionBackend, Protocol):
    """A back end whose answers are `Written`: `backtracking.Backtracking` is one."""

    @property
    def phrases(self) -> tuple[str, ...]:
        """What it may not say."""

    @property
    def plain(self) -> CompletionBackend:
        """The same model, that may say all."""

    @property
    def tokenizer(self) -> str:
        """Hash of the tokenizer whose tokens it tells."""

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say."""
