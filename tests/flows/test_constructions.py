"""Further ways to build pairs, from a run's settings to its published folder."""

import json
import re

import polars as pl
import pytest
from fake_openai import FakeOpenAI
from review_users import reviews, users
from rows import write_jsonl
from scripted_model import Script, ScriptCache
from toy_training import one_thread  # noqa: F401  (a fixture)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gristmill.flows import config as configs
from gristmill.flows import constructions, finetune_steps, prefer_plan, prefer_steps
from gristmill.flows.finetune_config import FinetuneRunConfig
from gristmill.flows.prefer_config import PreferConfig
from gristmill.flows.problems import Problems
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.completion import backtracking
from gristmill.pipeline.models.completion.local import Local
from gristmill.pipeline.models.load import LoadedModel, load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.final_tokens import FINAL_TOKENS
from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.road.published import Published, Version
from gristmill.synthesis.preference.candidates import candidate_id, prompt_id


def ident(text):
    return prompt_id([{"role": "user", "content": text, "extra": None}])


def examples(rows):
    turns = [(("user", asked), ("assistant", said)) for asked, said in rows]
    return [{"messages": [{"role": r, "content": c} for r, c in t]} for t in turns]


def recorded(path, answers):
    write_jsonl(path, [{"id": k, "text": v} for k, v in answers.items()])
    return {"recorded": str(path)}


def asked(root, **settings):
    given = {"name": "toy", "store": str(root / "store"), "export": {"root": str(root / "out")}}
    given["export"] |= settings.pop("export", {})
    (root / "store").mkdir(exist_ok=True)
    return configs.validated(PreferConfig, {**given, **settings}, "x")


def walked(config):
    """The folder that a run ends with; its parts, without Prefect."""
    prompts = prefer_steps.gather(config)
    answers = prefer_steps.answer(config, prompts)
    return prefer_steps.publish(
        config, prompts, answers, prefer_steps.judge(config, prompts, answers)
    )


def said(pairs, *columns):
    """The texts of the first turns."""
    first = [pl.col(c).list.first().struct.field("content").alias(c) for c in columns]
    return pairs.select(first).rows()


def ledger(folder):
    return pl.concat([pl.read_parquet(p) for p in (folder / "ledger").glob("*.parquet")])


# ---------------------------------------------------------------- fusion

SUMS = {f"What is {n} + {n}?": str(2 * n) for n in range(2, 7)}


def test_fused_answers_are_the_chosen_side_and_examples_of_their_own(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", examples([(q, f"#### {a}") for q, a in SUMS.items()]))
    right = {q: f"Adding both gives #### {a}" for q, a in SUMS.items()}
    wrong = dict.fromkeys(SUMS, "I would guess #### 1")
    fused = {q: f"Both numbers are the same, so we double: #### {a}" for q, a in SUMS.items()}
    first, second, *_ = SUMS
    fused[first] = "It is #### 99"  # falls back
    fused[second] = right[second]  # copies
    config = asked(
        tmp_path,
        sources=[{"path": str(tmp_path / "q.jsonl")}],
        candidates={
            "good": recorded(
                tmp_path / "g.jsonl", {f"good/{ident(q)}": t for q, t in right.items()}
            ),
            "bad": recorded(tmp_path / "b.jsonl", {f"bad/{ident(q)}": t for q, t in wrong.items()}),
            "fused": {
                **recorded(
                    tmp_path / "f.jsonl", {f"fused/{ident(q)}": t for q, t in fused.items()}
                ),
                "fuses": {},
            },
        },
        rule="against",
        settings={"strong": "fused", "other": "worst"},
        length={"by": "none"},
        export={"pair_views": ["kto", "reward"]},
    )
    folder = walked(config)
    assert verify(folder) == []
    pairs = pl.read_parquet(folder / "records.parquet")
    sides = said(pairs, "prompt", "chosen", "rejected")
    assert sorted(sides) == [
        (q, fused[q], wrong[q]) for q in sorted(SUMS) if q not in (first, second)
    ]
    told = ledger(folder).filter(verdict="kept")
    assert set(told["chosen_role"]) == {"fused"}
    assert set(told["decided_by"]) == {"verifier"}
    lost = pl.read_parquet(folder / "unanswered.parquet")
    assert sorted(r.partition(":")[0] for r in lost["reason"]) == ["copied", "fallback"]
    made = pl.read_parquet(folder / "fused_examples.parquet")
    answers = made["messages"].list.last().struct.field("content").to_list()
    assert sorted(answers) == sorted(
        [right[first], *(fused[q] for q in SUMS if q not in (first, second))]
    )
    kto = pl.read_parquet(folder / "kto/*.parquet")
    assert kto["label"].to_list() == [True, False] * 3
    assert pl.read_parquet(folder / "reward/*.parquet")["margin"].to_list() == [1.0] * 3
    written = json.loads(pairs["meta"][0])["preference"]["chosen"]
    assert len(written["sampling"]["fused_from"]) == 2
    assert set(written["aspects"]) == {"verified"}, "what is known of an answer is no score"


# ---------------------------------------------------------------- avoided phrases


def scripted(tiny, root, texts):
    (root / "models").mkdir()
    files = resolve(str(tiny), Store(root=root / "models"))
    chat = load_tokenizer(files)
    model = Script(texts, chat, "<|im_start|>assistant\n")
    return Local(
        loaded=LoadedModel(files=files, model=model, chat=chat, device="cpu", dtype="float32")
    )


def test_avoided_phrases_make_pairs_and_final_tokens_that_a_stage_trains_on(
    tiny, tmp_path, monkeypatch
):
    texts = {
        "It is a rich tapestry of life.": 10.0,
        "It is a warm mixture of life.": 9.5,
        "It is a vast river.": 9.0,
        "It is a plain room.": 8.5,
        "It is a dull one.": 8.0,
        "It is a kind tapestry.": 7.5,
    }
    local = scripted(tiny, tmp_path, texts)
    monkeypatch.setattr(constructions, "answerer", lambda *_: local)
    monkeypatch.setattr(backtracking, "DynamicCache", ScriptCache)
    pl.DataFrame({"phrase": ["rich tapestry", "vast river"], "ratio": [9.0, 2.0]}).write_parquet(
        tmp_path / "phrases.parquet"
    )
    write_jsonl(tmp_path / "q.jsonl", examples([(f"What is thing {i}?", "x") for i in range(8)]))
    config = asked(
        tmp_path,
        sources=[{"path": str(tmp_path / "q.jsonl")}],
        candidates={
            "clean": {
                "model": str(tiny),
                "max_tokens": 60,
                "on_policy": True,
                "avoids": {"table": str(tmp_path / "phrases.parquet"), "most": 1},
            }
        },
        verify=None,
        rule="delta",
        settings={"strong": "clean", "weak": "clean:plain"},
        length={"by": "none"},
        export={"validation_fraction": 0.25},
    )
    folder = walked(config)
    pairs = pl.read_parquet(folder / "records.parquet")
    assert pairs.height == 8
    assert set(said(pairs, "chosen", "rejected")) == {
        ("It is a warm mixture of life.", "It is a rich tapestry of life.")
    }
    rows = pl.read_parquet(folder / "final_tokens.parquet")
    assert dict(rows.schema) == FINAL_TOKENS
    assert set(rows["pair"]) == set(pairs["id"])
    assert rows["rejected"].to_list() == ["r"] * 8
    assert rows["chosen"].to_list() == [list("wvpdk")] * 8
    run = configs.validated(
        FinetuneRunConfig,
        {
            "dataset": str(folder),
            "stage": "ftpo",
            "models": {"target": str(tiny)},
            "training": {"batch_size": 4, "learning_rate": 1e-3, "epochs": 2},
            "lora": {"rank": 4, "alpha": 8, "targets": "all-linear"},
            "store": str(tmp_path / "store"),
            "passes": {"device": "cpu"},
        },
        "x",
    )
    made = finetune_steps.trained(run)
    assert made.name == "toy-ftpo"
    held = ledger(folder)["split_group"].n_unique()
    assert made.facts["rows"]["given"] == made.facts["rows"]["trained"] < held == 8
    assert made.facts["rows"]["tokens_with_loss"] == made.facts["rows"]["trained"]
    assert [m["what"] for m in made.facts["held_out"]["measures"]] == ["chosen answer more likely"]
    assert "final-token preference optimisation" in made.card


def test_a_dataset_without_final_tokens_says_how_to_get_some(tmp_path):
    rows = pl.DataFrame({"id": ["a"]})
    version = Version(folder=tmp_path, manifest={}, manifest_sha="")
    published = Published(version=version, train=rows, validation=rows, notes=())
    with pytest.raises(ValueError, match=r"holds no final_tokens\.parquet, which the stage ftpo"):
        published.final_tokens()


def test_an_answer_without_a_phrase_gives_no_pair(tiny, tmp_path, monkeypatch):
    local = scripted(tiny, tmp_path, {"So be it.": 1.0})
    monkeypatch.setattr(constructions, "answerer", lambda *_: local)
    monkeypatch.setattr(backtracking, "DynamicCache", ScriptCache)
    write_jsonl(tmp_path / "q.jsonl", examples([("What?", "x")]))
    config = asked(
        tmp_path,
        sources=[{"path": str(tmp_path / "q.jsonl")}],
        candidates={"clean": {"model": str(tiny), "avoids": {"phrases": ["rich tapestry"]}}},
        verify=None,
        rule="delta",
        settings={"strong": "clean", "weak": "clean:plain"},
    )
    folder = walked(config)
    (reason,) = pl.read_parquet(folder / "prompts.parquet")["reason"]
    assert reason.startswith("no_candidate: no_phrase")


# ---------------------------------------------------------------- what people decide


def test_people_are_shown_what_the_judge_could_not_decide_and_their_word_makes_a_pair(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", examples([("Which?", "x"), ("Why?", "x")]))
    texts = {"a": "The first, I would say.", "b": "The second."}
    told = {f"{r}/{ident(q)}": t for r, t in texts.items() for q in ("Which?", "Why?")}
    writer, first = recorded(tmp_path / "w.jsonl", told), json.dumps({"better": "first"})
    said = {}
    for q in ("Which?", "Why?"):
        one, two = sorted(candidate_id(ident(q), t) for t in texts.values())
        said |= {f"{one}/{two}:{name}-first": first for name in ("one", "two")}
    settings = {
        "sources": [{"path": str(tmp_path / "q.jsonl")}],
        "candidates": {"a": writer, "b": writer},
        "verify": None,
        "judge": {**recorded(tmp_path / "j.jsonl", said), "canaries": 0},
        "length": {"by": "none"},
    }
    folder = walked(asked(tmp_path, **settings))
    assert set(pl.read_parquet(folder / "prompts.parquet")["reason"]) == {
        "orders_disagree: the judge prefers another answer in each order"
    }
    store = Store(root=tmp_path / "store")
    shown = ingest(store, [Source(path=str(folder / "undecided.parquet"))], kind="pair").frame()
    assert shown.height == 2
    judged = [
        {**dict.fromkeys(JUDGEMENTS), "item": i, "annotator": "a", "number": n, "judgement": j}
        for n, (i, j) in enumerate(zip(shown["id"], ("chosen", "rejected"), strict=True))
    ]
    pl.DataFrame(judged, schema=JUDGEMENTS).write_parquet(tmp_path / "said.parquet")
    folder = walked(asked(tmp_path, **settings, judgements=str(tmp_path / "said.parquet")))
    kept, before = pl.read_parquet(folder / "records.parquet"), shown.to_dicts()
    assert set(ledger(folder).filter(verdict="kept")["decided_by"]) == {"people"}
    assert {r["chosen"][0]["content"] for r in kept.to_dicts()} == {
        before[0]["chosen"][0]["content"],
        before[1]["rejected"][0]["content"],
    }
    assert not (folder / "undecided.parquet").exists()


# ---------------------------------------------------------------- users and choice


def told(body):
    """The parts of a judge's request, by name."""
    content = body["messages"][0]["content"]
    parts = re.findall(r"<(\w+) ([0-9a-f]{12})>\n(.*?)\n</\1 \2>", content, re.S)
    return {name: text for name, _, text in parts}


def prefers(body):
    """The review users' verdict on the two answers shown."""
    shown = told(body)
    who = shown.get("description_of_the_person", "")
    (user,) = [u for u in users() if u.description == who] or [users()[0]]
    one, two = user.worth(shown["first_answer"]), user.worth(shown["second_answer"])
    return json.dumps({"better": "tie" if one == two else "first" if one > two else "second"})


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Prompts, and two writers of reviews, one of each kind."""
    root = tmp_path_factory.mktemp("films")
    prompts, pairs = reviews(8)
    write_jsonl(root / "q.jsonl", examples([(p.text, "x") for p in prompts.values()]))
    rows = [(prompts[v.prompt].text, v.one.text, v.two.text) for v in pairs]
    for name, at in (("a", 1), ("b", 2)):
        write_jsonl(root / f"{name}.jsonl", examples([(r[0], r[at]) for r in rows]))
    return {
        "sources": [{"path": str(root / "q.jsonl")}],
        "candidates": {n: {"sources": [{"path": str(root / f"{n}.jsonl")}]} for n in "ab"},
        "verify": None,
        "length": {"by": "none"},
    }


def endpoint(fake, **more):
    return {"by": "pairwise", "model": "m", "url": fake.url, **more}


def test_users_get_few_shot_pairs_and_stay_on_one_side_of_a_split(films, tmp_path):
    people = {u.id.replace(" ", "-"): u.description for u in users()}
    with FakeOpenAI(answer=prefers) as fake:
        config = asked(
            tmp_path,
            **films,
            judge=endpoint(fake),
            personas={"users": people, "shots": 3},
            export={"validation_fraction": 0.25},
        )
        folder = walked(config)
        sent = len(fake.bodies)
        assert sent == 8 * 8 * 2, "every user, every pair, both orders, no canary"
        assert walked(config) == folder
        assert len(fake.bodies) == sent
    pairs = pl.read_parquet(folder / "records.parquet")
    assert pairs.height == 8 * 2
    lines = ledger(folder).filter(verdict="kept")
    sides = {}
    for split in ("train", "validation"):
        ids = pl.read_parquet(folder / f"data/{split}-*.parquet")["id"]
        sides[split] = set(lines.filter(pl.col("id").is_in(ids.implode()))["cluster"])
    assert sides["train"] | sides["validation"] == set(people)
    assert not sides["train"] & sides["validation"]
    assert set(lines["decided_by"]) == {"judge"}
    assert lines["verdict_chosen_first"].to_list() == [1.0] * 16
    assert pl.read_parquet(folder / "users.parquet")["entropy"].to_list() == [0.0] * 8
    labels = pl.read_parquet(folder / "labels.parquet")
    assert (labels.height, labels["label"].null_count()) == (8 * 8, 0)
    text = pairs["prompt"].list.first().struct.field("content")[0]
    assert text.count("### Example") == 3


@pytest.mark.parametrize("choose", ["random", "gradients", "uncertainty"])
def test_the_judge_is_asked_of_the_prompts_that_were_chosen(choose, films, tiny, tmp_path):
    label = {"choose": choose, "budget": 4}
    more = {"target": str(tiny), "passes": {"device": "cpu"}}
    if choose == "uncertainty":
        label["models"] = [rewarding(tiny, tmp_path / f"reward-{n}", n) for n in range(2)]
    with FakeOpenAI(answer=prefers) as fake:
        config = asked(
            tmp_path, **films, judge=endpoint(fake, canaries=0), label=label, rule="best_worst",
            **more,
        )  # fmt: skip
        folder = walked(config)
        assert len({told(b)["request"] for b in fake.bodies}) == 4
        assert len(fake.bodies) == 4 * 2
    fates = pl.read_parquet(folder / "prompts.parquet")
    assert fates.filter(pl.col("pairs") > 0).height == 4
    reasons = fates.filter(pairs=0)["reason"]
    assert {r.partition(" other")[0] for r in reasons} == {"not_chosen:"}
    (line,) = (x for x in prefer_plan.lines(config, None) if x.role == "judge")
    assert line.rows == 4 * 2


def rewarding(tiny, path, seed):
    """A reward model of random weights."""
    import torch

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    model.config.pad_token_id = 0
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(path)
    return str(path)


# ---------------------------------------------------------------- settings that do not fit


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"candidates": {"f": {"model": "m", "fuses": {}}}}, "has nothing to fuse"),
        ({"candidates": {"f": {"model": "m", "fuses": {}, "avoids": {"phrases": ["x"]}}}},
         "a writer fuses or avoids"),
        ({"candidates": {"f": {"model": "m", "url": "http://x/v1", "avoids": {"phrases": ["x"]}}}},
         "reads the tokens of a model in memory"),
        ({"candidates": {"f": {"model": "m", "avoids": {}}}}, "name `phrases`, or the `table`"),
        ({"label": {"choose": "random", "budget": 3}}, "label chooses what is judged"),
        ({"judge": {"model": "m"}, "label": {"choose": "gradients", "budget": 3}},
         "give `target`"),
        ({"judge": {"model": "m"}, "label": {"choose": "uncertainty", "budget": 3}},
         "`models` are the reward models"),
        ({"personas": {"users": {"u": "x"}}}, "give a `judge` by pairwise"),
        ({"judge": {"model": "m"}, "personas": {"users": 3}}, "wants a `writer`"),
        ({"judge": {"model": "m"}, "personas": {"users": {"u": "x"}}, "rule": "margin"},
         "rule changes nothing where `personas` decide"),
        ({"judge": {"model": "m", "canaries": 2}, "personas": {"users": {"u": "x"}}},
         "judge.canaries: none are shown"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_one_sentence(settings, said):
    given = {"name": "x", "sources": [{"path": "q"}], "candidates": {"a": {"model": "m"}}}
    with pytest.raises(Problems) as error:
        configs.validated(PreferConfig, {**given, **settings}, "x")
    assert said in " ".join(error.value.sentences)
