"""Models that can be trained: all weights, a fresh adapter, or an adapter that goes on."""

from typing import Any

from gristmill.pipeline.finetune.adapters import adapter_layers, stored_transposed
from gristmill.pipeline.finetune.settings import Lora
from gristmill.pipeline.models.load import LoadedModel, load, pick_device
from gristmill.pipeline.models.reference import ModelFiles


def trainable(files: ModelFiles, lora: Lora | None, device: str) -> LoadedModel:
    """Load a model for training.

    Without `lora` all weights train, in float32 (an adapter is merged first). With it the base
    stays frozen (bfloat16 on CUDA): a plain model awaits a fresh adapter, see `peft_config`; an
    adapter goes on from where it is.
    """
    device = pick_device(device)
    loaded = load(files, device=device, dtype="auto" if lora else "float32")
    model = loaded.model
    if lora is None:
        model = model.merge_and_unload() if files.layout == "adapter" else model
        model.requires_grad_(True)
    elif files.layout == "adapter":
        resume_adapter(model, lora, files)
    return LoadedModel(
        files=files, model=model, chat=loaded.chat, device=device, dtype=loaded.dtype
    )


def peft_config(model: Any, files: ModelFiles, lora: Lora | None, task: str) -> Any:  # noqa: ANN401
    """PEFT's settings of a fresh adapter on `model`; None where no fresh one is wanted."""
    if lora is None or files.layout == "adapter":
        return None
    from peft import LoraConfig

    from gristmill.pipeline.models.low_rank import adaptable

    layers = adapter_layers(model, lora.targets)
    return adaptable(
        LoraConfig(
            task_type=task,
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(layers),
            fan_in_fan_out=stored_transposed(model, layers),
        )
    )


def resume_adapter(model: Any, lora: Lora, files: ModelFiles) -> None:  # noqa: ANN401
    """Let a loaded adapter train on; it goes on as it is, so other settings are refused."""
    assert files.base is not None
    config = model.peft_config["default"]
    found = (config.r, float(config.lora_alpha))
    if found != (lora.rank, float(lora.alpha)):
        raise ValueError(
            f"the adapter {files.reference} has rank {found[0]} and alpha {found[1]:g}, the "
            f"settings say {lora.rank} and {lora.alpha:g}: an adapter goes on as it is, so give "
            "the same."
        )
    # PEFT looks for the base's config when it saves, and asks the hub if this is no folder
    config.base_model_name_or_path = str(files.base.path)
    model.set_adapter("default")
