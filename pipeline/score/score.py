"""Score: a method's short mathematics over what was observed; one row per input row.

The table covers every row of the dataset: copies share their id's score, quarantined rows are in
it with a null score and the reason, and so does every row that the method could not score.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import (
    Context,
    EncodingFacts,
    Scorer,
    Signal,
    asked_roles,
    settings_of,
)
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import effective_limit
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import VERSION as OBSERVE_VERSION
from gristmill.pipeline.observe.observe import Observed, observe
from gristmill.pipeline.prepare.costs import preparing
from gristmill.pipeline.prepare.prepare import needless, prepare
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.schema import CONTENT, canonical_json, digest
from gristmill.pipeline.records.store import Entry, Step
from gristmill.pipeline.score.rows import Rows
from gristmill.pipeline.signals.forward_signals import DIALOGUE

VERSION = 3
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoreRun:
    """A scorer bound to data and models.

    Attributes:
        scorer: the method with its settings.
        dataset: the pool.
        reference: the target set, if the method has one.
        context: models, how they are run, store and progress of the run.
        notes: what preparing its models had to say; None: nothing was prepared yet (see `ready`).
    """

    scorer: Scorer
    dataset: Dataset
    context: RunContext
    reference: Dataset | None = None
    notes: tuple[str, ...] | None = None

    @property
    def models(self) -> Models:
        return self.context.models

    @property
    def passes(self) -> Passes:
        return self.context.passes

    def facts(self) -> tuple[EncodingFacts, ...]:
        """Facts of every view that is read, and of the whole dialogue under the target."""
        signals = [s.of_kind(self.dataset.kind) for s in self.scorer.signals]
        views = {(s.role, s.view) for s in signals}
        views |= {(f.role, f.view) for f in self.scorer.facts}
        if "target" in self.models.roles:
            views.add(("target", DIALOGUE.view))
        named = sorted(views, key=lambda v: (v[0], v[1].name))
        return tuple(EncodingFacts(role=role, view=view) for role, view in named)

    def check(self) -> None:
        """Refuse what cannot work, in one sentence, before anything is computed."""
        name = method_id(self.scorer)
        kinds = self.scorer.accepts
        if self.dataset.kind not in kinds:
            raise ValueError(
                f"{name} scores {' and '.join(kinds) or 'no'} records; the data holds "
                f"{self.dataset.kind} records."
            )
        if self.reference is not None and self.reference.kind != self.dataset.kind:
            raise ValueError(
                f"the reference set holds {self.reference.kind} records and the data "
                f"{self.dataset.kind} records: give a reference of the same kind."
            )
        needing = [method_id(p) for p in self.scorer.parts if p.reference == "required"]
        if needing and self.reference is None:
            raise ValueError(
                f"{name} of {needing[0]} needs a reference set: pass --reference PATH."
            )
        if self.scorer.reference == "required" and self.reference is None:
            raise ValueError(f"{name} needs a reference (target) set: pass --reference PATH.")
        if self.scorer.reference == "none" and self.reference is not None:
            raise ValueError(f"{name} reads no reference set: leave --reference out.")
        for role in asked_roles(self.scorer, self.models.roles):
            bound = self.models.files(role)
            if len(bound) > 1 and not self.scorer.multi_model:
                raise ValueError(
                    f"{name} reads one model in the role {role!r}; {len(bound)} are bound: "
                    + ", ".join(f.reference for f in bound)
                    + "."
                )

    def step(self) -> Step:
        of_reference = {s.role for s in self.scorer.reference_signals}
        roles = sorted({f.role for f in self.facts()} | of_reference)
        inputs = {
            f"model.{r}": digest([f.fingerprint for f in self.models.files(r)]) for r in roles
        }
        for role in roles:
            weights = self.models.weights(role)
            if len(weights) > 1:
                inputs[f"weights.{role}"] = digest(list(weights))
        inputs["pool"] = self.dataset.content
        if self.reference is not None:
            inputs["reference"] = self.reference.content
        return Step(
            name="score",
            version=VERSION,
            settings={
                "method": method_id(self.scorer),
                "version": self.scorer.version,
                "scorer": settings_of(self.scorer),
                "parts": [[method_id(p), p.version, settings_of(p)] for p in self.scorer.parts],
                "signals": [
                    [s.version, s.view.version, settings_of(s)]
                    for s in (*self.scorer.signals, *self.scorer.reference_signals)
                ],
                "observe": OBSERVE_VERSION,
                "passes": self._read(),
            },
            inputs=inputs,
        )

    def _read(self) -> list[Any]:
        """How the observations were made that the scores come of."""
        pinned = self.context.pinned
        threads = [] if pinned.threads is None else [pinned.threads]
        return [pinned.dtype, pinned.max_length, pinned.overlong, *threads]


def method_id(scorer: Scorer) -> str:
    """A method's id is its file name."""
    return type(scorer).__module__.rpartition(".")[2]


def ready(run: ScoreRun) -> ScoreRun:
    """The run with the models bound that its method must have made; found if they are there.

    What the making had to say (small-pool overrides, schedules) is logged and kept in `notes`.
    """
    if run.notes is not None:
        return run
    run.check()
    given = run.scorer.given
    if run.scorer.reads_reference and run.reference is not None:
        given = replace(given, reference=canonical_records(run.reference))
    if not run.scorer.recipes:
        return replace(run, scorer=run.scorer.with_given(given), notes=())

    def trained(done: int, total: int, metrics: Mapping[str, float]) -> None:
        # a training run saves its state before it stops at a cap
        run.context.tell(f"{method_id(run.scorer)}: preparing", done, total)

    cost = preparing(
        run.scorer,
        len(unique_ids(run.dataset)),
        0 if run.reference is None else len(unique_ids(run.reference)),
        lambda recipe: needless(recipe, run.models),
    )
    if cost is not None:
        _log_once(f"{method_id(run.scorer)}: {cost.sentence}")
    context = Context(
        models=run.models,
        pool=run.dataset,
        reference=run.reference,
        passes=run.passes,
        progress=trained,
        log=_log_once,
        caps=run.context.caps,
    )
    made = prepare(run.scorer.recipes, context)
    given = replace(given, artifacts=made.artifacts)
    return replace(
        run,
        scorer=run.scorer.with_given(given),
        context=run.context.bound(made.models),
        notes=made.notes,
    )


@cache
def _log_once(sentence: str) -> None:
    """A recipe logs its overrides each time it is asked for; a process hears each once."""
    LOG.warning("%s", sentence)


def canonical_records(dataset: Dataset) -> tuple[str, ...]:
    """The unique records of a small dataset as canonical JSON of their content, in order of id."""
    columns = CONTENT[dataset.kind]
    rows = dataset.frame(["id", *columns]).unique("id", keep="any").sort("id")
    return tuple(canonical_json(r) for r in rows.select(columns).iter_rows(named=True))


def score(run: ScoreRun) -> Entry:
    """Make (or find) the scores table of one method. No model is loaded when it is found."""
    run = ready(run)
    step = run.step()
    store = run.context.store
    found = store.find(step)
    if found is not None:
        return found
    facts = run.facts()
    pool = _observed(run, run.dataset, run.scorer.signals, facts)
    reference = None
    if run.reference is not None:
        reference = _observed(run, run.reference, run.scorer.reference_signals)
    whole = run.scorer.scope == "pool"

    def scores(records: Observed) -> pl.DataFrame:
        return checked(run.scorer, records, run.scorer.score(records, reference), facts)

    _log_cuts(run, "the pool", pool, facts)
    if reference is not None:
        signals = [s.of_kind(reference.dataset.kind) for s in run.scorer.reference_signals]
        views = {(s.role, s.view): None for s in signals}
        of_reference = [EncodingFacts(role=role, view=view) for role, view in views]
        _log_cuts(run, "the reference set", reference, of_reference)
    return store.run(
        step,
        Rows(pool=pool, score=scores, whole=whole).parts,
        note=lambda _: {"prepared": run.notes, "read": _read(run)},
    )


def _read(run: ScoreRun) -> list[str]:
    """What the signals say of how the models were read, each sentence once."""
    told = [
        sentence
        for signal in (*run.scorer.signals, *run.scorer.reference_signals)
        for sentence in signal.notes(run.models.files(signal.role)[-1])
    ]
    for sentence in dict.fromkeys(told):
        LOG.info("%s: %s", method_id(run.scorer), sentence)
    return list(dict.fromkeys(told))


def check_some_scored(run: ScoreRun, scores: Entry) -> None:
    """Refuse a scores table in which nothing is scored.

    Raises:
        ValueError: the commonest reasons, and the models that were read.
    """
    counted = scores.scan().group_by("reason", scored=pl.col("score").is_not_null()).len()
    lines = counted.collect(engine="streaming")
    if lines["scored"].any() or lines.is_empty():
        return
    rows = int(lines["len"].sum())
    reasons = lines.sort("len", "reason", descending=[True, False]).select("reason", "len")[:3]
    told = ", ".join(f"{reason} ({n:,})" for reason, n in reasons.iter_rows())
    read = [
        r
        for role in asked_roles(run.scorer, run.models.roles)
        for r in run.models.roles.get(role, ())
    ]
    using = f" with {', '.join(dict.fromkeys(read))}" if read else ""
    raise ValueError(f"{method_id(run.scorer)} could score none of {rows:,} rows{using}: {told}.")


def unscored(scores: pl.DataFrame) -> dict[str, int]:
    """Why rows of a scores table have no score, with their number, most first."""
    counts = scores.filter(pl.col("score").is_null()).group_by("reason").len()
    return dict(counts.sort("len", "reason", descending=[True, False]).iter_rows())


def details(run: ScoreRun) -> pl.DataFrame:
    """What the method can tell beside its scores, from the same observations.

    Raises:
        ValueError: it has nothing to tell.
    """
    if type(run.scorer).details is Scorer.details:
        raise ValueError(f"{method_id(run.scorer)} has no details beside its scores.")
    run = ready(run)
    found = run.scorer.details(_observed(run, run.dataset, run.scorer.signals))
    assert found is not None
    return found


def _observed(
    run: ScoreRun,
    dataset: Dataset,
    signals: Sequence[Signal],
    facts: Sequence[EncodingFacts] = (),
) -> Observed:
    columns = run.scorer.record_columns
    return observe(run.context, dataset, signals, facts=facts, record_columns=columns)


def _log_cuts(run: ScoreRun, which: str, rows: Observed, facts: Sequence[EncodingFacts]) -> None:
    """Warn of rows that lost their end: under each role and view, with the limit that acted."""
    cut = Counter[EncodingFacts]()
    for block in rows.blocks():
        for one in facts:
            cut[one] += block.filter(pl.col(one.column).struct.field("cut") > 0).height
    views: dict[tuple[str, str], list[str]] = {}
    for one in facts:
        if cut[one]:
            limit = effective_limit(run.models.files(one.role)[0], run.passes.max_length)
            counts = views.setdefault((one.role, one.view.cut_at(limit)), [])
            counts.append(f"{one.view.name} {cut[one]:,}")
    for (role, most), counts in views.items():
        LOG.warning(
            "of %s rows of %s, these are longer than what the role %s is shown and were cut at the "
            "end (%s): %s.",
            f"{rows.rows:,}",
            which,
            role,
            f"at most {most}",
            ", ".join(counts),
        )


def checked(
    scorer: Scorer, pool: Observed, scores: pl.DataFrame, facts: Sequence[EncodingFacts]
) -> pl.DataFrame:
    """Hold a scorer to its contract and give every null its reason."""
    name = method_id(scorer)
    if "reason" not in scores.columns:
        scores = scores.with_columns(reason=pl.lit(None, dtype=pl.String))
    ids = pl.concat(list(pool.ids)).to_frame("id")
    if scores.height != ids.height or scores["id"].n_unique() != scores.height:
        raise ValueError(f"{name} returned {scores.height} rows for {ids.height} records")
    if scores.join(ids, on="id", how="anti").height:
        raise ValueError(f"{name} returned ids that are not in the data")
    known = pl.concat([b.select("id", *(f.column for f in facts)) for b in pool.blocks()])
    columns = [f.column for f in facts]
    cause = pl.coalesce(*(pl.col(c).struct.field("reason") for c in columns)) if columns else None
    tokens = next((f.column for f in facts if f == DIALOGUE), None)
    joined = ids.join(scores, on="id", how="left", maintain_order="left").join(
        known, on="id", how="left", maintain_order="left"
    )
    finite = pl.col("score").is_finite().fill_null(False)
    # a null of a row whose answer was there to be scored is a number that the model did not give
    answered = pl.max_horizontal(
        pl.lit(0), *(pl.col(c).struct.field("answer_tokens").fill_null(0) for c in columns)
    )
    unscored = pl.when(pl.col("score").is_null() & (answered == 0)).then(pl.lit("no_scored_token"))
    because = [
        pl.col("reason"),
        *([cause] if cause is not None else []),
        unscored.otherwise(pl.lit("not_finite")),
    ]
    return joined.with_columns(
        score=pl.when(finite).then(pl.col("score").cast(pl.Float64)),
        reason=pl.when(~finite).then(pl.coalesce(because)),
        tokens=pl.col(tokens).struct.field("tokens") if tokens else pl.lit(None, dtype=pl.Int64),
    ).drop(columns)
