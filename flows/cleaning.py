"""The cleaners of a run's settings: names and numbers to the pipeline's nouns."""

import dataclasses
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gristmill.flows.config import (
    CleanConfig,
    DecontaminateConfig,
    FilterConfig,
    first_error,
    settings_in,
)
from gristmill.pipeline.clean import benchmarks, filters, heuristics, language, privacy, toxicity
from gristmill.pipeline.clean.cleaning import Cleaning, Evaluations
from gristmill.pipeline.clean.decontaminate import Gate
from gristmill.pipeline.clean.filters import Filter
from gristmill.pipeline.clean.near_duplicates import MinHash
from gristmill.pipeline.clean.semantic_duplicates import SemDeDup
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records.store import Store
from gristmill.selectors.catalog import convert


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
    try:
        return CleanConfig.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_error(error)}") from None


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


def made(settings: CleanConfig, store: Store) -> Cleaning:
    """The cleaners that the settings name; datasets that were published before are ingested."""
    return Cleaning(
        filters=tuple(filter_named(f) for f in settings.filters),
        evaluations=evaluations(settings.decontaminate) if settings.decontaminate else None,
        near=MinHash(**settings.near.model_dump()) if settings.near else None,
        semantic=SemDeDup(epsilon=settings.semantic.epsilon) if settings.semantic else None,
        keep=settings.keep,
        published=tuple(
            ingest(store, [Source(path=p)], max_bad_share=1.0) for p in settings.published
        ),
    )


def evaluations(asked: DecontaminateConfig) -> Evaluations:
    """The evaluation sets that rows are checked against."""
    folder = asked.folder or os.environ.get("GRISTMILL_DATA")
    if not folder or not Path(folder).is_dir():
        raise ValueError(
            f"clean.decontaminate.folder is {folder or 'not given'}: name the folder of the "
            "evaluation sets (or set GRISTMILL_DATA)."
        )
    chosen = Path(asked.config) if asked.config else benchmarks.SHIPPED
    gate: dict[str, Any] = {"n": asked.n, "fuzzy": asked.fuzzy}
    if asked.similarity is not None:
        gate["similarity"] = asked.similarity
    return Evaluations(
        items=benchmarks.load_benchmarks(Path(folder), asked.sets, config=chosen),
        gate=Gate(**gate),
        rewordings=asked.similarity is not None,
    )


def filter_named(asked: FilterConfig) -> Filter:
    """The filter of that name: `repetition` is `Repetition`; text settings are converted."""
    known = {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", c.__name__).lower(): c
        for module in (filters, heuristics, language, privacy, toxicity)
        for c in vars(module).values()
        if isinstance(c, type) and c.__module__ == module.__name__ and "reasons" in vars(c)
        if dataclasses.is_dataclass(c)
    }
    if asked.filter not in known:
        raise ValueError(
            f"there is no filter {asked.filter!r}; there are: {', '.join(sorted(known))}."
        )
    cls = known[asked.filter]
    hints = typing.get_type_hints(cls)
    lacking = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if f.name not in asked.settings
    ]
    if lacking:
        raise ValueError(f"filter {asked.filter} needs its setting {lacking[0]!r}.")
    names = [f.name for f in dataclasses.fields(cls)]
    for name in asked.settings:
        if name not in names:
            raise ValueError(f"filter {asked.filter} has no setting {name!r}; it has: {names}.")
    where = f"filter {asked.filter}."
    values = {k: convert(v, hints[k], where + k) for k, v in asked.settings.items()}
    return typing.cast(Filter, cls(**values))
