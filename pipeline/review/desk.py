"""The desk: whose turn is which item, and clicks taken in.

An item is wanted from one annotator, and a share of the items, drawn by hash(seed, item), from two,
so that agreement can be measured. While an annotator has an item before them it is kept from the
others for a while; should two answer all the same, both answers stand.
"""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import RLock
from typing import Any

import polars as pl

from gristmill.pipeline.records.judgements import OF_PAIRS, OF_ROWS
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.review import journal, shown
from gristmill.pipeline.review.folder import Review
from gristmill.pipeline.review.journal import Journal
from gristmill.pipeline.review.orders import Order
from gristmill.pipeline.review.records import Shelf
from gristmill.pipeline.review.shown import Shown

KEPT = 600.0  # seconds that an item on someone's screen is kept from others
COMMENT, ANSWER = 4_000, 4_000_000  # characters, at most
_SKIP = "skip"
_NOBODY: Set[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Click:
    """What an annotator did on the page.

    Attributes:
        key: of this click alone, whatever is sent again.
        item: id of the record.
        judgement: "first", "second" (the answer that stands there), or a judgement by its name.
        answer: of "fix", the corrected one.
        comment: in the annotator's words.
        seconds: that the item was on the screen.
        age: seconds since the click, where it could not be sent at once.
    """

    key: str
    item: str
    judgement: str
    answer: str | None = None
    comment: str | None = None
    seconds: float | None = None
    age: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A click that was written.

    Attributes:
        line: of the journal.
        again: the annotator had judged the item before; this one counts.
    """

    line: Mapping[str, Any]
    again: bool


@dataclass(frozen=True, kw_only=True)
class Turn:
    """An item before an annotator.

    Attributes:
        item: id of the record.
        shown: what of it.
    """

    item: str
    shown: Shown


@dataclass(kw_only=True)
class Desk:
    """A review in progress, for any number of annotators.

    Attributes:
        review: where everything is kept.
        order: the rule by which items come.
        scores: that the rule reads: `id` and its columns.
        double: share of the items that two annotators judge.
        limit: so many items, the first in the rule's order; None: all.
        clock: seconds, for what is kept from others.
    """

    review: Review
    order: Order
    scores: pl.DataFrame | None = None
    double: float = 0.0
    limit: int | None = None
    clock: Callable[[], float] = time.monotonic
    shelf: Shelf = field(init=False)
    items: list[str] = field(init=False)
    _journals: dict[str, Journal] = field(default_factory=dict)
    _own: dict[str, list[str]] = field(default_factory=dict)  # annotator -> items in their order
    _kept: dict[str, tuple[str, float]] = field(default_factory=dict)  # item -> (for whom, until)
    _lock: RLock = field(default_factory=RLock)

    def __post_init__(self) -> None:
        if not 0 <= self.double <= 1:
            raise ValueError(f"the share of items judged twice is {self.double}: give 0 to 1.")
        self.shelf = Shelf(dataset=self.review.dataset)
        arranged = self.order.arranged(self.shelf.ids, self.scores, self.review.seed)
        self.items = arranged[: self.limit]
        if not self.items:
            raise ValueError("there is nothing to review: the data holds no readable row.")
        self._twice = {i for i in self.items if self._draw("twice", i) < self.double}

    @property
    def pairs(self) -> bool:
        """Whether the items are pairs."""
        return self.review.dataset.kind == "pair"

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be said of an item, as the page says it."""
        return ("first", "second", *OF_PAIRS[2:]) if self.pairs else OF_ROWS

    def turns(self, annotator: str, count: int = 1) -> list[Turn]:
        """The next items of an annotator, first the one that is to be judged now."""
        with self._lock:
            self._refresh(annotator)
            found: list[Turn] = []
            said, mine = self._said(), self._mine(annotator)
            for item in self._order_of(annotator):
                if len(found) == count:
                    break
                if item not in mine and self._free(item, annotator, said.get(item, _NOBODY)):
                    self._kept[item] = (annotator, self.clock() + KEPT)
                    found.append(Turn(item=item, shown=self._shown(annotator, item)))
            return found

    def turn(self, annotator: str, item: str) -> Turn:
        """One item, whatever was said of it: to look at it again."""
        with self._lock:
            journal.annotator(annotator)
            return Turn(item=self._known(item), shown=self._shown(annotator, item))

    def take(self, annotator: str, click: Click) -> Taken:
        """Write a judgement; its line, once it is on the disk.

        Raises:
            ValueError: it is no judgement of such an item.
        """
        with self._lock:
            own = self._refresh(annotator)
            done = own.known(click.key)
            if done is not None:
                return Taken(line=done, again=False)
            again = click.item in self._mine(annotator)
            line = own.append(self._line(annotator, click), click.key)
            self._kept.pop(click.item, None)
            return Taken(line=line, again=again)

    def undo(self, annotator: str, key: str, item: str | None = None) -> dict[str, Any] | None:
        """Take back a judgement of an annotator; its line, or None if there is none.

        Args:
            annotator: who gave it.
            key: of this click.
            item: that it is of; None: the last one that was given.
        """
        with self._lock:
            own = self._refresh(annotator)
            done = own.known(key)
            if done is not None:
                return done
            mine = self._mine(annotator)
            if item is not None:
                mine = {i: line for i, line in mine.items() if i == item}
            if not mine:
                return None
            last = max(mine.values(), key=lambda line: int(line["number"]))
            line = {**last, "judgement": None, "answer": None, "comment": None, "seconds": None}
            del line["click"], line["annotator"], line["number"]
            return own.append({**line, "given_at": _at(0.0)}, key)

    def progress(self, annotator: str) -> dict[str, int]:
        """How far things are: `mine`, `left` for this annotator, `done` of `items` by all."""
        with self._lock:
            self._refresh(annotator)
            said, mine = self._said(), self._mine(annotator)
            open_ = [i for i in self.items if i not in mine]
            left = sum(self._free(i, annotator, said.get(i, _NOBODY)) for i in open_)
            done = sum(len(said.get(i, _NOBODY)) >= self._wanted(i) for i in self.items)
            counted = sum(i in mine for i in self.items)
            return {"mine": counted, "left": left, "done": done, "items": len(self.items)}

    def _line(self, annotator: str, click: Click) -> dict[str, Any]:
        record = self.shelf.record(self._known(click.item))
        if click.judgement not in self.choices:
            raise ValueError(
                f"{click.judgement[:40]!r} is not a judgement of this review; there are: "
                f"{', '.join(self.choices)}."
            )
        stands_first = shown.first(self.review.seed, annotator, click.item)
        judgement = {"first": stands_first, "second": shown.other(stands_first)}.get(
            click.judgement, click.judgement
        )
        return {
            "item": click.item,
            "judgement": judgement,
            "shown_first": stands_first if self.pairs else None,
            "answer": self._answer(record, click) if judgement == "fix" else None,
            "comment": _words(click.comment, COMMENT, "a comment"),
            "given_at": _at(click.age),
            "seconds": None if click.seconds is None else max(0.0, click.seconds),
        }

    def _answer(self, record: Mapping[str, Any], click: Click) -> str:
        kind = self.review.dataset.kind
        now = shown.single(record, kind).editable
        if now is None:
            raise ValueError("this row has no answer that could be corrected: keep it or drop it.")
        answer = _words(click.answer, ANSWER, "an answer")
        if answer is None:
            raise ValueError("a correction needs a text: write the answer, or drop the row.")
        if answer == now:
            raise ValueError("the answer is as it was: keep the row, or change the text.")
        return answer

    def _shown(self, annotator: str, item: str) -> Shown:
        record = self.shelf.record(item)
        if self.pairs:
            return shown.pair(record, shown.first(self.review.seed, annotator, item))
        return shown.single(record, self.review.dataset.kind)

    def _known(self, item: str) -> str:
        if item not in self.shelf:
            raise ValueError(f"there is no item {item[:40]!r} in this review: reload the page.")
        return item

    def _refresh(self, annotator: str) -> Journal:
        """Take in what other servers have written; the annotator's own journal."""
        folder = self.review.journals
        for name in {annotator, *journal.annotators(folder)}:
            if name in self._journals:
                self._journals[name].refresh()
            else:
                self._journals[name] = journal.journal(folder, name)
        return self._journals[annotator]

    def _mine(self, annotator: str) -> dict[str, dict[str, Any]]:
        """Item -> the annotator's line that counts."""
        return _current(self._journals[annotator].lines)

    def _said(self) -> dict[str, set[str]]:
        """Item -> those who judged it; a skip is no judgement."""
        found: dict[str, set[str]] = {}
        for name, one in self._journals.items():
            for item, line in _current(one.lines).items():
                if line["judgement"] != _SKIP:
                    found.setdefault(item, set()).add(name)
        return found

    def _free(self, item: str, annotator: str, said: Set[str]) -> bool:
        """Whether an item still wants this annotator, who has not judged it."""
        whom, until = self._kept.get(item, ("", 0.0))
        elsewhere = whom not in ("", annotator) and whom not in said and until > self.clock()
        return len(said) + elsewhere < self._wanted(item)

    def _wanted(self, item: str) -> int:
        return 2 if item in self._twice else 1

    def _order_of(self, annotator: str) -> Sequence[str]:
        if self.order.shared:
            return self.items
        if annotator not in self._own:
            drawn = {i: self._draw("review", f"{annotator}\0{i}") for i in self.items}
            self._own[annotator] = sorted(self.items, key=lambda i: (drawn[i], i))
        return self._own[annotator]

    def _draw(self, purpose: str, ident: str) -> float:
        return uniform(self.review.seed, purpose, ident)


def _current(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Item -> the last line on it, unless that takes it back (`judgements.current` of one)."""
    last = {line["item"]: line for line in lines}
    return {item: line for item, line in last.items() if line["judgement"] is not None}


def _words(text: str | None, most: int, what: str) -> str | None:
    """A text that can be stored: without what is no character; None: it says nothing."""
    if text is None or not text.strip():
        return None
    if len(text) > most:
        raise ValueError(f"{what} has at most {most:,} characters; found {len(text):,}.")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _at(age: float) -> str:
    """The time of a click that is some seconds old."""
    given = datetime.now(UTC) - timedelta(seconds=min(max(0.0, age), 366 * 86_400.0))
    return given.isoformat(timespec="milliseconds")
