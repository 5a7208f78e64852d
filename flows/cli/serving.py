"""The command that makes a Prefect server ready for our flows."""

import asyncio
from typing import Annotated

import typer


def bootstrap(
    runs: Annotated[
        int | None,
        typer.Option(min=1, help="runs at once in the work pool; default: as it is, or 2"),
    ] = None,
    alert: Annotated[
        str | None,
        typer.Option(help="notification block to tell of runs that failed: slack-webhook/team"),
    ] = None,
) -> None:
    """Make work pool, deployments and automations on a Prefect server; from a clone, at any time.

    The server is that of PREFECT_API_URL, or else the one of `make serve`, which does it by itself.
    """
    from gristmill.flows import connection

    connection.reach()
    from gristmill.flows.bootstrap import bootstrap as made

    for line in asyncio.run(made(runs=runs, alert=alert)):
        print(line)
