"""How far rounding alone may move a float32 result, for tests that compare one.

Another processor, thread count or batch shape adds the same products in another order, so a bound
that was read off one machine fails on the next. These are derived: u = eps / 2 is what one rounding
may cost, relative to what is rounded.
"""

import math

import numpy as np

UNIT = float(np.finfo(np.float32).eps) / 2


def worst(terms: int, size: float = 1.0) -> float:
    """All roundings of a sum to the same side, as with equal terms: terms * u * size.

    Args:
        terms: products that are added, over all sums from input to result.
        size: of what is added, without signs.
    """
    return terms * UNIT * size


def rounding(terms: int, size: float = 1.0) -> float:
    """Roundings to either side, as with terms of all kinds: a random walk, sqrt(terms) * u * size.

    Args:
        terms: products that are added, over all sums from input to result.
        size: the largest that is rounded on the way.
    """
    return math.sqrt(terms) * UNIT * size


# The model of the fixture `tiny`: its sums on the way from a token to its log-probability, at its
# longest sequence. A layer: two norms, queries, scores, values, output, gate, down; then the last
# norm, the head and its normaliser. A log-probability is about as large as that of pure chance.
HIDDEN, INNER, LAYERS, HEAD, CONTEXT, VOCABULARY = 64, 128, 2, 16, 1_024, 259
LAYER = 2 * HIDDEN + HIDDEN + HEAD + CONTEXT + HIDDEN + HIDDEN + INNER
LOG_PROB = rounding(LAYERS * LAYER + HIDDEN + HIDDEN + VOCABULARY, math.log(VOCABULARY))


def log_probs(tokens: int) -> float:
    """Of the sum of that many log-probabilities of `tiny`."""
    return math.sqrt(tokens) * LOG_PROB
