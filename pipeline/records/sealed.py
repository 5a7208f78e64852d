"""JSON text that carries a checksum of itself: what is read back is what was written, or nothing.

    {
     "checksum": "<sha256 of the text without this line>",
     "files": [...]

The checksum covers every byte, so that an empty, cut, flipped or edited file is told from a whole
one without knowing what it should say.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HEAD = re.compile(rb'\{\n "checksum": "([0-9a-f]{64})"(,?)')


def seal(value: Mapping[str, Any]) -> str:
    """The JSON text of `value`, checksum first."""
    assert "checksum" not in value, "the checksum is the seal's own"
    body = json.dumps(dict(value), indent=1, sort_keys=True) + "\n"
    comma = "," if value else ""
    return f'{{\n "checksum": "{_sha256(body.encode())}"{comma}{body[1:]}'


def unseal(raw: bytes) -> dict[str, Any] | None:
    """What `seal` was given; None if a single byte differs."""
    head = _HEAD.match(raw)
    if head is None or _sha256(b"{" + raw[head.end() :]) != head[1].decode():
        return None
    try:
        value: dict[str, Any] = json.loads(raw)
    except ValueError:  # the comma, which the checksum leaves out
        return None
    del value["checksum"]
    return value


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The value in a sealed file; None if it is missing, damaged, or no file at all."""
    try:
        return unseal(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
