"""The leaderboard: which selectors choose rows that train a better model than random rows do?

    python benchmarks/leaderboard.py                     # all parts, resumable; then the tables
    python benchmarks/leaderboard.py --part small        # small | pairs | canary | large
    python benchmarks/leaderboard.py --tables            # the tables of what is there, nothing else
    python benchmarks/leaderboard.py --check 2           # two cells from scratch, as committed?

| part | what is trained |
|---|---|
| small | the 1.25 M-parameter base on 480 rows of five sources with planted faults; two targets |
| pairs | the same base by DPO on 373 preference pairs, some of them swapped |
| canary | the base on 40 random draws, each judged once as if it were a method |
| large | SmolLM2-135M with an adapter, on rows that the small model's best and worst chose |

Everything is kept in `--store`, so a run that was stopped goes on, and only what is missing is
trained. Tables: `leaderboard.md`, `leaderboard.parquet` (a row per arm and control) and
`leaderboard_cells.parquet` (a row per model and evaluation, with the hash of its weights).
"""

import argparse
import gc
import logging
import os
import time
import warnings
from pathlib import Path

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # threads: sums in another order round differently
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
from leaderboard_parts import canary, check, large, parts, tables  # noqa: E402

from gristmill.pipeline import Store  # noqa: E402

ROOT = Path(__file__).parents[1]
PARTS = {
    "small": parts.small,
    "pairs": parts.pairs,
    "canary": canary.canary,
    "large": large.large,
}


def made(part, only, say):
    """Train and measure what is missing of a part, in the order of its queue."""
    for done, (label, work) in enumerate(part.queue(), 1):
        if only not in label:
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            told = work()
        except ValueError as error:  # a method that cannot run here stands in the table as such
            told = f"not possible: {error}"
        spent = f"{time.process_time() - cpu:.0f} s processor, {time.perf_counter() - wall:.0f} s"
        say(f"{time.strftime('%H:%M:%S')} {part.name} {done}: {label}: {told} ({spent})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--part", choices=tuple(PARTS), help="this part alone")
    parser.add_argument("--only", default="", metavar="TEXT", help="only what is called so: 10%%")
    parser.add_argument("--tables", action="store_true", help="write the tables, train nothing")
    parser.add_argument("--check", type=int, metavar="N", help="make N cells again in a new store")
    parser.add_argument("--store", type=Path, default=ROOT / "data" / "work")
    options = parser.parse_args()
    os.chdir(ROOT)  # models are named from there
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if options.check:
        raise SystemExit(check.run(options.check))
    options.store.mkdir(parents=True, exist_ok=True)
    store = Store(root=options.store)
    names = [options.part] if options.part else list(PARTS)
    gc.collect()
    gc.freeze()  # what was imported is not looked through after every model
    if not options.tables:
        for name in names:
            made(PARTS[name](store), options.only, lambda text: print(text, flush=True))
    tables.write(store)


if __name__ == "__main__":
    main()
