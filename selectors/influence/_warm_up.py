"""The warm-up of LESS, as the settings of the methods that read gradients of an adapter."""

from dataclasses import dataclass
from typing import Literal

from gristmill.pipeline.finetune.settings import Lora, Training, divisor, targets_of
from gristmill.pipeline.prepare.prepare import WarmUp

RATE = 2e-5


@dataclass(frozen=True, kw_only=True)
class AdapterWarmUp:
    """A training run before gradients are read: linear decay after 3 %, dropout .1.

    The defaults are LESS's.

    Attributes:
        share: of the pool; none: 5 %, and at least 256 rows, if it has as many.
        epochs: passes over these rows.
        batch_size: rows per step.
        learning_rate: the peak; none: 2e-5, and 1e-4 for an adapter on fewer than 2,000 rows.
        rank: of the adapter.
        alpha: the adapter's update is scaled by alpha / rank.
        targets: its layers: attention (found in any family), all-linear, or ends of names,
            comma-separated.
    """

    share: float | None = None
    epochs: int = 4
    batch_size: int = 128
    learning_rate: float | None = None
    rank: int = 128
    alpha: float = 512.0
    targets: str = "attention"

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"warm_up.share is {self.share}; give a share of the pool, 0 to 1.")

    def recipe(
        self,
        role: str,
        seed: int,
        *,
        checkpoints: Literal["epoch", "last"] = "epoch",
        optimizer_state: bool = True,
        adapter: bool = True,
    ) -> WarmUp:
        """The run, which takes the place of the model in `role`.

        Args:
            role: whose model is trained.
            seed: of the draw of rows and of the run.
            checkpoints: one an epoch, or the last alone.
            optimizer_state: keep Adam's moments with them.
            adapter: False trains all weights.
        """
        training = Training(
            epochs=self.epochs,
            batch_size=self.batch_size,
            micro_batch=divisor(self.batch_size, Training.micro_batch),
            learning_rate=RATE if self.learning_rate is None else self.learning_rate,
            warmup=0.03,
            seed=seed,
            checkpoints=checkpoints,
            optimizer_state=optimizer_state,
        )
        targets = targets_of(self.targets)
        lora = Lora(rank=self.rank, alpha=self.alpha, dropout=0.1, targets=targets)
        return WarmUp(
            role=role,
            base=role,
            share=self.share,
            training=training,
            lora=lora if adapter else None,
            fixed=() if self.learning_rate is None else ("learning_rate",),
            seed=seed,
        )
