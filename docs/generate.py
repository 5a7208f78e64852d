"""Write every generated part of the documentation again (`python docs/generate.py`).

A page is generated whole, or between the marks `<!-- generated: NAME -->` and `<!-- /generated -->`
of a page that somebody wrote. `tests/test_readme.py` asserts that all of it is fresh.
"""

import ast
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import api_page
import cli_page
import figure
import methods_page
import scale_page

ROOT = Path(__file__).parents[1]
CODE = ("pipeline", "selectors", "synthesis", "flows", "benchmarks", "docs", "tests")
WHOLE: dict[str, Callable[[], str]] = {
    "docs/api.md": api_page.page,
    "docs/cli.md": cli_page.page,
    "docs/methods.md": methods_page.page,
    "docs/scale.md": lambda: scale_page.page(ROOT / "benchmarks" / "README.md"),
    "docs/tree.md": lambda: tree(),
    "docs/fidelity.svg": lambda: figure.fidelity(ROOT / "benchmarks" / "README.md"),
}
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"folders": lambda: folders(), "count": lambda: methods_page.count()},
    "docs/choosing.md": {"table": methods_page.table},
    "docs/extending.md": {"density": lambda: methods_page.excerpt("density")},
    "docs/reliability.md": {"faults": lambda: faults()},
}
NOT_PACKAGES = {
    "benchmarks": "Scripts that print every figure of `benchmarks/README.md`",
    "data": "The demo's data with its licences; runs keep their work in `data/work`",
    "docs": "These pages, and `docs/generate.py`, which writes the generated parts",
    "tests": "The test suite; `tests/gpu/` needs an accelerator",
}
_INDEX = """\
# Gristmill

Decide what to train on, and be able to prove that it paid. Gristmill turns raw records into curated
datasets for LLM post-training: it reads, cleans, scores, selects and publishes them.

![Fidelity of influence scores](fidelity.svg)

"""
_TREE = """\
# Every file

Each file with the first line of its docstring.

"""


def fresh() -> dict[str, str]:
    """Path -> text of every page that holds something generated, as it should be."""
    pages = {}
    for path, parts in PARTS.items():
        pages[path] = (ROOT / path).read_text("utf-8")
        for name, make in parts.items():
            marks = re.compile(
                rf"(<!-- generated: {name} -->\n).*?(<!-- /generated -->)", re.DOTALL
            )
            assert marks.search(pages[path]), f"{path} has no part {name}"
            part = make()
            pages[path] = marks.sub(
                lambda found, part=part: found[1] + part + found[2], pages[path]
            )
    pages |= {path: make() for path, make in WHOLE.items()}
    return pages | {"docs/index.md": index(pages)}


def said(path: Path) -> str:
    """The first sentence or line of a module's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(doc.split("\n\n")[0].split()).rstrip(".")


def folders() -> str:
    """The folder map: each room with what it holds, the families of methods in one line."""
    lines = {f"{name}/": what for name, what in NOT_PACKAGES.items()}
    for top in ("pipeline", "synthesis", "flows"):
        for path in sorted((ROOT / top).rglob("__init__.py")):
            room = path.parent.relative_to(ROOT)
            if len(room.parts) <= 2:
                lines[f"{room}/"] = said(path)
    families = sorted(p.parent.name for p in (ROOT / "selectors").glob("*/__init__.py"))
    lines["selectors/"] = f"One method, one file; one folder a family: {', '.join(families)}"
    order = {name: number for number, name in enumerate((*CODE, "data"))}
    rooms = sorted(lines, key=lambda room: (order[room.split("/")[0]], room))
    return fenced("\n".join(f"{room:<22}{lines[room]}" for room in rooms))


def tree() -> str:
    """One line a file, folder by folder."""
    lines = []
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py"), key=lambda p: (p.parent, p.name)):
            if path.name == "__init__.py" and not path.read_text("utf-8"):
                continue
            relative = path.relative_to(ROOT)
            name = f"{relative.parent}/" if path.name == "__init__.py" else str(relative)
            lines.append(f"{name:<44} {said(path)}".rstrip())
    return _TREE + fenced("\n".join(lines))


def faults() -> str:
    """What became of every injected fault, as `make faults` counted them."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import fault_table

    return fault_table.markdown(json.loads((ROOT / "docs" / "faults.json").read_text("utf-8")))


def index(made: Mapping[str, str]) -> str:
    """The contents: each page of the site by its title, in the order of mkdocs.yml."""
    pages = re.findall(r"^  - (\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    lines = []
    for page in pages:
        if page != "index.md":
            path = f"docs/{page}"
            text = made[path] if path in made else (ROOT / path).read_text("utf-8")
            title, lead = text.removeprefix("# ").split("\n\n")[:2]
            first = re.split(r"(?<=[.:])\s", " ".join(lead.split()))[0].rstrip(".:")
            lines.append(f"- [{title}]({page}): {first}.")
    return _INDEX + "\n".join(lines) + "\n"


def fenced(text: str) -> str:
    """A block that Markdown leaves alone."""
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    for name, text in fresh().items():
        (ROOT / name).write_text(text, "utf-8")
