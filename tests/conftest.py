"""Shared fixtures: a tiny random model, toy records, a store."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only wait
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

import json
from functools import wraps
from pathlib import Path

import pytest

from gristmill.pipeline.records.store import Store

# Deprecations that libraries know of each other, and that nothing here could mend: they fail not
# even `make test-latest`.
KNOWN = [
    "ignore:.*gradient_checkpointing.*:FutureWarning",  # TRL and PEFT use names of transformers 5
]


def pytest_collection_modifyitems(config, items):
    """On several cores a file's tests stay together: they share what it sets up.

    But for the contract, whose cases share nothing and take longest.
    """
    for item in items:
        for known in KNOWN:
            item.add_marker(pytest.mark.filterwarnings(known))
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.path.name != "test_contract.py":
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A 2-layer random Llama with a byte-level tokenizer and a ChatML template."""
    from gristmill.pipeline.models.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def store(tmp_path) -> Store:
    root = tmp_path / "store"
    root.mkdir()
    return Store(root=root)


@pytest.fixture
def read(monkeypatch):
    """Tokens that went through the decoder."""
    from transformers.models.llama.modeling_llama import LlamaModel

    count = []
    inner = LlamaModel.forward

    @wraps(inner)
    def counted(self, input_ids=None, **rest):
        count.append(input_ids.numel())
        return inner(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    return count


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
