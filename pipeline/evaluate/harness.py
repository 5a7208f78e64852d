"""lm-evaluation-harness as a library: local tasks, one model object, no word on the screen.

Whatever is asked here, the harness computes: prompts, requests, filters, metrics. What this file
adds is where the data lies, that nothing is fetched, and that the process is as it was before.
"""

import importlib.metadata
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from gristmill.pipeline.models.folder import in_short
from gristmill.pipeline.models.load import LoadedModel

Told = Callable[[int, int], None]  # (done, in all)


def version() -> str:
    """Version of the harness.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            "tasks need lm-evaluation-harness, which is not installed: "
            "pip install 'gristmill[eval]'."
        ) from None


@lru_cache(maxsize=64)
def task_of(config: Path, data: Path, content: str) -> Any:  # noqa: ANN401  (its own class)
    """A task of the harness with its rows in memory; made once a process.

    Args:
        config: its YAML.
        data: folder that its data files are relative to.
        content: hash of both, so that a task whose files have changed is another one.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    del content
    try:
        with quiet(), TemporaryDirectory() as cache:  # the user's own cache is not ours to fill
            settings = load_yaml(config)
            kwargs = {**settings["dataset_kwargs"], "cache_dir": cache, "keep_in_memory": True}
            kwargs["data_files"] = {
                split: str(data / name) for split, name in kwargs["data_files"].items()
            }
            task = ConfigurableTask(config={**settings, "dataset_kwargs": kwargs})
    except Exception as error:  # a file of anybody's fails in any way
        raise ValueError(
            f"task {config.stem!r} does not load with the rows in {data}: {in_short(error)}."
        ) from error
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    return task


def questions(task: Any, limit: int | None) -> list[str]:  # noqa: ANN401
    """What each item of a task asks, without examples; its choices where they are the question."""
    with quiet():
        docs = [doc for doc, _ in zip(task.eval_docs, range(limit or 1 << 62), strict=False)]
        asked = [task.doc_to_text(doc) for doc in docs]
        return [
            said if isinstance(said, str) else "\n".join(task.doc_to_choice(doc))
            for said, doc in zip(asked, docs, strict=True)
        ]


def language_model(model: LoadedModel, batch_size: int) -> Any:  # noqa: ANN401  (its own class)
    """Our model as the harness' own class for transformers models."""
    from lm_eval.models.huggingface import HFLM

    with quiet():
        return HFLM(pretrained=model.model, tokenizer=model.chat.tokenizer, batch_size=batch_size)


def run(
    task: Any,  # noqa: ANN401
    model: Any,  # noqa: ANN401
    *,
    limit: int | None,
    chat_template: bool,
    rows: Sequence[int] = (),
    told: Told | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One task on one model: its figures as the harness gives them, and its samples.

    `rows`, in ascending order, are the only items asked; none: all, or the first `limit`.

    Seeds and settings are those of `lm_eval.simple_evaluate`, which asks the machine a hundred
    further things that no figure depends on.

    Raises:
        ValueError: the harness fails, e.g. on a row that does not fit the task.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
    from lm_eval.evaluator import evaluate

    name = task.config.task
    with quiet(told), _seeded(DEFAULT_RANDOM_SEED, DEFAULT_OTHER_SEED):
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        try:
            found = evaluate(
                model,
                {"tasks": {name: task}},
                limit=limit,
                samples={name: list(rows)} if rows else None,
                apply_chat_template=chat_template,
                fewshot_as_multiturn=True,
            )
        except Exception as error:  # a task of anybody's fails in any way
            raise ValueError(
                f"task {name!r} cannot be asked: the harness says {in_short(error)}."
            ) from error
    return found["results"][name], found["samples"][name]


@contextmanager
def quiet(told: Told | None = None) -> Iterator[None]:
    """The harness' bars report to `told` instead of the screen, its log keeps to errors."""
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface
    from datasets import disable_progress_bars, enable_progress_bars
    from datasets.utils import are_progress_bars_disabled

    asks = partial(_Bar, told=told)  # of the model; prompts and tokens are made in no time
    modules: dict[ModuleType, Any] = {
        lm_eval.api.task: _Bar,
        lm_eval.api.model: _Bar,
        lm_eval.models.huggingface: asks,
    }
    bars = {module: vars(module)["tqdm"] for module in modules}
    library = logging.getLogger("lm_eval")
    level, shown = library.level, not are_progress_bars_disabled()
    library.setLevel(logging.ERROR)
    disable_progress_bars()
    for module, bar in modules.items():
        vars(module)["tqdm"] = bar
    try:
        yield
    finally:
        library.setLevel(level)
        if shown:
            enable_progress_bars()
        for module, bar in bars.items():
            vars(module)["tqdm"] = bar


class _Bar:
    """What the harness asks of a progress bar."""

    def __init__(
        self,
        iterable: Iterable[Any] = (),
        *,
        total: int = 0,
        told: Told | None = None,
        **_: object,
    ) -> None:
        self.iterable, self.total, self.told, self.done = iterable, total, told, 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self.iterable)

    def update(self, count: int = 1) -> None:
        self.done += count
        if self.told is not None:
            self.told(self.done, self.total)

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def _seeded(first: int, other: int) -> Iterator[None]:
    """The seeds of the harness, and what was there before afterwards."""
    import torch

    before: Mapping[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}  # noqa: NPY002
    used = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=used):  # of all devices, it warns where there are several
        random.seed(first)
        np.random.seed(other)  # noqa: NPY002  (the harness draws from it)
        torch.manual_seed(other)
        try:
            yield
        finally:
            random.setstate(before["python"])
            np.random.set_state(before["numpy"])  # noqa: NPY002
