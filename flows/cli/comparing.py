"""The command that compares: methods with random rows, or one comparison with another."""

from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import JsonOption


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="YAML of a comparison; or a finished one")
    ],
    second: Annotated[
        Path | None,
        typer.Argument(metavar="[B]", help="another finished comparison, or published version"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Do methods beat random rows? Or, of two comparisons or published versions: what moved?

    With one YAML (`gristmill init --compare` writes it): train and ask every arm. With two folders:
    what moved between them, with intervals.
    """
    if second is None:
        from gristmill.flows import files
        from gristmill.flows.cli.runs import run_settings

        run_settings(files.read_as(first, "compare"), str(first))
        return
    from gristmill.flows import console, moving

    console.moved(moving.between(first, second), as_json=as_json)
