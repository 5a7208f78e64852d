"""Explore: how long a person waits, and what the server of the page takes, at 100,000 rows.

    python benchmarks/explore.py [--rows 100000]

A pool in a store, its ledger with four scores, and an embedding for each row are written; then
`gristmill explore` is started on it, and Chromium does what a person does. Each figure is the
median of five: from the click (or the address) to the rows on the screen. Where there is no
Chromium, the same questions are asked without a browser.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import psutil

from gristmill.pipeline.records.schema import LEDGER, MESSAGE, RECORDS, digest
from gristmill.pipeline.records.store import Step, Store, table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
SHARD, D = 4_096, 64
TIMES = 5
PAUSE = 1.0  # seconds between two actions: counts and map of the one before are then drawn
SOURCES = ("maths", "medicine", "general", "code")


def pool(store: Store, rows: int) -> tuple[pl.DataFrame, str]:
    """Records of about a kilobyte in the store; their keys, and the hash of their content."""
    draw = np.random.default_rng(0)
    words = np.array([f"w{i:04x}" for i in range(5_000)])
    at_NK = draw.integers(0, len(words), size=(rows, 140))

    def shard(begin: int) -> pl.DataFrame:
        made = []
        for i in range(begin, min(begin + SHARD, rows)):
            said = " ".join(words[at_NK[i]])
            messages = [
                {"role": "user", "content": f"Question {i}: {said[:200]}?", "extra": None},
                {"role": "assistant", "content": said, "extra": None},
            ]
            made.append({**dict.fromkeys(RECORDS["example"]), "id": digest(i), "row": i,
                         "source": SOURCES[i % 4], "messages": messages})  # fmt: skip
        return pl.DataFrame(made, schema={**RECORDS["example"], "messages": pl.List(MESSAGE)})

    begins = range(0, rows, SHARD)
    parts = [table(f"records-{b // SHARD:05d}", lambda b=b: shard(b)) for b in begins]
    step = Step(name="ingest", version=1, inputs={"benchmark": str(rows)})
    entry = store.run(step, parts, note=lambda _: {"kind": "example", "sources": []})
    keys = pl.concat([pl.read_parquet(p, columns=["id", "source", "row"]) for p in entry.shards])
    return keys, entry.content


def run(store: Store, rows: int) -> Path:
    """The folder of a finished selection over such a pool."""
    keys, content = pool(store, rows)
    draw = np.random.default_rng(1)
    scores = {f"score_{n}": draw.normal(size=rows) for n in ("a", "b", "c")}
    book = keys.with_columns(score=draw.gamma(2.0, size=rows), tokens=draw.integers(20, 900, rows),
                             **{n: pl.Series(v) for n, v in scores.items()})  # fmt: skip
    book = book.with_columns(rank=pl.col("score").rank("ordinal", descending=True))
    kept = pl.col("rank") <= rows // 10
    reasons = pl.Series(["below_budget", "near_duplicate", "filter: length"] * (rows // 3 + 1))
    book = book.with_columns(
        kind=pl.lit("example"),
        verdict=pl.when(kept).then(pl.lit("kept")).otherwise(pl.lit("dropped")),
        reason=pl.when(~kept).then(reasons.head(rows)),
        stage=pl.lit("select"),
    )
    book = book.with_columns(pl.lit(None).alias(c) for c in LEDGER if c not in book.columns)
    book = book.with_columns(pl.col(c).cast(t) for c, t in LEDGER.items())
    centre_N = draw.integers(0, 8, rows)
    vector_ND = draw.normal(size=(rows, D)) + 4 * draw.normal(size=(8, D))[centre_N]
    frame = keys.select("id").with_columns(
        pl.Series("embedding.text", vector_ND.astype(np.float32), dtype=pl.Array(pl.Float32, D))
    )
    observe = Step(name="observe", version=3, shelf=digest("benchmark"),
                   settings={"column": "embedding.text"}, inputs={"model": "toy"})  # fmt: skip
    store.put(observe, frame)
    step = Step(name="select", version=1, inputs={"pool": content})
    return store.run(step, [table("ledger", lambda: book)]).path


def in_browser(address: str) -> dict[str, float]:
    """What a person waits for, in seconds."""
    from browser import chromium

    found: dict[str, list[float]] = {}
    shown = "[...document.querySelectorAll('.line .text')].filter((e) => e.innerText.length > 20)"
    count = "document.querySelector('#counted').innerText"
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder)) as browser:
        for number in range(TIMES):
            with browser.page("about:blank?") as page:
                begin = time.perf_counter()
                page.call("Page.navigate", url=address)
                page.wait(f"{shown}.length > 5")
                found.setdefault("first view", []).append(time.perf_counter() - begin)
                page.wait("document.documentElement.dataset.ready === 'yes'", 120)
                page.wait("document.querySelector('#index').hidden", 300)
                for name, act in {
                    "filter by verdict": "document.querySelector('[data-value=dropped]').click()",
                    "filter by source": "document.querySelector('[data-value=code]').click()",
                    "sort by a score": "(() => { const s = document.querySelector('#sort');"
                    "s.value = 'score_b'; s.dispatchEvent(new Event('change')); })()",
                    "brush a score": "(() => { const f = document.querySelector("
                    "'fieldset[data-number=score] input'); f.value = 3;"
                    "f.dispatchEvent(new Event('change')); })()",
                    "scroll to the end": "document.querySelector('#table').scrollTop = 1e9",
                }.items():
                    time.sleep(PAUSE)
                    page.js("window.before = document.querySelector('#rows').innerHTML")
                    begin = time.perf_counter()
                    page.js(act)
                    page.wait(
                        "!document.querySelector('.waits') && document.querySelector('#rows')"
                        f".innerHTML !== window.before && {shown}.length > 5"
                    )
                    found.setdefault(name, []).append(time.perf_counter() - begin)
                page.js("document.querySelector('#clear').click()")
                page.wait(f"!{count}.includes(' of ')")
                time.sleep(PAUSE)
                begin = time.perf_counter()
                page.write("#words", f"question {97 * (number + 3)}")
                page.wait(f"{count}.includes(' of ') && !document.querySelector('.waits')")
                found.setdefault("search the text", []).append(time.perf_counter() - begin)
                time.sleep(PAUSE)
                begin = time.perf_counter()
                page.js("document.querySelector('.line').click()")
                page.wait("document.querySelectorAll('#nearest .brief').length > 0", 120)
                found.setdefault("open a row, with its neighbours", []).append(
                    time.perf_counter() - begin
                )
                page.call("Performance.enable")
                metrics = page.call("Performance.getMetrics")["metrics"]
                heap = next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize")
        print(f"{'heap of the page in the browser':<34} {heap / 1e6:6.1f} MB")
    return {name: statistics.median(times) for name, times in found.items()}


def by_questions(address: str) -> dict[str, float]:
    """The same without a browser."""
    found: dict[str, list[float]] = {}
    with httpx.Client(follow_redirects=True, timeout=120) as client:
        client.get(address)
        base = address.split("/?")[0]
        client.get(f"{base}/api/map")
        for number in range(TIMES):
            for name, paths in {
                "first view": ["/", "/assets/explore.js", "/api/about", "/api/rows", "/api/counts"],
                "filter by verdict": [f"/api/rows?verdict=kept&in.score=0,{9 + number}",
                                      f"/api/counts?verdict=kept&in.score=0,{9 + number}"],
                "search the text": [f"/api/rows?q=question+{97 * (number + 3)}"],
            }.items():  # fmt: skip
                begin = time.perf_counter()
                for path in paths:
                    client.get(base + path).raise_for_status()
                found.setdefault(name, []).append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        store = Store(root=Path(folder) / "store")
        store.root.mkdir()
        made = run(store, rows)
        size = sum(p.stat().st_size for p in store.root.rglob("*.parquet"))
        print(f"{rows:,} rows, {size / 1e6:,.0f} MB of Parquet")
        begin = time.perf_counter()
        command = [Path(sys.executable).with_name("gristmill"), "explore", made]
        server = subprocess.Popen(
            [*map(str, command), "--store", str(store.root)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            address = server.stdout.readline().removeprefix("open ").strip()
            process = psutil.Process(server.pid)
            spent = process.cpu_times()
            print(f"server ready: {time.perf_counter() - begin:.1f} s, "
                  f"{spent.user + spent.system:.1f} s of processor time")  # fmt: skip
            from browser import NAMES

            asked = in_browser if any(map(shutil.which, NAMES)) else by_questions
            before = process.cpu_times()
            for name, seconds in asked(address).items():
                print(f"{name:<34} {seconds:6.2f} s")
            after = process.cpu_times()
            print(f"processor time of the server for all of it: "
                  f"{after.user - before.user + after.system - before.system:.1f} s")  # fmt: skip
            print(f"memory of the server: {process.memory_info().rss / 1e6:,.0f} MB")
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
