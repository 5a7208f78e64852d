"""Rollouts as settings: how a row's task is tried and graded, where outcomes are counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.pipeline.numerics.answers import Grade
from gristmill.pipeline.signals.rollouts import Rollouts, graded


@dataclass(frozen=True, kw_only=True)
class Tries:
    """How the model tries a row's task, and how its tries are graded.

    Attributes:
        samples: rollouts of a row.
        temperature: of the draws.
        max_tokens: longest rollout.
        grade: how the known answer is found in the reference solution.
        answer: path in meta of the reference solution; empty: the last assistant turn.
    """

    samples: int = 16
    temperature: float = 1.0
    max_tokens: int = 2_048
    grade: Grade = "final"
    answer: str = ""

    def signal(self, seed: int) -> Rollouts:
        """What is observed."""
        return Rollouts(
            samples=self.samples,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=seed,
        )

    def graded(self, row: Mapping[str, Any], column: str) -> tuple[list[bool] | None, str | None]:
        """Which rollouts of a row are right, and why that cannot be told."""
        return graded(row, column, self.grade, self.answer)
