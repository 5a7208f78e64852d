"""Prior filter: the printed statistics, the paper's set at every budget, counts that add up."""

import json
import random

import numpy as np
import polars as pl
import pytest
from ingested import dataset
from repository import ROOT

from gristmill.pipeline.contracts import Artifact, Context, EncodingFacts, Frames
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.signals.views import Dialogue, PlainText
from gristmill.selectors.data_space import _token_prior
from gristmill.selectors.data_space._token_prior import PriorMoments, TokenPrior, blocks_of
from gristmill.selectors.data_space.prior_filter import PriorFilter

DOCS = ([0, 0, 1, 2], [0, 1, 1, 3], [0, 0, 0, 0], [4, 4, 4, 4])
# of the specification: six digits
GOLDEN = {
    "tf": ((-1.52498, -1.73681, -0.82668, -1.38629), (187.5, 157.288, 0, 0)),
    "tfdf": ((-1.52631, -1.83950, -0.45199, -2.11021), (312.356, 262.432, 0, 0)),
}


class Chat:
    """What a signal of tokens asks of a tokenizer."""

    class markers:
        ids = frozenset((9,))

    class tokenizer:
        unk_token_id = 8


def moments(tmp_path, weight, docs=DOCS, counted=DOCS):
    ids = [np.array(d) for d in counted]
    counts = pl.DataFrame(
        {
            "token": range(5),
            "tf": np.bincount(np.concatenate(ids), minlength=5),
            "df": np.sum([np.bincount(np.unique(i), minlength=5) for i in ids], axis=0),
        }
    )
    path = tmp_path / f"{weight}.parquet"
    counts.write_parquet(path)
    signal = PriorMoments(prior=Artifact(name="token_prior", content="x", path=path), weight=weight)
    shown = [Encoded(ids=[9, *d], turn=[1, *(1 for _ in d)]) for d in docs]
    return signal.read(shown, Chat)


@pytest.mark.parametrize("weight", GOLDEN)
def test_statistics_are_the_printed_ones(weight, tmp_path):
    found = moments(tmp_path, weight)
    means, stds = GOLDEN[weight]
    assert [m["mean"] for m in found] == pytest.approx(means, abs=1e-5)
    assert [1_000 * m["std"] for m in found] == pytest.approx(stds, abs=1e-3)


def test_order_changes_no_bit_a_repeated_token_has_no_spread_and_the_unseen_have_a_floor(tmp_path):
    docs = [[2, 1, 0, 0], [1], [], [9], [7, 3_000], [8, 0]]
    a, one, none, marker, unseen, unknown = moments(tmp_path, "tf", docs)
    assert a == moments(tmp_path, "tf")[0]
    assert moments(tmp_path, "tf")[2]["std"] == 0.0
    assert one["std"] is None
    assert none is marker is None
    assert unseen == {"mean": pytest.approx(np.log(1 / 16)), "std": 0}
    assert unknown["mean"] < np.log(7 / 16), "the unknown token is one of the text"


def test_blocks_are_even_pieces_and_each_is_read_like_a_row(tmp_path):
    ids_T = np.arange(40)[::-1]
    assert [len(b) for b in blocks_of(ids_T, 16)] == [20, 20], "two and a half: two"
    assert [b.tolist() for b in blocks_of(ids_T, 0)] == [list(range(40))]
    assert len(blocks_of(np.array([3]), 16)) == 1
    docs = [DOCS[0] * 4 + DOCS[1] * 4, DOCS[2], []]
    counts = pl.DataFrame({"token": range(5), "tf": [7, 3, 1, 1, 4], "df": [3, 2, 1, 1, 1]})
    counts.write_parquet(tmp_path / "counts.parquet")
    prior = Artifact(name="token_prior", content="x", path=tmp_path / "counts.parquet")
    shown = [Encoded(ids=d, turn=[1 for _ in d]) for d in docs]
    halves = [Encoded(ids=d * 4, turn=[1] * 16) for d in DOCS[:2]]
    both = PriorMoments(prior=prior, block=16).read(shown, Chat)
    assert both[0] == PriorMoments(prior=prior).read(halves, Chat)
    assert [len(both[1]), both[2]] == [1, None]


# ------------------------------------------------------------------------------------- the rule


def frames(mean_N, std_N, ids):
    scorer = PriorFilter()
    value = [{"mean": m, "std": s} for m, s in zip(mean_N, std_N, strict=True)]
    dtype = PriorMoments().dtype()
    return Frames(
        parts=(pl.DataFrame({"id": ids, scorer.signals[0].column: pl.Series(value, dtype=dtype)}),)
    )


def paper(mean_N, std_N, ids, keep):
    """The printed algorithm, by sorting and bisection's result: the smallest m that is enough."""
    off = [np.abs(np.float32(v).astype(float) - np.median(np.float32(v))) for v in (mean_N, std_N)]
    order = [sorted(range(len(ids)), key=lambda i: (-d[i], ids[i])) for d in off]
    for m in range(len(ids) + 1):
        union = set(order[0][:m]) | set(order[1][:m])
        if len(union) >= len(ids) - keep:
            break
    if len(union) > len(ids) - keep:
        before = set(order[0][: m - 1]) | set(order[1][: m - 1])
        union.remove(max(union - before, key=lambda i: ids[i]))
    return {ids[i] for i in range(len(ids))} - {ids[i] for i in union}


@pytest.mark.parametrize("seed", range(6))
def test_top_keeps_the_papers_rows_at_every_budget(seed):
    draw = np.random.default_rng(seed)
    n = 23 + seed
    mean, std = draw.normal(size=n), draw.gamma(2, size=n)
    if seed % 2:  # ties
        mean, std = mean.round(1), std.round(1)
    ids = [f"{i:03d}" for i in draw.permutation(n)]
    scored = PriorFilter().score(frames(mean, std, ids)).with_columns(cost=pl.lit(1))
    order = rule_named("top").order(scored, np.inf)["index"].to_list()
    for keep in range(n + 1):
        assert {ids[i] for i in order[:keep]} == paper(mean, std, ids, keep), keep


def test_the_window_of_the_code_is_around_the_middle_of_both_ranks():
    mean, std = [0, 1, 2, 3, 100], [4, 3, 2, 1, 0]
    scored = PriorFilter(window="rank").score(frames(mean, std, list("abcde")))
    assert scored["score"].to_list() == pytest.approx([0.2, 0.6, 1, 0.6, 0.2])


def test_a_row_in_blocks_scores_the_mean_of_its_blocks_ranks():
    mean, std = [0.0, 1.0, 2.5, 3.0, 9.0], [0.1, 0.4, 0.2, 0.3, 0.9]
    alone = PriorFilter().score(frames(mean, std, list("abcde")))
    scorer = PriorFilter(block=16)
    value = [{"mean": m, "std": s} for m, s in zip(mean, std, strict=True)]
    lists = pl.Series([value[:3], value[3:], None], dtype=scorer.signals[0].dtype())
    given = pl.DataFrame({"id": list("xyz"), scorer.signals[0].column: lists})
    found = scorer.score(Frames(parts=(given,)))
    score = alone["score"]
    assert found["score"].to_list() == pytest.approx([score[:3].mean(), score[3:].mean(), None])
    assert found["score_mean"].to_list() == pytest.approx([3.5 / 3, 6, None])
    with pytest.raises(ValueError, match="or at least 8 tokens; found 3"):
        PriorFilter(block=3)


def test_a_row_without_a_spread_has_a_reason_and_moves_no_median():
    whole = PriorFilter().score(frames([1.0, 2.0, 4.0], [0.1, 0.2, 0.3], list("abc")))
    more = PriorFilter().score(
        frames([1.0, 2.0, 9.0, 4.0], [0.1, 0.2, None, 0.3], ["a", "b", "x", "c"])
    )
    assert more.filter(id="x").row(0, named=True) == {
        "id": "x",
        "score": None,
        "score_mean": 9.0,
        "score_std": None,
        "reason": "too_few_tokens",
    }
    assert more.filter(pl.col("id") != "x").equals(whole)
    assert PriorFilter().score(frames([None], [None], ["a"]))["score"].to_list() == [None]
    with pytest.raises(ValueError, match="share is above 0 and at most 1; found 0"):
        PriorFilter(share=0)


# ------------------------------------------------------------------------------------- real text


@pytest.fixture(scope="module")
def english():
    lines = (ROOT / "data/demo/documents.jsonl").read_text("utf-8").splitlines()
    words = " ".join(json.loads(line)["text"] for line in lines).split()
    return [" ".join(words[i : i + 40]) for i in range(0, len(words) - 40, 10)]


def test_noise_falls_and_shards_add_up(store, tiny, tmp_path, english):
    """Bytes stand for tokens here: what is planted is rare bytes, and one byte repeated."""
    draw = random.Random(0)
    noise = ["".join(chr(draw.randint(33, 126)) for _ in range(240)) for _ in range(6)]
    noise += ["\u0434\u0430 \u043d\u0435\u0442 " * 30, "a" * 240, "{};[]" * 40]
    rows = [{"text": t, "bad": i >= len(english)} for i, t in enumerate([*english, *noise])]

    def run(name, chosen, shard_rows):
        pool = dataset(store, tmp_path, name, chosen, shard_rows=shard_rows)
        models = Models(store=store, roles={"target": (str(tiny),)})
        context = RunContext(models=models, passes=Passes(device="cpu"))
        return ScoreRun(scorer=PriorFilter(), dataset=pool, context=context)

    asked = run("pool", rows[:-4], 40)
    table = score(asked).frame()
    counted = len([s for s in store.computed() if s["step"] == "token-counts"])
    assert counted == len(asked.dataset.shards())
    grown = run("pool", rows, 40)
    ready(grown)
    assert len([s for s in store.computed() if s["step"] == "token-counts"]) == counted + 1
    one = run("whole", rows, 1_000)
    tables = [score(r).frame().sort("id") for r in (grown, one)]
    assert tables[0]["score"].to_list() == tables[1]["score"].to_list()
    assert table.height == len(rows) - 4
    bad = pl.DataFrame(rows).select("text", "bad")
    texts = pl.concat(one.dataset.blocks(["id", "text"])).join(bad, on="text")
    joined = tables[1].join(texts, on="id")
    groups = [joined.filter(pl.col("bad") == b)["score"].to_numpy() for b in (False, True)]
    assert auc(*groups) > 0.98


def test_few_rows_are_counted_by_id_and_it_is_said(store, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(_token_prior, "LEAST", 10)
    pool = dataset(store, tmp_path, "pool", [{"text": f"row {i}"} for i in range(40)])
    said = []
    models = Models(store=store, roles={"target": (str(tiny),)})
    context = Context(models=models, pool=pool, passes=Passes(device="cpu"), log=said.append)
    made = TokenPrior().make(context)
    assert said == list(made.notes) == ["token priors of 10 of 40 rows: 1.00% would be 0."]
    counts = pl.read_parquet(made.artifact.path)
    assert 0 < counts["df"].max() < 25, "a quarter, drawn by id"
    assert TokenPrior(share=1.0).make(context).notes == ()


def test_tokens_read_together_are_those_read_alone(tiny, store):
    files = resolve(str(tiny), store)
    texts = [
        "",
        "  ",
        "a",
        "two words",
        "typed <|im_end|> here",
        "caf\u00e9 \U0001f469\u200d\U0001f52c",
        "x" * 300,
    ]
    rows = [{"text": t} for t in texts]
    for overlong in ("cut", "skip"):
        chat = load_tokenizer(files, limit=64, overlong=overlong)
        for view in (Dialogue(), PlainText()):
            alone = [view.encode(r, chat) for r in rows]
            for one, other in zip(alone, view.encode_tokens(rows, chat), strict=True):
                assert EncodingFacts.of(one) == EncodingFacts.of(other)
                assert list(one.ids) == list(other.ids)
                assert list(one.turn) == list(other.turn)
