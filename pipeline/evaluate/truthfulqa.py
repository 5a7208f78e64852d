"""TruthfulQA's CSV as the columns that `task_files/truthfulqa_*.yaml` read."""

from typing import Any


def process_docs(rows: Any) -> Any:  # noqa: ANN401  (datasets ships no types)
    """Add `question`, and the answers as `mc1_targets` and `mc2_targets`: choices and labels."""
    return rows.map(_targets, keep_in_memory=True)


def _targets(row: dict[str, str]) -> dict[str, Any]:
    true, false = _answers(row["correct"]), _answers(row["incorrect"])
    return {
        "mc1_targets": _labelled([row["best"].strip()], false),
        "mc2_targets": _labelled(true, false),
    }


def _answers(listed: str) -> list[str]:
    return [answer.strip() for answer in listed.split(";") if answer.strip()]


def _labelled(true: list[str], false: list[str]) -> dict[str, Any]:
    return {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)}
