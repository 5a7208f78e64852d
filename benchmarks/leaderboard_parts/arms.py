"""Who chooses rows: every selector that scores the records at hand, each with its own rule."""

from dataclasses import dataclass, field, replace

from gristmill.flows.asked import EMBEDDER
from gristmill.pipeline import ScoreRun, score
from gristmill.pipeline.compare import arms
from gristmill.pipeline.contracts import Given, asked_roles
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.plan.sizes import size_of
from gristmill.pipeline.prepare.costs import MEAN_TOKENS, selecting
from gristmill.pipeline.records.dataset import unique_ids
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.selectors import catalog

CONTROLS = ("random", "length")  # of the comparison: no selectors of its own
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


def roles(method, scorer, base):
    """The base in every role that the method asks for, but for the embedder."""
    usual = {"embedder": EMBEDDER}
    asked = asked_roles(scorer)
    return {r: (method.roles.get(r, usual.get(r, base)),) for r in asked}


def scores(board, method, target):
    """The table of scores of a method, from the store if it was made before."""
    scorer = catalog.make(method.id, method.settings)
    bound = roles(method, scorer, board.base)
    if scorer.greedy:
        scorer = scorer.with_given(Given(picks=len(unique_ids(board.pool))))
    run = ScoreRun(
        scorer=scorer,
        dataset=board.pool,
        reference=board.queries[target] if scorer.reference != "none" else None,
        context=board.context.bound(replace(board.context.models, roles=bound)),
    )
    return score(run).frame()


def ledger(board, method, target, budget):
    """The rows that a method takes, by its own rule."""
    table = scores(board, method, target)
    extra = sources(board)
    return select(table, rule=own_rule(method), budget=Budget.parse(budget), extra=extra)


def own_rule(method):
    """The rule that a method names as its own."""
    scorer = catalog.make(method.id, method.settings)
    return rule_named(scorer.rule, scorer.rule_settings)


def arm(board, method, target, budget):
    """A method's arm at a budget, with the tokens of its rows under the base model."""
    counted = lengths(board).select("id", "tokens").unique("id", keep="first")
    kept = ledger(board, method, target, budget).drop("tokens")
    return arms.method(
        method.name,
        kept.join(counted, on="id", how="left", validate="m:1"),
        cost=cost(board, method, target),
    )


def cost(board, method, target):
    """What choosing by a method costs, in forward passes of a row by the base model."""
    scorer = catalog.make(method.id, method.settings)
    bound = roles(method, scorer, board.base)
    files = {role: resolve(name, board.context.store) for role, (name,) in bound.items()}
    own = _flops(resolve(board.base, board.context.store))
    targets = len(unique_ids(board.queries[target])) if scorer.reference != "none" else 0
    sizes = {role: _flops(found) / own for role, found in files.items()}
    return selecting(scorer, len(unique_ids(board.pool)), targets, sizes)


def _flops(files):
    return size_of(files).flops(1, MEAN_TOKENS, head=files.layout != "sentence")


def sources(board):
    """Keys of the pool, for rules that read more than scores."""
    return board.pool.frame(["id", "source", "row"]).sort("source", "row", "id")


def lengths(board):
    """The table that controls are drawn from: every row with its tokens under the base model."""
    return scores(board, Method(name="length", id="length", targeted=False), None)
