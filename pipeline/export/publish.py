"""Export: publish what a ledger keeps as an immutable, self-describing folder.

`<root>/<name>/v<N>-<key8>` is written as a hidden sibling, synced, renamed, marked with `_SUCCESS`,
and only then named by the relative link `latest`. The key hashes everything that the bytes depend
on, so equal inputs find the version that is there already. Killed at any moment, a rerun ends with
the same folder. Everything that is read for a publication is hashed first: the records, and what
the changelog needs of the version before.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export import (
    card,
    changes,
    croissant,
    license_table,
    loaders,
    provenance,
    shards,
    verify,
)
from gristmill.pipeline.export.plan import ROWS, Plan, leaked, write
from gristmill.pipeline.export.plan import plan as planned
from gristmill.pipeline.export.render import check_render
from gristmill.pipeline.export.versions import claim, finished, newest, number, point, torn
from gristmill.pipeline.records.dataset import Records
from gristmill.pipeline.records.schema import CONTENT, LEDGER, check, digest
from gristmill.pipeline.records.sealed import seal
from gristmill.pipeline.records.store import locked, remove, sha256, write_table, write_text
from gristmill.pipeline.report.facts import CODE_VERSION, Facts
from gristmill.pipeline.report.rendered import Render, RenderCheck

Report = Callable[[Facts], bytes]


def export(
    ledger: pl.DataFrame,
    dataset: Records,
    *,
    root: Path,
    name: str,
    selection: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]] = (),
    tokenizer: Mapping[str, Any] | None = None,
    seeds: Mapping[str, int] | None = None,
    run: Mapping[str, Any] | None = None,
    validation_fraction: float = 0.0,
    references: Collection[str] = (),
    contamination: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    languages: Sequence[str] = (),
    tags: Sequence[str] = (),
    sft_view: str = "messages",
    pair_views: Sequence[str] = (),
    in_order: bool = False,
    render: Render | None = None,
    max_length: int | None = None,
    report: Report | None = None,
    files: Mapping[str, pl.DataFrame | str] | None = None,
    shard_bytes: int = shards.SHARD_BYTES,
) -> Path:
    """Publish the kept rows and return the folder.

    Args:
        ledger: the table of `schema.LEDGER`, with any `score_<scorer>`.
        dataset: the records that were selected from.
        root: where curated datasets live.
        name: name of the dataset; its versions stand in `root/name`.
        selection: scorers, settings, rule, budget, reference, papers: what was asked.
        models: role, id, model_sha and dtype of each model.
        tokenizer: id, sha256 and chat_template_sha of the target's.
        seeds: purpose -> seed; "split" keys the validation split.
        run: times, cost, hardware, package versions: run.json, outside all sums.
        validation_fraction: share of split groups held out.
        references: ids of reference rows, which must not be among the kept.
        contamination: `sets` that were checked and the settings; None says "not checked".
        evaluation: `task_hashes` and `gate` that speak for this selection.
        languages: for the card, if known.
        tags: further tags of the card ("synthetic").
        sft_view: "messages" or "prompt_completion".
        pair_views: any of "conversation" and "single", each a config of its own.
        in_order: ship rows in the rule's order (a curriculum), not in the order of their ids, which
            is as good as shuffled.
        render: the target's rendering; a bad mask stops the export.
        max_length: what `render` cuts at.
        report: makes report.html from the facts.
        files: further tables and texts of the folder, by file name; in no config of the dataset.
        shard_bytes: about how large a file grows.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"name={name!r} must be letters, digits, dots, dashes and underscores.")
    ledger = check(ledger, LEDGER, "ledger")
    told: dict[str, Any] = {
        "selection": dict(selection),
        "models": [dict(m) for m in models],
        "tokenizer": dict(tokenizer or {}),
        "seeds": dict(seeds or {}),
        "contamination": None if contamination is None else dict(contamination),
        "evaluation": dict(evaluation or {}),
        "languages": list(languages),
        "tags": list(tags),
    }
    inputs = {"dataset": dataset.content, "ledger": provenance.content_hash(ledger)}
    shape = {
        "validation_fraction": validation_fraction,
        "sft_view": sft_view,
        "pair_views": sorted(pair_views),
        "in_order": in_order,
        "rendered": render is not None,
        "max_length": max_length,
        "reported": report is not None,
        "shard_bytes": shard_bytes,
        "references": digest(sorted(references)),
    }
    if files:
        held = {k: v if isinstance(v, str) else [v.columns, v.rows()] for k, v in files.items()}
        shape["files"] = digest(held)
    key = digest({"name": name, "code": CODE_VERSION, "inputs": inputs, **told, "shape": shape})
    home = Path(root) / name
    claim(home)
    with locked(home / ".lock"):
        done = finished(home, key)
        if done is None:
            leaked(ledger, references)
            dataset.entry.intact()
            plan = planned(ledger, dataset, told, shape)
            previous = newest(home)
            if previous is not None:
                verify.demand(previous, ["CHANGELOG.md", *changes.ledger_files(previous)])
            version = f"v{number(previous) + 1}-{key[:8]}"
            work = home / f".{version}"
            for left in torn(home):
                remove(left)
            configs = write(plan, work, shard_bytes)
            facts = Facts(
                title=name,
                version=version,
                key=key,
                kind=dataset.kind,
                inputs=inputs,
                settings=shape,
                ledger=plan.ledger,
                configs=configs,
                render=_rendered(plan, work, render, max_length),
                misfits=_misfits(work, plan),
                **told,
            )
            remove(work / ROWS)
            _describe(facts, work, previous)
            if report is not None:
                (work / "report.html").write_bytes(report(facts))
            for file, content in (files or {}).items():
                if isinstance(content, str):
                    (work / file).write_text(content, "utf-8")
                else:
                    write_table(content, work / file)
            verify.seal(work, facts.manifest)
            told_of_run = json.loads(json.dumps(dict(run or {}), default=str))
            write_text(work / verify.RUN, seal(told_of_run))
            verify.sync(*work.rglob("*"), work)
            done = home / version
            work.rename(done)
            verify.sync(home)
            verify.succeed(done)
        point(home, done)
    return done


def _rendered(
    plan: Plan, work: Path, render: Render | None, limit: int | None
) -> RenderCheck | None:
    if render is None:
        return None
    result = check_render(shards.read(work / ROWS), plan.placed.height, render, limit=limit)
    result.demand()
    return result


def _misfits(work: Path, plan: Plan) -> dict[str, int]:
    """Shipped rows that break a trainer's rule, counted by rule."""
    content = [c for c in CONTENT[plan.records.kind] if c != "tools"]
    frames = (frame.select("id", *content) for frame in shards.read(work / ROWS))
    return dict(Counter(rule for frame in frames for _, rule in loaders.problems(frame)))


def _describe(facts: Facts, work: Path, previous: Path | None) -> None:
    """Everything but the data: all of it computed from the facts and the written files."""
    history = "" if previous is None else (previous / "CHANGELOG.md").read_text("utf-8")
    files = {
        path: {"sha256": sha256(work / path), "bytes": (work / path).stat().st_size}
        for config in facts.configs
        for split in config.splits
        for path in split.paths
    }
    described = json.dumps(croissant.croissant(facts, files), indent=1, ensure_ascii=False)
    texts = {
        "README.md": card.card(facts),
        "LICENSES.md": license_table.document(facts.sources),
        "CHANGELOG.md": changes.changelog(
            facts.version, facts.rows, previous, facts.ledger, history
        ),
        "croissant.json": described + "\n",
        **loaders.files(facts),
    }
    for path, text in texts.items():
        (work / path).parent.mkdir(exist_ok=True)
        (work / path).write_text(text, "utf-8")
