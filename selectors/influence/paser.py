"""PASER: does this record bring back what pruning took, at little training cost?"""

# B = batch rows, T = tokens, K = labelled tokens, V = vocabulary, N = rows

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import (
    Artifact,
    EncodingFacts,
    ModelSignal,
    Observations,
    Recipe,
    Scorer,
    Signal,
    View,
    of_role,
)
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.forward import backbone, logits, pad
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.selection.picks import number_of
from gristmill.pipeline.selection.rules.mixture import largest_remainder
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding, scored
from gristmill.pipeline.signals.views import Dialogue, PlainText, plain_text
from gristmill.selectors.influence._companion import Companion, companion_of
from gristmill.selectors.influence._concepts import ConceptGraph, concepts
from gristmill.selectors.influence._proxy import DroppedBlocks
from gristmill.selectors.influence._spectral import spectral_clusters

LOG = logging.getLogger(__name__)
NUMBERS = 2**22  # probabilities of one model that exist at once
MOST = 20_000  # rows that are picked, at most


@dataclass(frozen=True, kw_only=True)
class TokenDivergence(ModelSignal):
    """Mean Jensen-Shannon divergence of two models' predictions of the answer, nats, 0 to ln 2.

    Attributes:
        companion: the model that the role's is compared with; None before it is handed over.
    """

    version: ClassVar[int] = 3
    role: str = "reference"
    view: View = field(default_factory=Dialogue)
    companion: Artifact | None = None

    @property
    def column(self) -> str:
        other = self.companion.content[:8] if self.companion else "none"
        return f"{of_role(self.role)}divergence.{self.view.name}.{other}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Float64()

    def cost(self, tokens: float) -> float:
        return 2.0  # a forward of each model

    def open(self, model: LoadedModel) -> Callable[[Sequence[Encoded]], list[Any]]:
        import torch

        models = [model.model, companion_of(model, self.companion).model]

        def run(encoded: Sequence[Encoded]) -> list[Any]:
            ids_BT = torch.from_numpy(pad(encoded, model.chat, "right")[0]).to(model.device)
            masks = [scored(np.asarray(e.turn), "answer") for e in encoded]
            with torch.inference_mode():
                # right padding reaches no real token of a causal model
                last = [
                    backbone(m)(input_ids=ids_BT, use_cache=False).last_hidden_state for m in models
                ]
                return [
                    _mean(models, [h_BTD[b] for h_BTD in last], np.flatnonzero(mask_T) - 1)
                    for b, mask_T in enumerate(masks)
                ]

        return run


def _mean(models: Sequence[Any], last_TD: Sequence[Any], at_K: Any) -> float | None:  # noqa: ANN401
    """Mean over the tokens predicted at the positions `at_K`."""
    import torch

    if not len(at_K):
        return None
    vocabulary = int(models[0].config.get_text_config().vocab_size)
    total = 0.0
    for part in np.array_split(at_K, math.ceil(len(at_K) * vocabulary / NUMBERS)):
        place = torch.from_numpy(part).to(last_TD[0].device)
        p, q = (
            logits(m, h[place]).double().log_softmax(-1)
            for m, h in zip(models, last_TD, strict=True)
        )
        total += float(jensen_shannon(p, q).sum())
    return total / len(at_K)


def jensen_shannon(log_p_KV: Any, log_q_KV: Any) -> Any:  # noqa: ANN401  (torch.Tensor)
    """Divergence of each pair of distributions, nats; exactly 0 where they are equal.

    Logarithms go in: with m = (p + q) / 2, log(p / m) = -log1p(expm1(log q - log p) / 2), which
    loses nothing to rounding where p is small or near q.
    """
    import torch

    def half(log_a: Any, log_b: Any) -> Any:  # noqa: ANN401
        a = log_a.exp()
        gap = (log_b - log_a).clamp(max=80)  # beyond, a is 0 to every digit
        return torch.where(a == 0, 0, -a * torch.log1p(torch.expm1(gap) / 2)).sum(-1)  # NaN stays

    return (half(log_p_KV, log_q_KV) + half(log_q_KV, log_p_KV)) / 2


@dataclass(frozen=True, kw_only=True)
class Paser(Scorer):
    """Post-training data for a pruned model: rows where it drifted most, per cost, by capability.

    JSD(z) = mean over answer tokens of the Jensen-Shannon divergence between the pruned and the
    original model's predictions. Rows are clustered by embedding; cluster k gets its share
    n_k = B * mean JSD_k / sum of means of the budget B; clusters are visited by falling mean,
    rows in them by falling JSD(z) / log(tokens^2). A row is passed over if two of its concepts
    are known from rows taken before but never stood together. score(z) = minus the place at which
    it was taken.

    Also called: capability-aware recovery selection. It serves a pruned model alone: it asks what
    was lost, not what is good.

    Reads: `TokenDivergence` of the original model ("reference") and the pruned one ("target": if
        none is bound, the original without every fourth block), `SentenceEmbedding` of the
        "embedder", tokens, texts.
    Reference: none.
    Higher means: taken earlier, recovers more for its cost. Keep it. Others have no score
        (`concept_conflict`, `not_reached`); `score_jsd`, `score_ies` and `cluster` are kept.
    Cost: 1 forward of each model and of the embedder a row to observe; O(N^2 D) to score.
    Paper: "PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery",
        ICLR 2026, arXiv:2502.12594.
    Departures: spectral clustering of a graph of 10 neighbours into 10 clusters, where the paper
        factorises a dense kernel and reads their number off the error; JSD over answer tokens,
        cost in tokens of the whole dialogue, clusters by falling drift (the paper and its code
        differ on these); what a cluster cannot spend goes to the next. Concepts are the best third
        of the phrases between our own English stop words (RAKE), compared as text, so that other
        languages and other wordings give rarer ones; the graph remembers what rows that were taken
        said, across clusters, where two concepts that never met are no contradiction in fact.
    Relations: `perplexity` under the pruned model alone mistakes hard rows for lost ones. Without
        a pruned model use another method.
    Example: `Paser(picks=0.2).score(pool)`
    """

    version: ClassVar[int] = 3
    scope: ClassVar = "pool"
    greedy: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv:2502.12594"
    cost: ClassVar[str] = "2 fe and 1 fe of the embedder"
    picks: float | None = None  # share, at most 20,000; from 2, rows; none: by budget
    clusters: int = 10
    neighbours: int = 10
    every: int = 4  # blocks that are dropped if no pruned model is bound
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        pruned = self.given.artifacts.get("companion")
        return TokenDivergence(companion=pruned), SentenceEmbedding(view=PlainText())

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("*content",)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (
            DroppedBlocks(role="target", base="reference", every=self.every),
            Companion(base="target"),
        )

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        rows = pl.concat([self._seen(block) for block in pool.blocks()])
        seen = rows.drop_nulls(["jsd", "vector", "tokens"]).sort("id")
        ids = rows.select("id")
        if seen.is_empty():
            return ids.with_columns(score=pl.lit(None, pl.Float64))
        jsd_N = np.maximum(seen["jsd"].to_numpy(), 0)
        cost_N = np.log(np.maximum(seen["tokens"].to_numpy().astype(np.float64) ** 2, math.e))
        vector_ND = seen["vector"].to_numpy()
        unit_ND = vector_ND / np.maximum(np.linalg.norm(vector_ND, axis=1, keepdims=True), 1e-12)
        cluster_N = spectral_clusters(
            unit_ND, self.clusters, neighbours=self.neighbours, seed=self.seed
        )
        budget = min(MOST, number_of(self.picks, self.given, pool, seen.height))
        taken, passed = recovery(
            jsd_N / cost_N, jsd_N, cluster_N, seen["concepts"].to_list(), budget
        )
        place_N = np.full(seen.height, np.nan)
        place_N[taken] = -np.arange(1.0, len(taken) + 1)
        reason_N = np.full(seen.height, "not_reached", dtype=object)
        reason_N[passed] = "concept_conflict"
        reason_N[taken] = None
        found = pl.DataFrame(
            [
                seen["id"],
                pl.Series("score", place_N, pl.Float64, nan_to_null=True),
                pl.Series("score_jsd", jsd_N, pl.Float64),
                pl.Series("score_ies", jsd_N / cost_N, pl.Float64),
                pl.Series("cluster", [str(c) for c in cluster_N.tolist()], pl.String),
                pl.Series("reason", reason_N.tolist(), pl.String),
            ]
        )
        return ids.join(found, on="id", how="left", maintain_order="left")

    def _seen(self, block: pl.DataFrame) -> pl.DataFrame:
        divergence, embedding = (signal.column for signal in self.signals)
        facts = EncodingFacts(role="reference", view=Dialogue()).column
        texts = [plain_text(row) for row in block.select("messages").iter_rows(named=True)]
        return block.select(
            "id",
            jsd=pl.col(divergence).fill_nan(None),
            tokens=pl.col(facts).struct.field("tokens"),
            vector=pl.col(embedding),
            concepts=pl.Series([list(concepts(t)) for t in texts], dtype=pl.List(pl.String)),
        )


def recovery(
    score_N: Any,  # noqa: ANN401
    drift_N: Any,  # noqa: ANN401
    cluster_N: Any,  # noqa: ANN401
    concepts_N: Sequence[Sequence[str]],
    budget: int,
) -> tuple[list[int], list[int]]:
    """Rows in the order in which they are taken, and rows passed over for their concepts.

    Args:
        score_N: drift per cost: the order within a cluster; ties go to the lower row.
        drift_N: a cluster's budget is in proportion to its mean.
        cluster_N: cluster of each row.
        concepts_N: concepts of each row.
        budget: rows in all. What a cluster cannot spend goes to the next, and round again.
    """
    drift = {int(c): float(drift_N[cluster_N == c].mean()) for c in np.unique(cluster_N)}
    if not sum(drift.values()):
        drift = dict.fromkeys(drift, 1.0)  # nothing was lost anywhere
    order = sorted(drift, key=lambda c: (-drift[c], c))
    shares = {f"{i:06d}": Fraction(drift[c]) for i, c in enumerate(order)}
    quotas = list(largest_remainder(budget, shares).values())
    queues = []
    for c in order:
        mine = np.flatnonzero(cluster_N == c)
        queues.append(iter(mine[np.argsort(-score_N[mine], kind="stable")].tolist()))
    graph, left = ConceptGraph(), 0
    taken: list[int] = []
    passed: list[int] = []
    while True:
        before = len(taken)
        for queue, quota in zip(queues, quotas, strict=True):
            left += quota
            while left and (row := next(queue, None)) is not None:
                if graph.admits(concepts_N[row]):
                    graph.add(concepts_N[row])
                    taken.append(row)
                    left -= 1
                else:
                    passed.append(row)
        quotas = [0] * len(queues)
        if not left or len(taken) == before:
            break
    LOG.info("concepts: %d of %d rows accepted.", len(taken), len(taken) + len(passed))
    return taken, passed
