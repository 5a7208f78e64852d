"""Reviews of toy rows: a desk, and judgements as a page would have them written."""

import itertools

import ingested
import polars as pl
from rows import pair_rows

from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.review import folder
from gristmill.pipeline.review.desk import Click, Desk
from gristmill.pipeline.review.orders import Order

_KEYS = itertools.count()


def desk(store, root, rows=None, *, order="random", **how):
    dataset = ingested.dataset(store, root, "rows", pair_rows(12) if rows is None else rows)
    return Desk(review=folder.opened(store, dataset, "toy"), order=Order.parse(order), **how)


def click(item, judgement, **more):
    return Click(key=f"click-{next(_KEYS)}", item=item, judgement=judgement, **more)


def said(*lines):
    """(annotator, item, judgement[, answer]) as a table of judgements."""
    numbers: dict[str, int] = {}
    rows = []
    for annotator, item, judgement, *answer in lines:
        numbers[annotator] = numbers.get(annotator, -1) + 1
        row = dict.fromkeys(JUDGEMENTS) | {
            "item": item,
            "annotator": annotator,
            "number": numbers[annotator],
            "judgement": judgement,
            "answer": answer[0] if answer else None,
            "given_at": "2026-01-01T00:00:00.000+00:00",
        }
        rows.append(row)
    return pl.DataFrame(rows, schema=JUDGEMENTS)
