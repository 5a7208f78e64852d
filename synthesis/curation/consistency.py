"""Stage 2: which unverified pairs keep their label, are judged again, are dropped, or are flipped.

2A: where the best reward model agrees with the label, no judge is asked. 2B: a pair stays if the
gold reward model agrees, and the judges or the best model do. 2C: what 2B discards is likely
labelled the wrong way round, and may come back flipped, if a sample that people looked at proves
that flipping makes it right more often than not.
"""

from dataclasses import dataclass

from gristmill.pipeline.numerics.intervals import lower_bound

FLIPS = 200  # least pairs that people decided before a discarded pool may be flipped


def judged_again(p: float) -> bool:
    """2A: whether a pair goes to the judges: the best model does not prefer its chosen side.

    Args:
        p: probability that the best reward model gives to its label.
    """
    return not p > 0.5


def kept(*, gold: bool, judges: bool, best: bool) -> bool:
    """2B: whether a pair keeps its label, by who agrees with it.

    Args:
        gold: the reward model of the pairs that people verified.
        judges: the vote of the judges; no vote, or none that decided, is no agreement.
        best: the best reward model of stage 1.
    """
    return gold and (judges or best)


@dataclass(frozen=True, kw_only=True)
class FlipTest:
    """2C: whether the discarded pairs may be flipped.

    Attributes:
        right: pairs of the sample that people prefer the other way round.
        decided: pairs of the sample that people decided.
    """

    right: int
    decided: int

    @property
    def low(self) -> float:
        """The one-sided 95 % lower bound of the accuracy of flipped labels."""
        return lower_bound(self.right, self.decided) if self.decided else 0.0

    @property
    def allowed(self) -> bool:
        """Whether flipped labels are right more often than not, as surely as is asked for."""
        return self.decided >= FLIPS and self.low > 0.5

    @property
    def sentence(self) -> str:
        """What was found, for a reader."""
        if self.decided < FLIPS:
            return (
                f"the discarded pairs were not flipped: people decided {self.decided} of them and "
                f"{FLIPS} are needed."
            )
        share = f"{self.right} of {self.decided} sampled pairs are right once flipped"
        bound = f"at least {self.low:.3f} of the pool with 95 % confidence"
        return (
            f"the discarded pairs were flipped: {share}, {bound}."
            if self.allowed
            else f"the discarded pairs were not flipped: {share}, {bound}, and .5 is needed."
        )
