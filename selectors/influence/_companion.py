"""A second model as an artifact, for signals that compare two models token by token."""

from dataclasses import dataclass
from typing import ClassVar

from gristmill.pipeline.contracts import Artifact, Context, Prepared, Recipe
from gristmill.pipeline.models.load import LoadedModel, load
from gristmill.pipeline.models.reference import ModelFiles


@dataclass(frozen=True, kw_only=True)
class Companion(Recipe):
    """The (last) model of a role, handed over as the artifact "companion"; nothing is copied.

    Attributes:
        base: the role of the model; the same tokenizer as the one it is compared with, no adapter.
    """

    artifact: ClassVar[str] = "companion"
    base: str = "target"

    def make(self, context: Context) -> Prepared:
        files = context.models.files(self.base)[-1]
        if files.layout != "causal":
            raise ValueError(
                f"the model {files.reference!r} in the role {self.base!r} is a {files.layout}: "
                "bind a whole language model (an adapter merged into its base)."
            )
        found = Artifact(name=self.artifact, content=files.fingerprint, path=files.path)
        return Prepared(artifact=found)


def companion_of(model: LoadedModel, companion: Artifact | None) -> LoadedModel:
    """Load the second model, on the device of the first.

    Raises:
        ValueError: there is none, or it speaks of other tokens.
    """
    if companion is None:
        raise ValueError(
            f"there is no second model to compare {model.files.reference!r} with: let `score` run "
            "the method's recipes, or make the recipe Companion."
        )
    files = ModelFiles(
        reference=str(companion.path),
        path=companion.path,
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
