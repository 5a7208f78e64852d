"""Damaged weights: a model of which every number would mean nothing is named as the cause."""

# T = tokens, V = vocabulary

from typing import Any

import numpy as np

from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.reference import ModelFiles

# Weights beyond it overflow float32 in the first product of two layers.
LARGEST_WEIGHT = 1e15
# Trained models have none beyond it; what has is asked for the loss of a few tokens.
ODD_WEIGHT = 1e3
WORDS = ("One, two, three; and so on.", "¿Qué?")
WORST_LOSS = 1e3  # nats a token; a uniform guess over any vocabulary costs 13


class Damaged(ValueError):
    """A model of which no number means anything: damaged, or trained until it diverged."""


def check_finite(files: ModelFiles, model: Any) -> tuple[str, float] | None:  # noqa: ANN401
    """Name the model as the cause, where every number it gave would be NaN.

    Returns its largest weight: where it stands, and its size.
    """
    import torch

    largest: tuple[str, float] | None = None
    for name, weight in model.named_parameters():
        if weight.dtype not in {torch.float32, torch.bfloat16, torch.float16} or not weight.numel():
            continue
        low, high = (float(x) for x in torch.aminmax(weight.detach()))
        if not -LARGEST_WEIGHT <= low <= high <= LARGEST_WEIGHT:  # false for NaN as well
            raise Damaged(
                f"model {files.reference!r} is damaged: its weight {name} ranges from {low:g} to "
                f"{high:g} as {str(weight.dtype).removeprefix('torch.')}."
            )
        size = max(-low, high)
        if largest is None or size > largest[1]:
            largest = name, size
    return largest


def check_numbers(
    files: ModelFiles,
    model: Any,  # noqa: ANN401
    chat: ChatTokenizer,
    largest: tuple[str, float] | None,
    *,
    embedder: bool,
) -> None:
    """Name a model as the cause whose weights are so large that what it says means nothing.

    Its layers overflow or saturate: gradients vanish or point all one way, and every row would have
    the same score, which nobody takes for a damaged model.

    Args:
        files: where it came from.
        model: in eval mode.
        chat: its tokenizer.
        largest: what `check_finite` found; a model without an odd weight is not asked.
        embedder: whether it is a SentenceTransformer.
    """
    import torch

    if largest is None or largest[1] <= ODD_WEIGHT:
        return
    name, size = largest
    if embedder:
        one_D, two_D = model.encode(list(WORDS), show_progress_bar=False).astype(np.float64)
        apart = float(np.abs(one_D - two_D).max())
        sane, told = apart > 0, "two texts that differ are one to it"  # NaN is not above 0
    else:
        ids_1T = torch.tensor([[chat.start_id, *chat.tokenise(WORDS[0])[0]]], device=model.device)
        with torch.inference_mode():
            logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].double()
        value = float(torch.nn.functional.cross_entropy(logits_TV, ids_1T[0, 1:]))
        sane, told = value <= WORST_LOSS, f"a few words cost it {value:.3g} nats a token"
        if sane and not float((logits_TV.amax(-1) - logits_TV.amin(-1)).max()) > 0:
            sane, told = False, "all tokens are alike to it"
    if not sane:
        raise Damaged(
            f"model {files.reference!r} is damaged: its weight {name} reaches {size:g}, and "
            f"{told}: give a model as it was trained."
        )
