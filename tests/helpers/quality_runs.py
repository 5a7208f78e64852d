"""A whole run of one scorer over rows in memory"""

from rows import write_jsonl

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.score.score import ScoreRun, score


def scored(store, folder, scorer, rows, **roles):
    """Scores in the order of `rows`."""
    pool = ingest(store, [Source(path=str(write_jsonl(folder / "pool.jsonl", rows)))])
    models = Models(store=store, roles={r: (str(path),) for r, path in roles.items()})
    passes = Passes(device="cpu", batch_tokens=2_000)
    made = ScoreRun(scorer=scorer, dataset=pool, context=RunContext(models=models, passes=passes))
    return score(made).frame().sort("row")
