"""Cells of the leaderboard: one model, trained on one draw of an arm with one seed, and measured.

A cell is found in the store if it was made before, so a run that was stopped goes on where it was.
"""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gristmill.pipeline.compare.cells import StageRecipe
from gristmill.pipeline.compare.comparison import Design
from gristmill.pipeline.compare.measures import Evaluation, LogLikelihood, PairAccuracy
from gristmill.pipeline.evaluate.heldout import kept, load_for, log_losses
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.reference import resolve
from leaderboard_parts.pool import frame

SEEDS = (0, 1, 2)
EPOCHS = 2
_LOADED: dict[str, LoadedModel] = {}  # the one model that is asked


@dataclass(frozen=True, kw_only=True)
class Likelihood(LogLikelihood):
    """Held-out log-likelihood whose rows are encoded once, of a model that is loaded once.

    Values and entries of the store are those of `LogLikelihood`, in half of the time.
    """

    _encoded: list[pl.DataFrame] = field(default_factory=list, compare=False, repr=False)

    def items(self, context, model):
        passes, files = context.passes, resolve(model, context.store)

        def make():
            chat = passes.chat(files)
            if not self._encoded:
                self._encoded.append(data.token_rows(self.rows, "sequence", chat))
            if files.fingerprint not in _LOADED:
                _LOADED.clear()
                _LOADED[files.fingerprint] = load_for(files, chat, passes)
            (rows,) = self._encoded
            asked = _LOADED[files.fingerprint]
            nll, tokens = log_losses(rows, "input_ids", "labels", asked, passes)
            return rows.select("id", "reason").with_columns(
                pl.Series("tokens", tokens, dtype=pl.Int64), pl.Series("nll", nll, dtype=pl.Float64)
            )

        table = kept("heldout", self.rows, {"model": files}, passes, context.store, make)
        fit = table.filter(pl.col("tokens") > 0).unique("id", keep="first").sort("id")
        value = -pl.col("nll") / pl.col("tokens")
        return fit.select("id", value=value, weight=pl.col("tokens").cast(pl.Float64))


def training(**other):
    """What all cells share: two epochs of batches of eight."""
    settings = {"epochs": EPOCHS, "batch_size": 8, "micro_batch": 8, "max_length": 256}
    return Training(checkpoints="last", optimizer_state=False, **(settings | other))


def sft_design(board, target, *, rates=(1e-3, 3e-3), lora=None):
    """A comparison of examples for a target: its test rows decide, the others show the cost."""
    tests = {target: "target", **{n: "elsewhere" for n in board.tests if n != target}}
    evaluations = {
        name: Evaluation(measure=Likelihood(rows=board.tests[name]), part=part)
        for name, part in tests.items()
    }
    query = Likelihood(rows=frame(board.queries[target]))
    return Design(
        recipe=StageRecipe(base=board.base, stage=Sft(training=training(), lora=lora)),
        evaluations={**evaluations, "query": Evaluation(measure=query, part="query")},
        validation=Likelihood(rows=board.validation[target]) if len(rates) > 1 else None,
        rates=rates,
        seeds=SEEDS,
    )


def dpo_design(board, target, *, rates=(3e-4, 1e-3)):
    """A comparison of pairs: the share of held-out pairs that DPO's margin ranks right."""

    def accuracy(rows):
        return PairAccuracy(rows=rows, reference=board.base)

    tests = {target: "target", **{n: "elsewhere" for n in board.tests if n != target}}
    return Design(
        recipe=StageRecipe(base=board.base, stage=Dpo(training=training())),
        evaluations={
            name: Evaluation(measure=accuracy(board.tests[name]), part=part)
            for name, part in tests.items()
        },
        validation=accuracy(board.validation[target]),
        rates=rates,
        seeds=SEEDS,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """Trains and measures the cells of an arm; `there` says whether all of them were made."""

    context: Any
    records: pl.DataFrame
    design: Design

    def rows(self, chosen):
        drawn = chosen.select("id", "weight")
        return self.records.join(drawn, on="id", how="inner", validate="1:1").sort("id")

    def rate(self, arm):
        """The learning rate under which an arm's first draw does best on the validation rows."""
        design, seed = self.design, self.design.seeds[0]
        if design.validation is None or not arm.draws:
            return design.rates[0]
        rows, found = self.rows(arm.draws[0]), {}
        for rate in design.rates:
            model = design.recipe.train(self.context, rows, seed=seed, rate=rate)
            items = design.validation.items(self.context, model)
            found[rate] = float((items["value"] * items["weight"]).sum() / items["weight"].sum())
        return max(design.rates, key=lambda rate: (found[rate], -rate))

    def run(self, arm, draws=None):
        """Train and measure all cells, or those of some draws; their mean by evaluation."""
        design, found = self.design, {}
        rate = self.rate(arm)
        some = arm.draws if draws is None else [arm.draws[d] for d in draws]
        for chosen in some or (None,):
            for seed in design.seeds if arm.draws else design.seeds[:1]:
                model = design.recipe.base
                if chosen is not None:
                    rows = self.rows(chosen)
                    model = design.recipe.train(self.context, rows, seed=seed, rate=rate)
                for name, one in design.evaluations.items():
                    items = one.measure.items(self.context, model)
                    value = (items["value"] * items["weight"]).sum() / items["weight"].sum()
                    found.setdefault(name, []).append(value)
        return rate, {name: sum(values) / len(values) for name, values in found.items()}

    def there(self, arm):
        """Whether every model of the arm is in the store."""
        design, trained = self.design, self.design.recipe.trained
        tried = design.rates if design.validation is not None else ()
        first = self.rows(arm.draws[0]) if arm.draws else None
        if first is not None and not all(
            trained(self.context, first, seed=design.seeds[0], rate=rate) for rate in tried
        ):
            return False
        rate = self.rate(arm) if arm.draws else 0.0
        return all(
            trained(self.context, self.rows(chosen), seed=seed, rate=rate)
            for chosen in arm.draws
            for seed in design.seeds
        )
