"""Findings: what a comparison says of a method, in sentences and as a table."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl

from gristmill.pipeline.compare import standings
from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.flags import raised
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.compare.premise import premise
from gristmill.pipeline.compare.words import ASKED, CLAIM, Quote, listed, shown, verb, words
from gristmill.pipeline.numerics.effects import Effect
from gristmill.pipeline.report.markdown import cell, table


def finding(arm: str, control: str, evaluation: str, budget: str, effect: Effect) -> str:
    """An arm's effect in a sentence."""
    limit = (
        f"differences below {effect.detectable:.4f} could not be seen."
        if effect.error
        else "items, seeds and draws all differ by the same, so its interval says nothing."
    )
    return (
        f"{arm} {verb(effect)} {words(control)} on {evaluation} at {budget}: {shown(effect)} at "
        f"{effect.level:.0%}; {limit}"
    )


def summary(
    board: Leaderboard,
    budget: str,
    arm: str,
    *,
    evaluation: str | None = None,
    quote: Quote = str,
) -> str:
    """A method in a sentence or two: what it beats on a target after Holm, and what to mind.

    Args:
        board: what the comparison found.
        budget: at which it is asked.
        arm: the method.
        evaluation: the target; None: the first.
        quote: how names of arms and evaluations are written.
    """
    target = evaluation or board.design.target
    told = f"{quote(arm)} at {budget}: {standing(board, budget, arm, target)}."
    minded = [f.sentence for f in raised(board, budget, arm, target, quote=quote)]
    return " ".join([told, *minded])


def standing(board: Leaderboard, budget: str, arm: str, evaluation: str) -> str:
    """What a method beats on a target after Holm, what it does not, and what it is worse than."""
    design = board.design
    outcome = board.outcomes[evaluation][budget][arm]
    asked = [c for c in dict.fromkeys((design.against, *ASKED)) if c in outcome.against]
    beaten = [c for c in asked if outcome.beats(c, design.level)]
    worse = [c for c in asked if outcome.against[c].high < 0]
    others = [c for c in asked if c not in beaten and c not in worse]
    told = [f"{shown(outcome.against[design.against])} against {words(design.against)}"]
    if beaten:
        told.append(f"after Holm it beats {listed([words(c) for c in beaten])}")
    for found, controls in (("is not shown to beat", others), ("is worse than", worse)):
        if controls:
            parts = [
                words(c) + ("" if c == design.against else f" ({shown(outcome.against[c])})")
                for c in controls
            ]
            told.append(f"it {found} {listed(parts)}")
    return "; ".join(told)


def flags(board: Leaderboard, budget: str, arm: str) -> list[str]:
    """What a reader of a method's effect on the first target must know, a sentence each."""
    return [f.sentence for f in raised(board, budget, arm, board.design.target)]


def warnings(board: Leaderboard) -> list[str]:
    """What speaks against the comparison itself, a sentence each."""
    design, found = board.design, []
    for name, by_budget in board.outcomes.items():
        for budget, made in by_budget.items():
            canary = next((o for o in made.values() if o.arm.kind == "canary"), None)
            if canary is not None and canary.against[design.against].low > 0:
                found.append(
                    f"A random draw in disguise beats {words(design.against)} on {name} at "
                    f"{budget}: {shown(canary.against[design.against])}. One in forty does by "
                    "chance; do not trust effects of this size here."
                )
    return found


def claimed(board: Leaderboard, evaluation: str, budget: str, arm: str) -> bool:
    """Whether a method beats random, balanced random and random rows of its lengths after Holm."""
    outcome = board.outcomes[evaluation][budget][arm]
    return all(outcome.beats(control, board.design.level) for control in CLAIM)


def markdown(board: Leaderboard, *, level: int = 2) -> str:
    """Every target at every budget: methods and controls, the best first, and a sentence a method.

    Args:
        board: what the comparison found.
        level: of the headings.
    """
    parts = [" ".join(premise(board, quote=cell))]
    for target in standings.targets(board):
        unit = board.design.evaluations[target].measure.unit
        parts.append(f"{'#' * level} {cell(target)}: {unit}")
        for budget in standings.budgets(board):
            named = [o.arm.name for o in standings.methods(board, target, budget)]
            told = [summary(board, budget, n, evaluation=target, quote=cell) for n in named]
            head = [cell(h) for h in standings.head(board, target, budget)]
            parts += [
                f"{'#' * (level + 1)} {cell(target)} at {budget}",
                _table(head, standings.lines(board, target, budget)),
                _table(standings.CONTROLS, standings.controls(board, target, budget)),
                "\n".join(f"- {sentence}" for sentence in told),
            ]
    return "\n\n".join(p for p in parts if p) + "\n"


def leaderboard(board: Leaderboard) -> pl.DataFrame:
    """A row per evaluation, budget, arm and control, for the Parquet file."""
    lines = [
        {**_arm(name, budget, o), "part": board.design.evaluations[name].part, **line}
        for name, by_budget in board.outcomes.items()
        for budget, found in by_budget.items()
        for o in found.values()
        for line in _lines(o)
    ]
    return pl.DataFrame(lines, schema=LEADERBOARD, infer_schema_length=None)


LEADERBOARD = {
    "evaluation": pl.String,
    "part": pl.String,
    "budget": pl.String,
    "arm": pl.String,
    "kind": pl.String,
    "rows": pl.Float64,
    "tokens": pl.Float64,
    "cost": pl.Float64,
    "rate": pl.Float64,
    "value": pl.Float64,
    "against": pl.String,
    "effect": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "level": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "detectable": pl.Float64,
}


def cells(board: Leaderboard) -> pl.DataFrame:
    """A row per model and evaluation."""
    return pl.DataFrame(
        [
            {
                "budget": c.budget, "arm": c.arm, "draw": c.draw, "seed": c.seed, "rate": c.rate,
                "rows": c.rows, "tokens": c.tokens, "evaluation": name, "value": _mean(items),
                "model": c.model,
            }
            for c in board.cells
            for name, items in c.items.items()
        ],
        infer_schema_length=None,
    )  # fmt: skip


def items(board: Leaderboard) -> pl.DataFrame:
    """A row per model, evaluation and item."""
    return pl.concat(
        [
            items.select(
                budget=pl.lit(c.budget), arm=pl.lit(c.arm), draw=pl.lit(c.draw),
                seed=pl.lit(c.seed), evaluation=pl.lit(name), id="id", value="value",
                weight="weight",
            )
            for c in board.cells
            for name, items in c.items.items()
        ]
    )  # fmt: skip


def _lines(o: Outcome) -> Iterator[dict[str, object]]:
    if not o.against:
        yield {}
    for control, e in o.against.items():
        yield {
            "against": control,
            "effect": e.value,
            "low": e.low,
            "high": e.high,
            "level": e.level,
            "p": e.p,
            "p_holm": o.adjusted.get(control),
            "detectable": e.detectable,
        }


def _arm(evaluation: str, budget: str, o: Outcome) -> dict[str, object]:
    return {
        "evaluation": evaluation,
        "budget": budget,
        "arm": o.arm.name,
        "kind": o.arm.kind,
        "rows": o.rows,
        "tokens": o.tokens,
        "cost": o.arm.cost,
        "rate": o.rate,
        "value": o.value,
    }


def _table(head: Sequence[str], lines: Iterable[Sequence[str | None]]) -> str:
    return table(head, ([v or "-" for v in line] for line in lines)).rstrip()


def _mean(items: pl.DataFrame) -> float:
    return float(np.average(items["value"].to_numpy(), weights=items["weight"].to_numpy()))
