"""Train a 2-5 M-parameter model on real text, for benchmarks that SmolLM2 is too slow for.

    python benchmarks/tiny_model.py [--epochs 2] [--rows 2000]

Bytes as tokens, 6 layers of 192; grade-school maths and medical questions from GRISTMILL_DATA
(default ../shared/data), or the demo's pool if that folder is not there. Prints the folder, a
model reference, and its held-out loss before and after. The store finds it again at the next call.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from gristmill.pipeline import Models, Source, Step, Store, ingest, observe
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.records.store import Part
from gristmill.pipeline.signals.forward_signals import MeanLoss

ROOT = Path(__file__).parents[1]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--rows", type=int, default=2_000)
    asked = options.parse_args()
    store = Store(root=Path(os.environ.get("GRISTMILL_STORE", ROOT / "data" / "work")))
    store.root.mkdir(parents=True, exist_ok=True)
    shared = Path(os.environ.get("GRISTMILL_DATA", ROOT.parent / "shared" / "data")) / "sft"
    files = [shared / "gsm8k_train.jsonl", shared / "medquad.jsonl.gz"]
    if not all(f.exists() for f in files):
        files = [ROOT / "data" / "demo" / "pool"]
    pool = ingest(store, [Source(path=str(f)) for f in files])
    held = ingest(store, [Source(path=str(ROOT / "data" / "demo" / "target.jsonl"))])
    step = Step(name="tiny-untrained", version=1, settings={"hidden": 192, "layers": 6})

    def build(path: Path) -> None:
        make_tiny(path, hidden=192, layers=6, context=1_024)

    base = str(store.run(step, [Part(name="model", write=build)]).path / "model")
    rows = pool.frame().unique("id").sort("id").head(asked.rows)
    settings = Sft(
        training=Training(
            epochs=asked.epochs,
            batch_size=16,
            micro_batch=16,
            learning_rate=1e-3,
            max_length=512,
            checkpoints="last",
            optimizer_state=False,
        )
    )
    trained = train_sft(rows, base, settings, store, run=Run(log=print))
    (*_, last) = trained.checkpoints
    reference = str(last.path)
    signal = MeanLoss()
    losses = {}
    for name, model in (("before", base), ("after", reference)):
        models = Models(store=store, roles={"target": (model,)})
        frame = observe(RunContext(models=models), held, [signal]).frame()
        losses[name] = round(float(frame[signal.column].mean()), 3)
    parameters = sum(p.stat().st_size for p in resolve(reference, store).path.glob("*.safetensors"))
    result = {"model": reference, "parameters": parameters // 4, "rows": rows.height}
    print(json.dumps({**result, "held_out_loss_nats_per_byte": losses}, indent=1))


if __name__ == "__main__":
    main()
