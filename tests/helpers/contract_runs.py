"""Any method of the catalogue over toy rows, as the contract runs it"""

import shutil

from rows import chat_rows, document_rows, pair_rows, write_jsonl

from gristmill.pipeline.contracts import Scorer, asked_roles
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors import catalog


def _tagged(rows):
    """Rows with three tags among them, which their own content decides."""
    return lambda n: [{**r, "skills": [f"s{round(10 * r['quality']) % 3}"]} for r in rows(n)]


ROWS = {
    "example": _tagged(chat_rows),
    "pair": _tagged(pair_rows),
    "document": _tagged(document_rows),
}


# settings without which a method has nothing to do on the toy data
# (the tiny model's rollouts hit a number of one digit at times)
ROLLED = {"rollouts": {"samples": 8, "max_tokens": 32, "grade": "number"}}


SETTINGS = {
    "column": {"name": "quality"},
    "cpqs": {"damage": "alone"},
    "filtered_dpo": {"max_tokens": 8},
    "mig": {"tags": "skills", "quality": "quality"},
    "iprox": {"alignment": {"epochs": 2}},
    "paser": {"every": 2},
    "solve_rate_filter": ROLLED,
    "uncertainty_consistency": ROLLED,
}


def build(method: str) -> Scorer:
    return catalog.make(method, SETTINGS.get(method))


SEEN = {"ingest", "observe", "score"}  # all other steps make models and the like


def run(root, tiny, scorer, rows, *, kind, files=1, shard_rows=8, batch_tokens=2_000, made=None):
    """Scores of `rows` by id, by a store that holds at most prepared models: those of `made`."""
    root.mkdir(parents=True)
    store = Store(root=made or root / "store")
    store.root.mkdir(exist_ok=True)
    for step in SEEN:
        shutil.rmtree(store.root / step, ignore_errors=True)
    paths = []
    for f in range(files):
        part = rows[f::files]
        paths.append(write_jsonl(root / f"pool{f}.jsonl", part))
    pool = ingest(store, [Source(path=str(p)) for p in paths], shard_rows=shard_rows)
    assert pool.kind == kind
    reference = None
    if scorer.reference != "none":
        target = write_jsonl(root / "target.jsonl", ROWS[kind](30)[26:])
        reference = ingest(store, [Source(path=str(target))])
    roles = asked_roles(scorer) or ("target",)
    models = Models(store=store, roles={r: (str(tiny),) for r in roles})
    bound = ScoreRun(
        scorer=scorer,
        dataset=pool,
        context=RunContext(models=models, passes=Passes(device="cpu", batch_tokens=batch_tokens)),
        reference=reference,
    )
    entry = score(bound)
    return entry.frame().sort("id")
