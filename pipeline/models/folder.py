"""A model folder before anything in it is loaded: which weights are read, and what is refused.

Whoever made a folder chose every byte in it, so nothing in it may run code, lead out of it, or ask
for more memory than its weights can fill. What is wrong is a `ValueError` whose text follows the
model's name:

| in the folder | then |
|---|---|
| pickled weights alone (`.bin`, `.pt`, `.ckpt`) | refused: reading a pickle runs code |
| pickled weights beside safetensors | never opened |
| an index or a module list that leads elsewhere | refused: what is read must be what is hashed |
| code of its own (`auto_map`), modules of other packages | never run: known classes, or refused |
| more layers than tensors, dimensions beyond all weights | refused before a class is made |
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
ADAPTER = "adapter_config.json"
MODULES = "modules.json"
# The modules of sentence-transformers whose files all lie in a folder of their own.
KNOWN_MODULES = {
    "CNN",
    "Dense",
    "Dropout",
    "LSTM",
    "LayerNorm",
    "Normalize",
    "Pooling",
    "Transformer",
    "WeightedLayerPooling",
}
# Parameters that a byte of weights may represent: one bit each.
PARAMETERS_PER_BYTE = 8
MOST_MODULES = 4_096  # layers, heads or experts; no model has a tenth of it
# Layers may share tensors (ALBERT), but not more of them than this.
SHARED_LAYERS = 64
_COUNTS = re.compile(
    r"^(?:num|n)_\w*(?:layers?|blocks|experts|heads|stages|groups)$|_layers$|^depths?$|_depths?$"
)
_LAYERS = re.compile(r"^(?:num_hidden_layers|num_layers|n_layers?)$")
_RANKS = re.compile(r"^(?:r|rank|rank_pattern|num_virtual_tokens)$")  # of an adapter
_SIZES = re.compile(
    r"^(?:d_model|d_ff|n_embd|n_inner|n_vocab|dim|vocab_size)$"
    r"|^\w*(?:hidden|intermediate|embedding|ffn|inner|head|model|state)\w*_(?:size|dim)$"
)


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file of a model folder holds."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"has no {path.name}: give the folder that save_pretrained wrote."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"has a damaged {path.name}: {in_short(error)}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"has a damaged {path.name}: it holds no JSON object.")
    return found


def in_short(error: BaseException) -> str:
    """The beginning of what an error says, on one line and without a full stop."""
    return " ".join(str(error).split())[:200].rstrip(".")


def weight_files(folder: Path, *, adapter: bool = False) -> tuple[Path, ...]:
    """The safetensors files that are loaded from a folder, and the index that names them."""
    name = "adapter_model.safetensors" if adapter else "model.safetensors"
    single, index = folder / name, folder / f"{name}.index.json"
    if single.is_file():
        return (single,)
    if adapter or not index.is_file():
        raise ValueError(f"has no {name} ({_instead(folder)}).")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"has an {index.name} that maps no weight to a file: is it damaged?")
    names = sorted({str(s) for s in shards.values()})
    for shard in names:
        if (
            PurePosixPath(shard).name != shard
            or "\\" in shard
            or not shard.endswith(".safetensors")
        ):
            raise ValueError(
                f"has an {index.name} that names {shard!r}: weights are .safetensors files in the "
                "model's own folder."
            )
        if not (folder / shard).is_file():
            raise ValueError(f"lacks {shard}, which {index.name} names: is the copy complete?")
    return (index, *(folder / shard for shard in names))


def _instead(folder: Path) -> str:
    """What a folder without weights holds, and what to do about it."""
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        return (
            f"found the pickle {pickled[0]}, never read, as it can run code: convert it once with "
            "from_pretrained(...).save_pretrained(folder), which writes .safetensors"
        )
    others = sorted(p.name for p in folder.glob("*.safetensors"))
    return f"found {others[0]}, which no index names" if others else "found no .safetensors at all"


def sentence_weights(folder: Path) -> tuple[Path, ...]:
    """The weights of a sentence embedder's transformer; its other modules are checked with it."""
    try:
        modules = json.loads((folder / MODULES).read_text("utf-8"))
        named = [(str(m["type"]), str(m["path"])) for m in modules]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"has a damaged {MODULES}: give the folder as it was saved.") from None
    for kind, path in named:
        inner = PurePosixPath(path)
        if inner.is_absolute() or ".." in inner.parts or "\\" in path:
            raise ValueError(f"has a {MODULES} that names {path!r}, which is not in its folder.")
        package, _, name = kind.rpartition(".")
        if not package.startswith("sentence_transformers.") or name not in KNOWN_MODULES:
            raise ValueError(
                f"needs the module {kind}, which is never run: those of sentence-transformers are "
                f"({', '.join(sorted(KNOWN_MODULES))})."
            )
        own = folder / path
        if (own / ADAPTER).exists():
            raise ValueError("is an embedder with an adapter: merge it into its base.")
        if name != "Transformer" and own.is_dir():
            pickled = any(p.suffix in PICKLES for p in own.iterdir())
            if pickled and not (own / "model.safetensors").is_file():
                raise ValueError(f"has no {path}/model.safetensors ({_instead(own)}).")
    if [path for kind, path in named if kind.endswith(".Transformer")] != [""]:
        raise ValueError(
            f"has a {MODULES} without one Transformer in the folder itself: save it again with "
            "sentence-transformers."
        )
    return weight_files(folder)


def check_adapter(config: Mapping[str, Any]) -> str:
    """The base that an adapter's settings name; they may not import anything."""
    if config.get("megatron_config") is not None:
        raise ValueError("is an adapter that imports a package of its choice (megatron_config).")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"is an adapter whose {ADAPTER} names no base: write it under base_model_name_or_path."
        )
    return base


def check_config(config: Mapping[str, Any], weights: tuple[Path, ...]) -> None:
    """Refuse plain numbers that the weights cannot bear out, before a class is made of them."""
    if config.get("transformers_weights") is not None:
        raise ValueError(
            "has a config.json that names its own weights (transformers_weights): leave that out, "
            "and call the file model.safetensors."
        )
    tensors, widest = _tensors(weights)
    size = _bytes(weights)
    for name, value in _numbers(config):
        limit = math.inf
        if _LAYERS.search(name):
            limit = min(MOST_MODULES, max(SHARED_LAYERS, tensors))
        elif _COUNTS.search(name):
            limit = MOST_MODULES
        elif _RANKS.search(name):
            limit = widest
        elif _SIZES.search(name):
            limit = PARAMETERS_PER_BYTE * size
        if value > limit:
            raise ValueError(
                f"asks for {name}={value:,}, which its {tensors:,} tensors of {size:,} bytes "
                "cannot bear out: the folder is damaged or hostile."
            )


def check_parameters(make: Callable[[], Any], folder: Path) -> None:
    """Refuse a model, made without memory for its weights, that is larger than they can be."""
    import torch

    with torch.device("meta"):
        parameters = sum(p.numel() for p in make().parameters())
    size = _bytes(weight_files(folder))
    if parameters > PARAMETERS_PER_BYTE * size:
        raise ValueError(
            f"has a config.json of {parameters:,} parameters and weights of {size:,} bytes: the "
            "folder is damaged or hostile."
        )


def _numbers(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, int | float]]:  # noqa: ANN401
    """Every number of a configuration with the name it stands under."""
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield name, value
    elif isinstance(value, Mapping) and depth < 8:
        for key, inner in value.items():
            own = name if name.endswith("_pattern") else str(key)
            yield from _numbers(inner, own, depth + 1)
    elif isinstance(value, list) and depth < 8:
        for inner in value:
            yield from _numbers(inner, name, depth + 1)


def _bytes(weights: tuple[Path, ...]) -> int:
    return sum(w.stat().st_size for w in weights)


def _tensors(weights: tuple[Path, ...]) -> tuple[int, int]:
    """How many tensors there are, and their largest dimension; no weight is read."""
    count = widest = 0
    for path in weights:
        if path.suffix != ".safetensors":
            continue
        try:
            with safe_open(path, framework="np") as file:
                shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"has a damaged {path.name}: {in_short(error)}.") from None
        count += len(shapes)
        widest = max([widest, *(d for shape in shapes for d in shape)])
    return count, widest
