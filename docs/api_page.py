"""The page of the Python API: signatures and docstrings of what `gristmill.pipeline` offers."""

import ast
import dataclasses
import inspect
import textwrap
from types import ModuleType
from typing import Any

import pydantic

import gristmill.pipeline
from gristmill.pipeline import contracts
from gristmill.selectors import catalog

_HEAD = """\
# Python API

Import these names from where each section says; every other module may move. Examples:
[quickstart.md](quickstart.md) and [extending.md](extending.md).
"""
_LONGEST = 92


def page() -> str:
    """The verbs and nouns, the contracts, and the catalogue."""
    offered = [getattr(gristmill.pipeline, name) for name in gristmill.pipeline.__all__]
    verbs = [o for o in offered if inspect.isfunction(o)]
    nouns = [o for o in offered if inspect.isclass(o) and o.__module__ != contracts.__name__]
    parts = [
        _HEAD,
        *section("Verbs", "gristmill.pipeline", verbs),
        *section("Nouns", "gristmill.pipeline", nouns),
        *section("Contracts", "gristmill.pipeline.contracts", own(contracts)),
        *section("The catalogue", "gristmill.selectors.catalog", own(catalog)),
    ]
    return "\n".join(parts)


def own(module: ModuleType) -> list[Any]:
    """The public functions and classes that a module defines, in its order."""
    return [
        value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        if inspect.isclass(value) or callable(value)
    ]


def section(title: str, module: str, things: list[Any]) -> list[str]:
    """Entries under one heading."""
    return [f"## {title}\n\n`from {module} import ...`\n", *map(entry, things)]


def entry(thing: Any) -> str:  # noqa: ANN401
    """A function or class: heading, signature, docstring, and a class's public methods."""
    thing = inspect.unwrap(thing)
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    lines = [f"### {thing.__name__}", "", "```py"]
    if isinstance(node, ast.ClassDef):
        lines += class_lines(thing, node)
    else:
        assert isinstance(node, ast.FunctionDef)
        lines += signature(node)
    return "\n".join([*lines, "```", "", *docstring(inspect.getdoc(thing)), ""])


def class_lines(cls: type, node: ast.ClassDef) -> list[str]:
    """The class with its fields and public methods, bodies left out."""
    bases = ", ".join(ast.unparse(b) for b in node.bases)
    lines = [f"class {node.name}({bases}):" if bases else f"class {node.name}:"]
    data = dataclasses.is_dataclass(cls) or issubclass(cls, pydantic.BaseModel)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and data and not _hidden(item.target):
            lines += [f"    {line}" for line in field(item)]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            told = (ast.get_docstring(item) or "").split("\n")[0]
            marks = [ast.unparse(d) for d in item.decorator_list]
            lines += ["", *[f"    @{m}" for m in marks if m != "override"]]
            lines += [f"    {line}" for line in signature(item)]
            lines += [f"        # {told}"] if told else []
    return lines


def field(node: ast.AnnAssign) -> list[str]:
    """A field with its default; of pydantic's, the description as a comment."""
    shown = f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}"
    value = node.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "pydantic.Field":
        told = {k.arg: k.value for k in value.keywords}
        default = f" = {ast.unparse(value.args[0])}" if value.args else ""
        note = ast.literal_eval(told["description"]) if "description" in told else ""
        return [f"# {note}", shown + default]
    return [shown + (f" = {ast.unparse(value)}" if value is not None else "")]


def signature(node: ast.FunctionDef) -> list[str]:
    """`def` with arguments and result, over several lines where one is too long."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    inner = arguments(node.args)
    whole = f"def {node.name}({', '.join(inner)}){result}"
    if len(whole) <= _LONGEST:
        return [whole]
    return [f"def {node.name}(", *[f"    {part}," for part in inner], f"){result}"]


def arguments(node: ast.arguments) -> list[str]:
    """Each argument as it is written in the source."""
    plain = [*node.posonlyargs, *node.args]
    defaults = [None] * (len(plain) - len(node.defaults)) + list(node.defaults)
    parts = [argument(a, d) for a, d in zip(plain, defaults, strict=True)]
    if node.vararg:
        parts.append(f"*{argument(node.vararg, None)}")
    elif node.kwonlyargs:
        parts.append("*")
    parts += [argument(a, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
    return parts + ([f"**{argument(node.kwarg, None)}"] if node.kwarg else [])


def argument(node: ast.arg, default: ast.expr | None) -> str:
    """One argument with its type and default."""
    typed = f": {ast.unparse(node.annotation)}" if node.annotation else ""
    given = (" = " if typed else "=") + ast.unparse(default) if default is not None else ""
    return f"{node.arg}{typed}{given}"


def docstring(doc: str | None) -> list[str]:
    """A docstring as it was written: prose, with its lists of arguments, in a block of its own."""
    return ["```text", *(doc or "").rstrip().split("\n"), "```"] if doc else []


def _hidden(target: ast.expr) -> bool:
    return ast.unparse(target).startswith("_")
