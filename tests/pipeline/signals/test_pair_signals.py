"""How a model reads a pair: views, objectives, padding, pairs that cannot be compared"""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from ingested import dataset
from preference_runs import pair
from preference_toy import BETA, LOSS, closed_form, pearson, tuned_world, values
from rows import pair_rows, write_jsonl
from toy_training import (
    one_thread,  # noqa: F401  (a fixture)
)

from gristmill.pipeline.finetune import data
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.signals.pair_signals import (
    CHOSEN,
    REJECTED,
    VIEWS,
    Objective,
    counts,
    log_probs,
)
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.preference.lossdiff import Lossdiff
from gristmill.selectors.preference.tif import Tif


@pytest.fixture(scope="module")
def world():
    return tuned_world()


def test_derivatives_of_the_loss(world):
    world, theta, pool, targets = world
    pairs = world.train[:50]
    step = 1e-5 * np.eye(5)
    numeric = np.stack(
        [(world.loss(theta + h, pairs) - world.loss(theta - h, pairs)) / 2e-5 for h in step], axis=1
    )
    np.testing.assert_allclose(world.gradient(theta, pairs), numeric, atol=1e-9)
    influence = values(Tif(objective=LOSS).score(pool, targets))
    g_v = world.gradient(theta, world.validation).mean(0)
    eps = 1e-4
    models = world.observed(world.train, proxy=[theta + eps * g_v, theta - eps * g_v])
    by_difference = Tif(objective=LOSS, by="difference", epsilon=eps).score(models, targets)
    np.testing.assert_allclose(values(by_difference), influence, atol=5e-12)
    before = world.loss(theta, world.validation).mean()
    rate = 1e-3
    stepped = theta - rate * world.gradient(theta, world.train)  # one model per pair
    drop = np.array([before - world.loss(t, world.validation).mean() for t in stepped])
    assert np.abs(drop - rate * influence).max() <= 4e-7
    assert pearson(drop, influence) > 0.9999
    for rate, most in ((1e-2, 1.0e-4), (1e-4, 1.0e-6)):
        tuned = world.observed(world.train, target=theta, validation=theta - rate * g_v)
        lossdiff = values(Lossdiff(objective=LOSS).score(tuned, targets))
        assert np.abs(lossdiff / rate - influence).max() < most
    tuned = world.observed(world.train, target=theta, validation=theta - g_v)
    assert pearson(values(Lossdiff(objective=LOSS).score(tuned, targets)), influence) > 0.999


def test_label_swap():
    loss = Objective(beta=0.1)
    chosen, rejected = log_probs("target")
    ref = log_probs("reference")

    def block(a, b):
        numbers = {chosen.column: a[0], rejected.column: b[0]}
        numbers |= {ref[0].column: a[1], ref[1].column: b[1]}
        return pl.DataFrame({"id": ["x"]} | {k: [float(v)] for k, v in numbers.items()})

    good, bad = (-40, -45), (-60, -58)
    forth, back = block(good, bad), block(bad, good)
    m = loss.margin(forth)
    assert m == pytest.approx(0.7)
    assert loss.margin(back) == pytest.approx(-0.7)
    assert loss.loss(m) == pytest.approx(0.40318605, abs=1e-8)
    assert 0.1 * loss.slope(m) == pytest.approx(-0.03318122, abs=1e-8)
    assert loss.loss(-m) == pytest.approx(1.10318605, abs=1e-8)
    assert loss.loss(-m) == pytest.approx(loss.loss(m) + m)
    g_w, g_l = np.array([[1.0, 2.0]]), np.array([[0.5, -1.0]])
    swapped = loss.gradient(back, g_l, g_w)
    np.testing.assert_allclose(swapped, -np.exp(m) * loss.gradient(forth, g_w, g_l))


def test_objectives():
    chosen, rejected = log_probs()
    facts = [s.column for s in counts()]
    block = pl.DataFrame(
        {
            "id": ["a", "b"],
            chosen.column: [-8.0, -2.0],
            rejected.column: [-9.0, -30.0],
            log_probs("reference")[0].column: [-10.0, -30.0],
            log_probs("reference")[1].column: [-9.0, -10.0],
            facts[0]: [{"answer_tokens": n} for n in (4, 2)],
            facts[1]: [{"answer_tokens": n} for n in (3, 5)],
        }
    )
    slic = Objective(name="slic", beta=0.25)
    assert slic.margin(block) == pytest.approx([0.5, 0.25 * 48])
    assert slic.loss(slic.margin(block)) == pytest.approx([0.5, 0.0])
    assert slic.slope(slic.margin(block)).tolist() == [-1.0, 0.0]
    simpo = Objective(name="simpo", beta=2.0, gamma=0.5)
    m = simpo.margin(block)
    assert m == pytest.approx([2 * (-2 + 3) - 0.5, 2 * (-1 + 6) - 0.5])
    assert simpo.signals("target") == log_probs()
    assert simpo.facts == counts()
    g_w, g_l = np.array([[1.0], [2.0]]), np.array([[3.0], [-1.0]])
    exact = -1 / (1 + np.exp(m)) * 2.0 * (-g_w[:, 0] / [4, 2] + g_l[:, 0] / [3, 5])
    assert simpo.gradient(block, g_w, g_l)[:, 0] == pytest.approx(exact)
    with pytest.raises(ValueError, match="gamma is read by simpo alone"):
        Objective(gamma=1.0)
    with pytest.raises(ValueError, match="an objective is dpo, slic or simpo"):
        Objective(name="ppo")
    with pytest.raises(ValueError, match="beta is 0"):
        Objective(beta=0)


SUMS = 1e-4  # of float32 log-probabilities, in other batches or with padding on the other side


def test_a_model_that_is_its_own_reference_has_margin_0_and_loss_ln_2(store, tiny, tmp_path):
    toy, loss = closed_form(), Objective(beta=BETA)
    pool = toy.observed(toy.train, target=toy.reference)
    margin = loss.margin(pool.frame())
    assert not margin.any()
    assert loss.loss(margin) == pytest.approx(np.full(400, np.log(2)), abs=1e-15)
    models = Models(store=store, roles=dict.fromkeys(("target", "reference"), (str(tiny),)))
    rows = dataset(store, tmp_path, "pool", pair_rows(12))
    seen = observe(
        RunContext(models=models, passes=Passes(device="cpu")), rows, loss.signals("target")
    )
    margin = loss.margin(seen.frame())
    assert len(margin) == 12
    np.testing.assert_allclose(margin, 0.0, atol=SUMS)
    np.testing.assert_allclose(loss.loss(margin), np.log(2), atol=SUMS)


def test_side_of_the_padding_changes_no_log_probability_of_a_pair(store, tiny, tmp_path):
    model = load(resolve(str(tiny), store), device="cpu", dtype="float32")
    rows = dataset(store, tmp_path, "pool", pair_rows(6)).frame().to_dicts()
    encoded = [view.encode(row, model.chat) for row in rows for view in VIEWS]
    assert len({len(e.ids) for e in encoded}) > 3
    (signal, _) = log_probs()
    left, right = (
        signal.read(forward(encoded, model, signal.needs, padding=side))
        for side in ("left", "right")
    )
    alone = [signal.read(forward([e], model, signal.needs))[0] for e in encoded]
    np.testing.assert_allclose(left, alone, atol=SUMS)
    np.testing.assert_allclose(right, alone, atol=SUMS)


def test_only_the_side_itself_carries_loss(pair_chat):
    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = pair(prompt="c", chosen="dd", rejected="e", before=before)
    for view, side, text in ((CHOSEN, "chosen", "dd"), (REJECTED, "rejected", "e")):
        shown = view.encode(row, pair_chat)
        whole = Dialogue(side=side).encode(row, pair_chat)
        assert list(shown.ids) == list(whole.ids)
        carried = [i for i, t in zip(shown.ids, shown.turn, strict=True) if t]
        assert pair_chat.tokenizer.decode(carried) == f"{text}<|im_end|>"
    trained = data.token_rows(pl.DataFrame([row | {"id": "x"}]), "pair", pair_chat).row(
        0, named=True
    )
    labels = [t if turn else -100 for t, turn in zip(shown.ids, shown.turn, strict=True)]
    assert trained["rejected_labels"] == labels  # what DPO trains on is what is observed


def thinking(chosen: str, rejected: str, answer: str = "4") -> dict:
    """A pair whose sides differ in their reasoning alone."""
    row = pair(chosen=answer, rejected=answer)
    for side, text in (("chosen", chosen), ("rejected", rejected)):
        row[side][-1]["extra"] = json.dumps({"reasoning_content": text})
    return row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(chosen="Same.", rejected="Same."), "chosen_equals_rejected"),
        (pair(chosen="x" * 90 + "a", rejected="x" * 90 + "b"), "chosen_equals_rejected"),
        (thinking("Because.", "So."), "template_hides_the_answer"),
        (thinking("x" * 90, "y" * 90, answer="z" * 90), "chosen_equals_rejected"),
        (pair(chosen="  \n"), "chosen_empty_response"),
        (pair(rejected=""), "rejected_empty_response"),
        (pair(prompt="p" * 90), "chosen_answer_cut"),
    ],
)
def test_pairs_that_cannot_be_compared_are_shown_to_nobody(pair_chat, row, reason):
    for view in VIEWS:
        assert view.encode(row, pair_chat).reason == reason
        assert not view.encode(row, pair_chat).ids


def test_a_prompt_that_is_no_prefix_is_refused(pair_chat):
    class Merging:
        """A tokenizer whose token reaches from the prompt into the response."""

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __call__(self, text, **settings):
            out = self.inner(text, **settings)
            at = next(i for i, (a, b) in enumerate(out["offset_mapping"]) if text[a:b] == "G")
            (start, _), (_, end) = out["offset_mapping"][at - 1], out["offset_mapping"][at]
            out["input_ids"][at - 1 : at + 1] = [out["input_ids"][at]]
            out["offset_mapping"][at - 1 : at + 1] = [(start, end)]
            return out

    merged = replace(pair_chat, tokenizer=Merging(pair_chat.tokenizer))
    row = pair(chosen="Gladly.", rejected="Going.")
    assert CHOSEN.encode(row, pair_chat).reason is None
    assert CHOSEN.encode(row, merged).reason == "prompt_is_no_prefix"


def test_a_bad_pair_is_null_under_every_view_with_one_reason(store, tiny, tmp_path):
    cut_alike = pair(chosen="x" * 90 + "a", rejected="x" * 90 + "b")
    path = write_jsonl(tmp_path / "pool.jsonl", [*pair_rows(6), cut_alike, pair(chosen=" ")])
    pool = ingest(store, [Source(path=str(path))], max_bad_share=1.0)
    assert pool.quarantine()["reason"].to_list() == ["empty_content: assistant"]
    models = Models(store=store, roles={"target": (str(tiny),)})
    passes = Passes(device="cpu", max_length=64)
    seen = observe(
        RunContext(models=models, passes=passes), pool, (*log_probs(), *counts())
    ).frame()
    assert seen.height == 7
    lost = seen.filter(pl.col(log_probs()[0].column).is_null()).row(0, named=True)
    assert [lost[s.column] for s in log_probs()] == [None, None]
    assert [lost[s.column]["reason"] for s in counts()] == ["chosen_equals_rejected"] * 2
    assert seen[log_probs()[1].column].null_count() == 1
