"""Preference accuracy: does a model rank the chosen response above the rejected one?"""

# N = pairs

from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.evaluate.heldout import demand_some, kept, load_for, log_losses
from gristmill.pipeline.finetune import data
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.numerics.intervals import Interval, ratio
from gristmill.pipeline.records.store import Store


@dataclass(frozen=True, kw_only=True)
class Preference:
    """How a model ranks pairs; equal scores count as wrong.

    Attributes:
        rows: `id`, `chosen`, `rejected` (scores), `margin`, `reason`; for a language model also
            `chosen_tokens`, `rejected_tokens`.
        accuracy: share of pairs with a positive margin.
        margin: its mean.
        size: mean of its absolute value.
    """

    rows: pl.DataFrame
    accuracy: Interval
    margin: Interval
    size: Interval


def preference_accuracy(
    frame: pl.DataFrame,
    model: str,
    store: Store,
    *,
    reference: str | None = None,
    beta: float = 0.1,
    passes: Passes | None = None,
    seed: int = 0,
    allow_network: bool = False,
) -> Preference:
    """Rank pairs by log-probability s of the response (a sum over its tokens), in nats.

    Without `reference` the margin is s(chosen) - s(rejected), and `beta` is not read. With it, the
    margin is DPO's implicit reward margin, beta ((s_w - ref_w) - (s_l - ref_l)).

    Args:
        frame: preference pairs, or token rows of pairs, as for `train_dpo`.
        model: reference of the language model.
        store: where the table is kept.
        reference: the model that DPO was trained against.
        beta: its strength.
        passes: device, dtype, longest sequence.
        seed: of the intervals.
        allow_network: models may be fetched from the hub.
    """
    data.check(frame, "pair", "preference accuracy")
    passes = passes or Passes()
    table = _log_probs(frame, resolve(model, store, allow_network=allow_network), passes, store)
    chosen, rejected, scale = pl.col("chosen"), pl.col("rejected"), 1.0
    if reference is not None:
        reference_model = resolve(reference, store, allow_network=allow_network)
        other = _log_probs(frame, reference_model, passes, store)
        table = table.with_columns(
            chosen=chosen - other["chosen"], rejected=rejected - other["rejected"]
        )
        scale = beta
    return _summary(table.with_columns(chosen=chosen * scale, rejected=rejected * scale), seed)


def reward_accuracy(
    frame: pl.DataFrame,
    model: str,
    store: Store,
    *,
    passes: Passes | None = None,
    seed: int = 0,
    allow_network: bool = False,
) -> Preference:
    """Rank pairs by a reward model that `train_reward` made; arguments as above."""
    from gristmill.pipeline.finetune.reward import load_reward, rewards

    data.check(frame, "pair", "reward accuracy")
    files = resolve(model, store, allow_network=allow_network)
    passes = passes or Passes()

    def make() -> pl.DataFrame:
        chat = passes.chat(files)
        rows = data.token_rows(frame, "pair", chat)
        shown = rows.filter(pl.col("reason").is_null())
        scorer = load_reward(files, device=passes.device)
        asked = rewards(shown, scorer, batch_tokens=passes.batch_tokens)
        known = asked.unique("id", keep="first")
        return rows.select("id", "reason").join(known, on="id", how="left", validate="m:1")

    return _summary(kept("reward-accuracy", frame, {"model": files}, passes, store, make), seed)


def _log_probs(
    frame: pl.DataFrame, files: ModelFiles, passes: Passes, store: Store
) -> pl.DataFrame:
    def make() -> pl.DataFrame:
        chat = passes.chat(files)
        rows = data.token_rows(frame, "pair", chat)
        model = load_for(files, chat, passes)
        columns = []
        for side in ("chosen", "rejected"):
            nll, n = log_losses(rows, f"{side}_ids", f"{side}_labels", model, passes)
            columns += [
                -pl.Series(side, nll, dtype=pl.Float64),
                pl.Series(f"{side}_tokens", n, dtype=pl.Int64),
            ]
        return rows.select("id", "reason").with_columns(columns)

    return kept("preference", frame, {"model": files}, passes, store, make)


def _summary(table: pl.DataFrame, seed: int) -> Preference:
    rows = table.with_columns(margin=pl.col("chosen") - pl.col("rejected"))
    demand_some(rows, "margin")
    fit = rows.filter(pl.col("margin").is_not_null())
    ids = fit["id"].to_list()
    return Preference(
        rows=rows.select("id", pl.exclude("id", "reason"), "reason"),
        accuracy=ratio(ids, (fit["margin"] > 0).cast(pl.Float64), seed=seed),
        margin=ratio(ids, fit["margin"], seed=seed),
        size=ratio(ids, fit["margin"].abs(), seed=seed),
    )
