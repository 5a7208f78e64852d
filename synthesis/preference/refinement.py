"""Refinement: users that decide what they did not, and outliers written anew.

What a description does not decide is decided for it (FSPO, arXiv:2502.19312): a winner is drawn,
the fact that this implies is added to the description, and all pairs of that user are labelled
again. A description that would leave more open than before is not taken. Users who agree with the
others far less or far more than is usual are written anew.
"""

# U = users

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.records.schema import uniform
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.personas import (
    Ask,
    Label,
    Labelled,
    User,
    Versus,
    entropy,
)

Imply = Callable[[User, Versus, Candidate], str | None]  # the fact that a winner implies
Renew = Callable[[User], str | None]  # another description in a user's place


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How users are made to decide.

    Attributes:
        rounds: facts that a user is given at most; 0: descriptions stay as they are.
        outliers: standard deviations from the mean disagreement from which a user is an outlier.
        seed: of the winners drawn.
    """

    rounds: int = 4
    outliers: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError(f"rounds is {self.rounds}; give 0 or more.")
        if not self.outliers > 0:
            raise ValueError(f"outliers is {self.outliers} standard deviations; give more than 0.")


def labelled(
    users: Sequence[User],
    pairs: Sequence[Versus],
    ask: Ask,
    refinement: Refinement | None = None,
    *,
    imply: Imply | None = None,
    renew: Renew | None = None,
) -> Labelled:
    """What every user prefers of every pair, refined.

    Args:
        users: with different ids.
        pairs: of candidates.
        ask: labels pairs for a user.
        refinement: how users are made to decide.
        imply: the fact that a winner implies; without it descriptions stay as they are.
        renew: another description for an outlier; without it outliers stay.
    """
    refinement = refinement or Refinement()
    names = [u.id for u in users]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"two users are called {twice[0]!r}: give each a name of its own.")
    done = {u.id: (u, ask(u, pairs)) for u in users}
    before = {name: entropy(labels) for name, (_, labels) in done.items()}
    if imply is not None:
        done = {n: refined(u, ls, ask, imply, refinement) for n, (u, ls) in done.items()}
    if renew is not None:
        for name in outliers([ls for _, ls in done.values()], names, refinement.outliers):
            user, _ = done[name]
            description = renew(user)
            if description is None:
                continue
            new = replace(user, description=description, facts=(), renewed=user.renewed + 1)
            fresh = ask(new, pairs)
            before[name] = entropy(fresh)
            done[name] = new, fresh
            if imply is not None:
                done[name] = refined(new, fresh, ask, imply, refinement)
    return Labelled(
        users=tuple(u for u, _ in done.values()),
        labels=tuple(label for _, labels in done.values() for label in labels),
        before=before,
    )


def refined(
    user: User, labels: Sequence[Label], ask: Ask, imply: Imply, refinement: Refinement
) -> tuple[User, list[Label]]:
    """A user whose description decides more, and its labels; the entropy of these never rises."""
    now = list(labels)
    tried: set[str] = set()
    for _ in range(refinement.rounds):
        said = [x for x in now if x.said.label is not None]
        open_ = [x for x in said if x.side is None and x.of.key not in tried]
        if not open_:
            break
        first = min(open_, key=lambda x: x.of.key)
        tried.add(first.of.key)
        draw = uniform(refinement.seed, "persona winner", f"{user.id}/{first.of.key}")
        winner = first.of.one if draw < 0.5 else first.of.two
        fact = imply(user, first.of, winner)
        if fact is None or not fact.strip():
            continue
        asked = replace(user, facts=(*user.facts, " ".join(fact.split())))
        again = ask(asked, [x.of for x in now])
        if entropy(again) <= entropy(now):
            user, now = asked, again
    return user, now


def disagreement(labels: Sequence[Sequence[Label]]) -> NDArray[np.float64]:
    """Share of pairs on which two users differ, among those that both decide; NaN without any.

    Args:
        labels: of each user, on the same pairs in the same order.
    """
    side = {"one": 1, "two": -1}
    vote_UP = np.array([[side.get(x.side or "", 0) for x in one] for one in labels])
    both_UU = np.abs(vote_UP) @ np.abs(vote_UP).T
    same_UU = vote_UP @ vote_UP.T
    with np.errstate(invalid="ignore", divide="ignore"):
        differ_UU: NDArray[np.float64] = (both_UU - same_UU) / 2 / both_UU
    return differ_UU


def outliers(
    labels: Sequence[Sequence[Label]], names: Sequence[str], deviations: float
) -> list[str]:
    """Users whose mean disagreement with the others is far from the mean of all users."""
    if len(names) < 3:
        return []
    differ_UU = disagreement(labels)
    np.fill_diagonal(differ_UU, np.nan)
    known_U = (~np.isnan(differ_UU)).any(axis=1)
    mean_U = np.full(len(names), np.nan)
    mean_U[known_U] = np.nanmean(differ_UU[known_U], axis=1)
    if known_U.sum() < 3:
        return []
    spread = float(np.nanstd(mean_U))
    far_U = np.abs(mean_U - np.nanmean(mean_U)) > deviations * spread
    return [n for n, far in zip(names, far_U, strict=True) if far and spread > 0]
