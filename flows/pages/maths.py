"""Maths: the LaTeX that rows hold, as MathML elements, which browsers draw by themselves.

What is not known here (macros, packages, drawings) is shown as it is written.
"""

import re

from gristmill.flows.pages.visible import Node, visible

LONGEST = 2_000
_DEPTH = 25
_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\d+(?:[.,]\d+)*|\s+|.", re.DOTALL)


def _words(text: str) -> list[str]:
    return text.split()


def _paired(text: str) -> dict[str, str]:
    """Names with their signs, in turn."""
    words = _words(text)
    return dict(zip(words[::2], words[1::2], strict=True))


_GREEK = _paired("""
    alpha α   beta β   gamma γ   delta δ   epsilon ϵ   varepsilon ε   zeta ζ   eta η   theta θ
    vartheta ϑ   iota ι   kappa κ   lambda λ   mu μ   nu ν   xi ξ   pi π   rho ρ   sigma σ
    tau τ   upsilon υ   phi ϕ   varphi φ   chi χ   psi ψ   omega ω   Gamma Γ   Delta Δ   Theta
    Θ   Lambda Λ   Xi Ξ   Pi Π   Sigma Σ   Phi Φ   Psi Ψ   Omega Ω   infty ∞   partial ∂
    nabla ∇   ell ℓ   emptyset ∅   hbar ℏ   Re ℜ   Im ℑ   degree °
""")
_SIGNS = _paired("""
    times ×   cdot ⋅   div ÷   pm ±   mp ∓   le ≤   leq ≤   ge ≥   geq ≥   ne ≠   neq ≠
    approx ≈   equiv ≡   sim ∼   propto ∝   in ∈   notin ∉   subset ⊂   subseteq ⊆   cup ∪
    cap ∩   setminus ∖   forall ∀   exists ∃   neg ¬   land ∧   lor ∨   to →   rightarrow →
    leftarrow ←   Rightarrow ⇒   Leftrightarrow ⇔   implies ⇒   iff ⇔   mapsto ↦   ldots …
    dots …   cdots ⋯   vdots ⋮   langle ⟨   rangle ⟩   lfloor ⌊   rfloor ⌋   lceil ⌈   rceil ⌉
    mid ∣   parallel ∥   perp ⟂   angle ∠   circ ∘   star ⋆   ast ∗   oplus ⊕   otimes ⊗   int
    ∫   oint ∮   sum ∑   prod ∏   colon :   therefore ∴   because ∵   ll ≪   gg ≫   cong ≅
    prime ′
""")
_FUNCTIONS = frozenset(
    _words(
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lim max min sup "
        "inf det gcd lcm deg dim ker Pr arg mod"
    )
)
_ACCENTS = {
    "hat": "^", "bar": "¯", "overline": "¯", "vec": "→", "dot": "˙", "ddot": "¨", "tilde": "~",
    "widehat": "^", "widetilde": "~",
}  # fmt: skip
_WORDS = frozenset(
    _words(
        "text textbf textit textrm mathrm mathbf mathit mathsf mathtt mathbb mathcal operatorname "
        "mbox"
    )
)
_SPACES = {
    r"\,": "\u2009",
    r"\quad": "\u2003",
    r"\qquad": "\u2003\u2003",
    r"\;": "\u2005",
    r"\:": "\u2005",
    r"\!": "",
    r"\ ": " ",
    "~": " ",
}
_ABOVE = {"sum", "prod", "lim", "max", "min", "sup", "inf"}  # their limits stand above and below
_TABLES = {"matrix": "", "pmatrix": "()", "bmatrix": "[]", "vmatrix": "||", "cases": "{",
           "aligned": "", "align": "", "align*": "", "array": "", "gathered": ""}  # fmt: skip
_SKIPPED = frozenset(
    _words("left right big Big bigl bigr Bigl Bigr displaystyle textstyle limits nolimits")
)


class _Unknown(Exception):
    """Something that is not read here."""


def maths(written: str, *, display: bool = False) -> Node:
    """A formula as a MathML node; as its text where it cannot be read."""
    try:
        if len(written) > LONGEST:
            raise _Unknown
        row = _Reader(written).row("")
    except _Unknown:
        return ["code", "maths", visible(written)]
    return ["math", "block" if display else "", [["mrow", "", row]]]


class _Reader:
    """One formula, token by token."""

    def __init__(self, written: str) -> None:
        self._tokens = _TOKEN.findall(written)
        self._at = 0
        self._depth = 0

    def _next(self) -> str:
        """The next token that is no space; "" at the end."""
        while self._at < len(self._tokens):
            self._at += 1
            if not self._tokens[self._at - 1].isspace():
                return str(self._tokens[self._at - 1])
        return ""

    def _take(self, wanted: str) -> bool:
        """Take the next token if it is this one."""
        before = self._at
        if self._next() == wanted:
            return True
        self._at = before
        return False

    def row(self, *ends: str) -> list[Node]:
        """Nodes up to one of the tokens that end them, which is taken."""
        self._depth += 1
        if self._depth > _DEPTH:
            raise _Unknown
        found: list[Node] = []
        while (token := self._next()) not in ends:
            found.append(self._scripted(token))
        self._depth -= 1
        return found

    def _scripted(self, token: str) -> Node:
        base = self._one(token)
        below = above = None
        while True:
            if below is None and self._take("_"):
                below = self._argument()
            elif above is None and self._take("^"):
                above = self._argument()
            elif above is None and self._take("'"):
                above = ["mo", "", ["′"]]
            else:
                break
        limits = token.removeprefix("\\") in _ABOVE
        under, over, both = (
            ("munder", "mover", "munderover") if limits else ("msub", "msup", "msubsup")
        )
        if below is not None and above is not None:
            return [both, "", [base, below, above]]
        if below is not None:
            return [under, "", [base, below]]
        return base if above is None else [over, "", [base, above]]

    def _argument(self) -> Node:
        token = self._next()
        return ["mrow", "", self.row("}")] if token == "{" else self._one(token)

    def _one(self, token: str) -> Node:
        if token in ("", "^", "_", "}", "&", "\\\\"):
            raise _Unknown
        if token == "{":
            return ["mrow", "", self.row("}")]
        if token in _SPACES:
            return ["mtext", "", [_SPACES[token]]]
        if token.startswith("\\"):
            return self._command(token[1:])
        if token[0].isdigit():
            return ["mn", "", [token]]
        return ["mi" if token.isalpha() else "mo", "", visible(token)]

    def _command(self, name: str) -> Node:
        if not name[0].isalpha():  # an escaped sign
            return ["mo", "", visible(name)]
        if name in _GREEK:
            return ["mi", "", [_GREEK[name]]]
        if name in _SIGNS:
            return ["mo", "", [_SIGNS[name]]]
        if name in _FUNCTIONS:
            return ["mi", "", [name]]
        if name in _SKIPPED:
            token = self._next()
            if name in ("left", "right") and token == ".":
                return ["mrow", "", []]
            return self._one(token)
        if name in _WORDS:
            return ["mtext", "", self._words()]
        if name in _ACCENTS:
            return ["mover", "", [self._argument(), ["mo", "", [_ACCENTS[name]]]]]
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return ["mfrac", "", [self._argument(), self._argument()]]
        if name in ("binom", "dbinom"):
            inner: list[Node] = [self._argument(), self._argument()]
            return ["mrow", "", [["mo", "", ["("]], ["mfrac", "bare", inner], ["mo", "", [")"]]]]
        if name == "sqrt":
            index = self.row("]") if self._take("[") else None
            if index is None:
                return ["msqrt", "", [self._argument()]]
            return ["mroot", "", [self._argument(), ["mrow", "", index]]]
        if name == "boxed":
            return ["mrow", "boxed", [self._argument()]]
        if name == "begin":
            return self._table()
        raise _Unknown

    def _words(self) -> list[Node]:
        """What stands in braces, as words."""
        if not self._take("{"):
            raise _Unknown
        first, level = self._at, 1
        while level and self._at < len(self._tokens):
            level += {"{": 1, "}": -1}.get(self._tokens[self._at], 0)
            self._at += 1
        if level:
            raise _Unknown
        return visible("".join(self._tokens[first : self._at - 1]))

    def _table(self) -> Node:
        name = "".join(str(piece) for piece in self._words())
        if name not in _TABLES:
            raise _Unknown
        if name == "array":
            self._words()  # how its columns stand
        rows: list[Node] = []
        cells: list[Node] = []
        while True:
            found, end = self._cell()
            cells.append(["mtd", "", found])
            if end != "&":
                rows.append(["mtr", "", cells])
                cells = []
            if end == "\\end":
                break
        if "".join(str(piece) for piece in self._words()) != name:
            raise _Unknown
        table: Node = ["mtable", "", rows]
        fences = _TABLES[name]
        sides: list[Node] = [["mo", "", [sign]] for sign in fences]
        return ["mrow", "", [*sides[:1], table, *sides[1:]]]

    def _cell(self) -> tuple[list[Node], str]:
        ends = ("&", "\\\\", "\\end")
        found = self.row(*ends)
        return found, self._tokens[self._at - 1]
