"""A review's folder in the store: which records it is of, and the journals of its annotators.

    <store>/reviews/<name>-<content8>/
        review.json            sealed: the dataset's entry and content, the seed
        journal/ANNOTATOR.jsonl
        judgements.parquet     `JUDGEMENTS`, written when an annotator finishes, or is asked for

The folder's name holds the content of the records: the same command comes back to the same review,
other records are another one. So a dataset that changes is never reviewed under the judgements of
its past, and the past is not lost.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.records.schema import check
from gristmill.pipeline.records.sealed import read_sealed, seal
from gristmill.pipeline.records.store import Store, locked, write_table, write_text
from gristmill.pipeline.review import journal

FACTS = "review.json"
TABLE = "judgements.parquet"
_JOURNAL = "journal"


@dataclass(frozen=True, kw_only=True)
class Review:
    """A review that was opened.

    Attributes:
        path: its folder.
        dataset: the records.
        seed: of every draw.
    """

    path: Path
    dataset: Dataset
    seed: int

    @property
    def key(self) -> str:
        """What a page says it is of: the content of the records."""
        return self.dataset.content

    @property
    def journals(self) -> Path:
        """The folder of the journals."""
        return self.path / _JOURNAL

    def write(self) -> Path:
        """Write what was said so far as one table; its path."""
        table = said(self.path)
        path = self.path / TABLE
        half = self.path / f".{TABLE}"
        with locked(self.path / ".lock"):
            write_table(table, half)
            half.rename(path)
        return path


def opened(store: Store, dataset: Dataset, name: str, seed: int = 0) -> Review:
    """The review of some records; made if it is not there yet.

    Args:
        store: where it lies.
        dataset: the records; documents, examples or pairs.
        name: for people.
        seed: of a new review; one that is there keeps its own.

    Raises:
        ValueError: its facts were damaged, or the seed is another one.
    """
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:60] or "review"
    path = store.root / "reviews" / f"{slug}-{dataset.content[:8]}"
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / ".lock"):
        if not (path / FACTS).exists():
            facts = {
                "content": dataset.content,
                "dataset": str(dataset.entry.path.relative_to(store.root)),
                "kind": dataset.kind,
                "name": name,
                "seed": seed,
            }
            write_text(path / FACTS, seal(facts))
        found = facts_of(path)
    if found["content"] != dataset.content:
        raise ValueError(f"{path} is the review of other records: move it away.")
    if found["seed"] != seed:
        raise ValueError(
            f"the review {path} was begun with seed {found['seed']}, and people were shown their "
            f"items by it: leave it so (--seed {found['seed']})."
        )
    return Review(path=path, dataset=dataset, seed=seed)


def facts_of(path: Path) -> dict[str, Any]:
    """What a review's folder says it is of."""
    found = read_sealed(path / FACTS)
    if found is None:
        raise ValueError(
            f"{path / FACTS} is missing or damaged: a review is a folder that `gristmill review` "
            "made."
        )
    return found


def said(path: Path) -> pl.DataFrame:
    """What people said: the journals of a review, or a table of `JUDGEMENTS`.

    Args:
        path: the folder of a review, or a Parquet file.

    Raises:
        ValueError: it is neither, or holds what is no judgement.
    """
    if path.is_dir():
        facts_of(path)
        return journal.table(journal.journals(path / _JOURNAL))
    if not path.is_file():
        raise ValueError(f"there is no review and no table of judgements at {path}.")
    try:
        columns = pq.read_schema(path).names
    except (OSError, ValueError):
        raise ValueError(
            f"{path} is no Parquet file: give one of judgements, or a review."
        ) from None
    if missing := sorted(set(JUDGEMENTS) - set(columns)):
        raise ValueError(
            f"{path} is no table of judgements: it lacks {', '.join(missing)}; `gristmill review` "
            "writes one."
        )
    table = check(pl.read_parquet(path), JUDGEMENTS, str(path)).select(*JUDGEMENTS)
    return table.sort("annotator", "number")
