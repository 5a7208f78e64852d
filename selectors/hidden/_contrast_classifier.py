"""A contrast classifier: strong answers against weak ones, by a model's hidden states.

A classifier is a folder of two files: `weights.safetensors`, with the tensors of one network
trained on all prompts ("full.conv", ...) and of one per fold that never saw the fold's prompts
("fold0.conv", ...), and `classifier.json`, which says how it was made and which prompts it saw. A
prompt that was in the contrast set is scored by the network of its fold, any other by "full".
"""

# B = answers, T = tokens, C = layers, D = hidden size

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.contracts import Artifact
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.forward import Batch
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import sha256
from gristmill.selectors.hidden._text_cnn import TextCnn, Weights

Layers = Literal["all", "last", "front", "middle", "back"]
Span = Literal["answer", "with_tail"]
WEIGHTS, FACTS = "weights.safetensors", "classifier.json"
FULL = "full"


def made_at(folder: str) -> Artifact:
    """A classifier that was made earlier, known by the content of its folder.

    Raises:
        ValueError: there is no classifier in the folder.
    """
    place = Path(folder).expanduser()
    files = [place / name for name in (WEIGHTS, FACTS)]
    if not all(f.is_file() for f in files):
        raise ValueError(
            f"classifier {folder!r} is not a folder with {WEIGHTS} and {FACTS}: give the folder of "
            "a contrast classifier, or leave the setting out to have one trained."
        )
    stamps = tuple((str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    return Artifact(name="classifier", content=_hash(stamps), path=place)


@lru_cache(maxsize=64)
def _hash(stamps: tuple[tuple[str, int, int], ...]) -> str:
    return digest([sha256(Path(name)) for name, _, _ in stamps])


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A classifier on disk; networks are loaded when they are first asked for."""

    made: Artifact
    net: TextCnn
    layers: Layers
    span: Span
    model: str  # fingerprint of the model whose states it was trained on
    fold_of: Mapping[str, int]  # by prompt

    def margin(self, name: str, states_TCD: Any) -> float:  # noqa: ANN401
        """Strong minus weak logit under one of the networks."""
        import torch

        weights = networks(self.made, name, str(states_TCD.device))
        with torch.inference_mode():
            weak, strong = self.net.logits(weights, [states_TCD])[0].double().tolist()
        return float(strong - weak)


@lru_cache(maxsize=8)
def networks(made: Artifact, name: str, device: str) -> Weights:
    """The tensors of one network."""
    from safetensors import safe_open

    with safe_open(made.path / WEIGHTS, framework="pt", device=device) as file:
        names = [k for k in file.keys() if k.startswith(f"{name}.")]  # noqa: SIM118
        return {k.removeprefix(f"{name}."): file.get_tensor(k) for k in names}


@lru_cache(maxsize=8)
def classifier(made: Artifact) -> Classifier:
    """Open a classifier."""
    facts = json.loads((made.path / FACTS).read_text("utf-8"))
    return Classifier(
        made=made,
        net=TextCnn(**facts["net"]),
        layers=facts["settings"]["layers"],
        span=facts["settings"]["span"],
        model=facts["model"],
        fold_of=facts["prompts"],
    )


def chosen_layers(layers: Layers, count: int) -> slice:
    """Which of `count` hidden states are read; the last third takes the remainder."""
    third = count // 3
    return {
        "all": slice(0, count),
        "last": slice(count - 1, count),
        "front": slice(0, third),
        "middle": slice(third, 2 * third),
        "back": slice(2 * third, count),
    }[layers]


def answer_span(encoded: Encoded, span: Span) -> npt.NDArray[np.int64]:
    """Positions of the last answer's tokens, or also of its end: markers, white space behind them.

    A user's turn that follows the answer is no part of it.
    """
    turn_T = np.asarray(encoded.turn)
    if span == "answer":
        return np.flatnonzero(turn_T == encoded.last)
    turn = np.flatnonzero(np.abs(turn_T) == encoded.last)
    if not len(turn):
        return turn
    end = int(turn[-1]) + 1
    while end < len(turn_T) and not _text(encoded, end).strip():
        end += 1
    return np.arange(turn[0], end)


def _text(encoded: Encoded, token: int) -> str:
    first, last = encoded.offsets[token]
    return encoded.text[first:last]


def answer_states(batch: Batch, row: int, layers: Layers, span: Span) -> Any:  # noqa: ANN401
    """Hidden states of a row's last answer, T x C x D."""
    import torch

    hidden = batch.outputs["hidden"]
    at = torch.from_numpy(answer_span(batch.encoded[row], span)).to(hidden[0].device)
    states = [h[row, at] for h in hidden[chosen_layers(layers, len(hidden))]]
    if len({s.shape for s in states}) > 1:
        sizes = ", ".join(str(n) for n in sorted({s.shape[-1] for s in states}))
        raise ValueError(
            f"the hidden states of this model's layers have different sizes ({sizes}), and one "
            'network reads all of them: choose layers="middle", or another target.'
        )
    return torch.stack(states, dim=1)


def prompt_key(encoded: Encoded) -> str:
    """Names what stands before the last answer, as it was shown."""
    turn_T = np.asarray(encoded.turn)
    first = int(np.flatnonzero(np.abs(turn_T) == encoded.last)[0])
    return digest(encoded.text[: encoded.offsets[first][0]])
