"""Check scores: may the scores of a method, on this data and this model, be trusted?

| check | asks |
|---|---|
| `length` | do the scores merely follow the rows' lengths? |
| `batches` | does what the model says of a row depend on who shares its batch? |
| `seeds` | do other random projections give the same order? |
| `leave-one-out` | on request: does leaving a row out move the target loss as its score says? |

All but the first look at a sample, drawn by id. In bfloat16 a kernel may pick other tilings for
other shapes: that is what `batches` measures, by kernel, before a million rows are scored with it.
"""

# N = sampled rows, D = numbers per row of a signal

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import PassSignal, Signal
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import LoadedModel, pick_device
from gristmill.pipeline.numerics.ranks import spearman
from gristmill.pipeline.records.dataset import Dataset, sampled
from gristmill.pipeline.records.schema import CONTENT
from gristmill.pipeline.records.store import Step
from gristmill.pipeline.score.score import ScoreRun, method_id, ready, score
from gristmill.pipeline.signals.gradient_signals import (
    GradientSignal,
    ProjectedGradient,
    gradient_reader,
)

FOLLOWS_LENGTH = 0.9  # |rank correlation| from which a selection is one by length
# largest relative difference between a row alone and the same row in a batch, by dtype
DIFFERS = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
STABLE = 0.8  # rank correlation of two projection seeds
BATCH_ROWS, SEED_ROWS = 8, 64
# what gives numbers by one pass over the record itself
NUMBERS = frozenset(
    ("losses", "all_losses", "entropy", "hidden", "last_hidden", "embedding", "backward")
)
SEEDS = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding.

    Attributes:
        check: which check.
        of: what was looked at.
        value: its figure, null if there was nothing to look at.
        bound: what it is held against.
        fine: whether it holds; null if it cannot be said.
        says: the finding as a sentence.
    """

    check: str
    of: str
    value: float | None
    bound: float | None
    fine: bool | None
    says: str

    def row(self) -> dict[str, Any]:
        """As a line of a table."""
        verdict = {True: "fine", False: "WARNING", None: "-"}[self.fine]
        value = None if self.value is None else f"{self.value:.3g}"
        return {
            "check": self.check,
            "of": self.of,
            "value": value,
            "": verdict,
            "says": self.says,
        }


def check_scores(run: ScoreRun, *, leave_one_out: int = 0) -> list[Check]:
    """Check a method on its data; what it scores is made, or found, on the way.

    Args:
        run: the method bound to data and models.
        leave_one_out: rows to leave out, one training each; 0 = none. Needs examples and a
            reference set.
    """
    name = method_id(run.scorer)
    if leave_one_out and (run.reference is None or run.dataset.kind != "example"):
        raise ValueError(
            f"the leave-one-out probe of {name} trains on examples and asks a reference set: pass "
            "--reference PATH, or leave the probe out."
        )
    bound = ready(run)
    checks = [follows_length(score(bound).frame())]
    checks += batches_agree(bound)
    checks += seeds_agree(bound)
    if leave_one_out:
        checks.append(leave_one_out_agrees(bound, leave_one_out))
    return checks


def follows_length(scores: pl.DataFrame) -> Check:
    """Rank correlation of score and tokens over unique rows."""
    known = scores.unique("id", keep="first").filter(
        pl.col("score").is_not_null() & pl.col("tokens").is_not_null()
    )
    rho = spearman(known["score"].to_numpy(), known["tokens"].to_numpy())
    says = "no two rows with a score and a length."
    fine = None
    if rho is not None:
        fine = abs(rho) <= FOLLOWS_LENGTH
        says = f"score against tokens, {known.height:,} rows" + (
            "." if fine else ": compare with the method `length` before trusting this one."
        )
    return Check(check="length", of="score", value=rho, bound=FOLLOWS_LENGTH, fine=fine, says=says)


def batches_agree(run: ScoreRun) -> list[Check]:
    """The largest relative difference between rows read alone and in one batch, by signal."""
    asked = run.step()
    step = Step(
        name="check-batches",
        version=1,
        settings={**asked.settings, "device": pick_device(run.passes.device)},
        inputs=asked.inputs,
    )
    store = run.context.store
    found = store.find(step) or store.put(step, _differences(run))
    checks = []
    for row in found.frame().iter_rows(named=True):
        most = DIFFERS.get(row["dtype"], DIFFERS["float32"])
        fine = None if row["value"] is None else row["value"] <= most
        says = f"alone against a batch of {row['rows']}, relative; attention {row['kernel']}, "
        says += f"{row['dtype']}, {row['device']}"
        says += ": use float32, or the attention kernel 'eager'." if fine is False else "."
        checks.append(
            Check(
                check="batches",
                of=row["signal"],
                value=row["value"],
                bound=most,
                fine=fine,
                says=says,
            )
        )
    return checks


def _differences(run: ScoreRun) -> pl.DataFrame:
    dataset = sampled(run.context.store, run.dataset, BATCH_ROWS)
    found = []
    for signal in run.scorer.signals:
        if not isinstance(signal, PassSignal) or not signal.needs <= NUMBERS:
            continue
        for files in run.models.files(signal.role):
            model = run.models.load(files, run.passes, embedder="embedding" in signal.needs)
            rows = _encoded(dataset, signal, model)
            together = _read(signal, model, rows) if rows else []
            alone = [value for row in rows for value in _read(signal, model, [row])]
            gaps = [
                np.abs(x - y).max() / max(np.abs(y).max(), np.finfo(np.float32).tiny)
                for x, y in zip(together, alone, strict=True)
                if x is not None and y is not None
            ]
            kernel = getattr(getattr(model.model, "config", None), "_attn_implementation", "?")
            found.append(
                (
                    signal.column,
                    float(max(gaps)) if gaps else None,
                    len(rows),
                    str(kernel),
                    model.dtype,
                    model.device,
                )
            )
    schema = {
        "signal": pl.String,
        "value": pl.Float64,
        "rows": pl.Int64,
        "kernel": pl.String,
        "dtype": pl.String,
        "device": pl.String,
    }
    return pl.DataFrame(found, schema=schema, orient="row")


def seeds_agree(run: ScoreRun) -> list[Check]:
    """Rank correlation of the scores of a sample under further seeds of the projections."""
    projected = any(isinstance(s, ProjectedGradient) for s in run.scorer.signals)
    names = {f.name for f in dataclasses.fields(run.scorer)}
    if not projected or "seed" not in names:
        return []
    dataset = sampled(run.context.store, run.dataset, SEED_ROWS)
    first = dataclasses.replace(run, dataset=dataset)
    base = score(first).frame().sort("id")["score"].to_numpy()
    checks = []
    for seed in SEEDS:
        changed: dict[str, Any] = {"seed": vars(run.scorer)["seed"] + seed}
        scorer = dataclasses.replace(run.scorer, **changed)
        other = dataclasses.replace(first, scorer=scorer)
        found = score(other).frame().sort("id")["score"].to_numpy()
        rho = spearman(base, found)
        checks.append(
            Check(
                check="seeds",
                of=f"seed {vars(scorer)['seed']}",
                value=rho,
                bound=STABLE,
                fine=None if rho is None else rho >= STABLE,
                says=f"rank correlation with seed {vars(run.scorer)['seed']} on "
                f"{dataset.frame(['id']).height} rows"
                + ("." if rho is None or rho >= STABLE else ": raise k or size."),
            )
        )
    return checks


def leave_one_out_agrees(run: ScoreRun, rows: int) -> Check:
    """Rank correlation of the scores with what training without a row does to the target loss.

    Examples and a reference set are taken for granted. The role's model is tuned on a sample, and
    on the sample without each row: a few full-batch steps of an adapter, so that the rows' order
    has no part in it.
    """
    from gristmill.pipeline.evaluate.heldout import held_out_loss
    from gristmill.pipeline.finetune.job import Run
    from gristmill.pipeline.finetune.settings import Lora, Training
    from gristmill.pipeline.finetune.sft import Sft, train_sft

    store = run.context.store
    dataset = sampled(store, run.dataset, rows)
    table = score(dataclasses.replace(run, dataset=dataset)).frame()
    known = table.filter(pl.col("score").is_not_null()).sort("id")
    content = ["id", *CONTENT["example"]]
    pool = dataset.frame(content).join(known.select("id"), on="id", how="semi").sort("id")
    assert run.reference is not None
    target = run.reference.frame(content).unique("id").sort("id")
    base = run.models.roles["target"][-1]
    batch = max(1, pool.height)
    training = Training(
        epochs=4,
        batch_size=batch,
        micro_batch=1,
        learning_rate=1e-3,
        schedule="constant",
        warmup=0.0,
        checkpoints="last",
        optimizer_state=False,
        max_length=run.passes.max_length,
    )
    settings = Sft(training=training, lora=Lora(dropout=0.0))

    def loss(frame: pl.DataFrame) -> float:
        trained = train_sft(frame, base, settings, store, run=Run(device=run.passes.device))
        found = held_out_loss(target, trained.reference, store, passes=run.passes)
        return found.per_row.value

    with_all = loss(pool)
    moved = [loss(pool.filter(pl.col("id") != i)) - with_all for i in pool["id"]]
    rho = spearman(known["score"].to_numpy(), np.asarray(moved))
    return Check(
        check="leave-one-out",
        of="score",
        value=rho,
        bound=0.0,
        fine=None if rho is None else rho > 0,
        says=f"score against the rise of the target loss without the row, {pool.height} rows: "
        "a probe, not a proof.",
    )


def _encoded(dataset: Dataset, signal: Signal, model: LoadedModel) -> list[Encoded]:
    records = dataset.frame().sort("id").iter_rows(named=True)
    shown = [signal.view.encode(r, model.chat) for r in records]
    return [e for e in shown if e.reason is None]


def _read(
    signal: PassSignal, model: LoadedModel, rows: Sequence[Encoded]
) -> list[npt.NDArray[np.float64] | None]:
    """The numbers of each row; None for a row without a value."""
    backward = gradient_reader(model, [signal]) if isinstance(signal, GradientSignal) else None
    values = signal.read(forward(rows, model, signal.needs, backward=backward))
    return [None if v is None else np.atleast_1d(v).astype(np.float64) for v in values]
