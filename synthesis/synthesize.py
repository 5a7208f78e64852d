"""Synthesize: a whole run over chunks: tune the embedder, embed, cluster, then EQUAL's rounds."""

from collections.abc import Sequence

import polars as pl

from gristmill.pipeline.models.completion.client import Price
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import Entry, Store
from gristmill.pipeline.records.text import texts
from gristmill.synthesis.clusters import cluster
from gristmill.synthesis.embedding import Load, Warmup, embed_documents, stored
from gristmill.synthesis.equal import Equal, Outcome, Progress
from gristmill.synthesis.extraction import QA
from gristmill.synthesis.reward import text_of, transport_reward
from gristmill.synthesis.rounds import kept_pairs
from gristmill.synthesis.verified_extraction import VerifiedExtraction


def synthesize(
    equal: Equal,
    chunks: pl.DataFrame,
    reference: Dataset,
    extraction: VerifiedExtraction,
    store: Store,
    *,
    embedder: ModelFiles,
    load: Load,
    clusters: int | None = None,
    known: Sequence[tuple[str, str]] = (),
    warm: Entry | None = None,
    price: Price | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Rounds of choose, extract, verify and reward, towards the reference rows.

    Args:
        equal: the bandit's settings.
        chunks: rows of the schema `DOCUMENT`.
        reference: target rows: what pairs come near to.
        extraction: extraction and checks.
        store: where the rounds are kept.
        embedder: the sentence embedder, as it is or as `tuned` left it.
        load: loads it.
        clusters: of the chunks; None: as many as the pool bears.
        known: (id, question) of rows that must not come again.
        warm: the warm-up's round.
        price: of tokens.
        progress: called with (what, documents sent, documents to send).
    """
    size = clusters or equal.clusters_for(len(chunks))
    grouped = cluster(
        chunks["id"].to_list(),
        embed_documents(chunks, embedder, load, store),
        clusters=min(size, len(chunks)),
        seed=equal.seed,
    )
    reward = transport_reward(
        equal.mode,
        sorted(set(texts(reference.frame(), "dialogue"))),
        embed=stored(embedder, load, store),
        embed_name=embedder.fingerprint,
        seed=equal.seed,
    )
    return equal.run(
        chunks,
        grouped,
        extraction,
        reward,
        store,
        known=known,
        warm=warm,
        price=price,
        progress=progress,
    )


def tuned(
    tuning: Warmup,
    embedder: ModelFiles,
    load: Load,
    chunks: pl.DataFrame,
    warm: Entry,
    store: Store,
) -> ModelFiles:
    """The embedder tuned on the pairs of the warm-up's round."""
    text = dict(chunks.select("id", "text").iter_rows())
    pairs: list[tuple[str, str]] = [
        (text[ident], text_of(QA(question=p.question, answer=p.answer)))
        for ident, found in kept_pairs(warm).items()
        for p in found
    ]
    made = tuning.tune(pairs, embedder, load, store)
    return resolve(str(made.path / "model"), store)


def questions(rows: Dataset) -> list[tuple[str, str]]:
    """Id and prompt of example rows: what must not come again."""
    frame = rows.frame()
    return list(zip(frame["id"], texts(frame, "prompt"), strict=True))
