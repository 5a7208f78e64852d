"""How an effect and a control are put into words, the same on page, in table and in sentence."""

from collections.abc import Callable, Sequence

from gristmill.pipeline.compare.arms import MATCHED
from gristmill.pipeline.numerics.effects import Effect

# What a claim rests on: equal rows, the mixture alone, and the lengths alone.
CLAIM = ("random", "balanced_random", "length_matched")
ASKED = (*CLAIM, *(kind for kind in MATCHED if kind not in CLAIM))  # what a method must beat
WORDS = {
    "random": "random",
    "balanced_random": "balanced random",
    "length": "the longest rows",
    "full": "all rows",
    "zero_shot": "the base model",
    "length_matched": "random rows of its lengths",
    "token_matched": "random rows of as many tokens",
    "compute_matched": "random rows for as much compute",
}
BRIEF = {
    "length": "longest rows",
    "full": "all rows",
    "zero_shot": "base model",
    "length_matched": "equal lengths",
    "token_matched": "equal tokens",
    "compute_matched": "equal compute",
}

Quote = Callable[[str], str]  # how a name that a user gave stands in a text


def words(control: str) -> str:
    """A control in words."""
    return WORDS.get(control, control)


def brief(control: str) -> str:
    """A control at the head of a column."""
    return BRIEF.get(control, words(control))


def verb(effect: Effect) -> str:
    """What an interval allows to say."""
    if effect.low > 0:
        return "beats"
    return "is worse than" if effect.high < 0 else "is not told apart from"


def shown(effect: Effect) -> str:
    """An effect with its interval."""
    return interval(effect.value, effect.low, effect.high)


def interval(value: float, low: float, high: float) -> str:
    """A difference with its interval."""
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def listed(parts: Sequence[str]) -> str:
    """Several things in a sentence."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
