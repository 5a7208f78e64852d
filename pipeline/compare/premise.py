"""The premise: what a comparison held fixed, what its intervals count, and what it could see."""

from pathlib import PurePath

from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.standings import budgets, methods, targets
from gristmill.pipeline.compare.words import Quote, listed, words


def premise(board: Leaderboard, *, quote: Quote = str) -> list[str]:
    """What must be known before a figure is read, a sentence each; `quote` writes names."""
    design, training = board.design, board.design.recipe.training
    found = board.outcomes[design.target]
    at = budgets(board)
    names = dict.fromkeys(name for b in at for name, o in found[b].items() if not o.arm.control)
    control = next(iter(found.values()))[design.against]
    asked = [f"{quote(n)} ({_rows(board, n):,} rows, {_unit(board, n)})" for n in board.outcomes]
    drawn = len(control.arm.draws)
    several = f"{'a budget' if len(at) == 1 else 'budgets'} of {listed(at)}"
    epochs = f"{training.epochs} {'epoch' if training.epochs == 1 else 'epochs'}"
    return [
        f"{len(names):,} {'method' if len(names) == 1 else 'methods'} and their controls at "
        f"{several}: {len(board.cells):,} models, each {quote(_base(board))} after {epochs} at "
        f"batch size {training.batch_size}, under {len(set(design.seeds))} training seeds; "
        f"{words(design.against)} has {drawn} draws.",
        f"They were asked {listed(asked)}.",
        f"An effect is a difference to {words(design.against)} at the same budget, above zero is "
        f"better; its {design.level:.0%} interval counts items, training seeds and draws of the "
        "selection, and Holm's adjustment is over the methods.",
        *_detectable(board, quote),
    ]


def _detectable(board: Leaderboard, quote: Quote) -> list[str]:
    """The smallest effects that could be found, by target; nothing where no method was compared."""
    against, told = board.design.against, []
    for target in targets(board):
        found = [
            o.against[against].detectable for b in budgets(board) for o in methods(board, target, b)
        ]
        if found:
            low, high = f"{min(found):.4f}", f"{max(found):.4f}"
            told.append(f"{low if low == high else f'{low} to {high}'} on {quote(target)}")
    if not told:
        return []
    return [f"The smallest effect that is found four times in five: {listed(told)}."]


def _base(board: Leaderboard) -> str:
    """The base model; of a path its last part, which says the same on any machine."""
    path = PurePath(board.design.recipe.base)
    return path.name if path.is_absolute() else str(path)


def _rows(board: Leaderboard, evaluation: str) -> int:
    """How many rows every model could be asked."""
    found = next(iter(board.outcomes[evaluation].values()))
    return int(next(iter(found.values())).weight_N.size)


def _unit(board: Leaderboard, evaluation: str) -> str:
    return board.design.evaluations[evaluation].measure.unit
