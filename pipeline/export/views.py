"""Records as trainer columns: one view per config, and nothing in it that a trainer misreads.

A turn is a struct of role and content. If any shipped record has further fields (tool calls,
reasoning, names), turns are JSON objects instead (Arrow's JSON type, which `datasets` decodes): a
struct would give every turn every field, and templates that ask `'tool_calls' in message` would
then take each turn for a tool call.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from gristmill.pipeline.export.shards import arrow
from gristmill.pipeline.numerics.answers import known_answer
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.records.text import LOSS, whole

TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
# Columns that trainers interpret; a carried column must not bear such a name.
# fmt: off
RESERVED = frozenset((
    "input_ids", "labels", "seq_lengths", "completion_mask", "assistant_masks", "label",
    "margin", "images", "text", "messages", "chat_template_kwargs", "ref_chosen_logps",
    "ref_rejected_logps", "dataset_source", "dataset", "ground_truth", "prompt", "completion",
    "chosen", "rejected", "conversations", "tools",
))
# fmt: on
SFT_VIEWS = ("messages", "prompt_completion")
PAIR_VIEWS = ("conversation", "single", "reward", "kto", "kto_messages")
MARGIN = "margin"  # of the view reward: how much better the chosen side is
GRPO = "grpo"  # the further config of examples: prompts with the answer that a verifier checks

Cells = Mapping[str, pl.Expr]


@dataclass(frozen=True, kw_only=True)
class View:
    """One config: its content columns, how they are made, and the folder they are in.

    Attributes:
        lists: columns that are lists of turns.
        turns: columns that are a single turn.
        texts: columns that are plain or JSON text.
        numbers: further columns, with their Arrow types.
        unpaired: each pair gives two rows, one a side, with the columns `completion` and `label`.
        only: which records it shows; None: all.
        cells: expressions over record columns that give `lists` (as record messages) and `texts`.
    """

    config: str
    folder: str
    lists: tuple[str, ...]
    turns: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    unpaired: bool = False
    only: pl.Expr | None = None
    cells: Cells

    def table(self, frame: pl.DataFrame, carried: Mapping[str, Any], *, rich: bool) -> pa.Table:
        """The Arrow table of a frame of records; `rich` turns are JSON."""
        frame = unpaired(frame) if self.unpaired else frame
        frame = frame if self.only is None else frame.filter(self.only)
        made = frame.select(
            **{c: self.cells[c] for c in (*self.lists, *self.turns, *self.texts, *self.numbers)},
            **{c: pl.col(c) for c in carried},
        )
        if rich:
            made = made.with_columns(
                [_as_json(made, c).alias(c) for c in self.lists]
                + [_as_json(made, c).list.first().alias(c) for c in self.turns]
            )
            turn: Any = pa.json_()
        else:
            pick = pl.struct(
                pl.element().struct.field("role"), pl.element().struct.field("content")
            )
            made = made.with_columns(
                [pl.col(c).list.eval(pick) for c in self.lists]
                + [pl.col(c).list.eval(pick).list.first() for c in self.turns]
            )
            turn = TURN
        schema = {c: pa.list_(turn) for c in self.lists}
        schema |= dict.fromkeys(self.turns, turn) | dict.fromkeys(self.texts, pa.string())
        return arrow(made, {**schema, **self.numbers, **carried})


def unpaired(frame: pl.DataFrame) -> pl.DataFrame:
    """Two rows for each pair, the chosen side first, with `completion` and `label`."""
    numbered = frame.with_row_index("_pair")
    sides = [
        numbered.with_columns(completion=pl.col(side), label=pl.lit(side == "chosen"))
        for side in ("chosen", "rejected")
    ]
    return pl.concat(sides).sort("_pair", maintain_order=True).drop("_pair")


def views(
    kind: Kind, *, sft_view: str, pair_views: tuple[str, ...], tools: bool, grpo: bool = False
) -> tuple[View, ...]:
    """The configs of a kind of record, `default` first."""
    if sft_view not in SFT_VIEWS:
        raise ValueError(f"sft_view={sft_view!r} is unknown; use one of {', '.join(SFT_VIEWS)}.")
    if unknown := sorted(set(pair_views) - set(PAIR_VIEWS)):
        raise ValueError(f"pair_views has {unknown}; known are {', '.join(PAIR_VIEWS)}.")
    if pair_views and kind != "pair":
        raise ValueError(
            f"pair_views are shapes of pairs, and these rows are {kind}s: leave them out."
        )
    if grpo and kind != "example":
        raise ValueError(f"the config grpo is made of examples, and these rows are {kind}s.")
    default: dict[str, Any] = {"config": "default", "folder": "data"}
    if kind == "document":
        return (View(**default, lists=(), texts=("text",), cells={"text": pl.col("text")}),)
    extra = {"tools": pl.col("tools")} if tools else {}
    if kind == "example":
        further = (_grpo(extra),) if grpo else ()
        if sft_view == "messages":
            cells: Cells = {"messages": pl.col("messages"), **extra}
            plain_view = View(**default, lists=("messages",), texts=tuple(extra), cells=cells)
            return (plain_view, *further)
        messages = pl.col("messages")
        cells = {
            "prompt": messages.list.head(messages.list.len() - 1),
            "completion": messages.list.tail(1),
            **extra,
        }
        lists = ("prompt", "completion")
        return (View(**default, lists=lists, texts=tuple(extra), cells=cells), *further)
    prompt, chosen, rejected = pl.col("prompt"), pl.col("chosen"), pl.col("rejected")
    plain = {"prompt": prompt, "chosen": chosen, "rejected": rejected, **extra}
    sides = {"chosen": prompt.list.concat(chosen), "rejected": prompt.list.concat(rejected)}
    texts = tuple(extra)
    made = [View(**default, lists=("prompt", "chosen", "rejected"), texts=texts, cells=plain)]
    if "conversation" in pair_views:
        name = "conversation"
        whole = ("chosen", "rejected")
        made.append(View(config=name, folder=name, lists=whole, texts=texts, cells=sides | extra))
    if "single" in pair_views:
        name, turns = "single", ("chosen", "rejected")
        made.append(
            View(config=name, folder=name, lists=("prompt",), turns=turns, texts=texts, cells=plain)
        )
    if "reward" in pair_views:
        made.append(
            View(
                config="reward",
                folder="reward",
                lists=("chosen", "rejected"),
                texts=texts,
                numbers={MARGIN: pa.float64()},
                cells={**sides, **extra, MARGIN: pl.col(MARGIN)},
            )
        )
    completion, label = pl.col("completion"), {"label": pa.bool_()}
    shapes: dict[str, Cells] = {
        "kto": {"prompt": prompt, "completion": completion},
        "kto_messages": {"messages": prompt.list.concat(completion)},
    }
    for name, cells in shapes.items():
        if name in pair_views:
            made.append(
                View(
                    config=name,
                    folder=name,
                    lists=tuple(cells),
                    texts=texts,
                    numbers=label,
                    unpaired=True,
                    cells={**cells, **extra, "label": pl.col("label")},
                )
            )
    return tuple(made)


def _grpo(extra: Cells) -> View:
    """Prompts up to a last answer that a verifier can check, and what it checks them against."""
    messages = pl.col("messages")
    last = messages.list.last().struct
    answer = last.field("content").map_elements(known_answer, return_dtype=pl.String)
    known = pl.when(last.field("role") == "assistant").then(answer)
    asked = messages.list.head(messages.list.len() - 1)
    return View(
        config=GRPO,
        folder=GRPO,
        lists=("prompt",),
        texts=("answer", *extra),
        only=known.is_not_null() & (messages.list.len() > 1),
        cells={"prompt": asked, "answer": known, **extra},
    )


def misfits(kind: Kind, sft_view: str) -> tuple[pl.Expr, str]:
    """Which records the views cannot show, as an expression, and the sentence that says so."""
    role = pl.element().struct.field("role")
    if kind == "pair":
        single = [
            (pl.col(c).list.len() == 1) & pl.col(c).list.eval(role == "assistant").list.all()
            for c in ("chosen", "rejected")
        ]
        return ~(single[0] & single[1]), "chosen and rejected must each be one assistant message"
    if kind == "example" and sft_view == "prompt_completion":
        last = pl.col("messages").list.last().struct.field("role")
        short = pl.col("messages").list.len() < 2
        extra = pl.col("messages").list.last().struct.field("extra")
        shown_only = (extra.str.json_path_match(f"$.{LOSS}") == "0").fill_null(value=False)
        return (last != "assistant") | short | shown_only, (
            "prompt_completion needs a prompt and a last assistant turn that carries loss; "
            "use sft_view='messages'"
        )
    return pl.lit(False), ""


def _as_json(frame: pl.DataFrame, column: str) -> pl.Series:
    made: list[list[str]] = [[turn_json(m) for m in turns] for turns in frame[column].to_list()]
    return pl.Series(column, made, dtype=pl.List(pl.String))


def turn_json(message: Mapping[str, Any]) -> str:
    """A record's message as the JSON object that a chat template is given."""
    return json_text.published(whole(message))
