"""Make what the fidelity benchmark starts from: its rows and its base model, a few megabytes.

    GRISTMILL_DATA=... python benchmarks/lds_parts/base.py        # about 5 minutes of one core

Both are committed under `data/lds`, so that `lds.py` runs from a clone; this script makes them
again, and a truth of the old ones is refused from then on. The base is a 1.25 M-parameter Llama
trained on encyclopedia, textbook, novel and web text and on general instructions, kept in float16:
what is in the file is the base, to the bit. The rows are short questions with answers from
three sources: 200 to train on, 30 held out.
"""

import argparse
import gzip
import json
import math
import os
import re
import time
from pathlib import Path

import numpy as np
import torch

from gristmill.pipeline.models.tiny import SPECIAL, TEMPLATE

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parents[1] / "data"))
HOME = Path(__file__).parents[1] / "data" / "lds"
VOCABULARY, CONTEXT = 2_048, 2_048
HIDDEN, LAYERS, HEADS, KEYS = 160, 4, 4, 2
WINDOW, BATCH, STEPS, PEAK = 128, 8, 1_100, 3e-3
SOURCES = {"maths": (64, 10), "medical": (72, 10), "general": (64, 10)}  # rows, held-out rows
LONGEST, LONGEST_ANSWER = 128, 80  # tokens


def lines(name):
    path = DATA / name
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open() as file:
        yield from map(json.loads, file)


def documents():
    """The general text, one string a document; none of it is in the rows."""
    for name in ("c4_demo.jsonl", "openstax_sociology.jsonl", "rust_book.jsonl"):
        yield from (row["text"] for row in lines(f"docs/{name}"))
    for name in ("openstax_biology.jsonl.gz", "peps.jsonl.gz"):
        yield from (row["text"] for row in lines(f"docs/{name}"))
    for name in ("wiki_articles.txt", "sherlock_holmes.txt"):
        yield from re.split(r"\n{3,}", (DATA / "docs" / name).read_text("utf-8"))
    for row in lines("sft/dolly_hhrlhf_1k.jsonl"):
        question = row["prompt"].partition("### Instruction:\n")[2].partition("\n\n### Resp")[0]
        yield chat(question, row["response"])


def chat(question, answer):
    turn = "<|im_start|>{}\n{}<|im_end|>\n"
    return turn.format("user", question) + turn.format("assistant", answer)


def make_tokenizer(texts):
    """Byte pairs learned from the general text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def make_rows(tokenizer):
    """Short rows of each source, every k-th of those that fit; the last ones are held out."""

    def instances():
        for row in lines("sft/selfinstruct_seed_tasks.jsonl"):
            for instance in row["instances"]:
                question = f"{row['instruction']}\n{instance['input']}".strip()
                yield question, instance["output"]

    found = {
        "maths": ((r["question"], r["answer"]) for r in lines("sft/gsm8k_train.jsonl")),
        "medical": ((r["question"], r["answer"]) for r in lines("sft/medquad.jsonl.gz")),
        "general": instances(),
    }
    written = []
    for source, pairs in found.items():
        fitting, seen = [], set()
        for question, answer in pairs:
            if question in seen or len(question) + len(answer) > 5 * LONGEST:
                continue
            whole, said = (len(tokenizer(t)["input_ids"]) for t in (chat(question, answer), answer))
            if whole <= LONGEST and said <= LONGEST_ANSWER:
                seen.add(question)
                fitting.append((question, answer))
        pool, held = SOURCES[source]
        print(f"{source}: {len(fitting)} rows fit", flush=True)
        if len(fitting) < pool + held:
            raise ValueError(f"{source}: {len(fitting)} rows fit, {pool + held} are needed.")
        taken = [fitting[i * len(fitting) // (pool + held)] for i in range(pool + held)]
        order = np.random.default_rng(0).permutation(len(taken))
        for n, i in enumerate(order):
            question, answer = taken[i]
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            part = "pool" if n < pool else "target"
            written.append({"messages": messages, "origin": source, "part": part})
    return written


def train(model, stream, say):
    """Plain AdamW over windows of the text; one thread, so that the order of sums is fixed."""
    starts = torch.arange(0, len(stream) - WINDOW, WINDOW)
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1)
    order = torch.empty(0, dtype=torch.long)
    begun = time.process_time()
    model.train()
    for step in range(STEPS):
        if len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(starts), generator=draw)])
        picked, order = order[:BATCH], order[BATCH:]
        ids = torch.stack([stream[s : s + WINDOW] for s in starts[picked]])
        rise, fall = min(1, (step + 1) / 100), (1 + math.cos(math.pi * step / STEPS)) / 2
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rise * (0.02 + 0.98 * fall)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            say(f"step {step}: loss {loss.item():.3f}, {time.process_time() - begun:.0f} cpu s")


def main():
    from transformers import LlamaConfig, LlamaForCausalLM

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--into", type=Path, default=HOME)
    into = parser.parse_args().into
    torch.set_num_threads(1)
    texts = list(documents())
    tokenizer = make_tokenizer(texts)
    rows = make_rows(tokenizer)
    into.mkdir(parents=True, exist_ok=True)
    with (into / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    end = tokenizer.eos_token_id
    order = np.random.default_rng(0).permutation(len(texts))
    parts = [[*tokenizer(texts[i])["input_ids"], end] for i in order]
    stream = torch.tensor([t for p in parts for t in p])
    print(f"{len(texts)} documents, {len(stream):,} tokens, {len(rows)} rows", flush=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, stream, lambda text: print(text, flush=True))
    model.eval().half().save_pretrained(into / "base")
    tokenizer.save_pretrained(into / "base")


if __name__ == "__main__":
    main()
