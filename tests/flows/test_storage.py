"""The commands on what lies on the disk."""

import json
import os
import time

import polars as pl

from gristmill.pipeline.export.retention import DAY, holdings
from gristmill.pipeline.records.store import Step, Store


def test_the_commands_list_and_remove(gristmill, tmp_path):
    folder = tmp_path / "curated" / "toy" / "v1-0123abcd"
    folder.mkdir(parents=True)
    told = {"inputs": {}, "rows": {"default/train": 3, "ledger/pool": 9}, "kind": "example"}
    (folder / "manifest.json").write_text(json.dumps(told))
    store = Store(root=tmp_path / "store")
    entry = store.put(Step(name="score", version=1), pl.DataFrame({"a": [1]}))
    os.utime(entry.path / ".stamps.json", (time.time() - 90 * DAY,) * 2)
    words = ("gc", "--store", str(store.root), "--keep", "curated")
    code, out, err = gristmill(*words)
    assert code == 0, err
    assert "would be removed with --yes" in out
    assert len(holdings(store)) == 1
    code, out, err = gristmill(*words, "--yes")
    assert code == 0, err
    assert out.rstrip().endswith("removed")
    assert holdings(store) == []
    code, out, err = gristmill("ls", "curated", "--json")
    assert code == 0, err
    (line,) = json.loads(out)
    assert (line["dataset"], line["rows"], line["latest"]) == ("toy", 3, None)
    code, _, err = gristmill("gc", "--store", "nowhere")
    assert (code, err) == (2, "gristmill: there is no store nowhere: name its folder (--store).\n")
