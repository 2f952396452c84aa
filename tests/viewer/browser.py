"""A headless Chromium driven over its own debugging protocol: no driver and no download of a browser is needed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DEADLINE = 60.0


def executable() -> str | None:
    """Of a Chromium on PATH, or the one that CHROMIUM names."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page of the browser.

    Attributes:
        errors: exceptions that no script caught, and what was written to the console as an error or a warning.
        requests: addresses that the page asked for.
    """

    def __init__(self, socket: Any) -> None:
        self.socket, self.errors, self.requests = socket, [], []
        self._ids = itertools.count(1)
        self._loaded = False
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = next(self._ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=DEADLINE))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str([argument.get("value") for argument in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, address: str, width: int = 1440, height: int = 900, scale: float = 1.0) -> float:
        """Load a page; the seconds until its load event, after which its scripts have run."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self._loaded = False
        start = time.perf_counter()
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._note(json.loads(self.socket.recv(timeout=DEADLINE)))
        return time.perf_counter() - start

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def frame(self) -> None:
        """Wait until what was changed is on the screen."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def move(self, x: float, y: float) -> None:
        """The mouse to a point."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """The left button at a point."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """One key, as a person types it."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of an element."""
        box = self.run(f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                       "return [b.x + b.width / 2, b.y + b.height / 2]; })()")  # fmt: skip
        return box[0], box[1]

    def nodes(self) -> int:
        """Elements and texts of the document."""
        return self.run(
            "(() => { const walk = document.createTreeWalker(document, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);"
            "let count = 0; while (walk.nextNode()) count++; return count; })()"
        )

    def screenshot(self, path: Path) -> None:
        """What is on the screen, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def visible_tokens(tab: Tab, condition: str) -> dict[int, bool]:
    """Token -> whether a condition on its element holds, for those of the first panel that are in the page."""
    found = tab.run(
        "[...viewer.app.panels[0].sheet.querySelectorAll('.token')]"
        f".map((token) => [Number(token.dataset.i), {condition}])"
    )
    return {index: bool(value) for index, value in found}


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, with its profile under `folder`."""
    from websockets.sync.client import connect

    command = [
        executable(),
        "--headless=new",
        "--no-sandbox",  # of the browser's own; in containers it cannot be set up
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}",
        "about:blank",
    ]
    with (folder / "chromium.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            port = _port(folder / "profile" / "DevToolsActivePort", process)
            with connect(_page(port), max_size=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()


def _port(path: Path, process: subprocess.Popen[bytes]) -> int:
    """The browser writes it once it listens."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and "\n" in path.read_text():
            return int(path.read_text().split()[0])
        time.sleep(0.05)
    raise RuntimeError(f"the browser did not come up; see {path.parent.parent / 'chromium.log'}")


def _page(port: int) -> str:
    import httpx

    targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
    return next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
