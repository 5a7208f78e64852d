"""A way to a server that can be cut and mended: what a run sees of a network that fails."""

import socket
import threading
from contextlib import closing, suppress
from urllib.parse import urlsplit


class Way:
    """A port on this machine that leads to the server of an address, while it is open.

    While it is cut, connections are refused, and those that stood are gone.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._to = (parts.hostname, parts.port)
        self._open: set[socket.socket] = set()
        self._listening: socket.socket | None = None
        self.port = 0
        self.mend()
        self.url = parts._replace(netloc=f"127.0.0.1:{self.port}").geturl()

    def mend(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits
        self._listening.close()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listening.accept()
                threading.Thread(target=self._pass_on, args=(here,), daemon=True).start()

    def _pass_on(self, here: socket.socket) -> None:
        with closing(here), suppress(OSError), socket.create_connection(self._to) as there:
            self._open |= {here, there}
            back = threading.Thread(target=_copy, args=(there, here), daemon=True)
            back.start()
            _copy(here, there)
            back.join()
            self._open -= {here, there}


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while raw := source.recv(1 << 16):
            target.sendall(raw)
        target.shutdown(socket.SHUT_WR)
