"""Demonstrations: each record behind its nearest neighbours of the reference set, as worked chats.

`Neighbours` finds, once, the k reference rows whose prompts are nearest by cosine of their
embeddings; what it makes is an entry of the store with two tables. `BehindExamples` shows a record
behind them. Neighbours of a pair show their chosen side alone.
"""

# N = rows of the pool, M = reference rows, K = neighbours, D = embedding size

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Artifact, Context, Prepared, Recipe, View
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import effective_limit
from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.observe.observe import Observed, observe
from gristmill.pipeline.records.schema import canonical_json
from gristmill.pipeline.records.store import Step, table
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding
from gristmill.pipeline.signals.pair_signals import (
    ONE_SIDE,
    SIDES,
    Doubles,
    Messages,
    Side,
    as_one,
    continued,
)
from gristmill.pipeline.signals.views import PlainText

VERSION = 2
BLOCK = 4_096  # rows of the pool against the reference set at a time


@dataclass(frozen=True, kw_only=True)
class Neighbours(Recipe):
    """The k reference rows nearest to each row of the pool, by the embedding of their prompts.

    It makes the artifact "neighbours".

    Attributes:
        base: the embedder's role.
        k: neighbours a row; a row that itself is in the reference set is not its own neighbour.
    """

    artifact: ClassVar[str] = "neighbours"
    base: str = "embedder"
    k: int = 3

    def make(self, context: Context) -> Prepared:
        models = context.models
        rows = context.target_rows("an in-context example").sort("id")
        files = models.files(self.base)[-1]
        signal = SentenceEmbedding(role=self.base, view=PlainText(part="prompt"))
        assert context.reference is not None
        step = Step(
            name="neighbours",
            version=VERSION,
            settings={
                "k": self.k,
                "limit": effective_limit(files, context.passes.max_length),
                "overlong": context.passes.overlong,
            },
            inputs={
                "pool": context.pool.content,
                "reference": context.reference.content,
                "model": files.fingerprint,
            },
        )

        def near() -> pl.DataFrame:
            assert context.reference is not None
            within = RunContext(models=models, passes=context.passes, caps=context.caps)
            seen = [
                observe(within, dataset, [signal]) for dataset in (context.pool, context.reference)
            ]
            return nearest(seen[0], seen[1], signal.column, self.k)

        def shown() -> pl.DataFrame:
            chats = [worked(row) for row in rows.iter_rows(named=True)]
            return rows.select("id").with_columns(messages=pl.Series(chats, dtype=pl.String))

        entry = models.store.run(step, [table("neighbours", near), table("shown", shown)])
        found = Artifact(name=self.artifact, content=entry.content, path=entry.path)
        return Prepared(artifact=found)


def nearest(pool: Observed, reference: Observed, column: str, k: int) -> pl.DataFrame:
    """`id`, `neighbours` (ids of the reference set, nearest first; ties by id)."""
    held = reference.frame().drop_nulls(column).sort("id")
    if held.is_empty():
        raise ValueError("no prompt of the reference set could be shown to the embedder.")
    y_MD = unit(held[column].to_numpy().astype(np.float64), zero=np.nan)
    names = held["id"].to_numpy()
    parts = [pl.DataFrame(schema={"id": pl.String, "neighbours": pl.List(pl.String)})]
    for block in pool.blocks():
        known = block.drop_nulls(column)
        for start in range(0, known.height, BLOCK):
            some = known[start : start + BLOCK]
            x_ND = unit(some[column].to_numpy().astype(np.float64), zero=np.nan)
            chosen = [
                _first(y_MD @ x_D, names, ident, k)
                for x_D, ident in zip(x_ND, some["id"], strict=True)
            ]
            parts.append(
                some.select("id").with_columns(
                    neighbours=pl.Series(chosen, dtype=pl.List(pl.String))
                )
            )
    return pl.concat(parts)


def _first(cosine_M: Doubles, names: Any, own: str, k: int) -> list[str]:  # noqa: ANN401
    # cosines of equal texts differ in their last bits between batches: nearly equal is a tie
    near = np.argsort(-np.round(np.nan_to_num(cosine_M, nan=-2.0), 5), kind="stable")
    return [str(names[j]) for j in near[: k + 1] if names[j] != own][:k]


def worked(row: Mapping[str, Any]) -> str:
    """A reference row as a chat that can stand before another, as JSON: no system prompt."""
    messages = row["messages"] if "messages" in row else [*row["prompt"], *row["chosen"]]
    return canonical_json([m for m in messages if m["role"] != "system"])


@lru_cache(maxsize=2)
def _tables(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[dict[str, Any]]]]:
    near = pl.read_parquet(folder / "neighbours.parquet")
    shown = pl.read_parquet(folder / "shown.parquet")
    chats = {ident: json.loads(text) for ident, text in shown.select("id", "messages").iter_rows()}
    return dict(near.select("id", "neighbours").iter_rows()), chats


@dataclass(frozen=True, kw_only=True)
class BehindExamples(View):
    """A record behind its in-context examples, nearest last; its own answer alone carries loss.

    Demonstrations that do not fit into the length limit are left out, the farthest first; both
    sides of a pair see the same ones. A record's system prompt stands before them all. Where none
    fits, or there is none, nothing can be said of what they do: `no_example_fits`, `no_example`.

    Attributes:
        side: of a pair; an example has the side "chosen" alone.
        found: what `Neighbours` made; None shows the record without in-context examples.
        shots: most in-context examples a record.
    """

    version: ClassVar[int] = 3
    side: Side = "chosen"
    found: Artifact | None = None
    shots: int = 3

    @property
    def name(self) -> str:
        found = self.found.content[:8] if self.found else "none"
        return f"in_context_{self.side}_{self.shots}_{found}"

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        near, chats = _tables(self.found.path) if self.found else ({}, {})
        if self.found and record["id"] not in near:
            return Encoded(reason="prompt_cannot_be_embedded")
        own = [chats[i] for i in near.get(record["id"], [])][: self.shots]
        sides: tuple[Side, ...] = SIDES if "prompt" in record else ("chosen",)
        if self.side not in sides:
            return ONE_SIDE
        if self.found and not own:
            return Encoded(reason="no_example")
        for count in range(len(own), -1, -1):
            before = [m for one in reversed(own[:count]) for m in one]
            shown = {side: _behind(before, record, side, chat) for side in sides}
            if not count or not any(e.cut or e.reason for e in shown.values()):
                break
        alone = as_one(shown, self.side, record)
        if own and not count and alone.reason is None:
            return replace(alone, reason="no_example_fits")
        return alone


def _behind(
    before: Messages, record: Mapping[str, Any], side: Side, chat: ChatTokenizer
) -> Encoded:
    """One side behind some messages, encoded."""
    if "prompt" in record:
        prompt, answer = list(record["prompt"]), list(record[side])
    else:
        messages = list(record["messages"])
        first = sum(m["role"] == "system" for m in messages[:1])
        prompt, answer = messages[:first], messages[first:]
    first = sum(m["role"] == "system" for m in prompt[:1])
    before = [*prompt[:first], *before, *prompt[first:]]
    return continued(before, answer, chat, record.get("tools"))
