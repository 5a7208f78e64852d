"""Whatever is damaged on the disk is made again or refused, never served.

`damage.py` holds the cases; docs/reliability.md shows what becomes of them.
"""

import logging
from collections import defaultdict

import damage
import pytest
from repository import ROOT

TABLE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
CASES = {row.kind: row for row in damage.rows()}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.fault("damage: every kind of file, in seven ways")
def test_damage_ends_as_the_table_says(kind, tmp_path, caplog, record_property):
    caplog.set_level(logging.ERROR)
    row, found = CASES[kind], []
    for how in damage.HOWS:
        root = tmp_path / how
        root.mkdir()
        found.append(row.outcome(how, root))
    assert set(found) <= {damage.MADE, damage.REFUSED, damage.NO_HARM}
    assert f"| {kind} | {row.state} | {' | '.join(found)} |" in TABLE
    refused = found.count(damage.REFUSED)
    record_property("fault", ("refused", refused))
    record_property("fault", ("right", len(found) - refused))


def test_the_table_has_no_other_rows():
    section = TABLE.partition("## The table")[2].partition("## A full disk")[0]
    lines = [line for line in section.split("\n") if line.startswith("|")]
    assert lines == damage.markdown(defaultdict(lambda: "?")).splitlines()[:2] + lines[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(CASES)


def test_harm_that_harms_nothing_would_be_seen(tmp_path):
    """The cases can fail: a store that believes its files serves what was flipped."""
    victim, _ = damage.finished("part-00000.parquet")(tmp_path)
    before = damage.contents(victim.parent)
    damage.harm(victim, "flip")
    assert damage.contents(victim.parent) != before
