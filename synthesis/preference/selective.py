"""Selective: a judge that is asked of the prompts worth it, and of no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.pipeline.signals.pair_signals import CHOSEN
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.choosing import Choose, choose
from gristmill.synthesis.preference.judges import Asked, Judge, Judgement
from gristmill.synthesis.preference.prompts import Prompt
from gristmill.synthesis.preference.reward import observed, rewarded
from gristmill.synthesis.preference.tournament import groups

REASON = "not_chosen: other prompts tell more for the labels that were to be had"


@dataclass(frozen=True, kw_only=True)
class Selective(Judge):
    """Another judge, for as many prompts as there are labels to be had.

    Attributes:
        of: who decides.
        by: how prompts are chosen; see `choosing`.
        budget: prompts that are judged.
        models: of each reward model the run, with it in the role `reward`; for `uncertainty`.
        target: the run, with the model that is to be trained in the role `target`; for
            `gradients`.
        size: numbers of a projected gradient.
        seed: of a draw.
    """

    of: Judge
    by: Choose
    budget: int
    models: Sequence[RunContext] = ()
    target: RunContext | None = None
    size: int = 8_192
    seed: int = 0

    def judge(self, candidates: Sequence[Candidate], asked: Asked) -> Judgement:
        chosen = self.chosen(candidates, asked.prompts)
        taken = [c for c in candidates if c.prompt in chosen]
        found = self.of.judge(taken, asked)
        after = {id(c): new for c, new in zip(taken, found.candidates, strict=True)}
        made = tuple(
            after[id(c)] if id(c) in after else replace(c, score=None, reason=REASON)
            for c in candidates
        )
        return replace(found, candidates=made)

    def chosen(self, candidates: Sequence[Candidate], prompts: Mapping[str, Prompt]) -> set[str]:
        """The prompts that are judged."""
        pairs = {p: group[:2] for p, group in groups(candidates).items() if len(group) > 1}
        if len(pairs) <= self.budget:
            return set(pairs)
        both = [c for pair in pairs.values() for c in pair]
        columns: dict[str, list[object]] = {"id": list(pairs)}
        if self.by == "uncertainty":
            columns["margins"] = self._margins(pairs, both, prompts)
        elif self.by == "gradients":
            assert self.target is not None, "the settings demand it"
            of = Backward(layers="linear", loss="sum")
            signal = ProjectedGradient(view=CHOSEN, of=of, size=self.size)
            known = observed(both, prompts, self.target, signal)
            # one that cannot be shown tells nothing, and is picked last
            nothing = np.zeros(self.size)
            for place, name in enumerate(("one", "two")):
                seen = [known.get(pair[place].id) for pair in pairs.values()]
                columns[name] = [np.asarray(nothing if v is None else v).tolist() for v in seen]
        found = choose(pl.DataFrame(columns), self.by, self.budget, seed=self.seed)
        return set(found.drop_nulls("place")["id"])

    def _margins(
        self,
        pairs: Mapping[str, Sequence[Candidate]],
        both: Sequence[Candidate],
        prompts: Mapping[str, Prompt],
    ) -> list[object]:
        """Of each pair its margin under every reward model; 0 where one gives no number."""
        several = []
        for context in self.models:
            score = {c.id: c.score for c in rewarded(both, prompts, context)}
            several.append([_less(score[one.id], score[two.id]) for one, two in pairs.values()])
        return [list(margins) for margins in zip(*several, strict=True)]


def _less(one: float | None, two: float | None) -> float:
    return 0.0 if one is None or two is None else one - two
