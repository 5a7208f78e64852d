"""The trainer of final-token pairs: one forward pass to the position, and the loss there.

TRL has no loss at a single position, so this is transformers' own trainer with its one extension
point, `compute_loss`. Logits are read at the last token alone, so batches are padded on the left.
"""

# ruff: noqa: ANN401  (trainers, their states and their models ship no types)

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from gristmill.pipeline.finetune.data import pad
from gristmill.pipeline.finetune.final_tokens import INVOLVED_TETHER, MARGIN, SLACK, TETHER, parts

SHARE = "win_share"  # of the chosen tokens of a step, those above the rejected one


def collate(rows: Sequence[Mapping[str, Any]], *, pad_id: int) -> dict[str, Any]:
    """A batch of rows, padded on the left."""
    ids = [list(r["prefix_ids"]) for r in rows]
    width = max(len(i) for i in ids)
    mask_BT = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids])
    return {
        "input_ids": torch.tensor([[pad_id] * (width - len(i)) + i for i in ids]),
        "attention_mask": mask_BT,
        "position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0),
        "chosen_tokens": pad([r["chosen_tokens"] for r in rows], -1),
        "rejected_token": torch.tensor([r["rejected_token"] for r in rows]),
        "weight": torch.tensor([r["weight"] for r in rows], dtype=torch.float32),
    }


class FinalTokenTrainer(transformers.Trainer):  # type: ignore[misc]
    """Mean over the rows of a batch of weight times loss; logs the share of tokens that won."""

    loss_is_scaled_for_ga = False  # a mean over each micro-batch
    rival: Any = None  # the reference model; None: the model without its adapter
    margin: float = MARGIN
    tether: float = TETHER
    involved_tether: float = INVOLVED_TETHER
    slack: float = SLACK
    won: "list[torch.Tensor]"

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        del num_items_in_batch  # rows count alike, however long
        chosen_BC, rejected_B = inputs.pop("chosen_tokens"), inputs.pop("rejected_token")
        weight_B = inputs.pop("weight")
        reading = {**inputs, "use_cache": False, "logits_to_keep": 1}
        output = model(**reading)
        with torch.no_grad(), self._reference(model) as reference:
            ref_BV = reference(**reading).logits[:, -1].float()
        found = parts(
            output.logits[:, -1].float(),
            ref_BV,
            chosen_BC,
            rejected_B,
            margin=self.margin,
            slack=self.slack,
        )
        self.won.append(found.wins_B.detach())
        loss = (weight_B * found.loss(self.tether, self.involved_tether)).mean()
        return (loss, output) if return_outputs else loss

    @contextlib.contextmanager
    def _reference(self, model: Any) -> Any:
        if self.rival is not None:
            yield self.rival
            return
        own = self.accelerator.unwrap_model(model)
        was = own.training
        own.eval()  # its dropout is no part of the reference
        try:
            with own.disable_adapter():
                yield own
        finally:
            own.train(was)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.won and "loss" in logs:
            logs = {**logs, SHARE: float(torch.cat(self.won).mean())}
            self.won.clear()
        transformers.Trainer.log(self, logs, start_time)
