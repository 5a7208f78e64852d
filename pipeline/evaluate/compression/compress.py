"""Compress: from the answers of many models, the few items of a task that stand for all of them."""

# M = models, N = items, K = items of the subset

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.evaluate.compression.agreement import agreement, figures_of
from gristmill.pipeline.evaluate.compression.genetic import Genetic, bred
from gristmill.pipeline.evaluate.compression.matrix import Matrix
from gristmill.pipeline.evaluate.compression.search import (
    Fitness,
    by_answers,
    by_expectation,
    distinct,
    swapped,
)
from gristmill.pipeline.evaluate.compression.subset import Subset
from gristmill.pipeline.evaluate.compression.weights import Estimate, equal, learned
from gristmill.pipeline.numerics.spline import fitted
from gristmill.pipeline.records.schema import uniform

FOLDS = 5  # of models, that decide whether learned weights are better
RANDOM = 20  # draws of other subsets to compare with

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Embed = Callable[[Sequence[str]], npt.NDArray[Any]]
Told = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Compression:
    """EssenceBench: how items are searched for.

    Models are split in three: a tenth of those searched by is held out of the curve that turns the
    accuracy on a subset into that on all items, and a fifth of all takes no part until figures are
    told. Items that say the same as an earlier one go first; swaps, then a genetic search, find the
    subset of the smallest error.

    Paper: Wang et al., "Rethinking LLM Evaluation: Can We Evaluate LLMs with 200x Less Data?",
    2025. Departures: the error that is searched by is the one to be expected of new models, from
    smooth curves of the items' difficulty. The paper's (fitness="held_out"), and that over all
    models that are searched by ("all"), take thousands of models: of hundreds, a search fits their
    chance answers and does no better than random items. Swaps come before the genetic search.

    Attributes:
        items: how many.
        alike: an item whose answers correlate more than that with those of a kept one goes.
        text_alike: one whose text's cosine with that of a kept one is above goes too.
        restarts: random subsets that swaps begin with.
        swaps: of one of them, at most.
        genetic: of the search after it; 0 generations: none.
        weights: "equal", or "learned" by ridge regression, if that is better on held-out models.
        fitness: the error: "expected" of new models, or of "all" models that are searched by, or of
            those that are "held_out".
        held_out: share of the models searched by.
        report: share of all models.
        seed: of splits and searches.
    """

    items: int = 50
    alike: float = 0.95
    text_alike: float = 0.95
    restarts: int = 50
    swaps: int = 200
    genetic: Genetic = field(default_factory=Genetic)
    weights: Literal["equal", "learned"] = "equal"
    fitness: Literal["expected", "all", "held_out"] = "expected"
    held_out: float = 0.1
    report: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.items < 2 or self.restarts < 1:
            raise ValueError(
                f"items are at least 2 and restarts at least 1; found {self.items} and "
                f"{self.restarts}."
            )
        if not (0 < self.held_out < 1 and 0 < self.report < 1):
            raise ValueError(
                f"held_out and report are shares between 0 and 1; found {self.held_out} and "
                f"{self.report}."
            )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Numbers of models: those that curves are fitted on, those held out, those for the report."""

    train: Ints
    held_out: Ints
    report: Ints

    @property
    def searched(self) -> Ints:
        """All but those of the report."""
        return np.sort(np.concatenate([self.train, self.held_out]))


def split(matrix: Matrix, asked: Compression) -> Split:
    """Models in three parts, each with weak and strong ones: drawn by name within even strata."""
    order = np.lexsort((np.array(matrix.models), matrix.whole_M))
    report = _each(matrix.models, order, asked.report, f"{asked.seed} report")
    rest = order[~np.isin(order, report)]
    held_out = _each(matrix.models, rest, asked.held_out, f"{asked.seed} held out")
    train = rest[~np.isin(rest, held_out)]
    return Split(train=np.sort(train), held_out=np.sort(held_out), report=np.sort(report))


def _each(models: Sequence[str], order: Ints, share: float, purpose: str) -> Ints:
    """One of each run of neighbours in accuracy: about that share, and at least two."""
    runs = np.array_split(order, min(len(order), max(2, round(share * len(order)))))
    return np.array([min(run, key=lambda m: uniform(0, purpose, models[m])) for run in runs])


def compress(
    matrix: Matrix,
    asked: Compression,
    *,
    embed: Embed | None = None,
    told: Told = lambda what, done, total: None,
) -> Subset:
    """Search, and measure on models that no search saw.

    Args:
        matrix: answers.
        asked: settings.
        embed: texts of items to vectors; None: only answers say which items are alike.
        told: of the progress of searches.

    Raises:
        ValueError: more items are asked for than there are, or items have no text to embed.
    """
    total = matrix.items.height
    if asked.items > total:
        raise ValueError(f"{matrix.task!r} has {total:,} items; found items={asked.items:,}.")
    parts, notes = split(matrix, asked), []
    value_MN, whole_M = matrix.value_MN, matrix.whole_M
    vector_ND = None
    if embed is not None:
        texts = matrix.items["text"]
        if texts.null_count():
            raise ValueError(
                f"{texts.null_count():,} items of {matrix.task!r} have no text to embed: leave the "
                "embedder out."
            )
        vector_ND = np.asarray(embed(texts.to_list()), dtype=np.float64)
    among = distinct(
        value_MN[parts.searched],
        asked.items,
        alike=asked.alike,
        vector_ND=vector_ND,
        text_alike=asked.text_alike,
    )
    notes.append(f"{total - len(among):,} of {total:,} items say what an earlier one says.")
    fitness = _fitness(matrix, parts, among, asked)
    draw = np.random.default_rng(asked.seed)
    found = swapped(
        fitness,
        among,
        restarts=asked.restarts,
        swaps=asked.swaps,
        draw=draw,
        told=lambda done, of: told("swaps", done, of),
    )
    notes.append(f"swaps end at an error of {100 * found.error:.3f} points.")
    if asked.genetic.generations:
        found = bred(
            fitness,
            among,
            asked.genetic,
            draw,
            start=[found],
            told=lambda done, of: told("genetic search", done, of),
        )
        notes.append(f"the genetic search ends at {100 * found.error:.3f} points.")
    items = np.sort(found.items)
    value_MK, searched_M = value_MN[np.ix_(parts.searched, items)], whole_M[parts.searched]
    estimate = equal(value_MK, searched_M)
    if asked.weights == "learned":
        estimate, sentence = _better(value_MK, searched_M)
        notes.append(sentence)
    chosen = matrix.items[items]
    rows = chosen["row"]
    return Subset(
        task=matrix.task,
        of=total,
        ids=tuple(chosen["id"]),
        rows=() if rows.null_count() else tuple(rows),
        estimate=estimate,
        made_of=matrix.made_of,
        figures=_figures(matrix, parts, items, estimate, asked.seed),
        notes=notes,
    )


def _fitness(matrix: Matrix, parts: Split, among: Ints, asked: Compression) -> Fitness:
    models = parts.held_out if asked.fitness == "held_out" else parts.searched
    value_MN, whole_M = matrix.value_MN[models], matrix.whole_M[models]
    if asked.fitness == "expected":
        return by_expectation(value_MN, whole_M, asked.items)
    on = matrix.value_MN[np.ix_(parts.train, among)].mean(axis=1)
    curve = fitted(on, matrix.whole_M[parts.train])
    return by_answers(value_MN, whole_M, curve, asked.items)


def _better(value_MK: Floats, whole_M: Floats) -> tuple[Estimate, str]:
    """Learned weights, if they do better than equal ones on models left out; else equal ones."""
    off = {"equal": 0.0, "learned": 0.0}
    fold_M = np.argsort(np.argsort(whole_M, kind="stable")) % FOLDS
    for fold in range(FOLDS):
        out, rest = fold_M == fold, fold_M != fold
        for name, fit in (("equal", equal), ("learned", learned)):
            missed = fit(value_MK[rest], whole_M[rest])(value_MK[out]) - whole_M[out]
            off[name] += float((missed**2).sum())
    error = {name: 100 * (sum_ / len(whole_M)) ** 0.5 for name, sum_ in off.items()}
    says = f"{error['learned']:.3f} points on models left out, equal ones by {error['equal']:.3f}"
    if error["learned"] < error["equal"]:
        return learned(value_MK, whole_M), f"learned weights are off by {says}."
    return equal(value_MK, whole_M), f"learned weights are refused: off by {says}."


def _figures(
    matrix: Matrix, parts: Split, items: Ints, estimate: Estimate, seed: int
) -> list[dict[str, Any]]:
    """On the models of the report: the subset, and as many items of even difficulty, and random.

    Intervals of the subset are over models; those of the others hold 95 % of the draws.
    """
    value_MN, whole_M = matrix.value_MN, matrix.whole_M
    names = [matrix.models[m] for m in parts.report]
    same: dict[str, Any] = {"items": len(items), "models": len(names)}

    def guess_M(of: Ints, by: Estimate | None = None) -> Floats:
        by = by or equal(value_MN[np.ix_(parts.searched, of)], whole_M[parts.searched])
        return by(value_MN[np.ix_(parts.report, of)])

    told = agreement(names, guess_M(items, estimate), whole_M[parts.report], seed)
    found = [{"form": "subset", **same, **told.row()}]
    draw, once = np.random.default_rng(seed), np.ones((len(names), 1))
    easy = np.argsort(-value_MN[parts.searched].mean(axis=0), kind="stable")
    others: dict[str, Callable[[], Ints]] = {
        "even difficulty": lambda: np.array(
            [draw.choice(run) for run in np.array_split(easy, len(items))]
        ),
        "random": lambda: draw.choice(easy, len(items), replace=False),
    }
    for form, drawn in others.items():
        several = [
            figures_of(guess_M(np.sort(drawn())), whole_M[parts.report], once)
            for _ in range(RANDOM)
        ]
        line: dict[str, Any] = {"form": f"{form}, {RANDOM} draws", **same}
        for name in several[0]:
            value_R = np.concatenate([s[name] for s in several])
            low, high = np.quantile(value_R, (0.025, 0.975))
            line |= {name: float(value_R.mean()), f"{name}_low": float(low)}
            line[f"{name}_high"] = float(high)
        found.append(line)
    return found
