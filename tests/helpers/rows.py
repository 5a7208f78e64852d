"""Rows in memory: chats, pairs and documents of very different lengths, and a file of them."""

import json
from pathlib import Path

SUBJECTS = ("cats", "rivers", "a long list of sums", "tea", "the weather in June", "naïve 日本語")


def chat_rows(n: int, *, start: int = 0) -> list[dict]:
    """Chats of very different lengths, some of several turns, some with a system prompt."""
    rows = []
    for i in range(start, start + n):
        subject = SUBJECTS[i % len(SUBJECTS)]
        messages = [
            {"role": "user", "content": f"Question {i}: what of {subject}?"},
            {"role": "assistant", "content": f"Answer {i}. " + f"{subject} " * (1 + (i * 7) % 11)},
        ]
        if i % 4 == 1:
            messages += [
                {"role": "user", "content": "And then?"},
                {"role": "assistant", "content": f"Then {i * i}."},
            ]
        if i % 5 == 2:
            messages.insert(0, {"role": "system", "content": "Be brief."})
        rows.append({"id": f"row-{i}", "messages": messages, "quality": (i * 37) % 100 / 10})
    return rows


def pair_rows(n: int) -> list[dict]:
    return [
        {
            "prompt": [{"role": "user", "content": f"Say {i}"}],
            "chosen": [{"role": "assistant", "content": f"{i}, gladly." + "!" * (i % 5)}],
            "rejected": [{"role": "assistant", "content": "No. " * (1 + i % 3)}],
            "quality": i,
        }
        for i in range(n)
    ]


def document_rows(n: int) -> list[dict]:
    return [{"text": f"Document {i}. " + "It goes on. " * (i % 7), "quality": i} for i in range(n)]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path
