"""Sequences that begin alike: their shared prefixes go through the model once.

The two responses to a prompt, five questions about one text, and the rows that a judge is asked
about behind the same header differ in their last tokens alone. Keys and values of a prefix are
computed once, and all that continues it starts from those; hidden states come out as if each
sequence had been read by itself.

A grouping numbers the prefix of each sequence; groupings are nested, the coarsest first: one
header, then a prefix per row, then the sequences themselves.
"""

# B = sequences, S = prefixes of a grouping, T = tokens of a segment, K = tokens up to its end,
# W = longest sequence, D = hidden size

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.models.calling import cached

LEAST_SAVED = 0.15  # share of the tokens; sharing has a price of its own

Ints = npt.NDArray[np.int64]


def shareable(model: Any, limit: int) -> bool:  # noqa: ANN401
    """Whether a model reads a prefix as it reads a sequence: all it remembers are keys and values.

    Args:
        model: a transformers causal LM.
        limit: longest sequence; a shorter attention window would count the gaps between segments.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return not getattr(model, "_is_stateful", False) and (window is None or window >= limit)


def header(count: int) -> Ints:
    """The grouping of sequences that all have one prefix."""
    return np.zeros(count, dtype=np.int64)


def prefix_lengths(ids: Sequence[Sequence[int]], prefix_of_B: Ints) -> Ints:
    """Tokens of each prefix: the longest beginning of all its sequences, one token short of any."""
    length_S = np.zeros(int(prefix_of_B.max()) + 1, dtype=np.int64)
    for s in range(len(length_S)):
        members = [ids[int(b)] for b in np.flatnonzero(prefix_of_B == s)]
        least = min(map(len, members)) - 1
        ids_BT = np.asarray([list(m[:least]) for m in members])
        differs_T = (ids_BT != ids_BT[0]).any(axis=0)
        length_S[s] = differs_T.argmax() if differs_T.any() else least
    return length_S


def computed(ids: Sequence[Sequence[int]], groupings: Sequence[Ints]) -> int:
    """Tokens that go through the model."""
    total, start_B = 0, np.zeros(len(ids), dtype=np.int64)
    for prefix_of_B in groupings:
        length_S = prefix_lengths(ids, prefix_of_B)
        _, first_S = np.unique(prefix_of_B, return_index=True)
        total += int((length_S - start_B[first_S]).sum())
        start_B = length_S[prefix_of_B]
    return total + sum(map(len, ids)) - int(start_B.sum())


def worth(ids: Sequence[Sequence[int]], groupings: Sequence[Ints]) -> bool:
    """Whether prefixes save enough."""
    return computed(ids, groupings) <= (1 - LEAST_SAVED) * sum(map(len, ids))


def last_states(
    net: Any,  # noqa: ANN401  (a transformers decoder)
    ids: Sequence[Sequence[int]],
    groupings: Sequence[Ints],
    pad_id: int,
    device: str,
) -> Any:  # noqa: ANN401
    """Last hidden states of each sequence from its first token on, B x W x D; zeros behind its end.

    Args:
        net: the decoder without its head, of a model that is `shareable`.
        ids: token ids.
        groupings: see above; each numbers prefixes from 0 without gaps.
        pad_id: any token; what is padded reaches nothing.
        device: of the model.
    """
    import torch
    from transformers import DynamicCache

    def on(x: Ints) -> Any:  # noqa: ANN401
        return torch.from_numpy(x).to(device)

    cache, mask_SK = DynamicCache(config=net.config), np.zeros((1, 0), dtype=np.int64)
    start_B = before_B = np.zeros(len(ids), dtype=np.int64)
    state_BWD: Any = None
    levels = [(prefix_of_B, prefix_lengths(ids, prefix_of_B)) for prefix_of_B in groupings]
    levels.append((np.arange(len(ids)), np.array([len(row) for row in ids])))
    for prefix_of_B, end_S in levels:
        _, first_S = np.unique(prefix_of_B, return_index=True)
        segments = [list(ids[b][start_B[b] : e]) for b, e in zip(first_S, end_S, strict=True)]
        width = max(map(len, segments))
        if not width:
            continue
        ids_ST = np.full((len(segments), width), pad_id, dtype=np.int64)
        own_ST = np.zeros_like(ids_ST)
        for s, segment in enumerate(segments):
            ids_ST[s, : len(segment)] = segment
            own_ST[s, : len(segment)] = 1
        parent_S = before_B[first_S]
        cache.batch_select_indices(on(parent_S))
        mask_SK = np.concatenate([mask_SK[parent_S], own_ST], axis=1)
        state_STD = net(
            input_ids=on(ids_ST),
            attention_mask=on(mask_SK),
            position_ids=on(start_B[first_S, None] + np.arange(width)),
            **cached(net, cache),
        ).last_hidden_state
        if state_BWD is None:
            state_BWD = state_STD.new_zeros(len(ids), max(map(len, ids)), state_STD.shape[-1])
        for b, s in enumerate(prefix_of_B):
            state_BWD[b, start_B[b] : end_S[s]] = state_STD[s, : end_S[s] - start_B[b]]
        start_B, before_B = end_S[prefix_of_B], prefix_of_B
    return state_BWD
