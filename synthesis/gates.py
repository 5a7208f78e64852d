"""Gates: pairs that repeat an evaluation set, or rows that were published before.

The cleaning of the pipeline, put before an extraction: a gate is a function of pairs to reasons,
and a name for all that it depends on.
"""

from collections.abc import Callable, Sequence

import polars as pl

from gristmill.pipeline.clean.decontaminate import Gate, contaminated
from gristmill.pipeline.clean.near_duplicates import MinHash, near_duplicates
from gristmill.pipeline.clean.repeats import index_of
from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.records.schema import EXAMPLE, content_id, digest
from gristmill.synthesis.candidates import messages
from gristmill.synthesis.extraction import QA

Refusal = tuple[Callable[[Sequence[QA]], list[str | None]], str]  # `refuse` and its name


def decontaminated(items: pl.DataFrame, gate: Gate | None = None) -> Refusal:
    """Pairs that repeat an item of an evaluation set.

    Args:
        items: the table of `clean.benchmarks`.
        gate: what counts as a repetition.
    """
    gate = gate or Gate()
    index = index_of(items, n=gate.n, fuzzy=gate.fuzzy)

    def refuse(pairs: Sequence[QA]) -> list[str | None]:
        hits = index.hits(examples(pairs))
        found = dict(contaminated(hits).select("row", "reason").iter_rows())
        return [found.get(i) for i in range(len(pairs))]

    return refuse, digest(["contaminated", items.rows(), settings_of(gate)])


def unlike(published: pl.DataFrame, minhash: MinHash | None = None) -> Refusal:
    """Pairs that nearly repeat a published row, question and answer together, or each other.

    Args:
        published: example rows.
        minhash: what counts as nearly.
    """
    minhash = minhash or MinHash()
    old = minhash.sketch(published)

    def refuse(pairs: Sequence[QA]) -> list[str | None]:
        if not pairs:
            return []
        new = minhash.sketch(examples(pairs))
        found = near_duplicates([new], settings=minhash, published=[old])
        why = dict(found.select("row", "duplicate_of").iter_rows())
        return [f"near_duplicate: of {why[i]}" if i in why else None for i in range(len(pairs))]

    name = digest(["near_duplicate", sorted(published["id"]), settings_of(minhash)])
    return refuse, name


def all_of(refusals: Sequence[Refusal]) -> Refusal:
    """One after the other; what one refuses the next does not see."""

    def refuse(pairs: Sequence[QA]) -> list[str | None]:
        reasons: list[str | None] = [None] * len(pairs)
        for gate, _ in refusals:
            left = [i for i, r in enumerate(reasons) if r is None]
            for i, reason in zip(left, gate([pairs[i] for i in left]), strict=True):
                reasons[i] = reason
        return reasons

    return refuse, digest([name for _, name in refusals])


def examples(pairs: Sequence[QA]) -> pl.DataFrame:
    """Pairs as example rows; `row` is their place."""
    rows = [
        {
            **dict.fromkeys(EXAMPLE),
            "id": content_id("example", {"messages": messages(p)}),
            "source": "",
            "row": i,
            "messages": messages(p),
        }
        for i, p in enumerate(pairs)
    ]
    return pl.DataFrame(rows, schema=EXAMPLE)
