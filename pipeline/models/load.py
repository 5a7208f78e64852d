"""Weights into memory: one place that picks device and dtype, and counts what it loads."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.pipeline.models.chat_template import TooMuchWork
from gristmill.pipeline.models.chat_tokenizer import TULU_TEMPLATE, ChatTokenizer
from gristmill.pipeline.models.damage import check_finite, check_numbers
from gristmill.pipeline.models.folder import check_parameters, in_short
from gristmill.pipeline.models.reference import ModelFiles, chat_template

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
_LOADED: list[str] = []
# Families that transformers also loads as "causal" while their attention looks ahead.
ENCODERS = (
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in memory, in eval mode, with the tokenizer that feeds it.

    Attributes:
        files: where it came from.
        model: a transformers causal LM, or a SentenceTransformer (layout "sentence").
        chat: tokenizer, template and length limit.
        device: torch device as text.
        dtype: torch dtype as text.
    """

    files: ModelFiles
    model: Any
    chat: ChatTokenizer
    device: str
    dtype: str

    @property
    def hidden_size(self) -> int:
        if self.files.layout == "sentence":
            return int(self.model.get_embedding_dimension())
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def layers(self) -> int:
        return int(self.model.config.get_text_config().num_hidden_layers)


def loaded() -> list[str]:
    """References of all models whose weights this process has read, in order."""
    return list(_LOADED)


def pick_device(device: str = "auto") -> str:
    """Resolve "auto": CUDA, else MPS, else CPU."""
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: DTypeName, device: str) -> DTypeName:
    """Resolve "auto": bfloat16 on CUDA, float32 elsewhere."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") else "float32"


def load_tokenizer(
    files: ModelFiles,
    *,
    limit: int | None = None,
    overlong: Literal["cut", "skip"] = "cut",
) -> ChatTokenizer:
    """Load the tokenizer alone.

    Args:
        files: the resolved model.
        limit: longest sequence in tokens; the model's context if that is shorter.
        overlong: what to do with longer ones.
    """
    from transformers import AutoTokenizer

    folder = files.path
    if files.base is not None and not (folder / "tokenizer.json").exists():
        folder = files.base.path
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a folder from anywhere fails in any way
        raise ValueError(
            f"model {files.reference!r} has a tokenizer that does not load: {in_short(error)}."
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"model {files.reference!r} has no fast tokenizer: masks need character offsets; "
            "save it once with a tokenizer.json."
        )
    tokenizer.model_max_length = int(1e9)  # the limit below is the one that counts
    chat = ChatTokenizer(
        tokenizer=tokenizer,
        template=chat_template(folder) or TULU_TEMPLATE,
        limit=effective_limit(files, limit),
        overlong=overlong,
    )
    try:
        chat.check_template()
    except TooMuchWork as error:
        raise ValueError(
            f"model {files.reference!r} has a chat template that is not to be run: for two words, "
            f"{error}."
        ) from None
    return chat


def effective_limit(files: ModelFiles, limit: int | None) -> int:
    """The longest sequence: what was asked, or the model's context if that is shorter."""
    context = _context(files)
    return context if limit is None else min(limit, context)


def load(
    files: ModelFiles,
    chat: ChatTokenizer | None = None,
    *,
    device: str = "auto",
    dtype: DTypeName = "auto",
    embedder: bool = False,
) -> LoadedModel:
    """Load weights in eval mode, without gradients.

    Args:
        files: the resolved model.
        chat: its tokenizer, if it is loaded already.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" is bfloat16 on CUDA and float32 elsewhere.
        embedder: load as a sentence embedder; a plain language model is mean-pooled.
    """
    import torch

    device = pick_device(device)
    name = pick_dtype(dtype, device)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    _LOADED.append(files.reference)
    _check_use(files, embedder=embedder)
    with loading(files, device):
        model = _weights(files, kind, device, embedder=embedder)
    largest = check_finite(files, model)
    chat = chat or load_tokenizer(files)
    if embedder:
        model.max_seq_length = chat.limit
    model.eval()
    model.requires_grad_(False)
    check_numbers(files, model, chat, largest, embedder=embedder)
    return LoadedModel(files=files, model=model, chat=chat, device=device, dtype=name)


@contextmanager
def loading(files: ModelFiles, device: str) -> Iterator[None]:
    """Say in one sentence what goes wrong while a model loads.

    What the library reports of keys that are there or not is for its developers.
    """
    library = logging.getLogger("transformers")
    before = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:  # a folder from anywhere fails in any way
        raise ValueError(
            f"model {files.reference!r} does not load on {device}: {in_short(error)}."
        ) from error
    finally:
        library.setLevel(before)


def _check_use(files: ModelFiles, *, embedder: bool) -> None:
    """Refuse a model in a role that needs another kind."""
    if embedder and files.layout == "adapter":
        raise ValueError(
            f"model {files.reference!r} is an adapter and is in a role that needs an embedder: "
            "merge it into its base."
        )
    if embedder:
        return
    if files.layout == "sentence":
        raise ValueError(
            f"model {files.reference!r} is a sentence embedder and is in a role that needs "
            "a language model: bind it as embedder=..."
        )
    root = files.base.path if files.base is not None else files.path
    config = json.loads((root / "config.json").read_text("utf-8"))
    kind = config.get("model_type")
    seq2seq = bool(config.get("is_encoder_decoder"))
    if seq2seq or (kind in ENCODERS and not config.get("is_decoder")):
        what = "encoder and decoder" if seq2seq else "encoder"
        raise ValueError(
            f"model {files.reference!r} is a {kind} {what}: expected a causal language model, "
            "whose decoder reads the prompt too."
        )


def _weights(files: ModelFiles, kind: Any, device: str, *, embedder: bool) -> Any:  # noqa: ANN401
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    if embedder:
        from sentence_transformers import SentenceTransformer

        config = AutoConfig.from_pretrained(files.path, trust_remote_code=False)
        check_parameters(lambda: AutoModel.from_config(config, trust_remote_code=False), files.path)
        model: Any = SentenceTransformer(
            str(files.path),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": kind, "use_safetensors": True},
        )
        if model.tokenizer.pad_token is None:
            model.tokenizer.pad_token = model.tokenizer.eos_token
        return model

    from gristmill.pipeline.models.low_rank import from_folder, with_adapter

    root = files.base.path if files.base is not None else files.path
    model = from_folder(AutoModelForCausalLM, root, dtype=kind)
    if files.base is not None:
        model = with_adapter(model, files.path)
    return model.to(device)


def _context(files: ModelFiles) -> int:
    """The longest sequence the model was made for."""
    folder = files.base.path if files.base is not None else files.path
    if files.layout == "sentence":
        sentence = folder / "sentence_bert_config.json"
        if sentence.exists():
            length = json.loads(sentence.read_text("utf-8")).get("max_seq_length")
            if length:
                return int(length)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        if isinstance(config.get(name), int):
            return int(config[name])
    return 2_048
