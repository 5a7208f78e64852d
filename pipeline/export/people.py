"""What people said of a publication, for its card: of single rows, and of the whole."""

from collections.abc import Iterator, Mapping
from typing import Any

from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.markdown import cell, table

_UNDEFINED = "not defined"


def asked(facts: Facts) -> bool:
    """Whether people looked at rows, or approved the whole."""
    return bool(facts.selection.get("review") or facts.evaluation.get("approval"))


def said(facts: Facts) -> str:
    """The section of the card."""
    review = facts.selection.get("review")
    approval = facts.evaluation.get("approval")
    parts = [] if approval is None else [_approved(approval)]
    return "\n\n".join([*parts, *(_reviewed(review) if review else ())])


def _approved(approval: Mapping[str, Any]) -> str:
    reason = f" ({cell(approval['reason'])})" if approval["reason"] else ""
    return (
        f"**Approved by {cell(approval['by'])}** on {cell(approval['at'])}{reason}, on a sample of "
        f"{approval['sample']:,} rows."
    )


def _reviewed(review: Mapping[str, Any]) -> Iterator[str]:
    by = ", ".join(f"{cell(name)} {count:,}" for name, count in review["annotators"].items())
    yield (
        f"{review['items']:,} rows were judged, {review['twice']:,} of them by several annotators "
        f"({by}). The config `ledger` says of each which judgement holds and whose it is "
        "(`judgement`, `judged_by`)."
    )
    yield table(("judgement", "rows"), [(k, f"{n:,}") for k, n in review["rows"].items()])
    conflicts = review["conflicts"]
    yield (
        f"Annotators differed on {sum(conflicts.values()):,} rows: "
        f"{conflicts['resolved_by_majority']:,} were decided by the majority, and "
        f"{conflicts['left_open']:,} without one were dropped."
    )
    lines = [("Krippendorff's alpha", "all", f"{review['twice']:,}", _interval(review["alpha"]))]
    lines += [
        ("Cohen's kappa", f"{p['one']}, {p['other']}", f"{p['shared']:,}", _interval(p["kappa"]))
        for p in review["pairs"]
    ]
    yield table(("agreement", "annotators", "rows", "value, 95 %"), lines)


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return _UNDEFINED
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
