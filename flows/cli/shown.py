"""Options of every command: how much is shown, in which form, and where it is written as well."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows import logs
from gristmill.flows.progress import QUIET

_FLAGS = {"--version", "-q", "--quiet", "-v", "--verbose", "--no-color"}
_VALUES = {"--log-file"}


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"gristmill {version('gristmill')}")
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="print the version and stop"
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="no progress, and no warnings but errors")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="also what the steps say of themselves")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="plain text")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="file to which all that is told is added")
    ] = None,
) -> None:
    """How much is shown, and where; these options may stand anywhere on the line."""
    assert not version, "its callback has ended the command"
    if quiet and verbose:
        raise ValueError("--quiet and --verbose contradict each other: give one of them.")
    if no_color:
        os.environ["NO_COLOR"] = "1"
        os.environ["PREFECT_LOGGING_COLORS"] = "false"
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    QUIET.set(quiet)
    if quiet:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    told(level, log_file)


def hoisted(words: Sequence[str]) -> list[str]:
    """The same command line with the options of every command before the command."""
    front: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            return [*front, *rest, word, *left]
        if word in _FLAGS or (word.split("=")[0] in _VALUES and "=" in word):
            front.append(word)
        elif word in _VALUES:
            front += [word, *[value for value in [next(left, None)] if value is not None]]
        else:
            rest.append(word)
    return [*front, *rest]


def told(level: int, log_file: Path | None) -> None:
    """Let our loggers speak to the terminal from a level on, and to a file from INFO on."""
    logs.to_terminal(level)
    logger = logging.getLogger("gristmill")
    for handler in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    if log_file is None:
        return
    log_file.parent.mkdir(parents=True, exist_ok=True)
    kept = logging.FileHandler(log_file, encoding="utf-8")
    kept.setLevel(logging.INFO)
    kept.setFormatter(logs.Plain("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(kept)
    logger.setLevel(min(level, logging.INFO))
    logger.info("gristmill %s", " ".join(sys.argv[1:]))
