"""A row's text as elements: Markdown is read, and nothing of it acts or hides."""

import time

import pytest

from gristmill.flows.pages.maths import maths
from gristmill.flows.pages.nodes import LONGEST, markdown, text
from gristmill.flows.pages.visible import plain, visible


def words(nodes):
    """What is read of nodes."""
    inner = (n if isinstance(n, str) else words(n[2]) + "\n" * (n[0] == "p") for n in nodes)
    return "".join(inner)


def elements(nodes):
    for node in nodes:
        if not isinstance(node, str):
            yield node[0]
            yield from elements(node[2])


@pytest.mark.parametrize(
    ("written", "first"),
    [
        ("**b**", ["p", "", [["strong", "", ["b"]]]]),
        ("# H", ["p", "heading h1", ["H"]]),
        ("`a<b`", ["p", "", [["code", "", ["a<b"]]]]),
        ("~~x~~", ["p", "", [["s", "", ["x"]]]]),
        ("1. a", ["ol", "", [["li", "", [["p", "", ["a"]]]]]]),
        ("```py\nx\n```", ["pre", "", [["span", "language", ["py"]], ["code", "", ["x\n"]]]]),
        ("[t](http://a.example)", ["p", "", [["span", "link", ["t", ["code", "address", ["http://a.example"]]]]]]),
        ("![t](x.png)", ["p", "", [["span", "link", ["image: ", "t", ["code", "address", ["x.png"]]]]]]),
        ("a_1 $x_1 y_1$", ["p", "", ["a_1 ", ["math", "", [["mrow", "", [
            ["msub", "", [["mi", "", ["x"]], ["mn", "", ["1"]]]],
            ["msub", "", [["mi", "", ["y"]], ["mn", "", ["1"]]]]]]]]]]),
        ("3*5=$<<3*5=15>>15. So 20-15=$<<5>>5", ["p", "", ["3*5=$<<3*5=15>>15. So 20-15=$<<5>>5"]]),
        ("*a* 3*5*x **b**", ["p", "", [["em", "", ["a"]], " 3*5*x ", ["strong", "", ["b"]]]]),
        ("$5-$10, $x$5", ["p", "", ["$5-$10, $x$5"]]),
        ("it is $5 or $6", ["p", "", ["it is $5 or $6"]]),
    ],
)  # fmt: skip
def test_markdown_is_read(written, first):
    assert markdown(written) == [first]


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "<svg onload=alert(1)></svg>",
    "&lt;b&gt; &amp;",
    "[a]: http://elsewhere.example\n\n[a]",
    "<!-- hidden -->",
]


@pytest.mark.parametrize("written", HOSTILE)
def test_what_a_row_says_is_all_there_and_no_element_of_its_own(written):
    nodes = markdown(written)
    assert words(nodes).split() == written.split()
    assert set(elements(nodes)) <= {"p", "span", "code"}


DEEP = ["*", "> ", "- ", "[", "**a ", "\\(", "*a **b ", "`", "![", "<a", "[a](b", "$\\frac{", "~~a"]


@pytest.mark.parametrize("piece", DEEP)
def test_deep_texts_stay_legible_and_take_no_time(piece):
    written = piece * (9_000 // len(piece))
    begin = time.process_time()
    assert "needle" in words(markdown(f"{written}needle"))
    assert time.process_time() - begin < 3  # a third of it on a busy machine


def test_a_long_text_stands_as_it_is():
    written = "**x** " * LONGEST
    assert markdown(written) == [["div", "as-is", [written]]]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[31mred", "‹ESC›[31mred"),
        ("a\u202eb", "a‹U+202E›b"),
        ("a\u200bb\ufeff", "a‹U+200B›b‹U+FEFF›"),
        ("\U000e0041", "‹U+E0041›"),
        ("a\r\nb\rc\td", "a\nb‹CR›c\td"),
        ("\ud800", "‹U+D800›"),
        ("‹ESC› é 👩‍🚀 می‌خواهم", "‹ESC› é 👩‍🚀 می‌خواهم"),
    ],
)
def test_what_cannot_be_seen_is_marked(written, shown):
    assert plain(written) == shown
    assert visible("‹ESC›") == ["‹ESC›"]  # words of a row are no mark
    assert words(text(written)) == shown.replace("‹", "").replace("›", "") or "‹ESC›" in written


@pytest.mark.parametrize(
    ("written", "element"),
    [
        (r"\frac{a}{b}", "mfrac"),
        (r"\sqrt[3]{x}", "mroot"),
        (r"\sum_{i=1}^n i", "munderover"),
        (r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}", "mtable"),
        (r"\text{if } x", "mtext"),
        (r"\left( x \right.", "mo"),
        ("x''", "msup"),
    ],
)
def test_formulas_are_read(written, element):
    assert element in list(elements([maths(written)]))


@pytest.mark.parametrize(
    "written",
    [
        r"\href{javascript:x}{y}",
        r"\frac{a}",
        "{" * 400,
        "a^",
        "x_1_2_3",
        r"\end{x}",
        "}",
        "x" * 5000,
    ],
)
def test_a_formula_that_is_not_read_stands_as_it_is_written(written):
    kind, name, inner = maths(written)
    assert (kind, name) == ("code", "maths")
    assert words(inner) == written
