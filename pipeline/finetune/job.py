"""A training run: how it is carried out, and what a stage hands to the loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gristmill.pipeline.finetune.data import Collate, Rows
from gristmill.pipeline.models.caps import RunCaps

Progress = Callable[[int, int, Mapping[str, float]], None]  # (steps done, steps in all, metrics)
HISTORY = "history.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run is carried out; nothing here changes its result.

    Attributes:
        device: "auto", "cpu" or "cuda".
        resume_seconds: a state to resume from is saved at least this often, 0 = every step.
        progress: told of every step.
        log: is given, in sentences, what a reader of the log should know.
        caps: told of the tokens of every step; at a cap a state to resume from is saved, and the
            run stops.
    """

    device: str = "auto"
    resume_seconds: float = 600.0
    progress: Progress | None = None
    log: Callable[[str], None] = lambda _: None
    caps: RunCaps = field(default_factory=RunCaps)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a stage hands to the loop.

    Attributes:
        rows: the token rows.
        collate: makes a batch of them.
        build: makes a TRL trainer on one sample row, from the arguments it is given.
        notes: sentences on what became of the data.
        hidden: prefixes of TRL's metrics that mean nothing here.
        stop: from a step's metrics, whether training has reached its goal and ends there.
        goal: what that is, in words.
    """

    rows: Rows
    collate: Collate
    build: Callable[[Mapping[str, Any]], Any]
    notes: Sequence[str] = ()
    hidden: tuple[str, ...] = ()
    stop: Callable[[Mapping[str, float]], bool] = lambda _: False
    goal: str = ""
