"""Place: what the settings call a store, and the local folder that this machine has of it.

    data/work              a folder: the store itself
    s3://bucket/prefix     object storage: the store, of which a folder here holds what was used

The local folder is `<cache>/<bucket>-<prefix>-<hash>`. `GRISTMILL_CACHE` names the cache; else it
is `gristmill/stores` in the user's own (`XDG_CACHE_HOME`, or `~/.cache`).
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

CACHE = "GRISTMILL_CACHE"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # the first that is set holds
_EXPECTED = "expected a folder, or s3://bucket/prefix"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a store lies in object storage.

    Attributes:
        bucket: its name.
        prefix: what the names of its objects begin with, without slashes at the ends; "": nothing.
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def address_of(store: str | Path) -> Address | None:
    """Where a store lies in object storage; None: it is a folder.

    Raises:
        ValueError: it is neither.
    """
    text = str(store)
    scheme, there, rest = text.partition("://")
    if not there:
        if text.startswith("s3:"):  # a path has lost a slash, or somebody has
            raise ValueError(f"{text!r} is not a valid store: {_EXPECTED}.")
        return None
    bucket, _, prefix = rest.partition("/")
    parts = prefix.strip("/").split("/") if prefix.strip("/") else []
    named = _BUCKET.fullmatch(bucket) and all(p not in ("", ".", "..") for p in parts)
    if scheme != "s3" or not named:
        shown = text if "@" not in text else f"{scheme}://..."  # no passwords in messages
        raise ValueError(f"{shown!r} is not a valid store: {_EXPECTED}.")
    return Address(bucket=bucket, prefix="/".join(parts))


def endpoint() -> str:
    """The server that is asked; "": Amazon's own."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


def folder_of(store: str | Path) -> Path:
    """The folder of a store on this machine, which need not be there."""
    address = address_of(store)
    if address is None:
        return Path(store)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get(CACHE) or Path(home, "gristmill", "stores"))
    shown = re.sub(r"[^\w.-]+", "-", f"{address.bucket}-{address.prefix}").strip("-")[:80]
    named = hashlib.sha256(f"{address}\n{endpoint()}".encode()).hexdigest()
    return cache / f"{shown}-{named[:12]}"
