"""Tasks: the figures are those of the harness itself, and nothing is asked twice."""

import json
import random
import subprocess
import sys

import datasets
import lm_eval.evaluator
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from gristmill.pipeline.evaluate import tasks
from gristmill.pipeline.evaluate.tasks import evaluate_tasks
from gristmill.pipeline.models.load import loaded
from gristmill.pipeline.models.passes import Passes

CPU = Passes(device="cpu")
THINGS = ("stone", "feather", "river", "lamp", "onion", "cloud", "glass", "spoon", "wolf", "sand")
OWN = """\
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: sums.jsonl
output_type: generate_until
test_split: test
fewshot_split: test
num_fewshot: 2
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 6
  do_sample: false
  temperature: 0.0
filter_list:
  - name: strict
    filter:
      - {function: regex, regex_pattern: "([0-9]+)"}
      - {function: take_first}
  - name: as_it_is
    filter:
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata:
  version: 1.0
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with rows of two tasks, and a task of the user's own beside it."""
    folder = tmp_path_factory.mktemp("data")
    choices = [
        {
            "query": f"Question: What is a {a}?",
            "choices": [a, b, f"a {a} {b}", "none"],
            "gold": n % 4,
        }
        for n, (a, b) in enumerate(zip(THINGS, THINGS[1:] + THINGS[:1], strict=True))
    ]
    sums = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(10)]
    for name, rows in {"arc_easy": choices, "sums": sums}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    own = tmp_path_factory.mktemp("own") / "sums.yaml"
    own.write_text(OWN)
    return folder, own


@pytest.fixture
def direct(data, tiny, tmp_path, monkeypatch):
    """The harness by itself, on the same files and the model's folder."""
    folder, own = data
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda _: None)  # a second of questions
    manager = TaskManager(
        include_path=[str(tasks.SHIPPED), str(own.parent)], include_defaults=False
    )

    def run(names, **options):
        model = HFLM(pretrained=str(tiny), device="cpu")
        return lm_eval.simple_evaluate(model, tasks=names, task_manager=manager, **options)

    return run


@pytest.mark.parametrize("chat", [False, True])
def test_figures_are_those_of_the_harness_to_the_last_digit(chat, data, tiny, store, direct):
    folder, own = data
    expected = direct(["arc_easy", "sums"], limit=8, apply_chat_template=chat)
    found = evaluate_tasks(
        ["arc_easy", str(own)],
        str(tiny), store, data=folder, limit=8, passes=CPU, chat_template=chat,
    )  # fmt: skip
    for name, result in found.items():
        assert result.figures == expected["results"][name]
        samples = expected["samples"][name]
        assert result.items.height == len(samples)
        assert sorted(result.items["id"]) == sorted(s["doc_hash"] for s in samples)
        for row in result.items.to_dicts():
            (sample,) = [
                s for s in samples if (s["doc_id"], s["filter"]) == (row["row"], row["filter"])
            ]
            assert row["prompts"] == [a[0] for a in sample["arguments"]]
            assert {m["metric"]: m["value"] for m in row["metrics"]} == {
                m: sample[m] for m in sample["metrics"]
            }
    choice, text = found["arc_easy"], found["sums"]
    assert choice.items["log_likelihoods"].to_list() == [
        [r[0][0] for r in s["resps"]] for s in expected["samples"]["arc_easy"]
    ]
    assert choice.items["correct"].mean() == choice.figures["acc,none"] == choice.interval().value
    assert (text.metric, text.filter) == ("exact_match", "strict")
    assert text.items["filter"].to_list() == ["strict", "as_it_is"] * 8
    assert text.scored().height == 8


def test_a_second_question_asks_nothing_and_what_differs_is_asked(data, tiny, store):
    folder, _ = data
    ask = {"data": folder, "limit": 2, "passes": CPU}
    first = evaluate_tasks(["arc_easy"], str(tiny), store, **ask)["arc_easy"]
    before = (len(loaded()), len(store.computed()))
    again = evaluate_tasks(["arc_easy"], str(tiny), store, **ask)["arc_easy"]
    assert (len(loaded()), len(store.computed())) == before
    assert again.figures == first.figures
    assert again.items.equals(first.items)
    more = evaluate_tasks(["arc_easy"], str(tiny), store, **{**ask, "limit": 3})["arc_easy"]
    assert more.items.height == 3
    assert len(loaded()) == before[0] + 1


def test_changed_rows_and_a_changed_task_are_asked_anew(data, tiny, store, tmp_path):
    _, own = data
    mine = tmp_path / "sums.yaml"
    mine.write_text(own.read_text())
    rows = tmp_path / "sums.jsonl"
    written = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(4)]
    rows.write_text("\n".join(written))

    def ask():
        return evaluate_tasks([str(mine)], str(tiny), store, data=tmp_path, limit=1, passes=CPU)

    first = ask()["sums"]
    rows.write_text("\n".join(written[::-1]))
    other = ask()["sums"]
    assert other.items["target"].to_list() == ["4", "4"]
    mine.write_text(own.read_text().replace("Q: ", "Question: "))
    third = ask()["sums"]
    assert third.items["prompts"][0][0].startswith("Question: ")
    hashes = [(r.made_of["task"], r.made_of["data"]) for r in (first, other, third)]
    assert hashes[0][0] == hashes[1][0] != hashes[2][0]
    assert hashes[0][1] != hashes[1][1] == hashes[2][1]


def test_the_process_is_as_it_was(data, tiny, store, capfd):
    folder, _ = data
    state = (random.getstate(), torch.get_rng_state())
    drawn = np.random.get_state()[1]  # noqa: NPY002
    seen = []
    evaluate_tasks(
        ["arc_easy"], str(tiny), store, data=folder, limit=2, passes=CPU,
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    assert random.getstate() == state[0]
    assert (torch.get_rng_state() == state[1]).all()
    assert (np.random.get_state()[1] == drawn).all()  # noqa: NPY002
    assert seen[-1] == ("task arc_easy", 8, 8)
    out, err = capfd.readouterr()
    assert out == ""
    bars = [bar for bar in err.replace("\n", "\r").split("\r") if bar.strip()]
    assert [bar for bar in bars if not bar.startswith("Loading weights")] == []  # transformers' own


def test_every_shipped_task_names_rows_that_the_harness_can_ask():
    named = tasks.shipped()
    assert len(named) >= 25
    assert {"arc_easy", "gsm8k", "truthfulqa_mc1", "winogrande", "bbh_navigate"} <= {
        t.name for t in named
    }
    assert [t.name for t in tasks.named(["bbh", "copa"])] == [
        *(t.name for t in named if t.name.startswith("bbh_")), "copa",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (["arc_esay"], {}, "there is no task 'arc_esay'"),
        ([], {}, "no task is named"),
        (["copa"], {}, "reads copa.jsonl, which is not under"),
        (["arc_easy"], {"limit": 0}, "limit is at least 1 item; found 0"),
        (["arc_easy"], {"batch_size": 0}, "batch_size is at least 1; found 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, options, message, data, tiny, store):
    with pytest.raises(ValueError, match=message):
        evaluate_tasks(asked, str(tiny), store, data=data[0], passes=CPU, **options)


def test_rows_that_do_not_fit_the_task_are_named(tiny, store, tmp_path):
    (tmp_path / "arc_easy.jsonl").write_text('{"text": "no query"}\n')
    with pytest.raises(ValueError, match="task 'arc_easy' does not load with the rows in"):
        evaluate_tasks(["arc_easy"], str(tiny), store, data=tmp_path, passes=CPU)


def test_a_task_that_fails_while_it_is_asked_is_named(data, tiny, store, tmp_path):
    (tmp_path / "sums.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(ValueError, match=r"task 'sums' cannot be asked: the harness says .*Sample"):
        evaluate_tasks([str(data[1])], str(tiny), store, data=tmp_path, passes=CPU)


@pytest.mark.slow
def test_the_harness_loads_without_a_word():
    code = "import gristmill.pipeline.evaluate.tasks, lm_eval.evaluator, lm_eval.models.huggingface"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
