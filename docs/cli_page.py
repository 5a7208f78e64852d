"""The page of the command line: what `--help` says of every command."""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from gristmill.flows.cli import app

WIDTH = 96
_HEAD = """\
# Command line

What `gristmill --help` and `gristmill COMMAND --help` say. Exit codes: 0 done; 1 a check failed, or
an error that is not the user's; 2 a mistake, told in one sentence; 130 and 143 stopped by a signal.
"""


def page() -> str:
    """All commands, in the order in which the command line lists them."""
    parts = [_HEAD]
    for name, text in commands(get_command(app), "gristmill"):
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def commands(command: Any, name: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401  (typer's own)
    """A command and all below it: its full name, its help."""
    context = command.context_class(
        command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH
    )
    help_ = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield name, help_.strip()
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")
