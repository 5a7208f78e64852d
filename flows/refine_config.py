"""The settings of a run of `refine-pairs`: pairs in, the same pairs with checked labels out."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from gristmill.flows.config import PassConfig, RunConfig
from gristmill.flows.finetune_config import LoraConfig, TrainingConfig
from gristmill.flows.followed import demand_prices
from gristmill.flows.settings import Settings
from gristmill.flows.synthesis_config import AnswererConfig
from gristmill.pipeline.finetune.reward import Reward
from gristmill.synthesis.curation.labelling import GUIDELINE, SOLVED
from gristmill.synthesis.curation.rounds import Rounds


class PeopleConfig(Settings):
    """Where verdicts of people come from."""

    model_config = ConfigDict(extra="forbid", title="People")
    judgements: str | None = Field(
        None,
        description="Parquet file of what people said, which need not be there yet; null: what "
        "`gristmill review` keeps in the store",
    )
    start: int = Field(100, ge=1, description="pairs that they verify first")
    each_round: int = Field(50, ge=0, description="of the pairs of a round, to verify")


class RoundsConfig(Settings):
    """Stage 1."""

    model_config = ConfigDict(extra="forbid", title="Rounds")
    number: int = Field(8, ge=0, description="rounds after the start")
    start_labels: int = Field(400, ge=1, description="pairs labelled at the start, at random")
    labels: int = Field(400, ge=1, description="pairs labelled in a round")
    retrieval: Literal["error", "uncertainty", "random"] = Field(
        "error",
        description="pairs like those gold pairs that the reward model ranks wrong, pairs of which "
        "it is unsure, or any",
    )


class JudgingConfig(Settings):
    """How language models label pairs."""

    model_config = ConfigDict(extra="forbid", title="Judging")
    guideline: str = Field(GUIDELINE, description="what decides, in people's own words")
    samples: int = Field(3, ge=1, description="of each judge; two thirds of all decide")
    characters: int = Field(
        12_000, ge=0, description=f"of the up to {SOLVED} solved neighbours that a judge is shown"
    )
    max_tokens: int = Field(256, ge=16, description="longest answer")
    temperature: float = Field(0.7, ge=0, description="several samples want one above 0")


class RewardModelConfig(Settings):
    """The reward models that every round trains."""

    model_config = ConfigDict(extra="forbid", title="Reward models")
    kind: Literal["trained", "linear"] = Field(
        "trained",
        description="trained: fine-tuned from the role target; linear: a Bradley-Terry head on "
        "the sentence embedder, for small pools and rehearsals",
    )
    training: TrainingConfig = TrainingConfig()
    lora: LoraConfig | None = Field(None, description="a low-rank adapter; null: all weights")

    def made(self, passes: PassConfig) -> Reward:
        """As the pipeline has it: a checkpoint an epoch, rows as long as passes show them.

        Args:
            passes: of the run; what is set here counts more.
        """
        usual = {
            "checkpoints": "epoch",
            "max_length": passes.max_length,
            "overlong": passes.overlong,
        }
        unset = {k: v for k, v in usual.items() if k not in self.training.model_fields_set}
        training = self.training.model_copy(update=unset).over(Reward().training)
        return Reward(training=training, lora=self.lora.made() if self.lora else None)


class RouterConfig(Settings):
    """Which of several reward models (role `reward`) labels a pair."""

    model_config = ConfigDict(extra="forbid", title="Router")
    width: int = Field(32, ge=1, le=256, description="features of the router")
    strength: float = Field(1.0, gt=0, description="of what verified pairs taught it")
    noise: float = Field(1.0, gt=0, description="variance of the feedback")
    tie: float = Field(1e-2, ge=0, description="rewards that differ less label nothing")
    batch: int = Field(32, ge=1, description="pairs between two updates")


class RefineConfig(RunConfig):
    """Preference pairs in, the same pairs with labels that models and people checked out."""

    model_config = ConfigDict(extra="forbid", title="Refine pairs")
    people: PeopleConfig = PeopleConfig()
    judges: list[AnswererConfig] = Field(
        default_factory=list,
        description="language models that label pairs; none, and no reward models: pairs keep "
        "their label in stage 1",
    )
    describer: AnswererConfig | None = Field(
        None, description="describes every pair for retrieval; null: pairs are found by prompt"
    )
    judging: JudgingConfig = JudgingConfig()
    reward_model: RewardModelConfig = RewardModelConfig()
    router: RouterConfig = RouterConfig()
    rounds: RoundsConfig = RoundsConfig()
    flip: bool = Field(
        False, description="flip what stage 2 discards, if people's sample proves it right"
    )
    flip_sample: int = Field(240, ge=200, description="discarded pairs that people look at")
    price_in: float = Field(0.0, ge=0, description="money per million prompt tokens")
    price_out: float = Field(0.0, ge=0, description="money per million answer tokens")
    seed: int = Field(0, description="of draws and training")

    @model_validator(mode="after")
    def _priced(self) -> Self:
        demand_prices(self.limits, priced=bool(self.price_in or self.price_out))
        return self

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.judges and self.arms:
            raise ValueError(
                "pairs are labelled by `judges` or by the reward models of `models.reward`: keep "
                "one of them"
            )
        if len(self.arms) == 1:
            raise ValueError(
                "models.reward is one reward model, and a router chooses among several: bind at "
                "least two, or use `judges`"
            )
        if self.reward_model.kind == "trained" and "target" not in self.models:
            raise ValueError(
                "reward_model is trained from the role target, and none is bound: add "
                "`target: REFERENCE` under `models:`, or set reward_model.kind to linear"
            )
        self.stage1()
        return self

    @property
    def arms(self) -> list[str]:
        """The reward models that label pairs."""
        bound: Any = self.models.get("reward", [])
        return [bound] if isinstance(bound, str) else list(bound)

    def stage1(self) -> Rounds:
        """The settings of stage 1, as they are there."""
        return Rounds(
            rounds=self.rounds.number,
            start_people=self.people.start,
            start_labels=self.rounds.start_labels,
            labels=self.rounds.labels,
            people=self.people.each_round,
            retrieval=self.rounds.retrieval,
            seed=self.seed,
        )
