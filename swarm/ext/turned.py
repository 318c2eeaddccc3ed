"""The marks ``sw_turn`` and ``sw_present`` (no BEP; ours) on one connection: its sender is reached there through a TURN
server, and in the second case only so that peers that are not ours hear of it.

Names in the extension handshake (BEP 10) and no messages.  The other end cannot know otherwise: to it the relayed
address is an address like any.  With the first it lets a direct connection take over, and sends nobody to that address;
with the second it tells the address to peers that are not ours only: nodes of ours meet directly first.
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


class Present(Turned):
    """The other mark."""

    NAME = "sw_present"
