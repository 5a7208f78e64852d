"""The toxicity filter: cross-validated recall and false alarms; trains the model that ships.

    python benchmarks/toxicity.py [--write pipeline/clean/filters/toxicity.json]

Positives and negatives: surge-ai/toxicity (MIT). Further negatives, so that instruction data looks
harmless: passages of GSM8K (MIT), the self-instruct seeds, SciTLDR (Apache-2.0) and the Rust book
(MIT or Apache-2.0). False alarms are counted on data the model never saw. Needs scikit-learn.
"""

import argparse
import base64
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from gristmill.pipeline.clean.filters import toxicity as filters
from gristmill.pipeline.clean.text import spaced
from gristmill.pipeline.ingest.readers import format_of

NEGATIVES = 6_000
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    folder = Path(os.environ["GRISTMILL_DATA"])
    comments = rows(folder / "quality/toxicity_en.csv")
    texts = pl.Series([r["text"] for r in comments])
    toxic = np.array([r["is_toxic"] == "Toxic" for r in comments])
    gsm = [f"{r['question']} {r['answer']}" for r in rows(folder / "sft/gsm8k_train.jsonl")]
    clean = negatives(folder, gsm[::2])

    score = np.zeros(len(texts))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for learn, held in folds.split(texts, toxic):
        use(train(texts[learn], toxic[learn], clean))
        score[held] = filters.toxicity(texts[held])
    model = train(texts, toxic, clean)
    use(model)
    unseen = {
        "GSM8K": gsm[1::2],
        "dolly": flat(folder / "sft/dolly_hhrlhf_1k.jsonl"),
        "MedQuAD": flat(folder / "sft/medquad.jsonl.gz"),
        "C4": flat(folder / "docs/c4_demo.jsonl"),
    }
    others = {name: filters.toxicity(pl.Series(held)) for name, held in unseen.items()}
    print("| threshold | toxic found | clean comments | " + " | ".join(others) + " |")
    print("|---|---|---|" + "---|" * len(others))
    for t in THRESHOLDS:
        shares = [(score[toxic] >= t).mean(), (score[~toxic] >= t).mean()]
        shares += [(s >= t).mean() for s in others.values()]
        print(f"| {t} | " + " | ".join(f"{s:.1%}" for s in shares) + " |")
    if arguments.write:
        arguments.write.write_text(json.dumps(model, indent=1) + "\n", "utf-8")


def train(texts: pl.Series, toxic: np.ndarray, clean: list[str]) -> dict[str, object]:
    """The weights, rounded to one byte each."""
    passages, label = list(clean), [False] * len(clean)
    for words, flag in zip(spaced(texts), toxic, strict=True):
        parts = [" ".join(words.split())]  # a comment is judged as a whole
        passages += parts
        label += [bool(flag)] * len(parts)
    bucket_P, passage_P = filters.features(passages)
    count_N = np.bincount(passage_P, minlength=len(passages))
    value_P = 1 / np.sqrt(count_N[passage_P])
    shape = (len(passages), 1 << filters.BITS)
    matrix = scipy.sparse.csr_matrix((value_P, (passage_P, bucket_P)), shape=shape)
    fit = LogisticRegression(C=100, max_iter=1_000).fit(matrix, label)
    weight = fit.coef_[0]
    scale = float(np.abs(weight).max() / 127)
    rounded = np.round(weight / scale).astype(np.int8)
    return {
        "made_by": "benchmarks/toxicity.py",
        "bias": float(fit.intercept_[0]),
        "scale": scale,
        "weights": base64.b64encode(rounded.tobytes()).decode("ascii"),
    }


def use(model: dict[str, object]) -> None:
    """Let the filter read this model."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"toxicity-{os.getpid()}.json"
    path.write_text(json.dumps(model), "utf-8")
    filters.MODEL = path
    filters._model.cache_clear()
    filters._model()
    path.unlink()


def negatives(folder: Path, gsm: list[str]) -> list[str]:
    """Passages of clean data, drawn with a fixed seed."""
    texts = gsm[:300]
    for name in ("sft/selfinstruct_seed_tasks.jsonl", "docs/rust_book.jsonl"):
        texts += flat(folder / name)
    texts += [r["abstract"] for r in rows(folder / "docs/scitldr_abstracts.jsonl.gz")]
    passages = [p for words in spaced(pl.Series(texts)) for p in filters.passages_of(words)]
    order = np.random.default_rng(0).permutation(len(passages))
    return [passages[i] for i in order[:NEGATIVES]]


def flat(path: Path) -> list[str]:
    """The strings of each row, joined."""
    return [" ".join(v for v in row.values() if isinstance(v, str)) for row in rows(path)]


def rows(path: Path) -> list[dict[str, str]]:
    read = format_of(path)
    assert read is not None
    return [read.parse(raw) for _, raw in read.items(path)]


if __name__ == "__main__":
    main()
