"""CW-PO: the confidence of a weak annotator, and what it weighs"""

import numpy as np
import polars as pl
import pytest
import torch
from preference_toy import frame, rewards, values
from toy_training import (
    answer_log_probs,
    assert_close,
    first_gradient,
    one_thread,  # noqa: F401  (a fixture)
    plain_gradient,
    preferences,
)
from transformers import AutoModelForCausalLM

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.dpo import Dpo, job
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.road.stages import effective_size
from gristmill.pipeline.signals.pair_signals import VIEWS
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference.cw_po import CwPo, confidence


def test_confidence_of_a_weak_annotator():
    gaps = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    expected = [0, 0.24491866, 0.46211716, 0.76159416, 0.96402758]
    assert confidence(gaps) == pytest.approx(expected, abs=1e-8)
    assert confidence(gaps) == pytest.approx(2 * (1 / (1 + np.exp(-gaps)) - 0.5))
    assert confidence(gaps)[1:].mean() == pytest.approx(0.60816439, abs=1e-8)
    assert effective_size(confidence(gaps)[1:]) == pytest.approx(3.31918903, abs=1e-8)
    assert effective_size(np.zeros(3)) == 0
    pool = frame("ab", rewards([3.0, 0.0], [1.0, 4.0], role="judge"))
    given = CwPo().score(pool)
    assert given["score"].to_list() == pytest.approx([0.76159416, -0.96402758], abs=1e-8)
    assert given["score_gap"].to_list() == [2.0, -4.0]
    own = CwPo(label="annotator").score(pool)["score"].to_list()
    assert own == pytest.approx([0.76159416, 0.96402758], abs=1e-8)
    warm = CwPo(temperature=2.0).score(pool)["score"].to_list()
    assert warm == pytest.approx([0.46211716, -0.76159416], abs=1e-8)
    with pytest.raises(ValueError, match="temperature is 0"):
        CwPo(temperature=0)


def test_sure_labels_are_right_more_often():
    draw = np.random.default_rng(0)
    truth = draw.normal(size=20_000) * 2
    label = draw.random(20_000) < 1 / (1 + np.exp(-truth))  # Bradley and Terry
    right = label == (truth > 0)
    tenth = np.argsort(np.abs(confidence(truth))).reshape(10, -1)
    rates = right[tenth].mean(axis=1)
    assert (np.diff(rates) > -0.02).all()
    assert rates[-1] > rates[0] + 0.3


DPO_STILL = Training(
    epochs=1, batch_size=8, micro_batch=8, learning_rate=3e-3, max_grad_norm=1e9, max_length=128
)


@pytest.fixture
def files(tiny, store):
    return resolve(str(tiny), store)


def test_confidence_scales_what_a_pair_teaches(files, tiny, store, tmp_path):
    rival = str(make_tiny(tmp_path / "rival", seed=1))  # so that margins are not 0
    rows = data.token_rows(preferences(3), "pair", load_tokenizer(files)).drop("weight")
    ids = rows["id"].to_list()
    gaps = [0.0, 1.0, -4.0]
    names = [RewardScore(role="judge", view=view).column for view in VIEWS]
    judged = pl.DataFrame({"id": ids, names[0]: gaps, names[1]: [0.0] * 3})
    found = CwPo(label="annotator").score(Frames(parts=(judged,)))
    c = values(found)
    assert c == pytest.approx([0, 0.46211716, 0.96402758], abs=1e-8)
    swapped = found["score_gap"] < 0
    sides = {
        f"{side}_{what}": pl.when(swapped).then(f"{other}_{what}").otherwise(f"{side}_{what}")
        for side, other in (("chosen", "rejected"), ("rejected", "chosen"))
        for what in ("ids", "labels")
    }
    labelled = rows.with_columns(**sides)

    def gradient(name, frame):
        made = job(frame, files, Dpo(training=DPO_STILL), "cpu", resolve(rival, store))
        return first_gradient(made, DPO_STILL, tmp_path / name)

    alone = [gradient(f"alone{i}", labelled[i : i + 1]) for i in range(3)]
    # the pair whose label the annotator turns round is trained the other way round
    tie = AutoModelForCausalLM.from_pretrained(rival, dtype=torch.float32)

    def turned(model):
        (row,) = rows[2:].to_dicts()
        s = [
            [answer_log_probs(m, row[f"{x}_ids"], row[f"{x}_labels"]).sum() for m in (model, tie)]
            for x in ("rejected", "chosen")
        ]
        margin = 0.1 * ((s[0][0] - s[0][1].detach()) - (s[1][0] - s[1][1].detach()))
        return torch.nn.functional.softplus(-margin)

    assert_close(alone[2], plain_gradient(tiny, turned))

    def mean(weight):
        return {n: sum(w * g[n] for w, g in zip(weight, alone, strict=True)) / 3 for n in alone[0]}

    assert_close(gradient("c", labelled.with_columns(weight=pl.Series(c))), mean(c))
    assert_close(gradient("ones", labelled.with_columns(weight=1.0)), mean(np.ones(3)))
    undecided = gradient("zero", labelled[:1].with_columns(weight=pl.Series(c[:1])))
    assert any(g.any() for g in alone[0].values())
    assert not any(g.any() for g in undecided.values())
