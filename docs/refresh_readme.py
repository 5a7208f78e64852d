"""Write the generated parts of README.md anew (`python docs/refresh_readme.py`)."""

import ast
import re
from pathlib import Path

from gristmill.selectors import catalog

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "selectors", "synthesis", "flows", "benchmarks", "docs", "tests")


def refreshed(text: str) -> str:
    """The README with its generated parts as they should be."""
    for name, part in {"methods": catalog.markdown(), "tree": tree()}.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        assert marks.search(text), f"README.md has no part {name}"
        text = marks.sub(lambda found, part=part: found[1] + part + found[2], text)
    return text


def tree() -> str:
    """One line a file: its path and the first line of its docstring."""
    lines = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py"), key=lambda p: (p.parent, p.name)):
            if path.name == "__init__.py" and path.parent.name == "gpu":
                continue
            doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            said = " ".join(doc.split("\n\n")[0].split()).rstrip(".")
            relative = path.relative_to(ROOT)
            name = f"{relative.parent}/" if path.name == "__init__.py" else str(relative)
            lines.append(f"{name:<44} {said}".rstrip())
    return "```\n" + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(refreshed(readme.read_text("utf-8")), "utf-8")
