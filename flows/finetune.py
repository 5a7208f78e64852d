"""Finetune: a published dataset in, a trained model with its card out.

    verify ▶ read back ▶ train ▶ ask held-out rows ▶ card, manifest, metrics

The task is that of `curate`, whose runs end with it if they have a section `finetune:`.
"""

from pathlib import Path

from prefect import flow

from gristmill.flows import assets, logs, processes
from gristmill.flows import curate as tasks
from gristmill.flows.finetune_config import FinetuneRunConfig
from gristmill.flows.stopping import stopping
from gristmill.pipeline.road.published import version_of


@flow(
    name="finetune",
    flow_run_name="finetune-{config.dataset}",
    persist_result=False,
    validate_parameters=True,
)
@stopping
def finetune(config: FinetuneRunConfig) -> str:
    """A published dataset in, a trained model with its card out.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run finetune`.
    """
    processes.end_with_server()
    with logs.to_run():
        model: str = tasks.train(config)
        assets.model(model, version_of(Path(config.dataset)).folder)
    return model
