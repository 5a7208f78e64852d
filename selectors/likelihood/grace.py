"""GRACE: whose answers would teach this student best?"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.numerics.similarity import Doubles, unit
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.likelihood import question

# N = rows of one teacher, D = dimensions of the projection

FLOOR = 1e-12  # of an eigenvalue


@dataclass(frozen=True, kw_only=True)
class Grace(Scorer):
    """Second moment of a teacher's gradients, measured in the inverse metric of their directions.

    h(z) = projected gradient of the mean answer loss under the student, u = h / |h|. For each of
    `splits` splits of the prompts: S = mean of u u^T over the rows of 90 % of the prompts, with
    eigenvalues w made (1 - c) w + c mean(w); value = Tr(S^-1 mean of h h^T over the other rows);
    GRACE = mean over splits. score(z) = -ln GRACE of the teacher that wrote z's answer.

    It ranks teachers (sets of answers), not rows: all answers of a teacher have one score.

    Reads: `ProjectedGradient` of the model in the role "student".
    Reference: none.
    Higher means: the student's steps on these answers are small and agree over prompts. Keep them.
    Cost: a forward, a backward and 4 D bytes a row to observe; O(N D^2) a split to score. A few
        hundred prompts a teacher suffice: draw a sample, compare, then take the whole of the best.
    Paper: "In Good GRACEs: Principled Teacher Selection for Knowledge Distillation",
        arXiv:2511.02833.
    Departures: as in the authors' code, random splits and convex smoothing, and no rescaling by
        length; gradients of all linear layers, without embeddings and norms, and without the factor
        1 / sqrt(P), which scales all teachers alike; a sparse sign projection (each coordinate
        meets one of the dim numbers), projection="dense_jl" is the paper's at dim times the work;
        prompts are sorted by content before they are split; the logarithm, which keeps the order.
    Relations: `score_norm` and `score_vendi` are its baselines: mean |h|^2, and the entropy of the
        eigenvalues of S. `teacher_divergence` compares single answers, with the teacher at hand.
    Example: `Grace(teacher="source").score(pool)`
    """

    scope: ClassVar = "pool"
    paper: ClassVar[str] = "arXiv:2511.02833"
    cost: ClassVar[str] = "3 fe"
    teacher: str = "teacher"  # field of a row's meta that names its teacher; "source": its source
    dim: int = 512
    projection: Literal["sjlt", "dense_jl", "factored"] = "sjlt"
    splits: int = 10
    smoothing: float = 1e-3
    seed: int = 0
    view: View = field(default_factory=Dialogue)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (
            ProjectedGradient(
                role="student",
                view=self.view,
                of=Backward(layers="linear", loss="mean", token_mask="answer"),
                projection=self.projection,
                size=self.dim,
                seed=self.seed,
            ),
        )

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("*content", "source", "meta")

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        report = teacher_choice(pool, self)
        ids = pl.concat([b.select("id", teacher=self.named()) for b in pool.blocks()])
        ((column, _),) = pool.columns(self.signals[0])
        lost = pl.concat([b.select("id", lost=pl.col(column).is_null()) for b in pool.blocks()])
        table = ids.join(report, on="teacher", how="left", maintain_order="left")
        table = table.join(lost, on="id", how="left", maintain_order="left")
        few = pl.col("grace").is_null() & ~pl.col("lost")
        return table.select(
            "id",
            score=pl.when(~pl.col("lost")).then(-pl.col("grace").log()),
            score_grace="grace",
            score_norm="norm",
            score_vendi="vendi",
            score_prompts=pl.col("prompts").cast(pl.Float64),
            reason=pl.when(few).then(pl.lit("too_few_prompts: a teacher needs two")),
        )

    def details(self, pool: Observations) -> pl.DataFrame:
        """The candidate answer sets, best teacher first: see `teacher_choice`."""
        return teacher_choice(pool, self)

    def named(self) -> pl.Expr:
        """The teacher of a row; rows that name none form one set."""
        if self.teacher == "source":
            return pl.col("source")
        return pl.col("meta").str.json_path_match(f"$.{self.teacher}").fill_null("")


def teacher_choice(pool: Observations, scorer: Grace) -> pl.DataFrame:
    """The report over candidate answer sets, best teacher first.

    Columns `teacher`, `rank`, `grace`, its baselines `norm` and `vendi`, `prompts` and `rows` that
    have a gradient, and `even`: whether each prompt has as many answers as any other, and all
    teachers answer the same prompts. Without that, what is compared is partly the questions.
    """
    ((column, _),) = pool.columns(scorer.signals[0])
    parts = []
    for block in pool.blocks():
        seen = block.drop_nulls(column)
        prompts = [question(r) for r in seen.select("messages", "tools").to_dicts()]
        named = seen.select("id", column, teacher=scorer.named())
        parts.append(named.with_columns(prompt=pl.Series(prompts, dtype=pl.String)))
    table = pl.concat(parts).sort("teacher", "prompt", "id")
    lines: list[dict[str, Any]] = []
    asked = set()
    for (teacher,), rows in table.group_by("teacher", maintain_order=True):
        h_ND = rows[column].to_numpy().astype(np.float64)
        prompt_N = rows["prompt"].rank("dense").to_numpy().astype(np.int64) - 1
        counts = rows["prompt"].value_counts()["count"]
        value = grace(h_ND, prompt_N, splits=scorer.splits, smoothing=scorer.smoothing)
        asked.add(digest(rows["prompt"].unique().sort().to_list()))
        lines.append(
            {
                "teacher": teacher,
                "grace": value,
                "norm": float((h_ND**2).sum(1).mean()),
                "vendi": vendi(h_ND),
                "prompts": len(counts),
                "rows": rows.height,
                "even": counts.n_unique() == 1,
            }
        )
    report = pl.DataFrame(lines, schema=_REPORT, infer_schema_length=None)
    return (
        report.with_columns(even=pl.col("even") & (len(asked) <= 1))
        .sort("grace", "teacher", nulls_last=True)
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
    )


_REPORT = {
    "teacher": pl.String,
    "grace": pl.Float64,
    "norm": pl.Float64,
    "vendi": pl.Float64,
    "prompts": pl.Int64,
    "rows": pl.Int64,
    "even": pl.Boolean,
}


def grace(
    h_ND: Doubles, prompt_N: npt.NDArray[np.int64], *, splits: int = 10, smoothing: float = 1e-3
) -> float | None:
    """GRACE of one teacher; None with fewer than two prompts.

    Args:
        h_ND: projected gradients, not normalised.
        prompt_N: number of each row's prompt, 0 to n - 1.
        splits: how many are averaged; split s permutes the prompts with NumPy's generator s and
            keeps the last tenth of them (at least one) apart.
        smoothing: c.
    """
    prompts = int(prompt_N.max(initial=-1)) + 1
    if prompts < 2:
        return None
    unit_ND = unit(h_ND)  # a zero gradient has no direction
    values = []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(prompts)
        apart = np.zeros(prompts, dtype=bool)
        apart[order[-max(1, prompts // 10) :]] = True
        test_N = apart[prompt_N]
        w_D, v_DD = np.linalg.eigh(second_moment(unit_ND[~test_N]))
        w_D = np.maximum((1 - smoothing) * w_D + smoothing * w_D.mean(), FLOOR)
        values.append(float((((h_ND[test_N] @ v_DD) ** 2).mean(0) / w_D).sum()))
    return float(np.mean(values))


def vendi(h_ND: Doubles) -> float:
    """Entropy in nats of the eigenvalues of the mean of u u^T: how varied the directions are."""
    w_D = np.linalg.eigvalsh(second_moment(unit(h_ND)))
    w_D = w_D[w_D > FLOOR] / max(w_D.sum(), FLOOR)
    return float(-(w_D * np.log(w_D)).sum())


def second_moment(x_ND: Doubles) -> Doubles:
    """Mean of x x^T."""
    moment: Doubles = x_ND.T @ x_ND / len(x_ND)
    return moment
