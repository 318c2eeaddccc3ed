"""The mark ``sw_turn`` (no BEP; ours) on one connection: its sender is reached there through a TURN server.

A name in the extension handshake (BEP 10) and no messages.  The other end cannot know otherwise: to it the relayed
address is an address like any.  It then lets a direct connection take over, and sends nobody to that address.
"""

from __future__ import annotations

from swarm.wire.extended import ExtendedHandshake


class Turned:
    """The mark; an `Extension`."""

    NAME = "sw_turn"

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        """The other end knows, too."""

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        """There are no messages: what comes is ignored."""

    def tick(self, now: float) -> None:
        """Nothing."""

    def closed(self) -> None:
        """Nothing."""
