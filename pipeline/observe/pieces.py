"""Pieces: rows of a shard in runs of about equal work, each kept once it is done.

A shard is a number of rows, but a kill costs time. So the unit of progress is an amount of work:
about half a minute of it, whatever the model and the signals. Pieces follow from the rows alone,
one after the other, so that a run that was cut off goes on with the pieces of one that was not.
"""

from collections.abc import Sequence

from gristmill.pipeline.contracts import ModelSignal, Signal

# Floating-point operations of a piece, by the kind of device.
WORK = {"cpu": 4e12}
ACCELERATED = 2e15
BATCHES = 2  # the least of a piece: rows of a batch are alike in length


def pieces(costs: Sequence[float], most: float) -> list[tuple[int, int]]:
    """Begin and end of each piece: as many rows as cost no more than `most`, at least one."""
    found: list[tuple[int, int]] = []
    begin, held = 0, 0.0
    for at, cost in enumerate(costs):
        if at > begin and held + cost > most:
            found.append((begin, at))
            begin, held = at, 0.0
        held += cost
    return [*found, (begin, len(costs))] if costs else []


def most_of(parameters: int, device: str, batch_tokens: int) -> float:
    """The tokens of a piece, in forward-equivalents.

    Args:
        parameters: of the model.
        device: where it runs.
        batch_tokens: of one batch.
    """
    work = WORK.get(device.split(":")[0], ACCELERATED)
    return max(BATCHES * batch_tokens, work / (2 * max(1, parameters)))


def cost_of(signals: Sequence[Signal], tokens: int) -> float:
    """What a row costs under one view, in forward-equivalents: a pass is shared by its signals."""
    shared = [s.cost(tokens) for s in signals if not isinstance(s, ModelSignal)]
    own = sum(s.cost(tokens) for s in signals if isinstance(s, ModelSignal))
    return tokens * (max(shared, default=0.0) + own)
