"""Commands on whole runs: a demo, a configuration, its check, its plan, and the run itself."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gristmill.flows.cli.options import STORE, StoreOption

ConfigArgument = Annotated[Path, typer.Argument(help="YAML file")]


def demo(
    where: Annotated[str, typer.Option(help="folder of published datasets")] = "data/curated",
    store: StoreOption = STORE,
) -> None:
    """Run the main job on the real data in data/demo, with a real small model."""
    config = Path(__file__).parents[2] / "data" / "demo" / "curate.yaml"
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


def init(
    path: Annotated[Path, typer.Argument(help="file to write")] = Path("curate.yaml"),
) -> None:
    """Write a commented configuration to start from."""
    from gristmill.flows.template import CURATE

    if path.exists():
        raise ValueError(f"{path} is there already: give another name.")
    path.write_text(CURATE, "utf-8")
    print(f"wrote {path}; edit it, then: gristmill validate {path}")


def validate(config: ConfigArgument) -> None:
    """Check a configuration, its methods, roles, models and files; run nothing."""
    from gristmill.flows import commands, console
    from gristmill.flows.config import read

    settings = read(config)
    console.table(commands.validate(settings), title=f"{config}: valid")


def plan(config: ConfigArgument) -> None:
    """Say what a run will take, before it is run: rows, tokens, passes, memory, disk."""
    from gristmill.flows import commands, console
    from gristmill.flows.config import read

    console.table(commands.plan_paths(read(config)), title=f"{config}: plan")


def run(
    flow: Annotated[str, typer.Argument(help="curate or synthesize")],
    config: ConfigArgument,
    verify: Annotated[bool, typer.Option("--verify", help="rehash what the store serves")] = False,
) -> None:
    """Run a whole flow under Prefect: PREFECT_API_URL, `make serve`, or a server of its own."""
    flows = {"curate": lambda: _curate(config, {}), "synthesize": lambda: _synthesize(config)}
    if verify:
        os.environ["GRISTMILL_VERIFY"] = "1"
    if flow not in flows:
        raise ValueError(f"there is no flow {flow!r}; there are: {', '.join(flows)}.")
    flows[flow]()


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
