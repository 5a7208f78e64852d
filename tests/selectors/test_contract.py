"""The scorer's contract over the whole catalogue: a new file is tested once it exists."""

import dataclasses
import doctest
import json
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from contract_runs import ROWS, build, run
from tolerances import LOG_PROB

from gristmill.pipeline.contracts import Frames, Scorer, settings_of
from gristmill.pipeline.records.schema import SCORES
from gristmill.pipeline.score.score import checked, method_id
from gristmill.selectors import catalog

METHODS = sorted(catalog.methods())
# float32 forwards at different batch shapes differ by rounding; scores are O(1)
HEADINGS = (
    "Reads:",
    "Reference:",
    "Higher means:",
    "Cost:",
    "Paper:",
    "Departures:",
    "Relations:",
    "Example:",
)


def values(frame: pl.DataFrame) -> np.ndarray:
    return frame["score"].fill_null(float("nan")).to_numpy()


CASES = [(m, k) for m in METHODS for k in catalog.methods()[m].records]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A store of the models that methods prepare: several ask for the same warm-up."""
    return tmp_path_factory.mktemp("made") / "store"


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_contract(method, kind, tiny, tmp_path, made):
    scorer = build(method)
    if kind in scorer.accepts:
        hold(scorer, kind, tiny, tmp_path, made)


def hold(scorer, kind, tiny, tmp_path, made):
    rows = ROWS[kind](18)
    base = run(tmp_path / "base", tiny, scorer, rows, kind=kind, made=made)
    assert base.columns[: len(SCORES)] == list(SCORES)
    assert base.height == len(rows)
    finite = base["score"].is_finite().fill_null(False)
    assert finite.any()
    assert base.filter(~finite)["reason"].null_count() == 0
    assert base.filter(finite)["reason"].null_count() == finite.sum()

    # the same records give the same models: other tests say so
    again = run(tmp_path / "again", tiny, scorer, rows, kind=kind, made=made)
    assert values(base).tobytes() == values(again).tobytes(), "not deterministic"
    # a row that no method can show to the model costs nobody but itself; the dialogue, cut to the
    # model's 1,024 bytes, has no answer left
    if kind == "example":
        prompt = {"role": "user", "content": "x" * 3_000}
        lost = {"id": "lost", "messages": [prompt, {"role": "assistant", "content": "late"}]}
        more = [*rows, lost]
        with_lost = run(tmp_path / "lost", tiny, scorer, more, kind=kind, made=made)
        assert with_lost.height == len(rows) + 1
        unscored = with_lost.filter(pl.col("score").is_null())
        assert unscored["reason"].null_count() == 0

    backwards = rows[::-1]  # other order, other files, other shards, one row a batch
    other = run(
        tmp_path / "other",
        tiny,
        scorer,
        backwards,
        kind=kind,
        files=3,
        shard_rows=5,
        batch_tokens=1,
        made=made,
    )
    assert other["id"].to_list() == base["id"].to_list()
    message = "depends on order, shards or batches"
    np.testing.assert_allclose(values(other), values(base), atol=LOG_PROB, err_msg=message)


@pytest.mark.parametrize("method", METHODS)
def test_docstring_and_settings(method):
    cls = catalog.methods()[method]
    doc = cls.__doc__ or ""
    at = [doc.find(f"\n    {h}") for h in HEADINGS]
    assert all(i > 0 for i in at), f"{method} lacks {HEADINGS[at.index(-1)]}"
    assert at == sorted(at), f"{method}: headings out of order"
    assert "=" in doc.partition("Reads:")[0], f"{method}: no equation"
    assert cls.cost, f"{method}: no cost"
    scorer = build(method)
    assert json.loads(json.dumps(settings_of(scorer)))["class"] == cls.__name__
    assert dataclasses.is_dataclass(cls)
    assert method_id(scorer) == method
    example = doc[at[-1] :].partition("`")[2].partition("`")[0]
    assert doctest.script_from_examples(f">>> {example}")
    call = example.partition(".score(")[0]
    assert isinstance(eval(call, {cls.__name__: cls}), cls)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionScorer(Scorer):
    """A planted bad scorer: its score is the row's place in the pool."""

    scope: ClassVar = "pool"

    @property
    def signals(self):
        return ()

    def score(self, pool, reference=None):
        ids = pl.concat([b["id"] for b in pool.blocks()])
        return pl.DataFrame({"id": ids, "score": np.arange(len(ids), dtype=float)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetfulScorer(Scorer):
    """A planted bad scorer: it loses a row."""

    @property
    def signals(self):
        return ()

    def score(self, pool, reference=None):
        return pl.concat([b.select("id", score=pl.lit(1.0)) for b in pool.blocks()]).head(-1)


@pytest.mark.parametrize("planted", [PositionScorer, ForgetfulScorer])
def test_a_bad_scorer_fails_the_contract(planted, tiny, tmp_path, made):
    with pytest.raises(
        (AssertionError, ValueError), match=r"depends on order|returned 7 rows for 8"
    ):
        hold(planted(), "example", tiny, tmp_path, made)


def test_a_score_that_is_no_number_becomes_a_reasoned_null(tmp_path):
    class Pool:
        ids = (pl.Series("id", ["a", "b"]),)
        rows = 2

        def blocks(self):
            yield pl.DataFrame({"id": ["a", "b"]})

    scores = pl.DataFrame({"id": ["b", "a"], "score": [float("inf"), 0.5]})
    out = checked(build("random"), Pool(), scores, ())
    assert out.sort("id")["score"].to_list() == [0.5, None]
    assert out.sort("id")["reason"].to_list() == [None, "not_finite"]


def test_frames_serve_as_observations():
    pool = Frames(parts=(pl.DataFrame({"id": ["a"]}), pl.DataFrame({"id": ["b"]})))
    assert build("random").score(pool).height == pool.rows == pool.frame().height == 2


def test_unknown_methods_and_settings_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"there is no method 'nope'; there are: .*blend"):
        catalog.make("nope")
    with pytest.raises(ValueError, match=r"ifd has no setting 'x'; it has: ratio\."):
        catalog.make("ifd", {"x": 1})
    with pytest.raises(ValueError, match=r"ifd\.ratio = 'sum'"):
        catalog.make("ifd", {"ratio": "sum"})
    with pytest.raises(ValueError, match=r"blend reads all its methods .* less has some made"):
        _ = catalog.make("blend", {"methods": "less:1,length:1"}).signals
    assert catalog.make("blend", {"methods": "ifd:1,length:-0.5"}).methods == {
        "ifd": 1.0,
        "length": -0.5,
    }
