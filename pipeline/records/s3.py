"""S3: a store's objects on Amazon S3, or any server that speaks its protocol, through boto3.

Who one is comes from the environment or AWS's own files, as for AWS's command line, and goes no
further; `AWS_ENDPOINT_URL` names another server. boto3 and not fsspec: s3fs cannot put over what
was read and nothing else, which is how a lease is taken over.

boto3 is imported here alone, and only once a store of this kind is opened.
"""

import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from gristmill.pipeline.records.objects import Found
from gristmill.pipeline.records.place import Address, endpoint

INSTALL = "pip install 'gristmill[s3]'"
PAUSES = (1.0, 4.0, 15.0, 30.0)  # seconds between attempts, each of which boto3 makes three of
CONNECTIONS = 32
_MISSING = ("404", "NoSuchKey", "NotFound")
_PASSING = ("ConditionalRequestConflict", "RequestTimeout", "RequestTimeTooSkewed", "SlowDown")
_NEVER = 501  # the server does not know what it was asked

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


def there() -> bool:
    """Whether boto3 is installed."""
    return importlib.util.find_spec("boto3") is not None


def demand(address: Address) -> None:
    """Refuse where boto3 is not installed.

    Raises:
        ValueError: how to install it.
    """
    if not there():
        raise ValueError(
            f"the store is {address}, and boto3 is not installed: {INSTALL}; or name a folder."
        )


@dataclass(frozen=True, kw_only=True)
class S3:
    """The objects of a store on S3."""

    address: Address

    def get(self, name: str) -> Found | None:
        """A small object, with its age by the `Date` that the server sends."""

        def ask() -> Found:
            told = self._client.get_object(**self._named(name))
            raw = told["Body"].read()
            date = told["ResponseMetadata"]["HTTPHeaders"].get("date")
            now = parsedate_to_datetime(date).timestamp() if date else time.time()
            return Found(raw=raw, tag=told["ETag"], age=now - told["LastModified"].timestamp())

        return self._asked(ask, missing=None)

    def create(self, name: str, raw: bytes) -> str | None:
        """Put with `If-None-Match: *`."""
        return self._put(name, raw, IfNoneMatch="*")

    def replace(self, name: str, raw: bytes, tag: str) -> str | None:
        """Put with `If-Match`."""
        return self._put(name, raw, IfMatch=tag)

    def _put(self, name: str, raw: bytes, **condition: str) -> str | None:
        def ask() -> str:
            told = self._client.put_object(**self._named(name), Body=raw, **condition)
            return str(told["ETag"])

        return self._asked(ask, missing=None)

    def upload(self, name: str, path: Path) -> None:
        """Put a file, a large one in pieces."""

        def ask() -> None:
            with path.open("rb") as file:
                self._client.upload_fileobj(file, **self._named(name))

        self._asked(ask)

    def download(self, name: str, path: Path) -> bool:
        """Write a file, a large one from pieces."""

        def ask() -> bool:
            with path.open("wb") as file:
                self._client.download_fileobj(**self._named(name), Fileobj=file)
            return True

        return self._asked(ask, missing=False)

    def sizes(self, prefix: str) -> Mapping[str, int]:
        """List them, a thousand a request."""
        start = self._name(prefix)

        def ask() -> dict[str, int]:
            pages = self._client.get_paginator("list_objects_v2")
            found: dict[str, int] = {}
            for page in pages.paginate(Bucket=self.address.bucket, Prefix=start):
                for one in page.get("Contents", ()):
                    found[one["Key"].removeprefix(start)] = one["Size"]
            return found

        return self._asked(ask)

    def remove(self, name: str) -> None:
        """Remove it."""
        self._asked(lambda: self._client.delete_object(**self._named(name)), missing=None)

    @property
    def _client(self) -> Any:  # noqa: ANN401  (boto3 makes its class when it runs)
        return _client(os.getpid(), endpoint())

    def _name(self, name: str) -> str:
        return f"{self.address.prefix}/{name}".lstrip("/")

    def _named(self, name: str) -> dict[str, str]:
        return {"Bucket": self.address.bucket, "Key": self._name(name)}

    def _asked(self, ask: Callable[[], T], **otherwise: T) -> T:
        """The answer to a question; `missing`, where nothing is there, or something else is."""
        from botocore.exceptions import BotoCoreError, ClientError
        from s3transfer.exceptions import RetriesExceededError

        for attempt, pause in enumerate((*PAUSES, None), start=1):
            try:
                return ask()
            except (BotoCoreError, ClientError, RetriesExceededError) as error:
                code, status = _said(error)
                if "missing" in otherwise and (code in _MISSING or status == 412):
                    return otherwise["missing"]
                if not _passes(error, code, status):
                    raise ValueError(f"{self.address}: {_refusal(error, code)}") from error
                why = code or type(error).__name__
                if pause is None:
                    raise ConnectionError(
                        f"{self.address} did not answer {attempt} times ({why}): check the network "
                        "and AWS_ENDPOINT_URL, and run the same command again; it goes on where it "
                        "stopped."
                    ) from error
                _LOG.warning("%s did not answer (%s): again in %g s.", self.address, why, pause)
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


@functools.cache
def _client(process: int, server: str) -> Any:  # noqa: ANN401
    """One a process and server: what is open does not survive a fork."""
    import boto3
    from botocore.config import Config

    settings = Config(
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    return boto3.session.Session().client("s3", config=settings, endpoint_url=server or None)


def _said(error: Exception) -> tuple[str, int]:
    """Code and HTTP status of what a server said; "" and 0, where it said nothing."""
    told: Mapping[str, Any] = getattr(error, "response", None) or {}
    status = told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(told.get("Error", {}).get("Code", "")), int(status)


def _passes(error: Exception, code: str, status: int) -> bool:
    """Whether another attempt may fare better."""
    from botocore import exceptions

    if code or status:
        return code in _PASSING or status == 429 or (status >= 500 and status != _NEVER)
    if not isinstance(error, exceptions.BotoCoreError):
        return True  # a transfer that gave up
    lost = exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError
    return isinstance(error, lost)


def _refusal(error: Exception, code: str) -> str:
    """What to do about a server's refusal, or boto3's own."""
    from botocore import exceptions

    lacking = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)
    if isinstance(error, lacking):
        return (
            "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE, as for AWS's command line."
        )
    if code == "NoSuchBucket":
        return "there is no such bucket: create it, or name another."
    if _said(error)[1] in (401, 403):
        return (
            f"the server refuses these credentials ({code}): expected the rights to list the "
            "bucket, and to get, put and delete objects in it."
        )
    if _said(error)[1] == _NEVER:
        return "the server has no conditional puts, by which runs keep apart: name a folder."
    return f"the server refuses ({code or type(error).__name__}): check the address and the server."
