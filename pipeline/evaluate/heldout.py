"""Held-out loss: how surprised a model is by the answers of rows it was not trained on."""

# N = rows

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.finetune import data
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.forward import batches, forward
from gristmill.pipeline.models.load import (
    LoadedModel,
    load,
    pick_device,
    pick_dtype,
)
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.numerics.intervals import Interval, ratio
from gristmill.pipeline.records.store import Step, Store

VERSION = 1
# Of the rows that could be shown; `loss` is token-weighted, in nats, with its 95 % interval.
SOURCES: dict[str, Any] = {
    "source": pl.String,
    "rows": pl.Int64,
    "tokens": pl.Int64,
    "loss": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
TARGETS: dict[str, Any] = {"target": pl.String, **SOURCES}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out loss.

    Attributes:
        rows: `id`, `tokens` (that carry loss), `nll` (their summed loss, nats), `loss` (mean),
            `reason`.
        per_token: mean over all tokens: long answers weigh more.
        per_row: mean over rows of their mean loss.
        sources: `SOURCES`: the mean over tokens of each source, where rows name theirs.
    """

    rows: pl.DataFrame
    per_token: Interval
    per_row: Interval
    sources: pl.DataFrame


def held_out_loss(
    frame: pl.DataFrame,
    model: str,
    store: Store,
    *,
    passes: Passes | None = None,
    seed: int = 0,
    allow_network: bool = False,
) -> HeldOut:
    """Loss of `model` on the answers of `frame`.

    Args:
        frame: examples, documents or token rows, as for `train_sft`; `source` is optional.
        model: reference of the model.
        store: where the table is kept.
        passes: device, dtype, longest sequence.
        seed: of the intervals.
        allow_network: the model may be fetched from the hub.
    """
    data.check(frame, "sequence", "held-out loss")
    files = resolve(model, store, allow_network=allow_network)
    passes = passes or Passes()

    def make() -> pl.DataFrame:
        chat = passes.chat(files)
        rows = data.token_rows(frame, "sequence", chat)
        nll, tokens = log_losses(rows, "input_ids", "labels", load_for(files, chat, passes), passes)
        return rows.select("id", "reason").with_columns(
            pl.Series("tokens", tokens, dtype=pl.Int64), pl.Series("nll", nll, dtype=pl.Float64)
        )

    table = kept("heldout", frame, {"model": files}, passes, store, make)
    counted = pl.col("tokens") > 0
    rows = table.select(
        "id",
        "tokens",
        "nll",
        loss=pl.when(counted).then(pl.col("nll") / pl.col("tokens")),
        reason=pl.coalesce("reason", pl.when(~counted).then(pl.lit("no_token_carries_loss"))),
    )
    fit = rows.filter(pl.col("loss").is_not_null())
    return HeldOut(
        rows=rows,
        per_token=ratio(fit["id"].to_list(), fit["nll"], fit["tokens"], seed=seed),
        per_row=ratio(fit["id"].to_list(), fit["loss"], seed=seed),
        sources=_by_source(frame, rows, seed),
    )


def by_target(found: Mapping[str, HeldOut]) -> pl.DataFrame:
    """`TARGETS`: all rows of each held-out set (source null) and, if it has several, each source.

    Args:
        found: held-out losses by the name of the set.
    """
    lines = [pl.DataFrame(schema=TARGETS)]
    for name, one in found.items():
        counted = one.rows.filter(pl.col("loss").is_not_null())
        whole = {
            "source": None,
            "rows": counted.height,
            "tokens": counted["tokens"].sum(),
            "loss": one.per_token.value,
            "low": one.per_token.low,
            "high": one.per_token.high,
        }
        several = one.sources if one.sources.height > 1 else one.sources.clear()
        table = pl.concat([pl.DataFrame([whole], schema=SOURCES), several])
        lines.append(table.select(pl.lit(name).alias("target"), *SOURCES))
    return pl.concat(lines)


def _by_source(frame: pl.DataFrame, rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """`SOURCES` of the rows of a frame that have a loss; a row without a source is in none."""
    if "source" not in frame.columns:
        return pl.DataFrame(schema=SOURCES)
    placed = rows.with_columns(frame["source"]).filter(pl.col("loss").is_not_null())
    lines = []
    for (source,), part in placed.drop_nulls("source").group_by("source"):
        mean = ratio(part["id"].to_list(), part["nll"], part["tokens"], seed=seed)
        lines.append(
            {
                "source": source,
                "rows": part.height,
                "tokens": part["tokens"].sum(),
                "loss": mean.value,
                "low": mean.low,
                "high": mean.high,
            }
        )
    return pl.DataFrame(lines, schema=SOURCES).sort("source")


def log_losses(
    rows: pl.DataFrame, ids: str, labels: str, model: LoadedModel, passes: Passes
) -> tuple[list[float | None], list[int | None]]:
    """Summed loss of the labelled tokens of each token row, and their number; null without tokens.

    Sums are float64, over tokens in order: batching does not change them beyond rounding.
    """
    # nothing predicts the first token
    encoded = [
        None if t is None else Encoded(ids=t, turn=[0, *(int(x != data.IGNORED) for x in y[1:])])
        for t, y in zip(rows[ids].to_list(), rows[labels].to_list(), strict=True)
    ]
    nll: list[float | None] = [None] * len(encoded)
    tokens: list[int | None] = [None if e is None else e.answer_tokens for e in encoded]
    shown = [(n, e) for n, e in enumerate(encoded) if e is not None]
    for part in batches([len(e.ids) for _, e in shown], passes.batch_tokens):
        batch = forward([shown[i][1] for i in part], model, frozenset({"losses"}))
        for b, i in enumerate(part):
            nll[shown[i][0]] = float(np.nansum(batch.losses(b), dtype=np.float64))
    return nll, tokens


def load_for(files: ModelFiles, chat: ChatTokenizer, passes: Passes) -> LoadedModel:
    """Load a model as the passes say."""
    return load(files, chat, device=passes.device, dtype=passes.dtype)


def kept(
    name: str,
    frame: pl.DataFrame,
    models: dict[str, ModelFiles],
    passes: Passes,
    store: Store,
    make: Callable[[], pl.DataFrame],
) -> pl.DataFrame:
    """The table of an evaluation, made or found, in the order of the frame's rows."""
    step = Step(
        name=name,
        version=VERSION,
        settings={
            "dtype": pick_dtype(passes.dtype, pick_device(passes.device)),
            "max_length": passes.max_length,
            "overlong": passes.overlong,
        },
        inputs={
            "rows": data.fingerprint(frame),
            **{role: files.fingerprint for role, files in models.items()},
        },
    )
    found = store.find(step)
    table = found.frame() if found else store.put(step, make().sort("id")).frame()
    return in_order(table, frame["id"].to_list())


def in_order(table: pl.DataFrame, ids: Sequence[str]) -> pl.DataFrame:
    """The rows of `table` in the order of `ids`; copies are alike."""
    first: Any = pl.DataFrame({"id": ids}).join(
        table.unique("id", keep="first", maintain_order=True),
        on="id",
        how="left",
        maintain_order="left",
        validate="m:1",
    )
    return pl.DataFrame(first)
