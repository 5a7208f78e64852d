"""Commands on what runs need: this machine, and the editor in which their files are written."""

import json
from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import STORE, JsonOption, StoreOption


def doctor(store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """Look at this machine: versions, devices, disk, models, Prefect, and what mends them.

    It exits with 1 where something stops runs.
    """
    from gristmill.flows import console
    from gristmill.flows.doctor import examined

    found = examined(store)
    console.rows([f.row() for f in found], title="doctor", as_json=as_json)
    if any(f.state == "broken" for f in found):
        raise typer.Exit(1)


def schema(
    kind: Annotated[str, typer.Argument(help="curate, clean, synthesize ...; or all, with --out")],
    out: Annotated[Path | None, typer.Option("--out", help="folder to write it to")] = None,
) -> None:
    """Print the JSON schema of a kind of run file, for editors and other programs.

    `gristmill init` writes it beside the run file, and points to it.
    """
    from gristmill.flows import editing

    if out is not None:
        for one in editing.KINDS if kind == "all" else [kind]:
            print(editing.write(one, out))
        return
    print(json.dumps(editing.schema(kind), indent=1, ensure_ascii=False))
