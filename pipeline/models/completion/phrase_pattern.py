"""Where a text says a phrase: by its words, so that case and what parts them make no difference."""

import itertools
import re
from functools import lru_cache

WORD = re.compile(r"\w+")
# scripts without spaces: Thai, Lao, Burmese, Khmer, kana, Han
_SPACELESS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@lru_cache(maxsize=4_096)
def pattern(phrase: str) -> re.Pattern[str]:
    """Where a text says a phrase: its words in order, whatever their case and what parts them."""
    parts = [
        character
        for word in WORD.findall(phrase)
        for character in (list(word) if _SPACELESS.search(word) else [word])
    ]
    text = re.escape(parts[0])
    for before, after in itertools.pairwise(parts):
        tight = _SPACELESS.search(before) and _SPACELESS.search(after)
        text += (r"[\W_]*" if tight else r"[\W_]+") + re.escape(after)
    left = "" if _SPACELESS.match(parts[0]) else r"(?<!\w)"
    right = "" if _SPACELESS.match(parts[-1]) else r"(?!\w)"
    return re.compile(left + text + right, re.IGNORECASE)
