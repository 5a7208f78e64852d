"""A language model that follows a script: of the texts that begin as its answer does, the best."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch


class Script(torch.nn.Module):
    """Next-token logits from texts and their scores; reads with a cache like any other."""

    def __init__(self, texts: dict[str, float], chat: Any, opening: str) -> None:
        super().__init__()
        self.texts, self.chat, self.opening = texts, chat, opening
        self.config = SimpleNamespace(get_text_config=lambda **_: self.config, num_hidden_layers=0)
        self.generation_config = SimpleNamespace(eos_token_id=chat.tokenizer.eos_token_id)
        self.seen: dict[int, int] = {}
        self.read = 0

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None,
        use_cache=None, logits_to_keep=None,
    ):  # fmt: skip
        for at, token in zip(position_ids[0].tolist(), input_ids[0].tolist(), strict=True):
            self.seen[at] = token
        self.read += input_ids.numel()
        last = int(position_ids[0, -1])
        whole = self.chat.tokenizer.decode([self.seen[i] for i in range(last + 1)])
        said = whole.rpartition(self.opening)[2]
        logits = torch.full((len(self.chat.tokenizer),), -30.0)
        for text, score in self.texts.items():
            if text.startswith(said):
                after = text[len(said) :]
                token = self.chat.tokenise(after[0])[0][0] if after else self._end
                logits[token] = max(float(logits[token]), score)
        return SimpleNamespace(logits=logits[None, None])

    @property
    def _end(self) -> int:
        return int(self.chat.tokenizer.eos_token_id)


@dataclass(frozen=True)
class ScriptCache:
    """In the place of a cache of keys and values: the script keeps what it has read."""

    config: Any = None

    def crop(self, length: int) -> None:
        assert length < 0, "a number of tokens to forget"
