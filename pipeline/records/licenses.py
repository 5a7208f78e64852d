"""Licences: what each source declares, its SPDX id where that is certain, and terms to mind.

Nothing is filled in: a source without a licence is "unknown", a name without a version stays the
words that were declared.
"""

import re
from collections.abc import Iterable

UNKNOWN = "unknown"

# SPDX id -> other spellings in use. A spelling counts only if it names exactly one licence.
_SPDX: dict[str, tuple[str, ...]] = {
    "AFL-3.0": ("academic free license 3.0",),
    "Apache-2.0": ("apache 2", "apache license 2.0", "apache software license 2.0", "apache2.0"),
    "BSD-2-Clause": ("simplified bsd", "2-clause bsd"),
    "BSD-3-Clause": ("new bsd", "3-clause bsd"),
    "CC0-1.0": ("cc0", "creative commons zero 1.0"),
    "CC-BY-2.0": (),
    "CC-BY-2.5": (),
    "CC-BY-3.0": ("creative commons attribution 3.0",),
    "CC-BY-4.0": (
        "creative commons attribution 4.0",
        "creative commons attribution 4.0 international",
    ),
    "CC-BY-NC-2.0": (),
    "CC-BY-NC-3.0": (),
    "CC-BY-NC-4.0": (),
    "CC-BY-NC-ND-3.0": (),
    "CC-BY-NC-ND-4.0": (),
    "CC-BY-NC-SA-3.0": (),
    "CC-BY-NC-SA-4.0": (),
    "CC-BY-ND-4.0": (),
    "CC-BY-SA-3.0": (),
    "CC-BY-SA-4.0": (),
    "CDLA-Permissive-1.0": (),
    "CDLA-Permissive-2.0": (),
    "CDLA-Sharing-1.0": (),
    "GPL-2.0-only": (),
    "GPL-2.0-or-later": (),
    "GPL-3.0-only": (),
    "GPL-3.0-or-later": (),
    "AGPL-3.0-only": (),
    "AGPL-3.0-or-later": (),
    "LGPL-3.0-only": (),
    "LGPL-3.0-or-later": (),
    "ISC": (),
    "MIT": ("expat",),
    "MPL-2.0": ("mozilla public license 2.0",),
    "ODC-By-1.0": ("open data commons attribution 1.0",),
    "ODbL-1.0": ("open database license 1.0",),
    "PDDL-1.0": (),
    "PSF-2.0": (),
    "Unlicense": ("the unlicense",),
    "Zlib": (),
}
_TERMS: tuple[tuple[str, str], ...] = (
    (r"(^|[-\s])nc([-\s]|$)|non-?commercial", "non-commercial"),
    (r"research", "research only"),
    (r"(^|[-\s])nd([-\s]|$)|no-?deriv", "no derivatives"),
    (r"(^|[-\s])sa([-\s]|$)|share-?alike|odbl|cdla-sharing|gpl", "share alike"),
    (r"cc[-\s]by|odc-by|attribution", "attribution"),
    (r"openai|gpt-?\d|chatgpt|claude|anthropic|gemini|gemma|llama|mistral", "model-output terms"),
)


def spdx(declared: str | None) -> str | None:
    """The SPDX id of a declared licence, or None where it is not certain.

    >>> spdx("Apache License, Version 2.0"), spdx("CC BY-SA 3.0"), spdx("Apache"), spdx(None)
    ('Apache-2.0', 'CC-BY-SA-3.0', None, None)
    """
    return None if declared is None else _LOOKUP.get(_plain(declared))


def terms(declared: str | None) -> list[str]:
    """Conditions of a licence that a user must know before training or publishing."""
    if not declared:
        return ["no licence declared: ask the owner before use"]
    return [term for pattern, term in _TERMS if re.search(pattern, declared.lower())]


def common(declared: Iterable[str | None]) -> str:
    """The card's `license`: the id all sources share, else "other"; "unknown" if none says."""
    found = set(declared)
    if found <= {None}:
        return UNKNOWN
    ids = {spdx(d) for d in found}
    only = ids.pop() if len(ids) == 1 else None
    return only.lower() if only else "other"  # the hub knows SPDX ids in lower case


def _plain(text: str) -> str:
    """Spelling without case, punctuation and filler words."""
    words = re.sub(r"[\s,_/()-]+", " ", text.lower()).split()
    filler = {"license", "licence", "version", "the", "v"}
    words = [re.sub(r"^v(?=\d)", "", w) for w in words if w not in filler]
    return " ".join(words)


_LOOKUP = {_plain(name): ident for ident, others in _SPDX.items() for name in (ident, *others)}
