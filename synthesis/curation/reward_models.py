"""The reward models of a curation: what they must be able to do, and the one that is fine-tuned."""

# N = pairs

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, load_reward, rewards, train_reward
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Step, Store, table

Floats = NDArray[np.float64]
Scorer = Callable[[pl.DataFrame], Floats]  # pairs to reward margins
_BLOCK = 1_024  # pairs that a kill may cost the scores of


class RewardModels(Protocol):
    """Trains reward models on pairs whose chosen side is the better one, and asks them.

    A model is named by its path below the store.
    """

    @property
    def name(self) -> str:
        """Hash of all that decides what a training gives, beside the pairs."""

    def fit(self, pairs: pl.DataFrame) -> list[str]:
        """Train; the checkpoints, in order."""

    def fit_alone(self, pairs: pl.DataFrame) -> str:
        """Train where no other pairs are left to choose a checkpoint by."""

    def margins(self, reference: str, pairs: pl.DataFrame) -> Floats:
        """Reward of the chosen minus that of the rejected side; NaN for a pair that has none."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """The checkpoint that ranks the most gold pairs right; of equal ones the first.

    Attributes:
        reference: its name.
        accuracy: its share of gold pairs with a positive margin.
        checkpoints: how many there were.
    """

    reference: str
    accuracy: float
    checkpoints: int


def best(models: RewardModels, references: list[str], gold: pl.DataFrame) -> Best:
    """Choose a checkpoint by its accuracy on the gold pairs."""
    accuracies = [float((models.margins(r, gold) > 0).mean()) for r in references]
    at = int(np.argmax(accuracies))
    return Best(reference=references[at], accuracy=accuracies[at], checkpoints=len(references))


def probabilities(margin_N: Floats) -> Floats:
    """The sigmoid of margins: what a Bradley-Terry model gives to "chosen is better"."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(margin_N, -500, 500))), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class TrainedReward:
    """Reward models fine-tuned from a language model; trainings and scores stay in the store.

    Attributes:
        base: reference of the model that every training starts from.
        settings: of the training; one checkpoint an epoch.
        store: where all of it is kept.
        passes: how models are asked.
        run: how a training is carried out.
        allow_network: the base may be fetched from the hub.
    """

    base: str
    settings: Reward
    store: Store
    passes: Passes
    run: Run
    allow_network: bool = False

    @cached_property
    def name(self) -> str:
        files = resolve(self.base, self.store, allow_network=self.allow_network)
        return digest([files.fingerprint, settings_of(self.settings)])

    def fit(self, pairs: pl.DataFrame) -> list[str]:
        trained = self._train(pairs, self.settings)
        return [self._named(c.reference) for c in trained.checkpoints]

    def fit_alone(self, pairs: pl.DataFrame) -> str:
        last = replace(self.settings.training, checkpoints="last")
        return self._named(self._train(pairs, replace(self.settings, training=last)).reference)

    def margins(self, reference: str, pairs: pl.DataFrame) -> Floats:
        inside = self.store.path(reference)
        files = resolve(str(inside), self.store, allow_network=self.allow_network)
        ask = scorer(files, self.passes, self.run)
        step = Step(
            name="reward_margins",
            version=1,
            settings={"max_length": self.passes.max_length, "overlong": self.passes.overlong},
            inputs={"model": files.fingerprint, "pairs": digest(pairs["id"].to_list())},
        )

        def asked(block: pl.DataFrame) -> pl.DataFrame:
            self.run.caps.check()
            return pl.DataFrame({"margin": ask(block)}, schema={"margin": pl.Float64})

        parts = [
            table(f"part-{n:05d}", partial(asked, block))
            for n, block in enumerate(pairs.iter_slices(_BLOCK))
        ]
        if not parts:
            return np.zeros(0)
        return self.store.run(step, parts).frame()["margin"].to_numpy()

    def _train(self, pairs: pl.DataFrame, settings: Reward) -> Any:  # noqa: ANN401  (Trained)
        return train_reward(
            pairs.sort("id"),
            self.base,
            settings,
            self.store,
            run=self.run,
            allow_network=self.allow_network,
        )

    def _named(self, reference: str) -> str:
        return Path(reference).relative_to(self.store.root).as_posix()


def scorer(files: ModelFiles, passes: Passes, run: Run) -> Scorer:
    """A reward model as a function of pairs, NaN for those it cannot be shown; loaded when asked.

    Args:
        files: of the reward model.
        passes: how it is asked.
        run: whose caps count what it reads.
    """
    loaded: list[LoadedModel] = []

    def ask(pairs: pl.DataFrame) -> Floats:
        if not loaded:
            loaded.append(load_reward(files, device=passes.device))
        rows = data.token_rows(pairs, "pair", passes.chat(files))
        shown = rows.filter(pl.col("reason").is_null())
        run.caps.spend(_tokens(shown))
        found = rewards(shown, loaded[0], batch_tokens=passes.batch_tokens)
        both = rows.select("id").join(found, on="id", how="left", maintain_order="left")
        margin = (both["chosen"] - both["rejected"]).fill_null(float("nan"))
        return margin.to_numpy().astype(np.float64)

    return ask


def _tokens(rows: pl.DataFrame) -> int:
    sides = [rows[c].list.len().sum() for c in ("chosen_ids", "rejected_ids")]
    return int(sum(sides))
