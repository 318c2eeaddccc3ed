"""The dialler's part of sw_reach on real streams: dial once, present the nonce, hang up; and who does so for a node.

The handshake is the one with which this node opens to a stranger (`Encryption.offers`); a peer with another policy
hangs up, which counts as "connected" here, and as nothing with the asker, whom no nonce reached.
Does not decide whom to dial: `swarm.ext.reach_desk` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio

from swarm.connect.dial import DialsTcp, Link, dial_tcp, dial_utp
from swarm.connect.encrypted import Encryption
from swarm.connect.rungs import Means
from swarm.connect.shake import shake_as_initiator
from swarm.errors import RemoteError
from swarm.events import PathName
from swarm.ext.reach_desk import DIAL_SECONDS, ReachLimits
from swarm.ext.reach_message import Forward, Outcome, Transport, dial_back_peer_id
from swarm.wire.handshake import Handshake

TRANSPORTS_OF: Mapping[PathName, Transport] = {
    "tcp": "tcp",
    "tcp-punched": "tcp",
    "utp": "utp",
    "utp-punched": "utp",
}
"""Of the paths over which two ends see each other's listening port, or the NAT mapping of it."""


MAX_SILENT = 100
"""Addresses remembered that did not answer when they were dialled back."""


class BackDialer:
    """Dials for others while the node is online; one for a node, whose patience is ``limits``.

    ``has_met`` tells whether we have sent to an address lately, by that transport.
    """

    def __init__(self, network: DialsTcp, encryption: Encryption, has_met: Callable[[str, Transport], bool]) -> None:
        self.limits = ReachLimits()
        self._network = network
        self._encryption = encryption
        self._has_met = has_met
        self._silent: dict[tuple[Transport, str], None] = {}  # dialled, no answer so far; the oldest first
        self._got_out: set[tuple[Transport, bool]] = set()
        self._online: tuple[trio.Nursery, Means] | None = None

    async def run(self, means: Means) -> None:
        """Dial until cancelled."""
        async with trio.open_nursery() as nursery:
            self._online = nursery, means
            try:
                await trio.sleep_forever()
            finally:
                self._online = None
                self._got_out.clear()
                self._silent.clear()

    def got_out(self, link: Link) -> None:
        """Somebody whom we have dialled has answered."""
        transport = TRANSPORTS_OF.get(link.path)
        if transport is not None and link.remote.address.is_global:
            self._got_out.add((transport, link.remote.is_ipv6))

    def able(self, transport: Transport, *, ipv6: bool) -> bool:
        """Whether we have got through to anybody on the internet at large by it, since we are online."""
        return (transport, ipv6) in self._got_out

    def knows(self, host: str, transport: Transport) -> bool:
        """Whether that address may have sent to us lately; one that was dialled back and is silent has not."""
        return self._has_met(host, transport) and (transport, host) not in self._silent

    def dial(self, info_hash: bytes, forward: Forward, ended: Callable[[Outcome], None]) -> None:
        """Begin to dial; ``ended`` is told what became of it within DIAL_SECONDS, or never if we go offline."""
        if self._online is None:
            ended("failed")
            return
        nursery, means = self._online
        nursery.start_soon(self._dial, means, info_hash, forward, ended)

    async def _dial(self, means: Means, info_hash: bytes, forward: Forward, ended: Callable[[Outcome], None]) -> None:
        who = forward.transport, forward.endpoint.host
        self._silent.pop(who, None)
        self._silent[who] = None
        if len(self._silent) > MAX_SILENT:
            del self._silent[next(iter(self._silent))]
        outcome = await dial_back(partial(self._link, means, forward), info_hash, forward.nonce, self._encryption)
        if outcome != "timed-out":
            self._silent.pop(who, None)
        ended(outcome)

    async def _link(self, means: Means, forward: Forward) -> Link:
        endpoint = forward.endpoint
        if forward.transport == "tcp":
            return await dial_tcp(self._network, endpoint, from_port=means.from_port)
        port = means.utp.get(6 if endpoint.is_ipv6 else 4)
        if port is None:
            raise RemoteError("no-such-family")
        return await dial_utp(port, endpoint)


async def dial_back(
    dial: Callable[[], Awaitable[Link]], info_hash: bytes, nonce: bytes, encryption: Encryption
) -> Outcome:
    """What became of it, within DIAL_SECONDS: "connected", "timed-out", "refused" or "failed".

    ``dial`` is `dial_tcp` or `dial_utp` of the endpoint, from our listening port.  The stream is closed in every case,
    after the answer to the handshake if one comes.
    """
    link: Link | None = None
    try:
        with trio.fail_after(DIAL_SECONDS):
            link = await dial()
            ours = Handshake(info_hash, dial_back_peer_id(nonce))
            await shake_as_initiator(link, ours, encryption, encryption.offers(obfuscated_before=False)[0])
    except trio.TooSlowError:
        return "connected" if link is not None else "timed-out"
    except RemoteError as error:
        return "connected" if link is not None else _OUTCOMES.get(error.reason, "failed")
    finally:
        if link is not None:
            link.stream.abort()
    return "connected"


_OUTCOMES: dict[str, Outcome] = {"timed-out": "timed-out", "refused": "refused"}
"""By the reason of a dial.  Whatever else stops one is more likely to be our own fault than the asker's."""
