"""Telling systemd how the daemon stands (sd_notify(3)): READY, STATUS, RELOADING, STOPPING, and its watchdog.

One datagram to the socket that ``NOTIFY_SOCKET`` names; without one nothing happens.  That nobody listens is no error.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

import trio


class Notifier:
    """``environment`` is that of the process.  Datagrams are sent without blocking."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.watchdog = _seconds(environment)
        """Seconds within which a sign of life is expected; None: nobody expects any."""

    def ready(self) -> None:
        """It serves."""
        self._send("READY=1")

    def reloading(self) -> None:
        """It reads its configuration; `ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It ends."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """A line for ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " "))

    async def run(self, status: Callable[[], str], every: float = 10.0) -> None:
        """Say ``status()`` where it has changed, and show signs of life, until cancelled."""
        if not self._address:
            return
        said = ""
        while True:
            if (text := status()) != said:
                self.status(text)
                said = text
            if self.watchdog is not None:
                self._send("WATCHDOG=1")
            await trio.sleep(every if self.watchdog is None else min(every, self.watchdog / 3))

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(text.encode(), self._address)
            except OSError:  # nobody listens, or too slowly: the daemon runs without
                return


def _seconds(environment: Mapping[str, str]) -> float | None:
    wanted = environment.get("WATCHDOG_USEC", "")
    process = environment.get("WATCHDOG_PID", str(os.getpid()))
    return int(wanted) / 1e6 if wanted.isdecimal() and int(wanted) and process == str(os.getpid()) else None
