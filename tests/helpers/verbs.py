"""The verbs of a curation as they begin, told through a file: when to kill the process of a run."""

import time
from collections.abc import Iterator
from functools import wraps
from itertools import pairwise
from pathlib import Path

VERBS = ("ingest", "clean", "prepare", "observe", "score", "select", "publish")


def tell(told: Path) -> None:
    """From here on, this process adds a line to a file whenever a verb begins."""
    from gristmill.flows import publishing, steps

    def telling(owner: object, verb: str) -> None:
        plain = getattr(owner, verb)

        @wraps(plain)
        def wrapped(*given, **named):
            with told.open("a") as file:
                file.write(f"{verb} {time.monotonic()}\n")
            return plain(*given, **named)

        setattr(owner, verb, wrapped)

    for verb in VERBS[:-1]:
        telling(steps.Curation, verb)
    telling(publishing, VERBS[-1])


def begun(told: Path) -> Iterator[tuple[str, float]]:
    """The verbs that have begun, in order, and when; a line that is being written is left out."""
    text = told.read_text() if told.exists() else ""
    for line in text.split("\n")[:-1]:
        verb, when = line.split()
        yield verb, float(when)


def spans(told: Path, ended: float) -> dict[str, float]:
    """Seconds from the first beginning of each verb to that of the next one."""
    first: dict[str, float] = {}
    for verb, when in begun(told):
        first.setdefault(verb, when)
    edges = [*first.items(), ("", ended)]
    return {verb: after - before for (verb, before), (_, after) in pairwise(edges)}
