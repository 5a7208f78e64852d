"""Commands on one method: which there are, its passes, its scores, and what they keep."""

from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import (
    STORE,
    BadOption,
    BudgetOption,
    DataOption,
    DeviceOption,
    DropsOption,
    DtypeOption,
    JsonOption,
    LengthOption,
    LimitOption,
    ModelOption,
    NetworkOption,
    ReferenceOption,
    SetOption,
    SplitOption,
    StoreOption,
)

MethodOption = Annotated[str, typer.Option("--method", help="id: see `gristmill methods`")]


def observe(
    method: Annotated[list[str], typer.Option("--method", help="whose signals; may be repeated")],
    data: DataOption,
    split: SplitOption = None,
    reference: ReferenceOption = None,
    model: ModelOption = None,
    drops: DropsOption = None,
    store: StoreOption = STORE,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_length: LengthOption = 2_048,
    limit: LimitOption = None,
    allow_network: NetworkOption = False,
) -> None:
    """Make the passes that methods need, and nothing else: the step for the accelerator."""
    from gristmill.flows import commands, progress

    with progress.progress() as tell:
        inputs = commands.Inputs(
            data=data,
            split=split,
            store=store,
            reference=reference or [],
            models=model or [],
            drops=drops,
            passes={"device": device, "dtype": dtype, "max_length": max_length},
            allow_network=allow_network,
            progress=tell,
            limit=limit,
        )
        rows = commands.observe_paths(method, inputs)
    print(f"{rows:,} records observed in {store}")


def score(
    method: MethodOption,
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write")],
    split: SplitOption = None,
    reference: ReferenceOption = None,
    model: ModelOption = None,
    set_: SetOption = None,
    drops: DropsOption = None,
    budget: Annotated[
        str | None,
        typer.Option(help="how much a greedy method is to pick: 10%, 500 or 20000tok"),
    ] = None,
    store: StoreOption = STORE,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_length: LengthOption = 2_048,
    overlong: Annotated[str, typer.Option(help="cut or skip longer rows")] = "cut",
    batch_tokens: Annotated[int, typer.Option(help="rows x longest row of a batch")] = 4_096,
    max_bad_share: BadOption = 0.05,
    details: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file for what the method can tell beside scores: the ranked answer sets "
            "of grace, the provenance of each sentence by teacher_divergence"
        ),
    ] = None,
    limit: LimitOption = None,
    allow_network: NetworkOption = False,
) -> None:
    """Score data by one method; one line per input row, but for those that --drops names."""
    from gristmill.flows import commands, console, progress

    with progress.progress() as tell:
        inputs = commands.Inputs(
            data=data,
            split=split,
            store=store,
            reference=reference or [],
            models=model or [],
            drops=drops,
            passes={
                "device": device,
                "dtype": dtype,
                "max_length": max_length,
                "overlong": overlong,
                "batch_tokens": batch_tokens,
            },
            max_bad_share=max_bad_share,
            allow_network=allow_network,
            progress=tell,
            limit=limit,
        )
        settings = commands.pairs(set_ or [])
        found = commands.score_paths(
            method, settings, inputs, out, budget=budget, details_path=details
        )
    console.scores(found, method)
    print(out)
    if details is not None:
        console.table(found.details, title=f"{method}: {found.detailed:,} lines of details")
        print(details)


def check_scores(
    method: MethodOption,
    data: DataOption,
    split: SplitOption = None,
    reference: ReferenceOption = None,
    model: ModelOption = None,
    set_: SetOption = None,
    drops: DropsOption = None,
    store: StoreOption = STORE,
    leave_one_out: Annotated[
        int, typer.Option(help="rows to leave out, one small training each")
    ] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_length: LengthOption = 2_048,
    as_json: JsonOption = False,
    limit: LimitOption = None,
    allow_network: NetworkOption = False,
) -> None:
    """Can a method's scores be trusted here? Length, batches, projection seeds, leave-one-out."""
    from gristmill.flows import commands, console, progress

    with progress.progress() as tell:
        inputs = commands.Inputs(
            data=data,
            split=split,
            store=store,
            reference=reference or [],
            models=model or [],
            drops=drops,
            passes={"device": device, "dtype": dtype, "max_length": max_length},
            allow_network=allow_network,
            progress=tell,
            limit=limit,
        )
        settings = commands.pairs(set_ or [])
        found = commands.check_paths(method, settings, inputs, leave_one_out=leave_one_out)
    console.rows(found, title=f"{method}: self-checks", as_json=as_json)


def select(
    scores: Annotated[
        Path,
        typer.Option("--scores", help="table of `gristmill score`, or the folder of its parts"),
    ],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write: the ledger")],
    budget: BudgetOption = None,
    rule: Annotated[str, typer.Option("--rule", help="top, threshold, stratified, ...")] = "top",
    data: Annotated[list[str] | None, typer.Option("--data", help="the scored data")] = None,
    split: SplitOption = None,
    drops: DropsOption = None,
    set_: SetOption = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
    limit: LimitOption = None,
) -> None:
    """Decide which rows to keep; one line with verdict and reason per input row.

    With --data, rows that are equal after normalisation count as copies, and rules may use the
    columns of the records. What --drops names is in the ledger with its reason. Without it, a table
    of more than 1,048,576 rows is not read into memory: the ledger is made in parts in the store.
    """
    from gristmill.flows import commands, console

    settings = commands.pairs(set_ or [])
    found = commands.select_paths(
        scores,
        rule,
        settings,
        budget,
        data or [],
        store,
        out,
        split=split,
        drops=drops,
        limit=limit,
    )
    console.verdicts(found, out, as_json=as_json)
