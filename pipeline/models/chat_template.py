"""Chat templates: programs that came with a model's files, run within bounds.

What a template sees and what it writes are those of `apply_chat_template` of transformers. Here its
work is counted as well: a step for each turn of a loop, each call and each filter, and one more for
every 64 characters that are touched. So a template that loops without end, or doubles a text thirty
times, ends after the same steps on every machine, and costs its row alone.

How: the parsed template is rewritten before it is compiled. Loop bodies begin with a step, and what
is written, compared, sliced or joined goes through a filter that counts it; operators, filters and
calls are counted where Jinja looks them up.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, wraps
from types import BuiltinMethodType, FunctionType
from typing import Any

from jinja2 import Environment, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

# Some templates print today's date; the same row must be the same tokens tomorrow.
DATE = datetime(2025, 1, 1)
UNIT = 64  # characters that are read or written, or parts of a program, at the price of a step
LONGEST_TEMPLATE = 200_000  # characters; the longest in use have 30,000
_WIDEST = 256  # of padding and indents
_LARGEST_BITS = 1_024  # of a whole number
# Filters that draw at random, or whose time is not in proportion to their text.
_LEFT_OUT = ("pprint", "random", "striptags", "sum", "urlize", "wordwrap", "xmlattr")
_WIDTHS = {
    "batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "tojson", "truncate",
    "zfill",
}  # fmt: skip
_OUTGROWING = {*_WIDTHS, "format", "format_map", "join", "replace"}  # their text; see `_foreseen`
# Filters and tests that hand on the parts of a value, or ask what it is.
_ONLY_LOOK = {
    "attr", "batch", "boolean", "callable", "count", "d", "default", "defined", "false", "first",
    "float", "integer", "items", "iterable", "last", "length", "list", "map", "mapping", "none",
    "number", "reject", "rejectattr", "reverse", "sameas", "select", "selectattr", "sequence",
    "slice", "string", "true", "undefined",
}  # fmt: skip
_WIDE_FORMAT = re.compile(
    r"%(?:\([^()]*\))?[-+ #0-9.]*(?:\d{4}|\*)"  # "%9999d", "%*d"
    r"|\{[^{}:]*:[^{}]*?(?:\d{4}|\{)"  # "{:9999}", "{:{}}"
)
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one thing, most usual first


class TooMuchWork(TemplateError):
    """A template did more than it may; the text says what."""


@dataclass(kw_only=True)
class Work:
    """What is left of the steps of one row, and the longest text that may be made on the way."""

    steps: int
    characters: int

    def take(self, characters: int = 0) -> None:
        """Count one step, and the characters it touches."""
        if characters > self.characters:
            raise TooMuchWork(f"the template makes a text of over {self.characters:,} characters")
        self.steps -= 1 + characters // UNIT
        if self.steps < 0:
            raise TooMuchWork("the template takes more steps than any chat needs")


_WORK: ContextVar[Work] = ContextVar("work")


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    special: Mapping[str, str],
    work: Work,
    *,
    generation: bool,
) -> str:
    """The chat as text.

    Args:
        template: Jinja text.
        messages: of plain JSON values.
        tools: JSON schemas.
        special: names of special tokens and their texts.
        work: what the template may still do; it is counted down.
        generation: append the header of the next assistant turn.

    Raises:
        Exception: of any kind that a template or Jinja can raise.
    """
    if not messages:
        raise ValueError("a chat without messages cannot be rendered")
    if any(not isinstance(tool, dict) for tool in tools or ()):
        raise TypeError("tools are JSON schemas")
    with _counting(work):
        pieces = _compiled(template).generate(
            messages=[_plain(m) for m in messages],
            tools=tools,
            documents=None,
            add_generation_prompt=generation,
            date_string=DATE.strftime("%d %b %Y"),
            **special,
        )
        kept, length = [], 0
        for piece in pieces:
            length += len(piece)
            if length > work.characters:
                raise TooMuchWork(f"the template writes over {work.characters:,} characters")
            kept.append(piece)
    return "".join(kept)


@contextmanager
def _counting(work: Work) -> Iterator[None]:
    token = _WORK.set(work)
    try:
        yield
    finally:
        _WORK.reset(token)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null, and with the model's thoughts under every name that templates read."""
    shown = {k: v for k, v in message.items() if v is not None}
    thought = next((shown[k] for k in _REASONING if k in shown), None)
    if thought is not None:
        shown = {"thinking": thought, **shown, "reasoning_content": thought}
    return shown


@lru_cache(maxsize=64)
def _compiled(template: str) -> Any:  # noqa: ANN401  (jinja2.Template)
    if len(template) > LONGEST_TEMPLATE:
        raise TooMuchWork(f"the template has {len(template):,} characters")
    environment = _environment()
    return environment.from_string(_Counting().visit(environment.parse(template)))


@lru_cache(maxsize=1)
def _environment() -> "_Bounded":
    environment = _Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # or constants would be folded uncounted
        extensions=[_Generation, loopcontrols],
    )
    filters: dict[str, Any] = {**environment.filters, "tojson": _tojson}
    environment.filters = {
        name: _measured(name, function)
        for name, function in filters.items()
        if name not in _LEFT_OUT
    } | {"counted": _counted, "glanced": _glanced, "joined": _joined, "step": _step}
    tests: dict[str, Any] = {**environment.tests}
    environment.tests = {name: _measured(name, test) for name, test in tests.items()}
    del environment.globals["lipsum"]
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": DATE.strftime,
        "dict": _new_dict,
        "namespace": _PlainNamespace,
    }
    return environment


class _Bounded(ImmutableSandboxedEnvironment):
    """The sandbox of Jinja, whose operators and calls are counted."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        work = _WORK.get()
        size = _weight(left, work.characters) + _weight(right, work.characters)
        if operator == "*" and not isinstance(left, (int, float)):
            size = _weight(left, work.characters) * max(0, right)
        elif operator == "*" and not isinstance(right, (int, float)):
            size = _weight(right, work.characters) * max(0, left)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            if (bits * right if operator == "**" else bits + right.bit_length()) > _LARGEST_BITS:
                raise TooMuchWork("the template computes a number that is too large")
        work.take(size)
        return self.binop_table[operator](left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        work = _WORK.get()
        if isinstance(obj, Macro):
            work.take()
        else:
            args = _checked_call(obj, args, kwargs, work)
        return _taken(super().call(context, obj, *args, **kwargs), work)


def _checked_call(
    obj: Any,  # noqa: ANN401
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    work: Work,
) -> tuple[Any, ...]:
    """Count a call of anything but a macro; the arguments, with what was lazy in them made."""
    method = inspect.unwrap(obj) if isinstance(obj, FunctionType) else obj
    if isinstance(method, BuiltinMethodType):
        owner, name = method.__self__, method.__name__
        if isinstance(owner, str):
            if name in {"encode", "translate"}:
                raise SecurityError(f"the template calls {name}, which no chat needs")
            if name == "join":  # of text and parts, where the filter is of parts and text
                args = (list(*args),)
                work.take(_foreseen(name, [args[0], owner], kwargs, work.characters))
            elif name in _OUTGROWING:
                work.take(_foreseen(name, [owner, *args], kwargs, work.characters))
        elif name in {"count", "index"}:
            work.take(_weight(owner, work.characters))
    if args:
        work.take(_weight(args, work.characters))
    if kwargs:
        work.take(_weight(kwargs, work.characters))
    return args


class _Counting(NodeTransformer):
    """Puts the counting into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        price = self._price(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(price, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(price, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        price = self._price(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(price, lineno=node.lineno))
        return node

    visit_CallBlock = visit_Block = visit_Macro

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            _filter("counted", nodes.Const(n.data) if isinstance(n, nodes.TemplateData) else n)
            for n in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("joined", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter("counted", node.expr)
        for operand in node.ops:
            operand.expr = _filter("counted", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filter("glanced", node.node)
        elif not isinstance(node.arg, nodes.Const):  # it is hashed, which reads all of it
            node.arg = _filter("counted", node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filter("counted", node.key)
        return node

    def _price(self, node: nodes.Node) -> nodes.Filter:
        """Steps for running a body once, by its size; true, so that a condition may hold it."""
        parts = sum(1 for _ in node.find_all(nodes.Node))
        return _filter("step", nodes.Const(1 + parts // UNIT))


def _filter(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno or 1)


@pass_context  # so that nothing is computed when the template is compiled
def _step(context: Context, price: int) -> int:
    _WORK.get().take(price * UNIT - UNIT)
    return price


@pass_context
def _counted(context: Context, value: Any) -> Any:  # noqa: ANN401
    """A value that is read to its end."""
    work = _WORK.get()
    work.take(len(value) if isinstance(value, str) else _weight(value, work.characters))
    return value


@pass_context
def _glanced(context: Context, value: Any) -> Any:  # noqa: ANN401
    return _taken(value, _WORK.get())


@pass_context
def _joined(context: Context, values: list[Any]) -> str:
    """The operator `~`."""
    work = _WORK.get()
    work.take(_weight(values, work.characters))
    return "".join(map(str, values))


def _taken(value: Any, work: Work) -> Any:  # noqa: ANN401
    """A value whose parts are handed on and not read."""
    work.take(_surface(value))
    return value


def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or a test of Jinja that counts what it is given and what it makes."""

    @wraps(function)  # also the mark that says what of its own Jinja passes before the value
    def measured(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        work = _WORK.get()
        own = 1 if isinstance(args[0], (Context, nodes.EvalContext, Environment)) else 0
        given = list(args[own:])
        if name == "join" and not isinstance(given[0], (str, Mapping)):
            given[0] = list(given[0])  # what is lazy is made first, so that it can be measured
        if name in _OUTGROWING:
            work.take(_foreseen(name, given, kwargs, work.characters))
        if name in _ONLY_LOOK:
            work.take(_surface(given[0]))
        else:
            work.take(_weight([given, kwargs], work.characters))
        return _taken(function(*args[:own], *given, **kwargs), work)

    return measured


def _foreseen(name: str, given: Sequence[Any], kwargs: Mapping[str, Any], most: int) -> int:
    """Characters that a filter or a method of texts is about to make, where they may be many.

    Args:
        name: of the filter or method.
        given: the value, and the other arguments.
        kwargs: arguments by name.
        most: where counting ends.
    """
    value, others = given[0], [*given[1:], *kwargs.values()]
    widths = [a for a in others if isinstance(a, int)]
    if name in _WIDTHS and max(widths, default=0) > _WIDEST:
        raise TooMuchWork(f"the template asks {name} for a width of over {_WIDEST}")
    if name in {"format", "format_map"}:
        _check_format(str(value))
    if name == "replace":
        text, old, new = (str(a) for a in [value, *others][:3])
        return len(text) + text.count(old) * len(new)
    if name == "join":
        return _weight(value, most) + len(value) * sum(len(str(a)) for a in others)
    if name == "indent":
        inserted = max([4, *widths, *(len(a) for a in others if isinstance(a, str))])
        return (str(value).count("\n") + 1) * inserted
    if name == "expandtabs":
        return str(value).count("\t") * max(8, *widths, 0)
    return 0


def _check_format(text: str) -> None:
    if _WIDE_FORMAT.search(text):
        raise TooMuchWork("the template formats to a width that is too large")


def _surface(value: Any) -> int:  # noqa: ANN401
    """Characters of a text, or of as many references as a collection holds."""
    if isinstance(value, str):
        return len(value)
    return 8 * len(value) if isinstance(value, (list, tuple, dict)) else 8


def _weight(value: Any, most: int) -> int:  # noqa: ANN401
    """Characters of a value as text, about; counting ends beyond `most`."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, range):
        return 8 * len(value)
    if isinstance(value, dict):
        inner: Iterable[Any] = [x for pair in value.items() for x in pair]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = value
    else:
        return 8
    total = 8
    for item in inner:
        total += 8 + _weight(item, most - total)
        if total > most:
            break
    return total


class _PlainNamespace(Namespace):
    """Jinja's namespace, without names that lead into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401  (a template may set `self`)
        given = dict(*args[1:], **kwargs)
        for name in given:
            _check_name(name)
        Namespace.__init__(args[0], given)

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"the template names {name!r}, which leads into Python")


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks what assistants say; here it is read over."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
    """`dict`, without the methods of the class."""
    return dict(*args, **kwargs)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any,  # noqa: ANN401
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, without the escapes of HTML."""
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys, indent=indent
    )
    if indent is None:
        return encoder.encode(value)
    pieces = []
    for piece in encoder.iterencode(value):
        _WORK.get().take(len(piece))  # as it grows: indents add up with the depth
        pieces.append(piece)
    return "".join(pieces)
