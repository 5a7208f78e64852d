"""Near duplicates among 200,000 texts, beside other MinHash code with equal bands and rows.

    python benchmarks/near_duplicates.py --datatrove PYTHON --rensa PYTHON --data_juicer PYTHON

PYTHON is the interpreter of another environment that holds `datatrove[processing]` and `spacy`,
`rensa`, or `py-data-juicer` and `aiohttp` (they need not be installed beside Gristmill). Without
them only our side runs. All read the same JSON lines and end with the list of rows to remove; only
ours confirms its candidates by exact Jaccard: rensa holds them against the threshold by their
sketches, datatrove and Data-Juicer take every one, and with it all that hangs together. The
texts are resampled sentences of the documents under `GRISTMILL_DATA`, as long as its instruction
rows; a third of them get a twin with a few words replaced.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

DOCUMENTS = ("docs/c4_demo.jsonl", "docs/openstax_sociology.jsonl", "docs/rust_book.jsonl")
PLAIN = ("docs/wiki_articles.txt", "docs/sherlock_holmes.txt")
LENGTHS = ("sft/gsm8k_train.jsonl", "sft/dolly_hhrlhf_1k.jsonl")
BANDS, ROWS, NGRAM, THRESHOLD = 14, 8, 5, 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--datatrove", help="python with datatrove[processing] and spacy")
    parser.add_argument("--rensa", help="python with rensa")
    parser.add_argument("--data_juicer", help="python with py-data-juicer")
    parser.add_argument("--as", nargs=2, dest="peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        name, folder = arguments.peer
        removed, seconds = PEERS[name](Path(folder))
        result = {"removed": removed, "seconds": seconds}
        (Path(folder) / "peer.json").write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool.jsonl"
        twins = write_pool(pool, arguments.texts)
        removed, seconds = ours(pool)
        report("gristmill", removed, twins, seconds, arguments.texts)
        print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
        for name in PEERS:
            python = getattr(arguments, name)
            if python:
                command = [python, __file__, "--as", name, folder]
                quiet = subprocess.DEVNULL
                subprocess.run(command, check=True, stdout=quiet, stderr=quiet)
                result = json.loads((Path(folder) / "peer.json").read_text())
                removed, theirs = set(result["removed"]), result["seconds"]
                report(name, removed, twins, theirs, arguments.texts)
                ratios = [b / a for a, b in zip(seconds, theirs, strict=True)]
                print(
                    f"gristmill is {ratios[0]:.2f} times as fast "
                    f"({ratios[1]:.2f} in processor time)",
                    flush=True,
                )


def clocks() -> tuple[float, float]:
    """Seconds by the clock, and of processor time, children included."""
    own, children = (
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    used = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return time.perf_counter(), used


def since(start: tuple[float, float]) -> tuple[float, float]:
    wall, used = clocks()
    return wall - start[0], used - start[1]


def ours(pool: Path) -> tuple[set[int], tuple[float, float]]:
    import polars as pl

    from gristmill.pipeline.clean.near_duplicates import MinHash, near_duplicates

    settings = MinHash(bands=BANDS, rows=ROWS, ngram=NGRAM, threshold=THRESHOLD)
    start = clocks()
    rows = pl.read_ndjson(pool).with_columns(source=pl.lit("pool"))
    sketched = [settings.sketch(part) for part in rows.iter_slices(20_000)]
    drops = near_duplicates(sketched, settings=settings)
    return set(drops["row"]), since(start)


def rensa(folder: Path) -> tuple[list[int], tuple[float, float]]:
    """The same with rensa: sketches of the whole set of n-grams, bands, sketches compared."""
    from rensa import RMinHashDeduplicator

    start = clocks()
    kept = RMinHashDeduplicator(
        threshold=THRESHOLD, num_perm=BANDS * ROWS, use_lsh=True, num_bands=BANDS
    )
    new: list[bool] = []
    with (folder / "pool.jsonl").open(encoding="utf-8") as file:
        rows = (json.loads(line) for line in file)
        while some := list(islice(rows, 20_000)):
            new += kept.add_pairs([(row["id"], shingles(row["text"])) for row in some])
    removed = [i for i, is_new in enumerate(new) if not is_new]
    return removed, since(start)


def shingles(text: str) -> list[str]:
    """Runs of words; of a text that is shorter, all of it."""
    words = text.split(" ")
    return [" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))]


def datatrove(folder: Path) -> tuple[list[int], tuple[float, float]]:
    """The same with datatrove: signatures, buckets, clusters."""
    import struct

    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader

    lines = (folder / "pool.jsonl").read_text("utf-8").splitlines(keepends=True)
    half = (len(lines) + 1) // 2
    for part in (0, 1):  # a file a worker, the order kept
        (folder / "halves").mkdir(exist_ok=True)
        text = "".join(lines[part * half : (part + 1) * half])
        (folder / "halves" / f"{part}.jsonl").write_text(text, "utf-8")
    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    stages = [
        (
            [
                JsonlReader(str(folder / "halves")),
                MinhashDedupSignature(str(folder / "signatures"), config, language="eng"),
            ],
            2,
        ),
        (
            [
                MinhashDedupBuckets(
                    str(folder / "signatures"), str(folder / "buckets"), config=config
                )
            ],
            BANDS,
        ),
        ([MinhashDedupCluster(str(folder / "buckets"), str(folder / "removed"), config=config)], 1),
    ]
    start = clocks()
    for steps, tasks in stages:
        LocalPipelineExecutor(
            pipeline=steps,
            tasks=tasks,
            workers=min(2, tasks),
            start_method="spawn",  # children are waited for, so their time counts
            logging_dir=str(folder / f"log{tasks}"),
        ).run()
    seconds = since(start)
    removed = []
    for path in (folder / "removed").glob("*.remove"):
        raw = path.read_bytes()
        rows = struct.unpack(f"<{len(raw) // 4}I", raw)
        removed += [row + half * int(path.stem) for row in rows]
    return removed, seconds


def data_juicer(folder: Path) -> tuple[list[int], tuple[float, float]]:
    """The same with Data-Juicer's MinHash in one process: signatures, bands, clusters."""
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops.deduplicator.document_minhash_deduplicator import (
        DocumentMinhashDeduplicator,
    )
    from datasets import load_dataset

    start = clocks()
    minhash = DocumentMinhashDeduplicator(
        window_size=NGRAM,
        num_permutations=BANDS * ROWS,
        jaccard_threshold=THRESHOLD,
        num_bands=BANDS,
        num_rows_per_band=ROWS,
    )
    pool = load_dataset(
        "json",
        data_files=str(folder / "pool.jsonl"),
        split="train",
        cache_dir=str(folder / "datasets"),
    )
    left, _ = minhash.process(NestedDataset(pool).map(minhash.compute_hash))
    removed = set(range(len(pool))) - set(left["row"])
    return sorted(removed), since(start)


PEERS = {"datatrove": datatrove, "rensa": rensa, "data_juicer": data_juicer}


def report(
    who: str,
    removed: set[int],
    twins: list[tuple[int, int, float]],
    seconds: tuple[float, float],
    texts: int,
) -> None:
    """Recall by Jaccard index of the planted pairs, rows removed, speed."""
    wall, used = seconds
    print(
        f"{who}: {wall:.1f} s ({used:.1f} s of processor time), {texts / wall:,.0f} texts/s, "
        f"{len(removed):,} rows removed"
    )
    for low, high in ((0.9, 1.01), (0.8, 0.9), (0.7, 0.8), (0.0, 0.7)):
        due = [t for t in twins if low <= t[2] < high]
        found = sum(a in removed or b in removed for a, b, _ in due)
        share = found / max(1, len(due))
        theory = sum(1 - (1 - j**ROWS) ** BANDS for _, _, j in due) / max(1, len(due))
        print(
            f"  J in [{low}, {min(high, 1.0)}]: {found:,} of {len(due):,} pairs ({share:.2%}; "
            f"banding finds {theory:.2%})"
        )


def write_pool(path: Path, texts: int) -> list[tuple[int, int, float]]:
    """Write the pool; return its planted pairs as (row, row, Jaccard index)."""
    draw = random.Random(0)
    sentences, lengths = material()
    twins, row = [], 0
    with path.open("w", encoding="utf-8") as file:
        while row < texts:
            text: list[str] = []
            target = draw.choice(lengths)
            while len(text) < target:
                text += draw.choice(sentences)
            versions = [text]
            if draw.random() < 0.5 and row + 1 < texts:
                versions.append(edited(draw, text))
                twins.append((row, row + 1, jaccard(text, versions[1])))
            for version in versions:
                line = {"id": f"{row:08d}", "row": row, "text": " ".join(version)}
                file.write(json.dumps(line) + "\n")
                row += 1
    return twins


def edited(draw: random.Random, text: list[str]) -> list[str]:
    """The text with up to a tenth of its words replaced."""
    out = list(text)
    for at in draw.sample(range(len(text)), draw.randint(0, max(1, len(text) // 12))):
        out[at] = f"edit{draw.randrange(10**6)}"
    return out


def jaccard(a: list[str], b: list[str]) -> float:
    x, y = ({tuple(t[i : i + NGRAM]) for i in range(len(t) - NGRAM + 1)} for t in (a, b))
    return len(x & y) / max(1, len(x | y))


def material() -> tuple[list[list[str]], list[int]]:
    """Sentences as words, and the lengths of instruction rows in words."""
    folder = Path(os.environ["GRISTMILL_DATA"])
    whole = [(folder / name).read_text("utf-8") for name in PLAIN]
    for name in DOCUMENTS:
        for line in (folder / name).read_text("utf-8").splitlines():
            whole += [v for v in json.loads(line).values() if isinstance(v, str)]
    sentences = [
        re.findall(r"[a-z0-9]+", s.lower()) for t in whole for s in re.split(r"[.!?]\s", t)
    ]
    lengths = []
    for name in LENGTHS:
        lines = (folder / name).read_text("utf-8").splitlines()
        lengths += [len(re.findall(r"\w+", line)) for line in lines]
    return [s for s in sentences if 5 <= len(s) <= 60], [n for n in lengths if n >= 10]


if __name__ == "__main__":
    sys.exit(main())
