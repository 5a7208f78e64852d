"""Commands on one method: which there are, its passes, its scores, and what they keep."""

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gristmill.flows.cli.options import (
    STORE,
    BadOption,
    BudgetOption,
    DataOption,
    DeviceOption,
    DropsOption,
    DtypeOption,
    LengthOption,
    ModelOption,
    NetworkOption,
    ReferenceOption,
    SetOption,
    SplitOption,
    StoreOption,
)

MethodOption = Annotated[str, typer.Option("--method", help="id: see `gristmill methods`")]


def methods(
    name: Annotated[str | None, typer.Argument(help="id of one, to see its settings")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON array")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="the README's table")] = False,
) -> None:
    """List every scoring method: what you have -> which method; or one, with its settings."""
    from gristmill.flows import console
    from gristmill.selectors import catalog

    if name is not None:
        _method(name, as_json=as_json)
    elif as_json:
        print(json.dumps(catalog.describe(), indent=1))
    elif markdown:
        print(catalog.markdown(), end="")
    else:
        columns = ("name", "purpose", "reference", "roles", "cost", "paper")
        rows = [{c: _text(r[c]) for c in columns} for r in catalog.describe()]
        console.table(rows, title=f"{len(rows)} methods")


def _method(name: str, *, as_json: bool) -> None:
    """What the catalogue and the file of one method say of it."""
    from gristmill.flows import console
    from gristmill.pipeline.records.settings import settings_rows
    from gristmill.selectors import catalog

    cls = catalog.method(name)
    if as_json:
        print(json.dumps(catalog.described(name), indent=1))
        return
    print(f"{inspect.getdoc(cls)}\n")
    rows = [
        {"setting": s.name, "default": s.default, "what it is": s.told}
        for s in settings_rows(cls, catalog.fields_of(cls))
    ]
    if rows:
        console.table(rows, title=f"settings of {name}: --set name=value")
    else:
        print(f"{name} has no settings.")


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
    allow_network: NetworkOption = False,
) -> None:
    """Make the passes that methods need, and nothing else: the step for the accelerator."""
    from gristmill.flows import commands, console

    with console.progress() as progress:
        inputs = commands.Inputs(
            data=data,
            split=split,
            store=store,
            reference=reference or [],
            models=model or [],
            drops=drops,
            passes={"device": device, "dtype": dtype, "max_length": max_length},
            allow_network=allow_network,
            progress=progress,
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
    allow_network: NetworkOption = False,
) -> None:
    """Score data by one method; one line per input row, but for those that --drops names."""
    from gristmill.flows import commands, console

    with console.progress() as progress:
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
            progress=progress,
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
    allow_network: NetworkOption = False,
) -> None:
    """Can a method's scores be trusted here? Length, batches, projection seeds, leave-one-out."""
    from gristmill.flows import commands, console

    with console.progress() as progress:
        inputs = commands.Inputs(
            data=data,
            split=split,
            store=store,
            reference=reference or [],
            models=model or [],
            drops=drops,
            passes={"device": device, "dtype": dtype, "max_length": max_length},
            allow_network=allow_network,
            progress=progress,
        )
        settings = commands.pairs(set_ or [])
        found = commands.check_paths(method, settings, inputs, leave_one_out=leave_one_out)
    console.table(found, title=f"{method}: self-checks")


def select(
    scores: Annotated[Path, typer.Option("--scores", help="table of `gristmill score`")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write: the ledger")],
    budget: BudgetOption = None,
    rule: Annotated[str, typer.Option("--rule", help="top, threshold, stratified, ...")] = "top",
    data: Annotated[list[str] | None, typer.Option("--data", help="the scored data")] = None,
    split: SplitOption = None,
    drops: DropsOption = None,
    set_: SetOption = None,
    store: StoreOption = STORE,
) -> None:
    """Decide which rows to keep; one line with verdict and reason per input row.

    With --data, rows that are equal after normalisation count as copies, and rules may use the
    columns of the records. What --drops names is in the ledger with its reason.
    """
    from gristmill.flows import commands, console

    settings = commands.pairs(set_ or [])
    found = commands.select_paths(
        scores, rule, settings, budget, data or [], store, out, split=split, drops=drops
    )
    console.verdicts(found)
    print(out)


def _text(value: Any) -> str:  # noqa: ANN401
    return ", ".join(value) if isinstance(value, list) else str(value)
