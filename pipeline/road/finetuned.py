"""Finetuned: a model trained on a published dataset, with card, manifest and metrics.

    <store>/finetuned/<key>/about/README.md         what a reader of the model must know
                                 /manifest.json     the same for programs
                                 /metrics.parquet   one row per step
                                 /loss.svg

The weights stay in the entry of the training run; `model_folder` brings both together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.evaluate.heldout import held_out_loss
from gristmill.pipeline.evaluate.preference import preference_accuracy, reward_accuracy
from gristmill.pipeline.finetune.checkpoints import Trained
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.ftpo import Ftpo, train_ftpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, load_reward, train_reward
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.models.damage import Damaged
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.numerics.intervals import Interval
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.store import Entry, Part, Step, Store, write_table
from gristmill.pipeline.road.loss_curve import curve
from gristmill.pipeline.road.model_card import card
from gristmill.pipeline.road.model_manifest import Base, manifest, summary, trained_on
from gristmill.pipeline.road.published import Published

VERSION = 1
StageSettings: TypeAlias = Sft | Dpo | Reward | Ftpo
ABOUT = "about"


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A trained model and what is said of it.

    Attributes:
        trained: the training run; its last checkpoint is the model.
        about: the entry with card, manifest and metrics.
    """

    trained: Trained
    about: Entry

    @property
    def reference(self) -> str:
        """The model, as a model reference."""
        return self.trained.reference

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What manifest.json says."""
        told: Mapping[str, Any] = json_text.loads(
            self.about.read(f"{ABOUT}/manifest.json").decode()
        )
        return told

    @property
    def name(self) -> str:
        """The model's name: its dataset's, and the stage."""
        return str(self.facts["name"])

    @property
    def card(self) -> str:
        """The text of README.md."""
        return self.about.read(f"{ABOUT}/README.md").decode()

    @property
    def curve(self) -> bytes:
        """The loss by step, as an SVG image."""
        return self.about.read(f"{ABOUT}/loss.svg")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the rows and of the training, in sentences."""
        return tuple(self.facts["notes"])

    @property
    def summary(self) -> dict[str, Any]:
        """What came of the training, for a table."""
        return summary(self.facts)


def finetune(
    published: Published,
    base: Base,
    settings: StageSettings,
    store: Store,
    *,
    run: Run | None = None,
) -> Finetuned:
    """Train on published rows and describe the result; equal work is found in the store.

    Args:
        published: the rows, their weights, and where they are from.
        base: what is trained.
        settings: the stage with its settings.
        store: where rows, model and card are kept.
        run: device, progress, log.
    """
    run = run or Run()
    for sentence in published.notes:
        run.log(sentence)
    trained = _trained(trained_on(published, settings), base, settings, store, run)
    step = Step(
        name="finetuned",
        version=VERSION,
        settings={
            "model": base.model,
            "reference_model": base.reference_model,
            "stage": settings_of(settings),
        },
        inputs={"trained": trained.entry.content, "dataset": published.version.manifest_sha},
    )

    def about(path: Path) -> None:
        _demand_numbers(trained, settings, store, run)
        held_out = _held_out(published.validation, base, settings, trained, store, run)
        told = manifest(published, base, settings, trained, held_out, store)
        path.mkdir()
        (path / "manifest.json").write_text(json_text.published(told, indent=1) + "\n", "utf-8")
        (path / "README.md").write_text(card(told), "utf-8")
        write_table(trained.metrics, path / "metrics.parquet")
        (path / "loss.svg").write_bytes(curve(trained.metrics))

    entry = store.run(step, [Part(name=ABOUT, write=about)])
    return Finetuned(trained=trained, about=entry)


def _trained(
    rows: pl.DataFrame, base: Base, settings: StageSettings, store: Store, run: Run
) -> Trained:
    how: dict[str, Any] = {"run": run, "allow_network": base.allow_network}
    match settings:
        case Sft():
            return train_sft(rows, base.model, settings, store, **how)
        case Dpo():
            rival = base.reference_model
            return train_dpo(rows, base.model, settings, store, reference=rival, **how)
        case Ftpo():
            return train_ftpo(rows, base.model, settings, store, **how)
        case Reward():
            return train_reward(rows, base.model, settings, store, **how)


def _demand_numbers(trained: Trained, settings: StageSettings, store: Store, run: Run) -> None:
    """Refuse a model whose last steps have driven it off: whatever reads it would."""
    files = resolve(trained.reference, store)
    try:
        if isinstance(settings, Reward):
            load_reward(files, device=run.device)
        else:
            load(files, device=run.device)
    except Damaged as error:
        raise ValueError(
            f"training diverged at the learning rate {settings.training.learning_rate:g}, and no "
            f"model was made of it: lower training.learning_rate ({error})"
        ) from error


def _held_out(
    rows: pl.DataFrame,
    base: Base,
    settings: StageSettings,
    trained: Trained,
    store: Store,
    run: Run,
) -> list[dict[str, Any]]:
    """What is measured on rows that were held out: before and after, with intervals."""
    if rows.is_empty():
        return []
    training = settings.training
    passes = Passes(device=run.device, max_length=training.max_length, overlong=training.overlong)
    how: dict[str, Any] = {"passes": passes, "allow_network": base.allow_network}
    after = trained.reference
    run.log(f"{rows.height:,} rows that were held out are asked before and after.")
    match settings:
        case Sft():
            before_after = [held_out_loss(rows, m, store, **how) for m in (base.model, after)]
            return [
                _line("loss per token", *(found.per_token for found in before_after)),
                _line("loss per row", *(found.per_row for found in before_after)),
            ]
        case Dpo():
            rival = None if settings.loss == "simpo" else base.reference_model or base.model
            ranked = [preference_accuracy(rows, m, store, **how) for m in (base.model, after)]
            lines = [_line("chosen answer more likely", *(found.accuracy for found in ranked))]
            if rival is not None:
                against = preference_accuracy(
                    rows, after, store, reference=rival, beta=settings.beta, **how
                )
                lines += [
                    _line("chosen answer preferred to the reference", None, against.accuracy),
                    _line("reward margin", None, against.margin),
                ]
            return lines
        case Ftpo():
            ranked = [preference_accuracy(rows, m, store, **how) for m in (base.model, after)]
            return [_line("chosen answer more likely", *(found.accuracy for found in ranked))]
        case Reward():
            scored = reward_accuracy(rows, after, store, **how)
            return [
                _line("chosen answer scored higher", None, scored.accuracy),
                _line("reward margin", None, scored.margin),
            ]


def _line(what: str, before: Interval | None, after: Interval) -> dict[str, Any]:
    return {"what": what, "before": vars(before) if before else None, "after": vars(after)}
