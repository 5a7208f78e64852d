"""A judge as settings: how it is shown a record and led to answer, and when it has not answered."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.signals.next_token import JudgePrompt
from gristmill.selectors.judged import Floats, answered


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How a judge is asked.

    Attributes:
        cue: how the judge's own turn begins; no space before a digit, which tokenizers split in
            different ways.
        part_tokens: longest text of the record, in tokens.
        least_mass: a judge that gives the allowed answers less than this together says something
            else, and the row has no score.
    """

    cue: str = "Rating: ("
    part_tokens: int = 1_024
    least_mass: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.least_mass < 1:
            raise ValueError(
                f"judge.least_mass is a probability above 0 and below 1; found {self.least_mass}."
            )

    def prompt(self, label: str, question: str, **more: Any) -> JudgePrompt:  # noqa: ANN401
        """The record inside a question, as this judge is shown it."""
        return JudgePrompt(
            label=label, question=question, cue=self.cue, part_tokens=self.part_tokens, **more
        )

    def answered(self, p_NA: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Shares of the allowed answers among themselves, and whether the judge gave any."""
        return answered(p_NA, self.least_mass)
