"""A headless Chromium for tests: real clicks and keys, by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

_PATIENCE_S: Final = 60
_QUIET: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One tab. Whatever the page throws or logs as an error is in ``errors``."""

    def __init__(self, commands: RawIOBase, answers: RawIOBase) -> None:
        self._commands, self._answers = commands, answers
        self._rest, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._hear(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = self._answers.read(1 << 20)
            if not piece:
                raise RuntimeError("chromium ended")
            self._rest += piece
        line, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(line))

    def _hear(self, event: dict[str, Any]) -> None:
        said = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"])

    def open(self, path: Path) -> None:
        """Load a file and wait until its scripts have run."""
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited. Raises RuntimeError with what it threw."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception']['description']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true; RuntimeError after a minute of frames."""
        for _ in range(_PATIENCE_S * 60):
            if self.evaluate(expression):
                return
            self.evaluate("new Promise(done => setTimeout(done, 16))")
        raise RuntimeError(f"never true: {expression}")

    def text(self, selector: str) -> str:
        """The visible text of the first element that matches."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, selector: str) -> None:
        """Move the mouse to the middle of an element and press the button down. RuntimeError if it is covered."""
        self._mouse("mousePressed", selector)

    def release(self, selector: str) -> None:
        """Let the mouse's button go over an element."""
        self._mouse("mouseReleased", selector)

    def click(self, selector: str) -> None:
        """Press and release over the middle of an element."""
        self.press(selector)
        self.release(selector)

    def _mouse(self, kind: str, selector: str) -> None:
        x, y, hit = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            " const x = r.x + r.width / 2, y = r.y + r.height / 2;"
            " const top = document.elementFromPoint(x, y);"
            f" return [x, y, e === top || e.contains(top)]; }})(document.querySelector({json.dumps(selector)}))"
        )
        if not hit:
            raise RuntimeError(f"{selector} is covered by something else")
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, key: str, code: str, number: int) -> None:
        """Press and release a key: its value, its code, and its old number, e.g. ``" ", "Space", 32``."""
        text = {"text": key} if len(key) == 1 else {}
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self._call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **common)

    def choose(self, selector: str, path: Path) -> None:
        """Give a file to a file input."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Size of the window in CSS pixels, and which colours the system prefers."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the whole page, or of what the window shows."""
        taken = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browser() -> Generator[Page]:
    """A page in a fresh headless Chromium; skips the test where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed: pages are not clicked through here")
    (hear, commands), (answers, say) = os.pipe(), os.pipe()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol's pipe is always on descriptors 3 and 4.
        shell = ["bash", "-c", f'exec 8<&{hear} 9>&{say}; exec "$0" "$@" 3<&8 4>&9 8<&- 9>&-']
        command = [*shell, program, *_QUIET, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, pass_fds=(hear, say), stderr=subprocess.DEVNULL)
        os.close(hear)
        os.close(say)
        with os.fdopen(commands, "wb", 0) as writing, os.fdopen(answers, "rb", 0) as reading:
            try:
                yield Page(writing, reading)
            finally:
                process.terminate()
                process.wait()
