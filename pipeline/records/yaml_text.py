"""YAML that somebody else may have written: read with a bound on its size and its nesting."""

from pathlib import Path
from typing import Any

import yaml

FILE = 16 << 20  # bytes of a file that opens with YAML, as a card does
BYTES = 1 << 20  # characters of YAML
DEPTH = 100
NODES = 100_000  # after aliases are written out: ten of ten of ten ... is a small file


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """The safe loader, which stops where the nesting is too deep: before its own recursion is."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401  (PyYAML's own)
        if self.depth == DEPTH:
            raise yaml.YAMLError(f"it nests more than {DEPTH} levels deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read(path: Path, errors: str = "strict") -> str:
    """The text of a YAML file, or of one that opens with YAML.

    Args:
        path: the file.
        errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        ValueError: one sentence: it is too large, not UTF-8, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if len(data) > FILE:
        raise ValueError(
            f"{path.name} is larger than {FILE >> 20} MiB: it is not a file of settings"
        )
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8: save it as UTF-8") from error


def parse(text: str) -> Any:  # noqa: ANN401  (YAML)
    """The value of a YAML text.

    Raises:
        ValueError: the text is no YAML, or nests too deep; what the parser says, on one line.
    """
    if len(text) > BYTES:
        raise ValueError(f"it has {len(text)} characters, and settings at most {BYTES}")
    try:
        value = yaml.load(text, _Loader)
        _count(value)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # PyYAML raises ValueError for 2026-99-99, and its scanner may recurse by itself
        raise ValueError(" ".join(str(error).split())[:300]) from error
    return value


def _count(value: object) -> None:
    """Refuse a value that aliases make larger than any file of settings, or endless."""
    left, rest = NODES, [value]
    while rest:
        node = rest.pop()
        children = node.values() if isinstance(node, dict) else node
        if isinstance(children, str) or not hasattr(children, "__iter__"):
            continue
        rest.extend(children)
        left -= 1
        if left < len(rest):
            raise ValueError("its aliases repeat too much")
