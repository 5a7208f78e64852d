"""Kept: the tables of a run's parts in the store, under the hash of what they hold.

What a part costs is kept by the completion cache; so a part is made again from it, and a request
that failed is asked again. Equal tables are one entry.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.evaluate.judging import Judged
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Step, Store, open_entry, table
from gristmill.synthesis.preference import candidates, tournament
from gristmill.synthesis.preference.answering import UNANSWERED, Answered
from gristmill.synthesis.preference.avoiding import PLACES
from gristmill.synthesis.preference.canary import Obedience
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.fused import FUSED
from gristmill.synthesis.preference.judges import Judgement
from gristmill.synthesis.preference.personas import (
    Label,
    Labelled,
    User,
    Versus,
    labels_table,
    users_table,
)
from gristmill.synthesis.preference.prompts import read

LABELS: dict[str, Any] = {"prompt": pl.String, "better": pl.String, "worse": pl.String}


def keep_answers(store: Store, found: Answered) -> Path:
    """What writers made; the folder of its entry."""
    labels = pl.DataFrame(found.labels, schema=LABELS, orient="row")
    tables = {
        "candidates": candidates.table(found.candidates),
        "unanswered": pl.DataFrame(list(found.unanswered), schema=UNANSWERED),
        "labels": labels.sort(list(LABELS)),
        "fused": pl.DataFrame(list(found.fused), schema=FUSED),
        "places": pl.DataFrame(list(found.places), schema=PLACES),
    }
    return _keep(store, "preference_answers", tables, {})


def answers_in(folder: Path) -> Answered:
    """What `keep_answers` kept."""
    return Answered(
        candidates=tuple(candidates.listed(read(folder, "candidates"))),
        unanswered=tuple(read(folder, "unanswered").to_dicts()),
        labels=tuple(read(folder, "labels").rows()),
        fused=tuple(read(folder, "fused").to_dicts()),
        places=tuple(read(folder, "places").to_dicts()),
    )


def keep_judgement(store: Store, found: Judgement) -> Path:
    """What judges found; the folder of its entry."""
    tables = {
        "candidates": candidates.table(found.candidates),
        "verdicts": tournament.table(found.met),
    }
    obedience = None if found.obedience is None else vars(found.obedience)
    note = {
        "contradicted": found.contradicted,
        "obedience": obedience,
        "cost": found.cost,
        "mass": found.mass,
    }
    return _keep(store, "preference_verdicts", tables, note)


def judgement_in(folder: Path) -> Judgement:
    """What `keep_judgement` kept."""
    note = open_entry(folder).note
    told = note["obedience"]
    return Judgement(
        candidates=tuple(candidates.listed(read(folder, "candidates"))),
        met=tuple(tournament.listed(read(folder, "verdicts"))),
        contradicted=note["contradicted"],
        obedience=None if told is None else Obedience(**told),
        cost=note["cost"],
        mass=note["mass"],
    )


def keep_labelled(store: Store, found: Labelled) -> Path:
    """Users and what they prefer; the folder of its entry."""
    tables = {"users": users_table(found), "labels": labels_table(found.labels)}
    return _keep(store, "preference_users", tables, {})


def labelled_in(folder: Path, candidates: Sequence[Candidate]) -> Labelled:
    """What `keep_labelled` kept.

    Args:
        folder: of its entry.
        candidates: that the labels speak of.
    """
    by_id = {c.id: c for c in candidates}
    users = read(folder, "users").to_dicts()
    labels = tuple(
        Label(
            user=row["user"],
            of=Versus(prompt=row["prompt"], one=by_id[row["one"]], two=by_id[row["two"]]),
            said=Judged(
                id=f"{row['one']}/{row['two']}",
                one_first=row["one_first"],
                two_first=row["two_first"],
                band=row["band"],
                reason=row["judge_reason"],
            ),
            cost=row["cost"],
        )
        for row in read(folder, "labels").iter_rows(named=True)
    )
    return Labelled(
        users=tuple(
            User(
                id=u["user"],
                description=u["told"],
                facts=tuple(u["facts"]),
                renewed=u["renewed"],
            )
            for u in users
        ),
        labels=labels,
        before={u["user"]: u["entropy_before"] for u in users},
    )


def _keep(
    store: Store, name: str, tables: Mapping[str, pl.DataFrame], note: Mapping[str, Any]
) -> Path:
    held = {n: [frame.columns, frame.rows()] for n, frame in tables.items()}
    step = Step(name=name, version=1, settings={}, inputs={"rows": digest([held, dict(note)])})
    parts = [table(n, lambda frame=frame: frame) for n, frame in tables.items()]  # type: ignore[misc]
    return store.run(step, parts, note=lambda _: dict(note)).path
