"""Control markers: a tokenizer's special tokens, and the texts in which someone typed one.

A template writes `<|im_end|>` to end a turn. Where a user types it, it is text: read as a marker it
would end the turn there, and whoever wrote the row could write turns. So typed markers are held
back as pairs of surrogates, which no text of a record can have, while a template runs, and are
tokenised as the characters they are; the template's own stay markers.

How: the tokens come from a copy of the tokenizer that takes special tokens for text and knows a
private character for each of them, which stands where the template wrote the marker. The text is
tokenised once and whole, so every other token is the one it would have been. Texts without typed
markers, which is nearly all of them, go to the tokenizer as ever.
"""

import copy
import re
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_HIGH, _LOW = 0xD800, 0xDC00  # two Python characters; they are none of UTF-8
_HELD = "[\ud800-\udbff][\udc00-\udfff]"
_PRIVATE = 0xF0000  # where the planes of Unicode for private use begin
_COPIES = 4  # of a tokenizer; more than one only where texts use private characters

Offsets = list[tuple[int, int]]


class NotTokenised(ValueError):
    """A text that is not tokenised at all; the text says why."""


@dataclass(frozen=True, kw_only=True)
class ControlMarkers:
    """The special tokens of a tokenizer.

    Attributes:
        tokenizer: a fast transformers tokenizer.
    """

    tokenizer: Any

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Text -> id: tokens with a name ("eos_token") and those that tokenizer.json calls special.

        The second kind is in none of transformers' lists, though many models end turns by one.
        """
        named = zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True)
        added = self.tokenizer.added_tokens_decoder.items()
        found = dict(named) | {token.content: ident for ident, token in added if token.special}
        return {text: int(ident) for text, ident in found.items() if text}

    @cached_property
    def ids(self) -> frozenset[int]:
        return frozenset(self._ids.values())

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The longest first: one may begin with another."""
        return tuple(sorted(self._ids, key=lambda text: (-len(text), text)))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {text: k for k, text in enumerate(self.texts)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join([_HELD, *map(re.escape, self.texts)]))

    def typed(self, text: str) -> bool:
        """Whether a text of a record holds a marker."""
        return any(found[0] in self._ids for found in self._pattern.finditer(text))

    def hold(self, text: str) -> str:
        """A text of a record with surrogates where a marker was typed."""
        return self._pattern.sub(self._held, text) if self._pattern.search(text) else text

    def _held(self, found: re.Match[str]) -> str:
        place = self._places.get(found[0])
        if place is None:  # it is held already
            return found[0]
        return chr(_HIGH + place // 1_024) + chr(_LOW + place % 1_024)

    def _marker(self, held: str) -> str:
        return self.texts[(ord(held[0]) - _HIGH) * 1_024 + ord(held[1]) - _LOW]

    def release(self, text: str) -> str:
        """The text with its typed markers again."""
        return re.sub(_HELD, lambda found: self._marker(found[0]), text)

    def released(self, text: str, offsets: Sequence[tuple[int, int]]) -> tuple[str, Offsets]:
        """The same, and the offsets of its tokens moved with it."""
        found = list(re.finditer(_HELD, text))
        if not found:
            return text, list(offsets)
        starts = [one.start() for one in found]
        after = [0]  # by how much the first k typed markers are longer than what holds them
        for one in found:
            after.append(after[-1] + len(self._marker(one[0])) - len(one[0]))

        def moved(position: int) -> int:
            return position + after[bisect_right(starts, position - 1)]

        return self.release(text), [(moved(a), moved(b)) for a, b in offsets]

    def tokenise(self, text: str, *, special: bool) -> tuple[list[int], Offsets]:
        """Ids and character offsets of a text in which typed markers are held.

        Args:
            text: rendered by a template, or of a record.
            special: let the tokenizer add its own BOS or EOS.
        """
        if re.search(_HELD, text) is None:
            out = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
            return out["input_ids"], out["offset_mapping"]
        block = self._block(text)
        tokenizer, written = self._literal(block)
        pieces: list[tuple[str, int]] = []  # what the copy reads, and its length in `text`
        end = 0
        for found in self._pattern.finditer(text):
            pieces.append((text[end : found.start()], found.start() - end))
            place = self._places.get(found[0])
            own = self._marker(found[0]) if place is None else chr(block + place)
            pieces.append((own, len(found[0])))
            end = found.end()
        pieces.append((text[end:], len(text) - end))
        out = tokenizer(
            "".join(read for read, _ in pieces),
            add_special_tokens=special,
            return_offsets_mapping=True,
            split_special_tokens=True,
        )
        unknown = self.tokenizer.unk_token_id
        for ident, (first, last) in zip(out["input_ids"], out["offset_mapping"], strict=True):
            if ident in self.ids and ident != unknown and first < last:
                raise NotTokenised("control_marker_in_text: it is one token of the vocabulary")
        moved = _moved(pieces)
        ids = [written.get(ident, ident) for ident in out["input_ids"]]
        return ids, [(moved(a, first=True), moved(b)) for a, b in out["offset_mapping"]]

    def tokenise_many(self, texts: Sequence[str], *, special: bool) -> "list[list[int] | None]":
        """Ids of texts of records, many at once; None where a marker is typed: take `tokenise`."""
        plain = [self._pattern.search(text) is None for text in texts]
        read = self.tokenizer.backend_tokenizer.encode_batch_fast(
            [text for text, fast in zip(texts, plain, strict=True) if fast],
            add_special_tokens=special,
        )
        found = iter(read)
        return [next(found).ids if fast else None for fast in plain]

    def _block(self, text: str) -> int:
        """The first of so many private characters that the text has none of them."""
        size = len(self.texts)
        used = {(ord(c) - _PRIVATE) // size for c in text if ord(c) >= _PRIVATE}
        block = _PRIVATE + size * next(k for k in range(len(used) + 1) if k not in used)
        if block + size > sys.maxunicode:
            raise NotTokenised("control_marker_in_text: no private character is left beside it")
        return block

    @cached_property
    def _copies(self) -> dict[int, tuple[Any, dict[int, int]]]:
        return {}

    def _literal(self, block: int) -> tuple[Any, dict[int, int]]:
        """The copy that knows markers by private characters, and their ids -> the true ids."""
        if block not in self._copies:
            if len(self._copies) == _COPIES:
                self._copies.clear()
            self._copies[block] = self._copy(block)
        return self._copies[block]

    def _copy(self, block: int) -> tuple[Any, dict[int, int]]:
        from tokenizers import AddedToken

        tokenizer = copy.deepcopy(self.tokenizer)
        like = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
        made = []
        for text, k in self._places.items():
            own = like.get(text)
            spaces = {"lstrip": own.lstrip, "rstrip": own.rstrip} if own is not None else {}
            made.append(AddedToken(chr(block + k), special=False, normalized=False, **spaces))
        tokenizer.add_tokens(made)
        ids = tokenizer.convert_tokens_to_ids([str(token.content) for token in made])
        return tokenizer, dict(zip(ids, (self._ids[text] for text in self.texts), strict=True))


def _moved(pieces: Sequence[tuple[str, int]]) -> Any:  # noqa: ANN401  (a function)
    """From positions in what the copy read to positions in the text.

    Within a marker that is longer on one side, all positions are its first or its last.
    """
    read, text = [0], [0]
    for piece, length in pieces:
        read.append(read[-1] + len(piece))
        text.append(text[-1] + length)

    def moved(position: int, *, first: bool = False) -> int:
        if position == 0:
            return 0
        at = bisect_right(read, position) - 1 if first else bisect_right(read, position - 1) - 1
        if at == len(pieces):
            return text[-1]
        piece, length = pieces[at]
        within = position - read[at]
        if len(piece) == length:
            return text[at] + within
        return text[at] if first else text[at + 1]

    return moved
