"""Preference pairs: how each side is shown, and the losses that pairs are trained with.

With s the log-probability of a response (a sum over its tokens) under the policy, ref the same
under the reference model, n its length in tokens, w = chosen and l = rejected:

| objective | margin m | loss of a pair |
|---|---|---|
| `dpo` | beta ((s_w - ref_w) - (s_l - ref_l)) | softplus(-m) |
| `slic` | the same | max(0, 1 - m) |
| `simpo` | beta (s_w / n_w - s_l / n_l) - gamma | softplus(-m) |

The gradient of a pair's loss is l'(m) (c_w grad s_w - c_l grad s_l) with c = beta, or beta / n for
SimPO. Projections are linear, so projected gradients of the two sides give the pair's exactly.

A pair is shown whole or not at all: both views give the same reason. The reasons, beside those of
any dialogue (with `chosen_` or `rejected_` before them):

| reason | when |
|---|---|
| `<side>_empty_response` | its assistant turns hold nothing but white space |
| `<side>_answer_cut` | the prompt alone fills the length limit |
| `prompt_is_no_prefix` | a token reaches from prompt into response, or the prompts differ as text |
| `template_hides_the_answer` | both sides are the same tokens: the template shows no difference |
| `chosen_equals_rejected` | they are so after the cut to the length limit, or as records |
"""

# N = pairs, T = tokens, D = features

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Signal, View
from gristmill.pipeline.models.chat_tokenizer import (
    HIDDEN,
    TULU_TEMPLATE,
    ChatTokenizer,
    Encoded,
    trained,
)
from gristmill.pipeline.models.control_markers import NotTokenised
from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.signals.forward_signals import SequenceLogProb
from gristmill.pipeline.signals.views import Dialogue

Side = Literal["chosen", "rejected"]
SIDES: tuple[Side, Side] = ("chosen", "rejected")
ObjectiveName = Literal["dpo", "slic", "simpo"]
Doubles = npt.NDArray[np.float64]
Messages = Sequence[Mapping[str, Any]]
NO_PREFIX = "prompt_is_no_prefix"
ROUNDING = 1e-5  # of margins: one model read twice, in batches of other shapes


@dataclass(frozen=True, kw_only=True)
class Response(View):
    """The prompt and one side of a pair; the side's assistant turns alone carry loss.

    Assistant turns of the prompt are common to both sides: they are context. An example is shown
    whole, as its side "chosen".
    """

    version: ClassVar[int] = 3
    side: Side = "chosen"

    @property
    def name(self) -> str:
        return self.side

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        if "prompt" not in record:  # an example has one side
            return Dialogue().encode(record, chat) if self.side == "chosen" else ONE_SIDE
        tools = record.get("tools")
        shown = {s: continued(record["prompt"], record[s], chat, tools) for s in SIDES}
        return as_one(shown, self.side, record)


CHOSEN, REJECTED = Response(side="chosen"), Response(side="rejected")
VIEWS = (CHOSEN, REJECTED)
ONE_SIDE = Encoded(reason="one_side_only")


def continued(
    prompt: Messages, answer: Messages, chat: ChatTokenizer, tools: str | None = None
) -> Encoded:
    """Messages of which those of `answer` alone carry loss."""
    said = [m["content"] or "" for m in answer if m["role"] == "assistant"]
    calls = any(m.get("extra") for m in answer)  # e.g. a tool call without words
    if not said or not (calls or "".join(said).strip()):
        return Encoded(reason="empty_response")
    text, spans, lost = chat.spans([*prompt, *answer], tools)
    if not spans:
        return Encoded(reason=lost)
    spans = spans[sum(m["role"] == "assistant" for m in prompt) :]
    try:
        encoded = chat.masked(text, spans, start=chat.template == TULU_TEMPLATE)
    except NotTokenised as error:
        return Encoded(reason=str(error))
    if any(start < spans[0][0] < end for start, end in encoded.offsets):
        return Encoded(reason=NO_PREFIX)
    return chat.finish(replace(encoded, turn=trained(encoded.turn, answer)))


def as_one(shown: Mapping[Side, Encoded], side: Side, record: Mapping[str, Any]) -> Encoded:
    """One side, unless either cannot be shown or the two cannot be compared."""
    own, (first, *others) = shown[side], shown.values()
    reason = next((f"{s}_{e.reason}" for s, e in shown.items() if e.reason), None)
    if reason is not None:
        reason = NO_PREFIX if reason.endswith(NO_PREFIX) else reason
    elif any(_prompt(e) != _prompt(first) for e in others):
        reason = NO_PREFIX
    elif any(list(e.ids) == list(first.ids) for e in others):
        reason = alike(record, cut=own.cut > 0)
    if reason is None:
        return own
    return replace(own, text="", ids=(), offsets=(), turn=(), reason=reason)


def alike(record: Mapping[str, Any], *, cut: bool) -> str:
    """Why the two sides of a pair are the same tokens."""
    hidden = not cut and record["chosen"] != record["rejected"]
    return HIDDEN if hidden else "chosen_equals_rejected"


def _prompt(encoded: Encoded) -> str:
    """The text before the first token that carries loss."""
    first = next(i for i, turn in enumerate(encoded.turn) if turn)
    return encoded.text[: encoded.offsets[first][0]]


def log_probs(role: str = "target") -> tuple[SequenceLogProb, SequenceLogProb]:
    """The log-probabilities of both sides under one role."""
    chosen, rejected = (SequenceLogProb(role=role, view=view) for view in VIEWS)
    return chosen, rejected


def counts() -> tuple[EncodingFacts, EncodingFacts]:
    """The lengths of both sides: facts of the target's tokenizer."""
    chosen, rejected = (EncodingFacts(view=view) for view in VIEWS)
    return chosen, rejected


def lengths(block: pl.DataFrame) -> tuple[Doubles, Doubles]:
    """Response tokens of both sides of a block that carries `counts()`."""
    chosen, rejected = (
        floats(block[s.column].struct.field("answer_tokens").cast(pl.Float64)) for s in counts()
    )
    return chosen, rejected


def length_table(observed: Observations) -> pl.DataFrame:
    """`id`, `chosen_length`, `rejected_length` in tokens, of observations that hold `counts()`."""
    parts = []
    for block in observed.blocks():
        chosen_N, rejected_N = lengths(block)
        parts.append(
            block.select("id").with_columns(
                pl.Series("chosen_length", chosen_N, nan_to_null=True),
                pl.Series("rejected_length", rejected_N, nan_to_null=True),
            )
        )
    return pl.concat(parts)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A preference loss; see the table above.

    Attributes:
        name: which one.
        beta: 0.1 is common for DPO and SLiC, 2.0 is SimPO's.
        gamma: SimPO's target margin; SimPO alone reads it.
    """

    name: ObjectiveName = "dpo"
    beta: float = 0.1
    gamma: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("dpo", "slic", "simpo"):
            raise ValueError(f"an objective is dpo, slic or simpo; found {self.name!r}.")
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}; give more than 0.")
        if self.gamma and self.name != "simpo":
            raise ValueError(f"gamma is read by simpo alone, not by {self.name}.")

    @property
    def reads_reference(self) -> bool:
        """Whether margins are measured from a reference model."""
        return self.name != "simpo"

    def signals(self, *roles: str) -> tuple[Signal, ...]:
        """What margins under these roles read; without a reference also the `facts`."""
        reference = log_probs("reference") if self.reads_reference else ()
        return (*(s for role in roles for s in log_probs(role)), *reference)

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        """Encodings whose lengths the margins read."""
        return () if self.reads_reference else counts()

    def margin(self, block: pl.DataFrame, role: str = "target", suffix: str = "") -> Doubles:
        """Margins of a block under a role; NaN where a side could not be shown.

        Args:
            block: carries `signals(role)`.
            role: whose log-probabilities are the policy's.
            suffix: of its columns where the role holds several models, e.g. "@0".
        """
        s_w, s_l = (floats(block[s.column + suffix]) for s in log_probs(role))
        if self.reads_reference:
            ref_w, ref_l = (floats(block[s.column]) for s in log_probs("reference"))
            return self.beta * ((s_w - ref_w) - (s_l - ref_l))
        n_w, n_l = lengths(block)
        return self.beta * (s_w / n_w - s_l / n_l) - self.gamma

    def loss(self, margin_N: Doubles) -> Doubles:
        """Loss of each pair, in nats (SLiC: in units of the margin)."""
        slic = self.name == "slic"
        loss_N: Doubles = np.maximum(0.0, 1.0 - margin_N) if slic else np.logaddexp(0.0, -margin_N)
        return loss_N

    def slope(self, margin_N: Doubles) -> Doubles:
        """Derivative of the loss by the margin: at most 0."""
        if self.name == "slic":
            slope_N: Doubles = np.where(margin_N < 1.0, -1.0, 0.0)
            slope_N[np.isnan(margin_N)] = np.nan
            return slope_N
        return -sigmoid(-margin_N)

    def gradient(
        self, block: pl.DataFrame, chosen_ND: Doubles, rejected_ND: Doubles, role: str = "target"
    ) -> Doubles:
        """Gradients of the pairs' losses, N x D.

        Args:
            block: carries `signals(role)` and, for SimPO, `facts`.
            chosen_ND: gradients of the summed losses -s of the chosen side, projected or not.
            rejected_ND: those of the rejected side.
            role: whose gradients they are.
        """
        w_N = l_N = np.full(block.height, self.beta)
        if not self.reads_reference:
            n_w, n_l = lengths(block)
            w_N, l_N = self.beta / n_w, self.beta / n_l
        slope_N = self.slope(self.margin(block, role))
        both_ND: Doubles = (-slope_N * w_N)[:, None] * chosen_ND
        both_ND += (slope_N * l_N)[:, None] * rejected_ND
        return both_ND


def sigmoid(x: Doubles) -> Doubles:
    """1 / (1 + exp(-x)), without overflow."""
    y: Doubles = np.exp(-np.logaddexp(0.0, -x))
    return y


def no_warm_up(margin_N: Doubles) -> None:
    """Refuse margins that carry nothing: policy and reference are the same model.

    Raises:
        ValueError: every margin is 0, up to rounding.
    """
    known_N = margin_N[np.isfinite(margin_N)]
    if len(known_N) and float(np.abs(known_N).max()) < ROUNDING:
        raise ValueError(
            f"all {len(known_N):,} implicit reward margins are 0, so the target is the reference "
            "model itself: warm the target up first (leave warm_up on), or bind another reference."
        )
