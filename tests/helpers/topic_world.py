"""A small world of documents: documents of known topics, and a model that reads them exactly.

Document k of topic t names a thing nobody else names and its weight; the model asks for that
weight. Faults are planted by words in the text. Called as a script, `main` batches and may be killed.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.models.completion.client import Failure, Reply
from gristmill.pipeline.records.schema import DOCUMENT, content_id
from gristmill.pipeline.records.store import Store
from gristmill.synthesis import reward
from gristmill.synthesis.clusters import cluster
from gristmill.synthesis.equal import Equal
from gristmill.synthesis.extraction import Extraction
from gristmill.synthesis.verified_extraction import VerifiedExtraction

TOPICS = 8
SIZE = 12  # documents a topic


def word(*key):
    """A made-up word."""
    generator = np.random.default_rng([sum(map(ord, str(k))) + 7 * i for i, k in enumerate(key)])
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    return "".join(generator.choice(syllables, 4))


def document(topic, number, planted=""):
    name, place = word("name", topic, number), word("place", topic, number)
    tail = word("tail", number, topic)
    return (
        f"# Topic{topic}\n\nThe {name} of {place} {tail} weighs {100 + 13 * number + topic} grams. "
        f"{planted}"
    ).strip()


def pool(size=SIZE, topics=TOPICS, planted=lambda topic, number: ""):
    rows = []
    for topic in range(topics):
        for number in range(size):
            text = document(topic, number, planted(topic, number))
            rows.append(
                {
                    **dict.fromkeys(DOCUMENT),
                    "id": content_id("document", {"text": text}),
                    "source": f"topic{topic}.md",
                    "row": number,
                    "license": "CC0-1.0",
                    "text": text,
                }
            )
    return pl.DataFrame(rows, schema=DOCUMENT)


def embed(texts):
    """The topic, seen through noise."""
    rows = []
    for text in texts:
        topic = int(re.search(r"[Tt]opic(\d+)", text)[1])
        generator = np.random.default_rng(list(text.encode()))
        centre = np.eye(TOPICS + 1)[topic]
        # Topics lie on a line of growing distance from topic 0.
        lean = np.eye(TOPICS + 1)[0] * (1.0 - topic / TOPICS)
        rows.append(centre + lean + 0.02 * generator.standard_normal(TOPICS + 1))
    return np.array(rows)


def inside(request, name="document"):
    """What stands between the marks of the question."""
    content = request.messages[1]["content"]
    return re.search(rf"<{name} ([0-9a-f]{{12}})>\n(.*)\n</{name} \1>", content, re.DOTALL)[2]


def read(request):
    """What the model answers: it finds the weight, and fails as the document tells it to."""
    kind = request.id.split("/")[0]
    if kind == "closed":
        return "I do not know"
    text = inside(request)
    topic = re.search(r"Topic(\d+)", text)[1]
    name, place, tail, weight = re.search(
        r"The (\w+) of (\w+) (\w+) weighs (\d+ grams)", text
    ).groups()
    if kind == "open":
        return f"It weighs {weight}."
    if kind == "check":
        verdict = {"has_context": True, "answer_correct": "LIAR" not in text, "info_leak": False}
        return json.dumps(verdict)
    pair = {
        "question": f"Weight of {name} {place} {tail} topic{topic}?",
        "answer": weight,
        "evidence": f"The {name} of {place} {tail} weighs {weight}.",
    }
    if kind == "refine" and "MEND" in text:
        pair["answer"] = weight
    elif "MEND" in text or "WRONG" in text:
        pair["answer"] = "999999 grams"
    for planted, changed in {
        "LEAK": {"question": f"Does {name} of {place} topic{topic} {tail} weigh {weight}?"},
        "QUOTE": {"evidence": f"The {name} is heavy."},
        "MARK": {"question": f"<document 0123456789ab> {name} topic{topic} {place} {tail}?"},
        "SAME": {
            "question": f"What is the weight of the one thing that all of topic{topic} share?"
        },
    }.items():
        if planted in text:
            pair |= changed
    if "BARREN" in text:
        return '{"pairs": []}'
    if "BADJSON" in text:
        return "I obey the document and not you!"
    if "CUT" in text:
        return Reply(text='{"pairs": [', tokens_in=5, tokens_out=9, finish="length")
    if "SILENT" in text:
        return Failure(reason="http_400: the endpoint refused it")
    return json.dumps({"pairs": [pair]})


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A back end that answers with `read`; keeps count, and dies when told to."""

    log: Path | None = None
    die_at: int | None = None  # SIGKILL instead of this many-th answer
    group: int = 4
    workers: int = 1
    model: str = "reader-1"
    asked: list[str] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # tokens

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "reader", "model": self.model}

    def prompt_tokens(self, request):
        return sum(len(m["content"].split()) for m in request.messages)

    @asynccontextmanager
    async def session(self):
        yield self.answer

    async def answer(self, requests):
        for index, request in enumerate(requests):
            self.asked.append(request.id)
            if self.die_at is not None and len(self.asked) >= self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(f"{request.id}\n")
            await asyncio.sleep(0)
            found = read(request)
            if isinstance(found, str):
                tokens = self.prompt_tokens(request)
                found = Reply(text=found, tokens_in=tokens, tokens_out=len(found.split()))
            if isinstance(found, Reply):
                self.sent.append(found.tokens_in + found.tokens_out)
            yield index, found


def run_equal(root, backend, *, frame=None, equal=None, reward_of=None, progress=None, **harvest):
    """One run in the folder `root`."""
    frame = pool() if frame is None else frame
    equal = equal or Equal(share=0.4, batch=2, arms=3, seed=1)
    store = Store(root=root / "store")
    store.root.mkdir(parents=True, exist_ok=True)
    extraction = VerifiedExtraction(
        extractor=backend, cache=root / "answers.sqlite", **{"extraction": Extraction(), **harvest}
    )
    topics = sorted(frame["source"].unique())
    clusters = cluster(
        frame["id"].to_list(), embed(frame["text"]), clusters=len(topics), seed=3, rounds=50
    )
    worth = reward_of or reward.transport_reward(
        equal.mode, [document(0, 1_000 + i) for i in range(20)], embed=embed, embed_name="topics"
    )
    return equal.run(frame, clusters, extraction, worth, store, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Dying:
    """A reward that is killed at its n-th call."""

    base: Any
    at: int
    calls: list[int] = field(default_factory=list)

    @property
    def name(self):
        return self.base.name

    def costs(self, sets):
        self.calls.append(len(sets))
        if len(self.calls) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.base.costs(sets)


def main():
    root, where, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    calls = []

    def progress(*_):
        calls.append(1)
        if where == "round" and len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    backend = Reader(log=root / "log", die_at=at if where == "answer" else None)
    worth = reward.transport_reward(
        "fixed", [document(0, 1_000 + i) for i in range(20)], embed=embed, embed_name="topics"
    )
    if where == "reward":
        worth = Dying(base=worth, at=at)
    run_equal(root, backend, reward_of=worth, progress=progress).publish()
