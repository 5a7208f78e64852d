"""Language models whose linear layers are products of two thin matrices, as ordinary checkpoints.

A layer `W` (O x I) becomes `up` (O x R) times `down` (R x I): 2 T R (I + O) FLOPs for T tokens, not
2 T I O. The folder is that of any transformers model; its `config.json` names the factored layers
and their ranks under `low_rank_layers`, and `architectures` says `LowRank...`, so that a program
that does not know these layers can tell.
"""

# O, I = outputs, inputs of a layer; R = its rank; T = tokens

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.pipeline.models.folder import check_parameters
from gristmill.pipeline.models.reference import ModelFiles

KEY = "low_rank_layers"
PREFIX = "LowRank"


class LowRankLinear(nn.Module):
    """The linear map `x -> up (down x) + bias`.

    Attributes:
        up: O x R.
        down: R x I.
        bias: O numbers, or None.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, *, bias: bool = False) -> None:
        nn.Module.__init__(self)
        self.up = nn.Parameter(torch.empty(outputs, rank))
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    @staticmethod
    def of(up_OR: Tensor, down_RI: Tensor, bias_O: Tensor | None) -> "LowRankLinear":
        """The layer with these weights, which are not copied."""
        with torch.device("meta"):
            layer = LowRankLinear(
                down_RI.shape[1], up_OR.shape[0], up_OR.shape[1], bias=bias_O is not None
            )
        layer.up, layer.down = nn.Parameter(up_OR), nn.Parameter(down_RI)
        if bias_O is not None:
            layer.bias = nn.Parameter(bias_O.detach())
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """... x I to ... x O."""
        return nn.functional.linear(nn.functional.linear(x, self.down), self.up, self.bias)

    def extra_repr(self) -> str:
        outputs, rank = self.up.shape
        return f"{self.down.shape[1]} -> {rank} -> {outputs}, bias={self.bias is not None}"


def put(model: nn.Module, layers: Mapping[str, LowRankLinear]) -> None:
    """Replace linear layers by name, and write it into the model's configuration."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    model.config.update({KEY: {n: layer.up.shape[1] for n, layer in layers.items()}})  # type: ignore[operator, union-attr]


def from_folder(auto: Any, folder: Path, **options: Any) -> Any:  # noqa: ANN401
    """`auto.from_pretrained(folder)` for a folder that may hold low-rank layers.

    Args:
        auto: a transformers auto class, e.g. `AutoModelForCausalLM`.
        folder: the checkpoint.
        options: of `from_pretrained`.

    Raises:
        ValueError: the configuration names a layer that the model has not, or describes a model
            that is larger than its weights.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.to_dict().get(KEY):
        kind = _low_rank(auto._model_mapping[type(config)])
        check_parameters(lambda: kind(config), folder)
        return kind.from_pretrained(folder, use_safetensors=True, **options)
    check_parameters(lambda: auto.from_config(config, trust_remote_code=False), folder)
    return auto.from_pretrained(folder, trust_remote_code=False, use_safetensors=True, **options)


def _low_rank(plain: type) -> Any:  # noqa: ANN401
    """The class of models like `plain` whose layers are replaced before weights are read."""

    def start(self: Any, config: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401
        plain.__init__(self, config, *args, **options)  # type: ignore[misc]
        wanted = config.to_dict()[KEY]
        found = dict(self.named_modules())
        lost = sorted(set(wanted) - set(found))
        if lost:
            raise ValueError(
                f"config.json names {lost[0]} under {KEY!r}, a layer that {plain.__name__} has "
                "not: the folder is damaged, or made for another version of transformers."
            )
        layers = {}
        for name, rank in wanted.items():
            old = found[name]
            outputs, inputs = shape(old)
            layers[name] = LowRankLinear(inputs, outputs, rank, bias=old.bias is not None)
        put(self, layers)

    return type(PREFIX + plain.__name__, (plain,), {"__init__": start})


def shape(layer: Any) -> tuple[int, int]:  # noqa: ANN401
    """Outputs and inputs of a linear layer, of GPT-2's `Conv1D` and of a `LowRankLinear`."""
    if isinstance(layer, LowRankLinear):
        return layer.up.shape[0], layer.down.shape[1]
    one, two = layer.weight.shape
    return (one, two) if isinstance(layer, nn.Linear) else (two, one)


def save(model: Any, target: Path) -> None:  # noqa: ANN401
    """Write weights and configuration of a model with low-rank layers: safetensors and JSON."""
    model.save_pretrained(target)
    path = target / "config.json"
    config = json.loads(path.read_text("utf-8"))
    plain = [str(name).removeprefix(PREFIX) for name in config["architectures"]]
    config["architectures"] = [PREFIX + name for name in plain]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def adaptable(config: Any) -> Any:  # noqa: ANN401
    """A PEFT LoRA configuration that also knows how to stand on low-rank layers."""
    from peft.tuners.lora.layer import Linear

    class OnLowRank(Linear):  # type: ignore[misc]
        def _get_in_out_features(self, module: Any) -> tuple[int, int]:  # noqa: ANN401
            outputs, inputs = shape(module)
            return inputs, outputs

    config._register_custom_module({LowRankLinear: OnLowRank})
    return config


def with_adapter(model: Any, folder: Path) -> Any:  # noqa: ANN401
    """The model with the PEFT adapter of a folder on it; its layers may be of low rank."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    if config.peft_type == "LORA":
        config = adaptable(config)
    return PeftModel.from_pretrained(model, str(folder), config=config)


def shell(files: ModelFiles) -> Any:  # noqa: ANN401
    """The language model of a folder with its adapter, all shapes and not one weight."""
    from peft import PeftConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    root = files.base.path if files.base is not None else files.path
    config = AutoConfig.from_pretrained(root, trust_remote_code=False)
    with torch.device("meta"):
        if config.to_dict().get(KEY):
            model = _low_rank(AutoModelForCausalLM._model_mapping[type(config)])(config)
        else:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        if files.base is not None:
            adapter = PeftConfig.from_pretrained(str(files.path))
            if adapter.peft_type == "LORA":
                adapter = adaptable(adapter)
            model = get_peft_model(model, adapter)
    return model
