"""Filters on real data: the share of rows each drops, and its speed.

    python benchmarks/filters.py         what they drop
    python benchmarks/filters.py hard    their time on texts made to be slow, with no data needed

Where labels exist they make two columns (should go, should stay); the rest is clean data, where
every drop is a false alarm, or raw data, where it is a matter of opinion.
"""

import os
import sys
import time
from pathlib import Path

import polars as pl

from gristmill.pipeline.clean.filters import Filter
from gristmill.pipeline.clean.filters.language import Language
from gristmill.pipeline.clean.filters.pii import Pii
from gristmill.pipeline.clean.filters.prose import Prose
from gristmill.pipeline.clean.filters.refusal import Refusal
from gristmill.pipeline.clean.filters.repetition import Repetition
from gristmill.pipeline.clean.filters.secrets import Secrets
from gristmill.pipeline.clean.filters.template_leak import TemplateLeak
from gristmill.pipeline.clean.filters.toxicity import Toxicity
from gristmill.pipeline.ingest.readers import format_of

RULES: tuple[Filter, ...] = (
    Repetition(),
    Prose(),
    TemplateLeak(),
    Refusal(),
    Language(),
    Pii(),
    Secrets(),
    Toxicity(),
)


# Each makes a pattern that is not written with care try every beginning, or every division.
HARD = (
    *("a", "a.", "1 ", "@", "a@a.", "://a:b", "//", "eyJ", "eyJa.", "sk-", "AB12CD34_", "[INSERT"),
    *("+1 650 253 000 ", "+1 1 1 1 1 1 1 1 ", "1.1.1.1.", "0:", "Human: \n", "\n", "\u6c49"),
)


def hard(size: int = 300_000) -> None:
    """Processor seconds of a row of `size` characters, and how they grow from a quarter of it."""
    rules = (*RULES, Pii(region="US"))
    for rule in rules:
        rule.reasons(pl.DataFrame({"text": ["what is loaded once"]}))
    print("| text, again and again | all filters, s | the slowest, s | against a quarter |")
    print("|---|---|---|---|")
    for seed in HARD:
        text = (seed * (size // len(seed) + 1))[:size]
        spent = [[_seconds(r, t) for r in rules] for t in (text[: size // 4], text)]
        most, slowest = max(zip(spent[1], range(len(rules)), strict=True))
        growth = most / spent[0][slowest]
        print(
            f"| `{seed!r}` | {sum(spent[1]):.2f} | {type(rules[slowest]).__name__} {most:.2f} "
            f"| {growth:.1f}x |"
        )


def _seconds(rule: Filter, text: str) -> float:
    start = time.process_time()
    rule.reasons(pl.DataFrame({"text": [text]}))
    return time.process_time() - start


def main() -> None:
    folder = Path(os.environ["GRISTMILL_DATA"])
    ladder = rows(folder / "quality/selfinstruct_model_ladder.jsonl")
    parallel = rows(folder / "quality/xquad_parallel_12lang.jsonl")
    rare = rows(folder / "quality/bigbench_language_id.jsonl")
    private = rows(folder / "quality/enterprise_pii.jsonl")
    pools = {
        "GSM8K answers (clean)": [r["answer"] for r in rows(folder / "sft/gsm8k_train.jsonl")],
        "MedQuAD answers (clean)": [r["answer"] for r in rows(folder / "sft/medquad.jsonl.gz")],
        "C4 pages (raw)": [r["text"] for r in rows(folder / "docs/c4_demo.jsonl")],
        "base model's answers": [r["responses"]["davinci"] for r in ladder],
        "tuned model's answers": [r["responses"]["text-davinci-003"] for r in ladder],
        "English (XQuAD)": [r["text"] for r in parallel if r["lang"] == "en"],
        "11 other languages": [r["text"] for r in parallel if r["lang"] != "en"],
        "1,000 rare languages": [r["text"] for r in rare if r["language"] != "English"],
        "business, sensitive": [r["text"] for r in private if r["sensitive"]],
        "business, harmless": [r["text"] for r in private if not r["sensitive"]],
    }
    frames = {name: pl.DataFrame({"text": texts}) for name, texts in pools.items()}
    print("| filter | " + " | ".join(frames) + " | MB/s |")
    print("|---|" + "---|" * (len(frames) + 1))
    for rule in RULES:
        start = time.process_time()
        shares = [rule.reasons(frame).is_not_null().mean() for frame in frames.values()]
        seconds = time.process_time() - start
        size = sum(f["text"].str.len_bytes().sum() for f in frames.values()) / 1e6
        cells = " | ".join(f"{share:.1%}" for share in shares)
        print(f"| {type(rule).__name__} | {cells} | {size / seconds:.1f} |")


def rows(path: Path) -> list[dict[str, str]]:
    read = format_of(path)
    assert read is not None
    return [read.parse(raw) for _, raw in read.items(path)]


if __name__ == "__main__":
    hard() if sys.argv[1:] == ["hard"] else main()
