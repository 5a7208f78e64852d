"""Embedded: texts as unit vectors, of which each is computed once and kept in the store.

What is kept is a table of hashed texts and their vectors, one for each run of texts that is asked
for. A later run that asks for the same texts in other company, as a pool does that has grown, finds
them again and computes the new ones alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.clean.drops import Progress
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import pick_device, pick_dtype
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.observe.located import located
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Step

AT_ONCE = 256  # texts between two tellings of progress


@dataclass(frozen=True, kw_only=True)
class TextEmbedder:
    """A sentence embedder as a function of texts.

    Attributes:
        context: of the run.
        files: the model.
        told: progress of (texts, in all).
        total: how many texts there will be.
    """

    context: RunContext
    files: ModelFiles
    told: Progress
    total: int
    _done: list[int] = field(default_factory=lambda: [0], repr=False)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, 0), np.float32)
        hashes = [hashlib.blake2b(t.encode(), digest_size=16).hexdigest() for t in texts]
        by_hash = dict(zip(hashes, texts, strict=True))
        wanted = pl.DataFrame({"id": sorted(by_hash)}, schema={"id": pl.String})
        step = self._step(wanted["id"])
        entry = self.context.store.find(step)
        if entry is None:
            entry = self.context.store.put(step, self._vectors(wanted, by_hash))
        self._done[0] += len(texts)
        self.told(self._done[0], self.total)
        asked = pl.DataFrame({"id": hashes})
        rows = asked.join(
            pl.read_parquet(entry.shards[0]), on="id", how="left", maintain_order="left"
        )
        return rows["vector"].to_numpy()

    def _step(self, hashes: pl.Series) -> Step:
        passes = self.context.passes
        how = {
            "dtype": pick_dtype(passes.dtype, pick_device(passes.device)),
            "max_length": passes.max_length,
        }
        inputs = {"model": self.files.fingerprint}
        return Step(
            name="embedded",
            version=1,
            shelf=digest([how, inputs]),
            settings=how,
            inputs={**inputs, "texts": digest(hashes.to_list())},
        )

    @cached_property
    def _known(self) -> pl.DataFrame:
        """`id` of every text that the store had as this began, and the `path` of its table."""
        step = self._step(pl.Series("id", [], dtype=pl.String))
        tables = [entry.shards[0] for entry in self.context.store.shelf(step)]
        return located(tables)

    def _vectors(self, wanted: pl.DataFrame, by_hash: dict[str, str]) -> pl.DataFrame:
        """`id` and `vector` of these texts: found, or computed."""
        found = wanted.join(self._known, on="id")
        tables = [
            pl.read_parquet(path).join(some, on="id", how="semi")
            for (path,), some in found.partition_by("path", as_dict=True).items()
        ]
        missing = wanted.join(found, on="id", how="anti")["id"].to_list()
        for begin in range(0, len(missing), AT_ONCE):
            some = missing[begin : begin + AT_ONCE]
            vector_ND = self._encoded([by_hash[h] for h in some])
            vectors = pl.Series("vector", vector_ND, dtype=pl.Array(pl.Float32, vector_ND.shape[1]))
            tables.append(pl.DataFrame([pl.Series("id", some), vectors]))
            self.told(self._done[0] + begin + len(some), self.total)
        return pl.concat(tables).sort("id")

    def _encoded(self, texts: list[str]) -> NDArray[np.float32]:
        model = self._model
        found = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        self.context.caps.spend(sum(map(len, model.tokenizer(texts, truncation=True)["input_ids"])))
        return np.asarray(found, dtype=np.float32)

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401  (a SentenceTransformer)
        return self.context.models.load(self.files, self.context.passes, embedder=True).model
