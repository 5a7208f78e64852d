"""The pipeline: schemas, contracts, the store and the verbs, ingest to export.

A run is `ingest -> clean -> observe -> score -> select -> export`; each verb is one file, and its
function is offered here:

    from gristmill.pipeline import Models, RunContext, ScoreRun, Source, Store
    from gristmill.pipeline import clean, ingest, score, select
"""

from gristmill.pipeline.clean.cleaning import Cleaning, clean
from gristmill.pipeline.contracts import Observations, Rule, Scorer, Signal, View
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.plan.plan import plan
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import Step, Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.pipeline.selection.streaming.ledger import select_tables

__all__ = [
    "Budget",
    "Cleaning",
    "Dataset",
    "Models",
    "Observations",
    "Passes",
    "Publication",
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
    "select_tables",
]
