"""The cleaners of a run's settings: names and numbers to the pipeline's nouns."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gristmill.flows.config import (
    CleanConfig,
    DecontaminateConfig,
    PoolConfig,
    settings_in,
    validated,
)
from gristmill.pipeline.clean import benchmarks
from gristmill.pipeline.clean.cleaning import Cleaning, Evaluations
from gristmill.pipeline.clean.decontaminate import Gate
from gristmill.pipeline.clean.filters import filter_named
from gristmill.pipeline.clean.listed import Listed, ids_in, taken_down
from gristmill.pipeline.clean.near_duplicates import MinHash
from gristmill.pipeline.clean.semantic_duplicates import SemDeDup
from gristmill.pipeline.export.versions import rows_of
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records.store import Store


def asked(
    config: Path | None,
    filters: Sequence[str],
    near: float | None,
    semantic: float | None,
    decontaminate: str | None,
) -> CleanConfig:
    """The settings that a command line names.

    Args:
        config: YAML file of these settings, or of a run that has them under `clean:`.
        filters: `NAME` or `NAME:key=value,key=value` texts, after those of the file.
        near: Jaccard index of near duplicates, in the place of the file's.
        semantic: 1 - cosine of semantic duplicates, in the place of the file's.
        decontaminate: folder of the evaluation sets, in the place of the file's.
    """
    values = settings_in(config, "`filters:`, `near:`, `semantic:` ...") if config else {}
    of_run = "clean" in values
    given = (values["clean"] or {}) if of_run else values
    if not isinstance(given, dict):
        raise ValueError(f"{config}: clean: expected settings; found {given!r}.")
    values = _checked(given, f"{config}: clean" if of_run else f"{config}")
    values["filters"] = [*values.get("filters", []), *map(_filter_of, filters)]
    for name, setting, value in (
        ("near", "threshold", near),
        ("semantic", "epsilon", semantic),
        ("decontaminate", "folder", decontaminate),
    ):
        if value is not None:
            values[name] = {**(values.get(name) or {}), setting: value}
    return CleanConfig.model_validate(_checked(values, "clean"))


def _checked(values: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The settings as they were given, once they are known to be right."""
    return validated(CleanConfig, values, where).model_dump(exclude_unset=True)


def _filter_of(text: str) -> dict[str, Any]:
    """`NAME:key=value,key=value`; a part without a key goes on with the value before it."""
    name, _, rest = text.partition(":")
    settings: dict[str, str] = {}
    last = None
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if equals and key.isidentifier():
            settings[key], last = value, key
        elif last is not None:
            settings[last] += f",{part}"
        else:
            raise ValueError(f"--filter {text!r}: expected NAME or NAME:key=value,key=value.")
    return {"filter": name, "settings": settings}


def made(settings: CleanConfig, store: Store, lists: Listed | None = None) -> Cleaning:
    """The cleaners that the settings name; datasets that were published before are ingested.

    Args:
        settings: those of `clean:`.
        store: where datasets are ingested.
        lists: ids that a person chose; see `lists_of`.
    """
    return Cleaning(
        filters=tuple(filter_named(f.filter, f.settings) for f in settings.filters),
        evaluations=evaluations(settings.decontaminate) if settings.decontaminate else None,
        near=MinHash(**settings.near.model_dump()) if settings.near else None,
        semantic=SemDeDup(epsilon=settings.semantic.epsilon) if settings.semantic else None,
        keep=settings.keep,
        published=tuple(
            ingest(store, [Source(path=rows_of(p))], max_bad_share=1.0) for p in settings.published
        ),
        lists=lists or Listed(),
    )


def lists_of(config: PoolConfig) -> Listed:
    """The lists of ids that a run's settings name."""
    keep, drop = (ids_in(_places(paths)) for paths in (config.keep, config.drop))
    takedown, sources = taken_down(_places(config.takedown))
    return Listed(keep=keep if config.keep else None, drop=drop, takedown=takedown, sources=sources)


def _places(paths: Sequence[str]) -> list[Path]:
    return [Path(path).expanduser() for path in paths]


def evaluations(asked: DecontaminateConfig) -> Evaluations:
    """The evaluation sets that rows are checked against."""
    chosen = Path(asked.config) if asked.config else benchmarks.SHIPPED
    gate: dict[str, Any] = {"n": asked.n, "fuzzy": asked.fuzzy}
    if asked.similarity is not None:
        gate["similarity"] = asked.similarity
    return Evaluations(
        items=benchmarks.load_benchmarks(folder_of(asked), asked.sets, config=chosen),
        gate=Gate(**gate),
        rewordings=asked.similarity is not None,
    )


def folder_of(asked: DecontaminateConfig) -> Path:
    """The folder of the evaluation sets."""
    folder = asked.folder or os.environ.get("GRISTMILL_DATA")
    if not folder or not Path(folder).is_dir():
        raise ValueError(
            f"clean.decontaminate.folder is {folder or 'not given'}: name the folder of the "
            "evaluation sets (or set GRISTMILL_DATA)."
        )
    return Path(folder)
