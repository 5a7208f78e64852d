"""Every recipe reads records under the run's own limits"""

import pytest
from contract_runs import ROWS
from ingested import dataset

from gristmill.pipeline.contracts import asked_roles
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.selectors import catalog

ADAPTER = {"rank": 2, "alpha": 4.0, "epochs": 1, "batch_size": 8}
PAIRS = {"epochs": 1, "learning_rate": 1e-3}
CASES = {
    "tif": {"by": "difference", "warm_up": PAIRS},
    "tracin": {"warm_up": ADAPTER, "size": 32},
    "iprox": {
        "warm_up": ADAPTER,
        "size": 32,
        "rank_multiple": 4,
        "alignment": {"epochs": 1},
        "adapter": False,
    },
    "ekfac": {"k": 4},
    "cpqs": {"damage": "alone"},
    "reward_margin": {},
    "s2l": {"train": True},
}


@pytest.mark.parametrize("method", CASES)
def test_what_is_prepared_is_read_under_the_limits_of_the_run(
    method, store, tiny, tmp_path, monkeypatch
):
    limits = set()
    finish = ChatTokenizer.finish

    def watched(self, encoded):
        limits.add((self.limit, self.overlong))
        return finish(self, encoded)

    monkeypatch.setattr(ChatTokenizer, "finish", watched)
    scorer = catalog.make(method, CASES[method])
    (kind,) = scorer.records[:1]
    rows = ROWS[kind](24)
    roles = {r: (str(tiny),) for r in asked_roles(scorer)}
    run = ScoreRun(
        scorer=scorer,
        dataset=dataset(store, tmp_path, "pool", rows[:20]),
        reference=None
        if scorer.reference == "none"
        else dataset(store, tmp_path, "target", rows[20:]),
        context=RunContext(
            models=Models(store=store, roles=roles),
            passes=Passes(device="cpu", max_length=180, overlong="skip"),
        ),
    )
    ready(run)
    assert limits == {(180, "skip")}, "recipes"
    entry = score(run)
    assert limits == {(180, "skip")}
    reasons = entry.frame()["reason"].drop_nulls().to_list()
    assert kind == "pair" or any(reason.startswith("too_long") for reason in reasons)
