"""Commands on whole runs: a demo, a configuration, its check, its plan, and the run itself."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gristmill.flows.cli.options import STORE, JsonOption, LimitOption, StoreOption

HELD = 4  # exit code: published, and held by its gate
ConfigArgument = Annotated[Path, typer.Argument(help="YAML file")]


def demo(
    where: Annotated[str, typer.Option(help="folder of published datasets")] = "data/curated",
    store: StoreOption = STORE,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy", help="put its rows in data/demo here, for what `init` writes; no run"
        ),
    ] = False,
) -> None:
    """Run the main job on the real data of the demo, with a real small model."""
    from gristmill.flows import demonstration

    if copy:
        print(demonstration.copied())
        return
    print(
        "demo: curates the mixed pool in data/demo for grade-school maths with SmolLM2-135M, "
        "offline; about three minutes on two cores, and half a minute once that is done.",
        flush=True,
    )
    run_settings(demonstration.settings(store, where), str(demonstration.FILE))


def init(
    path: Annotated[Path | None, typer.Argument(help="file to write; default: KIND.yaml")] = None,
    sft: Annotated[bool, typer.Option("--sft", help="examples for SFT (default)")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="preference pairs")] = False,
    synthesis: Annotated[bool, typer.Option("--synthesis", help="documents to pairs")] = False,
    refine: Annotated[
        bool, typer.Option("--refine", help="labels of pairs, checked by models and people")
    ] = False,
    clean: Annotated[bool, typer.Option("--clean", help="cleaning alone, no method")] = False,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="a published dataset to a model")
    ] = False,
    proof: Annotated[
        bool, typer.Option("--proof", help="promoted only if it beats random rows")
    ] = False,
    compare: Annotated[bool, typer.Option("--compare", help="methods against random rows")] = False,
    prefer: Annotated[bool, typer.Option("--prefer", help="prompts to preference pairs")] = False,
    nightly: Annotated[
        bool, typer.Option("--nightly", help="a pool that grows, every night")
    ] = False,
    curated_1k: Annotated[
        bool, typer.Option("--curated-1k", help="1,000 good rows, balanced over sources")
    ] = False,
) -> None:
    """Write a complete, commented configuration to start from; it runs as written on the demo.

    Beside it, in `.gristmill/`, goes the schema by which an editor completes and checks the file.
    """
    kinds = {"sft": sft, "pairs": pairs, "synthesis": synthesis, "clean": clean}
    kinds |= {"prefer": prefer, "refine": refine}
    kinds |= {"finetune": finetune, "proof": proof, "compare": compare}
    kinds |= {"nightly": nightly, "curated-1k": curated_1k}
    asked = [name for name, given in kinds.items() if given]
    if len(asked) > 1:
        raise ValueError(f"--{asked[0]} and --{asked[1]}: a file is for one kind of run.")
    kind = asked[0] if asked else "sft"
    default = "curate.yaml" if kind == "sft" else f"{kind}.yaml"
    target = path or Path(default)
    if target.exists():
        raise ValueError(f"{target} is there already: give another name.")
    template = Path(__file__).parents[1] / "templates" / f"{kind}.yaml"
    text = template.read_text("utf-8")
    from gristmill.flows import editing, files
    from gristmill.pipeline.records import yaml_text

    flow = files.flow_of(yaml_text.parse(text))
    editing.write(flow, target.parent / editing.FOLDER)
    written = editing.pointed(flow) + text.replace(f"{kind}.yaml", str(target))
    target.write_text(written, "utf-8")
    print(f"wrote {target}; edit it, then: gristmill validate {target}")


def validate(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """Check a configuration: settings, methods, rules, filters, roles, files, models; run nothing.

    All that is wrong is told at once, the cheap checks first. Rows are read only where a rule names
    groups that rows alone can tell.
    """
    from gristmill.flows import checks, console, files

    flow, settings = files.read_any(config)
    found = checks.check(settings, str(config))
    console.rows(found, title=f"{config}: valid ({files.called(flow)})", as_json=as_json)


def plan(
    config: ConfigArgument,
    as_json: JsonOption = False,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="run and time 1 % of the rows, for hours")
    ] = True,
) -> None:
    """Say what a run will take, before it is run, line by line and in all, with 95 % intervals.

    Rows, tokens, FLOPs, hours, memory, disk and money. Hours come from a probe: the real passes
    and training steps on 1 % of the rows (at least 8 batches), on this machine, in a store of its
    own. What the run would find in the store is marked as found, and takes nothing.
    """
    from gristmill.flows import console, files, planning, progress

    flow, settings = files.read_any(config)
    with progress.progress() as tell:
        found = planning.planned(settings, str(config), tell, probed=probe)
    lines = found.facts() if as_json else found.table()
    console.rows(lines, title=f"{config}: plan ({files.called(flow)})", as_json=as_json)


def run(
    flow: Annotated[
        str,
        typer.Argument(
            help="curate, nightly, clean, synthesize, prefer, refine-pairs, finetune, evaluate, "
            "compare; "
            "or the YAML, which tells"
        ),
    ],
    config: Annotated[Path | None, typer.Argument(help="YAML file")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="rehash what the store serves")] = False,
    limit: LimitOption = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", help="stop then; the same command goes on")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="stop once models read and wrote so many")
    ] = None,
    max_money: Annotated[
        float | None, typer.Option("--max-money", help="stop once so much is spent")
    ] = None,
) -> None:
    """Run a whole flow under Prefect: PREFECT_API_URL, `make serve`, or a server of its own.

    At a cap (these options, or `limits:` of the file), and where people must speak first, it stops
    between two units of work, says so and exits with 3; the same command goes on from there. A cap
    that the plan already exceeds is refused before anything starts.
    """
    from gristmill.flows import files

    if verify:
        os.environ["GRISTMILL_VERIFY"] = "1"
    if config is None:
        config = Path(flow)
        flow, settings = files.read_any(config)
        if flow not in files.FLOWS:
            raise ValueError(f"{config} holds cleaners and names no rows: there is nothing to run.")
    else:
        settings = files.read_as(config, flow)
    caps = {"max_hours": max_hours, "max_tokens": max_tokens, "max_money": max_money}
    run_settings(files.capped(files.limited(settings, limit), caps, str(config)), str(config))


def run_settings(settings: Any, where: str) -> None:  # noqa: ANN401  (the settings of some flow)
    """Check the settings of a flow, run it under Prefect, and show what came of it."""
    from gristmill.flows import checks, connection
    from gristmill.flows.compare_config import CompareConfig
    from gristmill.flows.evaluate_config import EvaluateConfig
    from gristmill.flows.finetune_config import FinetuneRunConfig
    from gristmill.flows.prefer_config import PreferConfig
    from gristmill.flows.refine_config import RefineConfig
    from gristmill.flows.synthesis_config import SynthesizeConfig

    checks.check(settings, where)  # a mistake is told before a server starts
    connection.connect(settings.store)
    from prefect import tags

    with tags(connection.TAG), connection.telling():
        match settings:
            case SynthesizeConfig():
                _synthesize(settings)
            case PreferConfig():
                _prefer(settings)
            case EvaluateConfig():
                _evaluate(settings)
            case CompareConfig():
                _compare(settings)
            case RefineConfig():
                _refine_pairs(settings)
            case FinetuneRunConfig():
                _finetune(settings)
            case _:
                _curate(settings)


def _refine_pairs(settings: Any) -> None:  # noqa: ANN401
    from gristmill.flows import console
    from gristmill.flows.refine_pairs import refine_pairs

    versions = Path(settings.export.root, settings.name)
    console.publishing(lambda: refine_pairs(settings), versions)


def _finetune(settings: Any) -> None:  # noqa: ANN401
    from gristmill.flows import console
    from gristmill.flows.finetune import finetune

    console.training(lambda: finetune(settings), settings.out)


def _curate(settings: Any) -> None:  # noqa: ANN401
    from gristmill.flows import console, finetune_steps, nightly_steps
    from gristmill.flows.cleaned import clean
    from gristmill.flows.config import CurateConfig
    from gristmill.flows.curate import curate
    from gristmill.flows.nightly import nightly
    from gristmill.flows.nightly_config import NightlyConfig
    from gristmill.flows.publishing import verdict

    def published() -> str:
        match settings:
            case NightlyConfig():
                return nightly(settings)
            case CurateConfig():
                return curate(settings)
            case _:
                return clean(settings)

    versions = Path(settings.export.root, settings.name)
    with finetune_steps.announced() as models, nightly_steps.announced() as unchanged:
        folder = console.publishing(published, versions, unchanged)
    if unchanged:
        return
    for made in models:
        console.model(made, settings.finetune.out)
    gate = verdict(folder)
    if gate is not None and not gate["promoted"]:
        raise typer.Exit(HELD)


def _compare(settings: Any) -> None:  # noqa: ANN401
    from gristmill.flows import console, progress
    from gristmill.flows.compare import compare

    with progress.listening():
        folder = Path(compare(settings))
    console.compared(folder)


def _synthesize(settings: Any) -> None:  # noqa: ANN401
    from gristmill.flows.synthesis_steps import announcement
    from gristmill.flows.synthesize import synthesize

    _records(lambda: synthesize(settings), announcement, settings)


def _prefer(settings: Any) -> None:  # noqa: ANN401
    from gristmill.flows.prefer import prefer
    from gristmill.flows.prefer_steps import announcement

    _records(lambda: prefer(settings), announcement, settings)


def _records(run: Callable[[], str], told: Callable[[str, Path], str], settings: Any) -> None:  # noqa: ANN401
    """Run what makes records, and show them, or the dataset that was curated of them.

    Args:
        run: makes them; returns the folder.
        told: what a folder of records, of a name, holds.
        settings: of the run.
    """
    from gristmill.flows import console, progress

    with progress.listening():
        made = Path(run())
    if settings.curate is None:
        print(told(settings.name, made))
    else:
        console.published(made)


def _evaluate(settings: Any) -> None:  # noqa: ANN401
    from gristmill.flows import console, progress
    from gristmill.flows.evaluate import evaluate

    with progress.listening():
        folder = Path(evaluate(settings))
    console.figures(folder)
