"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

STORE = "data/work"

DataOption = Annotated[list[str], typer.Option("--data", help="file or folder; may be repeated")]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="of --data folders with splits; default: train, or the only one"),
]
ReferenceOption = Annotated[list[str] | None, typer.Option("--reference", help="target rows")]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="REF binds the role target; role=REF another; may be repeated"),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, a setting; may be repeated")
]
DropsOption = Annotated[
    Path | None,
    typer.Option("--drops", help="table of `gristmill clean`, or a ledger: rows to leave out"),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="10% (of the rows that are neither set aside, dropped nor copies, scored or not), 500 "
        "(rows) or 20000tok (tokens)",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON in the place of a table")]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="a try: only the first rows of every source"),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store", help="folder of the store, or s3://bucket/prefix", envvar="GRISTMILL_STORE"
    ),
]
NetworkOption = Annotated[bool, typer.Option("--allow-network", help="let the hub be asked")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16")]
LengthOption = Annotated[int, typer.Option("--max-length", help="longest sequence in tokens")]
BadOption = Annotated[float, typer.Option("--max-bad-share", help="share of bad rows that fails")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="published dataset")]
