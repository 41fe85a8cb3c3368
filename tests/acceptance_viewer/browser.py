"""Chromium without a screen, driven over its own protocol (Chrome DevTools) by two pipes: no library is needed.

Everything is asked for until it is there; nothing here waits for a fixed time.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    "--hide-scrollbars", "--force-device-scale-factor=1", "--remote-debugging-pipe",
)  # fmt: skip
BETWEEN_S = 0.5  # two questions
ANSWER_S = 120.0  # a busy machine draws by software


class Browser:
    """One page. `failures` holds every uncaught exception of it, `complaints` what the browser itself found wrong."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders, self._answers = orders, answers
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        self.failures: list[str] = []
        self.complaints: list[str] = []
        target = self.order("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.order("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.order(f"{domain}.enable")

    def order(self, method: str, **given: Any) -> dict[str, Any]:
        """Send one order and return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._orders, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                found: dict[str, Any] = answer["result"]
                return found
            self._heard(answer)

    def _next(self, deadline: float) -> dict[str, Any]:
        """Return the next message of the browser."""
        while b"\0" not in self._pending:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._answers], [], [], max(left, 0))
            assert ready, f"the browser said nothing for {ANSWER_S:.0f} s"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "the browser has ended"
            self._pending += piece
        message, _, self._pending = self._pending.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _heard(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            told = event["params"]["exceptionDetails"]
            self.failures.append(str(told.get("exception", {}).get("description", told.get("text")))[:600])
        if event.get("method") == "Log.entryAdded":
            self.complaints.append(str(event["params"]["entry"]["text"])[:600])

    def open(self, url: str) -> None:
        """Go to an address; what went wrong on the page before is forgotten."""
        self.failures.clear()
        self.order("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is waited for; None where it throws."""
        answer = self.order("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return None if "exceptionDetails" in answer else answer["result"].get("value")

    def wait(self, what: str, expression: str, seconds: float = 150) -> Any:
        """Return the first true value of an expression. Raises AssertionError when there is none in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.ask(expression):
                return found
            time.sleep(BETWEEN_S)
        raise AssertionError(f"{what}: not within {seconds:.0f} s; the page said {self.failures}")

    def double_click(self, x: float, y: float) -> None:
        """Click twice at a place of the page."""
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                self.order("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def press(self, key: str) -> None:
        """Press and release one key: Tab, Enter, …"""
        text = {"Enter": "\r", " ": " "}.get(key)
        codes = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27}
        held = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.order("Input.dispatchKeyEvent", type="keyDown", **held, **({"text": text} if text else {}))
        self.order("Input.dispatchKeyEvent", type="keyUp", **held)

    def write(self, text: str) -> None:
        """Write into what has the focus."""
        self.order("Input.insertText", text=text)

    def prefer(self, scheme: str) -> None:
        """Be set to light or dark."""
        self.order("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        """Have a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.order("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, file: Path) -> Path:
        """Save what the page shows as a PNG."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.order("Page.captureScreenshot", format="png")["data"]))
        return file


@contextmanager
def chromium(folder: Path, size: tuple[int, int] = (1280, 800)) -> Iterator[Browser]:
    """Run Chromium with a profile of its own until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    orders_out, orders_in = os.pipe()
    answers_out, answers_in = os.pipe()
    command = ["chromium", *FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder / 'profile'}"]
    placed = f'exec "$@" 3<&{orders_out} 4>&{answers_in}'  # it reads orders from 3 and answers on 4
    with open(folder / "chromium.log", "ab") as log:
        process = subprocess.Popen(
            ["bash", "-c", placed, "chromium", *command],
            pass_fds=(orders_out, answers_in),
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "HOME": str(folder)},
        )
    os.close(orders_out)
    os.close(answers_in)
    try:
        yield Browser(orders_in, answers_out)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(orders_in)
        os.close(answers_out)
