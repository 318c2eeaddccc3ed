"""The extensions of one connection (BEP 10): which ``ext_id`` is whose, in both directions.

We number ours from 1 in the order in which they are added; what the peer calls its own its handshake says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarm.ext.extension import Extension, Say
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.messages import Extended


class Extensions:
    """What is spoken on one connection.  ``send`` queues the bytes of a wire message."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._ours: dict[int, tuple[str, Extension]] = {}
        self._theirs: Mapping[str, int] = {}

    def add(self, name: str, make: Callable[[Say], Extension]) -> None:
        """Speak ``name`` from now on.  Before our handshake is sent."""
        self._ours[len(self._ours) + 1] = (name, make(lambda payload: self._say(name, payload)))

    def drop(self, name: str) -> dict[str, int]:
        """Speak ``name`` no more; the ``m`` that says so, empty if it was not spoken."""
        for ext_id, (ours, extension) in self._ours.items():
            if ours == name:
                del self._ours[ext_id]
                extension.closed()
                return {name: 0}
        return {}

    @property
    def m(self) -> dict[str, int]:
        """Of our handshake: extension name to the ``ext_id`` that it is to be sent under."""
        return {name: ext_id for ext_id, (name, _) in self._ours.items()}

    def get(self, name: str) -> Extension | None:
        """Our side of an extension; None if we do not speak it here."""
        return next((extension for ours, extension in self._ours.values() if ours == name), None)

    def speaks(self, name: str) -> bool:
        """Whether the peer said that it receives ``name``."""
        return name in self._theirs

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        """All that the peer has said so far, as `ExtendedHandshake.updated` merges it."""
        self._theirs = theirs.m
        for name, extension in tuple(self._ours.values()):
            if name in theirs.m:
                extension.handshake_received(theirs, now)

    def receive_untrusted(self, ext_id: int, payload: bytes, now: float) -> None:
        """A message came under ``ext_id``; one that we never offered, or that the peer did not name, is ignored."""
        name, extension = self._ours.get(ext_id, ("", None))
        if extension is not None and name in self._theirs:
            extension.receive_untrusted(payload, now)

    def tick(self, now: float) -> None:
        for name, extension in tuple(self._ours.values()):
            if name in self._theirs:
                extension.tick(now)

    def closed(self) -> None:
        for _, extension in self._ours.values():
            extension.closed()
        self._ours.clear()
        self._theirs = {}

    def _say(self, name: str, payload: bytes) -> None:
        ext_id = self._theirs.get(name)
        if ext_id is not None:
            self._send(Extended(ext_id, payload).encode())
