"""The evaluation sets of the decontamination gate: which there are, and their items as text.

The list is configuration: `benchmarks.yaml` beside this file, or a file of the user's with the same
form. Paths are relative to a data folder; a set whose files are not there can not be checked.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.ingest.readers import format_of
from gristmill.pipeline.records import yaml_text

SHIPPED = Path(__file__).with_name("benchmarks.yaml")
ITEMS = {"benchmark": pl.String, "item": pl.String, "text": pl.String}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One evaluation set (the fields are explained in `benchmarks.yaml`)."""

    name: str
    files: str
    fields: tuple[str, ...]
    license: str
    strip: str | None = None

    def paths(self, folder: Path) -> list[Path]:
        return sorted(folder.glob(self.files))

    def items(self, folder: Path) -> pl.DataFrame:
        """The items of the set: `benchmark`, `item` (file:number, from 0) and `text`."""
        rows = []
        for path in self.paths(folder):
            for number, raw in enumerate(_rows(path)):
                text = "\n".join(t for field in self.fields for t in _texts(raw, field.split(".")))
                if self.strip:
                    text = re.sub(self.strip, " ", text, flags=re.MULTILINE)
                rows.append((self.name, f"{path.name.split('.')[0]}:{number}", text))
        if rows and not any(text.strip() for _, _, text in rows):
            raise ValueError(
                f"benchmark {self.name} has none of the fields {', '.join(self.fields)} in "
                f"{self.files}: correct its entry."
            )
        return pl.DataFrame(rows, schema=ITEMS, orient="row")


def benchmarks(config: Path = SHIPPED) -> list[Benchmark]:
    """The sets that a configuration file names."""
    text = yaml_text.read(config)
    try:
        entries = yaml_text.parse(text) or {}
    except ValueError as error:
        raise ValueError(f"{config.name} is no YAML: {error}.") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{config.name} must map the names of evaluation sets to their files.")
    found = []
    for name, entry in entries.items():
        known = {"files", "fields", "license", "strip"}
        if not isinstance(entry, dict) or not {"files", "fields", "license"} <= set(entry) <= known:
            raise ValueError(
                f"{config.name}: {name} must be a mapping of files, fields, license and perhaps "
                f"strip; found {entry!r}."
            )
        found.append(Benchmark(name=name, **{**entry, "fields": tuple(entry["fields"])}))
    return found


def load_benchmarks(
    folder: Path, names: Sequence[str] | None = None, *, config: Path = SHIPPED
) -> pl.DataFrame:
    """Items of the named sets, or of all whose files are there: the table `ITEMS`.

    What was checked is what the table names (`benchmark`): a set that is not in it was not.
    """
    known = {b.name: b for b in benchmarks(config)}
    unknown = [n for n in names or () if n not in known]
    if unknown:
        raise ValueError(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(known)}.")
    chosen = [known[n] for n in known if names is None or n in names]
    present = [b for b in chosen if b.paths(folder)]
    if names is not None and len(present) < len(chosen):
        absent = next(b for b in chosen if b not in present)
        raise ValueError(f"benchmark {absent.name} is not at {absent.files} under {folder}.")
    if not present:
        raise ValueError(f"none of the {len(known)} benchmarks of {config.name} is under {folder}.")
    return pl.concat([b.items(folder) for b in present])


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    read = format_of(path)
    if read is None:
        raise ValueError(f"{path.name} has no format that can be read here.")
    for _, raw in read.items(path):
        yield read.parse(raw)


def _texts(value: Any, path: Sequence[str]) -> Iterator[str]:  # noqa: ANN401  (JSON)
    if isinstance(value, list):
        for part in value:
            yield from _texts(part, path)
    elif path and isinstance(value, dict):
        yield from _texts(value.get(path[0]), path[1:])
    elif value is not None and not path:
        yield str(value)
