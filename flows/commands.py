"""What the commands of the command line do with paths; the verbs themselves are in the pipeline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gristmill.flows import cleaning, steps
from gristmill.flows.asked import EMBEDDER
from gristmill.flows.config import CleanConfig
from gristmill.pipeline.clean.cleaning import all_drops, clean
from gristmill.pipeline.clean.copies import with_copies
from gristmill.pipeline.clean.drops import by_reason, named
from gristmill.pipeline.clean.phrases import PARTS, OverUse, phrases_in
from gristmill.pipeline.contracts import ROLES, Rule, Scorer, asked_roles
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.export.user_tables import (
    Table,
    files_of,
    read_table,
    rows_of,
    save,
    scanned,
    shortfalls_in,
)
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import KINDS
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.road import stages
from gristmill.pipeline.road.curated import completed
from gristmill.pipeline.road.stages import Stage
from gristmill.pipeline.score.diagnostics import check_scores
from gristmill.pipeline.score.score import ScoreRun, check_some_scored, details, score, unscored
from gristmill.pipeline.selection.cascade import decided
from gristmill.pipeline.selection.possible import record_columns
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget
from gristmill.pipeline.selection.shortfall import SHORT, shortfalls
from gristmill.pipeline.selection.streaming import scores as units
from gristmill.pipeline.selection.streaming.ledger import decided_tables
from gristmill.selectors import catalog


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a command is given: data, models, and how they are run.

    Attributes:
        data: files or folders.
        split: of the folders with splits.
        store: folder of the store.
        reference: files or folders of the target rows.
        models: `REF` and `role=REF` texts.
        drops: a table of `gristmill clean`, or a ledger: the rows that are left out.
        passes: settings of `Passes`.
        max_bad_share: share of bad rows that fails.
        allow_network: let the hub be asked.
        progress: told of stages of work.
        limit: only so many rows of each file of the data; None: all.
    """

    data: Sequence[str]
    store: str
    split: str | None = None
    reference: Sequence[str] = ()
    models: Sequence[str] = ()
    drops: Path | None = None
    passes: Mapping[str, Any] = field(default_factory=dict)
    max_bad_share: float = 0.05
    allow_network: bool = False
    progress: Progress | None = None
    limit: int | None = None

    @cached_property
    def place(self) -> Store:
        """The store."""
        return steps.open_store(self.store)

    def pool(self) -> Dataset:
        """The rows of the data that the drops leave."""
        pool = self._ingested(self.data, self.max_bad_share, split=self.split, limit=self.limit)
        if self.drops is None:
            return pool
        return pool.without([named(read_table(self.drops, "drops"), f"--drops {self.drops}")])

    def target(self) -> Dataset | None:
        """The target rows, if any were given."""
        return self._ingested(self.reference, 0.05) if self.reference else None

    def context(self, bound: Mapping[str, Sequence[str]]) -> RunContext:
        """Store, models and progress of the command."""
        roles = {role: list(references) for role, references in bound.items()}
        return RunContext(
            models=steps.bind(self.place, roles, allow_network=self.allow_network),
            passes=Passes(**self.passes),
            progress=self.progress,
        )

    def _ingested(
        self,
        paths: Sequence[str],
        max_bad_share: float,
        *,
        split: str | None = None,
        limit: int | None = None,
    ) -> Dataset:
        return ingest_paths(
            paths,
            self.place,
            split=split,
            max_bad_share=max_bad_share,
            allow_network=self.allow_network,
            limit=limit,
            progress=self.progress,
        )


def pairs(settings: Sequence[str]) -> dict[str, str]:
    """`key=value` texts as a mapping."""
    found = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {text!r}: expected key=value.")
        found[key] = value
    return found


def roles(models: Sequence[str], scorers: Sequence[Scorer] = ()) -> dict[str, list[str]]:
    """`REF` and `role=REF` texts as role -> references, in order.

    A bare REF binds `target`, or the one role that the methods read if that is another and is not
    bound by name. The role `embedder` falls back to the sentence embedder that setup installs.
    """
    named = {role for role, equals, _ in (m.partition("=") for m in models) if equals}
    return bound_to({role for m in scorers for role in asked_roles(m, named)}, models)


def bound_to(wanted: Iterable[str], models: Sequence[str]) -> dict[str, list[str]]:
    """`REF` and `role=REF` texts as role -> references (see `roles`).

    Args:
        wanted: the roles that are read.
        models: the texts.
    """
    bound: dict[str, list[str]] = {}
    bare = []
    for text in models:
        role, equals, reference = text.partition("=")
        if equals and role in ROLES:
            bound.setdefault(role, []).append(reference)
        elif equals and role.isidentifier() and not Path(text).exists():
            raise ValueError(
                f"--model {text!r}: {role!r} is not a role; roles: {', '.join(ROLES)}."
            )
        else:
            bare.append(text)
    wanted = set(wanted)
    if bare:
        only = next(iter(wanted)) if len(wanted) == 1 and not wanted & set(bound) else "target"
        bound.setdefault(only, []).extend(bare)
    if "embedder" in wanted and "embedder" not in bound:
        bound["embedder"] = [EMBEDDER]
    return bound


def ingest_paths(
    data: Sequence[str],
    store: str | Store,
    *,
    split: str | None = None,
    kind: str | None = None,
    max_bad_share: float = 0.05,
    allow_network: bool = False,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Ingest files and folders named on a command line."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"--kind is one of {', '.join(KINDS)}; found {kind!r}.")
    return ingest(
        store if isinstance(store, Store) else steps.open_store(store),
        [Source(path=p, split=split, limit=limit) for p in data],
        kind=kind,
        max_bad_share=max_bad_share,
        allow_network=allow_network,
        progress=steps.counted("ingest, shards", progress),
    )


def clean_paths(config: CleanConfig, inputs: Inputs, out: Path) -> tuple[int, list[dict[str, Any]]]:
    """Write what the cleaners drop; the number of rows that they saw, and the drops by reason."""
    if config.keep == "best":
        raise ValueError("keep: best needs scores, which a run has: use `gristmill run curate`.")
    context = inputs.context(bound_to(["embedder"], inputs.models))
    dataset = inputs.pool()
    found = clean(context, dataset, cleaning.made(config, inputs.place), inputs.target())
    drops = all_drops(found)
    save(drops, out)
    return dataset.frame(["id"]).height, by_reason(drops)


def phrases_of(
    inputs: Inputs, settings: Mapping[str, Any], part: str, out: Path | None
) -> list[dict[str, Any]]:
    """The phrases that rows over-use against others, the first of them; all go to a file.

    Args:
        inputs: the rows, and as reference what they are held against.
        settings: of `OverUse`.
        part: what of a row is looked at.
        out: file of the table; None: it is not written.
    """
    if part not in PARTS:
        raise ValueError(f"--part is one of {', '.join(PARTS)}; found {part!r}.")
    counted, target = OverUse(**settings), inputs.target()
    assert target is not None, "the command demands it"
    found = phrases_in(inputs.pool(), target, part, counted)
    if out is not None:
        save(found, out)
    return found.head(20).to_dicts()


def observe_paths(methods: Sequence[str], inputs: Inputs) -> int:
    """Make the passes of several methods; returns the records observed."""
    scorers = {m: catalog.make(m) for m in methods}
    context = inputs.context(roles(inputs.models, list(scorers.values())))
    stage = Stage(name="observe", scorers=scorers, by=methods[0], rule=rule_named("top"))
    runs = stages.prepared(stages.score_runs(context, stage, inputs.pool(), inputs.target()))
    return stages.observe_together(list(runs.values()))


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What came of scoring.

    Attributes:
        rows: of the table.
        reasons: why rows have no score, with their number.
        advice: how to select by these scores, where that is not by the top; else None.
        details: the first lines of what the method can tell beside scores.
        detailed: how many such lines there are.
    """

    rows: int
    reasons: Mapping[str, int]
    advice: str | None
    details: Sequence[Mapping[str, Any]] = ()
    detailed: int = 0


def score_paths(
    method: str,
    settings: Mapping[str, Any],
    inputs: Inputs,
    out: Path,
    *,
    budget: str | None = None,
    details_path: Path | None = None,
) -> Scored:
    """Write the scores table of one method.

    Args:
        method: its id.
        settings: its settings, as text.
        inputs: data and models.
        out: file of the table.
        budget: how many rows a greedy method picks.
        details_path: file of what the method can tell beside scores; None: it is not asked.
    """
    run = bound(method, settings, inputs, budget)
    facts = details(run) if details_path is not None else None
    entry = score(run)
    check_some_scored(run, entry)
    table = entry.frame()
    save(table, out, method=method)
    found = Scored(rows=table.height, reasons=unscored(table), advice=advice(method, run.scorer))
    if details_path is None or facts is None:
        return found
    save(facts, details_path)
    return replace(found, details=facts.head(20).to_dicts(), detailed=facts.height)


def advice(method: str, scorer: Scorer) -> str | None:
    """How to select by a method's scores, if its own rule is not the top."""
    if scorer.rule == "top":
        return None
    settings = "".join(f" --set {k}={v}" for k, v in scorer.rule_settings.items())
    return (
        f"{method} is selected by the rule {scorer.rule}: "
        f"gristmill select --rule {scorer.rule}{settings}"
    )


def check_paths(
    method: str, settings: Mapping[str, Any], inputs: Inputs, *, leave_one_out: int = 0
) -> list[dict[str, Any]]:
    """What the self-checks of one method found, a line each."""
    run = bound(method, settings, inputs)
    return [c.row() for c in check_scores(run, leave_one_out=leave_one_out)]


def bound(
    method: str, settings: Mapping[str, Any], inputs: Inputs, budget: str | None = None
) -> ScoreRun:
    """A method with its data and models."""
    scorer = catalog.make(method, settings)
    pool = inputs.pool()
    if budget is not None:
        if "picks" in settings:
            raise ValueError("--budget and --set picks say the same: give one of them.")
        scorer = stages.greedy_within(scorer, Budget.parse(budget), pool)
    return ScoreRun(
        scorer=scorer,
        dataset=pool,
        context=inputs.context(roles(inputs.models, [scorer])),
        reference=inputs.target(),
    )


# What a share is of, where one selection is made by hand.
SHARED = "the rows that are neither set aside, dropped nor copies"


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What came of selecting.

    Attributes:
        rows: of the ledger.
        verdicts: rows and tokens by verdict and reason.
        worth: mean weight of the kept rows, and how many of equal weight they are worth; None: all
            weigh the same.
        shortfalls: what could not be kept of what was asked, a sentence each.
        budget: the budget in words, as the end of a title.
    """

    rows: int
    verdicts: Sequence[Mapping[str, Any]]
    worth: tuple[float, float] | None
    shortfalls: Sequence[str]
    budget: str


def select_paths(
    scores: Path,
    rule: str,
    settings: Mapping[str, Any],
    budget: str | None,
    data: Sequence[str],
    store: str,
    out: Path,
    *,
    split: str | None = None,
    drops: Path | None = None,
    limit: int | None = None,
) -> Decided:
    """Write the ledger of one selection; with data and drops, of every row of the data."""
    if drops is not None and not data:
        raise ValueError("--drops names rows of the data: give --data as well.")
    how, amount = rule_named(rule, settings), Budget.parse(budget) if budget else None
    files = files_of(scores, "scores")
    if not data and rows_of(files, "scores") > units.UNIT_ROWS:
        return _select_tables(files, how, amount, store, out)
    table = read_table(scores, "scores")
    gone = [named(read_table(drops, "drops"), f"--drops {drops}")] if drops is not None else []
    dataset = (
        ingest_paths(data, store, split=split, max_bad_share=1.0, limit=limit) if data else None
    )
    ledger = decided(table, how, amount, dataset, with_copies(dataset, gone) if dataset else ())
    extra = record_columns(dataset, how) if dataset else None
    lacking = shortfalls(ledger, how, amount, extra=extra)
    return _saved(ledger, out, lacking, amount)


def _select_tables(
    files: Sequence[Path], rule: Rule, budget: Budget | None, store: str, out: Path
) -> Decided:
    """The ledger of a table that is larger than what is read at once."""
    entry = decided_tables(files, steps.open_store(store), rule=rule, budget=budget)
    return _saved(scanned(entry), out, list(entry.note[SHORT]), budget)


def _saved(ledger: Table, out: Path, lacking: list[str], budget: Budget | None) -> Decided:
    save(ledger, out, lacking)
    verdicts = stages.verdicts(ledger)
    return Decided(
        rows=sum(line["rows"] for line in verdicts),
        verdicts=verdicts,
        worth=stages.worth_of_weights(ledger),
        shortfalls=lacking,
        budget=f"; budget: {budget.words(SHARED)}" if budget else "",
    )


def export_paths(ledger: Path, inputs: Inputs, name: str, out: Path, validation: float) -> Path:
    """Publish the rows that a ledger keeps; returns the folder.

    Args:
        ledger: table of `select_paths`.
        inputs: the data that was selected from, and the model whose rendering is checked.
        name: of the dataset.
        out: folder of datasets.
        validation: share of the rows to hold out.
    """
    table = read_table(ledger, "ledger")
    told = {"scorers": [], "ledger": "by hand", "shortfalls": shortfalls_in(ledger) or None}
    asked = Publication(root=out, name=name, selection=told, validation_fraction=validation)
    dataset = inputs.pool()
    return export(table, dataset, completed(asked, dataset, inputs.context(roles(inputs.models))))
