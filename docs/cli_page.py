"""The page of the command line: each command with its arguments and options, from the app."""

import inspect
from collections.abc import Iterator
from typing import Any

from methods_page import escaped
from typer.main import get_command

from gristmill.flows.cli import app

_HEAD = """\
# Command line

Every command with its arguments and options; `gristmill COMMAND --help` says the same. Exit codes:
0 done; 1 a check failed, or an error that is not the user's; 2 a mistake, told in one sentence;
130 and 143 stopped by a signal.
"""
_EVERYWHERE = """\
## Options of every command

They may stand anywhere on the line; `-h` is `--help`.
"""


def page() -> str:
    """What the command line says of itself, then all commands in its order."""
    command = get_command(app)
    options = [p for p in command.params if p.name != "help"]
    parts = [_HEAD, f"```text\n{told(command)}\n```\n", _EVERYWHERE]
    parts += ["\n".join(["| | default | |", "|---|---|---|", *map(row, options), ""])]
    parts += [section(name, found) for name, found in commands(command, "gristmill")]
    return "\n".join(parts)


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  (typer's own)
    """All commands below a group, with their full names."""
    for word, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, f"{name} {word}")
        else:
            yield f"{name} {word}", found


def section(name: str, command: Any) -> str:  # noqa: ANN401
    """One command: how it is called, what it does, a line an option."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    called = [name, *[p.metavar or p.name.upper() for p in arguments]]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([*called, *(["[OPTIONS]"] if options else [])])
    lines = [f"## {name}", "", f"`{usage}`", "", escaped(told(command)), ""]
    if command.params:
        lines += ["| | default | |", "|---|---|---|", *map(row, [*arguments, *options]), ""]
    return "\n".join(lines)


def row(parameter: Any) -> str:  # noqa: ANN401
    """A line of the table of a command."""
    shown = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
    default = "" if parameter.default in (None, False) else f"`{parameter.default}`"
    default = "required" if parameter.required else default
    variable = f" (or `{parameter.envvar}`)" if parameter.envvar else ""
    what = escaped(" ".join((parameter.help or "").split())).replace("|", "\\|")
    return f"| `{shown or parameter.name.upper()}` | {default} | {what}{variable} |"


def told(command: Any) -> str:  # noqa: ANN401
    """What a command says of itself, without the mark that keeps line breaks."""
    return inspect.cleandoc(command.help or "").replace("\b\n", "")
