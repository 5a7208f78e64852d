"""One disk: what a worker on another machine wrote is there for the driver as well."""

from collections.abc import Iterable
from pathlib import Path

from gristmill.pipeline.engine.engine import Engine


def demand_seen(engine: Engine, paths: Iterable[Path]) -> None:
    """Refuse a store that workers have elsewhere than the driver.

    Raises:
        ValueError: what a worker wrote is not here.
    """
    if engine.here:
        return
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"a worker wrote {path}, and there is no such file here: expected a store that "
                "lies under one path on all nodes, e.g. on a network disk."
            )
