"""How models are run over records: device, precision, length limit, batch size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.load import DTypeName, load_tokenizer, pick_device, pick_dtype
from gristmill.pipeline.models.reference import ModelFiles

Overlong = Literal["cut", "skip"]
Progress = Callable[[str, int, int], None]  # (what, done, in all)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How passes are run; device and batch size change nothing but the rounding of sums.

    Attributes:
        device: "auto", "cpu", "cuda", ...
        dtype: "auto" is bfloat16 on CUDA, float32 elsewhere.
        max_length: longest sequence in tokens (the model's context, if shorter).
        overlong: "cut" longer records at the end, or "skip" them with a reason.
        batch_tokens: rows x longest row of one batch.
        threads: of a processor, where they are pinned: sums depend on them. None: as torch has it.
    """

    device: str = "auto"
    dtype: DTypeName = "auto"
    max_length: int = 2_048
    overlong: Overlong = "cut"
    batch_tokens: int = 4_096
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.overlong not in get_args(Overlong):
            raise ValueError(f"overlong is cut or skip; found {self.overlong!r}.")
        if self.dtype not in get_args(DTypeName):
            raise ValueError(f"dtype is one of {get_args(DTypeName)}; found {self.dtype!r}.")
        if self.max_length < 2 or self.batch_tokens < 1:
            raise ValueError(
                "max_length is at least 2 and batch_tokens at least 1; "
                f"found {self.max_length} and {self.batch_tokens}."
            )

    def chat(self, files: ModelFiles) -> ChatTokenizer:
        """A model's tokenizer under the length limit of these passes."""
        return load_tokenizer(files, limit=self.max_length, overlong=self.overlong)

    def resolved(self, threads: int | None) -> "Passes":
        """The same with the dtype that "auto" is on this machine, and the threads that count here.

        Args:
            threads: that are pinned where a processor computes; None: none are.
        """
        device = pick_device(self.device)
        return replace(
            self,
            dtype=pick_dtype(self.dtype, device),
            threads=threads if device == "cpu" else None,
        )
