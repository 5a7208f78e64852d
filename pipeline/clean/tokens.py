"""Access tokens whose published patterns take quadratic time, found in linear time.

The patterns of `detect-secrets` for these three begin anywhere in a run of characters that they
then read to its end, once for each beginning. Here each run is read once.
"""

import re
from collections.abc import Iterator

from detect_secrets.plugins.jwt import JwtTokenDetector

_SEGMENT = re.compile(r"[A-Za-z0-9_=-]+")
_RUN = re.compile(r"[A-Za-z0-9_-]+")
_OPENAI = re.compile(r"[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}")
_NPM = re.compile(r"/:_authToken=\s*(npm_.+|[A-Fa-f0-9-]{36})")


def jwt(text: str) -> Iterator[str]:
    """JSON web tokens: header.payload in base64, perhaps a signature."""
    if "eyJ" not in text:
        return
    before: re.Match[str] | None = None
    for segment in _SEGMENT.finditer(text):
        if before is not None and text[before.end() : segment.start()] == ".":
            at = before[0].find("eyJ")
            if 0 <= at < len(before[0]) - len("eyJ"):
                token = f"{before[0][at:]}.{segment[0]}"
                if _is_sound(token):
                    yield token
        before = segment


def _is_sound(token: str) -> bool:
    try:
        return JwtTokenDetector.is_formally_valid(token)
    except RecursionError:  # JSON that nests too deep to be a header
        return False


def openai(text: str) -> Iterator[str]:
    """Keys of OpenAI: sk-...T3BlbkFJ..."""
    if "T3BlbkFJ" not in text:
        return
    for run in _RUN.finditer(text):
        at = run[0].find("sk-")
        found = _OPENAI.search(run[0], at + len("sk-")) if at >= 0 else None
        if found is not None:
            yield run[0][at : found.end()]


def npm(text: str) -> Iterator[str]:
    """Tokens in a line of .npmrc: //registry/:_authToken=..."""
    if "_authToken" not in text:
        return
    for line in text.split("\n"):
        at = line.find("//")
        if at >= 0:
            yield from _NPM.findall(line, at + len("//") + 1)
