"""Curated: what a run adds to its publication: models, tokenizer, the render check, the report."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import Scorer, Signal
from gristmill.pipeline.export import diff
from gristmill.pipeline.export.pool import Decided
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.render import Renderer
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.environment import environment
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.store import Entry
from gristmill.pipeline.report import tables
from gristmill.pipeline.report.build import report
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.projection import plane
from gristmill.pipeline.signals.forward_signals import HiddenState, SentenceEmbedding


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was observed already, so that the report's map costs no pass.

    Attributes:
        rows: the rows that the last stage was given.
        vectors: the signal that the map is drawn from.
    """

    rows: Dataset
    vectors: Signal


def completed(
    publication: Publication,
    dataset: Dataset,
    context: RunContext,
    *,
    reference: Dataset | None = None,
    seen: Seen | None = None,
) -> Publication:
    """The publication of a run, rendered and checked with the target's tokenizer.

    Args:
        publication: what the run's settings ask for.
        dataset: the records that were selected from.
        context: of the run.
        reference: the target rows, if the run has any; none of them may be shipped.
        seen: what the report's map is drawn from; None: it has no map.
    """
    models, passes = context.models, context.passes
    if reference is not None:
        reference.entry.intact()  # what is held against the kept rows must be what was measured
    tokenizer: dict[str, str] = {}
    render = None
    if "target" in models.roles:
        (files, *_) = models.files("target")
        render = Renderer(load=partial(load_tokenizer, files, limit=passes.max_length))
        tokenizer = {
            "id": files.reference,
            "sha256": files.tokenizer_sha,
            "chat_template_sha": files.chat_template_sha,
            **_elsewhere(files),
        }
    told = publication.selection
    return replace(
        publication,
        models=models.describe(sorted(models.roles)),
        tokenizer=tokenizer,
        seeds={"split": 0},
        run=environment(),
        references=reference.frame(["id"])["id"].to_list() if reference else (),
        render=render,
        max_length=passes.max_length,
        report=partial(
            _report,
            dataset=dataset,
            context=context,
            seen=seen,
            wanted=told.get("rule_settings") if told.get("rule") == "mixture" else None,
        ),
    )


def _elsewhere(files: ModelFiles) -> dict[str, str]:
    """The target as commands of other tools may name it from any folder; or nothing."""
    folder = Path(files.reference).expanduser()
    if folder.exists():
        named = folder.is_dir() and folder.is_absolute()
    else:
        named = re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", files.reference) is not None
    return {"model": files.reference} if named else {}


def map_signal(methods: Iterable[Scorer], roles: Set[str]) -> Signal | None:
    """The signal that the report's map is drawn from: an embedding, or else a hidden state."""
    signals = [s for m in methods for s in m.signals if s.role in roles]
    embeddings = [s for s in signals if isinstance(s, SentenceEmbedding)]
    states = [s for s in signals if isinstance(s, HiddenState)]
    return next(iter([*embeddings, *states]), None)


def decided(
    ledger: Entry,
    scorers: Collection[str],
    told: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None,
) -> Decided:
    """The ledger of a run, to be published.

    Args:
        ledger: after the last stage.
        scorers: names of the scorers.
        told: adds what else is said of its lines; None: nothing is.
    """

    def lines(of: pl.LazyFrame) -> pl.LazyFrame:
        named = with_parts(of, scorers)
        return named if told is None else told(named)

    return Decided(entry=ledger, told=lines)


def with_parts(ledger: pl.LazyFrame, scorers: Collection[str]) -> pl.LazyFrame:
    """The ledger with what a score is made of as `part_<name>`: it is no scorer of its own."""
    columns = ledger.collect_schema().names()
    parts = [c for c in columns if c.startswith("score_") and c[6:] not in scorers]
    return ledger.rename({c: f"part_{c[6:]}" for c in parts})


def as_published(ledger: pl.LazyFrame, dataset: Dataset, scorers: Collection[str]) -> pl.DataFrame:
    """What a diff reads of a ledger as it will be published."""
    named = with_parts(ledger, scorers)
    read = tables.columns_named(named.collect_schema().names(), (*KEY, *diff.READ))
    table = tables.named_scores(named.select(read).collect(), list(scorers))
    licences = pl.concat(dataset.blocks([*KEY, "license"]))
    table = table.join(licences, on=KEY, how="left", maintain_order="left")
    floats = [name for name, kind in table.schema.items() if kind.is_float()]
    return table.with_columns(pl.when(pl.col(c).is_finite()).then(pl.col(c)) for c in floats)


def told_of(reference: Dataset | None) -> dict[str, Any] | None:
    """What a selection says of its target rows: their hash and number."""
    if reference is None:
        return None
    return {"sha256": reference.content, "rows": reference.frame(["id"]).height}


def _report(
    facts: Facts,
    *,
    dataset: Dataset,
    context: RunContext,
    seen: Seen | None,
    wanted: Mapping[str, Any] | None,
) -> bytes:
    shares = (wanted or {}).get("shares")
    target = {k: float(v) for k, v in shares.items()} if isinstance(shares, Mapping) else None
    by = str((wanted or {}).get("by", "source"))
    if seen is None:
        return report(facts, dataset, target=target, target_by=by)
    vectors = seen.vectors
    several = context.models.files(vectors.role)
    store = replace(context.store, verify=True)  # what the page shows is hashed like the records
    checked = context.bound(replace(context.models, store=store))
    column = vectors.column if len(several) == 1 else f"{vectors.column}@0"
    return report(
        facts,
        dataset,
        projection=plane(observe(checked, seen.rows, [vectors]), column),
        projection_note=f"{vectors.column} of {several[0].reference}",
        target=target,
        target_by=by,
    )
