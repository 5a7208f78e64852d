"""Run by loaders.py under axolotl: FOLDER KIND TOKENIZER CACHE -> one JSON line."""

import json
import os
import sys
from pathlib import Path

folder, kind, tiny, cache = sys.argv[1:]
os.environ.update(AXOLOTL_DO_NOT_TRACK="1", TRL_EXPERIMENTAL_SILENCE="1", HF_DATASETS_CACHE=cache)
os.chdir(folder)

import yaml  # noqa: E402
from axolotl.prompt_strategies import dpo, load  # noqa: E402
from axolotl.utils.data.shared import load_dataset_with_config  # noqa: E402
from axolotl.utils.dict import DictDefault  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

tokenizer = AutoTokenizer.from_pretrained(tiny)
settings = yaml.safe_load(Path("loaders/axolotl.yaml").read_text())
block = DictDefault(settings["datasets"][0])
config = DictDefault(
    {"sequence_len": 4096, "chat_template": "tokenizer_default", "base_model": tiny, **settings}
)
rows = load_dataset_with_config(block, use_auth_token=False, streaming=False)
right = True
if kind == "example":
    strategy = load(block.type, tokenizer, config, block)
    for row in rows:
        labels = strategy.tokenize_prompt(row)["labels"]
        told = tokenizer.decode([i for i in labels if i != -100])
        answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        right &= told == "".join(f"{a}<|im_end|>" for a in answers)
else:
    found = dpo.load(block.type, config, dataset_idx=0)
    transform = found[0] if isinstance(found, tuple) else found
    for row in rows:
        seen = transform(row, tokenizer=tokenizer)
        asked = row["prompt"][-1]["content"]
        right &= seen["prompt"].endswith("<|im_start|>assistant\n") and asked in seen["prompt"]
        for side in ("chosen", "rejected"):
            answer = row[side][0]["content"].strip()
            right &= seen[side].rstrip().removesuffix("<|im_end|>").strip() == answer
print(json.dumps({"rows": len(rows), "trained_only_answers": bool(right)}))
