"""Warnings on a terminal: ours as a sentence, those that libraries address to developers not."""

import logging
import warnings
from pathlib import Path
from typing import TextIO

LOG = logging.getLogger(__name__)
ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "accelerate",
    "datasets",
    "huggingface_hub",
    "peft",
    "sentence_transformers",
    "torch",
    "transformers",
    "trl",
)


def only_ours() -> None:
    """Let no raw warning of a library reach whoever runs a command in this process.

    Whose a warning is, the file says that it is addressed to: a deprecated name that a library of
    ours uses is nothing that a user could mend. All of them stand in the log at level DEBUG.
    """
    warnings.showwarning = _show
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file, line
    path = Path(filename)
    ours = path.is_relative_to(ROOT) and "site-packages" not in path.parts[len(ROOT.parts) :]
    if ours and not issubclass(category, (DeprecationWarning, FutureWarning)):
        LOG.warning("%s", message)
    else:
        LOG.debug("%s:%s: %s: %s", filename, lineno, category.__name__, message)
