"""Fusion-of-N: a fusor of facts, and each guard with a text that trips it."""

import dataclasses
import re

import polars as pl
import pytest

from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.pipeline.models.completion.requests import Reply, Request
from gristmill.synthesis.preference.answering import Answered, Client
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.constructed import tables
from gristmill.synthesis.preference.fused import examples, row
from gristmill.synthesis.preference.fusion import Fusion
from gristmill.synthesis.preference.outcome import Controls
from gristmill.synthesis.preference.prompts import Prompt
from gristmill.synthesis.preference.rules import Draw, rule_named

ASKED = "Which facts about the river are known to you? Please list as many of them as you can."


def prompt(answer=None, text=ASKED, name="p"):
    turns = [{"role": "user", "content": text, "extra": None}]
    return Prompt(
        id=name,
        source="s",
        row=0,
        license="MIT",
        messages=turns,
        tools=None,
        text=text,
        answer=answer,
    )


def candidates(*texts, of="p"):
    return [Candidate(prompt=of, text=t, role=f"r{i}") for i, t in enumerate(texts)]


@dataclasses.dataclass(frozen=True)
class Facts(Recorded):
    """A fusor that says every fact of every candidate once, sorted: any order, one answer."""

    answers: dict = dataclasses.field(default_factory=dict)

    def _look_up(self, request: Request) -> Reply:
        facts = sorted(set(re.findall(r"fact\d+", request.messages[-1]["content"])))
        text = "The river is known for this: " + ", ".join(facts) + "."
        return Reply(text=text, tokens_in=self.prompt_tokens(request), tokens_out=len(facts))


def fuse(backend, given, asked=None, **settings):
    (found,) = Fusion(role="fused", backend=backend, **settings).fuse(
        [asked or prompt()], given, Client()
    )
    return found


def said(text):
    return Recorded(answers={"fused/p": text})


def test_the_fused_answer_has_the_facts_of_all_whatever_their_order():
    given = candidates("It has fact1 and fact2.", "There is fact2, fact3.", "I know fact4 only.")
    found = fuse(Facts(), given)
    facts = set(re.findall(r"fact\d+", found.text))
    assert facts == {"fact1", "fact2", "fact3", "fact4"}
    assert all(facts >= set(re.findall(r"fact\d+", c.text)) for c in given)
    assert (found.origin, found.reason) == ("fused", None)
    assert found.text == fuse(Facts(), given[::-1], seed=7).text
    orders = {fuse(Facts(), given, seed=s).shown for s in range(8)}
    assert len(orders) > 1, "the order is drawn"
    assert fuse(Facts(), given[::-1], seed=3).shown == fuse(Facts(), given, seed=3).shown


def test_the_fusor_sees_numbers_and_no_names():
    given = [dataclasses.replace(c, model="secret-model") for c in candidates("one fact1", "two")]
    writer = Fusion(role="fused", backend=Facts())
    request = writer.request(writer._shown(prompt(), given))
    text = " ".join(m["content"] for m in request.messages)
    assert "secret-model" not in text
    assert "r0" not in text.split()
    assert "<candidate_1 " in text
    assert "<candidate_2 " in text
    assert request.sampling.temperature == 0


def test_one_candidate_is_its_own_fusion_and_no_call():
    backend = Facts()
    found = fuse(backend, candidates("It has fact1.", " It has fact1. "))
    assert (found.text, found.origin) == ("It has fact1.", "alone")
    assert backend.asked == []
    assert fuse(backend, []).reason.startswith("no_candidate")


def test_the_longest_candidates_leave_and_no_text_is_cut():
    given = candidates("short fact1", "fact2 " * 400, "brief fact3", "fact4 " * 300)
    found = fuse(Facts(), given, most_tokens=260)
    ids = {c.id: c for c in given}
    assert [ids[i].text[:5] for i in found.left_out] == ["fact2", "fact4"]
    assert {ids[i].text for i in found.shown} == {"short fact1", "brief fact3"}
    assert fuse(Facts(), given[1::2], most_tokens=260).reason.startswith("too_long")


LONG = "The river rises in the northern hills and carries melted snow down to the sea in spring."
OTHER = "Boats trade along it, and two old bridges cross it where the market town was founded."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LONG + "!", "copied"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        (
            "Candidate 2 is right that the river rises in the hills and is full of old boats.",
            "mentions",
        ),
        (
            "Der Fluss entspringt in den Bergen im Norden und viele Boote fahren auf ihm zum Meer.",
            "language",
        ),
        (
            "It rises in the north, boats trade along it, and two bridges cross it near the town.",
            None,
        ),
    ],
)
def test_each_guard_has_its_reason(text, reason):
    found = fuse(said(text), candidates(LONG, OTHER))
    assert (found.reason or "").partition(":")[0] == (reason or "")
    made = Fusion(role="fused", backend=said(text)).answer(
        [prompt()], candidates(LONG, OTHER), Client()
    )
    assert len(made.candidates) == (reason is None)
    assert [u["reason"].partition(":")[0] for u in made.unanswered] == [reason] * bool(reason)


def test_a_refusal_stands_where_all_candidates_decline():
    no = "I'm sorry, but I can't help with that."
    assert (
        fuse(
            said("I cannot help you with poisons of any kind."),
            candidates(no, "I can't assist with this."),
        ).reason
        is None
    )


@pytest.mark.parametrize(
    ("text", "origin", "answer"),
    [
        ("So it is #### 7", "fused", "So it is #### 7"),
        ("So it is #### 8", "fallback", "Clearly #### 7"),
        ("I do not know.", "fallback", "Clearly #### 7"),
    ],
)
def test_a_fused_answer_that_is_wrong_falls_back_to_a_candidate_that_is_right(text, origin, answer):
    given = candidates("Clearly #### 7", "It must be #### 9", "After long thought it is #### 7")
    found = fuse(said(text), given, prompt(answer="7", text="What is 3 + 4?"))
    assert (found.origin, found.text) == (origin, answer)
    none = fuse(said(text), given[1:2] + candidates("No idea"), prompt(answer="7", text="3 + 4?"))
    assert none.origin == "fused", "no candidate is right either"


def test_a_failed_fusor_loses_nothing():
    made = Fusion(role="fused", backend=Recorded(answers={})).answer(
        [prompt()], candidates(LONG, OTHER), Client()
    )
    assert made.candidates == ()
    assert made.unanswered[0]["reason"].startswith("not_recorded")


def test_fused_answers_become_examples_and_the_chosen_side_of_pairs():
    given = candidates("Clearly #### 7", "It must be #### 9")
    asked = prompt(answer="7", text="What is 3 + 4?")
    fallback = fuse(said("#### 8"), given, asked)
    wrong = dataclasses.replace(fallback, origin="fused", reason="copied: ...")
    rows = examples([row(fallback), row(wrong)], {"p": asked})
    assert rows["messages"].to_list()[0][-1]["content"] == "Clearly #### 7"
    assert rows.height == 1
    writer = Fusion(role="fused", backend=said("It is seven, as both know: #### 7"))
    (one,) = writer.answer([asked], given, Client()).candidates
    assert one.sampling["fused_from"] == list(writer.fuse([asked], given, Client())[0].shown)
    rated = [dataclasses.replace(c, score=float(i)) for i, c in enumerate([*given, one])]
    draw = Draw(seed=0, prompt="p")
    worst = rule_named("against", {"strong": "fused", "other": "worst"}).pairs(rated, draw)
    assert worst == [(rated[2], rated[0])]
    ((chosen, rejected),) = rule_named("against", {"strong": "fused"}).pairs(rated, draw)
    assert chosen == rated[2]
    assert rejected in rated[:2]
    assert rule_named("against", {"strong": "nobody"}).pairs(rated, draw) == []


def test_a_fused_answer_that_repeats_an_evaluation_set_is_no_example():
    item = "a train leaves the station at noon and travels sixty miles an hour to the next town"
    rows = [
        {**row(fuse(said(text), candidates("one fact", "two facts"))), "prompt": name}
        for name, text in (("p", f"It goes: {item}."), ("q", "The river is long and it is cold."))
    ]
    prompts = {name: prompt(name=name) for name in "pq"}
    items = pl.DataFrame({"benchmark": ["exam"], "item": ["0"], "text": [item]})
    made = tables(Answered(fused=tuple(rows)), [], prompts, Controls(items=items))
    left = made["fused_examples.parquet"]["messages"].list.last().struct.field("content")
    assert left.to_list() == [rows[1]["text"]]
    assert made["fused.parquet"]["reason"].to_list() == ["contaminated: exam", None]
