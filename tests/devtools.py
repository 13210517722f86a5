"""A tab of headless Chromium, driven by the DevTools protocol: for pages that change while they are open.

The protocol goes through two pipes, each message ends with a zero byte, so that no library is needed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser import CHROMIUM, OPTIONS

SECONDS = 30.0


class Tab:
    """The one tab of a browser; `events` are those of the domains Runtime, Log and Network."""

    def __init__(self, reads: int, writes: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._reads, self._writes = reads, writes
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Go to a page in a window of this width, in the light or the dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Until it is true in the page."""
        end = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, f"not so: {expression}"
            time.sleep(0.1)

    def complaints(self) -> list[dict[str, Any]]:
        """What the console of the browser has of the page: errors, warnings, broken policies."""
        self.value("0")
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in told]

    def requested(self) -> set[str]:
        """The addresses of all that the page has asked for."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return {event["params"]["request"]["url"] for event in sent}

    def shoot(self, file: Path) -> None:
        """A picture of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reads], [], [], SECONDS)
            assert ready, "the browser says nothing"
            got = os.read(self._reads, 1 << 20)
            assert got, "the browser has ended"
            self._buffer += got
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


def _high_pipe() -> tuple[int, int]:
    """A pipe whose ends are neither of the descriptors that the browser uses."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high[0], high[1]


@contextmanager
def open_tab(folder: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, whose profile is in the folder."""
    assert CHROMIUM is not None
    (to_browser, writes), (reads, from_browser) = _high_pipe(), _high_pipe()
    # The browser reads its descriptor 3 and writes 4; a shell puts the pipes there.
    moves = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    options = ["--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with (folder / "browser.log").open("wb") as log:
        browser = subprocess.Popen(
            ["bash", "-c", moves, CHROMIUM, *OPTIONS, *options],
            pass_fds=(to_browser, from_browser),
            stdout=log,
            stderr=log,
        )
    os.close(to_browser)
    os.close(from_browser)
    try:
        tab = Tab(reads, writes)
        yield tab
        os.write(writes, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        browser.wait(SECONDS)
    finally:
        browser.kill()
        browser.wait()
        os.close(reads)
        os.close(writes)
