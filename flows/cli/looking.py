"""Commands that open a page in a browser, for people to look at rows and to judge them."""

from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import STORE, StoreOption

PortOption = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65_535, help="of this machine; default: 8421, or a free one"),
]


def explore(
    where: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="version, dataset (its newest), a run's YAML file, or a ledger's Parquet file",
        ),
    ] = Path("data/curated"),
    against: Annotated[
        Path | None, typer.Option("--against", help="another version or ledger, shown beside it")
    ] = None,
    row: Annotated[str | None, typer.Option("--row", help="id of a row to begin with")] = None,
    store: StoreOption = STORE,
    port: PortOption = None,
) -> None:
    """Look at rows in a browser: search, filter, brush scores, select on a map, export ids.

    Only this machine is answered, and only who knows the address that is printed; nothing is sent
    anywhere. The text of rows that were left out comes from the store. Ctrl-C ends it.
    """
    from gristmill.flows import looking

    looking.explore(where, against=against, row=row, store=store, port=port)
