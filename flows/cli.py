"""The command line: the verbs of `gristmill.pipeline`, one command each.

Heavy imports stay inside the commands, so that `--help` answers at once.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

HELP = """Curate and select training data for LLM post-training, and prove that it paid.

\b
Start here:   gristmill demo              a complete run on the data in data/demo
Your data:    gristmill init              writes curate.yaml, with comments
              gristmill validate curate.yaml
              gristmill plan curate.yaml  rows, tokens, passes, memory, disk
              gristmill run curate curate.yaml
One method:   gristmill methods           which there are, and what they need
              gristmill score --method rds_plus --data pool.jsonl --reference target.jsonl \\
                  --model org/name --out scores.parquet
              gristmill select --scores scores.parquet --budget 10% --out ledger.parquet
Afterwards:   gristmill why ID            why a row is in, or out
              gristmill verify DIR        nothing was changed since it was published

Model references: a folder, file.gguf, pypi:<package>/<file>, org/name (hub), or tiny (for tests).
"""
app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DataOption = Annotated[list[str], typer.Option("--data", help="file or folder; may be repeated")]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="REF binds the role target; role=REF another; may be repeated"),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, a setting; may be repeated")
]
StoreOption = Annotated[
    str, typer.Option("--store", help="folder of the store", envvar="GRISTMILL_STORE")
]
NetworkOption = Annotated[bool, typer.Option("--allow-network", help="let the hub be asked")]
STORE = "data/work"


def main() -> None:
    """Entry point: one sentence for a user's mistake, or a stop; never a traceback."""
    prepare_environment()
    code, sentence = 0, ""
    with _stops() as stops:
        try:
            code, sentence = _answer()
        except BaseException:
            if not stops:
                raise
    if stops:  # whatever became of it on its way through the libraries
        code, name = 128 + stops[0], signal.Signals(stops[0]).name
        sentence = (
            f"stopped by {name}; every finished part is kept in the store: run the same command "
            "again to go on from there."
        )
    if sentence:
        _fail(sentence, code)
    sys.exit(code)


def _answer() -> tuple[int, str]:
    """Run the command; its exit code, and the sentence of a failure."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        return 130, ""
    except Exception as error:
        if os.environ.get("GRISTMILL_DEBUG"):
            raise
        if type(error).__module__.startswith(("click", "typer")):
            return 2, f"{vars(error).get('message') or error}"
        from gristmill.pipeline.records.disk import full_disk, sentence

        if full_disk(error):
            return 2, sentence(error)
        if isinstance(error, (ValueError, OSError)):
            return 2, " ".join(str(error).split())
        where = "(GRISTMILL_DEBUG=1 shows where)."
        return 1, f"unexpected {type(error).__name__}: {' '.join(str(error).split())} {where}"
    return (code if isinstance(code, int) else 0), ""


@contextlib.contextmanager
def _stops() -> Iterator[list[int]]:
    """Note Ctrl-C and SIGTERM, and raise; a signal that the caller had us ignore stays ignored."""
    noted: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: h for n in numbers if (h := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepare_environment() -> None:
    """Offline unless asked, quiet libraries; before any heavy import."""
    if "--allow-network" not in sys.argv:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries; progress is told by `console`
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")


@app.command()
def demo(
    where: Annotated[str, typer.Option(help="folder of published datasets")] = "data/curated",
    store: StoreOption = STORE,
) -> None:
    """Run the main job on the real data in data/demo, with a real small model."""
    config = Path(__file__).parents[1] / "data" / "demo" / "curate.yaml"
    if not config.is_file():
        raise ValueError(
            "the demo needs a clone of the repository: data/demo/curate.yaml is not here."
        )
    print(
        "demo: curates the mixed pool in data/demo for grade-school maths with SmolLM2-135M, "
        "offline; about three minutes on two cores, and half a minute once that is done.",
        flush=True,
    )
    _curate(config, {"store": store, "export": {"root": where}})


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="file to write")] = Path("curate.yaml"),
) -> None:
    """Write a commented configuration to start from."""
    from gristmill.flows.template import CURATE

    if path.exists():
        raise ValueError(f"{path} is there already: give another name.")
    path.write_text(CURATE, "utf-8")
    print(f"wrote {path}; edit it, then: gristmill validate {path}")


@app.command()
def validate(config: Annotated[Path, typer.Argument(help="YAML file")]) -> None:
    """Check a configuration, its methods, roles, models and files; run nothing."""
    from gristmill.flows import commands, console
    from gristmill.flows.config import read

    settings = read(config)
    console.table(commands.validate(settings), title=f"{config}: valid")


@app.command()
def ingest(
    data: DataOption,
    store: StoreOption = STORE,
    kind: Annotated[str | None, typer.Option(help="example, pair or document")] = None,
    max_bad_share: Annotated[float, typer.Option(help="share of bad rows that fails")] = 0.05,
    allow_network: NetworkOption = False,
) -> None:
    """Read raw files into records; set bad rows aside with their reasons."""
    from gristmill.flows import commands, console

    dataset = commands.ingest_paths(
        data, store, kind=kind, max_bad_share=max_bad_share, allow_network=allow_network
    )
    console.sources(dataset)
    print(dataset.entry.path)


@app.command()
def observe(
    method: Annotated[list[str], typer.Option("--method", help="whose signals; may be repeated")],
    data: DataOption,
    reference: Annotated[list[str] | None, typer.Option("--reference", help="target rows")] = None,
    model: ModelOption = None,
    store: StoreOption = STORE,
    device: str = "auto",
    dtype: str = "auto",
    max_length: int = 2_048,
    allow_network: NetworkOption = False,
) -> None:
    """Make the passes that methods need, and nothing else: the step for the accelerator."""
    from gristmill.flows import commands, console

    with console.progress() as progress:
        rows = commands.observe_paths(
            method,
            data,
            reference or [],
            model or [],
            store,
            passes={"device": device, "dtype": dtype, "max_length": max_length},
            allow_network=allow_network,
            progress=progress,
        )
    print(f"{rows:,} records observed in {store}")


@app.command()
def score(
    method: Annotated[str, typer.Option("--method", help="id: see `gristmill methods`")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write")],
    reference: Annotated[list[str] | None, typer.Option("--reference", help="target rows")] = None,
    model: ModelOption = None,
    set_: SetOption = None,
    store: StoreOption = STORE,
    device: str = "auto",
    dtype: str = "auto",
    max_length: Annotated[int, typer.Option(help="longest sequence in tokens")] = 2_048,
    overlong: Annotated[str, typer.Option(help="cut or skip longer rows")] = "cut",
    batch_tokens: Annotated[int, typer.Option(help="rows x longest row of a batch")] = 4_096,
    max_bad_share: Annotated[float, typer.Option(help="share of bad rows that fails")] = 0.05,
    details: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file for what the method can tell beside scores: the ranked answer sets "
            "of grace, the provenance of each sentence by teacher_divergence"
        ),
    ] = None,
    allow_network: NetworkOption = False,
) -> None:
    """Score data by one method; one line per input row."""
    from gristmill.flows import commands, console

    with console.progress() as progress:
        table, told = commands.score_paths(
            method,
            commands.pairs(set_ or []),
            data,
            reference or [],
            model or [],
            store,
            passes={
                "device": device,
                "dtype": dtype,
                "max_length": max_length,
                "overlong": overlong,
                "batch_tokens": batch_tokens,
            },
            max_bad_share=max_bad_share,
            allow_network=allow_network,
            with_details=details is not None,
            progress=progress,
        )
    commands.write(table, out)
    console.scores(table, method)
    print(out)
    if details is not None and told is not None:
        commands.write(told, details)
        console.table(told.head(20).to_dicts(), title=f"{method}: {told.height:,} lines of details")
        print(details)


@app.command("check-scores")
def check_scores(
    method: Annotated[str, typer.Option("--method", help="id: see `gristmill methods`")],
    data: DataOption,
    reference: Annotated[list[str] | None, typer.Option("--reference", help="target rows")] = None,
    model: ModelOption = None,
    set_: SetOption = None,
    store: StoreOption = STORE,
    leave_one_out: Annotated[
        int, typer.Option(help="rows to leave out, one small training each")
    ] = 0,
    device: str = "auto",
    dtype: str = "auto",
    max_length: Annotated[int, typer.Option(help="longest sequence in tokens")] = 2_048,
    allow_network: NetworkOption = False,
) -> None:
    """Can a method's scores be trusted here? Length, batches, projection seeds, leave-one-out."""
    from gristmill.flows import commands, console

    with console.progress() as progress:
        found = commands.check_paths(
            method,
            commands.pairs(set_ or []),
            data,
            reference or [],
            model or [],
            store,
            passes={"device": device, "dtype": dtype, "max_length": max_length},
            leave_one_out=leave_one_out,
            allow_network=allow_network,
            progress=progress,
        )
    console.table(found, title=f"{method}: self-checks")


@app.command()
def select(
    scores: Annotated[Path, typer.Option("--scores", help="table of `gristmill score`")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write: the ledger")],
    budget: Annotated[str | None, typer.Option("--budget", help="10%, 500 or 20000tok")] = None,
    rule: Annotated[str, typer.Option("--rule", help="top, threshold, stratified, ...")] = "top",
    data: Annotated[list[str] | None, typer.Option("--data", help="the scored data")] = None,
    set_: SetOption = None,
    store: StoreOption = STORE,
) -> None:
    """Decide which rows to keep; one line with verdict and reason per input row.

    With --data, rows that are equal after normalisation count as copies, and rules may use the
    columns of the records.
    """
    from gristmill.flows import commands, console

    ledger = commands.select_paths(
        scores, rule, commands.pairs(set_ or []), budget, data or [], store
    )
    commands.write(ledger, out)
    console.verdicts(ledger)
    print(out)


@app.command()
def export(
    ledger: Annotated[Path, typer.Option("--ledger", help="table of `gristmill select`")],
    data: DataOption,
    name: Annotated[str, typer.Option("--name", help="name of the dataset")],
    out: Annotated[Path, typer.Option("--out", help="folder of datasets")] = Path("data/curated"),
    model: ModelOption = None,
    store: StoreOption = STORE,
    validation_fraction: Annotated[float, typer.Option(help="share held out")] = 0.0,
) -> None:
    """Publish the kept rows as an immutable dataset that loads in every trainer."""
    from gristmill.flows import commands

    print(commands.export_paths(ledger, data, name, out, model or [], store, validation_fraction))


@app.command()
def run(
    flow: Annotated[str, typer.Argument(help="curate or synthesize")],
    config: Annotated[Path, typer.Argument(help="YAML file")],
    verify: Annotated[bool, typer.Option("--verify", help="rehash what the store serves")] = False,
) -> None:
    """Run a whole flow under Prefect: PREFECT_API_URL, `make serve`, or a server of its own."""
    flows = {"curate": lambda: _curate(config, {}), "synthesize": lambda: _synthesize(config)}
    if verify:
        os.environ["GRISTMILL_VERIFY"] = "1"
    if flow not in flows:
        raise ValueError(f"there is no flow {flow!r}; there are: {', '.join(flows)}.")
    flows[flow]()


@app.command()
def plan(config: Annotated[Path, typer.Argument(help="YAML file")]) -> None:
    """Say what a run will take, before it is run: rows, tokens, passes, memory, disk."""
    from gristmill.flows import commands, console
    from gristmill.flows.config import read

    console.table(commands.plan_rows(read(config)), title=f"{config}: plan")


@app.command()
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON array")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="the README's table")] = False,
) -> None:
    """List every scoring method: what you have -> which method."""
    import json

    from gristmill.flows import console
    from gristmill.selectors import catalog

    if as_json:
        print(json.dumps(catalog.describe(), indent=1))
    elif markdown:
        print(catalog.markdown(), end="")
    else:
        columns = ("name", "purpose", "reference", "roles", "cost", "paper")
        rows = [{c: _text(r[c]) for c in columns} for r in catalog.describe()]
        console.table(rows, title=f"{len(rows)} methods")


@app.command()
def why(
    ident: Annotated[
        str, typer.Argument(metavar="ID", help="id, its first characters, or your own id")
    ],
    where: Annotated[
        Path, typer.Option("--in", help="dataset, ledger file or folder of datasets")
    ] = Path("data/curated"),
) -> None:
    """Say why a row is in a published dataset, or out of it."""
    from gristmill.flows import commands, console

    for row in commands.why(ident, where):
        console.record(row)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="published dataset")],
) -> None:
    """Check a published dataset against its checksums, manifest and card."""
    from gristmill.pipeline.export.verify import verify as check

    problems = check(folder)
    for problem in problems:
        print(problem)
    if problems:
        _fail(f"{folder}: {len(problems)} problem{'s' * (len(problems) > 1)}.", 1)
    print(f"{folder}: every file is as published.")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="published dataset")],
    repo: Annotated[str, typer.Argument(help="org/name of a dataset repository")],
    tag: Annotated[str | None, typer.Option(help="default: the version's name")] = None,
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
) -> None:
    """Upload a published dataset to the hub, with a tag; the token comes from the environment."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    from gristmill.pipeline.export.push import push as upload

    print(f"{repo}@{upload(folder, repo, tag=tag, private=not public)}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="published dataset")],
) -> None:
    """Sum up a published dataset and say where its report is."""
    from gristmill.flows import commands, console

    for row in commands.summary(folder):
        console.record(row)
    print(folder / "report.html")


def _curate(config: Path, overrides: dict[str, Any]) -> None:
    from gristmill.flows import commands, connection, console
    from gristmill.flows.config import read

    settings = read(config, overrides)
    commands.validate(settings)  # a mistake is told before a server starts
    connection.connect(settings.store)
    from gristmill.flows.curate import curate

    console.publishing(lambda: curate(settings), Path(settings.export.root, settings.name))


def _synthesize(config: Path) -> None:
    from gristmill.flows import connection, console
    from gristmill.flows.synthesis_config import read

    settings = read(config)
    connection.connect(settings.store)
    from gristmill.flows.synthesize import synthesize

    with console.listening():
        made = Path(synthesize(settings))
    if settings.curate is None:
        from gristmill.flows.synthesis_steps import announcement

        print(announcement(settings.name, made))
    else:
        console.published(made)


def _text(value: Any) -> str:  # noqa: ANN401
    return ", ".join(value) if isinstance(value, list) else str(value)


def _fail(sentence: str, code: int) -> None:
    print(f"gristmill: {sentence}", file=sys.stderr)
    sys.exit(code)
