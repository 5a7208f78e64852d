"""One pass over a batch, from which every signal takes its part.

Only what some signal reads is computed: no weights for tokenizer facts, no logits where no token is
scored, no intermediate hidden states unless a layer is asked for.
"""

# B = batch rows, T = tokens, D = hidden size, V = vocabulary, K = scored tokens of the batch

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.models.calling import bare
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.shared_prefixes import last_states

# Logits exist for this many tokens at a time: 512 x 150k x 4 bytes = 300 MB at the worst.
HEAD_CHUNK = 512

RunBackward = Callable[[Sequence[Encoded]], dict[str, list[Any]]]  # a batch to its columns


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A finished pass.

    Attributes:
        encoded: B sequences, none with a reason.
        model: the model, or None if only the tokenizer was needed.
        needs: what was computed (see `contracts.Need`).
        outputs: raw results, by name.
    """

    encoded: Sequence[Encoded]
    model: LoadedModel | None
    needs: frozenset[str]
    outputs: dict[str, Any]

    @property
    def rows(self) -> int:
        return len(self.encoded)

    @cached_property
    def turns(self) -> list[npt.NDArray[np.int64]]:
        """Per row, `Encoded.turn` as an array."""
        return [np.asarray(e.turn, dtype=np.int64) for e in self.encoded]

    def losses(self, row: int) -> npt.NDArray[np.float32]:
        """Loss -log p(x_t | x_<t) in nats of each token of the row; NaN where not computed.

        The first token of a sequence has none.
        """
        loss_T: npt.NDArray[np.float32] = self.outputs["loss"][row]
        return loss_T

    def entropies(self, row: int) -> npt.NDArray[np.float32]:
        """Entropy in nats of the distribution that predicts each token; NaN where not computed."""
        entropy_T: npt.NDArray[np.float32] = self.outputs["entropy"][row]
        return entropy_T

    def hidden(self, layer: int) -> Any:  # noqa: ANN401  (torch.Tensor)
        """Hidden states of a layer, B x T x D: 0 = embeddings, -1 = last block after the norm."""
        return self.outputs["hidden"][layer]

    def embedding(self) -> npt.NDArray[np.float32]:
        """Sentence embeddings, B x D, unit norm."""
        embedding_BD: npt.NDArray[np.float32] = self.outputs["embedding"]
        return embedding_BD

    def lengths(self) -> list[int]:
        return [len(e.ids) for e in self.encoded]

    def part(self, rows: slice) -> "Batch":
        """Some of the rows, of a pass without backward and embeddings."""
        outputs = {name: value[rows] for name, value in self.outputs.items() if name != "hidden"}
        if "hidden" in self.outputs:
            outputs["hidden"] = {-1: self.hidden(-1)[rows]}
        return replace(self, encoded=self.encoded[rows], outputs=outputs)


def batches(
    lengths: Sequence[int], token_budget: int, max_rows: int = 64
) -> Iterator[npt.NDArray[np.int64]]:
    """Rows sorted by length (ties by position), cut so that rows x longest <= token_budget."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    first = 0
    for last in range(1, len(order) + 1):
        full = last == len(order)
        if not full:
            longest = lengths[order[last]]
            full = (last - first + 1) * longest > token_budget or last - first >= max_rows
        if full:
            yield order[first:last]
            first = last


def forward(
    encoded: Sequence[Encoded],
    model: LoadedModel | None,
    needs: frozenset[str],
    *,
    padding: Literal["right", "left"] = "right",
    backward: RunBackward | None = None,
    groupings: Sequence[npt.NDArray[np.int64]] = (),
) -> Batch:
    """Run the model once over the batch and keep what `needs` names.

    With `groupings`, what rows have in common is computed once (see `shared_prefixes`): for losses,
    entropies and last hidden states.

    `backward` runs the gradient engine, which makes the forward pass that it needs, and signals
    that run the model by themselves: "backward" beside other needs is one forward pass more.
    """
    outputs: dict[str, Any] = {} if backward is None else dict(backward(encoded))
    needs = needs - {"backward"}
    if "embedding" in needs:
        assert model is not None
        outputs["embedding"] = model.model.encode(
            [e.text for e in encoded],
            batch_size=len(encoded),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        ).astype(np.float32)
    elif needs:
        assert model is not None
        outputs |= _causal(encoded, model, needs, padding, groupings)
    return Batch(encoded=encoded, model=model, needs=needs, outputs=outputs)


def pad(
    encoded: Sequence[Encoded], chat: ChatTokenizer, padding: Literal["right", "left"]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids B x T and the attention mask B x T."""
    width = max(len(e.ids) for e in encoded)
    ids_BT = np.full((len(encoded), width), chat.pad_id, dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for b, e in enumerate(encoded):
        at = slice(0, len(e.ids)) if padding == "right" else slice(width - len(e.ids), width)
        ids_BT[b, at] = e.ids
        mask_BT[b, at] = 1
    return ids_BT, mask_BT


def _causal(
    encoded: Sequence[Encoded],
    model: LoadedModel,
    needs: frozenset[str],
    padding: Literal["right", "left"],
    groupings: Sequence[npt.NDArray[np.int64]],
) -> dict[str, Any]:
    import torch

    ids, mask = pad(encoded, model.chat, padding)
    ids_BT = torch.from_numpy(ids).to(model.device)
    mask_BT = torch.from_numpy(mask).to(model.device)
    # In a causal model padding on the right cannot reach a real token, so no mask is needed and
    # attention takes its fast path; on the left both mask and positions are.
    extra = {}
    if padding == "left":
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        extra = {"attention_mask": mask_BT, "position_ids": position_BT}
    with torch.inference_mode():
        net = backbone(model.model)
        if not groupings:
            out = net(
                input_ids=ids_BT,
                use_cache=False,
                output_hidden_states="hidden" in needs,
                **extra,
            )
            last_BTD = out.last_hidden_state
        else:
            rows = [e.ids for e in encoded]
            last_BTD = last_states(net, rows, groupings, model.chat.pad_id, model.device)
        starts = [0 if padding == "right" else ids.shape[1] - len(e.ids) for e in encoded]
        outputs: dict[str, Any] = {}
        if "hidden" in needs:
            layers = [*out.hidden_states[:-1], last_BTD]  # the last one after the final norm
            outputs["hidden"] = [_left_aligned(h, encoded, starts) for h in layers]
        elif "last_hidden" in needs:
            outputs["hidden"] = {-1: _left_aligned(last_BTD, encoded, starts)}
        if needs & {"losses", "all_losses", "entropy"}:
            outputs |= _token_losses(encoded, starts, last_BTD, ids_BT, model.model, needs)
    return outputs


def _left_aligned(hidden_BTD: Any, encoded: Sequence[Encoded], starts: Sequence[int]) -> Any:  # noqa: ANN401
    """Move each row to position 0, so that signals need not know about padding."""
    if not any(starts):
        return hidden_BTD
    moved_BTD = hidden_BTD.new_zeros(hidden_BTD.shape)
    for b, (e, start) in enumerate(zip(encoded, starts, strict=True)):
        moved_BTD[b, : len(e.ids)] = hidden_BTD[b, start:]
    return moved_BTD


def _token_losses(
    encoded: Sequence[Encoded],
    starts: Sequence[int],
    last_BTD: Any,  # noqa: ANN401
    ids_BT: Any,  # noqa: ANN401
    model: Any,  # noqa: ANN401
    needs: frozenset[str],
) -> dict[str, Any]:
    import torch

    # Answer tokens go through the head by themselves, whatever else is asked for, so that their
    # losses are the same to the last bit in every pass.
    sets = [[np.asarray(e.turn) != 0 for e in encoded]]
    if "all_losses" in needs:
        sets.append([~answer_T for answer_T in sets[0]])
    loss = [np.full(len(e.ids), np.nan, dtype=np.float32) for e in encoded]
    entropy = [np.full(len(e.ids), np.nan, dtype=np.float32) for e in encoded]
    for chosen in sets:
        where = [np.flatnonzero(mask_T[1:]) + 1 for mask_T in chosen]  # the first has no loss
        row_K = np.repeat(np.arange(len(encoded)), [len(w) for w in where])
        token_K = np.concatenate(where)
        losses, entropies = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
        for begin in range(0, len(row_K), HEAD_CHUNK):
            row, token = row_K[begin : begin + HEAD_CHUNK], token_K[begin : begin + HEAD_CHUNK]
            rows = torch.from_numpy(row)
            tokens = torch.from_numpy(token + np.asarray(starts)[row])
            logits_KV = logits(model, last_BTD[rows, tokens - 1]).float()
            log_norm_K = logits_KV.logsumexp(-1)
            target_K = ids_BT[rows, tokens]
            losses.append((log_norm_K - logits_KV.gather(1, target_K[:, None])[:, 0]).cpu().numpy())
            if "entropy" in needs:
                p_KV = (logits_KV - log_norm_K[:, None]).exp_()
                entropies.append((log_norm_K - (p_KV * logits_KV).sum(-1)).cpu().numpy())
        ends = np.cumsum([len(w) for w in where])[:-1]
        for values, found in ((loss, losses), (entropy, entropies)):
            if len(found) > 1:
                for value_T, at, part in zip(
                    values, where, np.split(np.concatenate(found), ends), strict=True
                ):
                    value_T[at] = part
    return {"loss": loss, "entropy": entropy}


def backbone(model: Any) -> Any:  # noqa: ANN401
    """The decoder stack without its LM head."""
    return bare(model).get_decoder()


def logits(model: Any, last_KD: Any) -> Any:  # noqa: ANN401
    """The LM head on chosen positions, with the scalings that some families put after it."""
    inner = bare(model)
    config = inner.config.get_text_config().to_dict()
    out_KV = inner.get_output_embeddings()(last_KD)
    if config.get("logit_scale"):  # Cohere
        out_KV = out_KV * config["logit_scale"]
    if config.get("logits_scaling"):  # Granite
        out_KV = out_KV / config["logits_scaling"]
    cap = config.get("final_logit_softcapping")  # Gemma 2 and 3
    return out_KV if not cap else cap * (out_KV / cap).tanh()
