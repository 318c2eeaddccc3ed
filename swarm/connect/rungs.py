"""The ways to a peer, in the order in which they start: the ladder's rungs (DESIGN §6).

    direct µTP ∥ TCP  →  punched µTP (BEP 55) ∥ simultaneous TCP  →  predicted ports / birthday
                      →  relayed by a peer  →  through a TURN server

µTP goes first on the open internet: only a µTP link shows a rendezvous our UDP mapping.  To private addresses there is
no NAT between us, and TCP is the faster one.  Punching starts early, since a rendezvous costs one message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from swarm.config import Config
from swarm.connect.dial import DialsTcp, Link, dial_tcp, dial_utp
from swarm.connect.ladder import Rung
from swarm.connect.punching import Outcome, Punching
from swarm.connect.relaying import NO_RELAY, Relaying
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import INDIRECT_PATHS, PunchRole
from swarm.knownpeer import KnownPeer
from swarm.net.udp_port import UtpPort

HEAD_START = 0.25
"""Seconds that one transport has before the other is tried beside it (the delay of RFC 8305)."""

BEFORE_PUNCHING = 0.1
"""Seconds that the second transport has before a rendezvous is asked for: a peer that can be dialled mostly answers
the first within HEAD_START."""

UTP_ALONE = 3.0
"""Seconds that µTP has for itself where it is wanted for the sake of punching."""

BEFORE_PREDICTING = 0.8
"""Seconds that a punch has before ports are predicted: where it works it takes a round trip through the introducer."""

PREDICTED_WITHIN = 30.0
"""Seconds for prediction and birthdays with up to three introducers."""

BEFORE_RELAYING = 10.0
"""Seconds that prediction has before a relay is asked; none where it, or what both ends know of their NATs, says that
nothing else will do."""

RELAY_WITHIN = 8.0
"""Seconds in which a relay may appear: as long as the direct rungs take."""

RELAYED_WITHIN = 30.0

BEFORE_TURN, TURN_AFTER_HOPELESS = 6.0, 0.8
"""Seconds that the other ways have before a TURN server is asked: a peer that answers any of them mostly does by then;
and those that a relay has where it is known that there is no other."""

TURN_WITHIN = 40.0
"""Seconds for that rung, a server's silence included."""

RELAYED_SYNS, RELAYED_PATIENCE = (0.0, 0.5, 1.0, 2.0), 2.0
"""To a relayed address: whoever receives there may be letting us in at this moment."""

HOPELESS = frozenset({"hopeless", "not-measured", "no-support"})
"""Why prediction failed where no other way will be found: no port can be guessed, or one of the two has no UDP."""

PUNCH_SYNS = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Seconds at which SYNs leave, each with an id of its own: the other end's first may still be under way, and a NAT
that lets nothing in before something went out eats those that come too early."""

PUNCH_PATIENCE = 2.0
HASTY_PATIENCE = 0.3
"""Seconds after the last SYN; the short one where an introducer that sees our UDP mapping may do better."""

ADOPTED_FOR = 0.4
"""Seconds for which a pending TCP dial is left to be met by the other end's."""

REDIAL = (0.0, 0.1, 0.3, 0.6)
"""Seconds between TCP dials of a punch: a NAT may answer a SYN that comes too early with a reset."""


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to dial with while the node is online."""

    from_port: int | None
    """The TCP port to leave from."""

    utp: Mapping[int, UtpPort]
    """By address family, 4 or 6."""


class Rungs:
    """Makes the rungs to a peer."""

    def __init__(self, network: DialsTcp, config: Config) -> None:
        self._network = network
        self._config = config

    def to(
        self,
        peer: KnownPeer,
        means: Means,
        punching: Punching | None,
        relaying: Relaying | None = None,
        turns: Turns | None = None,
    ) -> list[Rung]:
        """All the ways, for a dial of our own; ``punching`` and ``relaying`` are None where that is switched off or not
        allowed, or a relay carries us already, and so is ``turns``."""
        way = _Way(self._network, self._config, peer.endpoint, means)
        if turns is not None and turns.is_relayed(peer.endpoint) and _may_be_relayed(peer):
            return [way.to_relayed(turns)]
        rungs = sorted(way.direct(), key=lambda rung: rung.path != peer.good_path)  # what worked goes first
        hopeless = trio.Event()
        if punching is not None:
            meeting = punching.meeting(peer)
            rungs[-1] = replace(rungs[-1], head_start=BEFORE_PUNCHING)
            rungs += way.punched(meeting, punching, "initiator")
            if punching.predict is not None:
                rungs[-1] = replace(rungs[-1], head_start=BEFORE_PREDICTING)
                rungs.append(way.predicted(punching.predict, hopeless))
        if relaying is not None:
            rungs.append(way.relayed(relaying, peer, hopeless))
        if turns is not None and turns.is_of_use:
            rungs.append(way.turned(turns, peer, hopeless))
        return rungs

    def utp_before_tcp(self, endpoint: Endpoint, means: Means) -> list[Rung]:
        """TCP only if µTP came to nothing."""
        utp_first = sorted(
            _Way(self._network, self._config, endpoint, means).direct(), key=lambda rung: rung.path != "utp"
        )
        return [replace(rung, head_start=UTP_ALONE) for rung in utp_first]

    def shots_at(self, endpoint: Endpoint, means: Means, punching: Punching) -> list[Rung]:
        """For the target of a rendezvous: both transports at once, as the initiator does now."""
        return _Way(self._network, self._config, endpoint, means).punched(Told(endpoint), punching, "target")


def _may_be_relayed(peer: KnownPeer) -> bool:
    """Whether to believe somebody's word that a TURN server receives there, which leaves one way only: not where the
    peer was met directly, and of attempts in vain every other time."""
    met_directly = peer.good_path is not None and peer.good_path not in INDIRECT_PATHS
    return not met_directly and peer.failures % 2 == 0


class Turns(Protocol):
    """A `swarm.torrent.turned.Turned`."""

    @property
    def is_of_use(self) -> bool:
        """Whether there is a TURN server to ask, and a need."""

    def is_relayed(self, endpoint: Endpoint) -> bool:
        """Whether a TURN server receives there for somebody."""

    async def reach(self, peer: KnownPeer) -> Link:
        """Through an allocation of ours.  RemoteError."""

    async def dial(self, relayed: Endpoint) -> Link:
        """From an allocation of ours to another one.  RemoteError."""


class Where(Protocol):
    """Where the other end of a punch shoots from; a `swarm.connect.punching.Meeting`, or `Told`."""

    @property
    def told_over_tcp(self) -> bool: ...

    async def agree(self, patience: float) -> Endpoint:
        """Block until it is known, and the other end shoots now.  RemoteError if it does not come to that."""

    def swap(self) -> bool:
        """A punch over µTP came to nothing; whether `agree` may now have a better answer."""


@dataclass(frozen=True, slots=True)
class Told:
    """The target of a rendezvous is told, once."""

    endpoint: Endpoint
    told_over_tcp = False

    async def agree(self, patience: float) -> Endpoint:
        return self.endpoint

    def swap(self) -> bool:
        return False


class _Way:
    """To one endpoint."""

    def __init__(self, network: DialsTcp, config: Config, endpoint: Endpoint, means: Means) -> None:
        self._network = network
        self._config = config
        self._endpoint = endpoint
        self._from_port = means.from_port
        self._utp = means.utp.get(6 if endpoint.is_ipv6 else 4)
        self._pending: trio.CancelScope | None = None  # of the direct TCP dial
        self._adopted: Outcome | None = None  # the punch that made the pending dial its own

    def direct(self) -> list[Rung]:
        endpoint, limit = self._endpoint, self._config.dial_timeout
        rungs = []
        if self._utp is not None:
            rungs.append(Rung("utp", endpoint, self._direct_utp, HEAD_START, limit))
        if self._config.tcp:
            rungs.append(Rung("tcp", endpoint, self._direct_tcp, HEAD_START, limit))
        if not endpoint.address.is_global:
            rungs.reverse()
        return rungs

    def punched(self, where: Where, punching: Punching, role: PunchRole) -> list[Rung]:
        """Both transports at the moment that ``where`` tells."""
        endpoint, patience = self._endpoint, self._config.dial_timeout
        limit, outcome = 2 * patience, punching.outcome(endpoint, role)

        async def utp() -> Link:
            assert self._utp is not None
            while True:
                shoot_at = await where.agree(patience)
                wait = HASTY_PATIENCE if where.told_over_tcp else PUNCH_PATIENCE
                try:
                    link = await dial_utp(self._utp, shoot_at, syn_times=PUNCH_SYNS, patience=wait)
                    return replace(link, path="utp-punched")
                except RemoteError:
                    if not where.swap():
                        raise

        async def tcp() -> Link:
            link = await self._simultaneous_tcp(await where.agree(patience), outcome)
            return replace(link, bidden=role == "target")

        rungs = []
        if self._utp is not None:
            rungs.append(Rung("utp-punched", endpoint, outcome.watched(utp), 0.0, limit))
        if self._config.tcp:
            rungs.append(Rung("tcp-punched", endpoint, outcome.watched(tcp), 0.0, limit))
        return rungs

    def predicted(self, predict: Callable[[Endpoint], Awaitable[Link]], hopeless: trio.Event) -> Rung:
        """By prediction or a birthday, as the NATs demand: the two ends agree on it, or find that it is hopeless."""

        async def shoot() -> Link:
            try:
                return await predict(self._endpoint)
            except RemoteError as error:
                if error.reason in HOPELESS:
                    hopeless.set()
                raise

        return Rung("predicted", self._endpoint, shoot, 0.0, PREDICTED_WITHIN)

    def relayed(self, relaying: Relaying, peer: KnownPeer, hopeless: trio.Event) -> Rung:
        """Through a peer of both.  It cancels none of the others, see `climb`."""

        def named_by(relay: Endpoint) -> bool:
            return relay in peer.introducers

        async def circuit() -> Link:
            with trio.move_on_after(RELAY_WITHIN) as waiting:
                await relaying.wait_relay()
            if waiting.cancelled_caught:
                raise RemoteError(NO_RELAY)
            with suppress(RemoteError):
                return await relaying.reach(self._endpoint, named_by, if_hopeless=True)
            with trio.move_on_after(BEFORE_RELAYING):
                await hopeless.wait()
            return await relaying.reach(self._endpoint, named_by)

        return Rung("relayed", self._endpoint, circuit, 0.0, RELAYED_WITHIN)

    def turned(self, turns: Turns, peer: KnownPeer, hopeless: trio.Event) -> Rung:
        """Through a TURN server of ours; cancels none of the others either."""

        async def allocated() -> Link:
            with trio.move_on_after(BEFORE_TURN):
                await hopeless.wait()
                await trio.sleep(TURN_AFTER_HOPELESS)
            return await turns.reach(peer)

        return Rung("turn", self._endpoint, allocated, 0.0, TURN_WITHIN)

    def to_relayed(self, turns: Turns) -> Rung:
        """To where a TURN server receives for the peer: from our own port, or else from an allocation of ours."""

        async def dial() -> Link:
            if self._utp is not None:
                try:
                    link = await dial_utp(self._utp, self._endpoint, syn_times=RELAYED_SYNS, patience=RELAYED_PATIENCE)
                    return replace(link, path="turn")
                except RemoteError:
                    pass  # where UDP is blocked, say
            return await turns.dial(self._endpoint)

        return Rung("turn", self._endpoint, dial, 0.0, TURN_WITHIN)

    async def _direct_utp(self) -> Link:
        assert self._utp is not None
        return await dial_utp(self._utp, self._endpoint)

    async def _direct_tcp(self) -> Link:
        with trio.CancelScope() as self._pending:
            link = await dial_tcp(self._network, self._endpoint, from_port=self._from_port)
            return self._adopted.met(replace(link, path="tcp-punched")) if self._adopted is not None else link
        raise RemoteError("timed-out", "dialled anew at the moment of a punch")

    async def _simultaneous_tcp(self, endpoint: Endpoint, outcome: Outcome) -> Link:
        """Dial from the listening port at the moment when the other end does (RFC 9293 §3.5).

        The kernel allows one dial between two endpoints.  The direct one that is pending has opened our NAT, so the
        other end's SYN makes it the simultaneous open; only if that does not happen it is given up for a new one.
        Giving it up at once would sometimes close what has just been established, and keep both endpoints busy.
        """
        if endpoint == self._endpoint and self._pending is not None:
            self._adopted = outcome
            await trio.sleep(ADOPTED_FOR)
            self._pending.cancel()
        refusal = RemoteError("refused")
        for pause in REDIAL:
            await trio.sleep(pause)
            try:
                link = await dial_tcp(self._network, endpoint, from_port=self._from_port, elsewhere=False)
            except RemoteError as error:
                if error.reason not in ("refused", "reset", "unreachable", "no-local-address"):
                    raise
                refusal = error
            else:
                return replace(link, path="tcp-punched")
        raise refusal
