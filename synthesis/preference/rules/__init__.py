"""The rules of pairing, one file each: the candidates of a prompt in, (chosen, rejected) out.

A rule sees rated candidates, best first (ties by id), and says which two make a pair. It neither
checks the gap nor the texts: `building.pairs_of` does, so that every refusal has its reason. A draw
depends on the seed, a purpose and the prompt alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from gristmill.pipeline.records.build import build
from gristmill.pipeline.records.registry import chosen, registry
from gristmill.pipeline.records.schema import uniform
from gristmill.synthesis.preference.candidates import Candidate

Pairing = tuple[Candidate, Candidate]  # chosen, rejected


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Draws of one prompt.

    Attributes:
        seed: of the run.
        prompt: id of the prompt.
    """

    seed: int
    prompt: str

    def one(self, among: Sequence[Candidate], purpose: str) -> Candidate:
        """One of them, whatever their order."""
        ordered = sorted(among, key=lambda c: c.id)
        return ordered[int(uniform(self.seed, purpose, self.prompt) * len(ordered))]


@dataclass(frozen=True, kw_only=True)
class PairRule(ABC):
    """Which candidates of a prompt make a pair.

    Attributes:
        by_score: whether the better score decides; else a pair stands without any.
    """

    by_score: ClassVar[bool] = True

    @abstractmethod
    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        """The pairs of a prompt; none where the rule finds none.

        Args:
            rated: candidates of at least two different texts. If `by_score` all texts differ and
                have a score, best first; else a text stands here once for each role that wrote it.
            draw: where the rule leaves a choice to chance.
        """


def score_of(candidate: Candidate) -> float:
    """The score of a rated candidate."""
    assert candidate.score is not None, f"{candidate.id} is unrated"
    return candidate.score


def known_better(one: Candidate, two: Candidate) -> bool:
    """Whether the verifier decides: one reaches the known answer and the other misses it.

    Their scores, 1 and 0, are no judge's: no floor and no margin speaks of them.
    """
    return bool(one.verified) and two.verified is False


def best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Rated candidates by falling score, ties by id."""
    return sorted(candidates, key=lambda c: (-score_of(c), c.id))


@cache
def rules() -> dict[str, type[PairRule]]:
    """Name -> class, sorted by name."""
    return registry(Path(__file__).parent, __name__, PairRule)


def rule_named(name: str, settings: Mapping[str, Any] | None = None) -> PairRule:
    """The rule of that name; text, as on a command line, becomes what the setting needs.

    Args:
        name: e.g. "best_worst", "margin".
        settings: field -> value.

    Raises:
        ValueError: unknown rule or setting, one that is lacking, or a value that does not fit.
    """
    return build(chosen("pair rule", name, rules()), settings, f"pair rule {name}")
