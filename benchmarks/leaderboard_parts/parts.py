"""The parts of the leaderboard: which arms there are, and in which order their cells are made."""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import polars as pl

from gristmill.pipeline.compare import arms, comparison
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.selection.selection import Budget
from leaderboard_parts import pool
from leaderboard_parts.arms import Method, arm, lengths, methods, scores
from leaderboard_parts.cells import EPOCHS, Trainer, dpo_design, sft_design

DRAWS = {"random": 10, "balanced_random": 5, "length_matched": 3, "compute_matched": 3}
# At the first budget of examples, as more draws show smaller effects; of lengths: for `BEST`.
MORE = {"random": 20, "balanced_random": 10, "length_matched": 8}
BEST = 3
TRAINING_STEP = 3  # forward passes that a row costs whenever it is trained on
TUNED = "tuned"  # a model that is made from the base and the whole pool
# What a method needs beyond its defaults and the base model.
EXAMPLES = {
    "cpqs": {
        "settings": {"damage": "alone"},
        "why": "learns from damaged answers alone, as no weak model wrote any",
    },
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
LATE = ("selectit", "deita", "ica", "cpqs")  # by cost, after the others
EXPENSIVE = ("nuggets", "uncertainty_consistency", "solve_rate_filter")  # after the controls


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A part of the leaderboard: a pool, its targets, and who chooses from it.

    Attributes:
        name: of the part.
        board: rows and models.
        kind: of the records.
        budgets: in the order in which cells are made.
    """

    name: str
    board: pool.Board
    kind: str
    budgets: tuple[str, ...] = ("10%", "5%", "30%")

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
        order = {name: place for place, name in enumerate((*LATE, *EXPENSIVE), 1)}
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

    def control(self, name: str, budget: str, *, more: bool = False) -> Any:
        """A control that no method's rows are needed for; `more` of its draws, where it has any."""
        return arms.controls(self.lengths, Budget.parse(budget), [name], self._draws(name, more))[0]

    def matched(self, kind: str, own: Any, *, more: bool = False) -> Any:
        """A control that is matched to a method's rows."""
        row = TRAINING_STEP * EPOCHS * (2 if self.kind == "pair" else 1)
        draws = self._draws(kind, more)
        return arms.beside(self.lengths, own, [kind], draws, trained_row=row)[0]

    def _draws(self, name, more):
        return (MORE if more and self.kind == "example" else DRAWS).get(name, DRAWS.get(name, 1))

    def compared(self, target: str, made: dict) -> comparison.Leaderboard:
        """The comparison of arms that were trained."""
        trainer = self.trainers[target]
        return comparison.compare(trainer.context, self.board.pool, made, trainer.design)

    @property
    def controls(self):
        return ("zero_shot", "random", "balanced_random", "length", "canary", "full")

    @cache  # noqa: B019  (a table lives as long as its run)
    def promising(self, target: str, budget: str) -> list:
        """Methods above random and balanced random by their intervals, the best first."""
        found = self.compared(target, self.there(target, [budget])).outcomes[target][budget]
        above = [
            o
            for o in found.values()
            if not o.arm.control
            and all(c in o.against and o.against[c].low > 0 for c in ("random", "balanced_random"))
        ]
        return [o.arm for o in sorted(above, key=lambda o: (-o.value, o.arm.name))]

    def best(self, budget: str) -> list[str]:
        """The methods that do best on all targets, by their mean place."""
        places = [[a.name for a in self.promising(target, budget)] for target in self.targets]
        every = set.intersection(*(set(names) for names in places))
        return sorted(every, key=lambda n: (sum(p.index(n) for p in places), n))[:BEST]

    def there(self, target: str, budgets) -> dict:
        """The arms whose models are all in the store, by budget; nothing is scored or trained."""
        found = {}
        for budget in budgets:
            own = [
                self.chosen(m, target, budget)
                for m in self.methods
                if self._said(m.name, target, budget) == ""
            ]
            made = [self._made(target, self.control, name, budget) for name in self.controls]
            made += [self._made(target, lambda a, *, more: a, a) for a in own]
            made += [
                self._made(target, self.matched, kind, a)
                for kind in ("length_matched", "compute_matched")
                for a in own
            ]
            made = [a for a in made if a is not None]
            if "random" in {a.name for a in made}:
                found[budget] = made
        return found

    def _made(self, target, make, *given):
        """An arm with as many draws as there are models for, or None."""
        for more in (True, False):
            arm_ = make(*given, more=more)
            if self.trainers[target].there(arm_):
                return arm_
        return None

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
        """What is to be made, a label and the work: cheap methods, controls, expensive ones."""
        cheap = [m for m in self.methods if m.id not in EXPENSIVE]
        for budget in self.budgets:
            for target in self.targets:
                for name in ("zero_shot", "random"):
                    yield self._named(name, [target], budget)
                for method in (m for m in cheap if m.targeted and m.id not in LATE):
                    yield self._chooses(method, [target], budget)
            yield self._named("balanced_random", self.targets, budget)
            for method in (m for m in cheap if not m.targeted or m.id in LATE):
                yield from self._on_each(method, budget)
            for name in ("length", "canary"):
                yield self._named(name, self.targets, budget)
            if budget == self.budgets[0]:
                for name in ("random", "balanced_random"):
                    yield self._named(name, self.targets, budget, more=True)
                yield self._named("full", self.targets, budget)
            for method in (m for m in self.methods if m.id in EXPENSIVE):
                yield from self._on_each(method, budget)
            if budget == self.budgets[0]:
                for target in self.targets:
                    if self.kind == "example":
                        best = self.best(budget)
                        yield from self._matched("length_matched", target, best, more=True)
                    yield from self._matched("length_matched", target)
        for target in self.targets:  # the most expensive: many rows a model
            yield from self._matched("compute_matched", target)

    def _on_each(self, method, budget):
        """A method on every target: by itself where it reads target rows, else once for all."""
        for targets in [[t] for t in self.targets] if method.targeted else [self.targets]:
            yield self._chooses(method, targets, budget)

    def _matched(self, kind, target, names=None, *, more=False):
        """Matched controls of the methods that can claim anything."""
        budget = self.budgets[0]
        for own in self.promising(target, budget):
            if names is None or own.name in names:
                made = self.matched(kind, own, more=more)
                yield f"{budget} {target} {made.name}", self._run(made, [target])

    def _named(self, name, targets, budget, *, more=False):
        arm_ = self.control(name, budget, more=more)
        return f"{budget} {' '.join(targets)} {name}", self._run(arm_, targets)

    def _chooses(self, method, targets, budget):
        def work():
            try:
                own = self.chosen(method, targets[0], budget)
                if own.draws[0].is_empty():
                    raise ValueError("its rule finds no row of this pool fit to be trained on.")
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
        name="pairs",
        kind="pair",
        board=pool.pairs(store, passes),
        budgets=("10%",),
    )
