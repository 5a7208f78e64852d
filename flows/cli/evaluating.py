"""Commands on trained models: what they can do on rows that they have not seen."""

from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import (
    STORE,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LengthOption,
    NetworkOption,
    SetOption,
    StoreOption,
)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="reference of the model")],
    out: Annotated[Path, typer.Option("--out", help="folder to write: figures and all answers")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="held-out rows: examples and documents, or pairs; may be repeated"
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="arc_easy, gsm8k, bbh ... or a task file; may be repeated"),
    ] = None,
    eval_data: Annotated[
        str | None,
        typer.Option(help="folder of the tasks' data files; default: eval of GRISTMILL_DATA"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="a try: only the first items of every task and set")
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option(
            help="a file of `gristmill compress`: its task is asked those items alone; may be "
            "repeated"
        ),
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="ask tasks as turns of a chat")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="of tasks; any but 1 may change the last digits")
    ] = 1,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(help="rows, or a published folder, that the model was trained on"),
    ] = None,
    reference_model: Annotated[
        str | None, typer.Option(help="the model that DPO was trained against")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="the model to win against; needs --judge")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="the model that compares answers; needs --baseline")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="finds rewordings of what was trained on too")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the intervals")] = 0,
    store: StoreOption = STORE,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_length: LengthOption = 2_048,
    as_json: JsonOption = False,
    allow_network: NetworkOption = False,
) -> None:
    """Measure a model: held-out loss, preference accuracy, tasks, a judge's win rate.

    Rows that it was trained on are refused, by name.
    """
    from gristmill.flows import console, evaluate_steps, progress
    from gristmill.flows.config import validated
    from gristmill.flows.evaluate_config import EvaluateConfig

    if (baseline is None) != (judge is None):
        raise ValueError("--baseline and --judge go together: give both or none.")
    if subset and not task:
        raise ValueError("--subset needs its task: name it with --task.")
    if not data and not task:
        raise ValueError("nothing is asked: give held-out rows (--data) or tasks (--task).")
    values = {
        "name": out.name,
        "model": model,
        "held_out": [{"path": path, "limit": limit} for path in data or ()],
        "trained_on": [{"path": path} for path in trained_on or ()],
        "reference_model": reference_model,
        "embedder": embedder,
        "seed": seed,
        "passes": {"device": device, "dtype": dtype, "max_length": max_length},
        "out": str(out.parent),
        "store": store,
        "allow_network": allow_network,
    }
    if task:
        values["tasks"] = {
            "names": task,
            "data": eval_data,
            "limit": limit,
            "subsets": subset or [],
            "chat_template": chat_template,
            "batch_size": batch_size,
        }
    if baseline is not None:
        values["win_rate"] = {"baseline": baseline, "judge": {"model": judge}}
    config = validated(EvaluateConfig, values, "evaluate")
    with progress.progress() as tell:
        found = evaluate_steps.run(config, tell)
    console.rows(evaluate_steps.lines(found), title=model, as_json=as_json)
    if not as_json:
        print(out)


def compress(
    answers: Annotated[
        list[Path],
        typer.Argument(
            metavar="ANSWERS...",
            help="folders of `gristmill evaluate`, a model each, or one Parquet table: model, "
            "item, value",
        ),
    ],
    task: Annotated[str, typer.Option(help="the task whose items are chosen from")],
    out: Annotated[Path, typer.Option("--out", help="file to write: the subset, as JSON")],
    items: Annotated[int, typer.Option(min=2, help="how many")] = 50,
    weights: Annotated[
        str, typer.Option(help="equal, or learned where that is better on models left out")
    ] = "equal",
    set_: SetOption = None,
    embedder: Annotated[
        str | None, typer.Option(help="also drops items whose texts are alike")
    ] = None,
    store: StoreOption = STORE,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    allow_network: NetworkOption = False,
) -> None:
    """From many models' answers, choose the few items of a task that tell what all would."""
    from gristmill.flows import commands, compressing, console, progress

    asked = {**commands.pairs(set_ or []), "items": items, "weights": weights}
    with progress.progress() as tell:
        found = compressing.run(
            answers,
            task,
            out,
            asked,
            embedder=embedder,
            store=store,
            device=device,
            allow_network=allow_network,
            progress=tell,
        )
    console.rows(compressing.lines(found), title=f"{task}: {items} items", as_json=as_json)
    if not as_json:
        for sentence in found.notes:
            print(sentence)
        print(out)
