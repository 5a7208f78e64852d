"""The reward models of a curation: trained ones, chosen by gold pairs, and those that judge."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hidden_reward import world

from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store
from gristmill.synthesis.curation.labelling import Known
from gristmill.synthesis.curation.pairs import turned
from gristmill.synthesis.curation.reward_models import TrainedReward, best, probabilities, scorer
from gristmill.synthesis.curation.routed import RoutedRewards
from gristmill.synthesis.routing.encoder import Training as EncoderTraining
from gristmill.synthesis.routing.router import Router

SHORT = Training(epochs=2, batch_size=8, learning_rate=3e-3, max_length=64, optimizer_state=False)


def test_the_first_of_the_best_checkpoints_on_gold_is_chosen():
    class Fixed:
        def margins(self, reference, pairs):
            return np.array({"a": [1, -1, 1], "b": [1, 1, -1], "c": [1, np.nan, 0]}[reference])

    found = best(Fixed(), ["c", "a", "b"], pl.DataFrame())
    assert (found.reference, found.accuracy, found.checkpoints) == ("a", pytest.approx(2 / 3), 3)


def test_probabilities_are_sigmoids_and_never_overflow():
    p = probabilities(np.array([-1e9, 0.0, np.log(3), 1e9, np.nan]))
    assert p[:4] == pytest.approx([0, 0.5, 0.75, 1])
    assert np.isnan(p[4])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny):
    store = Store(root=tmp_path_factory.mktemp("trained"))
    some = world(24, flips=0.0, seed=7)
    models = TrainedReward(
        base=str(tiny),
        settings=Reward(training=SHORT),
        store=store,
        passes=Passes(max_length=64),
        run=Run(caps=RunCaps()),
    )
    return store, some, models, models.fit(some.pairs)


def test_a_training_gives_a_checkpoint_an_epoch_and_is_never_repeated(trained):
    store, some, models, references = trained
    assert len(references) == 2
    assert all((store.root / r / "config.json").is_file() for r in references), "below the store"
    margins = models.margins(references[1], some.pairs)
    assert margins.shape == (24,)
    assert np.isfinite(margins).all()
    spent, journal = models.run.caps.spent_tokens, len(store.computed())
    assert models.fit(some.pairs.sample(fraction=1.0, shuffle=True, seed=1)) == references
    assert np.array_equal(models.margins(references[1], some.pairs), margins)
    assert (models.run.caps.spent_tokens, len(store.computed())) == (spent, journal)


def test_margins_are_those_of_the_pairs_whatever_stands_beside_them_and_turn_their_sign(trained):
    _, some, models, references = trained
    margins = models.margins(references[0], some.pairs)
    few = models.margins(references[0], some.pairs[5:7])
    assert few == pytest.approx(margins[5:7], abs=1e-4)
    flipped = turned(some.pairs, dict.fromkeys(some.pairs["id"], "rejected"))
    assert models.margins(references[0], flipped) == pytest.approx(-margins, abs=1e-4)
    assert models.margins(references[0], some.pairs[:0]).shape == (0,)


def test_what_a_training_depends_on_names_the_models(trained, tiny):
    _, _, models, _ = trained
    other = replace(models, settings=Reward(training=replace(SHORT, learning_rate=1e-3)))
    assert other.name != models.name


def test_a_reward_model_that_labels_pairs_is_loaded_once_and_asked_for_its_own(trained, tiny):
    store, some, models, references = trained
    ask = scorer(resolve(str(store.root / references[1]), store), Passes(max_length=64), Run())
    assert ask(some.pairs) == pytest.approx(models.margins(references[1], some.pairs), abs=1e-4)


class Arm:
    """A reward model that knows the truth where the prompt's topic is its own, and else errs."""

    def __init__(self, some, mine):
        self.some, self.mine, self.asked = some, mine, []

    def __call__(self, pairs):
        self.asked += pairs["id"].to_list()
        found = []
        for row in pairs.iter_rows(named=True):
            better = self.some.truth.get(row["id"], "chosen")  # a gold pair may be turned by now
            value = 1.0 if better == "chosen" else -1.0
            found.append(value if self.mine(row) else -value)
        return np.array(found)


def test_the_router_asks_one_reward_model_a_pair_and_learns_which_is_right(store):
    some = world(400, flips=0.4, seed=8, topics=2)
    pool = some.pool(store)

    def topic(row):
        return int(row["prompt"][0]["content"].split()[1]) % 2

    def sides(pairs):  # what the encoder is given tells the topic
        at = np.array([topic(r) for r in pairs.iter_rows(named=True)], float)
        return np.stack([at, 1 - at], 1), np.stack([at, 1 - at], 1)

    arms = [Arm(some, lambda r: topic(r) == 0), Arm(some, lambda r: topic(r) == 1)]
    gold = {i: some.truth[i] for i in pool.ids[:80]}
    routed = RoutedRewards(
        fingerprints=("e", "o"),
        scorers=tuple(arms),
        pool=pool,
        sides=sides,
        features="topics",
        models=some.models(store),
        training=EncoderTraining(steps=60),
        router=Router(batch=16, strength=50.0),
    )
    rest = pool.ids[80:]
    targets = pool.targets(rest[::-1], gold, {})
    model = routed.models.fit(pool.labelled(gold))[0]
    entry = routed.label(targets, Known(gold=gold, model=model), store)
    frame = entry.frame()
    assert frame["id"].to_list() == rest[::-1]
    assert sorted(i for a in arms for i in a.asked if i in set(rest)) == sorted(rest)
    assert some.right(dict(frame.select("id", "label").iter_rows())) > 0.9
    assert entry.note["arms"]["reward-0"] == pytest.approx(0.5, abs=0.15)
    assert 0 < entry.note["mean_reward"] < 1
    held = entry.note["held_out_gold"]
    assert held["pairs"] + 10 < 80
    assert held["accuracy"] > held["best_single"] + 0.2, "each arm is right on its own topic alone"
    assert held["regret"] < 0
    asked = [len(a.asked) for a in arms]
    assert routed.label(targets, Known(gold=gold, model=model), store).key == entry.key
    assert [len(a.asked) for a in arms] == asked
    first = routed.label(targets, Known(gold=gold), store)
    assert first.note["mean_reward"] is None, "without a model nothing is learnt online"


def test_a_router_of_one_reward_model_is_refused(store):
    some = world(20, seed=9)
    with pytest.raises(ValueError, match="give at least two"):
        RoutedRewards(
            fingerprints=("1",),
            scorers=(lambda pairs: np.ones(pairs.height),),
            pool=some.pool(store),
            sides=some.sides,
            features="",
            models=some.models(store),
        )
