"""Who chooses rows: every selector that scores the records at hand, each with its own rule."""

import dataclasses
from dataclasses import dataclass, field

import polars as pl

from gristmill.pipeline import ScoreRun, score
from gristmill.pipeline.compare import arms
from gristmill.pipeline.contracts import Given
from gristmill.pipeline.records.dataset import unique_ids
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.selectors import catalog

BUDGETS = ("10%", "5%", "30%")
# no selectors of their own: controls of the comparison, or a number that the data would have to hold
CONTROLS = ("random", "length")
NO_METHOD = {"column": "reads a number that the data holds already, and this pool holds none"}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A selector of the catalogue as it stands in the table.

    Attributes:
        name: of the arm.
        id: in the catalogue.
        settings: other than the defaults, with the reason in `why`.
        roles: models other than the base.
        targeted: whether it reads the target's reference rows.
    """

    name: str
    id: str
    targeted: bool
    settings: dict = field(default_factory=dict)
    roles: dict = field(default_factory=dict)
    why: str = ""


def methods(kind, special=None):
    """The methods that score records of a kind; those that read no reference rows come first."""
    found = []
    for name, cls in catalog.methods().items():
        if kind not in catalog.make(name).accepts or name in (*CONTROLS, *NO_METHOD):
            continue
        told = (special or {}).get(name, {})
        found.append(Method(name=name, id=name, targeted=cls.reference != "none", **told))
    return found


def scores(board, method, target):
    """The table of scores of a method, from the store if it was made before."""
    scorer = catalog.make(method.id, method.settings)
    if scorer.greedy:
        scorer = scorer.with_given(Given(picks=len(unique_ids(board.pool))))
    context = board.context
    for role, reference in method.roles.items():
        context = context.bound(context.models.bind(role, (reference,)))
    run = ScoreRun(
        scorer=scorer,
        dataset=board.pool,
        reference=board.queries[target] if scorer.reference != "none" else None,
        context=context,
    )
    return score(run).frame()


def ledger(board, method, target, budget):
    """The rows that a method takes, by its own rule."""
    scorer = catalog.make(method.id, method.settings)
    rule = rule_named(scorer.rule, scorer.rule_settings)
    return select(
        scores(board, method, target), rule=rule, budget=Budget.parse(budget), extra=sources(board)
    )


def arm(board, method, target, budget):
    """A method's arm at a budget."""
    return arms.method(method.name, ledger(board, method, target, budget))


def sources(board):
    """Keys of the pool, for rules that read more than scores."""
    return board.pool.frame(["id", "source", "row"]).sort("source", "row", "id")


def lengths(board):
    """The table that controls are drawn from: every row with its tokens under the base model."""
    run = ScoreRun(scorer=catalog.make("length"), dataset=board.pool, context=board.context)
    return score(run).frame()
