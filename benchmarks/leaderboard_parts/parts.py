"""The parts of the leaderboard: which arms there are, and in which order their cells are made."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import polars as pl

from gristmill.pipeline.compare import arms, comparison
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.selection.selection import Budget
from leaderboard_parts import pool
from leaderboard_parts.arms import Method, arm, lengths, methods, scores
from leaderboard_parts.cells import EPOCHS, Trainer, dpo_design, sft_design

DRAWS = {"random": 10, "balanced_random": 5, "length_matched": 2, "compute_matched": 3}
TRAINING_STEP = 3  # forward passes that a row costs whenever it is trained on
TUNED = "tuned"  # a model that is made from the base and the whole pool
# What a method needs beyond its defaults and the base model.
EXAMPLES = {
    "s2l": {
        "settings": {"train": True, "training.learning_rate": 1e-3},
        "why": "makes its own checkpoints, at a rate at which a model of this size learns",
    },
    "teacher_divergence": {
        "roles": {"teacher": TUNED},
        "why": "the teacher is the base, tuned on the whole pool",
    },
    "paser": {
        "roles": {"reference": TUNED},
        "why": "the model before pruning is the base, tuned on the whole pool",
    },
}
# By cost, the cheapest first; those that are not named come before.
EXPENSIVE = (
    "selectit",
    "cpqs",
    "deita",
    "ica",
    "nuggets",
    "uncertainty_consistency",
    "solve_rate_filter",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A part of the leaderboard: a pool, its targets, and who chooses from it.

    Attributes:
        name: of the part.
        board: rows and models.
        kind: of the records.
        budgets: in the order in which cells are made.
        draws: random draws at the first budget: the more, the smaller an effect can be seen.
    """

    name: str
    board: pool.Board
    kind: str
    budgets: tuple[str, ...] = ("10%", "5%", "30%")
    draws: int = 20

    @property
    def targets(self):
        return tuple(self.board.queries)

    @cached_property
    def lengths(self):
        return lengths(self.board)

    @cached_property
    def trainers(self):
        """A trainer for each target."""
        made = sft_design if self.kind == "example" else dpo_design
        records = pool.frame(self.board.pool)
        return {
            target: Trainer(
                context=self.board.context, records=records, design=made(self.board, target)
            )
            for target in self.targets
        }

    @cached_property
    def methods(self):
        """Every selector that scores these records, in the order of their costs."""
        found = methods(self.kind, EXAMPLES if self.kind == "example" else None)
        order = {name: place for place, name in enumerate(EXPENSIVE, 1)}
        return sorted(found, key=lambda m: (order.get(m.id, 0), not m.targeted, m.name))

    def chosen(self, method: Method, target: str, budget: str) -> Any:
        """The arm of a method."""
        return arm(self.board, self._bound(method), target, budget)

    def scored(self, method: Method, target: str) -> pl.DataFrame:
        """The scores of a method."""
        return scores(self.board, self._bound(method), target)

    def _bound(self, method):
        roles = {r: self.tuned() if m == TUNED else m for r, m in method.roles.items()}
        return replace(method, roles=roles)

    def tuned(self):
        """The base after the whole pool, at the first rate and seed."""
        trainer = next(iter(self.trainers.values()))
        rows = trainer.rows(arms.full(self.lengths).draws[0])
        design = trainer.design
        return design.recipe.train(
            trainer.context, rows, seed=design.seeds[0], rate=design.rates[0]
        )

    def control(self, name: str, budget: str) -> Any:
        """A control that no method's rows are needed for."""
        draws = self.draws if name == "random" and budget == self.budgets[0] else DRAWS.get(name, 1)
        return arms.controls(self.lengths, Budget.parse(budget), [name], draws)[0]

    def few(self, control: Any) -> Any:
        """A control with no more draws than every budget has."""
        most = DRAWS["random"]
        return (
            control if len(control.draws) <= most else replace(control, draws=control.draws[:most])
        )

    def matched(self, kind: str, own: Any) -> Any:
        """A control that is matched to a method's rows."""
        row = TRAINING_STEP * EPOCHS * (2 if self.kind == "pair" else 1)
        return arms.beside(self.lengths, own, [kind], DRAWS[kind], trained_row=row)[0]

    def compared(self, target: str, made: dict) -> comparison.Leaderboard:
        """The comparison of arms that were trained."""
        trainer = self.trainers[target]
        return comparison.compare(trainer.context, self.board.pool, made, trainer.design)

    @property
    def controls(self):
        return ("zero_shot", "random", "balanced_random", "length", "canary", "full")

    def promising(self, target: str, budget: str) -> list:
        """Methods above random and balanced random by their intervals: others claim nothing."""
        made = self.there(target, [budget])
        board = self.compared(target, made)
        return [
            o.arm
            for o in board.outcomes[target][budget].values()
            if not o.arm.control
            and all(c in o.against and o.against[c].low > 0 for c in ("random", "balanced_random"))
        ]

    def there(self, target: str, budgets) -> dict:
        """The arms whose models are all in the store, by budget; matched ones last."""
        trainer, found = self.trainers[target], {}
        for budget in budgets:
            arms_ = [a for a in self._choosable(target, budget) if trainer.there(a)]
            if "random" not in {a.name for a in arms_}:
                continue
            own = [a for a in arms_ if not a.control]
            for kind in ("length_matched", "compute_matched"):
                arms_ += [a for a in (self.matched(kind, o) for o in own) if trainer.there(a)]
            found[budget] = arms_
        return found

    def _choosable(self, target, budget):
        """Controls, and methods whose scores were made: nothing is scored here."""
        for name in self.controls:
            made = self.control(name, budget)
            few = self.few(made)
            # until the further draws are made, the first ones serve
            yield made if few is made or self.trainers[target].there(made) else few
        for method in self.methods:
            if self._said(method.name, target, budget) == "":
                yield self.chosen(method, target, budget)

    @property
    def failed(self):
        """Methods that cannot run here, and why."""
        told = {
            m.name: self._said(m.name, target, budget)
            for m in self.methods
            for target in self.targets
            for budget in self.budgets
        }
        return {name: why for name, why in told.items() if why}

    def _note(self, name, target, budget):
        return self.board.context.store.root / "leaderboard" / self.name / budget / target / name

    def _said(self, name, target, budget):
        """What became of choosing by a method: nothing to say, why it cannot, None: not tried."""
        note = self._note(name, target, budget)
        return note.read_text("utf-8") if note.exists() else None

    def _say(self, text, name, target, budget):
        note = self._note(name, target, budget)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(text, "utf-8")

    def queue(self):
        """What is to be made, the proof of target-aware methods first: a label and the work."""
        targeted = [m for m in self.methods if m.targeted]
        for budget in self.budgets:
            for target in self.targets:
                for name in ("zero_shot", "random"):
                    yield from self._named(name, [target], budget, few=True)
                for method in (m for m in targeted if m.id not in EXPENSIVE):
                    yield self._chooses(method, [target], budget)
            yield from self._named("balanced_random", self.targets, budget)
            yield from self._matched("length_matched", budget)
            for method in self.methods:
                if method not in targeted:
                    yield self._chooses(method, self.targets, budget)
                elif method.id in EXPENSIVE:
                    for target in self.targets:
                        yield self._chooses(method, [target], budget)
            for name in ("length", "canary", "random"):
                yield from self._named(name, self.targets, budget)
            yield from self._matched("length_matched", budget)
            if budget == self.budgets[0]:
                yield from self._named("full", self.targets, budget)
                yield from self._matched("compute_matched", budget)

    def _matched(self, kind, budget):
        """Matched controls, where a claim can be made at all: at the first budget."""
        if budget != self.budgets[0]:
            return
        for target in self.targets:
            for own in self.promising(target, budget):
                made = self.matched(kind, own)
                yield f"{budget} {target} {made.name}", self._run(made, [target])

    def _named(self, name, targets, budget, few=False):
        arm_ = self.few(self.control(name, budget)) if few else self.control(name, budget)
        yield f"{budget} {' '.join(targets)} {name}", self._run(arm_, targets)

    def _chooses(self, method, targets, budget):
        def work():
            try:
                own = self.chosen(method, targets[0], budget)
            except ValueError as error:
                for target in targets:
                    self._say(str(error), method.name, target, budget)
                raise
            for target in targets:
                self._say("", method.name, target, budget)
            return self._run(own, targets)()

        return f"{budget} {' '.join(targets)} {method.name}", work

    def _run(self, arm_, targets):
        def work():
            told = []
            for target in targets:
                rate, value = self.trainers[target].run(arm_)
                rows = arm_.draws[0].height if arm_.draws else 0
                values = ", ".join(f"{k} {v:.3f}" for k, v in value.items())
                told.append(f"{rows} rows at {rate:g}: {values}")
            return "; ".join(told)

        return work


def small(store):
    """Examples for two targets."""
    passes = Passes(device="cpu", max_length=256)
    return Table(name="small", kind="example", board=pool.examples(store, passes))


def pairs(store):
    """Preference pairs."""
    passes = Passes(device="cpu", max_length=256)
    return Table(
        name="pairs", kind="pair", board=pool.pairs(store, passes), budgets=("10%", "30%"), draws=10
    )
