"""Influence methods in whole runs: references refused, rows with reasons, low-rank proxies"""

import math
from dataclasses import replace

import pytest
import torch
from rows import chat_rows, pair_rows, write_jsonl
from torch import nn
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import asked_roles
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models import load as loading
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.gradients.fisher import Damping
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.low_rank import LowRankLinear, put, save
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors import catalog
from gristmill.selectors.influence import paser as paser_file
from gristmill.selectors.influence._low_rank_layers import (
    Side,
    alignment_rate,
    factorise,
)
from gristmill.selectors.influence._proxy import LowRankProxy
from gristmill.selectors.influence.donod import Donod
from gristmill.selectors.influence.paser import Paser
from gristmill.selectors.influence.spice import Spice


def test_defaults_are_the_published_ones():
    proxy = LowRankProxy()
    assert (proxy.rho, proxy.gamma, proxy.ridge, proxy.weighting) == (0.5, 1e-3, "relative", "both")
    assert (proxy.kl_weight, proxy.temperature, proxy.epochs, proxy.batch_size) == (0.1, 2, 5, 4)
    assert (proxy.learning_rate, proxy.weight_decay) == (None, 0.01)
    assert (alignment_rate(4_096), alignment_rate(576)) == (1e-4, 1e-5)
    spice = Spice()
    assert (spice.alpha, spice.penalty, spice.pool_size, spice.picks) == (1, 0.1, 120, None)
    assert (spice.omega, spice.fisher, spice.role) == (None, "exact", "proxy")
    donod = Donod()
    assert (donod.rate, donod.don_weight, donod.nod_weight) == (1e-5, 0.5, 0.5)
    paser = Paser()
    assert (paser.clusters, paser.picks, paser_file.MOST) == (
        10,
        None,
        20_000,
    )  # how many is the budget's word
    assert Damping() == Damping(value=0.1, mode="relative")


def opened(root):
    (root / "store").mkdir()
    return Store(root=root / "store")


def bound(root, scorer, rows, model, reference=None, **passes):
    store = opened(root)
    given = None
    if reference is not None:
        given = ingest(store, [Source(path=str(write_jsonl(root / "target.jsonl", reference)))])
    return ScoreRun(
        scorer=scorer,
        dataset=ingest(store, [Source(path=str(write_jsonl(root / "pool.jsonl", rows)))]),
        context=RunContext(
            models=Models(store=store, roles={r: (str(model),) for r in asked_roles(scorer)}),
            passes=Passes(device="cpu", **passes),
        ),
        reference=given,
    )


@pytest.mark.parametrize(
    "method", ["gradient_cosine", "tracin", "less", "iprox", "ekfac", "datainf"]
)
def test_a_reference_of_another_kind_is_refused_before_any_work(method, tiny, tmp_path):
    run = bound(tmp_path, catalog.make(method), chat_rows(4), tiny, reference=pair_rows(4))
    sentence = r"the reference set holds pair records and the data example records: give a ref"
    with pytest.raises(ValueError, match=sentence):
        score(run)
    steps = {line["step"] for line in run.models.store.computed()}
    assert steps == {"ingest"}


def test_a_reference_that_is_missing_or_not_read_is_refused(tiny, tmp_path):
    run = bound(tmp_path, catalog.make("tracin"), chat_rows(4), tiny)
    with pytest.raises(ValueError, match="tracin needs a reference"):
        score(run)
    (tmp_path / "other").mkdir()
    run = bound(tmp_path / "other", Donod(), chat_rows(4), tiny, reference=chat_rows(4))
    with pytest.raises(ValueError, match="donod reads no reference set"):
        score(run)


def test_rows_without_an_answer_in_the_context_say_why(tiny, tmp_path):
    late = {"role": "assistant", "content": "late"}
    rows = [*chat_rows(3), {"messages": [{"role": "user", "content": "x" * 3_000}, late]}]
    scorer = catalog.make("gradient_cosine", {"size": 64})
    run = bound(tmp_path, scorer, rows, tiny, reference=chat_rows(2, start=40))
    scored = score(run).frame().sort("row")
    assert scored["reason"].to_list() == [None, None, None, "answer_cut"]
    assert scored["score"].is_null().to_list() == [False, False, False, True]
    passes = Passes(device="cpu", overlong="skip")
    skipped = replace(run, context=replace(run.context, passes=passes))
    told = score(skipped).frame().sort("row")["reason"].to_list()
    assert told[:3] == [None] * 3
    assert told[3].startswith("too_long: ")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A model in which one token makes every later number NaN: `~`."""
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("broken")
    folder = make_tiny(root / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    chat = load_tokenizer(resolve(str(folder), opened(root)))
    (token,) = chat.tokenizer("~", add_special_tokens=False).input_ids
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = math.nan
    model.save_pretrained(folder)
    return folder


ODD = {"messages": [{"role": "user", "content": "~"}, {"role": "assistant", "content": "So."}]}


@pytest.mark.parametrize("method", ["gradient_cosine", "spice", "donod"])
def test_a_loss_that_is_no_number_is_null_with_its_reason_and_moves_no_other_row(
    method, broken, tmp_path, monkeypatch
):
    # such weights are refused when they are loaded; numbers may overflow all the same
    monkeypatch.setattr(loading, "check_finite", lambda *_: None)
    settings = {"spice": {"role": "target", "picks": 1.0, "size": 64}, "donod": {}}
    scorer = catalog.make(method, settings.get(method, {"size": 64}))
    reference = chat_rows(2, start=40) if scorer.reference == "required" else None
    found = []
    for name, rows in (("without", chat_rows(5)), ("with", [*chat_rows(5), ODD])):
        root = tmp_path / name
        root.mkdir()
        run = bound(root, scorer, rows, broken, reference)
        found.append(score(run).frame().sort("row"))
    plain, scored = found
    assert scored["score"].to_list()[:5] == pytest.approx(plain["score"].to_list(), abs=1e-5)
    assert scored["score"][5] is None
    assert scored["reason"].to_list() == [None] * 5 + ["not_finite"]


@pytest.fixture(scope="module")
def low_rank(tiny, tmp_path_factory):
    """A low-rank proxy as the recipe leaves it."""
    root = tmp_path_factory.mktemp("low_rank")
    folder = root / "proxy"
    model = load(resolve(str(tiny), opened(root)), device="cpu").model
    layers = linear_layers(model)
    thin = {
        x.name: LowRankLinear.of(*factorise(x.modules[0].weight, 7, Side(), Side()), None)
        for x in layers
    }
    put(model, thin)
    save(model, folder)
    for path in (*tiny.glob("token*"), *tiny.glob("*.jinja")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


WARM = {"warm_up": {"epochs": 1, "batch_size": 8, "rank": 2, "alpha": 4.0}}


SCORERS = {
    "gradient_cosine": {"role": "proxy"},
    "spice": {"picks": 1.0},
    "ekfac": {"role": "proxy"},
    "tracin": {"role": "proxy", **WARM},
    "less": {"role": "proxy", **WARM},
    "datainf": {"role": "proxy", **WARM},
}


@pytest.mark.parametrize("method", SCORERS)
def test_every_gradient_method_reads_a_low_rank_proxy(
    method,
    low_rank,
    tmp_path,
    one_thread,  # noqa: F811
):
    scorer = catalog.make(method, SCORERS[method])
    assert asked_roles(scorer) == ("proxy",)
    reference = chat_rows(2, start=40) if scorer.reference == "required" else None
    run = bound(tmp_path, scorer, chat_rows(6), low_rank, reference)
    assert score(run).frame()["score"].is_finite().all()
