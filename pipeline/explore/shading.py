"""Shading: a record as its model reads it, token by token: which carry loss, and how much.

The mask needs the tokenizer alone, which is loaded once, from this machine. Losses are shown where
a run observed them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.pipeline.explore.observed import Observed, Tables
from gristmill.pipeline.explore.opening import Opened
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.schema import kind_of
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.forward_signals import TokenMask, scored
from gristmill.pipeline.signals.views import Dialogue

SHOWN = 3_000  # tokens of a row


@dataclass(frozen=True, kw_only=True)
class Shaded:
    """Tokens in order, and what is to be said of them.

    Attributes:
        side: of a pair, which answer they end with.
        tokens: (text, whether it is trained, its loss or None).
        note: a sentence.
    """

    side: str = ""
    tokens: tuple[tuple[str, bool, float | None], ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class Shading:
    """The tokenizer of a publication's target, if it is on this machine.

    Attributes:
        opened: the ledger.
        observed: what models said of its rows.
    """

    opened: Opened
    observed: Observed

    def of(self, record: Mapping[str, Any]) -> list[Shaded]:
        """A record as tokens, a pair by each of its answers; without a tokenizer, the reason."""
        chat = self._chat
        if isinstance(chat, str):
            return [Shaded(tokens=(), note=chat)]
        if kind_of(record) != "pair":
            return [self._shaded(record, chat, Dialogue())]
        views = (Dialogue(side="chosen"), Dialogue(side="rejected"))
        return [replace(self._shaded(record, chat, v), side=v.side) for v in views]

    def _shaded(self, record: Mapping[str, Any], chat: ChatTokenizer, view: Dialogue) -> Shaded:
        whole = view.encode(record, chat)
        if whole.reason is not None:
            said = f"The chat template cannot show this row ({whole.reason}), so it has no mask."
            return Shaded(tokens=(), note=said)
        found = self.observed.losses(str(record["id"]), view.name)
        losses = _by_token(whole, *found) if found is not None else {}
        tokens = _tokens(whole, losses)
        trained = sum(t for _, t, _ in tokens)
        words = [f"{trained:,} of {len(tokens):,} tokens are trained on"]
        if whole.cut:
            words.append(f"{whole.cut:,} were cut")
        if losses:
            mean = float(np.mean(list(losses.values())))
            words.append(f"their mean loss is {mean:.3f} nats")
        elif found is not None:
            words.append("losses were observed under another template or limit")
        else:
            words.append("no token losses were observed")
        if len(tokens) > SHOWN:
            words.append(f"the first {SHOWN:,} are shown")
        return Shaded(tokens=tuple(tokens[:SHOWN]), note=f"{'; '.join(words)}.")

    @cached_property
    def _chat(self) -> ChatTokenizer | str:
        """The tokenizer, or why there is none."""
        told = self.opened.manifest.get("tokenizer") or {}
        if not told.get("id"):
            return "This ledger names no tokenizer, so the trained tokens are not known."
        store = self.observed.store
        if store is None or not store.is_dir():
            return "The store is not at hand, so the tokenizer is not loaded (--store names it)."
        try:
            models = Models(store=Store(root=Path(store)), roles={"target": (told["id"],)})
            (files,) = models.files("target")
            if files.tokenizer_sha != told.get("sha256", files.tokenizer_sha):
                return f"The tokenizer of {told['id']} is another one than that of the publication."
            limit = (self.opened.manifest.get("settings") or {}).get("max_length")
            return load_tokenizer(files, limit=limit)
        except (ValueError, OSError) as error:
            return f"The tokenizer of {told['id']} is not on this machine: {error}"


def _by_token(whole: Encoded, tables: Tables, losses: list[float]) -> dict[int, float]:
    """Loss by token; nothing, if the losses are of another rendering."""
    mask: TokenMask = tables.column.rpartition(".")[2]  # type: ignore[assignment]
    places = np.flatnonzero(scored(np.asarray(whole.turn), mask, whole.last))
    return dict(zip(places.tolist(), losses, strict=True)) if len(places) == len(losses) else {}


def _tokens(whole: Encoded, losses: Mapping[int, float]) -> list[tuple[str, bool, float | None]]:
    found = []
    last = 0
    for number, (turn, (_, end)) in enumerate(zip(whole.turn, whole.offsets, strict=True)):
        text = whole.text[last:end]  # what no token begins with belongs to the next one
        if text or number in losses:
            found.append((text, turn != 0, losses.get(number)))
        last = max(last, end)
    return found
