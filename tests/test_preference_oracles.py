"""Oracles of the preference methods that no other file asserts, and bad pairs in a whole run."""

# figures are the specification's; V = tokens of a toy grammar

import itertools
import logging
from functools import wraps
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import chat_rows, pair_rows, write_jsonl
from preference_toy import BETA, LOSS, closed_form, label_noise
from toy_training import (
    answer_log_probs,
    assert_close,
    first_gradient,
    one_thread,  # noqa: F401  (a fixture)
    plain_gradient,
    preferences,
)
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaModel

from gristmill.flows import config as configs
from gristmill.flows import steps
from gristmill.pipeline.contracts import Artifact, Frames, Given
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.dpo import Dpo, job
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.gradients.random_bits import CountSketch
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.selection.rules.band import Band
from gristmill.pipeline.selection.rules.threshold import Threshold
from gristmill.pipeline.signals.pair_signals import VIEWS, Objective, log_probs
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference.active_dpo import ActiveDpo, most_uncertain
from gristmill.selectors.preference.bees import Bees
from gristmill.selectors.preference.cw_po import CwPo
from gristmill.selectors.preference.filtered_dpo import FilteredDpo
from gristmill.selectors.preference.ica import Ica
from gristmill.selectors.preference.implicit_gap import ImplicitGap
from gristmill.selectors.preference.irm import Irm
from gristmill.selectors.preference.lossdiff import Lossdiff
from gristmill.selectors.preference.lossdiff_irm import LossdiffIrm
from gristmill.selectors.preference.tif import Tif

SUMS = 1e-4  # of float32 log-probabilities, in other batches or with padding on the other side
DPO_STILL = Training(
    epochs=1, batch_size=8, micro_batch=8, learning_rate=3e-3, max_grad_norm=1e9, max_length=128
)


def toy(name):
    """What a run would hand over; nothing reads it here."""
    return Given(artifacts={name: Artifact(name=name, content="toy", path=Path("toy"))})


def values(scores):
    return scores["score"].to_numpy()


def dataset(store, tmp_path, rows, name="pool"):
    return ingest(store, [Source(path=str(write_jsonl(tmp_path / f"{name}.jsonl", rows)))])


# ---------------------------------------------------------------- margins and influence


def test_a_model_that_is_its_own_reference_has_margin_0_and_loss_ln_2(store, tiny, tmp_path):
    toy, loss = closed_form(), Objective(beta=BETA)
    pool = toy.observed(toy.train, target=toy.reference)
    margin = loss.margin(pool.frame())
    assert not margin.any()
    assert loss.loss(margin) == pytest.approx(np.full(400, np.log(2)), abs=1e-15)
    models = Models(store=store, roles=dict.fromkeys(("target", "reference"), (str(tiny),)))
    rows = dataset(store, tmp_path, pair_rows(12))
    seen = observe(
        RunContext(models=models, passes=Passes(device="cpu")), rows, loss.signals("target")
    )
    margin = loss.margin(seen.frame())
    assert len(margin) == 12
    np.testing.assert_allclose(margin, 0.0, atol=SUMS)
    np.testing.assert_allclose(loss.loss(margin), np.log(2), atol=SUMS)


@pytest.mark.parametrize("scorer", [Irm(), ImplicitGap(), LossdiffIrm(), Bees()])
def test_margins_that_are_all_0_are_refused(scorer):
    toy = closed_form()
    roles = {"target": toy.reference, "proxy": toy.reference, "validation": toy.reference + 0.1}
    frame = toy.observed(toy.train, **roles).frame()
    reward = {RewardScore(shown=view).column: pl.lit(float(k)) for k, view in enumerate(VIEWS)}
    pool = Frames(parts=(frame.with_columns(**reward),))
    with pytest.raises(ValueError, match=r"all 400 implicit reward margins are 0.*warm"):
        scorer.score(pool, pool)


def test_side_of_the_padding_changes_no_log_probability_of_a_pair(store, tiny, tmp_path):
    model = load(resolve(str(tiny), store), device="cpu", dtype="float32")
    rows = dataset(store, tmp_path, pair_rows(6)).frame().to_dicts()
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


def test_lossdiff_approaches_the_influence_at_the_published_rate():
    toy = closed_form()
    theta = toy.trained(toy.reference, toy.train)
    g_v = toy.gradient(theta, toy.validation).mean(0)
    targets = toy.observed(toy.validation, target=theta)
    exact = values(Tif(objective=LOSS).score(toy.observed(toy.train, target=theta), targets))

    def stepped(rate):
        pool = toy.observed(toy.train, target=theta, validation=theta - rate * g_v)
        return values(Lossdiff(objective=LOSS).score(pool, targets)) / rate

    assert np.abs(stepped(1e-2) - exact).max() == pytest.approx(9.9e-5, abs=5e-7)
    assert np.abs(stepped(1e-4) - exact).max() == pytest.approx(9.9e-7, abs=5e-9)
    assert np.corrcoef(stepped(1.0), exact)[0, 1] == pytest.approx(0.9995, abs=5e-5)


def test_shares_of_planted_flips_span_the_published_ranges():
    stay, before, after = [], [], []
    for seed in range(5):
        toy = label_noise(seed)
        theta = toy.trained(toy.reference, toy.train)
        tuned = toy.trained(theta, toy.validation)
        pool = toy.observed(toy.train, target=theta, validation=tuned)
        scores = LossdiffIrm(objective=LOSS).score(pool, pool)
        rule = Band(columns=("score_lossdiff", "score_irm"))
        kept = rule.order(scores, np.inf)["index"].to_numpy()
        flipped = toy.train[:, 3] == 1
        stay.append(len(kept) / 400)
        before.append(flipped.mean())
        after.append(flipped[kept].mean())
    assert (min(stay), max(stay)) == pytest.approx((0.68, 0.69), abs=5e-3)
    assert (min(before), max(before)) == pytest.approx((0.1775, 0.225), abs=1e-9)
    assert (min(after), max(after)) == pytest.approx((0.101, 0.158), abs=5e-4)


def test_lossdiff_irm_costs_three_pair_forwards_and_its_parts_nothing_more(
    store, tiny, tmp_path, monkeypatch
):
    read, plain = [], LlamaModel.forward

    @wraps(plain)
    def counted(self, input_ids=None, **rest):
        read.append(input_ids.numel())
        return plain(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    roles = {"reference": (str(tiny),)}
    for seed, role in enumerate(("target", "validation"), start=1):
        roles[role] = (str(make_tiny(tmp_path / role, seed=seed)),)
    models = Models(store=store, roles=roles)
    pool = dataset(store, tmp_path, pair_rows(7))
    passes = Passes(device="cpu")
    observe(RunContext(models=models, passes=passes), pool, log_probs("reference"))
    one = sum(read)
    assert one > 0
    for scorer in (LossdiffIrm(), Lossdiff(), Irm(), ImplicitGap()):
        observe(RunContext(models=models, passes=passes), pool, scorer.signals)
        assert sum(read) == 3 * one  # the reference's is not read again


# ---------------------------------------------------------------- validation pairs


@pytest.mark.parametrize("scorer", [Tif(), Tif(by="difference"), Lossdiff(), LossdiffIrm()])
def test_each_method_says_that_validation_pairs_are_few_and_refuses_none(scorer, caplog):
    toy = closed_form()
    theta = toy.trained(toy.reference, toy.train)
    if scorer == Tif(by="difference"):
        scorer = Tif(by="difference", epsilon=0.1)
        pool = toy.observed(toy.train, proxy=[theta + 0.01, theta - 0.01])
    else:
        pool = toy.observed(toy.train, target=theta, validation=theta + 0.1)
    few, enough = (toy.observed(toy.validation[:n], target=theta) for n in (31, 32))
    with caplog.at_level(logging.WARNING):
        assert np.isfinite(values(scorer.score(pool, enough))).all()
        assert not caplog.text
        scorer.score(pool, few)
        assert caplog.text.count("31 validation pairs were given; below 32") == 1
    for nobody in (None, Frames(parts=())):
        with pytest.raises(ValueError, match="the validation set holds no pair"):
            scorer.score(pool, nobody)


# ---------------------------------------------------------------- confidence as a weight


@pytest.fixture
def files(tiny, store):
    return resolve(str(tiny), store)


def test_confidence_scales_what_a_pair_teaches(files, tiny, store, tmp_path):
    rival = str(make_tiny(tmp_path / "rival", seed=1))  # so that margins are not 0
    rows = data.token_rows(preferences(3), "pair", load_tokenizer(files)).drop("weight")
    ids = rows["id"].to_list()
    gaps = [0.0, 1.0, -4.0]
    names = [RewardScore(role="judge", shown=view).column for view in VIEWS]
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


# ---------------------------------------------------------------- uncertainty


PHI = np.array([(1.0, 0.0), (0.9, 0.1), (0.0, 0.8), (0.6, 0.6)])


@pytest.mark.parametrize(
    ("before", "worth"),
    [
        ((), (1, 0.82, 0.64, 0.72)),
        ((0,), (0.5, 0.415, 0.64, 0.54)),
        ((0, 2), (0.5, 0.411098, 0.390244, 0.399512)),
    ],
)
def test_worth_of_every_pair_after_the_picks_before(before, worth):
    for row, expected in enumerate(worth):  # those picked already stand for copies of themselves
        picks = most_uncertain(PHI[[*before, row]], len(before) + 1)
        assert picks.rows.tolist() == list(range(len(before) + 1))
        assert picks.worth[-1] == pytest.approx(expected, abs=5e-7)


def test_of_a_linear_reward_phi_is_the_difference_of_the_features():
    draw = np.random.default_rng(3)
    chosen, rejected = draw.normal(size=(2, 12, 6))
    for f in (chosen, rejected):
        f /= np.linalg.norm(f, axis=1, keepdims=True)
    columns = [s.column for s in ActiveDpo().signals]
    # reward w . f has the gradient f by w; what is observed are gradients of minus that
    losses = {c: -1.7 * f for c, f in zip(columns, (chosen, rejected), strict=True)}
    frame = pl.DataFrame({"id": [f"{i:02d}" for i in range(12)]}).with_columns(
        pl.Series(c, g, dtype=pl.Array(pl.Float64, 6)) for c, g in losses.items()
    )
    scores = ActiveDpo(picks=12).score(Frames(parts=(frame,)))
    inverse, free = np.eye(6), list(range(12))
    for place in range(1, 13):
        gain = {n: (phi := chosen[n] - rejected[n]) @ inverse @ phi for n in free}
        best = max(free, key=gain.get)
        row = scores.row(best, named=True)
        assert row["score"] == -place
        assert row["score_gain"] == pytest.approx(gain[best], abs=1e-9)
        phi = chosen[best] - rejected[best]
        inverse = np.linalg.inv(np.linalg.inv(inverse) + np.outer(phi, phi))
        free.remove(best)


def test_a_sketch_of_8192_numbers_keeps_inner_products_of_unit_vectors():
    draw = np.random.default_rng(4)
    x = draw.normal(size=(16, 20_000)) + draw.normal(size=20_000)
    x = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))
    z = CountSketch.draw(20_000, 8_192, 0, "oracle", device=torch.device("cpu"))(x)
    errors = (z @ z.T - x @ x.T).abs()
    assert 0 < errors.max() <= 0.05


# ---------------------------------------------------------------- in-context gains


def test_without_demonstrations_nothing_is_gained(store, tiny, tmp_path):
    models = Models(store=store, roles={"target": (str(tiny),)})
    scorer = Ica(k=0)
    for name, rows in (("pairs", pair_rows(9)), ("chats", chat_rows(9))):
        pool = dataset(store, tmp_path, rows, name)
        seen = observe(RunContext(models=models, passes=Passes(device="cpu")), pool, scorer.signals)
        np.testing.assert_allclose(values(scorer.score(seen)), np.zeros(9), atol=SUMS)


def learnt(chain, history, tokens=8):
    """Log-probability of a chain after others by an exchangeable learner of bigrams (Dirichlet)."""
    count_VV = np.full((tokens, tokens), 0.5)
    for before in history:
        np.add.at(count_VV, (before[:-1], before[1:]), 1.0)
    total = 0.0
    for here, after in itertools.pairwise(chain):
        total += np.log(count_VV[here, after] / count_VV[here].sum())
        count_VV[here, after] += 1.0
    return total


def test_shuffled_reasoning_gains_less_than_clean_reasoning():
    draw = np.random.default_rng(5)

    def reasoning(steps=12):  # each step follows from the one before, most of the time
        chain = [draw.integers(8)]
        for _ in range(steps):
            chain.append((chain[-1] + 1) % 8 if draw.random() < 0.8 else draw.integers(8))
        return np.array(chain)

    holdout = [reasoning() for _ in range(3)]
    clean = [reasoning() for _ in range(60)]
    corrupted = [draw.permutation(chain) for chain in clean]
    ids = [f"{kind}{i}" for kind in "ab" for i in range(60)]
    plain, behind = log_probs(), Ica(given=toy("neighbours")).shown
    told = {
        s.column: [learnt(chain, history) for chain in (*clean, *corrupted)]
        for s, history in ((plain[0], ()), (behind[0], holdout))
    }
    nobody = {s.column: pl.Series([None] * 120, dtype=pl.Float64) for s in (plain[1], behind[1])}
    examples = pl.DataFrame({"id": ids} | told | nobody)
    score = values(Ica(given=toy("neighbours")).score(Frames(parts=(examples,))))
    assert auc(score[:60], score[60:]) > 0.9  # above 0.5 is asked for
    # as pairs: the clean chain chosen, and the label turned round
    turned = {
        after.column: [*told[before.column][60:], *told[before.column][:60]]
        for before, after in zip((plain[0], behind[0]), (plain[1], behind[1]), strict=True)
    }
    pairs = pl.DataFrame({"id": ids} | told | turned)
    score = values(Ica(given=toy("neighbours")).score(Frames(parts=(pairs,))))
    assert auc(score[:60], score[60:]) > 0.9
    np.testing.assert_allclose(score[:60], -score[60:], atol=1e-9)


# ---------------------------------------------------------------- what falls in a run


def test_the_rule_of_filtered_dpo_drops_what_equals_the_chosen_response():
    given = FilteredDpo(generated="generated_reward")
    (signal,) = given.signals
    meta = [f'{{"generated_reward": {r}}}' for r in (1.0, 0.999, 1.001)]
    frame = pl.DataFrame({"id": list("abc"), signal.column: [1.0] * 3, "meta": meta})
    scores = given.score(Frames(parts=(frame,)))
    kept = Threshold(min=1e-9).order(scores, np.inf)["index"].to_list()
    assert kept == [1]


def test_pairs_in_both_directions_fall_in_a_run(tmp_path):
    one, other, third = "This one.", "That one.", "Neither."

    def pair(prompt, chosen, rejected):
        turns = {"chosen": chosen, "rejected": rejected}
        told = {side: [{"role": "assistant", "content": text}] for side, text in turns.items()}
        return {"prompt": [{"role": "user", "content": prompt}], **told}

    rows = [
        *pair_rows(4),
        pair("Which?", one, other),
        pair("Which?", other, one),
        pair("Which?", one, other),  # a copy falls with the row that it copies
        pair("Which?", one, third),
        pair("Or which?", other, one),  # another prompt
    ]
    run = configs.CurateConfig.model_validate(
        {
            "name": "toy",
            "sources": [{"path": str(write_jsonl(tmp_path / "pool.jsonl", rows))}],
            "scorers": [{"method": "random"}],
            "select": {"budget": "100%"},
            "store": str(tmp_path / "store"),
            "export": {"root": str(tmp_path / "curated")},
            "shard_rows": 3,
        }
    )
    rows, _, _ = steps.walk(steps.Curation(config=run))
    ledger = open_entry(rows.ledger).frame().sort("row")
    fallen = ledger.filter(pl.col("verdict") == "dropped")
    assert fallen["row"].to_list() == [4, 5, 6]
    assert fallen["reason"].str.starts_with("both_directions: ").all()
    first, second = fallen["id"][:2]
    assert fallen["reason"].str.slice(len("both_directions: ")).to_list() == [second, first, second]
