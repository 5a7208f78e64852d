"""The file `gristmill init --curated-1k`: its own selection, on sources of unlike sizes."""

import random

import polars as pl
import yaml
from curation import walk_through
from repository import ROOT
from rows import write_jsonl

from gristmill.flows.config import CurateConfig
from gristmill.flows.publishing import announcement


def test_sources_are_balanced_what_is_poor_or_copied_falls_and_a_shortfall_is_told(tmp_path):
    """Two sources of 7 and 40 good rows: one in five is poor, and one a near copy."""
    run = yaml.safe_load((ROOT / "flows/templates/curated-1k.yaml").read_text("utf-8"))
    run |= {"store": str(tmp_path / "store"), "export": {"root": str(tmp_path / "curated")}}
    run["scorers"][0] = {"method": "column", "settings": {"name": "quality"}}
    run["select"]["before"][0]["by"] = "column"
    del run["models"]
    run["sources"] = []
    for name, rows in (("few", 10), ("many", 50)):
        path = write_jsonl(tmp_path / f"{name}.jsonl", [said(name, i) for i in range(rows)])
        run["sources"].append({"path": str(path), "name": name, "license": "MIT"})

    def kept(budget):
        run["select"]["budget"] = budget
        folder = walk_through(CurateConfig.model_validate(run))
        ledger = pl.read_parquet(folder / "ledger/*.parquet")
        return ledger.filter(verdict="kept"), ledger, announcement(folder)

    rows, ledger, _ = kept(20)
    assert dict(rows.group_by("source").len().iter_rows()) == {"few": 7, "many": 13}
    why = ledger.filter(verdict="dropped").group_by("reason").len()
    reasons = dict(why.iter_rows())
    assert sum(n for r, n in reasons.items() if r.startswith("near_duplicate")) == 1
    rows, _, _ = kept(10)
    assert dict(rows.group_by("source").len().iter_rows()) == {"few": 5, "many": 5}
    rows, _, told = kept(1_000)
    assert rows.height == 47
    assert "kept 47 of the 1,000 rows that its budget names" in told


WORDS = [
    "anvil",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "inlet",
    "jetty",
    "kiosk",
    "larch",
    "maple",
    "nadir",
    "ocean",
    "pearl",
    "quartz",
    "ridge",
    "slate",
    "thorn",
    "umber",
    "vault",
    "wharf",
    "yacht",
    "zenith",
]


def said(name, i):
    """A row like no other, but for the second of few, which is nearly the first."""
    k = 0 if (name, i) == ("few", 1) else i
    words = random.Random(f"{name} {k}").choices(WORDS, k=40)
    last = " indeed" if (name, i) == ("few", 1) else ""
    messages = [
        {"role": "user", "content": f"What of {name} {k}?"},
        {"role": "assistant", "content": " ".join(words) + last},
    ]
    return {"messages": messages, "quality": 0.2 if i % 5 == 4 else 0.9}
