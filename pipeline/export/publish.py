"""Export: publish what a ledger keeps as an immutable, self-describing folder.

`<root>/<name>/v<N>-<key8>` is written as a hidden sibling, synced, renamed, marked with `_SUCCESS`,
and only then named by the relative link `latest`, unless a gate holds it. The key hashes everything
that the bytes depend on, so equal inputs find the version that is there already. Killed at any
moment, a rerun ends with the same folder. Everything that is read for a publication is hashed
first: the records, and what the changelog needs of the version before.
"""

import json
from collections import Counter
from pathlib import Path

import polars as pl

from gristmill.pipeline.export import (
    card,
    changes,
    croissant,
    diff,
    diff_page,
    license_table,
    loaders,
    provenance,
    shards,
    trainer_rows,
    verify,
)
from gristmill.pipeline.export.drift import Limits, beyond
from gristmill.pipeline.export.plan import ROWS, Plan, write
from gristmill.pipeline.export.plan import plan as planned
from gristmill.pipeline.export.pool import Decided, Lines
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.render import Renderer, check_render
from gristmill.pipeline.export.versions import claim, finished, newest, number, point, torn, used
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.disk import sync
from gristmill.pipeline.records.ranges import ORDER, Range, Ranges
from gristmill.pipeline.records.schema import CONTENT, LEDGER, checked, digest
from gristmill.pipeline.records.sealed import seal
from gristmill.pipeline.records.store import locked, remove, sha256, write_table, write_text
from gristmill.pipeline.report.facts import CODE_VERSION, Config, Facts
from gristmill.pipeline.report.rendered import Render, RenderCheck, TrainerRows


def export(ledger: pl.DataFrame | Decided, dataset: Dataset, publication: Publication) -> Path:
    """Publish the kept rows and return the folder.

    Args:
        ledger: the table of `schema.LEDGER`, with any `score_<scorer>`; of a run's,
            no more than a range of the rows is held at once.
        dataset: the records that were selected from.
        publication: what is asked for.
    """
    lines = _lines(ledger)
    declared, shape = publication.declared, publication.shape
    parts = (lines(one).sort(*ORDER).collect() for one in Ranges(dataset=dataset))
    inputs = {"dataset": dataset.content, "ledger": provenance.content_hash(parts)}
    named = {"name": publication.name, "code": CODE_VERSION, "inputs": inputs}
    key = digest({**named, **declared, "shape": shape})
    home = publication.home
    claim(home)
    with locked(home / ".lock"):
        done = finished(home, key)
        if done is None:
            dataset.entry.intact()
            previous = newest(home)
            if previous is not None:
                verify.demand(previous, ["CHANGELOG.md", *changes.ledger_files(previous)])
            version = f"v{number(previous) + 1}-{key[:8]}"
            work = home / f".{version}"
            for left in torn(home):
                remove(left)
            try:
                plan = planned(lines, dataset, declared, shape, publication.references, work)
            except ValueError:  # what was asked for cannot be published
                remove(work)
                raise
            *views, book = write(plan, work, publication.shard_bytes)
            rendered = _rendered(plan, work, publication.render, publication.max_length)
            ready = _trainer_rows(plan, work, publication)
            facts = Facts(
                title=publication.name,
                version=version,
                key=key,
                kind=dataset.kind,
                inputs=inputs,
                settings=shape,
                ledger=pl.scan_parquet([work / p for s in book.splits for p in s.paths]),
                configs=(*views, *([ready[0]] if ready else []), book),
                render=rendered,
                trainer_rows=ready[1] if ready else None,
                misfits=_misfits(work, plan),
                **declared,
            )
            remove(work / ROWS)
            _describe(facts, work, previous)
            _compare(facts, work, used(home), publication.limits)
            _add(publication, facts, work)
            verify.seal(work, facts.manifest)
            told_of_run = json.loads(json.dumps(dict(publication.run), default=str))
            write_text(work / verify.RUN, seal(json_text.finite(told_of_run)))
            sync(*work.rglob("*"), work)
            done = home / version
            work.rename(done)
            sync(home)
            verify.succeed(done)
        if not publication.held:
            point(home, done)
    return done


def _lines(ledger: pl.DataFrame | Decided) -> Lines:
    """The lines of each range of a ledger, which is checked to be one."""

    def lines(one: Range) -> pl.LazyFrame:
        found = ledger.of(one) if isinstance(ledger, Decided) else ledger.lazy().filter(one.holds)
        return found.select(checked(found.collect_schema().names(), LEDGER, "ledger"))

    return lines


def _rendered(
    plan: Plan, work: Path, render: Render | None, limit: int | None
) -> RenderCheck | None:
    if render is None:
        return None
    acted = render.chat.limit if isinstance(render, Renderer) else limit  # a context may be shorter
    result = check_render(shards.read(work / ROWS), plan.kept, render, limit=acted)
    result.demand()
    return result


def _trainer_rows(
    plan: Plan, work: Path, publication: Publication
) -> tuple[Config, TrainerRows] | None:
    """The config for trainers, where it is wanted and the tokenizer is known."""
    if not (publication.trainer_rows and isinstance(publication.render, Renderer)):
        return None
    chat, kind = publication.render.chat, plan.records.kind
    return trainer_rows.write(work / ROWS, kind, chat, work, publication.shard_bytes)


def _misfits(work: Path, plan: Plan) -> dict[str, int]:
    """Shipped rows that break a trainer's rule, counted by rule."""
    content = [c for c in CONTENT[plan.records.kind] if c != "tools"]
    frames = (frame.select("id", *content) for frame in shards.read(work / ROWS))
    return dict(Counter(rule for frame in frames for _, rule in loaders.problems(frame)))


def _compare(facts: Facts, work: Path, before: Path | None, limits: Limits | None) -> None:
    """What changed since the version that is used: as a page, as JSON, and row by row."""
    if before is None:
        return
    found = diff.since(before, facts.read(*diff.READ), after=facts.version)
    alarms = beyond(found, limits) if limits is not None else []
    (work / diff.PAGE).write_bytes(diff_page.page(facts.title, found, alarms))
    text = json_text.published(found.facts, indent=1) + "\n"
    (work / diff.FACTS).write_text(text, "utf-8")
    write_table(found.rows, work / diff.ROWS)


def _add(publication: Publication, facts: Facts, work: Path) -> None:
    """The report and the further files that the request brings."""
    if publication.report is not None:
        (work / "report.html").write_bytes(publication.report(facts))
    for file, content in publication.files.items():
        if isinstance(content, str):
            (work / file).write_text(content, "utf-8")
        else:
            write_table(content, work / file)


def _describe(facts: Facts, work: Path, previous: Path | None) -> None:
    """Everything but the data: all of it computed from the facts and the written files."""
    history = "" if previous is None else (previous / "CHANGELOG.md").read_text("utf-8")
    files = {
        path: {"sha256": sha256(work / path), "bytes": (work / path).stat().st_size}
        for config in facts.configs
        for split in config.splits
        for path in split.paths
    }
    described = json_text.published(croissant.croissant(facts, files), indent=1)
    texts = {
        "README.md": card.card(facts),
        "LICENSES.md": license_table.document(facts.sources),
        "CHANGELOG.md": changes.changelog(
            facts.version, facts.rows, previous, facts.read(*changes.READ), history
        ),
        "croissant.json": described + "\n",
        **loaders.files(facts),
    }
    for path, text in texts.items():
        (work / path).parent.mkdir(exist_ok=True)
        (work / path).write_text(text, "utf-8")
