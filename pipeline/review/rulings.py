"""Rulings: what people together said of each item, and how far they agreed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import polars as pl

from gristmill.pipeline.numerics.agreement import cohen_kappa, krippendorff_alpha
from gristmill.pipeline.numerics.intervals import Interval
from gristmill.pipeline.records.judgements import current

SKIP = "skip"
DISAGREED = "disagreed"
RULINGS: dict[str, Any] = {
    "item": pl.String,
    "ruling": pl.String,  # a judgement that more annotators gave than any other, or "disagreed"
    "judged_by": pl.String,  # who gave it, sorted, parted by ", "; of "disagreed" all who judged
    "answer": pl.String,  # of "fix"
    "said": pl.Int64,  # judgements of the item, skips left out
    "unanimous": pl.Boolean,
}


def rulings(judgements: pl.DataFrame) -> pl.DataFrame:
    """One row per item that somebody judged: the majority, or that there is none.

    Of several corrections the one that most annotators gave stands; of equally many, that of the
    annotator whose name comes first.

    Args:
        judgements: of the columns `JUDGEMENTS`.
    """
    given = current(judgements).filter(pl.col("judgement") != SKIP)
    rows = []
    for (item,), of_item in given.group_by("item", maintain_order=True):
        votes = list(of_item.sort("annotator").iter_rows(named=True))
        counts = Counter(v["judgement"] for v in votes).most_common()
        decided = len(counts) == 1 or counts[0][1] > counts[1][1]
        ruling = counts[0][0] if decided else DISAGREED
        winning = [v for v in votes if v["judgement"] == ruling] or votes
        rows.append(
            {
                "item": item,
                "ruling": ruling,
                "judged_by": ", ".join(v["annotator"] for v in winning),
                "answer": _answer(winning) if ruling == "fix" else None,
                "said": len(votes),
                "unanimous": len(counts) == 1,
            }
        )
    return pl.DataFrame(rows, schema=RULINGS).sort("item")


def _answer(votes: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(str(v["answer"]) for v in votes)  # the first of equals is that of the first
    return counts.most_common(1)[0][0]


def agreement(judgements: pl.DataFrame) -> dict[str, Any]:
    """How far annotators agreed on the items that several judged, with 95 % intervals.

    Args:
        judgements: of the columns `JUDGEMENTS`.

    Returns:
        `annotators` (name -> judgements), `items`, `twice` (items with two judgements or more),
        `alpha` (Krippendorff's), and `pairs`: two annotators, `shared` items, the share `equal`,
        and `kappa` (Cohen's). A coefficient is None where it is not defined.
    """
    given = current(judgements).filter(pl.col("judgement") != SKIP)
    by_annotator: dict[str, dict[str, str]] = {}
    by_item: dict[str, list[str]] = {}
    for row in given.iter_rows(named=True):
        by_annotator.setdefault(row["annotator"], {})[row["item"]] = row["judgement"]
        by_item.setdefault(row["item"], []).append(row["judgement"])
    pairs = []
    for one, other in combinations(sorted(by_annotator), 2):
        left, right = by_annotator[one], by_annotator[other]
        both = sorted(set(left) & set(right))
        if both:
            said = [left[i] for i in both], [right[i] for i in both]
            equal = sum(a == b for a, b in zip(*said, strict=True)) / len(both)
            kappa = _plain(cohen_kappa(both, *said))
            pairs.append(
                {"one": one, "other": other, "shared": len(both), "equal": equal, "kappa": kappa}
            )
    return {
        "annotators": {name: len(found) for name, found in sorted(by_annotator.items())},
        "items": len(by_item),
        "twice": sum(len(said) > 1 for said in by_item.values()),
        "alpha": _plain(krippendorff_alpha(by_item)),
        "pairs": pairs,
    }


def _plain(found: Interval | None) -> dict[str, float] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}
