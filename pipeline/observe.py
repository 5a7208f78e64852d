"""Observe: one pass per (role, view) for the union of the signals that a run's scorers ask for.

Views that begin alike share a pass, and the model reads their common beginning once: the two sides
of a pair, or several questions about one text.

The unit of work is a shard of unique records. What is kept is one small table per (signal, shard),
keyed by the content of the shard, the model and the signal's settings: a later run that wants one
signal more, or brings one shard more, pays for that alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from gristmill.pipeline.contracts import Signal, View, columns_of, settings_of
from gristmill.pipeline.dataset import Dataset
from gristmill.pipeline.families import LIGHT, Family, in_passes, needs_of
from gristmill.pipeline.finetune.checkpoints import learning_rate
from gristmill.pipeline.gradient_signals import gradient_reader
from gristmill.pipeline.models.encoding import ChatTokenizer, Encoded
from gristmill.pipeline.models.forward import Batch, RunBackward, batches, forward
from gristmill.pipeline.models.load import (
    DTypeName,
    LoadedModel,
    effective_limit,
    load,
    load_tokenizer,
    pick_device,
    pick_dtype,
)
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.models.stems import header, shareable, worth
from gristmill.pipeline.schema import CONTENT, digest
from gristmill.pipeline.signals import EncodingFacts, as_column
from gristmill.pipeline.store import Step, Store

VERSION = 2
Overlong = Literal["cut", "skip"]
Progress = Callable[[str, int, int], None]  # (what, tokens done, tokens in all)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How passes are run; `max_length`, `overlong` and `dtype` change results, the rest does not.

    Attributes:
        device: "auto", "cpu", "cuda", ...
        dtype: "auto" is bfloat16 on CUDA, float32 elsewhere.
        max_length: longest sequence in tokens (the model's context, if shorter).
        overlong: "cut" longer records at the end, or "skip" them with a reason.
        batch_tokens: rows x longest row of one batch.
    """

    device: str = "auto"
    dtype: DTypeName = "auto"
    max_length: int = 2_048
    overlong: Overlong = "cut"
    batch_tokens: int = 4_096

    def __post_init__(self) -> None:
        if self.overlong not in get_args(Overlong):
            raise ValueError(f"overlong is cut or skip; found {self.overlong!r}.")
        if self.dtype not in get_args(DTypeName):
            raise ValueError(f"dtype is one of {get_args(DTypeName)}; found {self.dtype!r}.")
        if self.max_length < 2 or self.batch_tokens < 1:
            raise ValueError(
                "max_length is at least 2 and batch_tokens at least 1; "
                f"found {self.max_length} and {self.batch_tokens}."
            )


@dataclass(frozen=True, kw_only=True)
class Models:
    """Model roles bound to references; a role may hold an ordered list of them (checkpoints)."""

    store: Store
    roles: Mapping[str, tuple[str, ...]]
    allow_network: bool = False
    shares: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # see `weights`
    _files: dict[str, ModelFiles] = field(default_factory=dict, compare=False, repr=False)
    _resident: dict[str, LoadedModel] = field(default_factory=dict, compare=False, repr=False)

    def files(self, role: str) -> tuple[ModelFiles, ...]:
        """The resolved models of a role.

        Raises:
            ValueError: no model is bound to the role.
        """
        if role not in self.roles:
            bound = ", ".join(sorted(self.roles)) or "none"
            raise ValueError(
                f"no model is bound to the role {role!r} (bound: {bound}): pass --model {role}=REF."
            )
        for reference in self.roles[role]:
            if reference not in self._files:
                self._files[reference] = resolve(
                    reference, self.store, allow_network=self.allow_network
                )
        return tuple(self._files[r] for r in self.roles[role])

    def weights(self, role: str) -> tuple[float, ...]:
        """The share of each model of a role; they add up to 1.

        What was bound with them; else checkpoints of a training run count by their mean learning
        rate, and models that do not tell any count alike.
        """
        if role in self.shares:
            return self.shares[role]
        rates = [learning_rate(f.path) for f in self.files(role)]
        known = [r for r in rates if r is not None]
        if len(known) < len(rates) or not math.fsum(known):
            known = [1.0] * len(rates)
        return tuple(r / math.fsum(known) for r in known)

    def bind(
        self, role: str, references: tuple[str, ...], shares: tuple[float, ...] | None = None
    ) -> "Models":
        """The same with one role bound (anew); what is loaded stays shared."""
        kept = {r: s for r, s in self.shares.items() if r != role}
        return replace(
            self,
            roles={**self.roles, role: references},
            shares={**kept, role: shares} if shares else kept,
        )

    def load(self, files: ModelFiles, passes: "Passes", *, embedder: bool = False) -> LoadedModel:
        """The model in memory; it stays there until another one is asked for."""
        name = digest([files.fingerprint, passes.device, passes.dtype, passes.max_length, embedder])
        if name not in self._resident:
            self._resident.clear()  # before loading: two large models may not fit together
            self._resident[name] = load(
                files,
                load_tokenizer(files, limit=passes.max_length),
                device=passes.device,
                dtype=passes.dtype,
                embedder=embedder,
            )
        return replace(self._resident[name], files=files)  # the same bytes may lie elsewhere

    def describe(self, roles: Sequence[str]) -> list[dict[str, str]]:
        """What a manifest says of the models."""
        return [
            {
                "role": role,
                "id": f.reference,
                "model_sha": f.model_sha,
                "tokenizer_sha": f.tokenizer_sha,
                "chat_template_sha": f.chat_template_sha,
            }
            for role in roles
            for f in self.files(role)
        ]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Observations on disk: implements `contracts.Observations`, one block per shard."""

    shards: tuple[Path, ...]  # records
    ids: tuple[pl.Series, ...]  # unique ids of each shard, in order
    signals: tuple[tuple[Path, ...], ...]  # per shard, one table a signal
    record_columns: tuple[str, ...] = ()
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of a role's models

    @property
    def rows(self) -> int:
        return sum(len(i) for i in self.ids)

    def columns(self, signal: Signal) -> tuple[tuple[str, float], ...]:
        return columns_of(signal, self.weights.get(signal.role, (1.0,)))

    def blocks(self) -> Iterator[pl.DataFrame]:
        for shard, ids, paths in zip(self.shards, self.ids, self.signals, strict=True):
            if ids.is_empty():  # every row of the shard is a copy
                continue
            frame = ids.to_frame("id")
            if self.record_columns:
                columns = list(dict.fromkeys(["id", *self.record_columns]))
                records = pl.read_parquet(shard, columns=columns).unique("id", keep="first")
                frame = frame.join(records, on="id", how="left", maintain_order="left")
            for path in paths:
                table = pl.read_parquet(path)
                frame = frame.join(
                    table, on="id", how="left", validate="1:1", maintain_order="left"
                )
            yield frame

    def frame(self) -> pl.DataFrame:
        return pl.concat(self.blocks()) if self.rows else pl.DataFrame({"id": []})

    def split(self) -> Iterator["Observed"]:
        """The same, one shard at a time."""
        for shard, ids, paths in zip(self.shards, self.ids, self.signals, strict=True):
            yield replace(self, shards=(shard,), ids=(ids,), signals=(paths,))


def unique_ids(dataset: Dataset) -> list[pl.Series]:
    """Per shard, the ids that no earlier shard holds: what has to be observed."""
    if not dataset.shards():
        return []
    ids = [
        pl.read_parquet(p, columns=["id"]).with_columns(shard=i)
        for i, p in enumerate(dataset.shards())
    ]
    first = pl.concat(ids).unique("id", keep="first", maintain_order=True)
    return [first.filter(pl.col("shard") == i)["id"] for i in range(len(ids))]


def observe(
    store: Store,
    dataset: Dataset,
    signals: Sequence[Signal],
    models: Models,
    *,
    passes: Passes | None = None,
    record_columns: Sequence[str] = (),
    progress: Progress | None = None,
) -> Observed:
    """Make (or find) the observations of `signals` for every unique record of `dataset`.

    With several models in a role, a signal's columns are named `<column>@0`, `<column>@1`, ...
    What the tokenizer alone says is asked of the first of them.
    """
    passes = passes or Passes()
    ids = unique_ids(dataset)
    tables: list[list[Path]] = [[] for _ in ids]
    groups = in_passes(signals)
    for role, members in groups:
        several = models.files(role)
        for k, files in enumerate(several):
            asked = tuple(s for s in members if s.needs or k == 0)
            if not asked:
                continue
            work = _Pass(
                store=store,
                dataset=dataset,
                models=models,
                files=files,
                signals=asked,
                suffix=f"@{k}" if len(several) > 1 else "",
                passes=passes,
                progress=progress,
            )
            for i, paths in enumerate(work.run(ids)):
                tables[i] += paths
    columns = [
        c
        for name in record_columns
        for c in (CONTENT[dataset.kind] if name == "*content" else (name,))
    ]
    return Observed(
        shards=tuple(dataset.shards()),
        ids=tuple(ids),
        signals=tuple(tuple(t) for t in tables),
        record_columns=tuple(columns),
        weights={role: models.weights(role) for role, _ in groups},
    )


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One model over all shards, for those (signal, shard) that are missing.

    Of several views, all are read where one is missing, so that a run that was cut off ends with
    the same numbers as one that was not.
    """

    store: Store
    dataset: Dataset
    models: Models
    files: ModelFiles
    signals: tuple[Signal, ...]
    suffix: str
    passes: Passes
    progress: Progress | None

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

    def column(self, signal: Signal) -> str:
        return signal.column + (self.suffix if signal.needs else "")

    def step(self, signal: Signal, shard: str) -> Step:
        heavy = bool(signal.needs)
        return Step(
            name="observe",
            version=VERSION,
            settings={
                "signal": [signal.version, settings_of(signal)],
                "view": [signal.shown.version, signal.shown.name],
                "column": self.column(signal),
                "limit": self.limit,
                "overlong": self.passes.overlong,
                "dtype": self.dtype if heavy else "",
            },
            inputs={
                "records": shard,
                "model": self.files.fingerprint if heavy else self.files.tokenizer_sha,
                "template": self.files.chat_template_sha,
            },
        )

    def run(self, ids: Sequence[pl.Series]) -> Iterator[list[Path]]:
        shards = [digest(i.to_list()) for i in ids]
        steps = [[self.step(s, shard) for s in self.signals] for shard in shards]
        found = [[self.store.find(step) for step in row] for row in steps]
        missing = [
            [s for s, e in zip(self.signals, row, strict=True) if e is None and len(shard)]
            for row, shard in zip(found, ids, strict=True)
        ]
        needs = needs_of([s for row in missing for s in row])
        model = None
        if needs:
            model = self.models.load(self.files, self.passes, embedder="embedding" in needs)
            model = replace(model, chat=self.chat)
        total = sum(len(i) for i, m in zip(ids, missing, strict=True) if m) * len(self.views)
        done = 0
        what = f"{self.signals[0].role}: {' + '.join(v.name for v in self.views)}"
        for index, todo in enumerate(missing):
            if todo:
                columns = self._observe(index, ids[index], todo, model, (what, done, total))
                done += len(ids[index]) * len(self.views)
                for i, signal in enumerate(self.signals):
                    if signal in todo:
                        frame = pl.DataFrame([ids[index], columns[signal]])
                        found[index][i] = self.store.put(steps[index][i], frame)
                self._tell(what, done, total)
            yield [e.shards[0] for e in found[index] if e is not None]

    @cached_property
    def views(self) -> tuple[View, ...]:
        return tuple(dict.fromkeys(s.shown for s in self.signals))

    @cached_property
    def _readers(self) -> dict[tuple[Signal, ...], RunBackward]:
        return {}

    def _beside(self, model: LoadedModel, signals: Sequence[Signal]) -> RunBackward | None:
        """The backward pass of these signals, and what runs the model by itself.

        What batches share (random matrices, anchors) is made once a run.
        """
        wanted = tuple(s for s in signals if s.needs & {"backward", "own"})
        if wanted and wanted not in self._readers:
            gradients = gradient_reader(model, wanted)
            own = {s.column: s.open(model) for s in wanted if "own" in s.needs}
            self._readers[wanted] = lambda rows: (
                gradients(rows) | {column: run(rows) for column, run in own.items()}
            )
        return self._readers.get(wanted)

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)

    def _observe(
        self,
        index: int,
        ids: pl.Series,
        signals: Sequence[Signal],
        model: Any,  # noqa: ANN401  (LoadedModel | None)
        told: tuple[str, int, int],
    ) -> dict[Signal, pl.Series]:
        content = ["id", *CONTENT[self.dataset.kind]]
        records = pl.read_parquet(self.dataset.shards()[index], columns=content)
        records = ids.to_frame("id").join(
            records.unique("id", keep="first"), on="id", how="left", maintain_order="left"
        )
        rows = list(records.iter_rows(named=True))
        encoded = {view: [view.encode(row, self.chat) for row in rows] for view in self.views}
        values: dict[Signal, list[Any]] = {s: [None] * len(rows) for s in signals}
        for signal in signals:
            if isinstance(signal, EncodingFacts):
                values[signal] = [signal.of(e) for e in encoded[signal.shown]]
        heavy = [s for s in signals if s.needs]
        if heavy:
            what, done, total = told
            for read in self._batches(encoded, heavy, model):
                for view, (numbers, batch) in read.items():
                    for signal in (s for s in heavy if s.shown == view):
                        for i, value in zip(numbers, signal.read(batch), strict=True):
                            values[signal][i] = value
                    done += len(numbers)
                self._tell(what, min(done, total), total)
        return {s: as_column(self.column(s), values[s], s.dtype(model)) for s in signals}

    def _batches(
        self, encoded: Mapping[View, Sequence[Encoded]], heavy: Sequence[Signal], model: LoadedModel
    ) -> Iterator[dict[View, tuple[Sequence[int], Batch]]]:
        """Finished passes: of each view, the numbers of rows, and what the model says of them."""
        needs = needs_of(heavy)
        light = needs <= LIGHT and shareable(model.model, self.limit)
        budget = self.passes.batch_tokens
        asked = [v for v in self.views if any(s.needs and s.shown == v for s in self.signals)]
        if light and len(asked) > 1:
            family = Family(encoded={v: encoded[v] for v in asked})
            if family.worth_it:
                for batch in batches(family.lengths, budget):
                    yield family.read(batch, model, needs)
                return
        backward = self._beside(model, heavy)
        for view in dict.fromkeys(s.shown for s in heavy):
            needs = needs_of([s for s in heavy if s.shown == view])
            fit = [i for i, e in enumerate(encoded[view]) if e.reason is None]
            for batch in batches([len(encoded[view][i].ids) for i in fit], budget):
                numbers = [fit[b] for b in batch]
                shown = [encoded[view][i] for i in numbers]
                # e.g. a judge's question, the same for all
                one = [header(len(shown))]
                shared = one if light and worth([e.ids for e in shown], one) else []
                found = forward(shown, model, needs, backward=backward, groupings=shared)
                yield {view: (numbers, found)}
