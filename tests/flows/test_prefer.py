"""The prefer flow: prompts to pairs, again for nothing, killed anywhere, and into trainers."""

import json
import random
import subprocess
import sys
import time
from collections import Counter

import polars as pl
import pytest
import yaml
from fake_openai import FakeOpenAI
from prefer_run import answer, asked, walk_through, written
from repository import ROOT
from rows import write_jsonl

from gristmill.flows import checks, files, planning, prefer_config
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.export.why import stories
from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.records.schema import PAIR, check, digest


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run's folder, its configuration, and the requests that the endpoint got."""
    root = tmp_path_factory.mktemp("prefer")
    with FakeOpenAI(answer=answer) as fake:
        path = written(root, fake.url)
        folder = walk_through(path)
        yield folder, path, fake


def fates(folder):
    """Prompt -> (pairs, reason)."""
    frame = pl.read_parquet(folder / "prompts.parquet")
    return {p: (n, r) for p, n, r in frame.select("prompt", "pairs", "reason").iter_rows() if r is None or not r.startswith("repeated")}  # fmt: skip


def ledger(folder):
    return pl.concat([pl.read_parquet(p) for p in (folder / "ledger").glob("*.parquet")])


def test_every_prompt_has_a_pair_or_its_reason(ran):
    folder, _, _ = ran
    found = fates(folder)
    reason = {text: found[asked(text)][1] for text in (
        *(f"What is {n} + {n}?" for n in range(2, 8)),
        *(f"Tell me of subject {n}, and why it matters." for n in range(4)),
    )}  # fmt: skip
    said = [None if r is None else r.partition(":")[0] for r in reason.values()]
    assert said[:6] == [None, None, "none_correct", None, "one_candidate", "one_candidate"]
    assert said[6:] == ["identical", None, "tied", None]
    assert "empty_answer" in reason["What is 6 + 6?"]
    assert "not_recorded" in reason["What is 7 + 7?"]
    told = json.loads((folder / "summary.json").read_text())
    assert (told["prompts"], told["prompts used"], told["pairs kept"]) == (11, 5, 5)
    assert told["set aside: repeated"] == told["set aside: contaminated"] == 1
    rows = pl.read_parquet(folder / "prompts.parquet")
    assert rows.height == 12
    assert rows.filter(pl.col("reason").is_null() == (pl.col("pairs") == 0)).is_empty()


def test_the_verifier_outweighs_the_judge_and_the_judge_decides_the_rest(ran):
    folder, _, fake = ran
    pairs = check(pl.read_parquet(folder / "records.parquet"), PAIR, "records")
    by = {p[0]["content"]: (c[0]["content"], r[0]["content"]) for p, c, r in pairs.select("prompt", "chosen", "rejected").iter_rows()}  # fmt: skip
    assert by["What is 5 + 5?"] == ("Adding both, we find #### 10", "0, I think")
    assert by["Tell me of subject 3, and why it matters."][1] == "Hm."
    # both sides of the first two sums are right: the judge of length decides
    assert by["What is 2 + 2?"] == ("Adding both, we find #### 4", "4")
    shown = [b["messages"][0]["content"] for b in fake.bodies]
    assert not any("5 + 5" in s for s in shown)  # nobody asks a judge what is known
    told = json.loads((folder / "summary.json").read_text())
    assert told["first-position share"] == 0.5
    assert (told["canaries obeyed"], told["canaries answered"]) == (0, 1)
    assert told["cost of candidates"] > told["cost of judging"] > 0


def test_lineage_reaches_the_published_ledger(ran):
    folder, _, _ = ran
    assert verify(folder) == []
    lines = ledger(folder)
    kept = lines.filter(verdict="kept")
    assert kept.height == 5
    assert set(kept["chosen_role"]) == {"strong"}
    assert kept["rejected_on_policy"].all()
    assert sorted(kept["decided_by"]) == ["judge"] * 4 + ["verifier"]
    judged = kept.filter(decided_by="judge")
    assert judged["verdict_chosen_first"].to_list() == [1.0] * 4
    assert judged["verdict_rejected_first"].to_list() == [1.0] * 4
    assert set(judged["judge"]) == {"pairwise: m"}
    assert (kept["cost"] > 0).all()
    assert lines.filter(verdict="dropped")["reason"].is_not_null().all()
    assert set(lines["prompt_id"]) >= {asked("What is 4 + 4?"), asked("What is 5 + 5?")}
    record = pl.read_parquet(folder / "records.parquet").filter(id=judged["id"][0])
    meta = json.loads(record["meta"][0])
    assert meta["preference"]["chosen"]["aspects"]["share_won"] == 1.0
    (story,) = stories(asked("What is 4 + 4?"), folder, folder / "nowhere")
    assert "none_correct" in json.dumps(story, default=str)


def test_a_rerun_asks_nobody_and_finds_the_same_version(ran):
    folder, path, fake = ran
    before = len(fake.bodies)
    assert walk_through(path) == folder
    assert len(fake.bodies) == before


def test_what_people_said_turns_a_pair(ran, tmp_path):
    folder, path, _ = ran
    item = ledger(folder).filter(decided_by="verifier")["id"][0]
    other = ledger(folder).filter(decided_by="judge")["id"][0]
    said = [
        {**dict.fromkeys(JUDGEMENTS), "item": i, "annotator": "a", "number": n, "judgement": j}
        for n, (i, j) in enumerate([(item, "both_bad"), (other, "rejected")])
    ]
    pl.DataFrame(said, schema=JUDGEMENTS).write_parquet(tmp_path / "said.parquet")
    settings = yaml.safe_load(path.read_text()) | {"judgements": str(tmp_path / "said.parquet")}
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump({**settings, "name": "reviewed"}))
    lines = ledger(walk_through(again))
    assert lines.filter(id=item).select("verdict", "reason").row(0) == ("dropped", "people")
    turned = lines.filter(decided_by="people", verdict="kept")
    assert turned["chosen_role"].to_list() == ["weak"]


def test_length_control_holds_whatever_the_judge_likes(ran, tmp_path):
    _, path, _ = ran
    settings = yaml.safe_load(path.read_text()) | {"length": {"by": "cap", "cap": 0.2}}
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump({**settings, "name": "short"}))
    folder = walk_through(again)
    told = json.loads((folder / "summary.json").read_text())
    assert told["chosen longer, before length control"] == 1.0
    assert told["pairs kept"] == 0  # all are longer: no share of them is within the cap
    assert told["pairs refused: length"] == 5
    assert folder.is_relative_to(path.parent / "store")


def test_the_run_is_checked_and_planned(ran):
    _, path, _ = ran
    config = prefer_config.read(path)
    rows = checks.check(config, "prefer.yaml")
    assert {"what": "rule", "name": "best_random_lower", "is": "-"} in rows
    lines = planning.planned(config, "prefer.yaml").lines
    judge = next(line for line in lines if line.role == "judge")
    assert judge.rows == 10 * 2 + 4
    assert judge.money.value > 0
    assert planning.planned(config, "prefer.yaml").certain.total.all_tokens.value == 0
    flow, _ = files.read_any(path)
    assert flow == "prefer"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidates": {}}, "candidates"),
        ({"candidates": {"judge": {"recorded": "a"}}}, "call a writer anything but judge"),
        ({"candidates": {"a": {"recorded": "a", "samples": 2}}}, "one answer repeated"),
        ({"candidates": {"a": {"sources": [{"path": "a"}], "top_p": 0.5}}}, "top_p changes nothing"),
        ({"candidates": {"a": {"recorded": "a", "rating": "r"}}}, "rating is a column"),
        ({"candidates": {"a": {"recorded": "a", "model": "b"}}}, "exactly one of"),
        ({"judge": {"by": "labels", "model": "m"}}, "leave model and recorded out"),
        ({"judge": {"by": "reward", "model": "m", "url": "http://h/v1"}}, "a reward model on this machine"),
        ({"judge": {"by": "pointwise", "model": "m", "votes": 3}}, "votes changes nothing"),
        ({"judge": {"model": "m", "url": "http://h/v1", "distribution": True}}, "without `url`"),
        ({"judge": {"model": "m", "votes": 3}}, "give a temperature"),
        ({"length": {"by": "cap", "cap": 1.0}}, "length.cap"),
        ({"answer_column": "a", "verify": None}, "answer_column"),
        ({"limits": {"max_money": 1}, "judge": None, "candidates": {"a": {"recorded": "a"}}}, "caps nothing"),
        ({"curate": {"scorer": []}}, "curate: scorers"),
        ({"typo": 1}, "typo"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_at_once(tmp_path, change, said):
    path = written(tmp_path, "http://localhost:1/v1", **change)
    with pytest.raises(ValueError, match=said):
        prefer_config.read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rule": "best"}, "there is no pair rule 'best'"),
        ({"rule": "margin"}, "least"),
        ({"rule": "delta", "settings": {"strong": "strong", "weak": "small"}}, "no writer 'small'"),
        ({"verify": None, "judge": None}, "nothing gives any"),
        ({"judgements": "nowhere.parquet"}, "nowhere"),
    ],
)
def test_a_check_names_what_cannot_work(tmp_path, change, said):
    path = written(tmp_path, "http://localhost:1/v1", **change)
    with pytest.raises(ValueError, match=said):
        checks.check(prefer_config.read(path), "prefer.yaml")


def test_rows_that_answer_no_prompt_are_told(tmp_path):
    write_jsonl(tmp_path / "else.jsonl", [{"prompt": "Else?", "completion": "No."}])
    other = {"candidates": {"a": {"sources": [{"path": str(tmp_path / "else.jsonl")}]}}}
    path = written(tmp_path, "http://localhost:1/v1", judge=None, **other)
    with pytest.raises(ValueError, match="answer none of the prompts"):
        walk_through(path)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from prefer_run import walk_through
print(walk_through(Path(sys.argv[1])))
"""


def killed(root, kills, delay):
    """Kill a run at so many moments and let it end; requests by content, and its folder."""
    with FakeOpenAI(answer=answer, delay=delay) as fake:
        writers = {
            "a": {"model": "m", "url": fake.url, "workers": 1, "samples": 2, "temperature": 1.0},
            "b": {"model": "n", "url": fake.url, "workers": 1},
        }
        path = written(root, fake.url, candidates=writers, verify=None)
        command = [sys.executable, "-c", KILLED, str(path), str(ROOT / "tests" / "helpers")]
        draw = random.Random(0)
        for _ in range(kills):
            target = len(fake.bodies) + draw.randint(2, 8)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while len(fake.bodies) < target:
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 2 * delay))
            process.kill()
            process.wait()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return Counter(digest(body) for body in fake.bodies), done.stdout.strip()


@pytest.mark.slow
@pytest.mark.fault("killed: preference pairs, while an endpoint answers")
def test_killed_at_ten_moments_no_finished_request_is_repeated(tmp_path, record_property):
    asked_of, folder = killed(tmp_path, 10, 0.1)
    assert sum(asked_of.values()) - len(asked_of) <= 10  # one in flight at each kill, at most
    assert len(asked_of) == 10 * 3 + 10 * 3 * 2 + 2 * 2  # answers, both orders, a canary
    assert "v1-" in folder
    record_property("fault", ("right", 10))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_dpo_trainer_takes_the_folder_as_it_is(ran, tiny, tmp_path):
    import datasets
    from trl import DPOConfig, DPOTrainer

    folder, _, _ = ran
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    arguments = DPOConfig(
        output_dir=str(tmp_path / "d"), max_steps=1, per_device_train_batch_size=2, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(model=str(tiny), args=arguments, train_dataset=rows)
    assert len(trainer.train_dataset) == 5
    assert trainer.train().training_loss > 0
