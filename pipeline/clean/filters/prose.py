"""Prose: the shape of prose by Gopher's rules, with their thresholds.

Rae et al., "Scaling Language Models" (Gopher), arXiv:2112.11446, table A1. They were made for web
documents of at least 50 words, so shorter texts always stay. On worked mathematics they raise false
alarms: `benchmarks/filters.py` counts half of GSM8K's answers, so leave this one out there. One
departure: the rules look at one part of a record.
"""

from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.clean.text import word_counts
from gristmill.pipeline.records.text import Part, texts

_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}  # Gopher's eight


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Drops texts that are no prose: `prose: mean_word_length 12.3`, and the like.

    Meant for documents; tables, code and lists of formulas are dropped, which for answers is wrong.

    Attributes:
        part: what is looked at, its prose.
        min_words: shorter texts stay.
        word_length: least and most mean length of a word, in characters.
        symbols: most # and ellipses a word.
        bullets: most share of lines that begin with a bullet.
        ellipses: most share of lines that end with an ellipsis.
        alphabetic: least share of words with a letter.
        stop_words: least number of English stop words; 0 for other languages.
    """

    part: Part = "answer"
    min_words: int = 50
    word_length: tuple[float, float] = (3.0, 10.0)
    symbols: float = 0.1
    bullets: float = 0.9
    ellipses: float = 0.3
    alphabetic: float = 0.8
    stop_words: int = 2

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        text = texts(records, self.part, "prose")
        counts = word_counts(text)
        why = [
            self._why(t) if count >= self.min_words else None
            for t, count in zip(text, counts, strict=True)
        ]
        return pl.Series("why", why, dtype=pl.String)

    def _why(self, text: str) -> str | None:
        tokens = text.split()
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        mean = sum(map(len, tokens)) / len(tokens)
        shares = {
            "symbols": (text.count("#") + text.count("...") + text.count("…")) / len(tokens),
            "bullets": sum(line.startswith(("•", "-", "*")) for line in lines) / len(lines),
            "ellipses": sum(line.endswith(("...", "…")) for line in lines) / len(lines),
        }
        limits = {"symbols": self.symbols, "bullets": self.bullets, "ellipses": self.ellipses}
        if not self.word_length[0] <= mean <= self.word_length[1]:
            return f"prose: mean_word_length {mean:.1f}"
        for name, share in shares.items():
            if share > limits[name]:
                return f"prose: {name} {share:.2f}"
        alphabetic = sum(any(c.isalpha() for c in t) for t in tokens) / len(tokens)
        if alphabetic < self.alphabetic:
            return f"prose: alphabetic {alphabetic:.2f}"
        if len(_STOP_WORDS & {t.lower() for t in tokens}) < self.stop_words:
            return "prose: stop_words"
        return None
