"""Explorer: the answers to a page's questions about one ledger, a window of rows at a time."""

# N = rows of the ledger, P = points of the map

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.explore import columns
from gristmill.pipeline.explore.asked import FACETS, Asked, at_of, inside, words_of
from gristmill.pipeline.explore.beside import beside
from gristmill.pipeline.explore.columns import Numbers, Values
from gristmill.pipeline.explore.observed import Observed
from gristmill.pipeline.explore.opening import Opened, opened
from gristmill.pipeline.explore.records_of import RecordsOf, found
from gristmill.pipeline.explore.texts import Texts

LIMIT = 500  # rows of a window
_SHOWN = ("at", "id", "source", "row", "verdict", "reason", "stage", "rank", "weight")
_KEPT_QUESTIONS = 64
_KEPT_SEARCHES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Explorer:
    """One ledger, perhaps beside that of another version.

    Attributes:
        opened: what was opened.
        before: the other version; None: there is none.
        ledger: the rows, with what the other version says of them.
        records: where their text lies.
        texts: its index.
        observed: what models said of them.
    """

    opened: Opened
    before: Opened | None
    ledger: pl.DataFrame
    records: RecordsOf
    texts: Texts
    observed: Observed

    @classmethod
    def of(cls, where: Path, *, store: Path | None, against: Path | None = None) -> "Explorer":
        """Open a ledger; its texts are indexed from now on."""
        now = opened(where)
        before, ledger = beside(now, against) if against is not None else (None, now.ledger)
        records = found(now, store)
        texts = Texts(records=records, height=ledger.height)
        texts.start()
        observed = Observed(opened=now, store=store)
        return cls(opened=now, before=before, ledger=ledger, records=records, texts=texts,
                   observed=observed)  # fmt: skip

    def close(self) -> None:
        """Give up what was made for this page."""
        self.texts.close()

    @cached_property
    def facets(self) -> dict[str, Values]:
        """The columns by whose values rows are filtered."""
        return {c: columns.values(self.ledger[c]) for c in FACETS if c in self.ledger}

    @cached_property
    def numbers(self) -> dict[str, Numbers]:
        """The columns of numbers: by these rows are sorted and brushed, the scores first."""
        numeric = [c for c, t in self.ledger.schema.items() if t.is_numeric()]
        names = [c for c in numeric if c not in ("at", "row", "order", "threshold")]
        names = sorted(names, key=lambda c: (c != "score", not c.startswith("score_"), c))
        made = {name: columns.numbers(self.ledger[name]) for name in names}
        return {name: one for name, one in made.items() if one is not None}

    @property
    def scores(self) -> list[str]:
        """The columns of numbers that are shown with every row."""
        return [c for c in self.numbers if c == "score" or c.startswith("score_")]

    @property
    def parts(self) -> list[str]:
        """What scores are made of: shown with one row, and sorted by."""
        return [c for c in self.numbers if c.startswith("part_")]

    @cached_property
    def threshold(self) -> float | None:
        """The lowest score that was kept."""
        lowest: Any = self.ledger.filter(verdict="kept")["score"].min()
        return None if lowest is None else float(lowest)

    @cached_property
    def xy_N2(self) -> NDArray[np.float32]:
        """Each row's place on the map; NaN for those that are not on it."""
        xy_N2 = np.full((self.ledger.height, 2), np.nan, dtype=np.float32)
        points = self.observed.map
        xy_N2[points["at"].to_numpy()] = points.select("x", "y").to_numpy()
        return xy_N2

    def about(self) -> dict[str, Any]:
        """What a page must know at first."""
        told = self.opened.manifest
        return {
            "title": self.opened.title,
            "before": self.before.title if self.before else None,
            "rows": self.ledger.height,
            "facets": list(self.facets),
            "numbers": list(self.numbers),
            "scores": self.scores,
            "threshold": self.threshold,
            "selection": {
                k: (told.get("selection") or {}).get(k) for k in ("by", "rule", "budget")
            },
            "text": self.text_note,
            "report": self.opened.folder is not None
            and (self.opened.folder / "report.html").is_file(),
        }

    @property
    def text_note(self) -> str | None:
        """What text is lacking, in a sentence; None: none is."""
        if self.texts.failed is not None:
            return self.texts.failed
        there, rows = self.records.places.height, self.opened.ledger.height
        unread = int((self.opened.ledger["verdict"] == "quarantined").sum())
        if there + unread >= rows:
            return None
        if there:
            return (
                f"The text of {rows - there - unread:,} of {rows:,} rows is not in the publication "
                "and the store that has it is not at hand (--store names it)."
            )
        return (
            "The text of these rows is neither in a publication nor in the store (--store names "
            "it): only their ledger is shown."
        )

    def window(self, asked: Asked, offset: int, limit: int) -> dict[str, Any]:
        """Some rows of a question's answer, and how many there are.

        Raises:
            ValueError: the question names what is not there.
        """
        at_N = self._ordered(asked)
        some = at_N[max(offset, 0) : max(offset, 0) + min(limit, LIMIT)]
        return {
            "total": len(at_N),
            "indexed": self.texts.indexed,
            "ended": self.texts.ended,
            "rows": self.brief(some.tolist()),
        }

    def brief(self, rows: list[int]) -> list[dict[str, Any]]:
        """Rows as a table shows them, in the order given."""
        begins = self.texts.excerpts(rows)
        names = [c for c in (*_SHOWN, "user_id", *self.scores, "tokens") if c in self.ledger]
        names += [c for c in self.ledger.columns if c == "change" or c.startswith("before_")]
        lines = self.ledger[rows].select(list(dict.fromkeys(names))).to_dicts()
        return [{**line, "text": begins.get(line["at"])} for line in lines]

    def counts(self, asked: Asked) -> dict[str, Any]:
        """Of each filter, the rows by value or bin that the other filters leave."""
        asked.checked(self.ledger.schema)
        return {
            "values": {
                name: facet.counts(self._mask(asked.without(name)))
                for name, facet in self.facets.items()
            },
            "numbers": {
                name: self.numbers[name].counts(self._mask(asked.without(name)))
                for name in (*self.scores, *(["tokens"] if "tokens" in self.numbers else []))
            },
        }

    def ids(self, asked: Asked) -> list[str]:
        """The ids of a question's answer, sorted, each once."""
        found: list[str] = self.ledger["id"].gather(self._ordered(asked)).unique().sort().to_list()
        return found

    def points(self) -> dict[str, Any]:
        """The map: row numbers and places as little-endian bytes in base64."""
        places = self.observed.map
        return {
            "note": self.observed.map_note,
            "at": _bytes(places["at"].to_numpy().astype("<u4")),
            "xy": _bytes(places.select("x", "y").to_numpy().astype("<f4")),
        }

    def colours(self, by: str) -> dict[str, Any]:
        """Of each point of the map, the number of its colour: of a value, or of a tenth."""
        at_P = self.observed.map["at"].to_numpy()
        if by in self.facets:
            facet = self.facets[by]
            code_P = np.minimum(facet.code_N[at_P], 8)
            return {"names": list(facet.names[:9]), "codes": _bytes(code_P.astype("u1"))}
        if by in self.numbers:
            column = self.numbers[by]
            width = (column.high - column.low) or 1.0
            share_P = (column.value_N[at_P] - column.low) / width
            code_P = np.where(np.isfinite(share_P), np.nan_to_num(share_P) * 253, 255)
            range_ = [column.low, column.high]
            return {"range": range_, "codes": _bytes(code_P.astype("u1"))}
        raise ValueError(f"this ledger has no column {by!r} to colour by.")

    def on_map(self, asked: Asked) -> dict[str, Any]:
        """Which points of the map are in a question's answer: a bit each, in base64."""
        asked.checked(self.ledger.schema)
        shown_P = self._mask(asked)[self.observed.map["at"].to_numpy()]
        return {"shown": _bytes(np.packbits(shown_P, bitorder="little"))}

    def _ordered(self, asked: Asked) -> NDArray[np.int64]:
        asked.checked(self.ledger.schema)
        order_N = self._order(asked.sort, asked.descending)
        return order_N[self._mask(asked)[order_N]]

    def _mask(self, asked: Asked) -> NDArray[np.bool_]:
        return self._masked(asked, self.texts.indexed if asked.words else 0)

    @cached_property
    def _masked(self) -> Callable[[Asked, int], NDArray[np.bool_]]:
        return lru_cache(_KEPT_QUESTIONS)(self._masked_anew)

    def _masked_anew(self, asked: Asked, indexed: int) -> NDArray[np.bool_]:
        """The rows that a question is answered with; `indexed` rows can be searched by now."""
        mask_N = np.ones(self.ledger.height, dtype=bool)
        for name, wanted in asked.values:
            mask_N &= self.facets[name].mask(wanted)
        for name, low, high in asked.ranges:
            column = self.numbers.get(name)
            mask_N &= column.mask(low, high) if column else False
        if asked.around:
            mask_N &= inside(self.xy_N2, asked.around)
        if asked.picked is not None:
            mask_N &= at_of(asked.picked, len(mask_N))
        if words_of(asked.words):
            mask_N &= self._found(asked.words.strip(), indexed)
        return mask_N

    @cached_property
    def _found(self) -> Callable[[str, int], NDArray[np.bool_]]:
        """The rows that hold some words: read once, whatever filters are put on beside them.

        A page asks for rows and counts at once; the second waits for what the first has found.
        """
        lock = Lock()
        search = lru_cache(_KEPT_SEARCHES)(self._found_anew)

        def found(words: str, indexed: int) -> NDArray[np.bool_]:
            with lock:
                return search(words, indexed)

        return found

    def _found_anew(self, words: str, indexed: int) -> NDArray[np.bool_]:
        """The rows that hold some words, when `indexed` rows can be searched."""
        return self.texts.search(words_of(words)) | self._named(words)

    def _named(self, word: str) -> NDArray[np.bool_]:
        """The rows whose id begins so, or that the user calls so."""
        found = pl.col("id").str.starts_with(word.lower())
        if "user_id" in self.ledger:
            found |= pl.col("user_id").eq_missing(word)
        return self.ledger.select(found.fill_null(value=False)).to_series().to_numpy()

    @cached_property
    def _order(self) -> Callable[[str, bool], NDArray[np.int64]]:
        return lru_cache(16)(self._order_anew)

    def _order_anew(self, sort: str, descending: bool) -> NDArray[np.int64]:
        """Row numbers in an order; rows without a value come last."""
        by = sort or "rank"
        keys = [by, "at"]
        turned = [descending if sort else False, False]
        order = pl.arg_sort_by(keys, descending=turned, nulls_last=True)
        return self.ledger.select(order.cast(pl.Int64)).to_series().to_numpy()


def _bytes(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def line_of(ledger: pl.DataFrame, at: int) -> Mapping[str, Any]:
    """One row of a ledger.

    Raises:
        ValueError: there is none of this number.
    """
    if not 0 <= at < ledger.height:
        raise ValueError(f"this ledger has no row {at}.")
    return ledger.row(at, named=True)
