"""What the task of a fine-tuning does: settings as the pipeline's nouns. No Prefect here."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gristmill.flows import limits
from gristmill.flows.commands import bound_to, pairs
from gristmill.flows.config import CurateConfig, validated
from gristmill.flows.finetune_config import FinetuneConfig, FinetuneRunConfig
from gristmill.flows.progress import Progress
from gristmill.flows.steps import open_store
from gristmill.pipeline.contracts import ROLES
from gristmill.pipeline.finetune.job import Progress as Steps
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.road.finetuned import Finetuned, finetune
from gristmill.pipeline.road.model_folder import check_free, write_folder
from gristmill.pipeline.road.model_manifest import Base
from gristmill.pipeline.road.published import Version, read_back, version_of

LOG = logging.getLogger(__name__)
# The models that the flows of this process make; what a curate run returns is its dataset.
_MADE: ContextVar[list[Finetuned] | None] = ContextVar("made", default=None)


@contextmanager
def announced() -> Iterator[list[Finetuned]]:
    """The models that are made in this block, in order."""
    made: list[Finetuned] = []
    token = _MADE.set(made)
    try:
        yield made
    finally:
        _MADE.reset(token)


def asked(
    dataset: str, models: Sequence[str], settings: Sequence[str], **given: object
) -> FinetuneRunConfig:
    """The settings that a command line names.

    Args:
        dataset: the published folder.
        models: `REF` and `role=REF` texts; a bare one is trained.
        settings: `key=value` texts; a dot leads into a group of settings.
        given: further settings; None: not given.
    """
    values: dict[str, Any] = {"dataset": dataset}
    values |= {name: value for name, value in given.items() if value is not None}
    bound = bound_to(["target"], models)
    for role, several in bound.items():
        values.setdefault("models", {})[role] = several[0] if len(several) == 1 else several
    for key, text in pairs(settings).items():
        *groups, name = key.split(".")
        place: Any = values
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                break
        if not isinstance(place, dict) or isinstance(place.get(name), dict):
            raise ValueError(
                f"--set {key}: {key.partition('.')[0]} is set as a whole and in part: choose one."
            )
        place[name] = None if text.strip().lower() in ("none", "null") else text
    return validated(FinetuneRunConfig, values, "finetune")


def after(
    config: CurateConfig, folder: str, verdict: Mapping[str, Any] | None
) -> FinetuneRunConfig:
    """The fine-tuning of a curate run, on what it has published.

    Args:
        config: of the run.
        folder: the published version.
        verdict: of its gate, which has chosen the learning rate; None: it has no gate.
    """
    assert config.finetune is not None, "the run asks for one"
    asked = config.finetune.model_dump(exclude_unset=True)
    if verdict is not None:
        asked["training"] = {**asked.get("training", {}), "learning_rate": verdict["rate"]}
    return FinetuneRunConfig(
        **asked,
        dataset=folder,
        models=config.models,
        passes={"device": config.passes.device},
        store=config.store,
        allow_network=config.allow_network,
    )


def trained(config: FinetuneRunConfig, progress: Progress | None = None) -> Finetuned:
    """Read the dataset back, train, describe the model, and write it out if that is asked.

    Raises:
        ValueError: what is wrong with the dataset, the settings or the model, in a sentence.
    """
    version = version_of(Path(config.dataset))
    base = base_of(config, version)
    stage = config.stage_for(version.kind)
    settings = config.made(version.kind)
    if config.out is not None:
        check_free(Path(config.out))
    store = open_store(config.store)
    made = finetune(
        read_back(version, store),
        base,
        settings,
        store,
        run=Run(
            device=config.passes.device,
            progress=_steps(stage, progress),
            log=lambda sentence: LOG.info("%s", sentence),
            caps=limits.current(config.limits),
        ),
    )
    if config.out is not None:
        write_folder(made, Path(config.out), store)
    heard = _MADE.get()
    if heard is not None:
        heard.append(made)
    return made


def base_of(config: FinetuneRunConfig, version: Version) -> Base:
    """The models of a fine-tuning: those that are bound, or else that the dataset names."""
    recorded = {role: [str(m["id"]) for m in version.models(role)] for role in ROLES}
    return started_from(config, {**recorded, **config.models}, network=config.allow_network)


def started_from(
    config: FinetuneConfig, bound: Mapping[str, str | list[str]], *, network: bool
) -> Base:
    """The models of a fine-tuning, by reference.

    Args:
        config: its settings.
        bound: role -> references.
        network: models may be fetched from the hub.
    """
    rival = config.reference_model
    return Base(
        model=referred("model", config.model, bound),
        reference_model=referred("reference_model", rival, bound) if rival else None,
        allow_network=network,
    )


def referred(setting: str, name: str, bound: Mapping[str, str | list[str]]) -> str:
    """The reference that a setting names, itself or by a role.

    Args:
        setting: its name, for people.
        name: a role or a reference.
        bound: role -> references.

    Raises:
        ValueError: the role has no model, or several.
    """
    if name not in ROLES:
        return name
    given = bound.get(name) or []
    several = [given] if isinstance(given, str) else given
    if len(several) == 1:
        return several[0]
    found = f"{len(several)} models are bound" if several else "no model is bound"
    raise ValueError(
        f"{setting} names the role {name!r}, to which {found}: bind one as `{name}: REFERENCE` "
        f"under `models:`, or give {setting} a model reference."
    )


def announcement(made: Finetuned, out: str | None = None) -> str:
    """A trained model in Markdown: where it is, and its card."""
    _, _, card = made.card.partition("\n---\n")
    card = card.replace("![loss by step](loss.svg)\n\n", "")  # its file is not beside the artifact
    written = f"- written to: `{Path(out).absolute()}`\n" if out else ""
    return f"**{made.name}**\n\n- model: `{made.reference}`\n{written}\n{card}"


def _steps(stage: str, progress: Progress | None) -> Steps | None:
    if progress is None:
        return None
    return lambda done, total, _: progress(f"{stage}, steps", done, total)
