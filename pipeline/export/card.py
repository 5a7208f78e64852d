"""README.md of a published dataset: YAML that loads, and what a reader must know to train on it."""

import re
from collections.abc import Mapping
from typing import Any

import polars as pl
import yaml

from gristmill.pipeline.export import loaders, people
from gristmill.pipeline.records import licenses
from gristmill.pipeline.report import tables
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.markdown import cell, line, plain, table

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_TAGS = {"example": ["sft"], "pair": ["dpo", "preference"], "document": ["pretraining"]}
TRL_LENGTH = 1024  # TRL's default max_length


def card(facts: Facts) -> str:
    """The whole card."""
    yaml_text = yaml.safe_dump(_header(facts), sort_keys=False, allow_unicode=True, width=1000)
    sections = [
        f"# {cell(facts.title)}",
        _asked(facts),
        "## Sources and licences\n\n" + _sources(facts),
        "## How rows were chosen\n\n" + _method(facts),
        *(["## What people said\n\n" + people.said(facts)] if people.asked(facts) else []),
        *(["## Proof\n\n" + _proof(facts)] if facts.gate else []),
        "## What was left out\n\n" + _drops(facts),
        "## Contamination\n\n" + contamination_statement(facts),
        "## Lengths\n\n" + _lengths(facts),
        "## Training-render check\n\n" + _render(facts),
        "## Loading\n\n" + loaders.section(facts),
        "## Limits\n\n" + _limits(facts),
        "## Citation\n\n" + _citation(facts),
    ]
    return f"---\n{yaml_text}---\n\n" + "\n\n".join(s.strip() for s in sections) + "\n"


def _header(facts: Facts) -> dict[str, Any]:
    license_id = licenses.common(facts.shipped_licenses)
    header: dict[str, Any] = {"pretty_name": facts.title}
    if facts.languages:
        header["language"] = [line(name) for name in facts.languages]
    header["license"] = license_id
    if license_id == "other":
        header |= {"license_name": "per-source", "license_link": "LICENSES.md"}
    hub = [s for s in facts.sources["source"].unique(maintain_order=True) if _is_hub(s)]
    header["task_categories"] = ["text-generation"]
    header["size_categories"] = [size_category(facts.rows)]
    if hub:
        header["source_datasets"] = hub
    header["tags"] = [*_TAGS[facts.kind], "data-selection", *map(line, facts.tags)]
    header["configs"] = facts.configs_yaml
    header["dataset_info"] = [
        {
            "config_name": config.name,
            "splits": [
                {"name": s.name, "num_bytes": s.bytes, "num_examples": s.height}
                for s in config.splits
            ],
        }
        for config in facts.configs
    ]
    return header


def _is_hub(source: str) -> bool:
    file = (".json", ".jsonl", ".gz", ".parquet", ".csv", ".txt")
    return re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None and not source.endswith(file)


def size_category(rows: int) -> str:
    """The hub's bracket for a number of rows."""
    return next(
        (name for limit, name in _SIZES if rows < limit), "1M<n<10M" if rows < 10**7 else "n>10M"
    )


def _asked(facts: Facts) -> str:
    pool = facts.candidates
    splits = ", ".join(f"{s.name} {s.height:,}" for s in facts.default.splits)
    return (
        f"{facts.rows:,} of {pool:,} candidate rows ({splits}), version `{facts.version}`. "
        "The config `ledger` holds one row per candidate: every score, rank, verdict and reason."
        + "".join(f"\n\n**Less than was asked for:** {cell(s)}" for s in facts.shortfalls)
    )


def _sources(facts: Facts) -> str:
    lines = [
        (
            r["source"],
            r["revision"] or "not stated",
            r["license"] or licenses.UNKNOWN,
            f"{r['rows_in']:,}",
            f"{r['rows_out']:,}",
        )
        for r in facts.sources.iter_rows(named=True)
    ]
    head = ("source", "revision", "licence", "rows in", "rows out")
    return table(head, lines) + "\nTerms to mind are in [LICENSES.md](LICENSES.md)."


def _method(facts: Facts) -> str:
    apart = ("checks", "shortfalls", "review")  # the report has the checks
    told = {k: v for k, v in facts.selection.items() if k not in apart}
    said = [(name, plain(value)) for name, value in told.items() if value is not None]
    said += [(f"model ({m.get('role', '?')})", plain(m)) for m in facts.models]
    overlaps = [
        (r["against"], f"{r['overlap']:.1%}")
        for r in tables.overlaps(facts.ledger).iter_rows(named=True)
    ]
    alarms = [
        f"Warning: {cell(column)} follows length (rank correlation {rho:+.2f}); compare with "
        "`length` before trusting it."
        for column, rho in tables.length_alarm(facts.read("tokens", tables.SCORES))
    ]
    return "\n\n".join(
        [
            table(("setting", "value"), said),
            "How much of this selection other ways of choosing would share:\n\n"
            + table(("against", "overlap"), overlaps),
            *alarms,
        ]
    )


def _proof(facts: Facts) -> str:
    gate = facts.gate
    held = (
        ""
        if gate["promoted"]
        else "\n\n**This version is held:** `latest` names another one, or none."
    )
    lines = [
        (e["evaluation"], e["part"], e["against"], "{effect:+.4f}".format(**e), _interval(e))
        for e in gate["effects"]
    ]
    head = ("evaluation", "part", "against", f"effect, {gate['unit']}", f"{gate['level']:.0%}")
    return (
        f"{cell(gate['sentence'])}{held}\n\n{table(head, lines)}\n"
        f"{len(gate['seeds'])} training seeds, {gate['draws']} draws of {gate['against']}; an "
        "interval counts items, seeds and draws. All models and plots: "
        "[comparison.html](comparison.html)."
        + "".join(f"\n\n**Mind:** {cell(flag)}" for flag in gate["flags"])
    )


def _interval(effect: Mapping[str, Any]) -> str:
    return "[{low:+.4f}, {high:+.4f}]".format(**effect)


def _drops(facts: Facts) -> str:
    lost = tables.drops(facts.ledger).filter(pl.col("verdict") != "kept")
    lines = [
        (r["reason"] or "", r["stage"] or "", r["verdict"], f"{r['rows']:,}")
        for r in lost.head(40).iter_rows(named=True)
    ]
    more = f"\n{lost.height - 40} rarer reasons are in the ledger.\n" if lost.height > 40 else ""
    return table(("reason", "stage", "verdict", "rows"), lines) + more if lines else "Nothing was."


def contamination_statement(facts: Facts) -> str:
    """What was checked against which evaluation sets, and what was found; or that nothing was."""
    if facts.contamination is None:
        return "**Not checked.** No evaluation set was named, so nothing is claimed."
    sets = [str(s) for s in facts.contamination.get("sets", ())]
    how = {k: v for k, v in facts.contamination.items() if k != "sets" and v is not None}
    found = tables.contamination(facts.ledger, sets)
    lines = [
        (r["benchmark"], f"{r['rows']:,}", f"{r['kept']:,}") for r in found.iter_rows(named=True)
    ]
    kept = int(found["kept"].sum())
    claim = (
        "No row that was flagged is shipped."
        if kept == 0
        else f"**{kept:,} flagged rows are shipped.**"
    )
    settings = f" Settings: {cell(plain(how))}." if how else ""
    return (
        f"Checked against {len(sets)} evaluation sets. {claim}{settings} A set that is not named "
        "here was not checked.\n\n" + table(("benchmark", "rows flagged", "of them shipped"), lines)
    )


def _lengths(facts: Facts) -> str:
    counted = facts.read("tokens", "verdict")
    if counted["tokens"].count() == 0:
        return "No tokenizer was used, so no token counts are given."
    lines = [
        (r["quantile"], f"{r['before']:,.0f}", "" if r["after"] is None else f"{r['after']:,.0f}")
        for r in tables.lengths(counted).iter_rows(named=True)
    ]
    kept = counted.filter(tables.KEPT)["tokens"]
    cut = int((kept > TRL_LENGTH).sum())
    name = cell(facts.tokenizer.get("id", "the target's tokenizer"))
    return (
        f"Tokens by {name}. A `max_length` of {TRL_LENGTH:,} (TRL's default) would cut {cut:,} of "
        f"{kept.count():,} rows.\n\n" + table(("quantile", "pool", "shipped"), lines)
    )


def _render(facts: Facts) -> str:
    check = facts.render
    if check is None:
        return "**Not made.** No tokenizer was given: look at your trainer's masks before training."
    problems = ", ".join(f"{k} {len(check.found.get(k, ()))}" for k in check.summary()["problems"])
    side = " (prompt and chosen answer)" if facts.kind == "pair" else ""
    return (
        f"{check.rows:,} of {check.shipped:,} rows were rendered with the target's chat template: "
        f"{check.trained_share:.1%} of their tokens{side} carry loss. Found: {problems}. Coloured "
        "examples are in `report.html`; Loading says which commands train these masks."
    )


def _limits(facts: Facts) -> str:
    unseen = "" if people.asked(facts) else "; people did not check it"
    points = [
        f"A score is a guess at usefulness made by the models above{unseen}.",
        "Near-copies stay on one side of a split (`split_group`); rewordings that no detector "
        "found may not.",
    ]
    if not facts.gate:
        points.append("No comparison with a random selection is recorded for this version.")
    return "\n".join(f"- {p}" for p in points)


def _citation(facts: Facts) -> str:
    papers = [str(p) for p in facts.selection.get("papers", ())]
    tail = "\n".join(f"- {cell(p)}" for p in papers)
    return f"Made by gristmill {facts.gristmill}; pin `{facts.version}`. Cite the sources above" + (
        " and the methods:\n\n" + tail if papers else "."
    )
