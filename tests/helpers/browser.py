"""Chromium, driven by its DevTools protocol: what a person does on a page, and what it asked for.

Nothing is installed for it: `websockets` comes with Prefect. The browser resolves no name, so that
a page under test reaches nobody, whatever it tries; what it tried is in `Page.requests`.
"""

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-extensions "
    "--disable-background-networking --disable-component-update --disable-sync --mute-audio "
    "--disable-dev-shm-usage --disable-domain-reliability --no-default-browser-check "
    "--force-device-scale-factor=1 --hide-scrollbars --remote-debugging-port=0"
)
KEYS = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9, " ": 32}


def program() -> str:
    """Chromium's path; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


@contextmanager
def chromium(folder: Path):
    """A browser with a profile in `folder`."""
    rules = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
    process = subprocess.Popen(
        [program(), *FLAGS.split(), rules, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (told.exists() and told.read_text().count("\n")):
            assert process.poll() is None, "Chromium ended at once"
            assert time.monotonic() < end, "Chromium did not start within a minute"
            time.sleep(0.05)
        yield Browser(port=int(told.read_text().split("\n")[0]))
    finally:
        process.terminate()
        process.wait(20)


class Browser:
    def __init__(self, port):
        self.port = port

    def _asked(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/{path}", method=method)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    @contextmanager
    def page(self, address, width=1280, height=900, mobile=False):
        """A tab at an address, once it has loaded."""
        tab = self._asked("new?about:blank", "PUT")
        where = tab["webSocketDebuggerUrl"]  # no pings: a test may let the page be for minutes
        with connect(where, max_size=None, close_timeout=1, ping_interval=None) as wire:
            page = Page(wire)
            for domain in ("Page", "Runtime", "Network", "Log"):
                page.call(f"{domain}.enable")
            page.size(width, height, mobile)
            page.go(address)
            yield page
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/close/{tab['id']}"):
            pass


class Page:
    """A tab. `requests`: addresses it asked for; `said`: console and errors; `alerts`: dialogs."""

    def __init__(self, wire):
        self._wire = wire
        self._numbers = itertools.count(1)
        self.requests, self.said, self.alerts = [], [], []

    def call(self, method, **parameters):
        number = next(self._numbers)
        self._wire.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._wire.recv(timeout=60))
            if told.get("id") == number:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]
            self._note(told)

    def _note(self, told):
        event, facts = told.get("method"), told.get("params", {})
        if event == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.said.append(json.dumps(facts["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(a.get("value")) for a in facts["args"]))
        elif event == "Log.entryAdded":
            self.said.append(facts["entry"]["text"])
        elif event == "Page.javascriptDialogOpening":
            self.alerts.append(facts["message"])
            self._wire.send(json.dumps({"id": 0, "method": "Page.handleJavaScriptDialog",
                                        "params": {"accept": True}}))  # fmt: skip

    def size(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=mobile)  # fmt: skip

    def go(self, address):
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self):
        self.js("window.__before = true")
        self.call("Page.reload")
        self.wait("!window.__before && document.readyState === 'complete'")

    def js(self, expression):
        """The value of an expression; a promise is waited for."""
        told = self.call("Runtime.evaluate", expression=expression, awaitPromise=True,
                         returnByValue=True, userGesture=True)  # fmt: skip
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, expression, seconds=20):
        """Until an expression holds."""
        end = time.monotonic() + seconds
        while True:
            try:
                if self.js(f"Boolean({expression})"):
                    return
            except AssertionError:  # the page is being changed for another
                pass
            if time.monotonic() > end:
                body = self.js("document.body.innerText")[:1500]
                raise AssertionError(f"never: {expression}\n{self.said}\n{body}")
            time.sleep(0.02)

    def text(self, selector="body"):
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText")

    def box(self, selector):
        """(x, y, width, height) of the first such element, scrolled into view, once it rests."""
        return self.js(
            f"(async () => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); let before = '';"
            "for (;;) { const b = e.getBoundingClientRect();"
            "const box = [b.x, b.y, b.width, b.height]; if (String(box) === before) return box;"
            "before = String(box); await new Promise(r => setTimeout(r, 50)); } })()"
        )

    def click(self, selector):
        x, y, width, height = self.box(selector)
        assert width * height, f"{selector} cannot be seen"
        self.drag((x + width / 2, y + height / 2))

    def drag(self, *points):
        """Press at the first point, move over the others, let go at the last."""
        for kind, (x, y) in (
            ("mousePressed", points[0]),
            *(("mouseMoved", p) for p in points[1:]),
            ("mouseReleased", points[-1]),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
                      clickCount=1)  # fmt: skip

    def press(self, *keys):
        for key in keys:
            code = KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text,
                          windowsVirtualKeyCode=code)  # fmt: skip

    def write(self, selector, text):
        """Put a text in a field, as if it were typed."""
        self.js(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus();"
                "e.select(); })()")  # fmt: skip
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
