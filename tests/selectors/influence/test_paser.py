"""PASER: golden numbers, two models at once, clusters, concepts, budgets."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from rows import chat_rows, write_jsonl
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Context, EncodingFacts, Frames, asked_roles
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.selection.rules.mixture import largest_remainder
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.influence import paser as paser_file
from gristmill.selectors.influence._companion import Companion, companion_of
from gristmill.selectors.influence._concepts import ConceptGraph, concepts
from gristmill.selectors.influence._spectral import by_first_row, spectral_clusters
from gristmill.selectors.influence.paser import Paser, TokenDivergence, jensen_shannon, recovery


def test_golden_divergence():
    p, q = (torch.tensor([x]).double().log() for x in ([0.5, 0.5], [0.9, 0.1]))
    assert float(jensen_shannon(p, q)) == pytest.approx(0.10174923, abs=1e-8)
    assert float(jensen_shannon(q, p)) == pytest.approx(0.10174923, abs=1e-8)
    one, other = (torch.tensor([x]).double().log() for x in ([1.0, 0], [0, 1.0]))
    assert float(jensen_shannon(one, other)) == pytest.approx(math.log(2))
    far = torch.tensor([[0.0, -2000.0]]).double().log_softmax(-1)
    assert float(jensen_shannon(far, far.flip(1))) == pytest.approx(math.log(2))
    draw = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert not jensen_shannon(draw, draw).any(), "equal models differ by exactly nothing"


def test_golden_budgets_and_costs():
    share = lambda room, *parts: list(  # noqa: E731
        largest_remainder(room, {str(i): p for i, p in enumerate(parts)}).values()
    )
    from fractions import Fraction as F

    assert share(10, F("0.31"), F("0.23"), F("0.46")) == [3, 2, 5]
    assert share(7, F("0.5"), F("0.3"), F("0.2")) == [4, 2, 1]
    found = observed([(0.2, 30), (0.2, 300), (0.05, 4)])
    ies = Paser().score(found).sort("id")["score_ies"].to_list()
    assert ies == pytest.approx([0.02940141, 0.01753222, 0.01803369], abs=1e-8)


def test_the_concept_graph_admits_what_stood_together():
    graph = ConceptGraph()
    taken = []
    for names in ("ab", "bc", "ac", "ad"):
        taken.append(graph.admits(names))
        if taken[-1]:
            graph.add(names)
    assert taken == [True, True, False, True]
    assert graph.nodes == set("abcd")
    assert graph.edges == {("a", "b"), ("b", "c"), ("a", "d")}


def test_concepts_are_rakes_phrases():
    text = "Linear constraints over the set of natural numbers. Natural numbers are linear sets."
    # phrases: linear constraints | set | natural numbers (twice) | linear sets; degree / frequency:
    # linear 4/2, constraints 2, set 1, natural 4/2, numbers 4/2, sets 2; six words, two phrases
    assert concepts(text) == ("linear constraints", "linear sets")
    assert concepts("") == ()
    assert concepts("What is it?") == ()
    assert concepts("Zwei Äpfel") == ("zwei äpfel",)


def test_blobs_and_rings_of_neighbours_become_clusters():
    draw = np.random.default_rng(0)
    centre = np.array([[1.0, 0, 0], [0, 1, 0]])
    blobs = np.repeat(centre, 40, 0) + 0.05 * draw.normal(size=(80, 3))
    unit = blobs / np.linalg.norm(blobs, axis=1, keepdims=True)
    assert spectral_clusters(unit, 2).tolist() == [0] * 40 + [1] * 40
    # a bent band: neighbours hang together, though its ends are nearer to the other blob
    angle = np.linspace(0, 2.5, 120)
    band = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    blob = np.array([[math.cos(1.25), math.sin(1.25), 0.9]]) + 0.03 * draw.normal(size=(60, 3))
    both = np.concatenate([band, blob])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    assert spectral_clusters(both, 2, neighbours=5).tolist() == [0] * 120 + [1] * 60
    assert spectral_clusters(unit[:1], 5).tolist() == [0]
    assert len(set(spectral_clusters(unit[:3], 10).tolist())) == 3
    assert set(spectral_clusters(np.ones((6, 2)) / math.sqrt(2), 3).tolist()) <= {0, 1, 2}
    with pytest.raises(ValueError, match="at least 1"):
        spectral_clusters(unit, 0)


def test_the_sparse_solver_cuts_like_the_dense_one(monkeypatch):
    draw = np.random.default_rng(1)
    centre = np.repeat(np.eye(4), 30, 0) + 0.1 * draw.normal(size=(120, 4))
    unit = centre / np.linalg.norm(centre, axis=1, keepdims=True)
    dense = spectral_clusters(unit, 4, neighbours=8)
    monkeypatch.setattr("gristmill.selectors.influence._spectral.DENSE", 10)
    monkeypatch.setattr("gristmill.selectors.influence._spectral.BLOCK", 17)
    assert spectral_clusters(unit, 4, neighbours=8).tolist() == dense.tolist()
    assert dense.tolist() == np.repeat(np.arange(4), 30).tolist()
    assert by_first_row(np.array([2, 0, 2, 1, 0])).tolist() == [0, 1, 0, 2, 1]


def test_budgets_follow_the_drift_and_unspent_room_moves_on():
    drift = np.array([0.1, 0.1, 0.3, 0.3, 0.3, 0.3])
    score, cluster = drift * [1, 2, 1, 2, 3, 4], np.array([0, 0, 1, 1, 1, 1])
    free = [[f"c{i}"] for i in range(6)]
    taken, passed = recovery(score, drift, cluster, free, 4)
    assert taken == [5, 4, 3, 1]  # three of the cluster that drifted more, then one of the other
    assert passed == []
    assert recovery(score, drift * 0, cluster, free, 4)[0] == [1, 0, 5, 4], "no drift: equal parts"
    clash = [["c0"], ["c1"], ["a", "c"], ["a", "c"], ["b", "c"], ["a", "b"]]
    taken, passed = recovery(score, drift, cluster, clash, 5)
    # {a, b}, then {b, c}; {a, c} never stood together; the room left over goes to the other cluster
    assert (taken, passed) == ([5, 4, 1, 0], [3, 2])
    long = np.array([0, 1, 1, 1, 1, 1])  # the first cluster visited has one row for two places
    taken, _ = recovery(score, np.array([9.0, 1, 1, 1, 1, 1]), long, free, 4)
    assert sorted(taken) == [0, 3, 4, 5]
    wrap = recovery(score, np.array([9.0, 9, 1, 1, 1, 1]), cluster, free, 6)[0]
    assert sorted(wrap) == list(range(6))


def observed(rows, texts=None):
    divergence, embedding = Paser().signals
    facts = EncodingFacts(role="reference", view=Dialogue())
    draw = np.random.default_rng(0).normal(size=(len(rows), 4)).astype(np.float32)
    frame = pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(len(rows))],
            "messages": [
                [
                    {
                        "role": "user",
                        "content": (texts or ["word" + chr(97 + i) for i in range(99)])[i],
                    }
                ]
                for i in range(len(rows))
            ],
        }
    )
    told = [
        {"tokens": t, "answer_tokens": 1, "cut": 0, "reason": None if j is not None else "empty"}
        for j, t in rows
    ]
    return Frames(
        parts=(
            frame.with_columns(
                pl.Series(divergence.column, [j for j, _ in rows], pl.Float64),
                pl.Series(facts.column, told, facts.dtype),
                pl.Series(embedding.column, draw, pl.Array(pl.Float32, 4)),
            ),
        )
    )


def test_rows_are_taken_passed_over_or_not_reached():
    texts = ["alpha rays", "alpha beta", "rays, beta, alpha", "omega", "lost"]
    found = observed([(0.5, 20), (0.4, 20), (0.3, 20), (0.2, 20), (None, 20)], texts)
    scored = Paser(clusters=1, picks=3).score(found).sort("id")
    assert scored["score"].to_list() == [-1, -2, -3, None, None]
    scored = Paser(clusters=1, picks=2).score(found).sort("id")
    assert scored["reason"].to_list() == [None, None, "not_reached", "not_reached", None]
    names = ("alpha, beta", "beta, cobra", "alpha, cobra", "delta, eagle")
    texts = [f"{two}, zeta, zinc, zone, zoom" for two in names]
    assert concepts(texts[0]) == ("alpha", "beta"), "two of six words"
    clash = observed([(0.5, 20), (0.4, 20), (0.3, 20), (0.2, 20)], texts)
    scored = Paser(clusters=1, picks=3).score(clash).sort("id")
    assert scored["score"].to_list() == [-1, -2, None, -3]
    assert scored["reason"].to_list() == [None, None, "concept_conflict", None]
    assert scored["cluster"].to_list() == ["0"] * 4
    nothing = Paser().score(observed([(None, 3), (None, 3)]))
    assert nothing["score"].null_count() == 2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A four-block model as the original; no pruned one is bound."""
    root = tmp_path_factory.mktemp("paser")
    path = make_tiny(root / "model", hidden=16, layers=4)
    store = Store(root=root / "store")
    store.root.mkdir()
    return Models(store=store, roles={"reference": (str(path),), "embedder": (str(path),)})


def test_without_a_pruned_model_every_fourth_block_is_dropped(models, tmp_path, monkeypatch):
    monkeypatch.setattr(paser_file, "NUMBERS", 2_000)  # a row's tokens in several parts
    scorer = Paser(picks=0.5, clusters=2)
    assert asked_roles(scorer) == ("reference", "embedder")
    pool = ingest(
        models.store, [Source(path=str(write_jsonl(tmp_path / "pool.jsonl", chat_rows(8))))]
    )
    run = ScoreRun(
        scorer=scorer, dataset=pool, context=RunContext(models=models, passes=Passes(device="cpu"))
    )
    scored = score(run).frame().sort("id")
    assert scored["score"].drop_nulls().len() + (scored["reason"] == "concept_conflict").sum() >= 4
    assert (scored["score_jsd"] > 0).all()
    original = load(models.files("reference")[0], device="cpu")
    whole = load(models.files("reference")[0], device="cpu").model
    whole.model.layers = torch.nn.ModuleList(list(whole.model.layers)[:3])
    for row in pool.frame().sort("id").iter_rows(named=True):
        e = Dialogue().encode(row, original.chat)
        with torch.no_grad():
            logs = [
                m(input_ids=torch.tensor([e.ids]), use_cache=False).logits[0, :-1].log_softmax(-1)
                for m in (whole, original.model)
            ]
        a, b = (x[torch.tensor(e.turn)[1:] != 0].double().exp() for x in logs)
        mean = (a + b) / 2
        expected = ((a * (a / mean).log() + b * (b / mean).log()).sum(1) / 2).mean()
        (found,) = scored.filter(id=row["id"])["score_jsd"]
        assert found == pytest.approx(float(expected), rel=1e-3)


def test_a_second_model_is_handed_over(models, tmp_path):
    pool = ingest(
        models.store, [Source(path=str(write_jsonl(tmp_path / "pool.jsonl", chat_rows(2))))]
    )
    bound = models.bind("target", models.roles["reference"])
    made = Companion().make(Context(models=bound, pool=pool)).artifact
    loaded = load(bound.files("reference")[0], device="cpu")
    other = companion_of(loaded, made)
    assert other.files.path == bound.files("target")[0].path
    assert made.content == bound.files("target")[0].fingerprint
    encoded = [
        Dialogue().encode({"messages": r["messages"], "tools": None}, loaded.chat)
        for r in chat_rows(3)
    ]
    assert TokenDivergence(companion=made).open(loaded)(encoded) == [0, 0, 0], (
        "the same model twice"
    )
    with pytest.raises(ValueError, match="there is no second model to compare"):
        companion_of(loaded, None)
    wide = make_tiny(tmp_path / "wide", hidden=16)
    from transformers import AutoModelForCausalLM

    grown = AutoModelForCausalLM.from_pretrained(wide)
    grown.resize_token_embeddings(300)
    grown.save_pretrained(wide)
    strange = Companion().make(Context(models=models.bind("target", (str(wide),)), pool=pool))
    with pytest.raises(ValueError, match="259 and 300 tokens"):
        companion_of(loaded, strange.artifact)


def drifts(values, tokens):
    divergence, embedding = Paser().signals
    facts = EncodingFacts(role="reference", view=Dialogue())
    n = len(values)
    told = [{"tokens": t, "answer_tokens": 1, "cut": 0, "reason": None} for t in tokens]
    vectors = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    frame = pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(n)],
            "messages": [[{"role": "user", "content": f"w{chr(97 + i)}"}] for i in range(n)],
        }
    )
    part = frame.with_columns(
        pl.Series(divergence.column, values, pl.Float64),
        pl.Series(facts.column, told, facts.dtype),
        pl.Series(embedding.column, vectors, pl.Array(pl.Float32, 4)),
    )
    return Frames(parts=(part,))


def test_paser_bounds_cost_below_and_picks_above(monkeypatch):
    scored = Paser().score(drifts([0.3, 0.2], [1, 10])).sort("id")
    assert scored["score_ies"].to_list() == pytest.approx([0.3, 0.2 / math.log(100)])
    monkeypatch.setattr(paser_file, "MOST", 2)
    scored = Paser(picks=1.0).score(drifts([0.5, 0.4, 0.3, 0.2], [20] * 4))
    assert len(scored["score"].drop_nulls()) == 2


def test_the_divergence_of_predictions_that_are_no_numbers_is_none():
    lost = torch.full((1, 3), math.nan).double()
    fine = torch.zeros(1, 3).double().log_softmax(-1)
    for p, q in ((lost, lost), (lost, fine), (fine, lost)):
        assert bool(jensen_shannon(p, q).isnan().all())


def test_a_drift_that_is_no_number_is_not_taken():
    scored = Paser(picks=1.0).score(drifts([0.5, math.nan, 0.3], [20] * 3)).sort("id")
    assert scored["score"].is_null().to_list() == [False, True, False]
