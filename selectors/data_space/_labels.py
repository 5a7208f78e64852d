"""The graph of the tags of a pool: which of them mean nearly the same (method `mig`)."""

# L = labels, D = embedding size

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Artifact, Context, Prepared, Recipe
from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Step, table
from gristmill.selectors.data_space._fields import tags

VERSION = 1
TOGETHER = 1 << 23  # cosines at once


@dataclass(frozen=True, kw_only=True)
class LabelGraph(Recipe):
    """Embed every tag of the pool, and keep the pairs that are alike.

    It makes the artifact "label_graph": `label`, `other`, and their `cosine` from `threshold` on.

    Attributes:
        base: the role that embeds.
        tags: the field of a record's meta that holds its tags.
        threshold: below it, two tags have nothing to do with each other.
    """

    artifact: ClassVar[str] = "label_graph"
    base: str = "embedder"
    tags: str = "tags"
    threshold: float = 0.9

    def make(self, context: Context) -> Prepared:
        models = context.models
        (files,) = models.files(self.base)
        found: set[str] = set()
        for block in context.pool.blocks(["meta"]):
            found.update(t for meta in block["meta"] for t in tags(meta, self.tags))
        if not found:
            raise ValueError(
                f"no record has tags in the field {self.tags!r}: have a model tag the rows, and "
                "name the field with --set tags=FIELD."
            )
        labels = sorted(found)
        step = Step(
            name="label-graph",
            version=VERSION,
            settings={"threshold": self.threshold},
            inputs={"labels": digest(labels), "model": files.fingerprint},
        )

        def made() -> pl.DataFrame:
            model = models.load(files, context.passes, embedder=True).model
            vectors = model.encode(labels, normalize_embeddings=True, show_progress_bar=False)
            return alike(labels, np.asarray(vectors, dtype=np.float32), self.threshold)

        entry = models.store.run(step, [table(self.artifact, made)])
        path = entry.path / f"{self.artifact}.parquet"
        return Prepared(artifact=Artifact(name=self.artifact, content=entry.content, path=path))


def alike(labels: list[str], vector_LD: np.ndarray, threshold: float) -> pl.DataFrame:
    """The pairs of different labels with a cosine from `threshold` on, each in both orders."""
    unit_LD = unit(vector_LD)
    parts = []
    rows = max(1, TOGETHER // len(labels))
    for first in range(0, len(labels), rows):
        cosine_BL = unit_LD[first : first + rows] @ unit_LD.T
        one, other = np.nonzero(cosine_BL >= threshold)
        values = cosine_BL[one, other]
        parts.append(pl.DataFrame({"one": one + first, "other": other, "cosine": values}))
    pairs = pl.concat(parts).filter(pl.col("one") != pl.col("other"))
    names = pl.Series(labels, dtype=pl.String)
    return pairs.select(
        label=names.gather(pairs["one"]),
        other=names.gather(pairs["other"]),
        cosine=pl.col("cosine").cast(pl.Float64),
    )
