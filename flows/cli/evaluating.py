"""The command on a trained model: what it can do on rows that it has not seen."""

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
