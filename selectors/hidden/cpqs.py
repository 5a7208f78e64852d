"""CPQS: do the model's own hidden states tell this answer from a weak model's?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import polars as pl

from gristmill.pipeline.contracts import (
    PLACE,
    Artifact,
    Need,
    Observations,
    PassSignal,
    Recipe,
    Scorer,
    Signal,
    View,
    settings_of,
)
from gristmill.pipeline.models.forward import Batch
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.numerics.ranks import spearman
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.hidden._contrast import ContrastClassifier, Damage
from gristmill.selectors.hidden._contrast_classifier import (
    FULL,
    answer_span,
    answer_states,
    classifier,
    made_at,
    prompt_key,
)
from gristmill.selectors.hidden._contrast_training import Training

VALUE = pl.Struct({"margin": pl.Float64, "tokens": pl.Int64, "crossfit": pl.Boolean})


@dataclass(frozen=True, kw_only=True)
class ContrastScore(PassSignal):
    """What a contrast classifier says of the last answer: strong minus weak logit, and its tokens.

    Attributes:
        made: the classifier; None before it is trained.
    """

    version: ClassVar[int] = 2
    view: View = field(default_factory=Dialogue)
    made: Artifact | None = None

    @property
    def column(self) -> str:
        return f"contrast.{self.view.name}.{digest(settings_of(self))[:12]}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"hidden"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return VALUE

    def read(self, batch: Batch) -> Sequence[Any]:
        assert batch.model is not None
        assert self.made is not None, "a classifier is made before anything is read"
        judge = classifier(self.made)
        if judge.model != batch.model.files.fingerprint:
            raise ValueError(
                "the contrast classifier was trained on the states of another model; the target is "
                f"{batch.model.files.reference}: train one for it (leave `classifier` out), "
                "scores of one model say nothing of another."
            )
        values = []
        for row, encoded in enumerate(batch.encoded):
            tokens = len(answer_span(encoded, "answer"))
            margin, fold = None, None
            if tokens:
                fold = judge.fold_of.get(prompt_key(encoded))
                name = FULL if fold is None else f"fold{fold}"
                states_TCD = answer_states(batch, row, judge.layers, judge.span)
                margin = judge.margin(name, states_TCD)
            values.append({"margin": margin, "tokens": tokens, "crossfit": fold is not None})
        return values


@dataclass(frozen=True, kw_only=True)
class Cpqs(Scorer):
    """Contrastive perception quality score: probability of "strong" under a text CNN.

    score(z) = softmax(CNN(H))[strong], with H the hidden states of all layers at the tokens of the
    last answer, C x T x D, and CNN a small network that was trained once, on this model's states,
    to tell strong answers from weak ones to the same prompts.

    Also called: CPQS-Tuning. Not a reward model: no language model is trained, and nobody compared
    two answers. Its held-out AUC, and the Spearman correlation of score and answer length, are said
    when the network is trained: the maximum over time favours long answers.

    Reads: `ContrastScore` of the model in the role "target"; the states are never stored. The role
        "weak" (one model or several) writes weak answers where none are marked. Damaged strong
        answers (words shuffled, cut in half, taken from another prompt) count as weak ones, too.
    Reference: optional; it is the contrast set: rows with "strong" or "weak" in the field `quality`
        (or `label`) of their meta; unmarked rows count as strong, and weak models answer their
        prompts. Without it, strong answers are drawn from the pool, as in the paper. Weak ones
        must come from somewhere: marks, the role "weak", or damage="alone".
    Higher means: the states look like those of strong answers. Keep it.
    Cost: training on the contrast set; then 1 forward with hidden states, the network on one
        answer at a time, and 17 bytes a row to observe; O(N) to score.
    Paper: "CPQS-Tuning: A Model Self-Perception-Based Data Filtering Algorithm for Efficient
        Instruction Fine-Tuning", ICLR 2026 (code: renllll/CPQS-Tuning).
    Departures: rows whose prompt is in the contrast set are scored by a network that never saw the
        prompt (the paper scores its own positives); seeded, float32 in training too (theirs
        autocasts); 300 steps on a small set, by up to 9 passes, at a rate that falls to 0; each
        layer's states are scaled to mean square 1; the model's chat template (theirs adds an Alpaca
        header); the span ends with the template's end of the turn, which tells a cut answer,
        without the empty header of a next one (training.span="answer": with the last word); a long
        dialogue's last answer alone. training.form="slim" and `damage` are ours
        (damage="none", training.scaled=False for the paper's).
    Relations: `ifd` needs no training, and no weak model. `rds_plus` asks for likeness to a target
        instead of quality. In re-tests, the bottom lost to random, but the top did not beat it;
        scores do not carry over to another model.
    Example: `Cpqs(rows=1_000).score(pool)`
    """

    scope: ClassVar = "row"
    reference: ClassVar = "optional"
    paper: ClassVar[str] = "CPQS-Tuning, ICLR 2026"
    cost: ClassVar[str] = "1 fe, contrast set 30,000 fe"
    # folder of one made earlier; the settings of training then play no part
    classifier: str = field(default="", metadata=PLACE)
    contrast: str = field(default="", metadata=PLACE)  # path of a marked contrast set
    shortest: int = 1  # tokens; the kernels have 3 to 5, shorter answers are filled up with zeros
    rows: int = 5_000  # strong answers; the paper's
    damage: Damage = "added"  # damaged strong answers join the weak ones, alone, or none
    training: Training = field(default_factory=Training)
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        own = made_at(self.classifier) if self.classifier else None
        return (ContrastScore(made=own or self.given.artifacts.get("classifier")),)

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        if self.classifier:
            return ()
        return (
            ContrastClassifier(
                contrast=self.contrast,
                rows=self.rows,
                damage=self.damage,
                training=self.training,
                seed=self.seed,
            ),
        )

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        ((column, _),) = pool.columns(self.signals[0])
        margin, tokens, crossfit = (
            pl.col(column).struct.field(name) for name in ("margin", "tokens", "crossfit")
        )
        empty = pl.when(tokens == 0).then(pl.lit("no_answer_token"))
        why = empty.when(tokens < self.shortest).then(pl.lit("answer_too_short"))
        return pl.concat(
            [
                b.select(
                    "id",
                    score=pl.when(tokens >= self.shortest).then(1 / (1 + (-margin).exp())),
                    score_tokens=tokens.cast(pl.Float64),
                    score_crossfit=crossfit.cast(pl.Float64),
                    reason=why,
                )
                for b in pool.blocks()
            ]
        )


def length_control(scores: pl.DataFrame) -> float | None:
    """Spearman correlation of the score and the answer's tokens over the rows with a score."""
    seen = scores.filter(pl.col("score").is_not_null())
    return spearman(seen["score"].to_numpy(), seen["score_tokens"].to_numpy())
