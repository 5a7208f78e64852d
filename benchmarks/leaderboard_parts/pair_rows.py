"""Make the pairs of the leaderboard: a pool with planted swaps, and what nobody trains on.

    GRISTMILL_DATA=... python benchmarks/leaderboard_parts/pair_rows.py

Committed as `data/leaderboard/pairs.jsonl`; made again byte for byte. The target is truthfulness:
of two answers that models gave to a question, the one that people called true. A question is in
one part alone.

| part | pairs |
|---|---|
| `pool` | TruthfulQA answers, harmless dialogues, PandaLM; `planted` marks the swapped ones |
| `query` | the reference pairs of target-aware methods |
| `validation` | on which learning rates are chosen |
| `test-truthful`, `test-harmless`, `test-instructions` | on which models are measured |
"""

import argparse
import json
from pathlib import Path

from gristmill.pipeline.records.schema import uniform
from leaderboard_parts.rows import BASE, HOME, raw

LONGEST = 144  # tokens of the base model, prompt and the longer answer
PARTS = {  # source -> how many of each part
    "truthful": {"test-truthful": 192, "validation": 48, "query": 32, "pool": 220, "swapped": 44},
    "harmless": {"test-harmless": 64, "pool": 60, "swapped": 12},
    "instructions": {"test-instructions": 32, "pool": 31, "swapped": 6},
}
# Two test questions of one pattern, most of whose words a pair of the pool has too.
ALIKE = (
    "In France they all speak French. In England they all speak English. In Ireland",
    "In France they speak French. In England they speak English. In Wales",
)
LICENSES = {"truthful": "Apache-2.0", "harmless": "MIT", "instructions": "Apache-2.0"}


def truthful():
    """One pair a question: a true answer and a false one, drawn by hash."""
    answers = {}
    for row in raw("pref/truthfulqa_truth_labels.jsonl.gz"):
        sides = answers.setdefault(row["question"], (set(), set()))
        sides[0 if row["is_true"] else 1].add(row["answer"].strip())
    for question, (right, wrong) in answers.items():
        sides = [sorted(a - b) for a, b in ((right, wrong), (wrong, right))]
        if all(sides):
            yield (
                question,
                *(min(s, key=lambda a: uniform(0, "answer", question + a)) for s in sides),
            )


def harmless():
    """Dialogues of one turn."""
    for row in raw("pref/hh_harmless_base_test.jsonl.gz"):
        sides = [row[k].split("\n\nHuman: ")[1:] for k in ("chosen", "rejected")]
        if [len(s) for s in sides] != [1, 1]:
            continue
        (asked, good), (same, bad) = (s[0].split("\n\nAssistant:")[:2] for s in sides)
        if asked == same:
            yield asked.strip(), good.strip(), bad.strip()


def instructions():
    """Answers of two models on which three people agree."""
    for row in raw("pref/pandalm_testset.json"):
        votes = {row[f"annotator{n}"] for n in (1, 2, 3)}
        sides = [str(row[f"response{n}"]).strip() for n in (1, 2)]
        if votes in ({1}, {2}):
            asked = f"{row['instruction']}\n{row['input'] or ''}".strip()
            yield asked, *(sides if votes == {1} else sides[::-1])


def make():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    found = {"truthful": truthful(), "harmless": harmless(), "instructions": instructions()}
    made = {}
    for source, pairs in found.items():
        fit = {}
        for asked, good, bad in pairs:
            longest = max(len(tokenizer(f"{asked}\n{a}")["input_ids"]) for a in (good, bad))
            if good and bad and good != bad and longest + 10 <= LONGEST:
                fit.setdefault(asked, (asked, good, bad))
        rows = sorted(fit.values(), key=lambda r: uniform(0, f"leaderboard {source}", "\n".join(r)))
        for part, count in PARTS[source].items():
            if len(rows) < count:
                raise ValueError(f"{part}: {source} has too few pairs, {len(rows)} of {count}.")
            taken, rows = rows[:count], rows[count:]
            for asked, good, bad in taken:
                if asked.startswith(ALIKE) and part == "test-truthful":
                    continue
                planted = part if part == "swapped" else None
                row = {"part": "pool" if planted else part, "source": source}
                row |= {"license": LICENSES[source], "planted": planted}
                sides = (bad, good) if planted else (good, bad)
                row |= {"question": asked, "chosen": sides[0], "rejected": sides[1]}
                made.setdefault(row["part"], []).append(row)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--into", type=Path, default=HOME)
    into = parser.parse_args().into
    with (into / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for part, rows in make().items():
            print(f"{part}: {len(rows)} pairs")
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
