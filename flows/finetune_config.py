"""The settings of fine-tuning: which model is trained on a published dataset, and how."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from gristmill.flows.settings import LimitsConfig, Reference, Roles, Settings, known_roles
from gristmill.pipeline.finetune.dpo import Dpo, Loss
from gristmill.pipeline.finetune.ftpo import Ftpo
from gristmill.pipeline.finetune.reward import Reward
from gristmill.pipeline.finetune.settings import Lora, Training, divisor, targets_of
from gristmill.pipeline.finetune.sft import Sft
from gristmill.pipeline.records.schema import Kind

Stage = Literal["sft", "dpo", "reward", "ftpo"]
OfRecords = Sft | Dpo | Reward  # stages that any rows of their kind can be trained by
Made = OfRecords | Ftpo
_CLASSES: Mapping[Stage, type[Made]] = {"sft": Sft, "dpo": Dpo, "reward": Reward, "ftpo": Ftpo}
_TRAINS_ON: Mapping[Stage, tuple[Kind, ...]] = {
    "sft": ("example", "document"),
    "dpo": ("pair",),
    "reward": ("pair",),
    "ftpo": ("pair",),
}
# What one stage alone reads.
_OF_STAGE: Mapping[Stage, tuple[str, ...]] = {
    "sft": (),
    "dpo": ("loss", "beta", "gamma", "label_smoothing", "reference_model"),
    "reward": ("centre",),
    "ftpo": ("final_tokens",),
}
_MOST = 8  # rows of a micro-batch, unless it is set


def _listed(value: object) -> object:
    """Layers as a command line has them: names with commas between them."""
    return targets_of(value) if isinstance(value, str) else value


def _kept(value: object) -> object:
    """Which checkpoints are kept; a number as text is one."""
    steps = int(value) if isinstance(value, str) and value.isdecimal() else value
    counted = isinstance(steps, int) and not isinstance(steps, bool) and steps > 0
    if steps not in ("epoch", "last") and not counted:
        raise ValueError("expected epoch, last or a number of steps from 1")
    return steps


class TrainingConfig(Settings):
    """How long, how fast and on how much of each row."""

    model_config = ConfigDict(extra="forbid", title="Training", allow_inf_nan=False)
    epochs: int | None = Field(
        None, ge=1, description="passes over the rows; default: 3 for sft, 1 on pairs"
    )
    batch_size: int = Field(16, ge=1, description="rows of an optimizer step")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="rows of a forward pass (a pair is two sequences), a divisor of batch_size; "
        "default: the largest up to 8",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="its peak; default: 2e-5 for sft, 5e-7 for dpo, 1e-5 for reward and ftpo",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="of the learning rate, after the warm-up"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps with a rising rate")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW, on all but norms and biases")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    max_length: int = Field(2_048, ge=2, description="longest row in tokens")
    overlong: Literal["cut", "skip"] = Field("cut", description="cut longer rows, or skip them")
    seed: int = Field(0, description="of adapter weights, new heads, dropout and order of rows")
    checkpoints: Annotated[Literal["epoch", "last"] | int, BeforeValidator(_kept)] = Field(
        "last", description="kept after each epoch, at the last step, or every so many steps"
    )
    optimizer_state: bool = Field(False, description="keep Adam's moments with each checkpoint")
    activation_checkpointing: bool = Field(
        False, description="less memory, a third more time: activations are computed twice"
    )

    def over(self, usual: Training) -> Training:
        """These settings, and those of a stage where nothing is set."""
        given = {k: v for k, v in self.model_dump().items() if v is not None}
        given.setdefault("micro_batch", divisor(self.batch_size, _MOST))
        return Training(**{**vars(usual), **given})


class LoraConfig(Settings):
    """A low-rank adapter in the place of all weights."""

    model_config = ConfigDict(extra="forbid", title="Adapter", allow_inf_nan=False)
    rank: int = Field(16, ge=1, description="inner dimension")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="on the adapter's input, in sft alone")
    targets: Annotated[
        tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=tuple[str, ...] | str)
    ] = Field(
        ("attention",),
        min_length=1,
        description="attention, all-linear, or ends of module names",
    )

    def made(self) -> Lora:
        """As the pipeline has it."""
        return Lora(**self.model_dump())


class FinalTokensConfig(Settings):
    """Final-token preference optimisation: its loss, and which places it trains on."""

    model_config = ConfigDict(extra="forbid", title="Final tokens", allow_inf_nan=False)
    margin: float = Field(
        2.0, gt=0, description="how far above the rejected token a chosen one must come"
    )
    tether: float = Field(
        0.4, ge=0, description="strength of the tie of all other logits to the model as it was"
    )
    involved_tether: float = Field(
        0.25, ge=0, description="the same of the tokens in question, beyond slack"
    )
    slack: float = Field(1.0, ge=0, description="how far their logits may move for nothing")
    least_chosen: int = Field(4, ge=1, description="places with fewer chosen tokens are left out")
    flatten_rejected: float = Field(
        0.8, ge=0, le=1, description="1: every rejected token counts alike, 0: every place does"
    )
    flatten_chosen: float = Field(0.2, ge=0, le=1, description="the same for chosen tokens")
    stop_at: float | None = Field(
        0.85, gt=0, le=1, description="share of a step's chosen tokens that end it when they win"
    )


class FinetuneConfig(Settings):
    """A model trained on the published rows, with their weights and masks."""

    model_config = ConfigDict(extra="forbid", title="Fine-tune", allow_inf_nan=False)
    stage: Stage | None = Field(
        None, description="default: sft on examples and documents, dpo on pairs"
    )
    model: Reference = Field(
        "target", description="what is trained: a role under `models:`, or a model reference"
    )
    training: TrainingConfig = TrainingConfig()
    lora: LoraConfig | None = Field(
        None,
        description="a low-rank adapter; null: all weights; default: null, for ftpo of rank 128",
    )
    loss: Loss | None = Field(None, description="dpo: its loss; default: sigmoid")
    beta: float | None = Field(
        None, gt=0, description="dpo: penalty for leaving the reference model; default: 0.1"
    )
    gamma: float | None = Field(None, description="dpo: margin of the loss simpo; default: 0")
    label_smoothing: float | None = Field(
        None, ge=0, lt=0.5, description="dpo: chance of a flipped label, for robust and exo_pair"
    )
    reference_model: Reference | None = Field(
        None, description="dpo: role or reference; default: the model as it was before training"
    )
    centre: float | None = Field(
        None, ge=0, description="reward: keeps scores near zero; default: 0"
    )
    final_tokens: FinalTokensConfig | None = Field(
        None, description="ftpo: its settings; default: the paper's"
    )
    out: str | None = Field(
        None, description="folder to write the model to, with card, manifest and metrics"
    )

    @model_validator(mode="after")
    def _fits(self) -> "FinetuneConfig":
        of_pairs = any(vars(self)[name] is not None for name in _OF_STAGE["dpo"])
        self._built(self.stage or ("dpo" if of_pairs else "sft"))  # says now what would fail later
        return self

    def stage_for(self, kind: Kind) -> Stage:
        """The stage that rows of this kind are trained by.

        Raises:
            ValueError: the settings name one that does not train on such rows.
        """
        usual: Stage = "dpo" if kind == "pair" else "sft"
        stage = self.stage or usual
        if kind not in _TRAINS_ON[stage]:
            fit = [s for s, kinds in _TRAINS_ON.items() if kind in kinds]
            raise ValueError(
                f"stage {stage} trains on {' and '.join(f'{k}s' for k in _TRAINS_ON[stage])}, and "
                f"these rows are {kind}s: set stage to {' or '.join(fit)}, or leave it out."
            )
        return stage

    def made(self, kind: Kind) -> Made:
        """The stage as the pipeline has it, with its settings.

        Args:
            kind: of the rows.

        Raises:
            ValueError: these settings do not go together, or not with such rows.
        """
        return self._built(self.stage_for(kind))

    def of_records(self, kind: Kind) -> OfRecords:
        """The stage, where there is nothing but the rows themselves to train on.

        Args:
            kind: of the rows.

        Raises:
            ValueError: as `made`, or the stage wants more than rows.
        """
        made = self.made(kind)
        if isinstance(made, Ftpo):
            raise ValueError(
                "stage ftpo trains on the final tokens of a published dataset, which this run does "
                "not write: publish them with a prefer run, and train with `gristmill finetune`."
            )
        return made

    def _built(self, stage: Stage) -> Made:
        for owner, names in _OF_STAGE.items():
            wrong = [n for n in names if owner != stage and vars(self)[n] is not None]
            if wrong:
                raise ValueError(
                    f"{wrong[0]} is read by the stage {owner} alone: leave it out, or set stage "
                    f"to {owner}"
                )
        if self.reference_model is not None and self.loss == "simpo":
            raise ValueError("the loss simpo has no reference model: leave reference_model out")
        made = _CLASSES[stage]
        own = [n for n in _OF_STAGE[stage] if n != "reference_model"]
        given = {n: vars(self)[n] for n in own if vars(self)[n] is not None}
        if self.final_tokens is not None:
            given = self.final_tokens.model_dump()
        lora = self.lora.made() if self.lora else None
        if self.lora is None and "lora" not in self.model_fields_set:
            lora = made().lora
        return made(training=self.training.over(made().training), lora=lora, **given)


class DeviceConfig(Settings):
    """Where models are run; the rest of a training is under `training:`."""

    model_config = ConfigDict(extra="forbid", title="Passes")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")


class FinetuneRunConfig(FinetuneConfig):
    """A published dataset in, a model with its card out."""

    model_config = ConfigDict(extra="forbid", title="Fine-tune run")
    FIRST = ("dataset", "models", "stage", "model", "training", "lora", "out")
    dataset: Reference = Field(
        description="published folder: a version, or a dataset, of which `latest` is taken"
    )
    models: Roles = Field(
        default_factory=dict,
        description="model role -> reference; default: those that the dataset was made with",
    )
    passes: DeviceConfig = DeviceConfig()
    limits: LimitsConfig = LimitsConfig()
    store: str = Field("data/work", description="folder of the store, or s3://bucket/prefix")
    allow_network: bool = Field(False, description="let models come from the hub")

    @property
    def name(self) -> str:
        """What the run is called: its dataset's folder."""
        return self.dataset

    @field_validator("models")
    @classmethod
    def _known_roles(cls, models: dict[str, Any]) -> dict[str, Any]:
        return known_roles(models)
