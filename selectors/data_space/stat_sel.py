"""STAT selection: does this row teach the skills that the model lacks?"""

import math
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.selectors.data_space._fields import number, tags


@dataclass(frozen=True, kw_only=True)
class StatSel(Scorer):
    """Log of the share of a missing-skill profile that the row's skills make up.

    score(z) = log sum_{k in skills(z)} w_k, w_k = the share of skill k among the skills missing in
    the model's failed answers to the hardest reference questions, those it solves least often.

    Also called: skill-targeted adaptive training. Not difficulty: a row may be easy, if it has the
    skill.

    Reads: the field `skills` of the input row, a list or texts apart by commas, as a teacher named
        them; no model.
    Reference: required; questions that the model has answered, with the fields `missing` (the
        skills that a teacher found missing in the answer; without it, the question's own `skills`)
        and `outcomes` (whether each try was right, or the share that was).
    Higher means: more of what is missing. The default rule `gumbel` draws rows in proportion to
        their share of the profile; `stratified` with by=score_skill gives each missing skill its
        part. `score_skill` is the number of the row's most missing skill, 0 being the most missing
        of all. Rows without such a skill have no score (`no_missing_skill`, `no_skill`).
    Cost: no pass; O(N) to score. Naming skills is 1 answer of a teacher a row.
    Paper: "Skill-Targeted Adaptive Training", arXiv:2510.10023 (princeton-pli/STAT).
    Departures: the hardest questions are those solved least often, where the authors ask a process
        reward model, and one that is solved at times counts for the share of its failures; rows are
        drawn, where they take 5 rows for each question and skill.
    Relations: `dsir` and `embedding_similarity` follow the target's words and topics;
        `solve_rate_filter` keeps rows of middling difficulty, whatever they teach.
    Example: `StatSel(hardest=500).score(pool, reference)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2510.10023"
    cost: ClassVar[str] = "0 fe"
    rule: ClassVar[str] = "gumbel"
    skills: str = "skills"
    missing: str = "missing_skills"
    outcomes: str = "outcomes"
    hardest: int = 500

    def __post_init__(self) -> None:
        if self.hardest < 1:
            raise ValueError(f"hardest is at least 1 question; found {self.hardest}.")

    @property
    def signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("meta",)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        weight = self._profile(reference.frame())
        place = {skill: k for k, skill in enumerate(sorted(weight, key=lambda s: (-weight[s], s)))}
        found: list[tuple[str, float | None, int | None, str | None]] = []
        for block in pool.blocks():
            for ident, meta in block.select("id", "meta").iter_rows():
                named = tags(meta, self.skills)
                mine = [skill for skill in named if skill in weight]
                if mine:
                    most = min(place[s] for s in mine)
                    found.append((ident, sum(weight[s] for s in mine), most, None))
                else:
                    reason = "no_missing_skill" if named else "no_skill"
                    found.append((ident, None, None, reason))
        schema = {"id": pl.String, "score": pl.Float64, "score_skill": pl.Float64}
        frame = pl.DataFrame(found, schema={**schema, "reason": pl.String}, orient="row")
        return frame.with_columns(score=pl.col("score").log())

    def _profile(self, reference: pl.DataFrame) -> dict[str, float]:
        """The share of each skill among those missing in what was failed of the hardest."""
        asked = []
        for ident, meta in reference.select("id", "meta").iter_rows():
            rate = number(meta, self.outcomes)
            lacks = tags(meta, self.missing) or tags(meta, self.skills)
            if lacks and (rate is None or rate < 1):
                asked.append((0.0 if rate is None else rate, ident, lacks))
        if not asked:
            raise ValueError(
                f"no reference question has both a failed try ({self.outcomes!r}) and skills "
                f"({self.missing!r} or {self.skills!r}) in its fields: have a model answer them "
                "and a teacher name the skills."
            )
        failed: dict[str, list[float]] = {}
        for rate, _, lacks in sorted(asked)[: self.hardest]:
            for skill in lacks:
                failed.setdefault(skill, []).append(1 - rate)
        sums = {skill: math.fsum(rates) for skill, rates in failed.items()}
        return {skill: n / math.fsum(sums.values()) for skill, n in sums.items()}
