"""The pages of the methods, made from the catalogue: a section each, and the table to choose by."""

import ast
import inspect
import re
from typing import Any

from gristmill.pipeline.contracts import Scorer
from gristmill.pipeline.records.settings import Setting, settings_rows
from gristmill.selectors import catalog

_HEAD = """\
# Methods

Every method of the catalogue, with what its own file says of it. Where to begin:
[choosing.md](choosing.md). A setting is given as `--set name=value` on the command line, or under
`settings:` of a scorer in a configuration; a dotted one as `--set warm_up.epochs=2`, or there as
`warm_up: {epochs: 2}`. Costs are in forward-equivalents (fe): 1 fe is one
forward pass of the model over the row.
"""
_HEADING = re.compile(r"^([A-Z][a-z]+(?: [a-z]+)?): +(.*)$")


def page() -> str:
    """One section a method, by family."""
    parts = [_HEAD]
    by_family: dict[str, list[dict[str, Any]]] = {}
    for row in catalog.describe():
        by_family.setdefault(row["family"], []).append(row)
    for family in sorted(by_family):
        parts.append(f"## Family {family}\n")
        parts += [section(row) for row in by_family[family]]
    return "\n".join(parts)


def section(row: dict[str, Any]) -> str:
    """A method: its docstring, what it needs, its settings."""
    cls = catalog.methods()[row["name"]]
    summary, *paragraphs = (inspect.getdoc(cls) or "").split("\n\n")
    lines = [f"### {row['name']}", "", escaped(" ".join(summary.split())), ""]
    for paragraph in paragraphs:
        lines += rendered(paragraph)
    lines.pop()  # one list, with the headings
    rule = f"`{cls.rule}`" + "".join(f", {k} = `{v!r}`" for k, v in cls.rule_settings.items())
    roles = ", ".join(f"`{r}`" for r in row["roles"]) or "none"
    lines += [
        f"- **Roles to bind:** {roles}",
        f"- **Rule unless another is named:** {rule}",
        f"- **Forward-equivalents:** {row['cost'] or '0 fe'}",
        f"- **For:** {catalog.have(row)} (scope `{row['scope']}`)",
        "",
    ]
    return "\n".join([*lines, *settings(cls), ""])


def rendered(paragraph: str) -> list[str]:
    """A paragraph of a docstring: a list of headings, prose, or a definition as it stands."""
    if paragraph.startswith("Also called:"):
        return [escaped(" ".join(paragraph.split())), ""]
    if not _HEADING.match(paragraph.split("\n")[0]):
        return ["```text", paragraph, "```", ""]
    items: list[str] = []
    for line in paragraph.split("\n"):
        found = _HEADING.match(line)
        if found:
            items.append(f"- **{found[1]}:** {escaped(found[2])}")
        else:
            items[-1] += f" {escaped(line.strip())}"
    return [*items, ""]


def settings(cls: type[Scorer]) -> list[str]:
    """The settings with default and what the file says of each."""
    found = settings_rows(cls, catalog.fields_of(cls))
    if not found:
        return ["No settings."]
    return ["| setting | default | |", "|---|---|---|", *(_row(s) for s in found)]


def _row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    cells = (f"`{setting.name}`", default, escaped(setting.told))
    return "| " + " | ".join(c.replace("\n", "\\n").replace("|", "\\|") for c in cells) + " |"


def escaped(text: str) -> str:
    """Prose in which Markdown sees nothing but code between backticks, and papers are links."""
    pieces = re.split(r"(`[^`]*`)", text)
    for at in range(0, len(pieces), 2):
        piece = re.sub(r"([*<\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", pieces[at])
        pieces[at] = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", piece)
    return "".join(pieces)


def table() -> str:
    """What I have -> which method, each with a link to its section."""
    text = re.sub(r"\| `(\w+)` \|", r"| [`\1`](methods.md#\1) |", catalog.markdown())
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[\1](https://arxiv.org/abs/\1)", text)


def count() -> str:
    """How many methods there are, as a sentence."""
    rows = catalog.describe()
    return f"{len(rows)} methods in {len({r['family'] for r in rows})} families.\n"


def excerpt(method: str) -> str:
    """What of a method's file every method has: fields, signals and score."""
    cls = catalog.methods()[method]
    lines = inspect.getsource(cls).splitlines()
    (node,) = ast.parse("\n".join(lines)).body
    assert isinstance(node, ast.ClassDef)
    summary = (inspect.getdoc(cls) or "").split("\n")[0]
    kept = [*lines[: node.lineno], f'    """{summary} ..."""', ""]
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    kept += lines[fields[0].lineno - 1 : fields[-1].end_lineno]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name in {"signals", "score"}:
            first = min([item.lineno, *[d.lineno for d in item.decorator_list]])
            kept += ["", *lines[first - 1 : item.end_lineno]]
    return "```py\n" + "\n".join(kept) + "\n```\n"
