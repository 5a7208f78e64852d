"""What several methods read of the same models: one group a role and its models."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gristmill.pipeline.contracts import EncodingFacts, Signal
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.score.score import ScoreRun


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What several methods read of the models of one role.

    Attributes:
        context: with the models that these methods prepared.
        pool: signals of the pool.
        facts: encodings of the pool.
        reference: signals of the target rows.
    """

    context: RunContext
    pool: list[Signal] = field(default_factory=list)
    facts: list[EncodingFacts] = field(default_factory=list)
    reference: list[Signal] = field(default_factory=list)


def asked_of_models(runs: Sequence[ScoreRun]) -> list[Asked]:
    """The groups of prepared runs on the same data, in order: what a run observes, and a plan."""
    together: dict[tuple[str, tuple[str, ...]], Asked] = {}
    for run in runs:

        def asked_of(role: str, run: ScoreRun = run) -> Asked:
            key = (role, run.models.roles[role])
            return together.setdefault(key, Asked(context=run.context))

        for fact in run.facts():
            asked_of(fact.role).facts.append(fact)
        for signal in run.scorer.signals:
            asked_of(signal.role).pool.append(signal)
        for signal in run.scorer.reference_signals:
            asked_of(signal.role).reference.append(signal)
    return list(together.values())
