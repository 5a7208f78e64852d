"""Cells of the leaderboard: one model, trained on one draw of an arm with one seed, and measured.

A cell is found in the store if it was made before, so a run that was stopped goes on where it was.
"""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gristmill.pipeline.compare.cells import SftRecipe
from gristmill.pipeline.evaluate.heldout import kept, load_for, log_losses
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft
from gristmill.pipeline.models.reference import resolve
from leaderboard_parts.pool import BASE, Board, frame

SEEDS = (0, 1, 2)
RATES = (1e-3, 3e-3)


@dataclass(frozen=True, kw_only=True)
class Measured(SftRecipe):
    """Fine-tuning whose test rows are encoded once, and whose model is loaded once for all tests.

    Values and entries of the store are those of `SftRecipe`, at a third of the time.
    """

    _encoded: dict[str, pl.DataFrame] = field(default_factory=dict, compare=False, repr=False)
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def measure(self, context, model, test):
        passes, files = context.passes, resolve(model, context.store)

        def make():
            key = data.fingerprint(test)
            if key not in self._encoded:
                self._encoded[key] = data.token_rows(test, "sequence", passes.chat(files))
            if model not in self._loaded:
                self._loaded.clear()
                chat = passes.chat(files)
                self._loaded[model] = load_for(files, chat, passes)
            rows = self._encoded[key]
            nll, tokens = log_losses(rows, "input_ids", "labels", self._loaded[model], passes)
            return rows.select("id", "reason").with_columns(
                pl.Series("tokens", tokens, dtype=pl.Int64), pl.Series("nll", nll, dtype=pl.Float64)
            )

        table = kept("heldout", test, {"model": files}, passes, context.store, make)
        fit = table.filter(pl.col("tokens") > 0).unique("id", keep="first", maintain_order=True)
        value = -pl.col("nll") / pl.col("tokens")
        return fit.select("id", value=value, weight=pl.col("tokens").cast(pl.Float64))


def recipe():
    """How every cell of the small model is trained: all weights, two epochs, batches of eight."""
    return Measured(
        base=BASE,
        stage=Sft(
            training=Training(
                epochs=2,
                batch_size=8,
                micro_batch=8,
                max_length=256,
                checkpoints="last",
                optimizer_state=False,
            )
        ),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """The board with its recipe, and who is told of every cell."""

    board: Board
    recipe: Any
    rates: tuple = RATES
    seeds: tuple = SEEDS
    say: Any = print

    @property
    def records(self):
        if not hasattr(self, "_records"):
            object.__setattr__(self, "_records", frame(self.board.pool))
        return self._records

    def model(self, chosen, seed, rate):
        """The model of a draw."""
        if chosen is None:
            return self.recipe.base
        rows = self.records.join(chosen, on="id", how="inner", validate="1:1").sort("id")
        return self.recipe.train(self.board.context, rows, seed=seed, rate=rate)

    def value(self, model, test):
        items = self.recipe.measure(self.board.context, model, test)
        return float((items["value"] * items["weight"]).sum() / items["weight"].sum())

    def rate(self, arm, target):
        """The learning rate under which an arm's first draw does best on the validation rows."""
        if not arm.draws or len(self.rates) == 1:
            return self.rates[0]
        found = {
            rate: self.value(
                self.model(arm.draws[0], self.seeds[0], rate), self.board.validation[target]
            )
            for rate in self.rates
        }
        return max(self.rates, key=lambda rate: (found[rate], -rate))

    def cells(self, arm, target):
        """A row per model and test set, with the items of each."""
        rate = self.rate(arm, target)
        for draw, chosen in enumerate(arm.draws or (None,)):
            for seed in self.seeds if arm.draws else self.seeds[:1]:
                model = self.model(chosen, seed, rate)
                for name, test in self.board.tests.items():
                    items = self.recipe.measure(self.board.context, model, test)
                    yield {
                        "target": target,
                        "arm": arm.name,
                        "draw": draw if arm.draws else -1,
                        "seed": seed,
                        "rate": rate if arm.draws else 0.0,
                        "rows": 0 if chosen is None else chosen.height,
                        "test": name,
                        "items": items,
                    }
