"""Views that a model reads in one pass: the two sides of a pair, several questions about one text.

A row's views often begin with the same tokens. Where all that is asked of them follows from last
hidden states, the row's beginning is computed once (see `models.shared_prefixes`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.contracts import (
    EncodingFacts,
    ModelSignal,
    Need,
    PassSignal,
    Signal,
    View,
)
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.forward import Batch, forward
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.shared_prefixes import LEAST_SAVED, computed, header

LIGHT = frozenset({"losses", "all_losses", "entropy", "last_hidden"})  # read off last hidden states


def needs_of(columns: Sequence[Signal | EncodingFacts]) -> frozenset[Need]:
    """What a pass for these columns must provide."""
    return frozenset().union(*(s.needs for s in columns if isinstance(s, PassSignal)))


def tokens_of(signals: Sequence[Signal], batch: Batch) -> int:
    """Tokens that the model read and wrote for these signals of one view in a finished pass.

    A pass counts each sequence once, whatever it shares with others and however many signals read
    it; a signal that runs the model itself says what it took.
    """
    shared = any(isinstance(s, PassSignal) for s in signals)
    running = [s for s in signals if isinstance(s, ModelSignal)]
    return shared * sum(batch.lengths()) + sum(
        s.tokens(batch.encoded, batch.outputs[s.column]) for s in running
    )


def in_passes(
    signals: Sequence[Signal], facts: Sequence[EncodingFacts] = ()
) -> list[tuple[str, list[Signal | EncodingFacts]]]:
    """Signals of one role that may share a pass: one view, or views that need last states alone.

    Each view's facts stand with its signals, those of views that no signal shows by themselves.
    """
    by_view: dict[tuple[str, View], list[Signal | EncodingFacts]] = {}
    asked: list[Signal | EncodingFacts] = [*facts, *signals]
    for one in dict.fromkeys(asked):
        told = EncodingFacts(role=one.role, view=one.view)
        members = by_view.setdefault((one.role, one.view), [told])
        if isinstance(one, Signal):
            members.append(one)
    groups: dict[tuple[str, View | None], list[Signal | EncodingFacts]] = {}
    for (role, view), members in by_view.items():
        needs = needs_of(members)
        alone = not needs or not needs <= LIGHT or any(isinstance(m, ModelSignal) for m in members)
        groups.setdefault((role, view if alone else None), []).extend(members)
    return [(role, members) for (role, _), members in groups.items()]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Views of the same rows, each row's read together.

    Attributes:
        encoded: by view, one sequence a row.
    """

    encoded: Mapping[View, Sequence[Encoded]]

    @cached_property
    def fit(self) -> list[int]:
        """Rows that some view shows."""
        rows = zip(*self.encoded.values(), strict=True)
        return [i for i, row in enumerate(rows) if any(e.reason is None for e in row)]

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens to compute of each row that is `fit`, without a header common to all."""
        found = []
        for i in self.fit:
            ids = [e[i].ids for e in self.encoded.values() if e[i].reason is None]
            found.append(computed(ids, [header(len(ids))]))
        return found

    @property
    def worth_it(self) -> bool:
        """Whether one pass takes clearly fewer tokens than a pass for each view."""
        apart = sum(
            computed(ids, [header(len(ids))])
            for encoded in self.encoded.values()
            if (ids := [e.ids for e in encoded if e.reason is None])
        )
        shown, groupings, _ = self._sequences(range(len(self.fit)))
        ids = [e.ids for e in shown]
        return bool(shown) and computed(ids, groupings) <= (1 - LEAST_SAVED) * apart

    def _sequences(
        self, chosen: Iterable[int]
    ) -> tuple[list[Encoded], list[npt.NDArray[np.int64]], dict[View, tuple[list[int], slice]]]:
        """What is shown of some of the rows that are `fit`: view after view.

        Returns:
            The sequences; their groupings (a header of all, a prefix per row); and of each view the
            numbers of its rows and the place of its sequences.
        """
        rows = [self.fit[c] for c in chosen]
        shown: list[Encoded] = []
        prefixes: list[int] = []
        place: dict[View, tuple[list[int], slice]] = {}
        for view, encoded in self.encoded.items():
            mine = [n for n, row in enumerate(rows) if encoded[row].reason is None]
            place[view] = ([rows[n] for n in mine], slice(len(shown), len(shown) + len(mine)))
            shown += [encoded[rows[n]] for n in mine]
            prefixes += mine
        return shown, [header(len(shown)), np.array(prefixes, dtype=np.int64)], place

    def read(
        self, chosen: Iterable[int], model: LoadedModel, needs: frozenset[Need]
    ) -> dict[View, tuple[Sequence[int], Batch]]:
        """One pass over some of the rows that are `fit`: of each view, the rows and the pass."""
        shown, groupings, place = self._sequences(chosen)
        whole = forward(shown, model, needs, groupings=groupings)
        return {view: (numbers, whole.part(at)) for view, (numbers, at) in place.items()}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One pass over some rows: a view, or several that are read together.

    Attributes:
        views: what is shown.
        needs: what the pass provides.
        rows: numbers of the rows that can be shown.
        lengths: tokens to compute of each.
        family: of several views.
    """

    views: tuple[View, ...]
    needs: frozenset[Need]
    rows: Sequence[int]
    lengths: Sequence[int]
    family: Family | None = None


def readings(
    encoded: Mapping[View, Sequence[Encoded]],
    signals: Sequence[Signal],
    views: Sequence[View],
    shares: bool,
) -> list[Reading]:
    """The passes in which a model reads some rows for these signals.

    Args:
        encoded: the rows by view.
        signals: what is lacking, of one group of `in_passes`.
        views: of all signals of that group: where one is lacking, the family is read as a whole.
        shares: whether a common beginning can be computed once: all that is asked follows from
            last hidden states (`LIGHT`), and the model is `shareable`.
    """
    if shares and len(views) > 1:
        family = Family(encoded={v: encoded[v] for v in views})
        if family.worth_it:
            together = Reading(
                views=tuple(views),
                needs=needs_of(signals),
                rows=family.fit,
                lengths=family.lengths,
                family=family,
            )
            return [together]
    found = []
    for view in dict.fromkeys(s.view for s in signals):
        mine = [s for s in signals if s.view == view]
        fit = [i for i, e in enumerate(encoded[view]) if e.reason is None]
        found.append(
            Reading(
                views=(view,),
                needs=needs_of(mine),
                rows=fit,
                lengths=[len(encoded[view][i].ids) for i in fit],
            )
        )
    return found
