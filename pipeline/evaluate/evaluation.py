"""Evaluate: all that is asked about one model, after what it was trained on was held against it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.clean.decontaminate import Embed
from gristmill.pipeline.evaluate.answers import compared
from gristmill.pipeline.evaluate.compression.subset import Subset
from gristmill.pipeline.evaluate.disjoint import Rows, demand_disjoint
from gristmill.pipeline.evaluate.heldout import by_target, held_out_loss
from gristmill.pipeline.evaluate.preference import preference_accuracy
from gristmill.pipeline.evaluate.tasks import evaluate_tasks, questions
from gristmill.pipeline.evaluate.win_rate import win_rate
from gristmill.pipeline.models.completion.local import Local
from gristmill.pipeline.models.completion.requests import CompletionBackend
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.numerics.intervals import Interval
from gristmill.pipeline.records.schema import kind_of
from gristmill.pipeline.records.store import write_table, write_text

# A figure with its 95 % interval; `part` is a source, a metric, or null for all of the set.
LINES: dict[str, Any] = {
    "measure": pl.String,
    "set": pl.String,
    "part": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "items": pl.Int64,
}


@dataclass(frozen=True, kw_only=True)
class TaskChoice:
    """Which tasks are asked, and how.

    Attributes:
        names: of tasks, tags, or paths of task files.
        data: folder of their data files.
        limit: the first so many items of each task.
        subsets: by task: the items that alone are asked, and what they say of all.
        chat_template: prompts are turns of a chat.
        batch_size: of the harness.
    """

    names: tuple[str, ...]
    data: Path
    limit: int | None = None
    subsets: Mapping[str, Subset] = field(default_factory=dict)
    chat_template: bool = False
    batch_size: int = 1


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Against whom a judge compares the model's answers to the prompts of the held-out rows.

    Attributes:
        baseline: reference of the other model.
        judge: who compares.
        cache: of completions.
        max_tokens: longest answer of the two models.
    """

    baseline: str
    judge: CompletionBackend
    cache: Path | None = None
    max_tokens: int = 512


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is asked about a model.

    Attributes:
        model: its reference.
        sets: held-out rows by name: examples and documents for a loss, pairs for an accuracy.
        trained: what it was trained on: none of it is measured on.
        tasks: benchmarks.
        judged: a win rate.
        reference: the model that DPO was trained against, for margins of pairs.
        embed: texts to unit vectors, to find rewordings of what was trained on.
        seed: of intervals.
    """

    model: str
    sets: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    trained: Rows | None = None
    tasks: TaskChoice | None = None
    judged: Judged | None = None
    reference: str | None = None
    embed: Embed | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What was found.

    Attributes:
        lines: `LINES`.
        items: per-item tables by name: `heldout`, `preference`, `tasks`, `win_rate`.
        facts: what the figures depend on, and the harness' own figures, as JSON.
    """

    lines: pl.DataFrame
    items: Mapping[str, pl.DataFrame]
    facts: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, and `summary.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in {"figures": self.lines, **self.items}.items():
            write_table(table, folder / f"{name}.parquet")
        told = {**self.facts, "figures": self.lines.to_dicts()}
        write_text(folder / "summary.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def evaluate(context: RunContext, asked: Evaluation) -> Evaluated:
    """Measure a model on all that is asked; what was measured before is found in the store.

    Raises:
        ValueError: nothing is asked, or rows were trained on, or stand in two sets.
    """
    if not asked.sets and asked.tasks is None:
        raise ValueError("nothing is asked: give held-out rows (--data) or tasks (--task).")
    if asked.judged is not None and not asked.sets:
        raise ValueError("a win rate needs prompts: give held-out rows (--data).")
    demand_disjoint(asked.sets, asked.trained, embed=asked.embed)
    store, passes, network = context.store, context.passes, context.models.allow_network
    files = resolve(asked.model, store, allow_network=network)
    lines: list[dict[str, Any]] = []
    items: dict[str, pl.DataFrame] = {}
    facts: dict[str, Any] = {
        "model": asked.model,
        "model_sha": files.model_sha,
        "tokenizer_sha": files.tokenizer_sha,
        "chat_template_sha": files.chat_template_sha,
        "trained_on_checked": asked.trained is not None,
    }
    if asked.tasks is not None:  # refused first: it costs no pass
        _demand_new(asked, asked.tasks, context)
    pairs = {n: f for n, f in asked.sets.items() if kind_of(f.columns) == "pair"}
    losses = {}
    for name, frame in asked.sets.items():
        if name not in pairs:
            with naming(name):
                losses[name] = held_out_loss(
                    frame, asked.model, store, passes=passes, seed=asked.seed, allow_network=network
                )
    for line in by_target(losses).iter_rows(named=True):
        mean = Interval(value=line["loss"], low=line["low"], high=line["high"])
        lines.append(_line("loss per token", line["target"], line["source"], mean, line["rows"]))
    if losses:
        items["heldout"] = _stacked({name: found.rows for name, found in losses.items()})
    ranked = {}
    for name, frame in pairs.items():
        with naming(name):
            found = preference_accuracy(
                frame, asked.model, store, reference=asked.reference, passes=passes,
                seed=asked.seed, allow_network=network,
            )  # fmt: skip
        ranked[name] = found.rows
        counted = found.rows["margin"].count()
        lines.append(_line("preference accuracy", name, None, found.accuracy, counted))
        lines.append(_line("preference margin", name, None, found.margin, counted))
    if ranked:
        items["preference"] = _stacked(ranked)
    if asked.tasks is not None:
        _ask_tasks(asked, asked.tasks, context, lines, items, facts)
    if asked.judged is not None:
        _judge(asked, asked.judged, context, lines, items, facts)
    return Evaluated(lines=pl.DataFrame(lines, schema=LINES), items=items, facts=facts)


def embedding(reference: str, context: RunContext) -> Embed:
    """A sentence embedder as a function of texts to unit vectors."""
    files = resolve(reference, context.store, allow_network=context.models.allow_network)
    model = load(files, device=context.passes.device, embedder=True).model

    def embed(said: Sequence[str]) -> NDArray[np.floating[Any]]:
        vectors: NDArray[np.floating[Any]] = model.encode(
            list(said), normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return embed


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name the set whose rows cannot be asked."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _demand_new(asked: Evaluation, tasks: TaskChoice, context: RunContext) -> None:
    """Refuse tasks whose items were trained on."""
    if asked.trained is None:
        return
    items = questions(tasks.names, context.store, data=tasks.data, limit=tasks.limit)
    for name, whole in items.items():  # two tasks may ask the same questions in two ways
        subset = tasks.subsets.get(name)
        rows = whole if subset is None else whole[list(subset.rows)]
        demand_disjoint({f"task {name}": rows}, asked.trained, embed=asked.embed)


def _ask_tasks(
    asked: Evaluation,
    tasks: TaskChoice,
    context: RunContext,
    lines: list[dict[str, Any]],
    items: dict[str, pl.DataFrame],
    facts: dict[str, Any],
) -> None:
    found = evaluate_tasks(
        tasks.names,
        asked.model,
        context.store,
        data=tasks.data,
        limit=tasks.limit,
        subsets=tasks.subsets,
        passes=context.passes,
        chat_template=tasks.chat_template,
        batch_size=tasks.batch_size,
        progress=context.progress,
        allow_network=context.models.allow_network,
    )
    for name, result in found.items():
        part = result.metric if result.filter == "none" else f"{result.metric},{result.filter}"
        lines.append(_line("task", name, part, result.interval(asked.seed), result.asked))
        estimate = result.estimated(asked.seed)
        if estimate is not None and result.subset is not None:
            lines.append(_line("task, estimated", name, part, estimate, result.subset.of))
    items["tasks"] = pl.concat([r.items for r in found.values()])
    facts["tasks"] = {
        name: {"figures": dict(r.figures), "made_of": dict(r.made_of)} for name, r in found.items()
    }
    facts["chat_template"] = tasks.chat_template


def _judge(
    asked: Evaluation,
    judged: Judged,
    context: RunContext,
    lines: list[dict[str, Any]],
    items: dict[str, pl.DataFrame],
    facts: dict[str, Any],
) -> None:
    backends = [_answering(reference, context) for reference in (asked.model, judged.baseline)]
    tables = {}
    for name, frame in asked.sets.items():
        if kind_of(frame.columns) == "document":
            continue
        answers, left = compared(frame, *backends, cache=judged.cache, max_tokens=judged.max_tokens)
        found = win_rate(answers, judged.judge, context.store, cache=judged.cache, seed=asked.seed)
        counted = found.rows["value"].count()
        lines.append(_line("win rate", name, "raw", found.raw, counted))
        lines.append(_line("win rate", name, "equal lengths", found.controlled, counted))
        tables[name] = found.rows.join(answers, on="id", how="left")
        facts.setdefault("win_rate", {})[name] = {
            "baseline": judged.baseline,
            "judge": dict(judged.judge.identity),
            "first": found.first,
            "set_aside": dict(found.set_aside),
            "not_answered": left,
        }
    if tables:
        items["win_rate"] = _stacked(tables)


def _answering(reference: str, context: RunContext) -> CompletionBackend:
    files = resolve(reference, context.store, allow_network=context.models.allow_network)
    passes = context.passes
    return Local(loaded=load(files, passes.chat(files), device=passes.device, dtype=passes.dtype))


def _stacked(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Per-item tables of several sets, named in the first column `set`."""
    return pl.concat([t.select(pl.lit(name).alias("set"), pl.all()) for name, t in tables.items()])


def _line(measure: str, name: str, part: str | None, mean: Interval, items: int) -> dict[str, Any]:
    return {
        "measure": measure,
        "set": name,
        "part": part,
        "value": mean.value,
        "low": mean.low,
        "high": mean.high,
        "items": items,
    }
