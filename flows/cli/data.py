"""Commands on data: raw files in, and what becomes of a published dataset."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import (
    STORE,
    BadOption,
    DataOption,
    DeviceOption,
    FolderArgument,
    JsonOption,
    LimitOption,
    ModelOption,
    NetworkOption,
    ReferenceOption,
    SplitOption,
    StoreOption,
)


def ingest(
    data: DataOption,
    split: SplitOption = None,
    store: StoreOption = STORE,
    kind: Annotated[str | None, typer.Option(help="example, pair or document")] = None,
    max_bad_share: BadOption = 0.05,
    limit: LimitOption = None,
    as_json: JsonOption = False,
    allow_network: NetworkOption = False,
) -> None:
    """Read raw files into records; set bad rows aside with their reasons."""
    from gristmill.flows import commands, console, progress

    with progress.progress() as tell:
        dataset = commands.ingest_paths(
            data,
            store,
            split=split,
            kind=kind,
            max_bad_share=max_bad_share,
            allow_network=allow_network,
            limit=limit,
            progress=tell,
        )
    console.sources(dataset, as_json=as_json)


def clean(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write: the drops")],
    split: SplitOption = None,
    reference: ReferenceOption = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file: the settings under `clean:` of a run"),
    ] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option("--filter", help="NAME or NAME:key=value,key=value; may be repeated"),
    ] = None,
    near: Annotated[
        float | None, typer.Option(help="drop near duplicates from this Jaccard index on")
    ] = None,
    semantic: Annotated[
        float | None, typer.Option(help="drop semantic duplicates from cosine 1 - this on")
    ] = None,
    decontaminate: Annotated[
        str | None, typer.Option(help="folder of evaluation sets that no row may repeat")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="REF of the sentence embedder")
    ] = None,
    store: StoreOption = STORE,
    device: DeviceOption = "auto",
    max_bad_share: BadOption = 0.05,
    limit: LimitOption = None,
    as_json: JsonOption = False,
    allow_network: NetworkOption = False,
) -> None:
    """Say which rows should reach no model: copies, evaluation items, what filters refuse.

    Exact copies, pairs in both directions and reference rows always go. Hand the table to observe,
    score, check-scores and select as --drops.
    """
    from gristmill.flows import cleaning, commands, console, progress

    settings = cleaning.asked(config, filter_ or [], near, semantic, decontaminate)
    with progress.progress() as tell:
        rows, reasons = commands.clean_paths(
            settings,
            commands.Inputs(
                data=data,
                split=split,
                store=store,
                reference=reference or [],
                models=model or [],
                passes={"device": device},
                max_bad_share=max_bad_share,
                allow_network=allow_network,
                progress=tell,
                limit=limit,
            ),
            out,
        )
    console.drops(rows, reasons, out, as_json=as_json)


def phrases(
    data: DataOption,
    against: Annotated[
        list[str], typer.Option("--against", help="file or folder that people wrote; repeatable")
    ],
    split: SplitOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Parquet file to write: all over-used phrases")
    ] = None,
    part: Annotated[str, typer.Option(help="answer, prompt, dialogue or all")] = "answer",
    longest: Annotated[int, typer.Option(help="words of the longest phrase")] = 3,
    least_rows: Annotated[int, typer.Option(help="rows that say it, at least")] = 5,
    least_ratio: Annotated[float, typer.Option(help="times as often as the other says it")] = 5.0,
    store: StoreOption = STORE,
    max_bad_share: BadOption = 0.05,
    limit: LimitOption = None,
    as_json: JsonOption = False,
    allow_network: NetworkOption = False,
) -> None:
    """Say which phrases the rows over-use, against a corpus that says them as often as it should.

    The filter `phrases` drops rows that say them; a prefer run makes final-token pairs of them.
    """
    from gristmill.flows import commands, console, progress

    with progress.progress() as tell:
        found = commands.phrases_of(
            commands.Inputs(
                data=data,
                split=split,
                store=store,
                reference=against,
                max_bad_share=max_bad_share,
                allow_network=allow_network,
                progress=tell,
                limit=limit,
            ),
            {"longest": longest, "least_rows": least_rows, "least_ratio": least_ratio},
            part,
            out,
        )
    console.rows(found, title="over-used phrases", as_json=as_json)
    if not found and not as_json:
        print("no phrase is over-used.")


def export(
    ledger: Annotated[Path, typer.Option("--ledger", help="table of `gristmill select`")],
    data: DataOption,
    name: Annotated[str, typer.Option("--name", help="name of the dataset")],
    split: SplitOption = None,
    out: Annotated[Path, typer.Option("--out", help="folder of datasets")] = Path("data/curated"),
    model: ModelOption = None,
    store: StoreOption = STORE,
    validation_fraction: Annotated[float, typer.Option(help="share held out")] = 0.0,
    limit: LimitOption = None,
) -> None:
    """Publish the kept rows as an immutable dataset that loads in every trainer."""
    from gristmill.flows import commands, console
    from gristmill.flows.publishing import shortfalls

    inputs = commands.Inputs(
        data=data, split=split, store=store, models=model or [], max_bad_share=1.0, limit=limit
    )
    folder = commands.export_paths(ledger, inputs, name, out, validation_fraction)
    print(folder)
    console.short(shortfalls(folder))


def verify(folder: FolderArgument) -> None:
    """Check a published dataset against its checksums, manifest and card."""
    from gristmill.pipeline.export.verify import verify as check
    from gristmill.pipeline.export.versions import newest

    if folder.is_dir() and (found := newest(folder)) is not None:
        folder = found
    problems = check(folder)
    for problem in problems:
        print(problem)
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        print(f"gristmill: {folder}: {count}.", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{folder}: every file is as published.")


def push(
    folder: FolderArgument,
    repo: Annotated[str, typer.Argument(help="org/name of a dataset repository")],
    tag: Annotated[str | None, typer.Option(help="default: the version's name")] = None,
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
) -> None:
    """Upload a published dataset to the hub, with a tag; the token comes from the environment."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    from gristmill.pipeline.export.push import push as upload

    print(f"{repo}@{upload(folder, repo, tag=tag, private=not public)}")


def why(
    ident: Annotated[
        str, typer.Argument(metavar="ID", help="id, its first characters, or your own id")
    ],
    where: Annotated[
        Path, typer.Option("--in", help="dataset, ledger file or folder of datasets")
    ] = Path("data/curated"),
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Say why a row is in a published dataset, or out of it, and show what it says.

    The text of a row that was left out comes from the store that read it.
    """
    from gristmill.flows import console
    from gristmill.pipeline.export.why import stories
    from gristmill.pipeline.records.place import folder_of

    console.stories(stories(ident, where, folder_of(store)), as_json=as_json)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="version, dataset (its newest), or folder of one")
    ] = Path("data/curated"),
    as_json: JsonOption = False,
) -> None:
    """Sum up a published dataset and say where its report is."""
    from gristmill.flows import console
    from gristmill.pipeline.export import ledgers
    from gristmill.pipeline.export.versions import published

    version = published(folder)
    found = ledgers.summary(version)
    page = version / "report.html"
    if as_json:
        console.rows([*found, {"report": str(page)}], title="", as_json=True)
        return
    for row in found:
        console.record(row)
    print(page)


def diff(
    old: Annotated[Path, typer.Argument(metavar="A", help="version, or dataset (its newest)")],
    new: Annotated[Path, typer.Argument(metavar="B", help="version, or dataset (its newest)")],
    page: Annotated[
        Path | None, typer.Option("--page", help="write it as an HTML page as well")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what changed between two published versions: rows, mixture, scores, sources, and why."""
    from gristmill.flows import console
    from gristmill.pipeline.export.diff import between
    from gristmill.pipeline.export.versions import published

    before, after = published(old), published(new)
    found = between(before, after)
    if page is not None:
        from gristmill.pipeline.export import diff_page

        page.write_bytes(diff_page.page(after.parent.name, found))
    console.changes(found, as_json=as_json)
