"""Every setting of a rule or filter acts: another value gives another order, or other drops."""

import dataclasses

import polars as pl
import pytest

from gristmill.pipeline.clean.filters import filter_named, filters
from gristmill.pipeline.selection.rules import rule_named, rules

N = 12
SCORES = pl.DataFrame(
    {
        "id": [f"{i:02d}" for i in range(N)],
        "score": [i / N for i in range(N)],
        "score_b": [(5 * i) % N / N for i in range(N)],
        "score_target_a": [i / N for i in range(N)],
        "score_target_b": [(7 * i) % N / N for i in range(N)],
        "score_other_a": [-i / N for i in range(N)],
        "tokens": [(11 * i) % 13 for i in range(N)],
        "cost": [1] * N,
        "source": ["a"] * 8 + ["b"] * 4,
        "license": ["a", "b", "b"] * 4,
    }
)
# Rule -> setting -> the settings before, and with another value of it.
RULES = {
    "band": {
        "low": ({}, {"low": 0.5}),
        "high": ({}, {"high": 0.5}),
        "unit": ({"low": 0.3, "high": 0.6}, {"low": 0.3, "high": 0.6, "unit": "value"}),
        "columns": ({}, {"columns": ("score_b",)}),
        "target_keep": ({}, {"target_keep": 0.3}),
    },
    "curriculum": {
        "by": ({}, {"by": "tokens"}),
        "within": ({}, {"within": "source"}),
    },
    "gumbel": {"temperature": ({}, {"temperature": 0.01}), "seed": ({}, {"seed": 7})},
    "mixture": {
        "by": ({"shares": {"a": 1, "b": 1}}, {"shares": {"a": 1, "b": 1}, "by": "license"}),
        "shares": ({"shares": {"a": 1, "b": 1}}, {"shares": {"a": 5, "b": 1}}),
        "caps": ({"caps": {"b": 1.0}}, {"caps": {"b": 0.2}}),
        "upsample": ({"shares": {"a": 1, "b": 9}}, {"shares": {"a": 1, "b": 9}, "upsample": 3}),
    },
    "multinomial": {"temperature": ({}, {"temperature": 0.01}), "seed": ({}, {"seed": 7})},
    "round_robin": {
        "prefix": ({}, {"prefix": "score_other_"}),
        "shares": ({}, {"shares": {"a": 3, "b": 1}}),
    },
    "stratified": {
        "by": ({}, {"by": "license"}),
        "balanced": ({}, {"balanced": False}),
    },
    "threshold": {
        "min": ({"min": 0.2}, {"min": 0.5}),
        "max": ({"min": 0.2}, {"min": 0.2, "max": 0.7}),
    },
    "top": {},
    "weighted": {"stretch": ({}, {"stretch": True})},
}

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "near",
    "that",
    "old",
    "stone",
    "bridge",
    "with",
    "me",
]
LONG = [
    " ".join(f"{w}{i}" if i % 3 else w for i, w in enumerate(WORDS * 5)),  # prose that is fine
    " ".join(["to be or not to be said that man with the hat"] * 8),  # 3-grams again and again
    "\n".join(["a line that is said again with the same words"] * 8),
    " ".join(f"#{w}" for w in WORDS * 5),
    "\n".join(f"- the {w} of that and with" for w in WORDS),
    "\n".join(f"the {w} of that and with ..." for w in WORDS),
    " ".join(f"{1000 + i} that" for i in range(40)),
    " ".join(f"{w}ness{i}" for i, w in enumerate(WORDS * 5)),  # hardly a stop word
    " ".join("abcdefghijklmnopqr" for _ in range(60)),
]
SHORT = [
    "",
    "No.",
    "Bonjour, je voudrais une baguette et deux croissants, s'il vous plait.",
    "Well, it is like this: " + "so " * 80 + "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't help with that.",
    "Write to jane@corp-mail.io or call 030 1234567.",
    "Use AKIA" + "QYLPMN5HFIQR7XYA" + " as the key.",
    "<|im_start|>user",
    "You are a stupid worthless idiot and everybody hates you, you moron.",
]


def example(asked, said, i):
    turns = [
        {"role": r, "content": c, "extra": None} for r, c in (("user", asked), ("assistant", said))
    ]
    return {
        "id": f"{i:02d}",
        "source": "file",
        "row": i,
        "license": [None, "MIT", "CC-BY-4.0"][i % 3],
        "meta": None,
        "tools": None,
        "messages": turns,
    }


@pytest.fixture(scope="module")
def records():
    """Answers that some filter objects to, and questions that it does."""
    answers = [("Why?", text) for text in (*LONG, *SHORT)]
    questions = [(text, "Because.") for text in (*LONG, *SHORT)]
    rows = [example(*turns, i) for i, turns in enumerate([*answers, *questions])]
    schema = {"meta": pl.String, "tools": pl.String}
    return pl.DataFrame(rows, schema_overrides=schema)


PROMPTS = ({}, {"part": "prompt"})
FILTERS = {
    "language": {
        "allowed": ({}, {"allowed": ("fr",)}),
        "part": PROMPTS,
        "min_probability": ({}, {"min_probability": 0.999}),
        "min_letters": ({}, {"min_letters": 70}),
    },
    "length": {
        "part": PROMPTS,
        "min_words": ({}, {"min_words": 5}),
        "max_words": ({}, {"max_words": 20}),
    },
    "license": {
        "allowed": ({"allowed": ("MIT",)}, {"allowed": ("CC-BY-4.0",)}),
        "unknown": ({"allowed": ("MIT",)}, {"allowed": ("MIT",), "unknown": True}),
    },
    "pii": {
        "kinds": ({}, {"kinds": ("card",)}),
        "part": PROMPTS,
        "region": ({"kinds": ("phone",)}, {"kinds": ("phone",), "region": "DE"}),
    },
    "phrases": {
        "listed": ({"listed": ("quick brown",)}, {"listed": ("said that",)}),
        "most": ({"listed": ("said",)}, {"listed": ("said",), "most": 9}),
        "part": ({"listed": ("said",)}, {"listed": ("said",), "part": "prompt"}),
    },
    "prose": {
        "part": PROMPTS,
        "min_words": ({}, {"min_words": 500}),
        "word_length": ({}, {"word_length": (1.0, 30.0)}),
        "symbols": ({}, {"symbols": 2.0}),
        "bullets": ({}, {"bullets": 1.0}),
        "ellipses": ({"symbols": 2.0}, {"symbols": 2.0, "ellipses": 1.0}),
        "alphabetic": ({}, {"alphabetic": 0.1}),
        "stop_words": ({}, {"stop_words": 0}),
    },
    "refusal": {"head": ({}, {"head": 500})},
    "repetition": {
        "part": PROMPTS,
        "min_words": ({}, {"min_words": 500}),
        "top": ({"repeated": {}, "lines": 1}, {"repeated": {}, "lines": 1, "top": {2: 1.0}}),
        "repeated": ({"top": {}, "lines": 1}, {"top": {}, "lines": 1, "repeated": {5: 1.0}}),
        "lines": ({"top": {}, "repeated": {}}, {"top": {}, "repeated": {}, "lines": 1.0}),
    },
    "secrets": {"part": PROMPTS},
    "template_leak": {"part": PROMPTS},
    "toxicity": {"part": PROMPTS, "threshold": ({}, {"threshold": 0.0})},
    "where": {"sql": ({"sql": "answer_words > 3"}, {"sql": "license = 'MIT'"})},
}


def names(cls):
    return {f.name for f in dataclasses.fields(cls)}


def ordered(rule):
    """Which rows a rule takes within a room of nine, in order, with their weights."""
    return rule.order(SCORES, 9.0)[:9].rows()


@pytest.mark.filterwarnings("ignore:mixture:UserWarning")
@pytest.mark.parametrize("name", sorted(rules()))
def test_every_setting_of_a_rule_acts(name):
    assert names(rules()[name]) == set(RULES[name]), "a setting has no other value here"
    for setting, (before, after) in RULES[name].items():
        assert {k for k in after if after[k] != before.get(k)} == {setting}
        assert ordered(rule_named(name, before)) != ordered(rule_named(name, after)), setting


@pytest.mark.parametrize("name", sorted(filters()))
def test_every_setting_of_a_filter_acts(name, records):
    assert names(filters()[name]) == set(FILTERS[name]), "a setting has no other value here"
    for setting, (before, after) in FILTERS[name].items():
        assert {k for k in after if after[k] != before.get(k)} == {setting}
        why = [filter_named(name, s).reasons(records).to_list() for s in (before, after)]
        assert why[0] != why[1], setting
