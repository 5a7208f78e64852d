"""Commands on models: what is trained on a published dataset."""

from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import STORE, DeviceOption, NetworkOption, SetOption, StoreOption


def finetune(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="published version, or dataset (its latest)")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="REF is trained; role=REF binds a role; default: the target that the rows were "
            "selected with",
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="sft, dpo, reward or ftpo; default: by the kind of the rows")
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder to write the model to, with its card")
    ] = None,
    store: StoreOption = STORE,
    device: DeviceOption = "auto",
    allow_network: NetworkOption = False,
) -> None:
    """Train a model on a published dataset, with its weights and masks, and write its card.

    Settings are those of `gristmill init --finetune`: --set training.epochs=2 --set lora.rank=16.
    """
    from gristmill.flows import checks, console, finetune_steps
    from gristmill.flows.progress import LISTENER

    settings = finetune_steps.asked(
        str(folder),
        model or [],
        set_ or [],
        stage=stage,
        out=None if out is None else str(out),
        store=store,
        passes={"device": device},
        allow_network=allow_network,
    )
    checks.check(settings, str(folder))
    console.training(lambda: finetune_steps.trained(settings, LISTENER.get()), settings.out)
