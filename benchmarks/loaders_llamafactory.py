"""Run by loaders.py under LLaMA-Factory: FOLDER KIND TOKENIZER CACHE -> one JSON line."""

import json
import sys
from pathlib import Path

import datasets
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, ModelArguments
from transformers import AutoTokenizer, Seq2SeqTrainingArguments

folder, kind, tiny, cache = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(tiny)
((name, entry),) = json.loads(Path(folder, "dataset_info.json").read_text()).items()
data = DataArguments(template="chatml", dataset=name, dataset_dir=folder, cutoff_len=4096)
model = ModelArguments(model_name_or_path=tiny, cache_dir=cache)
training = Seq2SeqTrainingArguments(output_dir=f"{cache}/out", use_cpu=True, report_to=[])
template = get_template_and_fix_tokenizer(tokenizer, data)
stage = "sft" if kind == "example" else "rm"
loaded = get_dataset(template, model, data, training, stage=stage, tokenizer=tokenizer)
rows = loaded["train_dataset"]
shipped = datasets.load_dataset(folder, entry["subset"], split="train", cache_dir=cache)


def told(labels):
    return tokenizer.decode([i for i in labels if i != -100])


right = True
for row, record in zip(rows, shipped, strict=True):
    if kind == "example":
        answers = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
        right &= told(row["labels"]) == "".join(f"{a}<|im_end|>\n" for a in answers)
    else:
        for side in ("chosen", "rejected"):
            right &= told(row[f"{side}_labels"]) == f"{record[side]['content']}<|im_end|>\n"
print(json.dumps({"rows": len(rows), "trained_only_answers": bool(right)}))
