"""Ingest of hard input: many small files, one endless line, one bomb; time and memory.

python benchmarks/ingest.py                  all of them, each in a process of its own
python benchmarks/ingest.py files --files 10000
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records.store import Store

_MIB = 1 << 20


def many_files(folder: Path, files: int) -> str:
    """Files of one row each."""
    for i in range(files):
        row = {"question": f"What is {i} + {i}?", "answer": f"{2 * i}"}
        (folder / f"{i:05d}.jsonl").write_text(json.dumps(row) + "\n")
    return f"{files:,} files of one row each"


def one_line(folder: Path, files: int) -> str:
    """A line of 2 GiB in a gzip of 2 MiB, with a good row before and one after."""
    with gzip.open(folder / "line.jsonl.gz", "wb", compresslevel=6) as file:
        file.write(b'{"question": "q", "answer": "a"}\n{"question": "')
        for _ in range(2_048):
            file.write(b"a" * _MIB)
        file.write(b'"}\n{"question": "q", "answer": "b"}\n')
    return "a line of 2 GiB in a gzip of 2 MiB"


def deep_rows(folder: Path, files: int) -> str:
    """Rows that nest 100,000 deep."""
    row = '{"question": "q", "answer": "a", "deep": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
    good = '{"question": "q", "answer": "a"}\n'
    (folder / "deep.jsonl").write_text((good + row) * 50)
    return "50 rows that nest 100,000 levels deep, 50 good ones between them"


CASES: dict[str, Callable[[Path, int], str]] = {
    "files": many_files,
    "line": one_line,
    "deep": deep_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", choices=[*CASES])
    parser.add_argument("--files", type=int, default=10_000)
    asked = parser.parse_args()
    if asked.case is None:
        print(
            "| input | records, bad rows | shards | processor s | peak MiB |\n|---|---|---|---|---|"
        )
        for case in CASES:
            subprocess.run(
                [sys.executable, __file__, case, "--files", str(asked.files)], check=True
            )
        return
    with tempfile.TemporaryDirectory() as place:
        raw, root = Path(place, "raw"), Path(place, "store")
        raw.mkdir()
        root.mkdir()
        title = CASES[asked.case](raw, asked.files)
        start = time.process_time()
        dataset = ingest(Store(root=root), [Source(path=str(raw))], max_bad_share=0.5)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows = dataset.frame(["id"]).height
        print(
            f"| {title} | {rows:,}, {dataset.quarantine().height:,} | {len(dataset.shards())} "
            f"| {seconds:.1f} | {peak:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
