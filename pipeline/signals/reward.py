"""RewardScore: what a reward model says of one side of a pair (or of any dialogue).

The reward is the model's score head at the last token of the sequence. The backbone is observed as
any language model; the head's weights are read from the folder that `train_reward` made.
"""

# B = batch rows, D = hidden size

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import Need, PassSignal, of_role
from gristmill.pipeline.models.folder import weight_files
from gristmill.pipeline.models.forward import Batch
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.reference import ModelFiles

HEAD = "score.weight"


@dataclass(frozen=True, kw_only=True)
class RewardScore(PassSignal):
    """Reward of a sequence, in the units of the reward model.

    Read by its own end: the last token, as the model was trained.
    """

    role: str = "reward"

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}reward.{self.view.name}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"last_hidden"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Float64()

    def read(self, batch: Batch) -> Sequence[Any]:
        assert batch.model is not None
        head_D = _head(batch.model.files)
        hidden_BTD = batch.hidden(-1)
        values = []
        for b, encoded in enumerate(batch.encoded):
            last_D = hidden_BTD[b, len(encoded.ids) - 1].double().cpu().numpy()
            values.append(float(last_D @ head_D))
        return values


def _head(files: ModelFiles) -> Any:  # noqa: ANN401  (numpy, D)
    if files.layout == "adapter":
        raise ValueError(
            f"the reward model {files.reference!r} is an adapter, whose score cannot be observed: "
            "train it with lora=None, or merge it."
        )
    return _read_head(str(files.path), files.reference)


@lru_cache(maxsize=4)
def _read_head(folder: str, reference: str) -> Any:  # noqa: ANN401
    from pathlib import Path

    from safetensors import safe_open

    for path in weight_files(Path(folder)):
        if path.suffix != ".safetensors":  # the index of several
            continue
        with safe_open(path, framework="pt") as file:
            if HEAD in file.keys():  # noqa: SIM118  (no mapping)
                return file.get_tensor(HEAD)[0].double().numpy()
    raise ValueError(
        f"model {reference!r} has no reward head: bind one that train_reward made, or leave the "
        "role unbound, so that one is made."
    )
