"""Observe: one pass per (role, view) for the union of the signals that a run's scorers ask for.

Views that begin alike share a pass, and the model reads their common beginning once: the two sides
of a pair, or several questions about one text.

The unit of work is a piece of a shard of unique records (`pieces`). What is kept is one small table
per (signal, piece), keyed by the records, the model and the signal's settings: a later run that
wants one signal more, brings rows more, or drops other rows of a shard, pays for what is new. A row
is known by its content: one that lies in another shard than before, since rows were put in before
it, files were renamed or small files share shards anew, is found again and its numbers are copied.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import (
    EncodingFacts,
    ModelSignal,
    PassSignal,
    Signal,
    TokenSignal,
    View,
    columns_of,
    reads_weights,
    settings_of,
)
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import Batch, RunBackward, batches, forward
from gristmill.pipeline.models.load import (
    LoadedModel,
    effective_limit,
    load_tokenizer,
    pick_device,
    pick_dtype,
)
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.models.shared_prefixes import header, shareable, worth
from gristmill.pipeline.observe.located import NO_IDS, located
from gristmill.pipeline.observe.memory import Fitting
from gristmill.pipeline.observe.observing import Asked, made
from gristmill.pipeline.observe.pieces import cost_of, most_of, pieces
from gristmill.pipeline.observe.shared_passes import (
    LIGHT,
    Reading,
    in_passes,
    needs_of,
    readings,
    tokens_of,
)
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import CONTENT, digest
from gristmill.pipeline.records.store import Step, Store
from gristmill.pipeline.signals.forward_signals import as_column
from gristmill.pipeline.signals.gradient_signals import GradientSignal, gradient_reader

VERSION = 3
Column = Signal | EncodingFacts
T = TypeVar("T")
# Finished passes: of each view, the numbers of rows, and what the model says of them.
_Passes = dict[View, tuple[Sequence[int], Batch]]
_Taken = tuple[int, list[tuple[Sequence[int], dict[Signal, Sequence[Any]]]]]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Observations on disk: implements `contracts.Observations`, one block per shard."""

    dataset: Dataset
    shards: tuple[Path, ...]  # records
    ids: tuple[pl.Series, ...]  # unique ids of each shard, in order
    signals: tuple[tuple[tuple[Path, ...], ...], ...]  # per shard, the tables of each signal
    record_columns: tuple[str, ...] = ()
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of a role's models

    @property
    def rows(self) -> int:
        return sum(len(i) for i in self.ids)

    def columns(self, signal: Signal) -> tuple[tuple[str, float], ...]:
        return columns_of(signal, self.weights.get(signal.role, (1.0,)))

    def blocks(self) -> Iterator[pl.DataFrame]:
        for shard, ids, signals in zip(self.shards, self.ids, self.signals, strict=True):
            if ids.is_empty():  # every row of the shard is a copy, or gone
                continue
            frame = ids.to_frame("id")
            if self.record_columns:
                columns = list(dict.fromkeys(["id", *self.record_columns]))
                records = self.dataset.block(shard, columns).unique("id", keep="first")
                frame = frame.join(records, on="id", how="left", maintain_order="left")
            for paths in signals:
                tables = [pl.read_parquet(path) for path in paths]
                table = (
                    tables[0]
                    if len(tables) == 1
                    else pl.concat(tables).unique("id", keep="first", maintain_order=True)
                )
                frame = frame.join(
                    table, on="id", how="left", validate="1:1", maintain_order="left"
                )
            yield frame

    def frame(self) -> pl.DataFrame:
        return pl.concat(self.blocks()) if self.rows else pl.DataFrame({"id": []})

    def copies(self) -> pl.DataFrame:
        columns = list(dict.fromkeys(["id", *self.record_columns]))
        return pl.concat(self.dataset.block(shard, columns) for shard in self.shards)

    def split(self) -> Iterator["Observed"]:
        """The same, one shard at a time."""
        for shard, ids, signals in zip(self.shards, self.ids, self.signals, strict=True):
            yield replace(self, shards=(shard,), ids=(ids,), signals=(signals,))


def shelves(dataset: Dataset) -> tuple[str, ...]:
    """Per shard, a name that is the same whatever rows of it are gone: all its ids, hashed."""
    return tuple(
        digest(pl.read_parquet(p, columns=["id"])["id"].unique().sort().to_list())
        for p in dataset.shards()
    )


def observe(
    context: RunContext,
    dataset: Dataset,
    signals: Sequence[Signal],
    *,
    facts: Sequence[EncodingFacts] = (),
    record_columns: Sequence[str] = (),
) -> Observed:
    """Make (or find) the observations of `signals` for every unique record of `dataset`.

    The facts of each view that is shown are written beside, and those of further views in `facts`.

    With several models in a role, a signal's columns are named `<column>@0`, `<column>@1`, ...
    What the tokenizer alone says is asked of the first of them.
    """
    models = context.models
    ids = new_ids(dataset)
    tables: list[list[tuple[Path, ...]]] = [[] for _ in ids]
    together = model_passes(context, dataset, signals, facts)
    for of_pass in made(context, [work.asked(ids) for work in together]):
        for i, of_shard in enumerate(of_pass):
            tables[i] += of_shard
    columns = [
        c
        for name in record_columns
        for c in (CONTENT[dataset.kind] if name == "*content" else (name,))
    ]
    return Observed(
        dataset=dataset,
        shards=tuple(dataset.shards()),
        ids=tuple(ids),
        signals=tuple(tuple(t) for t in tables),
        record_columns=tuple(columns),
        weights={role: models.weights(role) for role in dict.fromkeys(w.role for w in together)},
    )


def model_passes(
    context: RunContext,
    dataset: Dataset,
    signals: Sequence[Signal],
    facts: Sequence[EncodingFacts] = (),
) -> "list[ModelPass]":
    """The passes that these signals take, in order: what `observe` makes, and a plan foretells."""
    names = shelves(dataset)
    found = []
    signals = [s.of_kind(dataset.kind) for s in signals]
    for role, members in in_passes(signals, facts):
        several = context.models.files(role)
        for k, files in enumerate(several):
            asked = tuple(m for m in members if isinstance(m, Signal) or k == 0)
            if asked:
                found.append(
                    ModelPass(
                        context=context,
                        dataset=dataset,
                        files=files,
                        shelves=names,
                        columns=asked,
                        suffix=f"@{k}" if len(several) > 1 else "",
                    )
                )
    return found


def new_ids(dataset: Dataset) -> list[pl.Series]:
    """Per shard, the ids that no earlier shard holds: what has to be observed."""
    if not dataset.shards():
        return []
    ids = [dataset.block(p, ["id"]).with_columns(shard=i) for i, p in enumerate(dataset.shards())]
    first = pl.concat(ids).unique("id", keep="first", maintain_order=True)
    return [first.filter(pl.col("shard") == i)["id"] for i in range(len(ids))]


@dataclass(frozen=True, kw_only=True)
class _Held:
    """What the store has of a signal for some records.

    Attributes:
        paths: its tables of this shard.
        moved: tables of other shards, with those of the records that they hold.
        missing: ids that are in none of them.
    """

    paths: tuple[Path, ...] = ()
    moved: tuple[tuple[Path, pl.Series], ...] = ()
    missing: pl.Series


@dataclass(frozen=True, kw_only=True)
class _Todo:
    """A unit of a pass: what is missing of one shard.

    Attributes:
        shard: its number.
        held: what is there already, by column.
        rows: of which something is missing.
        lacking: numbers of the columns that are missing of any shard: what decides on the model.
    """

    shard: int
    held: tuple[_Held, ...]
    rows: pl.Series
    lacking: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelPass:
    """One model over all shards, for those rows of a (signal, shard) that are missing.

    Rows that were observed under another mask of the same shard, or in another one, are found
    again. Of several views, all are read where one is missing, so that a run that was cut off ends
    with the same numbers as one that was not.
    """

    context: RunContext
    dataset: Dataset
    files: ModelFiles
    shelves: tuple[str, ...]
    columns: tuple[Column, ...]
    suffix: str

    @property
    def store(self) -> Store:
        return self.context.store

    @property
    def passes(self) -> Passes:
        return self.context.pinned

    @cached_property
    def chat(self) -> ChatTokenizer:
        return load_tokenizer(
            self.files, limit=self.passes.max_length, overlong=self.passes.overlong
        )

    @cached_property
    def limit(self) -> int:
        return effective_limit(self.files, self.passes.max_length)

    @cached_property
    def dtype(self) -> str:
        return pick_dtype(self.passes.dtype, pick_device(self.passes.device))

    def name(self, column: Column) -> str:
        return column.column + (self.suffix if isinstance(column, Signal) else "")

    def step(self, signal: Column, shard: int, ids: pl.Series) -> Step:
        """The step that observes these rows of a shard; steps on rows of one shard lie together."""
        heavy = reads_weights(signal)
        settings = {
            "signal": [signal.version, settings_of(signal)],
            "view": [signal.view.version, signal.view.name],
            "column": self.name(signal),
            "limit": self.limit,
            "overlong": self.passes.overlong,
            "dtype": self.dtype if heavy else "",
            **({"threads": self.passes.threads} if heavy and self.passes.threads else {}),
        }
        inputs = {
            "model": self.files.fingerprint if heavy else self.files.tokenizer_sha,
            "template": self.files.chat_template_sha,
        }
        return Step(
            name="observe",
            version=VERSION,
            shelf=f"{digest([VERSION, settings, inputs])}-{self.shelves[shard]}",
            settings=settings,
            inputs={"records": digest(ids.to_list()), **inputs},
        )

    def held(self, signal: Column, ids: Sequence[pl.Series]) -> list[_Held]:
        """What is there of a signal, shard by shard; the whole store is asked for what is not."""
        found = [self._shelved(signal, i, shard) for i, shard in enumerate(ids)]
        lacking = [h.missing.to_frame().with_columns(shard=i) for i, h in enumerate(found)]
        missing = pl.concat([NO_IDS.to_frame().with_columns(shard=pl.lit(0)), *lacking])
        if missing.is_empty():
            return found
        rack = self.store.rack(self.step(signal, 0, ids[0]))
        moved = located([entry.shards[0] for entry in rack], missing)
        for (shard,), rows in moved.partition_by("shard", as_dict=True).items():
            held = found[shard]
            parts = rows.partition_by("path", as_dict=True, maintain_order=True)
            found[shard] = replace(
                held,
                moved=tuple((Path(path), part["id"]) for (path,), part in parts.items()),
                missing=held.missing.filter(~held.missing.is_in(rows["id"].implode())),
            )
        return found

    def _shelved(self, signal: Column, shard: int, ids: pl.Series) -> _Held:
        """What is there of a signal for these rows of a shard, on the shard's own shelf."""
        if ids.is_empty():
            return _Held(missing=NO_IDS)
        step = self.step(signal, shard, ids)
        whole = self.store.find(step)
        if whole is not None:
            return _Held(paths=(whole.shards[0],), missing=NO_IDS)
        paths: list[Path] = []
        missing = ids
        for entry in self.store.shelf(step):
            path = entry.shards[0]
            there = missing.is_in(pl.read_parquet(path, columns=["id"])["id"].implode())
            if there.any():
                paths.append(path)
                missing = missing.filter(~there)
        return _Held(paths=tuple(paths), missing=missing)

    @property
    def role(self) -> str:
        return self.columns[0].role

    def missing(self, ids: Sequence[pl.Series]) -> tuple[list[pl.Series], tuple[Column, ...]]:
        """Per shard, the rows that the store lacks something of; and what it lacks of any row."""
        return self._missing(self._found(ids), ids)

    def _found(self, ids: Sequence[pl.Series]) -> "list[dict[Column, _Held]]":
        held = {s: self.held(s, ids) for s in self.columns}
        return [{s: held[s][i] for s in self.columns} for i in range(len(ids))]

    def _missing(
        self, found: "Sequence[Mapping[Column, _Held]]", ids: Sequence[pl.Series]
    ) -> tuple[list[pl.Series], tuple[Column, ...]]:
        todo = [
            shard.filter(shard.is_in(pl.concat([h.missing for h in held.values()]).implode()))
            for shard, held in zip(ids, found, strict=True)
        ]
        return todo, tuple(s for s in self.columns if any(len(h[s].missing) for h in found))

    def model(self, lacking: Sequence[Column]) -> LoadedModel | None:
        """The model in memory, if any of these columns asks one."""
        if not any(map(reads_weights, lacking)):
            return None
        embedder = "embedding" in needs_of(lacking)
        loaded = self.context.models.load(self.files, self.passes, embedder=embedder)
        return replace(loaded, chat=self.chat)

    def asked(self, ids: Sequence[pl.Series]) -> Asked:
        """What is there of all shards, and what is to be made: units for an engine."""
        found = [
            {signal: self._brought(index, signal, one, ids[index]) for signal, one in held.items()}
            for index, held in enumerate(self._found(ids))
        ]
        todo, lacking = self._missing(found, ids)
        numbers = tuple(n for n, s in enumerate(self.columns) if s in lacking)
        # where all rows are missing, the ids stand in memory once for all passes
        todo = [
            all_ if len(rows) == len(all_) else rows for rows, all_ in zip(todo, ids, strict=True)
        ]
        shards = {
            i: _Todo(shard=i, held=tuple(held.values()), rows=rows, lacking=numbers)
            for i, (held, rows) in enumerate(zip(found, todo, strict=True))
            if len(rows)
        }
        return Asked(
            work=partial(
                _of,
                dataset=self.dataset,
                files=self.files,
                shelves=self.shelves,
                columns=self.columns,
                suffix=self.suffix,
            ),
            files=self.files,
            heavy=any(map(reads_weights, lacking)),
            what=self._what,
            total=sum(map(len, todo)) * len(self.views),
            there=[_tables(held.values()) for held in found],
            shards=shards,
        )

    @property
    def _what(self) -> str:
        return f"{self.role}: {' + '.join(v.name for v in self.views)}"

    def shard(self, todo: _Todo) -> list[tuple[Path, ...]]:
        """Make what is missing of a shard, and keep it; the tables of each column."""
        index = todo.shard
        held = {s: self._by_now(s, index, h) for s, h in zip(self.columns, todo.held, strict=True)}
        left = pl.concat([NO_IDS, *(h.missing for h in held.values())])
        rows = todo.rows.filter(todo.rows.is_in(left.implode()))
        total = len(todo.rows) * len(self.views)
        if rows.is_empty():
            self.context.advance(self._what, total, total)
            return _tables(held.values())
        model = self.model([self.columns[n] for n in todo.lacking])
        lacking = [s for s in self.columns if len(held[s].missing)]
        encoded = self.encoded(index, rows, whole=any(map(reads_weights, lacking)))
        done = total - len(rows) * len(self.views)
        for begin, end in self._pieces(encoded, lacking, model):
            some = rows[begin:end]
            asked = [s for s in lacking if held[s].missing.is_in(some.implode()).any()]
            parts = {view: whole[begin:end] for view, whole in encoded.items()}
            columns = self.read(parts, asked, model, (self._what, done, total))
            done += len(some) * len(self.views)
            for signal in asked:
                held[signal] = self._keep(index, some, columns[signal], held[signal], signal)
            self.context.advance(self._what, done, total)
        return _tables(held.values())

    def _by_now(self, signal: Column, shard: int, held: _Held) -> _Held:
        """What is there of a shard now: a worker that died in it may have kept a part."""
        new = self._shelved(signal, shard, held.missing)
        return _Held(paths=(*held.paths, *new.paths), missing=new.missing)

    def encoded(
        self, index: int, ids: pl.Series, *, whole: bool = True
    ) -> dict[View, list[Encoded]]:
        """Rows of a shard as each view shows them; not `whole`: by ids and turns alone."""
        content = ["id", *CONTENT[self.dataset.kind]]
        records = self.dataset.block(self.dataset.shards()[index], content)
        records = ids.to_frame("id").join(
            records.unique("id", keep="first"), on="id", how="left", maintain_order="left"
        )
        rows = list(records.iter_rows(named=True))
        if not whole:
            return {view: view.encode_tokens(rows, self.chat) for view in self.views}
        return {view: [view.encode(row, self.chat) for row in rows] for view in self.views}

    def _pieces(
        self,
        encoded: Mapping[View, Sequence[Encoded]],
        lacking: Sequence[Column],
        model: LoadedModel | None,
    ) -> list[tuple[int, int]]:
        """The runs of rows that are kept one after the other."""
        rows = len(next(iter(encoded.values()), ()))
        if model is None or not rows:
            return [(0, rows)] * bool(rows)  # a tokenizer alone is quick
        costs = [0.0] * rows
        for view, whole in encoded.items():
            signals = [s for s in lacking if isinstance(s, Signal) and s.view == view]
            for at, one in enumerate(whole):
                costs[at] += cost_of(signals, len(one.ids))
        size = sum(p.numel() for p in model.model.parameters())
        return pieces(costs, most_of(size, model.device, self.passes.batch_tokens))

    def _brought(self, index: int, signal: Column, held: _Held, ids: pl.Series) -> _Held:
        """Copy to a shard's own shelf what was observed of its rows in other shards."""
        if not held.moved:
            return held
        tables = [
            pl.read_parquet(path).filter(pl.col("id").is_in(some.implode()))
            for path, some in held.moved
        ]
        there = pl.concat(tables)
        mine = ids.filter(ids.is_in(there["id"].implode()))
        frame = mine.to_frame().join(there, on="id", how="left", maintain_order="left")
        entry = self.store.put(self.step(signal, index, mine), frame)
        return replace(held, paths=(*held.paths, entry.shards[0]), moved=())

    def _keep(
        self, index: int, rows: pl.Series, column: pl.Series, held: _Held, signal: Column
    ) -> _Held:
        """Keep what was missing of a signal among these rows, and no row twice."""
        mine = held.missing.is_in(rows.implode())
        new = held.missing.filter(mine)
        frame = pl.DataFrame([rows, column]).filter(pl.col("id").is_in(new.implode()))
        entry = self.store.put(self.step(signal, index, new), frame)
        return _Held(paths=(*held.paths, entry.shards[0]), missing=held.missing.filter(~mine))

    @cached_property
    def views(self) -> tuple[View, ...]:
        return tuple(dict.fromkeys(s.view for s in self.columns))

    @cached_property
    def shown(self) -> tuple[View, ...]:
        """The views that the model itself is shown."""
        asking = {s.view for s in self.columns if reads_weights(s)}
        return tuple(v for v in self.views if v in asking)

    @cached_property
    def _fitting(self) -> Fitting:
        return Fitting()

    @cached_property
    def _readers(self) -> dict[tuple[Signal, ...], RunBackward]:
        return {}

    def _own(self, model: LoadedModel, signals: Sequence[Signal]) -> RunBackward | None:
        """The backward pass of these signals, and those that run the model themselves.

        What batches share (random matrices, anchors) is made once a run.
        """
        backward = tuple(s for s in signals if isinstance(s, GradientSignal))
        running = tuple(s for s in signals if isinstance(s, ModelSignal))
        wanted = (*backward, *running)
        if wanted and wanted not in self._readers:
            gradients = gradient_reader(model, backward)
            own = {s.column: s.open(model) for s in running}
            self._readers[wanted] = lambda rows: (
                gradients(rows) | {column: run(rows) for column, run in own.items()}
            )
        return self._readers.get(wanted)

    def read(
        self,
        encoded: Mapping[View, Sequence[Encoded]],
        asked: Sequence[Column],
        model: LoadedModel | None,
        told: tuple[str, int, int],
    ) -> dict[Column, pl.Series]:
        """What these columns say of some rows, as each view shows them; nothing is kept.

        Args:
            encoded: the rows by view.
            asked: the columns.
            model: who is asked.
            told: what progress is told of, done before, and in all.
        """
        found: dict[Column, pl.Series] = {}
        for facts in (c for c in asked if isinstance(c, EncodingFacts)):
            told_of = [facts.of(e) for e in encoded[facts.view]]
            found[facts] = as_column(self.name(facts), told_of, facts.dtype)
        for tokens in (c for c in asked if isinstance(c, TokenSignal)):
            values_of = tokens.read(encoded[tokens.view], self.chat)
            found[tokens] = as_column(self.name(tokens), values_of, tokens.dtype())
        signals = [c for c in asked if isinstance(c, Signal) and reads_weights(c)]
        if signals:
            assert model is not None, "a signal asks a model"
            values: dict[Signal, list[Any]] = {s: [None] * len(encoded[s.view]) for s in signals}
            what, done, total = told
            taken = partial(self._taken, signals)
            for tokens_read, of_batch in self._batches(encoded, signals, model, taken):
                self.context.caps.spend(tokens_read)
                for numbers, by_signal in of_batch:
                    for signal, part in by_signal.items():
                        for i, value in zip(numbers, part, strict=True):
                            values[signal][i] = value
                    done += len(numbers)
                self.context.tell(what, min(done, total), total)
            for s in signals:
                found[s] = as_column(self.name(s), values[s], s.dtype(model))
        return found

    @staticmethod
    def _taken(signals: Sequence[Signal], read: _Passes) -> _Taken:
        """Of a finished pass the tokens; of each view the rows, and what its signals say."""
        tokens, found = 0, []
        for view, (numbers, batch) in read.items():
            mine = [s for s in signals if s.view == view]
            tokens += tokens_of(mine, batch)
            parts = {
                s: s.read(batch) if isinstance(s, PassSignal) else batch.outputs[s.column]
                for s in mine
            }
            found.append((numbers, parts))
        return tokens, found

    def _batches(
        self,
        encoded: Mapping[View, Sequence[Encoded]],
        signals: Sequence[Signal],
        model: LoadedModel,
        taken: Callable[[_Passes], T],
    ) -> Iterator[T]:
        """What is taken of finished passes, each over as many rows as the device holds."""
        own = self._own(model, signals)
        light = own is None and needs_of(signals) <= LIGHT
        shares = light and shareable(model.model, self.limit)
        for reading in readings(encoded, signals, self.shown, shares):
            read = partial(self._batch, encoded, reading, model, own, shares)
            for batch in batches(reading.lengths, self.passes.batch_tokens):
                yield from self._fitting.each(batch, reading.lengths, partial(_then, read, taken))

    @staticmethod
    def _batch(
        encoded: Mapping[View, Sequence[Encoded]],
        reading: Reading,
        model: LoadedModel,
        own: RunBackward | None,
        shares: bool,
        batch: npt.NDArray[np.int64],
    ) -> _Passes:
        """One finished pass over some rows of a reading."""
        if reading.family is not None:
            return reading.family.read(batch, model, reading.needs)
        (view,) = reading.views
        numbers = [reading.rows[b] for b in batch]
        rows = [encoded[view][i] for i in numbers]
        # e.g. a judge's question, the same for all
        one = [header(len(rows))]
        shared = one if shares and worth([e.ids for e in rows], one) else []
        found = forward(rows, model, reading.needs, backward=own, groupings=shared)
        return {view: (numbers, found)}


def _then(
    read: Callable[[npt.NDArray[np.int64]], _Passes],
    taken: Callable[[_Passes], T],
    rows: npt.NDArray[np.int64],
) -> T:
    """Read some rows, and take what is asked of them while the device still holds the pass."""
    return taken(read(rows))


def _tables(held: Iterable[_Held]) -> list[tuple[Path, ...]]:
    """The tables of a shard, by column."""
    return [h.paths for h in held if h.paths]


def _of(context: RunContext, **fields: Any) -> ModelPass:  # noqa: ANN401  (those of a pass)
    """A pass in the context of whoever runs it."""
    return ModelPass(context=context, **fields)
