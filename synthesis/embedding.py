"""Embeddings of texts, and the contrastive warm-up that moves a document next to its own pairs."""

# N = pairs, D = features

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Entry, Part, Step, Store
from gristmill.synthesis.reward import Embed
from gristmill.synthesis.transport import Array

Load = Callable[[ModelFiles], LoadedModel]


def embedder(loaded: LoadedModel, *, batch: int = 1) -> Embed:
    """Texts to unit rows.

    One text a pass by default: what stands beside a text in a batch moves its last bits, and a
    rerun that embeds fewer texts would then choose otherwise.
    """

    def embed(texts: Sequence[str]) -> Array:
        rows_ND = loaded.model.encode(
            list(texts), batch_size=batch, show_progress_bar=False, convert_to_numpy=True
        )
        return unit(np.asarray(rows_ND, dtype=np.float64).reshape(len(texts), -1))

    return embed


def stored(files: ModelFiles, load: Load, store: Store, *, batch: int = 1) -> Embed:
    """An embedder whose answers stay in the store: a rerun loads no model.

    Args:
        files: the model.
        load: loads it, with the first texts that are not in the store.
        store: one entry for each list of texts.
        batch: texts a pass.
    """
    ready: list[Embed] = []

    def embed(texts: Sequence[str]) -> Array:
        step = Step(
            name="text_embeddings",
            version=1,
            settings={"batch": batch},
            inputs={"model": files.fingerprint, "texts": digest(list(texts))},
        )

        def work(path: Path) -> None:
            if not ready:
                ready.append(embedder(load(files), batch=batch))
            with path.open("wb") as file:
                np.save(file, ready[0](texts).astype(np.float32), allow_pickle=False)

        entry = store.run(step, [Part(name="rows.npy", write=work)])
        rows_ND = np.load(BytesIO(entry.read("rows.npy")), allow_pickle=False)
        return np.asarray(rows_ND, dtype=np.float64)

    return embed


def embed_documents(
    documents: pl.DataFrame, files: ModelFiles, load: Load, store: Store, *, batch: int = 32
) -> Array:
    """Rows of all documents, in their order; computed once for a model and these documents.

    Args:
        documents: with `id` and `text`.
        files: the embedder.
        load: loads it; called only if the rows are not in the store.
        store: where they are kept.
        batch: texts a pass.
    """
    order = documents.select("id", "text").unique("id").sort("id")
    rows_ND = stored(files, load, store, batch=batch)(order["text"].to_list())
    place = {ident: i for i, ident in enumerate(order["id"])}
    return np.asarray(rows_ND[[place[i] for i in documents["id"]]], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads a model as a sentence embedder, once."""

    device: str = "auto"

    def __call__(self, files: ModelFiles) -> LoadedModel:
        from gristmill.pipeline.models.load import load

        return load(files, device=self.device, dtype="float32", embedder=True)


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Tune an embedder so that a document lies nearest to the pairs made from it.

    L = -log( e^{s(d, q+)} / sum_q e^{s(d, q)} ), s = cosine / T, over the pairs of the batch and
    mined hard negatives.

    Paper: arXiv:2505.12250 (section on the document encoder); settings of its released script.
    Departures: 32-bit floats on a CPU; batches as large as `rows`, where the paper gathers
        negatives across devices. Small pools: negatives are mined among what there is.
    """

    epochs: int = 2
    learning_rate: float = 1e-5
    temperature: float = 0.02
    rows: int = 8  # documents a step
    negatives: int = 7  # of a row: group size 8
    mined: tuple[int, int] = (2, 200)  # ranks of hard negatives
    pool: int = 15  # drawn from these ranks, `negatives` of them used
    warm_up: float = 0.1
    length: int = 512  # tokens of either text
    seed: int = 42

    def tune(
        self, pairs: Sequence[tuple[str, str]], files: ModelFiles, load: Load, store: Store
    ) -> Entry:
        """Train on (document, its pair as text); the tuned model is the folder `model`.

        Raises:
            ValueError: there are fewer than two documents to tell apart.
        """
        pairs = sorted(set(pairs))
        if len({d for d, _ in pairs}) < 2:
            raise ValueError(
                f"the warm-up has pairs of {len({d for d, _ in pairs})} documents and needs 2 to "
                "tell apart: raise warm_up_share, or leave the warm-up out"
            )
        step = Step(
            name="tuned_embedder",
            version=1,
            settings=settings_of(self),
            inputs={"model": files.fingerprint, "pairs": digest([list(p) for p in pairs])},
        )
        work = partial(self._train, pairs, files, load)
        return store.run(step, [Part(name="model", write=work)])

    def _train(
        self, pairs: Sequence[tuple[str, str]], files: ModelFiles, load: Load, path: Path
    ) -> None:
        import torch
        from datasets import Dataset
        from sentence_transformers import (
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        loaded = load(files)
        model: Any = loaded.model
        model.max_seq_length = min(model.max_seq_length, self.length)
        columns = self.rows_of(pairs, embedder(loaded, batch=32))
        model.requires_grad_(True)
        with tempfile.TemporaryDirectory() as scratch:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=scratch,
                num_train_epochs=self.epochs,
                per_device_train_batch_size=self.rows,
                learning_rate=self.learning_rate,
                warmup_steps=self.warm_up,
                fp16=loaded.device.startswith("cuda"),
                use_cpu=loaded.device == "cpu",
                dataloader_pin_memory=False,
                seed=self.seed,
                data_seed=self.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            before = torch.get_rng_state()
            try:
                SentenceTransformerTrainer(
                    model=model,
                    args=arguments,
                    train_dataset=Dataset.from_dict(columns),
                    loss=MultipleNegativesRankingLoss(model, scale=1.0 / self.temperature),
                ).train()
            finally:
                torch.set_rng_state(before)
        model.eval()
        model.save_pretrained(str(path), create_model_card=False)

    def rows_of(self, pairs: Sequence[tuple[str, str]], embed: Embed) -> dict[str, list[str]]:
        """Training rows: document, own pair, and hard negatives of other documents.

        Negatives are drawn among the pairs that lie at the mined ranks of the document. Where a
        small pool has fewer than wanted, every row gets as many as all can have.
        """
        documents = sorted({d for d, _ in pairs})
        answers = sorted({q for _, q in pairs})
        owned: dict[str, set[str]] = {}
        for d, q in pairs:
            owned.setdefault(d, set()).add(q)
        near_NN = embed(documents) @ embed(answers).T
        chosen: dict[str, list[str]] = {}
        for i, d in enumerate(documents):
            ranked = [answers[j] for j in np.argsort(-near_NN[i], kind="stable")]
            others = [q for q in ranked if q not in owned[d]]
            first, last = self.mined[0] - 1, self.mined[1]
            hard = others[first:last] if len(others) > self.negatives else others
            key = int(digest([self.seed, d])[:15], 16)
            size = min(self.pool, len(hard))
            drawn = np.random.default_rng(key).permutation(len(hard))[:size]
            chosen[d] = [hard[j] for j in drawn][: self.negatives]
        width = min(len(c) for c in chosen.values())
        columns = {"anchor": [d for d, _ in pairs], "positive": [q for _, q in pairs]}
        for k in range(width):
            columns[f"negative_{k + 1}"] = [chosen[d][k] for d, _ in pairs]
        return columns
