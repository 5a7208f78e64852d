"""What preparing costs on a pool, and from how many rows it pays"""

import dataclasses
import logging
from types import SimpleNamespace

import pytest
from ingested import dataset
from rows import chat_rows

from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.plan.lines import Plan
from gristmill.pipeline.plan.run import plan_run
from gristmill.pipeline.prepare.costs import passes, preparing
from gristmill.pipeline.score import score as scoring
from gristmill.pipeline.score.score import ScoreRun, ready
from gristmill.selectors import catalog
from gristmill.selectors.influence.ekfac import Ekfac
from gristmill.selectors.influence.gradient_cosine import GradientCosine
from gristmill.selectors.influence.iprox import Iprox
from gristmill.selectors.influence.less import Less

# recipes that hand on, cut or count what is there, and train and ask no model
FREE = {"Kept", "Companion", "DroppedBlocks", "Neighbours", "NgramCounts", "LabelGraph"}
FREE |= {"TokenPrior"}
METHODS = sorted(name for name in catalog.methods() if catalog.methods()[name]().recipes)


@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_that_trains_or_reads_says_what_it_costs(method):
    scorer = catalog.make(method, {"train": True} if method == "s2l" else None)
    for recipe in scorer.recipes:
        assert (recipe.cost(1_000, 32) > 0) == (type(recipe).__name__ not in FREE), recipe
        assert recipe.cost(10**6, 32) >= recipe.cost(1_000, 32)


def test_a_proxy_pays_from_the_rows_on_which_its_making_is_saved():
    few = preparing(Iprox(), rows=92, targets=8)
    assert passes(Iprox()) == [("proxy", 2.0)]
    assert (few.reading, few.saved) == (1.0, 1.0)
    # 16 rows of alignment, 5 epochs of 12 fe; 16 probe rows and three times 16 held-out ones
    proxy = 16 * 5 * 12 + 2 * (16 + 3 * 16)
    assert few.smaller == proxy
    assert few.making == proxy + 92 * 4 * 2, "and a warm-up on all 92 rows"
    assert few.pays_from == proxy
    assert not few.pays
    assert few.sentence.endswith(
        "it pays from 1,088 rows on, not on these 92, where a method that reads the whole model is "
        "cheaper."
    )
    many = preparing(Iprox(), rows=5_000, targets=8)
    assert many.pays
    assert many.sentence.endswith("it pays from 1,088 rows on.")
    assert preparing(Iprox(rho=0.7), rows=92).pays_from == -(-proxy * 10 // 14)
    # a share as given grows with the pool, and at 5 epochs of a fifth of it is never saved again
    greedy = preparing(Iprox(probe_share=0.2), rows=10_000)
    assert greedy.pays_from is None
    assert "it pays on no pool, not on these 10,000" in greedy.sentence


def test_a_warm_up_outweighs_reading_below_some_rows():
    less = preparing(Less(), rows=92)
    assert (less.making, less.reading) == (92 * 4 * 2, 2.0)
    assert less.pays_from == 1_024, "256 rows, 4 epochs of 2 fe, 2 fe a row to read"
    assert less.sentence == (
        "preparing takes about 736 forward passes of a row (8.0 a row of this pool), reading 2 a "
        "row; it outweighs reading below 1,024 rows."
    )
    assert preparing(Ekfac(), rows=92).pays_from == 2_048
    assert preparing(GradientCosine(), rows=92) is None
    bound = preparing(Less(), rows=92, needless=lambda recipe: True)
    assert bound is None, "checkpoints of the user's own cost nothing"
    irm = preparing(catalog.make("irm"), rows=92)
    assert irm.sentence.endswith("it outweighs reading on any pool.")


def test_the_run_and_the_plan_say_so_before_anything_is_made(store, tiny, tmp_path, caplog):
    run = ScoreRun(
        scorer=Iprox(),
        dataset=dataset(store, tmp_path, "pool", chat_rows(20)),
        reference=dataset(store, tmp_path, "targets", chat_rows(3, start=50)),
        context=RunContext(
            models=Models(store=store, roles={"target": (str(tiny),)}), passes=Passes(device="cpu")
        ),
    )
    stage = SimpleNamespace(name="select", scorers={"iprox": run.scorer}, budget=None)
    planned = plan_run([stage], run.dataset, run.reference, run.context)
    lines = Plan(lines=planned).table()
    made = [line for line in lines if line["data"] == "to prepare"]
    assert [line["view"] for line in made] == ["WarmUp", "LowRankProxy"]
    assert made[0]["pass"] == f"{20 * 4 * 2} forward passes of a row"
    assert "it pays from 1,088 rows on, not on these 20" in made[1]["signals"]

    class Stop(Exception):
        """Raised where the first model would be made."""

    def stop(recipes, context):
        raise Stop

    scoring._log_once.cache_clear()
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(scoring, "prepare", stop)
        with pytest.raises(Stop):
            ready(run)
    assert caplog.messages[0].startswith("iprox: preparing takes about ")
    assert "not on these 20" in caplog.messages[0]
    caplog.clear()
    cheap = dataclasses.replace(run, scorer=GradientCosine())
    ready(cheap)
    assert not caplog.messages
