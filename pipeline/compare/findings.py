"""Findings: what a comparison says of a method, in sentences and as a table."""

from collections.abc import Iterator

import polars as pl

from gristmill.pipeline.compare.arms import MATCHED
from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.numerics.effects import Effect

# What a claim rests on: equal rows, the mixture alone, and the lengths alone.
CLAIM = ("random", "balanced_random", "length_matched")
WORDS = {
    "random": "random",
    "balanced_random": "balanced random",
    "length": "the longest rows",
    "full": "all rows",
    "zero_shot": "the base model",
    "length_matched": "random rows of its lengths",
    "token_matched": "random rows of as many tokens",
    "compute_matched": "random rows for as much compute",
}


def words(control: str) -> str:
    """A control in words."""
    return WORDS.get(control, control)


def finding(arm: str, control: str, evaluation: str, budget: str, effect: Effect) -> str:
    """An arm's effect in a sentence."""
    return (
        f"{arm} {verb(effect)} {words(control)} on {evaluation} at {budget}: {shown(effect)} at "
        f"{effect.level:.0%}; differences below {effect.detectable:.4f} could not be seen."
    )


def verb(effect: Effect) -> str:
    """What an interval allows to say."""
    if effect.low > 0:
        return "beats"
    return "is worse than" if effect.high < 0 else "is not told apart from"


def shown(effect: Effect) -> str:
    """An effect with its interval."""
    return f"{effect.value:+.4f} [{effect.low:+.4f}, {effect.high:+.4f}]"


def summary(board: Leaderboard, budget: str, arm: str) -> str:
    """A method in a sentence or two: what it beats on the target after Holm, and what to mind."""
    design = board.design
    outcome = board.outcomes[design.target][budget][arm]
    asked = [c for c in (*CLAIM, *MATCHED[1:]) if c in outcome.against]
    beaten = [c for c in asked if outcome.beats(c, design.level)]
    others = [c for c in asked if c not in beaten]
    effect = outcome.against[design.against]
    told = f"{arm} at {budget}: {shown(effect)} against {words(design.against)}"
    if beaten:
        told += f"; after Holm it beats {_listed(beaten)}"
    if others:
        parts = [f"{words(c)} ({shown(outcome.against[c])})" for c in others]
        told += f"; it is not shown to beat {', '.join(parts)}"
    return " ".join([f"{told}.", *flags(board, budget, arm)])


def flags(board: Leaderboard, budget: str, arm: str) -> list[str]:
    """What a reader of a method's effect must know, a sentence each."""
    design = board.design
    effects = {
        name: found[budget][arm].against.get(design.against)
        for name, found in board.outcomes.items()
    }
    known = {name: e for name, e in effects.items() if e is not None}
    if design.target not in known:
        return []
    own, told = known[design.target], []
    parts = {name: one.part for name, one in design.evaluations.items()}
    units = {name: one.measure.unit for name, one in design.evaluations.items()}
    for name, e in known.items():
        if parts[name] == "query" and e.low > 0 >= own.low:
            told.append(
                f"It beats {words(design.against)} on its own query rows ({name}: {shown(e)}) and "
                f"not on the test rows of {design.target}: it fits what it was shown."
            )
        if parts[name] == "elsewhere" and e.high < 0:
            told.append(f"It costs on {name}: {shown(e)}.")
        if parts[name] == "target" and units[name] != units[design.target] and _apart(own, e):
            told.append(
                f"Its measures disagree: {shown(own)} in {units[design.target]} on "
                f"{design.target}, {shown(e)} in {units[name]} on {name}."
            )
    return told


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


def _mean(items: pl.DataFrame) -> float:
    weight = items["weight"]
    return float((items["value"] * weight).sum() / weight.sum())


def _apart(one: Effect, other: Effect) -> bool:
    """Whether two effects point in different directions, and one of them surely."""
    sure = any(e.low > 0 or e.high < 0 for e in (one, other))
    return sure and one.value * other.value < 0


def _listed(controls: list[str]) -> str:
    told = [words(c) for c in controls]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
