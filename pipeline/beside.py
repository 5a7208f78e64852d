"""A model with something beside it: what a method fits to a model, or compares it with.

A signal reads one model. Where it needs more (curvature, a second model), a recipe makes a folder
that is the model, file for file, and holds the rest in a subfolder; the signal finds it under
`model.files.path`. Weights are linked, not copied, where the file system can. The folder fills a
role of its own, so other signals go on reading the model itself; a marker among the weights, named
by all that the folder was made of, gives it a fingerprint of its own.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from gristmill.pipeline.models.load import LoadedModel, load
from gristmill.pipeline.models.reference import OPTIMIZER_STATE, ModelFiles
from gristmill.pipeline.prepare import Context, Prepared
from gristmill.pipeline.store import Part, Step

MARKER = "beside.safetensors"
KINDS = (".safetensors", ".json", ".txt", ".jinja", ".model")
SECOND = "second"  # the subfolder of a second model


def mirror(files: ModelFiles, folder: Path) -> None:
    """Make `folder` the same model: weights linked, all other files copied."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(p for p in files.path.iterdir() if p.is_file() and p.suffix in KINDS)
    for path in paths:
        _share(path, folder / path.name)
    inner = files.path.glob("*/*") if files.layout == "sentence" else ()
    modules = sorted(p for p in inner if p.is_file() and p.suffix in KINDS)
    state = files.path / OPTIMIZER_STATE
    for path in [*modules, *([state] if state.exists() else [])]:
        target = folder / path.relative_to(files.path)
        target.parent.mkdir(exist_ok=True)
        _share(path, target)


def _share(source: Path, target: Path) -> None:
    source = source.resolve()  # a hub's folder holds links
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, target)


def published(
    step: Step, context: Context, files: ModelFiles, name: str, write: Callable[[Path], None]
) -> Prepared:
    """Make (or find) the entry of a model with a subfolder `name` that `write` fills."""

    def both(folder: Path) -> None:
        mirror(files, folder)
        (folder / name).mkdir()
        write(folder / name)
        key = np.frombuffer(step.key.encode(), dtype=np.uint8)
        save_file({"key": key}, folder / MARKER)

    entry = context.models.store.run(step, [Part(name="model", write=both)])
    return Prepared(references=(str(entry.path / "model"),), weights=(1.0,))


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A model with a second one beside it, for signals that compare the two token by token.

    Attributes:
        role: the role that the result fills.
        base: the role whose (last) model gets company.
        second: the role of the other model; the same tokenizer, no adapter.
    """

    role: str = "compared"
    base: str = "reference"
    second: str = "target"

    def make(self, context: Context) -> Prepared:
        files, other = (context.models.files(r)[-1] for r in (self.base, self.second))
        if other.layout != "causal":
            raise ValueError(
                f"the model {other.reference!r} in the role {self.second!r} is a {other.layout}: "
                "bind a whole language model (an adapter merged into its base)."
            )
        step = Step(
            name="beside",
            version=1,
            inputs={"model": files.fingerprint, "second": other.fingerprint},
        )
        return published(step, context, files, SECOND, partial(mirror, other))


def second_model(model: LoadedModel) -> LoadedModel:
    """Load the model that `Beside` put next to this one, on the same device.

    Raises:
        ValueError: there is none, or it speaks of other tokens.
    """
    folder = model.files.path / SECOND
    if not folder.is_dir():
        raise ValueError(
            f"the model {model.files.reference!r} has no second one beside it: let `score` run the "
            "method's recipes, or make the recipe Beside."
        )
    files = ModelFiles(
        reference=f"{model.files.reference}/{SECOND}",
        path=folder,
        layout="causal",
        model_sha="",
        tokenizer_sha="",
        chat_template_sha="",
    )
    other = load(files, model.chat, device=model.device, dtype=model.dtype)  # type: ignore[arg-type]
    sizes = [m.model.config.get_text_config().vocab_size for m in (model, other)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the two models know {sizes[0]:,} and {sizes[1]:,} tokens: their distributions can be "
            "compared only if both have one tokenizer."
        )
    return other
