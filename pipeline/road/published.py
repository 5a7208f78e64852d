"""Published: a dataset that was published, read back to be trained on.

The folder is verified whole, its shipped rows are ingested as any others are, and the ledger gives
each row its weight. Ids are hashes of content, so a row that reads back as the record that was
exported bears the id of its line in the ledger, and one that does not is refused: what a model is
trained on is what was selected, turn masks and tool calls included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.export.versions import promoted
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.final_tokens import FILE, FINAL_TOKENS
from gristmill.pipeline.records.schema import CONTENT, RECORDS, Kind, check
from gristmill.pipeline.records.store import Store, sha256

TRAIN, VALIDATION = "train", "validation"
_NEEDED = {"name", "version", "key", "kind", "rows", "models", "files", "evaluation"}


@dataclass(frozen=True, kw_only=True)
class Version:
    """A published version, by its manifest.

    Attributes:
        folder: where it lies.
        manifest: what manifest.json holds.
        manifest_sha: sha256 of manifest.json.
    """

    folder: Path
    manifest: Mapping[str, Any]
    manifest_sha: str

    @property
    def name(self) -> str:
        """The dataset and its version, as `demo v2-0123abcd`."""
        return f"{self.manifest['name']} {self.manifest['version']}"

    @property
    def kind(self) -> Kind:
        """What the rows are."""
        kind: Kind = self.manifest["kind"]
        return kind

    def rows(self, split: str) -> int:
        """How many rows a split ships."""
        return int(self.manifest["rows"].get(f"default/{split}", 0))

    def models(self, role: str) -> list[Mapping[str, Any]]:
        """The models in a role of the run that published it."""
        return [m for m in self.manifest["models"] if m["role"] == role]


@dataclass(frozen=True, kw_only=True)
class Published:
    """The rows of a published version.

    Attributes:
        version: which one.
        train: `id`, the content of the records, and `weight`.
        validation: the same of the rows that are held out; empty if there are none.
        notes: sentences on what a reader should know of them.
    """

    version: Version
    train: pl.DataFrame
    validation: pl.DataFrame
    notes: tuple[str, ...]

    def final_tokens(self) -> pl.DataFrame:
        """The final tokens of the pairs in the train split.

        Raises:
            ValueError: the folder has none.
        """
        path = self.version.folder / FILE
        if not path.exists():
            raise ValueError(
                f"{self.version.folder} holds no {FILE}, which the stage ftpo trains on: publish "
                "it with a prefer run whose construction is final_tokens, or train by dpo."
            )
        rows = check(pl.read_parquet(path), FINAL_TOKENS, FILE)
        return rows.filter(pl.col("pair").is_in(self.train["id"].implode()))


def version_of(folder: Path) -> Version:
    """The version that a path names, by its manifest alone: a version, or a dataset's latest.

    Raises:
        ValueError: there is none, or it has no rows to train on.
    """
    found = promoted(folder)
    path = found / "manifest.json"
    try:
        manifest = json_text.loads(path.read_text("utf-8"))
        known = manifest.keys() >= _NEEDED
    except (OSError, ValueError, AttributeError):
        known = False
    if not known:
        raise ValueError(
            f"{found} is not a published dataset ({path.name} is missing or not ours): give a "
            "folder that `gristmill run` or `gristmill export` has published."
        )
    version = Version(folder=found, manifest=manifest, manifest_sha=sha256(path))
    if not version.rows(TRAIN):
        raise ValueError(
            f"{found} ships no row in its split {TRAIN}: there is nothing to train on; publish it "
            "with a larger budget or a smaller validation_fraction."
        )
    return version


def read_back(version: Version, store: Store) -> Published:
    """The rows of a published version, as they were selected.

    Args:
        version: of `version_of`.
        store: where the rows are ingested.

    Raises:
        ValueError: the folder was changed since, or rows do not read back as they were.
    """
    folder = version.folder
    if problems := verify(folder):
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ValueError(
            f"{folder} is not as it was published ({problems[0]}{more}): put a whole copy in its "
            "place, or publish it again."
        )
    train = _rows(version, TRAIN, store)
    rows = _weighed(version, pl.concat([train, _rows(version, VALIDATION, store)]))
    train, validation = rows.head(train.height), rows.tail(-train.height)
    if not (train["weight"] > 0).any():
        raise ValueError(
            f"all {train.height:,} rows of {version.name} have the weight 0: nothing would be "
            "learnt; select by a rule that gives some row a weight."
        )
    return Published(version=version, train=train, validation=validation, notes=_notes(train))


def _rows(version: Version, split: str, store: Store) -> pl.DataFrame:
    """The records of a split: `id` and content."""
    columns = ["id", *CONTENT[version.kind]]
    listed = sorted(f["path"] for f in version.manifest["files"])
    files = [version.folder / path for path in listed if path.startswith(f"data/{split}-")]
    if not files:
        return pl.DataFrame(schema=RECORDS[version.kind]).select(columns)
    sources = [Source(path=str(path), name=version.name) for path in files]
    return ingest(store, sources, kind=version.kind, max_bad_share=1.0).frame(columns)


def _weighed(version: Version, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the weights that the ledger gives them.

    Args:
        version: whose ledger it is.
        rows: all shipped rows.
    """
    tables = sorted(version.folder.glob("ledger/*.parquet"))
    kept = pl.concat([pl.read_parquet(p, columns=["id", "verdict", "weight"]) for p in tables])
    kept = kept.filter(verdict="kept").with_columns(weight=pl.col("weight").fill_null(1.0))
    # copies have one id and may have several weights: the first copy takes the first of them
    copy = pl.int_range(pl.len()).over("id").alias("copy")
    given = kept.select("id", "weight").sort("id", "weight").with_columns(copy)
    found = rows.with_columns(copy).join(
        given, on=["id", "copy"], how="left", maintain_order="left", validate="1:1"
    )
    strange = found.filter(pl.col("weight").is_null())["id"]
    if len(strange) or found.height != given.height:
        first = f"; the first that is not in the ledger is {strange[0]}" if len(strange) else ""
        raise ValueError(
            f"{version.folder} keeps {given.height:,} rows in its ledger, and "
            f"{found.height - len(strange):,} of them read back as they were selected{first}: "
            "publish it again with this release, then train on that."
        )
    return found.drop("copy")


def worth(weight: pl.Series) -> float:
    """How many rows of equal weight these are worth."""
    weight_N = weight.to_numpy()
    return float(weight_N.sum() ** 2 / (weight_N**2).sum())


def _notes(train: pl.DataFrame) -> tuple[str, ...]:
    """What the weights mean, where they are not all alike."""
    weight = train["weight"]
    none = int((weight == 0).sum())
    said = []
    if weight.n_unique() > 1:
        said.append(
            f"weights are not all alike: the {train.height:,} rows are worth {worth(weight):,.1f} "
            "rows of equal weight."
        )
    if none:
        said.append(f"{none:,} of {train.height:,} rows have the weight 0 and teach nothing.")
    return tuple(said)
