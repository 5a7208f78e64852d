"""The address of an endpoint and the name of its key: neither may hold a secret, both are kept."""

import re
from urllib.parse import urlsplit

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


def check_address(url: str) -> None:
    """Refuse an endpoint's URL with a secret in it, which would be kept, or that leads nowhere."""
    if "@" in url or "?" in url:
        raise ValueError(
            "the endpoint URL holds a user, key or query: put the key into an environment "
            "variable and name it as key_variable."
        )
    try:
        read = urlsplit(url)
        good = read.scheme in ("http", "https") and bool(read.hostname) and read.port != 0
    except ValueError:  # brackets that hold no address, a port that is no number
        good = False
    if not good:
        raise ValueError(f"endpoint URL {url!r} is not an http(s) address with a host.")


def check_variable(name: str | None) -> None:
    """Refuse a key in the place of the variable that holds it; what was given is not repeated."""
    if name is not None and not _VARIABLE.fullmatch(name):
        raise ValueError(
            "key_variable is the name of an environment variable, in capital letters: put the key "
            "into one, and give its name."
        )
