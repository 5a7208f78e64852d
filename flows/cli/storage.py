"""Commands on what lies on the disk: the store, and published datasets."""

from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import STORE, FolderArgument, JsonOption, StoreOption


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
    from gristmill.pipeline.records.place import folder_of
    from gristmill.pipeline.records.store import Store

    kept = keep if keep is not None else [p for p in [Path("data/curated")] if p.is_dir()]
    root = Store(root=folder_of(store))
    found = retention.holdings(root, kept)
    held = [*found, *retention.beside(root, found)]
    chosen = retention.idle(found, unused_for)
    gone = retention.collect(chosen) if remove else []
    lines = retention.by_step(held)
    console.rows(lines, title=f"{store}: {sum(h.bytes for h in held):,} bytes", as_json=as_json)
    if as_json:
        return
    if not kept:
        print("no published dataset is kept: name the folders of those that there are (--keep).")
    told = gone if remove else chosen
    what = "removed" if remove else "would be removed with --yes"
    print(f"{len(told):,} of {len(found):,}, {sum(h.bytes for h in told):,} bytes, {what}")
    if len(gone) < len(chosen) and remove:
        print(f"{len(chosen) - len(gone):,} stay: runs are using them.")


def pack(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", help="the archive, e.g. demo-v2.tar")],
    alone: Annotated[bool, typer.Option("--alone", help="without the store's entries")] = False,
    store: StoreOption = STORE,
) -> None:
    """Write a published version and its lineage to one archive, which `gristmill unpack` reads.

    The lineage is the records that it was made from, dropped rows too, and the models trained on
    it, as far as the store has them. Equal versions give equal bytes.
    """
    from gristmill.pipeline.export import archive
    from gristmill.pipeline.export.versions import promoted
    from gristmill.pipeline.records.place import folder_of
    from gristmill.pipeline.records.store import Store

    root = None if alone or not folder_of(store).is_dir() else Store(root=folder_of(store))
    version = promoted(folder)
    entries = archive.pack(version, out, root)
    print(f"{out}: {version.parent.name} {version.name}, {entries:,} entries of the store")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="archive of `gristmill pack`")],
    into: Annotated[Path, typer.Option("--into", help="folder of datasets")] = Path("data/curated"),
    lineage: Annotated[
        bool, typer.Option("--lineage", help="also its entries into the store, if you trust them")
    ] = False,
    store: StoreOption = STORE,
) -> None:
    """Put an archived version beside the others of its dataset, once every file was verified.

    A run believes the entries of its store: take those of an archive (--lineage) only from whom you
    would take the data from.
    """
    from gristmill.flows.steps import open_store
    from gristmill.pipeline.export.unpack import unpack as unpacked

    found = unpacked(file, into, open_store(store) if lineage else None)
    print(f"{found.version}{' was there already' if found.there else ''}")
    if lineage:
        print(f"{found.taken:,} of its {found.entries:,} entries were new to {store}")
    elif found.entries:
        print(f"{found.entries:,} entries of its lineage stay in the archive (--lineage)")
