"""Lease: a lock that is an object, for processes that share no disk.

The object says who holds it, and is put again every third of its time; one that was not put for
all of its time is of a process that is gone, and is taken over by a conditional put. Times are the
server's alone, so that no two machines need agree on one.

Whoever slept through its time is told so in the log and goes on: a lease saves work, and keeps
nothing whole. That is for names that follow from content, and for the manifest's conditional put.
"""

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from gristmill.pipeline.records.objects import Objects
from gristmill.pipeline.records.sealed import seal, unseal

SECONDS = 60.0

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def leased(objects: Objects, name: str, holder: str, seconds: float = SECONDS) -> Iterator[None]:
    """Hold a lease, once nobody else does.

    Args:
        objects: where it lies.
        name: of the object.
        holder: who asks. What the same holder left is taken over at once: two of one name must be
            kept apart by other means.
        seconds: after which others may take it over, unless it is put again.
    """
    lease = _Lease(objects=objects, name=name, holder=holder, seconds=seconds)
    lease.take()
    renewing = threading.Thread(target=lease.renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        lease.done.set()
        renewing.join()
        lease.release()


@dataclass(kw_only=True)
class _Lease:
    objects: Objects
    name: str
    holder: str
    seconds: float
    token: str = field(default_factory=lambda: secrets.token_hex(16))  # of this one taking
    tag: str = ""
    turn: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def take(self) -> None:
        """Wait until nobody holds it, and put it."""
        waits = False
        while True:
            tag = self.objects.create(self.name, self._text())
            if tag is None:
                found = self.objects.get(self.name)
                if found is None:  # released just now
                    continue
                told = unseal(found.raw)
                if told is not None and told["token"] == self.token:  # an answer that was lost
                    tag = found.tag
                elif told is None or told["holder"] == self.holder or found.age > told["seconds"]:
                    tag = self.objects.replace(self.name, self._text(), found.tag)
                elif not waits:
                    waits = True
                    _LOG.warning(
                        "%s is being made on %s: waiting for it, or until nothing was heard of it "
                        "for %g s.",
                        self.name.removeprefix("leases/").removesuffix(".json"),
                        told["host"],
                        told["seconds"],
                    )
            if tag is not None:
                self.tag = tag
                return
            time.sleep(min(2.0, self.seconds / 10))

    def renew(self) -> None:
        """Put it again and again, until it is done with."""
        while not self.done.wait(self.seconds / 3):
            self.turn += 1
            try:
                tag = self.objects.replace(self.name, self._text(), self.tag)
                tag = self._still() if tag is None else tag
            except (OSError, ValueError) as error:
                _LOG.warning("the lease %s could not be renewed: %s", self.name, error)
                continue
            if tag is None:
                _LOG.warning("the lease %s was taken over: this machine was too slow.", self.name)
                return
            self.tag = tag

    def release(self) -> None:
        """Remove it, if it still is ours; where that fails, its time ends it."""
        with contextlib.suppress(OSError, ValueError):
            if self._still() is not None:
                self.objects.remove(self.name)

    def _still(self) -> str | None:
        """The tag of the object, if it is ours."""
        found = self.objects.get(self.name)
        told = None if found is None else unseal(found.raw)
        if found is None or told is None or told["token"] != self.token:
            return None
        return found.tag

    def _text(self) -> bytes:
        told = {
            "holder": self.holder,
            "host": socket.gethostname(),
            "seconds": self.seconds,
            "token": self.token,
            "turn": self.turn,
        }
        return seal(told).encode()
