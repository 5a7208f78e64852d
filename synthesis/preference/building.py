"""Building: the rated candidates of a prompt to pairs, or the reason why there is none.

A rule proposes; what it proposes must hold: two texts that differ, before and after truncation; a
gap above zero and no less than asked; a chosen side above the floor, and never one that is known to
be wrong; no verdict on these two that says tie or the opposite. What does not hold is kept as a
pair with its reason, so that a person can look at it and decide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gristmill.pipeline.evaluate.judging import Judged
from gristmill.synthesis.preference.candidates import Candidate, distinct, plain
from gristmill.synthesis.preference.rules import Draw, PairRule, best_first, known_better

OPEN = frozenset({"orders_disagree", "tied", "conflict"})  # reasons that people may overrule
Verdicts = Mapping[tuple[str, str], Judged]  # (one, two), ids in order -> what was said of them


def stripped(prompt: str, text: str) -> str:
    """A text as it is compared where nothing truncates it."""
    return plain(text)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A pair, kept or refused.

    Attributes:
        prompt: id of the prompt.
        chosen: the better answer.
        rejected: the other one.
        gap: of their scores; null where the rule needs none.
        verdict: what a judge said of these two, with the chosen one as `one`.
        reason: why it is refused: a word, or a word, a colon and a detail.
        decided_by: "people" where their judgement stands in the place of the judge's.
        group: pairs of one group stay on one side of a split, whatever their prompts.
        judging: what a verdict cost that no table of the run holds.
    """

    prompt: str
    chosen: Candidate
    rejected: Candidate
    gap: float | None = None
    verdict: Judged | None = None
    reason: str | None = None
    decided_by: str | None = None
    group: str | None = None
    judging: float = 0.0

    @property
    def undecided(self) -> bool:
        """Whether it is refused for what a judge said of it, so that a person could decide."""
        word = (self.reason or "").partition(":")[0]
        return word in OPEN and self.decided_by is None and self.group is None

    @property
    def swapped(self) -> "Pair":
        """The same two answers the other way round."""
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            gap=None if self.gap is None else -self.gap,
            verdict=None if self.verdict is None else self.verdict.turned,
        )


@dataclass(frozen=True, kw_only=True)
class Building:
    """How pairs are made.

    Attributes:
        rule: which candidates make a pair.
        min_gap: least gap of their scores, where both have one; a rule by score wants it above
            zero in any case.
        floor: least score of the chosen side, if a judge gave it.
        seed: of the rule's draws.
        shown: prompt and text to what a trainer sees of the text, after truncation.
    """

    rule: PairRule
    min_gap: float = 0.0
    floor: float | None = None
    seed: int = 0
    shown: Callable[[str, str], Any] = field(default=stripped, compare=False)

    def __post_init__(self) -> None:
        if not self.min_gap >= 0:
            raise ValueError(f"min_gap is {self.min_gap}; give 0 or more.")


def pairs_of(
    prompt: str, candidates: Sequence[Candidate], verdicts: Verdicts, building: Building
) -> tuple[list[Pair], str | None]:
    """The pairs of one prompt, refused ones among them; without any, the reason.

    Args:
        prompt: its id.
        candidates: its answers, each with what it was rated.
        verdicts: on two of them, by their ids in order.
        building: the rule and what a pair must fulfil.
    """
    different = distinct(candidates)
    if len(different) < 2:
        if not candidates:
            return [], "no_candidate"
        alone = len(candidates) == 1
        return [], "one_candidate" if alone else f"identical: {len(candidates)} equal candidates"
    rule = building.rule
    usable = [c for c in different if c.score is not None]
    if not rule.by_score:  # who wrote a text decides
        usable = distinct(candidates, each_role=True)
    undecided = _undecided(prompt, different, verdicts)
    if len(usable) < 2:
        why = next((c.reason for c in different if c.score is None and c.reason), "no score")
        asked = why == "no score" or why.startswith("judge:")
        return undecided, f"unrated: {why}" if asked else why
    if reason := _no_chosen(usable, building):
        return [], reason
    if rule.by_score:
        usable = best_first(usable)
        if usable[0].score == usable[-1].score:
            if all(c.verified and c.by_verifier for c in usable):
                return undecided, f"all_correct: {len(usable)} candidates reach the known answer"
            return undecided, f"tied: {len(usable)} candidates of score {usable[0].score:g}"
    proposed = rule.pairs(usable, Draw(seed=building.seed, prompt=prompt))
    if not proposed:
        return undecided, f"no_pair: the rule {type(rule).__name__} finds none"
    found = [_checked(prompt, *two, verdicts, building) for two in proposed]
    return found, None


def verdict_on(one: Candidate, two: Candidate, verdicts: Verdicts) -> Judged | None:
    """What was said of two candidates, as values of the first."""
    said = verdicts.get((min(one.id, two.id), max(one.id, two.id)))
    return said if said is None or one.id < two.id else said.turned


def _no_chosen(usable: Sequence[Candidate], building: Building) -> str | None:
    """Why no candidate may be chosen, if none may."""
    if all(c.verified is False for c in usable):
        return f"none_correct: {len(usable)} candidates miss the known answer"
    if building.floor is not None and all(_below(c, building.floor) for c in usable):
        return f"below_floor: no candidate reaches {building.floor:g}"
    return None


def _below(candidate: Candidate, floor: float | None) -> bool:
    """Whether a judged candidate is below the floor; one that the verifier scored is not."""
    if floor is None or candidate.score is None or candidate.by_verifier:
        return False
    return candidate.score < floor


def _checked(
    prompt: str, chosen: Candidate, rejected: Candidate, verdicts: Verdicts, building: Building
) -> Pair:
    gap = None
    if chosen.score is not None and rejected.score is not None:
        gap = chosen.score - rejected.score
    said = verdict_on(chosen, rejected, verdicts)
    pair = Pair(prompt=prompt, chosen=chosen, rejected=rejected, gap=gap, verdict=said)
    return replace(pair, reason=refusal(pair, building))


def refusal(pair: Pair, building: Building, *, judged: bool = True) -> str | None:
    """Why a pair does not hold.

    Args:
        pair: as it is proposed.
        building: what it must fulfil.
        judged: by scores and verdicts too; else by its texts and the known answer alone.
    """
    chosen, rejected, gap = pair.chosen, pair.rejected, pair.gap
    if chosen.id == rejected.id:
        return "identical: both sides are the same text"
    if building.shown(pair.prompt, chosen.text) == building.shown(pair.prompt, rejected.text):
        return "same_after_truncation"
    if chosen.verified is False:
        return "chosen_wrong: it misses the known answer"
    if not judged:
        return None
    if _below(chosen, building.floor):
        return f"below_floor: the chosen side has {chosen.score:g}"
    if gap is not None and gap < 0:
        return f"conflict: the scores say the opposite by {-gap:g}"
    if building.rule.by_score and gap == 0:
        return f"tied: both score {chosen.score:g}"
    known = known_better(chosen, rejected)
    if gap is not None and gap < building.min_gap and not known:
        return f"small_gap: {gap:g} is below {building.min_gap:g}"
    return _contradicted(pair.verdict)


def _contradicted(said: Judged | None) -> str | None:
    """Why a verdict on these two forbids the pair."""
    if said is None or said.label in (None, "one"):
        return None
    if said.reason is not None:
        return said.reason
    if said.contradicts:
        return "orders_disagree: the judge prefers another answer in each order"
    return "tied: the judge says so" if said.label == "tie" else "conflict: the judge disagrees"


def _undecided(prompt: str, candidates: Sequence[Candidate], verdicts: Verdicts) -> list[Pair]:
    """Two candidates that a judge could not order: refused, for a person to look at."""
    ordered = sorted(candidates, key=lambda c: c.id)
    for i, one in enumerate(ordered):
        for two in ordered[i + 1 :]:
            said = verdict_on(one, two, verdicts)
            if said is not None and said.label == "tie" and said.contradicts:
                pair = Pair(prompt=prompt, chosen=one, rejected=two, gap=0.0, verdict=said)
                return [replace(pair, reason=_contradicted(said))]
    return []
