"""Quality methods over other scripts, answers of one token and judges that say something else"""

import pytest
from answers_as_chats import chat
from contract_runs import build, run
from quality_runs import scored
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.selectors.judged._judge import Judge
from gristmill.selectors.judged.ask_llm import AskLlm
from gristmill.selectors.judged.deita import Deita
from gristmill.selectors.judged.selectit import Selectit
from gristmill.selectors.judged.solve_rate_filter import SolveRateFilter

SCRIPTS = (
    "\u5bd2\u3044\u3067\u3059\u3002\u306f\u3044\u3002",  # Japanese, whose stops no space follows
    "\u0646\u0639\u0645. \u0644\u0627.",  # Arabic, from right to left
    "\u0939\u093e\u0901\u0964 \u0928\u0939\u0940\u0902\u0964",  # Hindi, with combining marks
    "\U0001f44d\U0001f3fd \U0001f469\u200d\U0001f52c",  # signs of several code points
    "e\u0301te\u0301\u00a0!\u2028Oui.",  # decomposed accents, other white space
)


ONE = ("4", "a", "?", "\u00e9")  # one token, or two bytes


# what a row of the toy pool may be refused for, by methods that grade or compare rows
ALLOWED = {
    "deita": {"near_a_better_row"},
    "solve_rate_filter": {"always_right", "always_wrong", "no_verifiable_answer"},
    "uncertainty_consistency": {"one_sided", "no_spread", "no_verifiable_answer"},
}


UNASKED = {  # methods that need a question beside the answer
    "deita": "empty_text",
    "selectit": "empty_text",
    "solve_rate_filter": "empty_text",
    "uncertainty_consistency": "empty_prompt",
}


QUALITY = (
    "ask_llm", "cpqs", "deita", "grace", "nuggets", "s2l", "selectit", "solve_rate_filter",
    "teacher_divergence", "uncertainty_consistency",
)  # fmt: skip


@pytest.mark.parametrize("method", QUALITY)
def test_other_scripts_and_answers_of_one_token(method, tiny, tmp_path):
    rows = [
        {"id": f"s{i}", "messages": chat(f"{i}? {text}", text)} for i, text in enumerate(SCRIPTS)
    ]
    rows += [{"id": f"o{i}", "messages": chat(f"Say {i}", text)} for i, text in enumerate(ONE)]
    rows.append({"id": "bare", "messages": [{"role": "assistant", "content": "B"}]})
    found = run(tmp_path / "run", tiny, build(method), rows, kind="example").sort("row")
    assert found.height == len(rows)
    assert found["score"].is_null().to_list() == found["reason"].is_not_null().to_list()
    *reasons, alone = found["reason"].to_list()
    assert alone == UNASKED.get(method)
    assert {r.partition(":")[0] for r in reasons if r} <= ALLOWED.get(method, set())


def test_a_judge_that_says_something_else_scores_nothing(tiny, tmp_path, store):
    """The tiny model gives each of its 259 tokens about the same: a few of them have little."""
    rows = [{"messages": chat(f"Question {i}?", "Yes."), "right": [1, 0]} for i in range(3)]
    settings = {"judge": Judge(least_mass=0.5)}
    for scorer, reason in (
        (AskLlm(**settings), "neither_yes_nor_no"),
        (Selectit(**settings), "no_rating"),
        (Deita(**settings), "no_rating"),
        (SolveRateFilter(outcomes="right", **settings), "neither_yes_nor_no"),
    ):
        found = scored(store, tmp_path, scorer, rows, judge=tiny, embedder=tiny)
        assert found["score"].null_count() == 3, type(scorer).__name__
        assert found["reason"].unique().to_list() == [reason]
