"""Child processes that import nothing: forked from one process that has done the imports once.

A child of `subprocess` spends seconds in imports before there is anything to kill. One from here
starts where those end; the process that it is forked from imports and waits, and that is all.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path
from subprocess import TimeoutExpired

import psutil

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "datasets",
        "faiss",
        "peft",
        "pyarrow.parquet",
        "rich.progress",
        "sentence_transformers",
        "torch",
        "transformers.models.llama.modeling_llama",
        "trl",
        "gristmill.flows.steps",
        "gristmill.flows.publishing",
        "gristmill.pipeline.finetune.sft",
        "gristmill.synthesis.equal",
    ]
)


class Child:
    """`python -c code arguments`, with the part of `subprocess.Popen` that tests need."""

    def __init__(self, code: str, *arguments: object):
        self._told = tempfile.TemporaryDirectory()
        for name in ("out", "err"):  # a child may die before it has made them
            (Path(self._told.name) / name).touch()
        words = [str(a) for a in arguments]
        self._process = CONTEXT.Process(
            target=execute, args=(code, words, self._told.name, dict(os.environ)), daemon=True
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def stopped(self) -> bool:
        """Whether a signal has stopped it; asked while it runs."""
        assert self.returncode is None, "it has ended"
        return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what it wrote to stdout and stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired(self._process.name, timeout)
        with self._told as folder:
            return tuple((Path(folder) / name).read_text() for name in ("out", "err"))


def execute(code: str, words: list[str], told: str, environment: dict[str, str]) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(Path(told) / name, os.O_WRONLY)
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *words]
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
