"""Make `data/demo/` again: a small pool with planted faults, a target, pairs and documents.

Short rows are taken, for the demo's two model passes must fit in 20,000 tokens; which of them is
drawn by hash, so the same source files give the same bytes. GRISTMILL_DATA names the folder of
source files (default: ../shared/data).

    python benchmarks/make_demo_data.py
"""

import gzip
import json
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gristmill.pipeline.records.schema import uniform

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "data" / "demo"
DATA = Path(os.environ.get("GRISTMILL_DATA", ROOT.parent / "shared" / "data"))
LICENSES = {
    "gsm8k-MIT.txt": "openai+grade-school-math__LICENSE",
    "medquad-CC-BY-4.0.txt": "abachaa+MedQuAD__LICENSE.txt",
    "self-instruct-Apache-2.0.txt": "yizhongw+self-instruct__LICENSE",
    "rust-book-MIT.txt": "rust-lang+book__LICENSE-MIT",
    "rust-book-Apache-2.0.txt": "rust-lang+book__LICENSE-APACHE",
    "rust-book-COPYRIGHT.txt": "rust-lang+book__COPYRIGHT",
}
UNFIT = re.compile(r"fuck|toxic|SSN|Queestions|https?:|:\s*$", re.IGNORECASE)


def read(name: str) -> list[Row]:
    """The rows of a JSON lines file of the source folder."""
    path = DATA / name
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]


def drawn(rows: Iterable[Row], count: int) -> list[Row]:
    """`count` rows drawn by hash of their content, in hash order."""
    return sorted(rows, key=lambda row: uniform(0, "demo", json.dumps(row)))[:count]


def short(rows: Iterable[Row], cost: Callable[[Row], int], count: int, alike: int = 3) -> list[Row]:
    """The `count` cheapest rows with at most `alike` that open with the same three words."""
    openings: Counter[tuple[str, ...]] = Counter()
    taken = []
    for row in sorted(rows, key=lambda row: (cost(row), json.dumps(row))):
        opening = tuple(text(row)[0].lower().split()[:3])
        openings[opening] += 1
        if openings[opening] <= alike and not any(UNFIT.search(t) for t in text(row)):
            taken.append(row)
    return taken[:count]


def text(row: Row) -> tuple[str, str]:
    """Question and answer of a row, whatever its shape."""
    if "question" in row:
        return row["question"], row["answer"]
    if "prompt" in row:
        wrapped = re.search(r"### Instruction:\n(.*?)\n+### Response:", row["prompt"], re.DOTALL)
        return wrapped[1] if wrapped else row["prompt"], row["response"]
    first = row["instances"][0]
    return f"{row['instruction']} {first['input']}", first["output"]


def cost(row: Row) -> int:
    """Characters read by a pass over the dialogue and a pass over the answer alone."""
    question, answer = text(row)
    return len(question) + 2 * len(answer)


def near(row: Row, field: str) -> Row:
    """A near copy: another case, other spaces."""
    return {**row, field: re.sub(r" ", "  ", row[field].lower(), count=3)}


def planted(rows: list[Row], copies: int, nearly: int, field: str) -> list[Row]:
    """The rows with exact and near copies of some of them among them, and in a new order."""
    exact = [dict(row) for row in drawn(rows, copies)]
    alike = [near(row, field) for row in drawn(rows, copies + nearly)[copies:]]
    order = enumerate([*rows, *exact, *alike])
    return [row for _, row in sorted(order, key=lambda r: uniform(1, "order", str(r[0])))]


def lines(name: str, rows: Iterable[Row], broken: dict[int, bytes] | None = None) -> None:
    """Write JSON lines, with `broken` lines put in at their positions."""
    raw = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    for position, line in sorted((broken or {}).items()):
        raw.insert(position, line)
    (OUT / name).write_bytes(b"".join(line + b"\n" for line in raw))


def maths() -> tuple[list[Row], list[Row]]:
    """Pool and target from GSM8K's training set: no row is in both."""
    rows = drawn(short(read("sft/gsm8k_train.jsonl"), cost, 56, alike=56), 50)
    licensed = [{**row, "license": "MIT"} for row in rows]
    return licensed[:34], licensed[34:]


def medicine() -> list[Row]:
    """Short questions of MedQuAD; `source` there is the institute, not the data set."""
    return [
        {
            "id": row["id"],
            "institute": row["source"],
            "qtype": row["qtype"],
            "question": row["question"],
            "answer": row["answer"],
            "license": "CC-BY-4.0",
            "url": row["url"],
        }
        for row in short(read("sft/medquad.jsonl.gz"), cost, 44, alike=6)
    ]


def pairs(count: int = 40) -> list[Row]:
    """Graded answers of MedQuAD: good (3, 4) against wrong (1), of much the same length."""
    graded: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in read("pref/medquad_judged_answers.jsonl.gz"):
        if 60 <= len(row["answer"]) <= 500 and not UNFIT.search(row["answer"]):
            graded[row["qid"]][row["grade"]].append(row)
    found = []
    for qid, by_grade in graded.items():
        wrong = by_grade[1]
        for good in sorted(by_grade[4] + by_grade[3], key=lambda r: (-r["grade"], r["answer_id"]))[
            :2
        ]:
            if not wrong:
                break
            bad = min(
                wrong, key=lambda r: (abs(len(r["answer"]) - len(good["answer"])), r["answer_id"])
            )
            wrong.remove(bad)
            found.append(
                {
                    "id": f"{qid}/{good['answer_id']}",
                    "prompt": good["question"],
                    "chosen": good["answer"],
                    "rejected": bad["answer"],
                    "grade_chosen": good["grade"],
                    "license": "CC-BY-4.0",
                }
            )
    found.sort(key=lambda r: (len(r["prompt"] + r["chosen"] + r["rejected"]), r["id"]))
    return found[:count]


def main() -> None:
    """Write every file of `data/demo/`."""
    for made in ("pool", "LICENSES", "eval"):  # the configuration beside them is written by hand
        shutil.rmtree(OUT / made, ignore_errors=True)
    (OUT / "pool").mkdir(parents=True)
    (OUT / "LICENSES").mkdir()
    (OUT / "eval").mkdir()
    pool, target = maths()
    lines("target.jsonl", target)
    no_answer = {"question": pool[0]["question"], "license": "MIT"}
    lines(
        "pool/grade_school_maths.jsonl",
        planted(pool, 11, 3, "question"),
        {17: json.dumps(pool[1]).encode()[:-30], 40: json.dumps(no_answer).encode()},
    )
    latin_1 = json.dumps({"question": "What is Ménière disease ?", "answer": "Vertigo."})
    lines(
        "pool/medical_questions.jsonl",
        planted(medicine(), 10, 2, "question"),
        {33: json.dumps(json.loads(latin_1), ensure_ascii=False).encode("latin-1")},
    )
    general = short(read("sft/dolly_hhrlhf_1k.jsonl"), cost, 82)
    general = [{**row, "license": "CC-BY-SA-3.0"} for row in general]
    general = planted(general, 14, 2, "response")
    twins = [
        {"prompt": r["question"], "response": r["answer"], "license": "MIT"} for r in pool[5:7]
    ]
    general[20:20] = [*twins, {**general[0], "response": ""}]  # copies from another file, no answer
    (OUT / "pool/general_instructions.json").write_text(
        json.dumps(general, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    seeds = short(read("sft/selfinstruct_seed_tasks.jsonl"), cost, 20)
    seeds = [{**row, "license": "Apache-2.0"} for row in seeds]
    empty = {**seeds[0], "instances": []}
    lines("pool/seed_tasks.jsonl", planted(seeds, 5, 0, "name"), {9: json.dumps(empty).encode()})
    lines("pairs.jsonl", pairs())
    held = short(read("eval/gsm8k_test.jsonl"), cost, 40, alike=40)
    lines("eval/gsm8k_test.jsonl", ({k: v for k, v in r.items() if k != "idx"} for r in held))
    chapters = ("src/ch07-01-packages-and-crates.md", "src/ch13-04-performance.md")
    lines(
        "documents.jsonl",
        (
            {**row, "license": "MIT OR Apache-2.0"}
            for row in read("docs/rust_book.jsonl")
            if row["path"] in chapters
        ),
    )
    for name, source in LICENSES.items():
        shutil.copyfile(DATA / "LICENSES" / source, OUT / "LICENSES" / name)
    for path in sorted(p for p in OUT.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size:8,}  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
