"""Reviews of toy rows: a desk, and judgements as a page would have them written."""

import itertools

import ingested
import polars as pl
from rows import pair_rows

from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.records.schema import KEY, LEDGER
from gristmill.pipeline.records.store import Step
from gristmill.pipeline.review import approval, folder
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


def ledger_of(rows, **columns):
    """Kept rows, ranked as they stand, of which the last two are dropped."""
    count = len(rows)
    told = {
        "score": [float(count - n) for n in range(count)],
        "rank": list(range(1, count + 1)),
        "verdict": ["kept"] * (count - 2) + ["dropped"] * 2,
        "reason": [None] * (count - 2) + ["below_budget"] * 2,
        **columns,
    }
    frame = rows.select(*KEY).with_columns(pl.Series(k, v) for k, v in told.items())
    null = [pl.lit(None, t).alias(c) for c, t in LEDGER.items() if c not in frame.columns]
    return frame.with_columns(null).select(pl.col(c).cast(t) for c, t in LEDGER.items())


def request(store, pool, rows=6, name="toy", **how):
    ledger = store.put(Step(name="select", version=1), ledger_of(pool.frame()))
    return approval.asked(store, name, pool, ledger, rows=rows, **how)
