"""The table of faults: how often each was injected while the tests ran, and what came of it.

    make faults                                    # every case; writes docs/faults.json
    python -m pytest -m fault -k KEY --faults docs/faults.json     # one case again

A test of a fault is marked `fault("what was done")` and passes only if each run ended in the right
data or in a clear error. It counts as one run, which ended in the right data (or as `ends=` of its
mark says), unless it records others:

    record_property("fault", ("right", 20))        # 20 runs ended as an undisturbed one does
    record_property("fault", ("refused", 1))       # one sentence, and nothing wrong was kept

What a test that fails ran is counted as wrong.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

OUTCOMES = {
    "right": "right data",
    "refused": "clear error, right data once mended",
    "wrong": "wrong or lost data",
}
_KEY = "fault"


class Faults:
    """Counts the runs of marked tests in a file, test by test: a suite may be stopped."""

    def __init__(self, path: Path):
        self.path = path
        self.kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.found: dict[str, Counter[str]] = {}

    def pytest_runtest_setup(self, item):
        mark = item.get_closest_marker(_KEY)
        if mark is not None:
            told = (mark.args[0], mark.kwargs.get("ends", "right"))
            item.user_properties.append(("fault case", told))

    def pytest_runtest_logreport(self, report):
        told = list(report.user_properties)
        case, ends = next((value for key, value in told if key == "fault case"), (None, ""))
        if case is None or report.skipped or (report.when != "call" and report.passed):
            return
        runs = [value for key, value in told if key == _KEY] or [(ends, 1)]
        counts = self.found.setdefault(case, Counter())
        for outcome, number in runs:
            counts[outcome if report.passed else "wrong"] += number
        kept = self.kept | {c: {k: n[k] for k in OUTCOMES} for c, n in self.found.items()}
        self.path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")


def markdown(found: Mapping[str, Mapping[str, int]]) -> str:
    """The table of docs/reliability.md."""
    lines = [
        f"| what was done | runs | {' | '.join(OUTCOMES.values())} |",
        "|---|---|" + "---|" * len(OUTCOMES),
    ]
    total: Counter[str] = Counter()
    for case, counts in sorted(found.items()):
        total.update(counts)
        lines.append(_line(case, counts))
    return "\n".join([*lines, _line("**all**", total)]) + "\n"


def _line(case: str, counts: Mapping[str, int]) -> str:
    cells = [f"{n:,}" for n in (sum(counts.values()), *(counts[k] for k in OUTCOMES))]
    return f"| {case} | {' | '.join(cells)} |"
