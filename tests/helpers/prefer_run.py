"""A small run that builds preference pairs: prompts, writers, a judge at an endpoint, its steps."""

import json
import re
from pathlib import Path

import yaml
from judging_backend import longer
from rows import write_jsonl

from gristmill.flows import prefer_config, prefer_steps
from gristmill.pipeline.records.schema import digest
from gristmill.synthesis.preference.candidates import prompt_id

ITEM = "a train leaves the station at noon and travels sixty miles an hour to the next town"


def answer(body):
    """A judge of length, or an answer that says what it was asked."""
    content = body["messages"][0]["content"]
    marks = re.findall(r"<(\w+) ([0-9a-f]{12})>\n(.*?)\n</\1 \2>", content, re.S)
    if marks:
        return json.dumps({"better": longer({name: text for name, _, text in marks})})
    number = int(digest(body)[:6], 16)
    return f"{content} I would say {number}." + " Surely." * (number % 7)


def asked(text):
    return prompt_id([{"role": "user", "content": text, "extra": None}])


def written(root: Path, url: str, **more) -> Path:
    """Config and files: sums with known answers, open questions, and what is to stand aside."""
    sums = [(f"What is {n} + {n}?", str(2 * n)) for n in range(2, 8)]
    open_ = [(f"Tell me of subject {n}, and why it matters.", "x " * 30) for n in range(4)]
    rows = [*sums, *open_, sums[0], (f"{ITEM}: when is it there?", "1")]
    prompts = [{"prompt": p, "completion": a} for p, a in rows]
    write_jsonl(root / "prompts.jsonl", prompts)
    exam = root / "exams" / "eval"
    write_jsonl(exam / "gsm8k_test.jsonl", [{"question": f"{ITEM}: when?", "answer": "1"}])
    told = []
    for n, (text, right) in enumerate(sums):
        said = {0: right, 1: right, 2: "no idea: 0", 3: "0, I think", 4: "", 5: None}[n]
        if said is not None:
            told.append({"id": f"weak/{asked(text)}", "text": said})
        good = "It is 0" if n == 2 else f"Adding both, we find #### {right}"
        told.append({"id": f"strong/{asked(text)}", "text": good})
    for n, (text, _) in enumerate(open_):
        long = f"Subject {n} is large, and there is much to be said of it, at length."
        told.append({"id": f"strong/{asked(text)}", "text": long})
        short = {0: long + " ", 1: "It matters.", 2: "x" * len(long), 3: "Hm."}[n]
        told.append({"id": f"weak/{asked(text)}", "text": short})
    write_jsonl(root / "answers.jsonl", told)
    settings = {
        "name": "choices",
        "sources": [{"path": str(root / "prompts.jsonl"), "license": "CC0-1.0"}],
        "candidates": {
            "strong": {"recorded": str(root / "answers.jsonl"), "price_out": 1e6},
            "weak": {"recorded": str(root / "answers.jsonl"), "on_policy": True},
        },
        "judge": {"model": "m", "url": url, "workers": 1, "canaries": 1, "price_in": 1.0},
        "benchmarks": str(root / "exams"),
        "length": {"by": "none"},
        "store": str(root / "store"),
        "export": {"root": str(root / "out"), "pair_views": ["conversation"]},
        **more,
    }
    path = root / "prefer.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def walk_through(path: Path) -> Path:
    config = prefer_config.read(path)
    prefer_steps.rule_of(config)
    prompts = prefer_steps.gather(config)
    answers = prefer_steps.answer(config, prompts)
    verdicts = prefer_steps.judge(config, prompts, answers)
    return prefer_steps.publish(config, prompts, answers, verdicts)
