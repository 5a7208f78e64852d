"""What a training run depends on, apart from its data and its model."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A low-rank adapter; the defaults are common practice, LESS uses 128, 512, 0.1.

    Attributes:
        rank: inner dimension.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input, in SFT alone (TRL trains on pairs without any).
        targets: ("attention",): every linear layer of attention, found by the model's structure;
            ("all-linear",): every linear layer but the head; or ends of module names.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("attention",)


def targets_of(text: str) -> tuple[str, ...]:
    """An adapter's targets as a user writes them: names with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True, kw_only=True)
class Training:
    """The part of the settings that all stages share.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows per optimizer step.
        micro_batch: rows per forward pass; divides `batch_size`. The loss of a step is normalised
            over the whole batch (SFT: by its labelled tokens), so this changes rounding only.
        learning_rate: the peak.
        schedule: after the warm-up.
        warmup: share of the steps over which the rate rises from 0.
        weight_decay: of AdamW, on all but norms and biases.
        max_grad_norm: gradients are scaled down to this norm.
        max_length: longer rows are cut at the end, or left out.
        overlong: "cut" or "skip".
        seed: adapter weights, new heads, dropout, and with each row's id the order of rows.
        checkpoints: "epoch", "last", or every so many steps; the last step always is one.
        optimizer_state: keep Adam's moments with every checkpoint (by parameter name).
        activation_checkpointing: recompute activations: less memory, a third more time.
    """

    epochs: int = 3
    batch_size: int = 16
    micro_batch: int = 8
    learning_rate: float = 2e-5
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 2_048
    overlong: Literal["cut", "skip"] = "cut"
    seed: int = 0
    checkpoints: Literal["epoch", "last"] | int = "epoch"
    optimizer_state: bool = True
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch", "max_length"):
            if vars(self)[name] < 1:
                raise ValueError(f"training: {name} is {vars(self)[name]}; give at least 1.")
        if self.batch_size % self.micro_batch:
            raise ValueError(
                f"training: batch_size {self.batch_size} is not a multiple of micro_batch "
                f"{self.micro_batch}; give one that is, e.g. micro_batch="
                f"{divisor(self.batch_size, self.micro_batch)}."
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"training: warmup is {self.warmup}; give a share of steps, 0 to 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"training: learning_rate is {self.learning_rate}; give more than 0.")
        if isinstance(self.checkpoints, int) and self.checkpoints < 1:
            raise ValueError(
                f"training: checkpoints is {self.checkpoints}; give epoch, last or a number of "
                "steps from 1."
            )

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps of an epoch; the last one may hold fewer rows."""
        return math.ceil(rows / self.batch_size)

    def steps(self, rows: int) -> int:
        return self.steps_per_epoch(rows) * self.epochs

    def warmup_steps(self, rows: int) -> int:
        """Steps before the peak: rounded down, for the first of them has the rate 0."""
        return int(self.steps(rows) * self.warmup)

    def published(self, rows: int) -> tuple[int, ...]:
        """The steps whose checkpoints are kept."""
        last = self.steps(rows)
        if self.checkpoints == "last":
            return (last,)
        every = self.steps_per_epoch(rows) if self.checkpoints == "epoch" else int(self.checkpoints)
        return tuple(sorted({*range(every, last + 1, every), last}))

    def plan(self, rows: int) -> str:
        """The run in a sentence."""
        return (
            f"{rows:,} rows, {self.epochs} epochs, {self.steps(rows):,} steps of "
            f"{self.batch_size} rows; learning rate {self.learning_rate:g}, {self.schedule} after "
            f"{self.warmup_steps(rows)} warm-up steps."
        )


def divisor(whole: int, most: int) -> int:
    """The largest divisor of `whole` that is at most `most`."""
    return max(d for d in range(1, min(whole, most) + 1) if whole % d == 0)
