"""Judges: who decides what the verifier does not, and what they found.

A judge is a small frozen dataclass with one method: `judge(...)` gives the candidates their scores.
It is asked of the prompts without a known answer, and of those where every candidate reaches it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from gristmill.pipeline.evaluate.judging import PairJudge
from gristmill.pipeline.models.completion.budget import Price
from gristmill.pipeline.models.context import RunContext
from gristmill.synthesis.preference import canary, tournament
from gristmill.synthesis.preference.answering import Client
from gristmill.synthesis.preference.canary import Obedience
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.prompts import Prompt
from gristmill.synthesis.preference.rating import RatingJudge, rated
from gristmill.synthesis.preference.reward import rewarded
from gristmill.synthesis.preference.tournament import Meeting
from gristmill.synthesis.preference.verifying import undecided, verified


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a judge is asked of.

    Attributes:
        prompts: by id.
        labels: what files say of two answers: (prompt, better text, worse text).
        client: how models are asked.
    """

    prompts: Mapping[str, Prompt]
    labels: Sequence[tuple[str, str, str]] = ()
    client: Client = field(default_factory=Client)

    @property
    def texts(self) -> dict[str, str]:
        """Prompt -> its text."""
        return {p.id: p.text for p in self.prompts.values()}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge found.

    Attributes:
        candidates: with their scores; those that could not be rated say why.
        met: comparisons of two candidates.
        contradicted: labels of files that other labels contradict.
        obedience: to canaries; null: none were shown.
        cost: of verdicts and grades, canaries aside.
        mass: what the allowed answers had of the probability, in the mean; null: it was not read.
    """

    candidates: tuple[Candidate, ...]
    met: tuple[Meeting, ...] = ()
    contradicted: int = 0
    obedience: Obedience | None = None
    cost: float = 0.0
    mass: float | None = None


class Judge(ABC):
    """Who decides."""

    @abstractmethod
    def judge(self, candidates: Sequence[Candidate], asked: Asked) -> Judgement:
        """Scores for candidates that the verifier leaves undecided."""


@dataclass(frozen=True, kw_only=True)
class Pairwise(Judge):
    """Every two candidates of a prompt, in both orders.

    Attributes:
        of: who compares.
        price: of its tokens.
        canaries: shown, to measure obedience.
    """

    of: PairJudge
    price: Price = field(default_factory=Price)
    canaries: int = 4

    def judge(self, candidates: Sequence[Candidate], asked: Asked) -> Judgement:
        met = tournament.meetings(candidates, asked.texts, self.of, asked.client, self.price)
        obedience = canary.of_pairs(
            candidates, asked.texts, self.of, asked.client, self.price, count=self.canaries
        )
        return Judgement(
            candidates=tuple(tournament.scored(candidates, met)),
            met=tuple(met),
            obedience=obedience if self.canaries else None,
            cost=sum(m.cost for m in met),
            mass=tournament.mass(met),
        )


@dataclass(frozen=True, kw_only=True)
class Pointwise(Judge):
    """Each candidate alone, aspect by aspect.

    Attributes:
        of: who grades.
        price: of its tokens.
        canaries: shown, to measure obedience.
    """

    of: RatingJudge
    price: Price = field(default_factory=Price)
    canaries: int = 4

    def judge(self, candidates: Sequence[Candidate], asked: Asked) -> Judgement:
        found = rated(candidates, asked.texts, self.of, asked.client, self.price)
        obedience = canary.of_grades(
            candidates, asked.texts, self.of, asked.client, self.price, count=self.canaries
        )
        return Judgement(
            candidates=found.candidates,
            obedience=obedience if self.canaries else None,
            cost=found.cost,
            mass=found.mass,
        )


@dataclass(frozen=True, kw_only=True)
class Reward(Judge):
    """A reward model on this machine.

    Attributes:
        context: the run, with a model in the role `reward`.
    """

    context: RunContext

    def judge(self, candidates: Sequence[Candidate], asked: Asked) -> Judgement:
        return Judgement(candidates=tuple(rewarded(candidates, asked.prompts, self.context)))


@dataclass(frozen=True, kw_only=True)
class Labels(Judge):
    """What files say: ratings of answers, or which of two is better. No model is asked.

    Where some answers of a prompt are rated, one without a rating is unrated: shares of labels
    are on another scale.

    Attributes:
        ratings: aspects that are ratings; what else is known of a candidate is none.
    """

    ratings: frozenset[str] = frozenset()

    def judge(self, candidates: Sequence[Candidate], asked: Asked) -> Judgement:
        met, contradicted = tournament.labelled(asked.labels)
        known = {c.id for c in candidates}
        met = [m for m in met if {m.one, m.two} <= known]
        scored = tournament.scored(candidates, met)
        rated = {c.prompt for c in scored if self.ratings & c.aspects.keys()}
        scored = [self._rated(c) if c.prompt in rated else c for c in scored]
        return Judgement(candidates=tuple(scored), met=tuple(met), contradicted=contradicted)

    def _rated(self, candidate: Candidate) -> Candidate:
        """A candidate with its rating, which outweighs what comparisons say."""
        told = [v for k, v in candidate.aspects.items() if k in self.ratings]
        given = [v for v in told if v is not None]
        if given and len(given) == len(told):
            return candidate.scored(fmean(given), {})
        return candidate.scored(None, {}, "judge: the file has no rating of it")


def judged(candidates: Sequence[Candidate], asked: Asked, judge: Judge | None) -> Judgement:
    """The candidates after verifier and judge, in their order.

    Args:
        candidates: of all prompts, unrated.
        asked: what they answer.
        judge: who decides the rest; None: nobody does.
    """
    known = verified(candidates, {p.id: p.answer for p in asked.prompts.values()})
    if judge is None:
        return Judgement(candidates=tuple(known))
    rest = undecided(known)
    found = judge.judge(rest, asked)
    scored = {id(before): after for before, after in zip(rest, found.candidates, strict=True)}
    return replace(found, candidates=tuple(scored.get(id(c), c) for c in known))
