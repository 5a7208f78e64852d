"""Agreement of annotators on nominal categories, with bootstrap intervals over items.

Cohen's kappa is of two annotators, on the items that both judged:

    kappa = (p_o - p_e) / (1 - p_e)         p_e from each annotator's own shares of the categories

Krippendorff's alpha is of any number of annotators, each of whom may have judged any of the items:

    alpha = 1 - D_o / D_e,   D_o = sum of o_ck over c != k / n,   o_ck from pairs within an item,
    each weighted 1 / (m_u - 1);   D_e = sum of n_c n_k over c != k / (n (n - 1))

Both are 1 where all agree and 0 where annotators agree as often as chance would have it. Neither
says anything where only one category was ever used: chance then agrees as well, and the value is
None.

References: J. Cohen, "A coefficient of agreement for nominal scales", 1960; K. Krippendorff,
"Computing Krippendorff's alpha-reliability", 2011.
"""

# N = items, C = categories, R = resamples

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.numerics.intervals import Floats, Interval, draws

_SAME = 1e-12  # chance that agrees this nearly always leaves nothing to say


def cohen_kappa(
    ids: Sequence[str],
    one: Sequence[str],
    other: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 1_000,
) -> Interval | None:
    """Cohen's kappa of two annotators.

    Args:
        ids: of the items that both judged; bootstrap draws are keyed by them.
        one: what the first annotator said of each.
        other: what the second said.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The value with its interval; None: there is no item, or only one category was used.
    """
    assert len(ids) == len(one) == len(other), "one judgement an item and annotator"
    names = sorted({*one, *other})
    at = {name: number for number, name in enumerate(names)}
    table_NCC = np.zeros((len(ids), len(names), len(names)))
    for n, (left, right) in enumerate(zip(one, other, strict=True)):
        table_NCC[n, at[left], at[right]] = 1.0
    return _with_interval(ids, table_NCC, _kappa, seed, resamples)


def krippendorff_alpha(
    judgements: Mapping[str, Sequence[str]], *, seed: int = 0, resamples: int = 1_000
) -> Interval | None:
    """Krippendorff's alpha for nominal categories, missing judgements allowed.

    Args:
        judgements: item -> what its annotators said of it, in any order; an item with one
            judgement has nothing to agree with, and counts for nothing.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The value with its interval; None: no item has two judgements, or only one category was
        used.
    """
    paired = {item: said for item, said in sorted(judgements.items()) if len(said) > 1}
    names = sorted({name for said in paired.values() for name in said})
    at = {name: number for number, name in enumerate(names)}
    table_NCC = np.zeros((len(paired), len(names), len(names)))
    for n, said in enumerate(paired.values()):
        count_C = np.bincount([at[name] for name in said], minlength=len(names))
        pairs_CC = np.outer(count_C, count_C) - np.diag(count_C)
        table_NCC[n] = pairs_CC / (len(said) - 1)
    return _with_interval(list(paired), table_NCC, _alpha, seed, resamples)


def _kappa(table_RCC: Floats) -> Floats:
    """Kappa of each contingency table; NaN where chance agrees always."""
    total_R = table_RCC.sum((1, 2))
    seen_R = np.trace(table_RCC, axis1=1, axis2=2) / total_R
    one_RC, other_RC = table_RCC.sum(2), table_RCC.sum(1)
    chance_R = (one_RC * other_RC).sum(1) / total_R**2
    return _ratio(seen_R - chance_R, 1.0 - chance_R)


def _alpha(table_RCC: Floats) -> Floats:
    """Alpha of each coincidence table; NaN where it has one category."""
    total_R = table_RCC.sum((1, 2))
    of_RC = table_RCC.sum(2)
    apart_R = total_R - np.trace(table_RCC, axis1=1, axis2=2)
    by_chance_R = (total_R**2 - (of_RC**2).sum(1)) / (total_R - 1.0)
    return 1.0 - _ratio(apart_R, by_chance_R)


def _ratio(above_R: Floats, below_R: Floats) -> Floats:
    defined = below_R > _SAME
    return np.where(defined, above_R / np.where(defined, below_R, 1.0), np.nan)


def _with_interval(
    ids: Sequence[str],
    table_NCC: NDArray[np.float64],
    value_of: Callable[[Floats], Floats],
    seed: int,
    resamples: int,
) -> Interval | None:
    if not len(ids):
        return None
    value = float(value_of(table_NCC.sum(0, keepdims=True))[0])
    if np.isnan(value):
        return None
    categories = table_NCC.shape[1]
    flat_NK = table_NCC.reshape(len(ids), -1)
    count_NR = draws(ids, resamples, seed)
    drawn_RK = count_NR.T.astype(np.float64) @ flat_NK
    drawn_RK = drawn_RK[drawn_RK.sum(1) > 1.0]  # a resample of few items can be empty
    found_R = value_of(drawn_RK.reshape(-1, categories, categories))
    found_R = found_R[~np.isnan(found_R)]
    if not len(found_R):
        return None
    low, high = np.quantile(found_R, (0.025, 0.975))
    return Interval(value=value, low=float(low), high=float(high))
