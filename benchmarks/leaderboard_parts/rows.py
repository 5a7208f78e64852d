"""Make the rows of the leaderboard: a pool with planted faults, and what nobody trains on.

    GRISTMILL_DATA=... python benchmarks/leaderboard_parts/rows.py

The rows are committed under `data/leaderboard`, so that `leaderboard.py` runs from a clone; this
makes them again, byte for byte. Every draw is by keyed hash of the row. The base model is the one
of `data/lds`, which saw none of the rows of a test, a validation or a query set.

| part | rows |
|---|---|
| `pool` | what selectors choose from; `planted`, which no selector sees: what is wrong with a row |
| `query-maths`, `query-medical` | the reference rows of target-aware methods |
| `validation-maths`, `validation-medical` | on which learning rates are chosen |
| `test-maths`, `test-medical`, `test-general` | on which models are measured |

No row shares ten words in a row with one of another part, or, for medical rows, the disease.
"""

import argparse
import gzip
import json
import os
import re
from pathlib import Path

from gristmill.pipeline.records.schema import uniform

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parents[1] / "data"))
HOME = Path(__file__).parents[1] / "data" / "leaderboard"
BASE = Path(__file__).parents[1] / "data" / "lds" / "base"
LONGEST = {"medical": 176}  # tokens of the base model, question and answer; of others:
LONGEST_OTHER = 144
GRAM = 10  # words
TEST, VALIDATION, QUERY = 96, 32, 24
GENERAL_TEST = 48
POOL = {"maths": 84, "medical": 72, "dolly": 72, "t0": 96, "glaive": 36}
COPIES, NEAR, OFF_TARGET, SWAPPED, CUT = 16, 20, 28, 16, 12  # the last two: of each target
DOLLY = re.compile(r".*### Instruction:\n(.*?)\n\n### Response:.*", re.DOTALL)


def raw(name):
    """The rows of a file of JSON or JSON lines, packed or not."""
    content = (DATA / name).read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    if name.endswith(".json"):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line]


def sources():
    """Source to (question, answer, subject, licence) of all its rows; a subject is a disease."""
    glaive = [r["conversations"][:2] for r in raw("sft/glaive_toolcall_en.json")]
    chat = [r["conversations"][:2] for r in raw("sft/fastchat_dummy_conversation.json")]
    return {
        "maths": [(r["question"], r["answer"], "", "MIT") for r in raw("sft/gsm8k_train.jsonl")],
        "maths-test": [
            (r["question"], r["answer"], "", "MIT") for r in raw("eval/gsm8k_test.jsonl")
        ],
        "medical": [
            (r["question"], r["answer"], r["focus"].lower(), "CC BY 4.0")
            for r in raw("sft/medquad.jsonl.gz")
        ],
        "dolly": [
            (DOLLY.sub(r"\1", r["prompt"]), r["response"], "", "CC BY-SA 3.0")
            for r in raw("sft/dolly_hhrlhf_1k.jsonl")
        ],
        "t0": [
            (r["prompt"], r["completion"], "", r["license"]) for r in raw("sft/t0_mixture.jsonl.gz")
        ],
        "glaive": [(q["value"], a["value"], "", "Apache-2.0") for q, a in glaive],
        "chat": [(q["value"], a["value"], "", "Apache-2.0") for q, a in chat],
        "seed": [
            (f"{r['instruction']}\n{i['input']}".strip(), i["output"], "", "Apache-2.0")
            for r in raw("sft/selfinstruct_seed_tasks.jsonl")
            for i in r["instances"][:1]
        ],
    }


def drawn(name, rows, tokenizer):
    """The different rows of a source that are short enough, in the order of the draw."""
    found, longest = {}, LONGEST.get(name, LONGEST_OTHER)
    for question, answer, subject, license in rows:
        text = f"{question}\n{answer}"
        if not (isinstance(answer, str) and answer.strip() and question.strip()):
            continue
        if len(text) > 5 * longest or len(tokenizer(text)["input_ids"]) + 10 > longest:
            continue
        found.setdefault(question, (question, answer, subject, license))
    return sorted(found.values(), key=lambda r: uniform(0, f"leaderboard {name}", r[0] + r[1]))


class Parts:
    """Rows by part; a row that repeats one of another part is passed over."""

    def __init__(self):
        self.rows = {}
        self.owner = {}  # gram or subject -> part

    def take(self, part, source, rows, count):
        """Move the first rows that fit from a draw to a part."""
        taken = []
        while len(taken) < count:
            if not rows:
                raise ValueError(f"{part}: {source} has too few rows, {len(taken)} of {count}.")
            row = rows.pop(0)
            marks = self._marks(row)
            if all(self.owner.get(m, part) == part for m in marks):
                self.owner.update(dict.fromkeys(marks, part))
                taken.append(row)
        self.rows.setdefault(part, []).extend((source, "", *r) for r in taken)
        return taken

    def plant(self, kind, source, row, question=None, answer=None):
        """Add a row, with another question or answer."""
        asked, said, *more = row
        self.rows["pool"].append((source, kind, question or asked, answer or said, *more))

    def _marks(self, row):
        words = re.findall(r"\w+", f"{row[0]} {row[1]}".lower())
        grams = {" ".join(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1))}
        return grams | ({f"subject: {row[2]}"} if row[2] else set())


def near(question, answer):
    """A near copy: another case, other spaces, a word before the question."""
    return "Please answer: " + question.replace(",", " ,"), answer.rstrip(".") + " ."


def make():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    rows = {name: drawn(name, found, tokenizer) for name, found in sources().items()}
    parts = Parts()
    parts.take("test-maths", "maths", rows["maths-test"], TEST)
    parts.take("test-medical", "medical", rows["medical"], TEST)
    parts.take("test-general", "seed", rows["seed"], GENERAL_TEST)
    for target in ("maths", "medical"):
        parts.take(f"validation-{target}", target, rows[target], VALIDATION)
        parts.take(f"query-{target}", target, rows[target], QUERY)
    pool = {source: parts.take("pool", source, rows[source], n) for source, n in POOL.items()}
    chosen = {s: pool[s] for s in ("maths", "medical", "dolly", "t0")}
    for n in range(COPIES):
        source = tuple(chosen)[n % 4]
        parts.plant("copy", source, chosen[source][n // 4])
    for n in range(NEAR):
        source = tuple(chosen)[n % 4]
        row = chosen[source][10 + n // 4]
        parts.plant("near_copy", source, row, *near(*row[:2]))
    for row in rows["chat"][:OFF_TARGET]:
        parts.plant("off_target", "chat", row)
    for target in ("maths", "medical"):
        for kind, count in (("swapped", SWAPPED), ("cut", CUT)):
            fresh = parts.take("pool", target, rows[target], count)
            del parts.rows["pool"][-count:]
            answers = [r[1] for r in fresh]
            if kind == "swapped":
                answers = [*answers[1:], answers[0]]
            else:
                answers = [" ".join(a.split()[: len(a.split()) // 2]) for a in answers]
            for row, answer in zip(fresh, answers, strict=True):
                parts.plant(kind, target, row, answer=answer)
    return parts.rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--into", type=Path, default=HOME)
    into = parser.parse_args().into
    into.mkdir(parents=True, exist_ok=True)
    with (into / "rows.jsonl").open("w", encoding="utf-8") as file:
        for part, found in make().items():
            print(f"{part}: {len(found)} rows")
            for source, planted, question, answer, _, license in found:
                row = {"part": part, "source": source, "license": license}
                row |= {"planted": planted or None, "question": question, "answer": answer}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
