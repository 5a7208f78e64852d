"""Object storage in memory, with a clock of its own and a hook before each call."""

import itertools
import threading
from dataclasses import dataclass, field

from gristmill.pipeline.records.objects import Found


@dataclass(eq=False, kw_only=True)
class MemoryObjects:
    held: dict = field(default_factory=dict)  # name -> (bytes, tag, when it was put)
    now: float = 0.0
    ignores_conditions: bool = False
    before: object = None  # called with (call, name)
    calls: list = field(default_factory=list)
    _lock: object = field(default_factory=threading.RLock)
    _tags: object = field(default_factory=itertools.count)

    def _called(self, call, name):
        if self.before is not None:
            self.before(call, name)
        self.calls.append((call, name))

    def _put(self, name, raw):
        tag = str(next(self._tags))
        self.held[name] = (raw, tag, self.now)
        return tag

    def get(self, name):
        self._called("get", name)
        with self._lock:
            if name not in self.held:
                return None
            raw, tag, when = self.held[name]
            return Found(raw=raw, tag=tag, age=self.now - when)

    def create(self, name, raw):
        self._called("create", name)
        with self._lock:
            there = name in self.held and not self.ignores_conditions
            return None if there else self._put(name, raw)

    def replace(self, name, raw, tag):
        self._called("replace", name)
        with self._lock:
            same = self.ignores_conditions or self.held.get(name, (b"", None, 0.0))[1] == tag
            return self._put(name, raw) if same else None

    def upload(self, name, path):
        self._called("upload", name)
        with self._lock:
            self._put(name, path.read_bytes())

    def download(self, name, path):
        self._called("download", name)
        with self._lock:
            if name not in self.held:
                return False
            path.write_bytes(self.held[name][0])
            return True

    def sizes(self, prefix):
        self._called("sizes", prefix)
        with self._lock:
            names = [n for n in self.held if n.startswith(prefix)]
            return {n.removeprefix(prefix): len(self.held[n][0]) for n in names}

    def remove(self, name):
        self._called("remove", name)
        with self._lock:
            self.held.pop(name, None)

    def names(self, kind):
        return sorted(n for n in self.held if n.startswith(f"{kind}/"))
