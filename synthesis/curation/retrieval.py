"""Retrieval: which unverified pairs are labelled next.

Error-driven (arXiv:2507.01352): every gold pair asks for its k most similar unverified pairs, more
of them the less the reward model agrees with its label, from the worst on until the budget is
full. The controls draw at random, or take the pairs of which the model is least sure.
"""

# G = gold pairs, N = unverified pairs, D = features, K = neighbours

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.records.schema import uniform

Arm = Literal["error", "uncertainty", "random"]
Floats = NDArray[np.floating[Any]]
MOST = 8  # neighbours of a gold pair
_SLACK = 1e-9  # 8 (1 - p) of a p that a sigmoid gave may lie this much above a whole number
_SPARE = 8  # neighbours beyond those wanted, which show whether more are equally similar


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """What a round asks for.

    Attributes:
        ids: of the pairs, in the order in which they were asked for.
        asked_by: pair -> the gold pair that asked for it first; empty for the controls.
        counted: neighbours asked for, before those asked for twice are taken once.
        served: gold pairs that were served before the budget was full.
    """

    ids: tuple[str, ...]
    asked_by: Mapping[str, str] = field(default_factory=dict)
    counted: int = 0
    served: int = 0


def neighbours_of(p: float) -> int:
    """How many neighbours a gold pair asks for: 8 if p <= .5, else ceil(8 (1 - p)).

    Args:
        p: probability that the reward model gives to its label.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"a probability lies between 0 and 1; found {p}.")
    return MOST if p <= 0.5 else max(0, math.ceil(MOST * (1.0 - p) - _SLACK))


def error_driven(
    gold: Mapping[str, float],
    vector_GD: Floats,
    pool: Sequence[str],
    vector_ND: Floats,
    budget: int,
) -> Retrieved:
    """The neighbours of the gold pairs, the worst understood first.

    Args:
        gold: gold pair -> probability that the model gives to its label.
        vector_GD: unit vectors of the gold pairs, in this order.
        pool: unverified pairs that may be asked for.
        vector_ND: their unit vectors.
        budget: most pairs.
    """
    if not gold or not pool:
        return Retrieved(ids=())
    ids = list(gold)
    order = sorted(range(len(ids)), key=lambda g: (gold[ids[g]], ids[g]))
    near = nearest(vector_GD, pool, vector_ND, MOST)
    found: dict[str, str] = {}
    counted = served = 0
    for g in order:
        if len(found) >= budget:
            break
        wanted = near[g][: neighbours_of(gold[ids[g]])]
        counted, served = counted + len(wanted), served + 1
        for ident in wanted:
            if len(found) < budget:
                found.setdefault(ident, ids[g])
    return Retrieved(ids=tuple(found), asked_by=found, counted=counted, served=served)


def uncertain(probability: Mapping[str, float], budget: int) -> Retrieved:
    """The pairs whose probability lies nearest to one half; ties by id."""
    ranked = sorted(probability, key=lambda i: (abs(probability[i] - 0.5), i))
    return Retrieved(ids=tuple(ranked[:budget]))


def at_random(pool: Sequence[str], budget: int, *, seed: int, number: int) -> Retrieved:
    """Pairs drawn by hash(seed, round, id)."""
    purpose = f"retrieval {number}"
    ranked = sorted(pool, key=lambda i: (uniform(seed, purpose, i), i))
    return Retrieved(ids=tuple(ranked[:budget]))


def nearest(
    query_GD: Floats, pool: Sequence[str], vector_ND: Floats, wanted: int
) -> list[list[str]]:
    """The ids of the `wanted` most similar pool rows of each query, by an exact search.

    Equal similarities (to six digits) go by id, so that the order of the pool does not matter.
    """
    import faiss

    if not len(pool):
        return [[] for _ in query_GD]
    index = faiss.IndexFlatIP(vector_ND.shape[1])
    index.add(np.ascontiguousarray(vector_ND, dtype=np.float32))
    query_GD = np.ascontiguousarray(query_GD, dtype=np.float32)
    size = min(wanted + _SPARE, len(pool))
    while True:
        similarity_GK, at_GK = index.search(query_GD, size)
        similarity_GK = similarity_GK.round(6)
        last_G = similarity_GK[:, min(wanted, size) - 1]
        if size == len(pool) or not (similarity_GK[:, -1] == last_G).any():
            break
        size = min(4 * size, len(pool))  # more are as similar as the last: by id, not by chance
    found = []
    for similarity_K, at_K in zip(similarity_GK, at_GK, strict=True):
        hits = zip(similarity_K, at_K, strict=True)
        ranked = sorted((-float(s), pool[i]) for s, i in hits)
        found.append([ident for _, ident in ranked[:wanted]])
    return found
