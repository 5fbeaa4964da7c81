"""Headless Chromium, driven over its debugging pipe: JSON messages, each ended by a zero byte, on
the file descriptors 3 (to the browser) and 4 (from it). Standard library only."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run "
         "--disable-extensions --disable-dev-shm-usage --hide-scrollbars")
TIMEOUT = 60.0  # seconds for an answer


class Browser:
    """A browser with one page. `errors` holds what the page's console said of errors."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        to_read, self.to = os.pipe()
        self.come, to_write = os.pipe()

        # the browser expects its ends at 3 and 4; they may be there already, or in each other's way
        def place_pipes():
            read, write = os.dup(to_read), os.dup(to_write)
            read, write = (os.dup(fd) if fd in (3, 4) else fd for fd in (read, write))
            os.dup2(read, 3)
            os.dup2(write, 4)
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS.split(), f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=place_pipes, pass_fds=(3, 4, to_read, to_write),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.number, self.buffer, self.session, self.errors, self.loads = 0, b"", None, [], 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """The result of a command of the DevTools protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def read(self) -> dict:
        """The next message of the browser. Events are noted."""
        end = time.monotonic() + TIMEOUT
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.come], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self.come, 2**16)
            assert more, "the browser has ended"
            self.buffer += more
        message, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(message)
        name, params = message.get("method"), message.get("params", {})
        if name == "Page.loadEventFired":
            self.loads += 1
        elif name == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif name == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        return message

    def open(self, path, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Opens a file, and waits until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": theme}])
        loads = self.loads
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        while self.loads == loads:
            self.read()

    def js(self, expression: str):
        """The JSON value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def key(self, name: str) -> None:
        """Presses a key, such as ArrowRight."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def screenshot(self, path, clip: dict | None = None, **how) -> None:
        """A picture of what is seen, or of the rectangle `clip` of the page."""
        if clip:
            how |= {"clip": clip | {"scale": 1}, "captureBeyondViewport": True}
        data = self.call("Page.captureScreenshot", **how)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self.session = None
        try:
            self.call("Browser.close")
        except (AssertionError, OSError):
            self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.come)
        shutil.rmtree(self.profile, ignore_errors=True)
