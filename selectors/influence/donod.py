"""DONOD: does a step on this record shrink the output layer without moving it far?"""

# N = rows, K = labelled tokens of a row, D = hidden size, V = vocabulary, C = its part looked at

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Need, Observations, PassSignal, Scorer, Signal, View
from gristmill.pipeline.models.calling import bare
from gristmill.pipeline.models.forward import Batch, logits
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.signals.forward_signals import scored
from gristmill.pipeline.signals.views import Dialogue

NUMBERS = 2**24  # logits that exist at once
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HeadStep(PassSignal):
    """Gradient of a row's mean loss in the output layer W alone, as three numbers, float64.

    `square` = |G|^2, `inner` = <W, G> and `head` = |W|^2, from which any step size follows.
    """

    view: View = field(default_factory=Dialogue)

    @property
    def column(self) -> str:
        return f"head_step.{self.view.name}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"last_hidden"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Struct({"square": pl.Float64, "inner": pl.Float64, "head": pl.Float64})

    def notes(self, files: ModelFiles) -> tuple[str, ...]:
        from gristmill.pipeline.models.low_rank import shell

        model = bare(shell(files))
        head = model.get_output_embeddings().weight.numel()
        share = head / sum(p.numel() for p in model.parameters())
        return (f"gradients are read of the output layer alone, {share:.1%} of the weights.",)

    def read(self, batch: Batch) -> Sequence[Any]:
        import torch

        assert batch.model is not None
        head_VD = output_layer(batch.model.model)
        norm2 = sum(float(part.double().square().sum()) for part in head_VD.split(4_096))
        hidden_BTD = batch.hidden(-1)
        rows: list[dict[str, float] | None] = []
        for b, turn_T in enumerate(batch.turns):
            at = np.flatnonzero(scored(turn_T, "answer"))
            if not len(at):
                rows.append(None)
                continue
            labels = [batch.encoded[b].ids[t] for t in at.tolist()]
            label_K = torch.tensor(labels, device=head_VD.device)
            hidden_KD = hidden_BTD[b, torch.from_numpy(at - 1).to(hidden_BTD.device)]
            square, inner = head_gradient(head_VD, hidden_KD.to(head_VD.dtype), label_K)
            rows.append({"square": square, "inner": inner, "head": norm2})
        return rows


def head_gradient(head_VD: Any, hidden_KD: Any, label_K: Any) -> tuple[float, float]:  # noqa: ANN401
    """|G|^2 and <W, G> of the mean cross-entropy of K tokens with logits W h (torch tensors).

    G = sum_t d_t h_t^T with d_t = (softmax - onehot) / K is never formed: |G|^2 is the sum over
    pairs of tokens of (d_t . d_s)(h_t . h_s), and <W, G> = sum_t d_t . logits_t. The vocabulary
    passes by in parts, twice: once for the softmax, once for the products, summed in float64.
    """
    import torch

    from gristmill.pipeline.models.gradients.layout import wide

    count = len(label_K)
    with torch.inference_mode():
        parts = head_VD.split(max(1, NUMBERS // count))
        norms = [(hidden_KD @ part_CD.T).double().logsumexp(1) for part_CD in parts]
        norm_K1 = torch.stack(norms).logsumexp(0)[:, None]
        gram_KK = torch.zeros(count, count, dtype=torch.float64, device=hidden_KD.device)
        inner, first = 0.0, 0
        for part_CD in parts:
            logits_KC = (hidden_KD @ part_CD.T).double()
            d_KC = (logits_KC - norm_K1).exp_()
            mine = ((label_K >= first) & (label_K < first + len(part_CD))).nonzero()[:, 0]
            d_KC[mine, label_K[mine] - first] -= 1
            inner += float((d_KC * logits_KC).sum()) / count
            d_KC = d_KC.to(wide(hidden_KD.dtype))
            gram_KK += (d_KC @ d_KC.T).double()
            first += len(part_CD)
        wide_KD = hidden_KD.double()
        square = float((gram_KK * (wide_KD @ wide_KD.T)).sum()) / count**2
    return square, inner


def output_layer(model: Any) -> Any:  # noqa: ANN401  (torch)
    """The weight W of the output layer, V x D.

    Raises:
        ValueError: the model's logits are not W h.
    """
    import torch

    inner = bare(model)
    head = inner.get_output_embeddings()
    weight_VD = head.weight
    with torch.inference_mode():
        probe_2D = weight_VD[:2].clone()
        plain_2V = probe_2D @ weight_VD.T
        scale = float(plain_2V.abs().max()) or 1.0
        # large inputs: a cap on the logits must show
        same = torch.allclose(
            logits(model, probe_2D * (100 / scale)) * (scale / 100), plain_2V, atol=0.02 * scale
        )
    if head.bias is not None or not same:
        raise ValueError(
            f"the logits of {type(inner).__name__} are not the output layer times the hidden state "
            "(a bias, a scale, a soft-cap or an adapter on the head): donod does not hold here."
        )
    return weight_VD


@dataclass(frozen=True, kw_only=True)
class Donod(Scorer):
    """Fall of the output layer's norm against its movement, after one step on the record alone.

    With G the gradient of the record's mean loss in the output layer W and W' = W - rate G:
    DON = |W| - |W'| (larger is better), NOD = |W - W'| = rate |G| (smaller is better). Both
    columns are scaled to length 1 over the pool and weighted; with d+ and d- the distances to the
    best and worst corner, score(z) = d- / (d+ + d-) (TOPSIS).

    Also called: delta of norm and norm of delta. It knows no task: it asks whether a record
    generalises (the layer shrinks) at little change.

    Reads: `HeadStep` of the model in the role "target".
    Reference: none.
    Higher means: the layer shrinks more and moves less. Keep it. `score_don` and `score_nod` are
        the two columns.
    Cost: 1 forward, 2 K^2 (V + D) operations and 24 bytes a row to observe; O(N) to score.
    Paper: "DONOD: Efficient and Generalizable Instruction Fine-Tuning for LLMs via Model-Intrinsic
        Dataset Pruning", arXiv:2504.14810.
    Departures: a plain gradient step of rate 1e-5 from the same weights for every record (the
        paper leaves optimizer, rate and reset open; under a fresh Adam NOD is nearly constant);
        the output layer alone, as in its experiments. Embeddings tied to it do not count.
    Relations: as cheap as `perplexity`, and like it bound to answers that the model nearly knows;
        `less` asks for a task and pays two to eight times as much.
    Example: `Donod().score(pool)`
    """

    version: ClassVar[int] = 2
    scope: ClassVar = "pool"
    paper: ClassVar[str] = "arXiv:2504.14810"
    cost: ClassVar[str] = "1 fe"
    rate: float = 1e-5
    don_weight: float = 0.5
    nod_weight: float = 0.5

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (HeadStep(),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        (signal,) = self.signals
        rows = pl.concat([b.select("id", signal.column) for b in pool.blocks()])
        seen = rows.drop_nulls(signal.column).sort("id").unnest(signal.column)
        # one row that is no number would make every row's place undefined
        seen = seen.filter(pl.all_horizontal(pl.col("square", "inner", "head").is_finite()))
        don_N, nod_N = norm_changes(
            seen["square"].to_numpy(), seen["inner"].to_numpy(), seen["head"].to_numpy(), self.rate
        )
        weights = (self.don_weight, self.nod_weight)
        columns = {"score": topsis(don_N, nod_N, weights), "score_don": don_N, "score_nod": nod_N}
        found = pl.DataFrame(
            [seen["id"], *(pl.Series(name, v, pl.Float64) for name, v in columns.items())]
        )
        return rows.select("id").join(found, on="id", how="left", maintain_order="left")


def norm_changes(
    square_N: Doubles, inner_N: Doubles, head_N: Doubles, rate: float
) -> tuple[Doubles, Doubles]:
    """DON = |W| - |W'| and NOD = |W - W'|, from |G|^2, <W, G> and |W|^2.

    The norms are not subtracted: at small rates their difference would be lost to rounding.
    """
    fall_N = 2 * rate * inner_N - rate**2 * square_N
    don_N: Doubles = fall_N / (np.sqrt(head_N) + np.sqrt(np.maximum(head_N - fall_N, 0)))
    return don_N, rate * np.sqrt(square_N)


def topsis(gain_N: Doubles, loss_N: Doubles, weights: tuple[float, float] = (0.5, 0.5)) -> Doubles:
    """Closeness of each row to the best corner: 1 = best on both, .5 if all rows are alike."""
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights are at least 0 and not both 0; found {weights}.")
    columns = []
    for value_N, weight in zip((gain_N, -loss_N), weights, strict=True):
        length = math.sqrt(math.fsum(value_N**2))
        columns.append(weight * (value_N / length if length else value_N))
    if not len(gain_N):
        return gain_N
    best_N = np.hypot(*(c.max() - c for c in columns))
    worst_N = np.hypot(*(c - c.min() for c in columns))
    both_N = best_N + worst_N
    closeness_N: Doubles = np.where(both_N > 0, worst_N / np.where(both_N > 0, both_N, 1), 0.5)
    return closeness_N
