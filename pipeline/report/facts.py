"""Facts: everything the card, the Croissant file and the manifest may say of a publication.

Numbers come from the written files and the ledger; what was not told stays untold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.report.rendered import RenderCheck, TrainerRows
from gristmill.pipeline.report.tables import KEPT, columns_named, per_source

CODE_VERSION = 7  # raise when the published bytes change for equal inputs


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of one config, as written.

    Attributes:
        paths: files in order, relative to the published folder.
        rows: rows of each file.
        bytes: size of the split as Arrow tables in memory, which is what `datasets` calls its size.
    """

    name: str
    paths: tuple[str, ...]
    rows: tuple[int, ...]
    bytes: int

    @property
    def height(self) -> int:
        return sum(self.rows)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One config of the published dataset and the columns its files hold."""

    name: str
    columns: Mapping[str, str]  # column -> Arrow type
    splits: tuple[Split, ...]

    @property
    def folder(self) -> str:
        return self.splits[0].paths[0].split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is true of a publication.

    Attributes:
        title: name of the dataset; `version` is its folder, `v<N>-<key8>`.
        key: hash of everything the publication was made from.
        inputs: name -> content hash.
        settings: how the folder was shaped (views, split, shard size).
        ledger: the published ledger, of which `read` gives what is asked for.
        contamination: what was checked (`sets`, and any settings), or None if nothing was.
        misfits: rule of a trainer -> shipped rows that break it (`loaders.problems`).
        evaluation: `task_hashes` and `gate` of an evaluation that speaks for this selection, and
            the `approval` of whoever looked at a sample of it.
    """

    title: str
    version: str
    key: str
    kind: Kind
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    ledger: pl.LazyFrame
    configs: tuple[Config, ...]
    selection: Mapping[str, Any]
    models: Sequence[Mapping[str, Any]] = ()
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    contamination: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    render: RenderCheck | None = None
    trainer_rows: TrainerRows | None = None
    misfits: Mapping[str, int] = field(default_factory=dict)
    languages: Sequence[str] = ()
    tags: Sequence[str] = ()

    @property
    def gristmill(self) -> str:
        return version("gristmill")

    @property
    def default(self) -> Config:
        return self.configs[0]

    @property
    def rows(self) -> int:
        """Rows of the default config, over its splits."""
        return sum(s.height for s in self.default.splits)

    @property
    def shortfalls(self) -> list[str]:
        """What could not be kept of what was asked, a sentence each."""
        return [str(s) for s in self.selection.get("shortfalls") or ()]

    @property
    def gate(self) -> Mapping[str, Any]:
        """What a gate said of this selection (`compare.gate.Verdict.facts`); nothing: none did."""
        found = self.evaluation.get("gate") or {}
        return found if "promoted" in found else {}

    @cached_property
    def candidates(self) -> int:
        """Rows of the pool."""
        return int(self.ledger.select(pl.len()).collect().item())

    def read(self, *columns: str) -> pl.DataFrame:
        """Columns of the ledger, by name or by pattern; what is not there is passed over."""
        names = self.ledger.collect_schema().names()
        return self.ledger.select(columns_named(names, columns)).collect()

    @cached_property
    def sources(self) -> pl.DataFrame:
        """One line a source, revision and licence: rows in, rows out."""
        columns = ("source", "revision", "license", "rows_in", "rows_out")
        return per_source(self.ledger).select(columns)

    @property
    def shipped_licenses(self) -> list[str | None]:
        """Licences of the rows that ship."""
        kept = self.ledger.filter(KEPT).select(pl.col("license").unique())
        found = kept.collect(engine="streaming")["license"].to_list()
        return sorted(found, key=lambda x: (x is None, x))

    @property
    def configs_yaml(self) -> list[dict[str, Any]]:
        """The card's `configs`: explicit paths, since guessing goes wrong."""
        return [
            {
                "config_name": config.name,
                **({"default": True} if config.name == "default" else {}),
                "data_files": [
                    {"split": s.name, "path": f"{config.folder}/{s.name}-*.parquet"}
                    for s in config.splits
                ],
            }
            for config in self.configs
        ]

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json without its files: no time, no path, no machine."""
        render = self.render.summary() if self.render else None
        return {
            "schema_version": "1.0.0",
            "name": self.title,
            "version": self.version,
            "key": self.key,
            "kind": self.kind,
            "generator": {"gristmill": self.gristmill, "export": CODE_VERSION},
            "inputs": dict(self.inputs),
            "settings": dict(self.settings),
            "seeds": dict(self.seeds),
            "rows": {f"{c.name}/{s.name}": s.height for c in self.configs for s in c.splits},
            "sources": [
                {"id": r["source"], **{k: v for k, v in r.items() if k != "source"}}
                for r in self.sources.iter_rows(named=True)
            ],
            "models": [dict(m) for m in self.models],
            "tokenizer": dict(self.tokenizer),
            "selection": dict(self.selection),
            "contamination": dict(self.contamination) if self.contamination is not None else None,
            "render_check": render,
            "trainer_rows": asdict(self.trainer_rows) if self.trainer_rows else None,
            "evaluation": {"task_hashes": {}, "gate": {}, **self.evaluation},
        }
