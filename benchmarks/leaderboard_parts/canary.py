"""Forty canary trials: how often is a selector promoted that is random in disguise?

Each of 40 random draws is judged once as a method is, against the ten draws that follow it; it is
promoted if the lower end of its interval is above zero, as the gate does it.
"""

# D = draws, S = seeds, N = items

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gristmill.pipeline.compare import arms
from gristmill.pipeline.compare.findings import shown
from gristmill.pipeline.numerics.effects import effect
from gristmill.pipeline.selection.selection import Budget
from leaderboard_parts.parts import DRAWS, small

TRIALS, MOST = 40, 3  # how many of them may be promoted
TARGET, BUDGET = "maths", "10%"


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """The trials, on the pool, the target and the recipe of the small table."""

    table: Any
    name: str = "canary"

    @cached_property
    def arm(self):
        return arms.random(self.table.lengths, Budget.parse(BUDGET), TRIALS)

    @property
    def trainer(self):
        return self.table.trainers[TARGET]

    def queue(self):
        """A draw at a time."""
        for draw in range(TRIALS):
            yield f"draw {draw}", self._work(draw)

    def _work(self, draw):
        def work():
            rate, value = self.trainer.run(self.arm, draws=[draw])
            return f"at {rate:g}: {TARGET} {value[TARGET]:.3f}"

        return work

    def compared(self):
        """The comparison of the draws that are all there; None: not yet."""
        if not self.trainer.there(self.arm):
            return None
        return self.table.compared(TARGET, {BUDGET: [self.arm]})


def effects(board):
    """Every draw against the ten that follow it."""
    outcome = board.outcomes[TARGET][BUDGET]["random"]
    ids = sorted(board.cells[0].items[TARGET]["id"])
    value_DSN = outcome.value_DSN
    found = []
    for draw in range(TRIALS):
        others = np.arange(draw + 1, draw + 1 + DRAWS["random"]) % TRIALS
        found.append(
            effect(value_DSN[draw : draw + 1], value_DSN[others], ids, weight_N=outcome.weight_N)
        )
    return found


def canary(store):
    return Trials(table=small(store))


def section(board):
    """What became of the trials."""
    text = ["## Forty canary trials", "", " ".join(__doc__.split("\n\n")[1].split()), ""]
    if board is None:
        return [*text, "Not made yet.", ""]
    found = effects(board)
    promoted = [d for d, e in enumerate(found) if e.low > 0]
    below = [d for d, e in enumerate(found) if e.high < 0]
    held = "as it must" if len(promoted) <= MOST else "**more than it may**"
    text += [
        f"On {TARGET} at {BUDGET}: {len(promoted)} of {TRIALS} are promoted (at most {MOST} "
        f"may be: {held}); {len(below)} would be called worse than random.",
        "",
        "| draw | effect |",
        "|---|---|",
        *(f"| {d} | {shown(e)} |" for d, e in enumerate(found)),
        "",
    ]
    return text
