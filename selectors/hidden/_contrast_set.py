"""The answers that a contrast classifier learns from: marked, written by weak models, damaged."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.completion.client import Budget, Request, Sampling, complete
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import CONTENT, content_id, digest, uniform
from gristmill.pipeline.records.store import Step, table
from gristmill.pipeline.records.text import whole

VERSION = 2
MARKS = ("quality", "label")  # fields of `meta` that may say strong or weak
LONGEST = 512  # tokens of a weak answer, if some strong answer is as long


def marks(dataset: Dataset) -> pl.DataFrame:
    """Unique rows with `strong`: true, false, or null without a mark.

    Raises:
        ValueError: the same answer is marked both ways.
    """
    frame = dataset.frame(["id", *CONTENT["example"], "meta"])
    found = [_mark(m) for m in frame["meta"]]
    frame = frame.drop("meta").with_columns(strong=pl.Series(found, dtype=pl.Boolean))
    kinds = pl.col("strong").drop_nulls().n_unique()
    twice = frame.group_by("id").agg(kinds).filter(pl.col("strong") > 1)
    if twice.height:
        raise ValueError(
            f"{twice.height} rows of the contrast set are marked strong and weak, first "
            f"{twice['id'].sort()[0]}: leave one of the two out."
        )
    return frame.sort("id", "strong", nulls_last=True).unique("id", keep="first").sort("id")


def _mark(meta: str | None) -> bool | None:
    fields = json.loads(meta) if meta else {}
    for name in MARKS:
        if fields.get(name) in ("strong", "weak"):
            return bool(fields[name] == "strong")
    return None


def weak_answers(
    strong: pl.DataFrame, models: Models, role: str, passes: Passes, caps: RunCaps
) -> tuple[pl.DataFrame, list[str]]:
    """The answer of each model of the role to each prompt, and what there is to say of them.

    Greedy, and no longer than the longest strong answer, so that length alone does not tell them
    apart. The answers are entries of the store.
    """
    notes: list[str] = []
    parts = []
    for files in models.files(role):
        step = Step(
            name="weak-answers",
            version=VERSION,
            settings={"longest": LONGEST, "limit": passes.max_length},
            inputs={"strong": digest(strong["id"].to_list()), "model": files.fingerprint},
        )
        write = partial(_written, strong, models, files, passes, caps)
        found = models.store.run(step, [table("answers", write)]).frame()
        parts.append(found.with_columns(strong=pl.lit(False)))
        if found.height < strong.height:
            notes.append(
                f"{files.reference} wrote {found.height:,} weak answers to {strong.height:,} "
                "prompts; the others are too long for it, or it said nothing."
            )
    return pl.concat(parts), notes


def _written(
    strong: pl.DataFrame, models: Models, files: ModelFiles, passes: Passes, caps: RunCaps
) -> pl.DataFrame:
    from gristmill.pipeline.models.completion.local import Local

    loaded = models.load(files, passes)
    chat = loaded.chat
    texts = [_last(m)[: chat.characters] for m in strong["messages"]]
    longest = max(map(len, chat.tokenizer(texts, add_special_tokens=False)["input_ids"]))
    sampling = Sampling(max_tokens=max(1, min(LONGEST, longest)))
    results = complete(
        strong.to_dicts(),
        Local(loaded=loaded),
        prompt=partial(_request, sampling=sampling),
        cache=models.store.root / "completions.sqlite",
        budget=Budget(caps=caps),
        keep_cut=True,
    )
    answers = [_answered(r.row, str(r.value)) for r in results if r.status == "ok"]
    return pl.DataFrame(answers, schema=strong.schema)


def damaged(strong: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Three weak answers from each strong one: words shuffled, second half gone, from elsewhere.

    The order of words is drawn by id; the answer from elsewhere is that of the next row in the
    order of the rows' hashes.
    """
    rows = sorted(strong.to_dicts(), key=lambda r: (uniform(seed, "damage", r["id"]), r["id"]))
    made = {r["id"]: r for r in _damages(rows, seed)}
    mine = set(strong["id"])
    kept = [r for i, r in sorted(made.items()) if i not in mine]
    return pl.DataFrame(kept, schema=strong.schema).with_columns(strong=pl.lit(False))


def _damages(rows: Sequence[Mapping[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    for i, row in enumerate(rows):
        words = _last(row["messages"]).split()
        if len(words) > 1:
            keys = [(uniform(seed, f"shuffle-{k}", row["id"]), k) for k in range(len(words))]
            shuffled = [words[k] for _, k in sorted(keys)]
            if shuffled == words:  # of two words, every other draw
                shuffled = [*words[1:], words[0]]
            yield _answered(row, " ".join(shuffled))
            yield _answered(row, " ".join(words[: len(words) // 2]))
        if len(rows) > 1:
            yield _answered(row, _last(rows[(i + 1) % len(rows)]["messages"]))


def _prompt(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What stands before the last assistant turn."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
    return list(messages[:last])


def _last(messages: Sequence[Mapping[str, Any]]) -> str:
    return next((m["content"] or "" for m in reversed(messages) if m["role"] == "assistant"), "")


def _request(row: Mapping[str, Any], sampling: Sampling) -> Request:
    turns = [whole(m) for m in _prompt(row["messages"])]
    if not turns:
        raise ValueError("no_prompt: nothing stands before the last answer")
    tools = json.loads(row["tools"]) if row["tools"] else ()
    return Request(id=row["id"], messages=turns, sampling=sampling, tools=tools)


def _answered(row: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The row with another last answer."""
    answer = {"role": "assistant", "content": text, "extra": None}
    content = {"messages": [*_prompt(row["messages"]), answer], "tools": row["tools"]}
    return {"id": content_id("example", content), **content}
