"""A page in headless chromium, driven through DevTools messages over a pipe."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One page; `problems` collects what it logs and throws."""

    def __init__(self, profile: Path):
        self.problems: list = []
        child_reads, self._write = os.pipe()
        self._read, child_writes = os.pipe()
        # Chromium reads messages from descriptor 3 and writes them to 4. No name can be resolved.
        options = (
            f"--headless=new --no-sandbox --disable-gpu --user-data-dir={profile} "
            "--no-first-run --remote-debugging-pipe "
            "--host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'"
        )
        command = f"exec {CHROMIUM} {options} 3<&{child_reads} 4>&{child_writes}"
        self._process = subprocess.Popen(
            ["bash", "-c", command],
            pass_fds=(child_reads, child_writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._buffer, self._number, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """The result of a DevTools command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("method") in (
                "Runtime.exceptionThrown",
                "Runtime.consoleAPICalled",
                "Log.entryAdded",
            ):
                self.problems.append(answer["params"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 20)
            assert data, "chromium ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def open(
        self, address: Path | str, width: int, height: int = 900, scheme: str = "light"
    ) -> None:
        """Shows a file or URL at a width in CSS pixels; waits until it and its images are there.

        Not for lazy ones: those out of sight may never come.
        """
        url = address.as_uri() if isinstance(address, Path) else address
        self.resize(width, height)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=url)
        for _ in range(300):
            if self.run("location.href") == url and self.run("document.readyState === 'complete'"):
                break
            time.sleep(0.05)
        self.wait_for_images()

    def resize(self, width: int, height: int) -> None:
        """Makes the window this large, in CSS pixels; a narrow one is that of a telephone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def wait_for_images(self) -> None:
        """Until those that are not lazy are there."""
        loaded = "[...document.images].filter(i => i.src && i.loading !== 'lazy')"
        self.run(f"Promise.all({loaded}.map(i => i.decode()))")

    def run(self, expression: str):
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Presses and releases a key, such as "Enter" with its code 13."""
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """The window, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
