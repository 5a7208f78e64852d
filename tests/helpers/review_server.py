"""A server of a review in a process of its own, which a test may kill; and its client.

Processes are forked from one that has imported everything, so that a start takes no seconds.
"""

import json
import multiprocessing
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from gristmill.pipeline.review import folder, journal


def _serve(asked, port):
    from gristmill.flows import reviewing
    from gristmill.flows.pages import serving

    opened = reviewing.reviewing(reviewing.Asked(**asked))
    at = serving.listening(port, port)
    serving.serve(opened.app, at, opened.door(at))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`gristmill review` of some data, started, killed and started again at one port."""

    def __init__(self, data: Path, store: Path, **how):
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["gristmill.flows.reviewing"])
        self.asked = {"data": str(data), "store": str(store), **how}
        self.store, self.port, self.process = store, free_port(), None

    def start(self):
        self.process = self._context.Process(
            target=_serve, args=(self.asked, self.port), daemon=True
        )
        self.process.start()
        end = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return self
            except OSError:
                assert self.process.is_alive(), "the server ended at once"
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.01)

    def kill(self):
        with suppress(ProcessLookupError):  # it is dead already
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    @property
    def folder(self) -> Path:
        (found,) = (self.store / "reviews").iterdir()
        return found

    @property
    def token(self) -> str:
        return json.loads((self.folder / "address.json").read_text())["token"]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def lines(self):
        """What the journals hold, as it would be read by a run."""
        return folder.said(self.folder).to_dicts()

    def clicks(self) -> dict[str, dict]:
        """Key of a click -> its line, as it would be read from the disk now."""
        found = journal.journals(self.folder / "journal")
        return {line["click"]: line for one in found for line in one.lines}

    def ask(self, path, send=None):
        """(status, JSON) of one question; an OSError where nobody answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if send is None else json.dumps(send).encode(),
            headers={"cookie": f"gristmill-{self.port}={self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                raw = refused.read()
            return refused.code, json.loads(raw) if raw[:1] == b"{" else raw.decode()
