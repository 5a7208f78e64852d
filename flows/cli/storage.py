"""Commands on what lies on the disk: the store, and published datasets."""

from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import STORE, JsonOption, StoreOption


def ls(
    root: Annotated[
        Path, typer.Argument(metavar="DIR", help="folder of published datasets")
    ] = Path("data/curated"),
    as_json: JsonOption = False,
) -> None:
    """List published datasets: versions, rows, bytes, gates, and which one `latest` names."""
    from gristmill.flows import console
    from gristmill.pipeline.export.listing import listed

    console.rows(listed(root), title=str(root), as_json=as_json)


def gc(
    unused_for: Annotated[
        float, typer.Option("--unused-for", help="days in which no run made or found it")
    ] = 30.0,
    keep: Annotated[
        list[Path] | None,
        typer.Option("--keep", help="folder of published datasets; default: data/curated"),
    ] = None,
    remove: Annotated[bool, typer.Option("--yes", help="remove, not only say what")] = False,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Say what a store holds by step, and remove what nothing published needs and no run has used.

    Records that published versions were made from stay, as do the models trained on them and paid
    completions. The rest is made again by the runs that made it. Without --yes nothing is removed.
    """
    from gristmill.flows import console
    from gristmill.pipeline.export import retention
    from gristmill.pipeline.records.store import Store

    kept = keep if keep is not None else [p for p in [Path("data/curated")] if p.is_dir()]
    found = retention.holdings(Store(root=Path(store)), kept)
    chosen = retention.idle(found, unused_for)
    gone = retention.collect(chosen) if remove else []
    lines = retention.by_step(found)
    console.rows(lines, title=f"{store}: {sum(h.bytes for h in found):,} bytes", as_json=as_json)
    if as_json:
        return
    if not kept:
        print("no published dataset is kept: name the folders of those that there are (--keep).")
    told = gone if remove else chosen
    what = "removed" if remove else "would be removed with --yes"
    print(f"{len(told):,} of {len(found):,}, {sum(h.bytes for h in told):,} bytes, {what}")
    if len(gone) < len(chosen) and remove:
        print(f"{len(chosen) - len(gone):,} stay: runs are using them.")
