"""Is training here as fast as plain TRL?

    python benchmarks/finetune.py [--rows 512] [--repeats 5]

Both train the tiny model on the same token rows in the same process, in turns, with equal settings;
the median of the ratios is printed. "loop" is `Trainer.train()` alone: every step logged by both,
no checkpoint. "run" is all of it from records to a finished folder, against TRL from records with
its own tokenisation, logging and one checkpoint at the end.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import polars as pl
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft, job, train_sft
from gristmill.pipeline.finetune.trainer import arguments, assemble
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.records.schema import content_id
from gristmill.pipeline.records.store import Store

TRAINING = Training(epochs=1, batch_size=16, micro_batch=16, checkpoints="last", warmup=0.0)


def records(n):
    rows = []
    for i in range(n):
        messages = [
            {"role": "user", "content": f"Question {i}: what is {i} and {i * 7}?", "extra": None},
            {"role": "assistant", "content": f"It is {i * 8}. " * (1 + i % 12), "extra": None},
        ]
        rows.append({"id": content_id("example", {"messages": messages}), "messages": messages})
    return pl.DataFrame(rows)


def seconds(work):
    """Processor and wall seconds of a call. The first are hardly moved by a busy machine."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def compare(name, ours, plain, repeats):
    """Run both in turns, after a round that does not count; print medians over the rounds."""
    ours(), plain()
    rounds = [(seconds(ours), seconds(plain)) for _ in range(repeats)]
    for k, clock in enumerate(("processor", "wall")):
        a, b = ([pair[side][k] for pair in rounds] for side in (0, 1))
        ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
        print(
            f"{name}, {clock} time: ours {statistics.median(a):.2f} s, "
            f"plain TRL {statistics.median(b):.2f} s, ratio {ratio:.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="gristmill-finetune-"))
    tiny = make_tiny(folder / "tiny")
    store = Store(root=folder / "store")
    store.root.mkdir()
    frame = records(options.rows)
    files = resolve(str(tiny), store)
    settings = Sft(training=TRAINING)
    chat = load_tokenizer(files, limit=TRAINING.max_length)
    rows = data.token_rows(frame, "sequence", chat)
    made = job(rows, files, settings, "cpu")
    order = [made.rows[i] for i in range(len(made.rows))]
    tokens = Dataset.from_list([{k: r[k] for k in data.SEQUENCE} for r in order])
    chats = Dataset.from_list(frame.select("messages").to_dicts())
    print(
        f"{options.rows} rows, {sum(map(len, tokens['input_ids'])):,} tokens, "
        f"{torch.get_num_threads()} threads"
    )
    count = iter(range(10**6))

    def plain_trainer(dataset, **changes):
        args = arguments(TRAINING, options.rows, folder / f"plain-{next(count)}", "cpu", 16)
        model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**{**args, **changes}),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def loop_ours():
        assemble(made, TRAINING, folder / f"ours-{next(count)}", "cpu", 16).train()

    def loop_plain():
        skip = {"dataset_kwargs": {"skip_prepare_dataset": True}}
        plain_trainer(tokens, **skip).train()

    def run_ours():
        fresh = Store(root=folder / f"store-{next(count)}")
        fresh.root.mkdir()
        train_sft(frame, str(tiny), settings, fresh, run=Run(device="cpu"))

    def run_plain():
        plain_trainer(chats, logging_steps=10, save_strategy="epoch").train()

    compare("loop", loop_ours, loop_plain, options.repeats)
    compare("run", run_ours, run_plain, options.repeats)


if __name__ == "__main__":
    main()
