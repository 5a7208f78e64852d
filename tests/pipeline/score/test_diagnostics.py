"""Self-checks: each speaks when it should and is silent when it should be."""

import dataclasses
from typing import ClassVar

import polars as pl
import pytest
from rows import chat_rows, write_jsonl

from gristmill.pipeline.contracts import Scorer
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import Batch
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.score.diagnostics import check_scores, follows_length
from gristmill.pipeline.score.score import ScoreRun
from gristmill.pipeline.signals.gradient_signals import GradientNorm, ProjectedGradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeighbourNorm(GradientNorm):
    """A planted bad signal: it adds the number of rows in the batch."""

    def read(self, batch: Batch):
        return [v + batch.rows for v in super().read(batch)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toward(Scorer):
    """Inner product with the first target row's gradient, and a signal to be checked."""

    reference: ClassVar = "optional"
    seed: int = 0
    size: int = 2_048
    planted: bool = False

    @property
    def signals(self):
        norm = NeighbourNorm() if self.planted else GradientNorm()
        return (ProjectedGradient(size=self.size, seed=self.seed), norm)

    def score(self, pool, reference=None):
        column = self.signals[0].column
        aim = reference.frame().sort("id")[column][0].to_numpy()
        return pl.concat(
            b.select("id").with_columns(score=pl.Series(b[column].to_numpy() @ aim, dtype=float))
            for b in pool.blocks()
        )


@pytest.fixture
def run(store, tiny, tmp_path):
    pool = write_jsonl(tmp_path / "pool.jsonl", chat_rows(16))
    target = write_jsonl(tmp_path / "target.jsonl", chat_rows(4, start=40))
    return ScoreRun(
        scorer=Toward(),
        dataset=ingest(store, [Source(path=str(pool))]),
        reference=ingest(store, [Source(path=str(target))]),
        context=RunContext(
            models=Models(store=store, roles={"target": (str(tiny),)}),
            passes=Passes(device="cpu", max_length=256),
        ),
    )


def test_a_sound_method_passes_and_a_signal_that_sees_its_batch_does_not(store, run):
    checks = {(c.check, c.of): c for c in check_scores(run)}
    batches = [c for (check, _), c in checks.items() if check == "batches"]
    assert len(batches) == 2
    assert all(c.fine and c.value < 1e-4 for c in batches)
    seeds = [c for (check, _), c in checks.items() if check == "seeds"]
    assert [c.of for c in seeds] == ["seed 1", "seed 2"]
    assert all(c.fine and c.value > 0.8 for c in seeds)
    bad = dataclasses.replace(run, scorer=Toward(planted=True))
    found = {c.of: c.fine for c in check_scores(bad) if c.check == "batches"}
    assert found[NeighbourNorm().column] is False
    assert sum(not fine for fine in found.values()) == 1


def test_few_buckets_are_unstable(store, run):
    tight = dataclasses.replace(run, scorer=Toward(size=1))
    seeds = [c for c in check_scores(tight) if c.check == "seeds"]
    assert any(c.fine is False for c in seeds)


def test_scores_that_follow_length_are_told():
    table = pl.DataFrame({"id": list("abcd"), "tokens": [4, 3, 9, 7], "score": [0.4, 0.3, 0.9, 8]})
    assert follows_length(table.with_columns(score=pl.col("tokens") * 2.0)).fine is False
    assert follows_length(table).fine is True
    assert follows_length(table.clear()).fine is None


def test_leaving_rows_out_moves_the_target_loss(store, run):
    checks = check_scores(run, leave_one_out=4)
    probe = next(c for c in checks if c.check == "leave-one-out")
    assert probe.value is not None
    assert "4 rows" in probe.says
    trained = {line["key"] for line in store.computed() if line["step"] == "sft"}
    assert len(trained) == 5
    with pytest.raises(ValueError, match="pass --reference PATH"):
        check_scores(dataclasses.replace(run, reference=None), leave_one_out=4)
