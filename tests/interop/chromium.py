"""Headless Chromium (Debian's) driven by the DevTools protocol through a pipe: what a page shows, and says in its log.

Chromium reads commands on descriptor 3 and writes answers and events on 4, each a JSON text that ends in a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

QUIET = (
    "--headless=new",
    "--no-sandbox",  # CI is root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

# Descriptors 3 and 4 are what the pipe is; `exec` leaves no shell behind; dash knows descriptors of one digit only.
COMMAND = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'


class Browser:
    """One page."""

    def __init__(self, write: trio.lowlevel.FdStream, read: trio.lowlevel.FdStream) -> None:
        self.complaints: list[str] = []
        """Errors and warnings of the console, exceptions, and requests that failed or were forbidden."""
        self._write = write
        self._read = read
        self._page: str | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._asked = 0

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command.  One at a time."""
        self._asked += 1
        message: dict[str, Any] = {"id": self._asked, "method": method, "params": parameters}
        if self._page is not None:
            message["sessionId"] = self._page
        await self._write.send_all(json.dumps(message).encode() + b"\0")
        while self._asked not in self._answers:
            await self._wait_message()
        answer = self._answers.pop(self._asked)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Show ``url`` in a page of its own, as wide as that many CSS pixels."""
        if self._page is None:
            target = await self.ask("Target.createTarget", url="about:blank")
            attached = await self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            self._page = attached["sessionId"]
            for domain in ("Runtime", "Log", "Page", "Network"):
                await self.ask(f"{domain}.enable")
        await self.dress(dark=dark)
        await self.resize(width, height)
        await self.ask("Page.navigate", url=url)

    async def dress(self, *, dark: bool) -> None:
        """By night or by day, as the system's settings would have it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.ask("Emulation.setEmulatedMedia", features=[scheme])

    async def resize(self, width: int, height: int) -> None:
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is worth."""
        result = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def wait_for(self, expression: str) -> None:
        """Block until the expression is true."""
        while not await self.value(expression):
            await trio.sleep(0.05)

    async def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """A PNG of what is seen, or of the ``whole`` page."""
        shot = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await trio.Path(file).write_bytes(base64.b64decode(shot["data"]))

    async def _wait_message(self) -> None:
        data = b""
        while not data.endswith(b"\0"):
            received = await self._read.receive_some(1 << 20)
            assert received, "Chromium has ended"
            data += received
        for text in data.split(b"\0")[:-1]:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(told["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Network.loadingFailed" and not told.get("canceled"):
            self.complaints.append(str(told))


@asynccontextmanager
async def open_browser(program: str, profile: Path) -> AsyncIterator[Browser]:
    """A Chromium with an empty ``profile``, ended and gone when the block is over."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    command = [
        "bash",
        "-c",
        COMMAND,
        "bash",
        str(to_read),
        str(from_write),
        program,
        *QUIET,
        f"--user-data-dir={profile}",
    ]
    try:
        process = await trio.lowlevel.open_process(
            command, pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    finally:
        os.close(to_read)
        os.close(from_write)
    async with trio.lowlevel.FdStream(to_write) as write, trio.lowlevel.FdStream(from_read) as read:
        try:
            yield Browser(write, read)
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()
