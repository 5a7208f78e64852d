"""The pipeline: schemas, contracts, the store and the verbs, ingest to export.

A run is `ingest -> clean -> observe -> score -> select -> export`; each verb is one file, and its
function is offered here:

    from gristmill.pipeline import Models, RunContext, ScoreRun, Source, Store
    from gristmill.pipeline import clean, ingest, score, select
"""

from gristmill.pipeline.clean.cleaning import Cleaning, clean
from gristmill.pipeline.context import RunContext
from gristmill.pipeline.contracts import Observations, Rule, Scorer, Signal, View
from gristmill.pipeline.dataset import Dataset
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.ingest import Source, ingest
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe import observe
from gristmill.pipeline.plan import plan
from gristmill.pipeline.rules import rule_named
from gristmill.pipeline.score import ScoreRun, score
from gristmill.pipeline.selection import Budget, select
from gristmill.pipeline.store import Step, Store

__all__ = [
    "Budget",
    "Cleaning",
    "Dataset",
    "Models",
    "Observations",
    "Passes",
    "Rule",
    "RunContext",
    "ScoreRun",
    "Scorer",
    "Signal",
    "Source",
    "Step",
    "Store",
    "View",
    "clean",
    "export",
    "ingest",
    "observe",
    "plan",
    "rule_named",
    "score",
    "select",
]
