"""The table of faults counts what the tests told, and a test that fails as wrong data."""

import json
from types import SimpleNamespace

from fault_table import Faults, markdown


def report(properties, *, when="call", passed=True, skipped=False):
    return SimpleNamespace(user_properties=properties, when=when, passed=passed, skipped=skipped)


def item(*arguments, **options):
    mark = SimpleNamespace(args=arguments, kwargs=options) if arguments else None
    return SimpleNamespace(get_closest_marker=lambda name: mark, user_properties=[])


def told(faults, made, *runs, **how):
    faults.pytest_runtest_setup(made)
    faults.pytest_runtest_logreport(report([*made.user_properties, *runs], when="setup"))
    faults.pytest_runtest_logreport(report([*made.user_properties, *runs], **how))


def test_runs_are_counted_by_what_came_of_them_and_other_cases_stay(tmp_path):
    path = tmp_path / "faults.json"
    path.write_text(json.dumps({"old": {"right": 4, "refused": 0, "wrong": 0}}))
    faults = Faults(path)
    told(faults, item("kills"), ("fault", ("right", 20)), ("fault", ("refused", 1)))
    told(faults, item("kills"))
    told(faults, item("full", ends="refused"))
    told(faults, item("kills"), ("fault", ("right", 3)), passed=False)
    told(faults, item("skipped"), skipped=True)
    told(faults, item())
    found = json.loads(path.read_text())
    assert found == {
        "old": {"right": 4, "refused": 0, "wrong": 0},
        "kills": {"right": 21, "refused": 1, "wrong": 3},
        "full": {"right": 0, "refused": 1, "wrong": 0},
    }
    lines = markdown(found).splitlines()
    assert lines[2:] == [
        "| full | 1 | 0 | 1 | 0 |",
        "| kills | 25 | 21 | 1 | 3 |",
        "| old | 4 | 4 | 0 | 0 |",
        "| **all** | 30 | 25 | 2 | 3 |",
    ]
