"""Nodes: a row's text as elements of a page, given as data and never as HTML.

A node is a text, or `[element, class, children]`; the page makes each element by its name
(`base.js` knows which there may be) and each text as text. Markdown is read by markdown-it with
HTML off, so tags of a row stay text. Links and images lead nowhere: their address stands beside
them.
"""

from collections.abc import Iterable, Iterator
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

from gristmill.flows.pages.maths import maths
from gristmill.flows.pages.visible import Node, visible

LONGEST = 20_000  # characters that are read as Markdown; a longer text is shown as it stands
_DEPTH = 30  # elements within one another; a deeper text is shown as it stands
_ELEMENTS = {
    **{name: name for name in ("blockquote", "em", "strong", "s")},
    **{name: name for name in ("table", "thead", "tbody", "tr", "th", "td")},
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "paragraph": "p",
}
_FENCES = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))  # of mathematics


def text(written: str) -> list[Node]:
    """A text as it stands, line by line, with marks for what cannot be seen."""
    return [["div", "as-is", visible(written)]] if written else []


def markdown(written: str) -> list[Node]:
    """A text as Markdown; one that is too long or too deep, as it stands."""
    if len(written) > LONGEST:
        return text(written)
    tokens = _reader().parse(written)
    if _deepest(tokens) > _DEPTH:
        return text(written)
    return list(_all(SyntaxTreeNode(tokens).children))


@cache
def _reader() -> MarkdownIt:
    reader = MarkdownIt(
        "commonmark", {"html": False, "maxNesting": 2 * _DEPTH}
    )  # past it, words go
    reader.enable(["table", "strikethrough"])
    reader.disable(["entity", "reference"])  # they would show other words than the row has
    reader.inline.ruler.before("escape", "maths", _maths)
    reader.inline.ruler.before("emphasis", "times", _times)
    return reader


def _deepest(tokens: Iterable[Token]) -> int:
    """How many elements lie within one another; emphasis may be nested without end."""
    level = most = 0
    for token in tokens:
        level += token.nesting
        most = max(most, level + (_deepest(token.children) if token.children else 0))
    return most


def _maths(state: StateInline, silent: bool) -> bool:
    """Formulas between dollars or TeX's own brackets; their underscores are no emphasis."""
    for begin, end in _FENCES:
        if not state.src.startswith(begin, state.pos):
            continue
        first = state.pos + len(begin)
        last = state.src.find(end, first)
        inner = state.src[first:last]
        if last < 0 or not inner.strip():
            return False
        if begin == "$" and not _one_dollar(state.src, state.pos, last):
            return False
        if not silent:
            token = state.push("maths", "", 0)
            token.content, token.markup = inner, begin
        state.pos = last + len(end)
        return True
    return False


def _times(state: StateInline, silent: bool) -> bool:
    """A lone asterisk within a word or a product, `3*5`, is one: rows hold more sums than slang."""
    before, sign, after = (state.src[i : i + 1] for i in range(state.pos - 1, state.pos + 2))
    if state.pos == 0 or sign != "*" or not (before.isalnum() and after.isalnum()):
        return False
    if not silent:
        state.pending += sign
    state.pos += 1
    return True


def _one_dollar(said: str, begin: int, end: int) -> bool:
    """Whether two dollars stand around a formula, and not before two sums of money."""
    inner = said[begin + 1 : end]
    before, after = said[max(begin - 1, 0) : begin], said[end + 1 : end + 2]
    apart = not (before.isalnum() or (before and before in "=*+/"))
    ends = after.isspace() or after in ".,;:!?)]}-'\""  # or nothing comes after
    return inner == inner.strip() and "\n" not in inner and apart and ends


def _all(nodes: Iterable[SyntaxTreeNode]) -> Iterator[Node]:
    for node in nodes:
        yield from _of(node)


def _of(node: SyntaxTreeNode) -> Iterator[Node]:
    inner = _all(node.children)
    match node.type:
        case "text":
            yield from visible(node.content)
        case "inline":
            yield from inner
        case "softbreak":
            yield "\n"
        case "hardbreak":
            yield ["br", "", []]
        case "hr":
            yield ["hr", "", []]
        case "code_inline":
            yield ["code", "", visible(node.content)]
        case "fence" | "code_block":
            named: list[Node] = [["span", "language", visible(node.info)]] if node.info else []
            yield ["pre", "", [*named, ["code", "", visible(node.content)]]]
        case "maths":
            yield maths(node.content, display=node.markup in ("$$", r"\["))
        case "heading":
            yield ["p", f"heading {node.tag}", list(inner)]
        case "link":
            yield ["span", "link", [*inner, _address(node.attrs["href"])]]
        case "image":
            words: list[Node] = ["image: ", *visible(node.content)]
            yield ["span", "link", [*words, _address(node.attrs["src"])]]
        case kind:
            yield [_ELEMENTS.get(kind, "span"), "", list(inner)]


def _address(told: object) -> Node:
    return ["code", "address", visible(str(told))]
