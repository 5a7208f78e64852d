"""What a checkpoint of a training run tells: its learning rate, and Adam's state by name."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill.pipeline.models.reference import OPTIMIZER_STATE

if TYPE_CHECKING:
    from gristmill.pipeline.models.gradients.adam_state import OptimizerState


def learning_rate(checkpoint: Path | str) -> float | None:
    """The mean learning rate of a checkpoint that a training run left, else None."""
    folder = Path(checkpoint)
    index = folder.parent / "index.json"
    if not index.is_file():
        return None
    kept = json.loads(index.read_text("utf-8")).get("checkpoints", [])
    return next((c["learning_rate"] for c in kept if c["name"] == folder.name), None)


def optimizer_state(checkpoint: Path | str) -> dict[str, dict[str, Any]]:
    """Adam's state of a checkpoint: parameter name -> `exp_avg`, `exp_avg_sq`, `step`.

    Names are those of `model.named_parameters()` of the loaded checkpoint.
    """
    tensors, _ = _read_state(Path(checkpoint))
    state: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        state.setdefault(name, {})[part] = int(tensor) if part == "step" else tensor
    return state


def moments(checkpoint: Path | str) -> "OptimizerState":
    """The same with Adam's constants, as gradient features take it."""
    from gristmill.pipeline.models.gradients.adam_state import OptimizerState

    state, (_, adam) = optimizer_state(checkpoint), _read_state(Path(checkpoint))
    return OptimizerState(
        first={n: s["exp_avg"] for n, s in state.items()},
        second={n: s["exp_avg_sq"] for n, s in state.items()},
        step=max(s["step"] for s in state.values()),
        **adam,
    )


def _read_state(checkpoint: Path) -> tuple[dict[str, Any], dict[str, float]]:
    from safetensors import safe_open

    if not (checkpoint / OPTIMIZER_STATE).exists():
        raise ValueError(
            f"{checkpoint.name} holds no optimizer state ({OPTIMIZER_STATE}): train it with "
            "optimizer_state=True, or bind the model it stands on, of which a warm-up is made."
        )
    with safe_open(checkpoint / OPTIMIZER_STATE, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["adam"])
