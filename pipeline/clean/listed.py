"""Listed: rows that a person chose by id, to be the only ones, or never to be among them.

A list is a text file with an id a line: the row's own (`gristmill explore` writes them) or the
user's. Blank lines, and what follows a `#`, say nothing. A takedown list may also name a source, as
`source: NAME`; there a comment begins behind a blank, since names may hold a `#`. A row that people
changed is still the one that a keep list names; one that is to fall is never changed (`ruled_out`).

| list | drops | reason |
|---|---|---|
| keep | every row that is on no such list | `not_in_keep_list` |
| drop | the rows that are on it | `in_drop_list` |
| takedown | those, and every row that says the same after normalisation | `takedown` |
| takedown, `source:` | every row of that source; not its copies elsewhere | `takedown: source` |

What says the same as a row is known as long as the row is in the pool, or in a version that was
published.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.clean.drops import DROPS, drops
from gristmill.pipeline.clean.exact import fingerprints
from gristmill.pipeline.records.schema import KEY, digest

_SOURCE = re.compile(r"\s*source:\s*(\S.*?)\s*(?:\s#.*)?")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Ids by what is to become of their rows; a row of two lists falls.

    Attributes:
        keep: no other row stays; None: there is no such list.
        drop: these fall.
        takedown: these fall, and whatever says the same.
        sources: all rows of these sources fall.
    """

    keep: frozenset[str] | None = None
    drop: frozenset[str] = frozenset()
    takedown: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.keep is not None or bool(self.drop or self.takedown or self.sources)

    @property
    def facts(self) -> dict[str, Any]:
        """What a step's key takes."""
        kept = None if self.keep is None else digest(sorted(self.keep))
        told = {"keep": kept, "drop": digest(sorted(self.drop)),
                "takedown": digest(sorted(self.takedown))}  # fmt: skip
        return told | ({"sources": digest(sorted(self.sources))} if self.sources else {})


def ids_in(paths: Iterable[Path]) -> frozenset[str]:
    """The ids of some lists.

    Raises:
        ValueError: one cannot be read, or names no id.
    """
    ids, _ = _named_in(paths, sources=False)
    return ids


def taken_down(paths: Iterable[Path]) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of some takedown lists, and the sources; one that names neither is kept for later.

    Raises:
        ValueError: one cannot be read.
    """
    return _named_in(paths, sources=True)


def _named_in(paths: Iterable[Path], *, sources: bool) -> tuple[frozenset[str], frozenset[str]]:
    ids: set[str] = set()
    named: set[str] = set()
    for path in paths:
        try:
            text = path.read_text("utf-8-sig")
        except OSError as error:
            raise ValueError(
                f"the list of ids {path} cannot be read ({error.strerror}): name a text file with "
                "an id a line, as `gristmill explore` exports it."
            ) from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text: a list of ids has one a line.") from None
        lines = text.splitlines()
        whole = [_SOURCE.fullmatch(line) if sources else None for line in lines]
        here = {found[1] for found in whole if found is not None}
        mine = {
            line.partition("#")[0].strip()
            for line, found in zip(lines, whole, strict=True)
            if found is None
        } - {""}
        if not sources and not mine:
            raise ValueError(f"{path} names no id: expected one a line.")
        ids |= mine
        named |= here
    return frozenset(ids), frozenset(named)


def listed(
    blocks: Callable[[], Iterable[pl.DataFrame]],
    lists: Listed,
    published: Iterable[pl.DataFrame] = (),
) -> pl.DataFrame:
    """Drops frame of the rows that the lists rule out.

    Args:
        blocks: gives the records, as often as it is asked.
        lists: the lists.
        published: records that were published before, which also tell what a taken down row says.

    Raises:
        ValueError: no row of the pool is on the keep list, so that none would be left.
    """
    found: list[pl.DataFrame] = []
    kept = 0
    gone = _same(chain(blocks(), published), lists.takedown) if lists.takedown else None
    for block in blocks():
        dropped = pl.when(_on(lists.drop)).then(pl.lit("in_drop_list"))
        reason: pl.Expr = dropped
        if lists.keep is not None:
            wanted = _on(lists.keep) | _child_of(lists.keep)
            kept += int(block.select(wanted.sum()).item())
            reason = dropped.when(~wanted).then(pl.lit("not_in_keep_list"))
        if gone is not None:
            block = fingerprints(block).join(block.select(*KEY, "user_id"), on=list(KEY))
            takedown = pl.col("fingerprint").is_in(gone.implode())
            reason = pl.when(takedown).then(pl.lit("takedown")).otherwise(reason)
        if lists.sources:
            theirs = pl.col("source").is_in(list(lists.sources))
            reason = pl.when(theirs).then(pl.lit("takedown: source")).otherwise(reason)
        rows = block.select(*KEY, reason=reason).filter(pl.col("reason").is_not_null())
        found.append(rows)
    if lists.keep is not None and not kept:
        raise ValueError(
            f"none of the {len(lists.keep):,} ids of `keep:` is in the pool: give ids of these "
            "sources, as `gristmill explore` exports them."
        )
    empty = pl.DataFrame(schema={c: DROPS[c] for c in (*KEY, "reason")})
    rows = pl.concat([empty, *found])
    return drops(rows.drop("reason"), reason=rows["reason"])


def ruled_out(blocks: Iterable[pl.DataFrame], lists: Listed) -> frozenset[str]:
    """The ids of the rows that a list names to fall.

    Args:
        blocks: records, or their `id`, `user_id` and, where sources are named, `source`.
        lists: the lists.
    """
    named = _on(lists.drop | lists.takedown)
    if lists.sources:
        named |= pl.col("source").is_in(list(lists.sources))
    return frozenset(ident for block in blocks for ident in block.filter(named)["id"])


def _same(blocks: Iterable[pl.DataFrame], ids: frozenset[str]) -> pl.Series:
    """Fingerprints of the rows of these ids."""
    some = [fingerprints(rows) for b in blocks if (rows := b.filter(_on(ids))).height]
    empty = pl.Series("fingerprint", [], dtype=pl.Binary)
    return pl.concat([empty, *(f["fingerprint"] for f in some)]).unique()


def _on(ids: frozenset[str]) -> pl.Expr:
    wanted = list(ids)
    return pl.col("id").is_in(wanted) | pl.col("user_id").is_in(wanted).fill_null(value=False)


def _child_of(ids: frozenset[str]) -> pl.Expr:
    """Whether a row was made of one of these, as its `meta` says."""
    parents = pl.col("meta").str.json_path_match("$.parents").str.extract_all("[0-9a-f]{32}")
    made = parents.list.eval(pl.element().is_in(list(ids))).list.any()
    return made.fill_null(value=False)
