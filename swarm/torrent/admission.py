"""Who takes part in one torrent: the peers we know, whom to dial, whom to let in, and which of two connections stays.

Between `swarm.connect`, which brings handshaken streams, and `swarm.torrent.exchange`, in which admitted ones trade.
How a peer is reached is the ladder's business; where peers come from that of `swarm.discover`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from swarm.connect.dial import Link
from swarm.connect.ladder import Failure
from swarm.connect.punching import NOBODY, Punching
from swarm.connect.relaying import NO_RELAY, Relaying
from swarm.connect.rungs import Turns
from swarm.endpoint import Endpoint
from swarm.events import (
    INDIRECT_PATHS,
    ConnectionClosed,
    ConnectionRefused,
    DialFailed,
    Direction,
    PeerBanned,
    PeerConnected,
    PeerDiscovered,
    SourceName,
)
from swarm.ext.pex import PexPeer
from swarm.identity import Culprit, Identity
from swarm.knownpeer import KnownPeer
from swarm.peer import PeerConnection, TorrentSide
from swarm.peerlist import HUNG_UP, PeerList
from swarm.torrent.acquaintance import Acquaintances
from swarm.torrent.carried import OUR_CHOICE, is_silent
from swarm.torrent.claims import Claims
from swarm.torrent.connections import Connections
from swarm.torrent.duplicates import Spares, replaces_in_the_end, verdict
from swarm.torrent.lent import Lent
from swarm.torrent.room import MADE_ROOM, TURNED_OVER, TURNOVER, of_no_use, who_makes_room
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.handshake import RESERVED_DHT, RESERVED_EXTENDED, RESERVED_FAST, Handshake

BOTH_STAND = 1.0
"""Seconds in which two connections to one peer may both stand where the other end is not ours: clients differ in which
they close, and closing at once could close both."""


PRIVATE_SOURCES: tuple[SourceName, ...] = ("tracker", "manual", "incoming", "resume")
"""Who may name peers of a private torrent: who came in by itself heard of us from the tracker, too, and whom an earlier
run has kept was named by one of these."""

NO_INTRODUCER = frozenset({NOBODY, "not-connected", "no-such-peer", "no-answer"})
"""Why a punch came to nothing that another introducer may make possible."""

SWAPPED = "swapped-for-utp"
"""Why we close a connection to an introducer that we hold by TCP."""

LASTING = 5.0
"""Seconds after which a reset is no refusal any more, but a connection that broke."""

MAX_CONDEMNED = 1000
"""Senders of bad data remembered; the oldest is forgotten first, and is found out again if it goes on."""


class Inside(TorrentSide, Protocol):
    """What peers are let into."""

    @property
    def seeding(self) -> bool:
        """Whether nothing is missing."""

    @property
    def before_metadata(self) -> bool:
        """Whether nobody knows yet what there is to exchange."""


class Admission:
    """The door of one torrent; implements what the dialer (`WantsPeers`) and the acceptor (`TakesPeers`) need.

    Nobody is dialled or let in before `open` and after `shut`.  ``equip`` gives a new connection its extensions and
    makes our extension handshake.
    """

    def __init__(
        self,
        info_hash: bytes,
        lent: Lent,
        connections: Connections,
        equip: Callable[[PeerConnection], ExtendedHandshake],
    ) -> None:
        self.peers = PeerList(rng=lent.rng, is_ours=lent.standing.is_at)
        self._info_hash = info_hash
        self._lent = lent
        self._connections = connections
        self._equip = equip
        self._punching: Punching | None = None
        self.public = True
        """Whether the DHT may be spoken of; set to False for a private torrent (BEP 27)."""
        self._inside: Inside | None = None
        self._condemned: dict[Culprit, None] = {}
        self._acquaintances = Acquaintances(self.peers)
        self.relaying: Relaying | None = None
        self.turned: Turns | None = None
        self._spares = Spares()
        self.max_peers = lent.config.max_peers
        """Connections that the torrent may have."""
        self._turnover_at = 0.0

    def open(self, inside: Inside) -> None:
        """Let peers in from now on; called again when the metadata is there and the exchange begins."""
        self._inside = inside

    def shut(self, reason: str) -> None:
        """Let nobody in any more, dial nobody any more, and end the connections that stand."""
        self._inside = None
        self._lent.dialer.abandon(self)
        self._connections.close(reason)

    def found(self, endpoints: Iterable[Endpoint], source: SourceName) -> None:
        """A source names peers."""
        for endpoint in (named := tuple(endpoints)):
            self._discovered(endpoint, source)
        if named:
            self._lent.dialer.wake()

    def introduced(self, introducer: PeerConnection, peers: Iterable[PexPeer]) -> None:
        """A connected peer names others (BEP 11), whom it may introduce us to (BEP 55)."""
        for endpoint, flags in peers:
            self._discovered(endpoint, "pex", introducer.identity.endpoint, flags)
        self._lent.dialer.wake()

    def no_longer_introduced(self, introducer: PeerConnection, endpoints: Iterable[Endpoint]) -> None:
        """A connected peer has lost others."""
        for endpoint in endpoints:
            self.peers.no_longer_introduced(endpoint, introducer.identity.endpoint)

    def become_private(self) -> None:
        """The metadata says that only trackers may name peers (BEP 27): forget whom others named."""
        self.public = False
        self.peers.keep_only(PRIVATE_SOURCES)
        for peer in self._connections:
            if peer.identity.direction == "out" and peer.identity.endpoint not in self.peers:
                peer.close("private")

    def _discovered(
        self, endpoint: Endpoint, source: SourceName, introducer: Endpoint | None = None, flags: int = 0
    ) -> None:
        if not self.public and source not in PRIVATE_SOURCES:
            return
        known = len(self.peers)
        added = self.peers.add(endpoint, source, trio.current_time(), introducer=introducer, flags=flags)
        if added is not None and len(self.peers) > known:
            self._lent.emit(PeerDiscovered(self._info_hash, endpoint, source))

    def retry_all(self) -> None:
        """We were cut off and are back: dial everybody again without waiting."""
        self.peers.retry_all(trio.current_time())
        self._lent.dialer.wake()

    def condemned(self, culprit: Culprit) -> None:
        """Somebody is proved to have sent bad data."""
        if culprit.peer_id is None:
            self.peers.ban(culprit.host)
        self._condemned[culprit] = None
        if len(self._condemned) > MAX_CONDEMNED:
            del self._condemned[next(iter(self._condemned))]
        for peer in self._connections:
            if peer.identity.culprit == culprit:
                peer.close("bad-data")
        self._lent.emit(PeerBanned(self._info_hash, Endpoint(culprit.host, 0), "bad-data"))

    def told_addresses(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None:
        """A peer says where else it is (BEP 10)."""
        other = self._acquaintances.told(peer, theirs)
        if other is not None:
            self.found([other], "incoming")

    def known(self, peer: PeerConnection) -> KnownPeer | None:
        """Whom a connection leads to; None for somebody who came in and does not say where it listens."""
        return self._acquaintances.known(peer)

    # -- for the dialer and the acceptor ----------------------------------------------------------------------------

    @property
    def punching(self) -> Punching | None:
        """None where it is switched off, or the torrent is private."""
        return self._punching if self.public else None

    @punching.setter
    def punching(self, punching: Punching | None) -> None:
        self._punching = punching

    def relaying_to(self, peer: KnownPeer) -> Relaying | None:
        """None where relays are not used, the torrent is private, or a relay carries us to the peer already."""
        return self.relaying if self.public and not self.is_relayed_to(peer) else None

    def turned_to(self, peer: KnownPeer) -> Turns | None:
        """None where a relay carries us to the peer already."""
        return self.turned if not self.is_relayed_to(peer) else None

    def is_relayed_to(self, peer: KnownPeer) -> bool:
        """Whether a relay carries us to the peer."""
        return self._acquaintances.is_relayed_to(peer)

    def retry_carried(self) -> None:
        """We are reached in another way than before: see if those to whom a relay carries us can be met directly."""
        if not any(peer.identity.path in INDIRECT_PATHS for peer in self._connections):
            return
        self.peers.retry_these([peer for peer in self.peers if self._is_carried_to(peer)], trio.current_time())
        self._lent.dialer.wake()

    def wants_circuit(self, sender: Endpoint) -> bool:
        """Whether a relay may lead somebody to us who is seen there."""
        standing = (peer for peer in self._connections if not peer.closing)
        open_to_all = self._inside is not None and self.public and not self.is_full
        now = trio.current_time()  # who comes anew while a relay that is silent carries him has lost that one
        return open_to_all and all(peer.identity.endpoint != sender or is_silent(peer, now) for peer in standing)

    def relays_changed(self) -> None:
        """Somebody new relays: those that only lacked a relay are tried again."""
        if self.peers.retry({NO_RELAY}, trio.current_time()):
            self._lent.dialer.wake()

    @property
    def is_full(self) -> bool:
        """Whether the torrent has as many connections as it may."""
        return self._connections.standing >= self.max_peers

    def shoot(self, at: Endpoint, introducer: Endpoint) -> None:
        """An introducer says that a peer dials us at this moment: dial it, too."""
        if self._inside is None or self.is_full:
            return
        peer = self.peers.add(at, "pex", trio.current_time(), introducer=introducer)
        if peer is not None and not peer.busy and self._lent.dialer.shoot(self, peer, at, introducer):
            self.peers.dialed(peer, trio.current_time())

    def swap(self, peer: PeerConnection) -> bool:
        """Exchange a TCP connection for one over µTP, once for each peer; if that fails TCP is dialled again."""
        known = self._acquaintances.directly(peer)
        if known is None or known.swapped or not self._lent.config.utp:
            return False
        known.swapped = True
        peer.close(SWAPPED)
        return True

    def introducers_changed(self) -> None:
        """Somebody new can introduce us: those that only lacked an introducer are tried again."""
        if self._punching is not None:
            self._punching.introducers_changed()
            if self.peers.retry(NO_INTRODUCER, trio.current_time()):
                self._lent.dialer.wake()

    def our_handshake(self) -> Handshake:
        dht = RESERVED_DHT if self._speaks_of_dht else 0
        return Handshake(self._info_hash, self._lent.peer_id, RESERVED_EXTENDED | RESERVED_FAST | dht)

    def next_to_dial(self, *, hearsay: bool = True) -> KnownPeer | None:
        """Somebody worth an attempt now, marked as being dialled."""
        if self._inside is None or self.is_full:
            return None
        now, connected = trio.current_time(), self._connections.direct_peer_ids()
        while (peer := self.peers.next_to_dial(now, seeding=self._inside.seeding, hearsay=hearsay)) is not None:
            if not self._spares.is_spare(peer.endpoint, connected):
                break
            self.peers.disconnected(peer, now)  # its turn comes again
        return peer

    def dial_abandoned(self, peer: KnownPeer) -> None:
        """The attempt was broken off without a verdict: we went offline."""
        self.peers.disconnected(peer, trio.current_time())

    def rung_failed(self, peer: KnownPeer, failure: Failure) -> None:
        if failure.reason in (NOBODY, NO_RELAY):  # nothing was tried
            return
        self._lent.emit(DialFailed(self._info_hash, failure.endpoint, failure.path, failure.reason, failure.seconds))

    def dial_failed(self, peer: KnownPeer, failures: Sequence[Failure]) -> None:
        now, carried = trio.current_time(), self._is_carried_to(peer)
        for failure in sorted(failures, key=lambda each: each.reason not in HUNG_UP):  # it decides when to try again
            self.peers.failed(peer, failure.path, failure.reason, now, carried=carried)

    async def run_connection(self, link: Link, theirs: Handshake, known: KnownPeer | None, seconds: float) -> None:
        """Admit a handshaken stream and serve it until it ends; a refused one is closed and the reason counted."""
        direction: Direction = "in" if known is None else "out"
        identity = Identity(link.remote, link.path, direction, theirs, link.encryption, link.relay, bidden=link.bidden)
        inside = self._inside
        reason = self._reason_to_refuse(identity) if inside is not None else "not-running"
        if reason is not None or inside is None:
            link.stream.abort()
            self._refused(identity, known, reason or "not-running")
        else:
            claims = Claims() if inside.before_metadata else None
            peer = PeerConnection(link.stream, identity, inside, link.received, claims=claims)
            await self._serve(peer, known, seconds)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _is_carried_to(self, peer: KnownPeer) -> bool:
        """Whether a relay carries us to the peer, or a TURN server to somebody at its address."""
        return self.is_relayed_to(peer) or any(
            other.identity.path == "turn"
            and self._lent.turning.owner_of(other.identity.endpoint).host == peer.endpoint.host
            for other in self._connections
        )

    def _reason_to_refuse(self, identity: Identity) -> str | None:
        """Why a connection is not admitted; settles duplicates where both ends decide alike."""
        if identity.peer_id == self._lent.peer_id:
            return "self"
        if identity.culprit in self._condemned or self.peers.is_banned(identity.endpoint.host):
            return "banned"
        if not self.public and identity.direction == "out" and identity.endpoint not in self.peers:
            return "private"  # it was being dialled when that became known
        rival = self._connections.rival_of(identity)
        if rival is not None:
            return self._settle(rival, identity)
        if self.is_full:
            return self._make_room(identity)
        return None

    def _make_room(self, newcomer: Identity) -> str | None:
        loser = who_makes_room(
            self._connections,
            newcomer.endpoint,
            trio.current_time(),
            most=self.max_peers,
            priority=self.peers.priority,
        )
        if loser is None:
            return "full"
        loser.close(MADE_ROOM)
        return None

    def tick(self, now: float) -> None:
        """Once a second.  While all places are taken nobody is dialled: now and then those of no use go."""
        if not self.is_full or now < self._turnover_at or self._inside is None or self._inside.seeding:
            return
        self._turnover_at = now + TURNOVER
        due = self.peers.next_deadline()
        if due is not None and due <= now:
            for peer in of_no_use(self._connections, now)[: max(len(self._connections) // TURNED_OVER, 1)]:
                peer.close(MADE_ROOM)

    def _settle(self, rival: PeerConnection, newcomer: Identity) -> str | None:
        age = trio.current_time() - rival.connected_at
        match verdict(rival.identity, newcomer, age, self._lent.peer_id):
            case "keep":
                return "duplicate"
            case "replace":
                _give_way(rival)
        return None

    def _refused(self, identity: Identity, known: KnownPeer | None, reason: str) -> None:
        self._lent.emit(
            ConnectionRefused(identity.endpoint, identity.path, identity.direction, reason, self._info_hash)
        )
        if reason == "self" and identity.path not in INDIRECT_PATHS:
            self._met_ourselves(identity.endpoint)
        if known is not None and reason == "self":
            self.peers.is_own(known)
        elif known is not None:
            if reason == "duplicate":
                self._spares.note(known.endpoint, identity.peer_id)
            if identity.path not in INDIRECT_PATHS:
                self.peers.failed(known, identity.path, reason, trio.current_time())

    def _met_ourselves(self, seen: Endpoint) -> None:
        """Peers name us, too: libtorrent's first PEX message does.  Of the two ends of such a dial the accepting one is
        the first to know, and hangs up so soon that the other may never read its handshake."""
        self.peers.exclude(seen)
        self.peers.exclude(Endpoint(seen.host, self._lent.standing.port))

    @property
    def _speaks_of_dht(self) -> bool:
        return self.public and self._lent.dht is not None

    async def _serve(self, peer: PeerConnection, known: KnownPeer | None, seconds: float) -> None:
        identity = peer.identity
        if (rival := self._connections.rival_of(identity)) is not None:
            self._lent.work.start_soon(self._settle_duplicates, rival, peer)
        if known is not None and identity.path in INDIRECT_PATHS and not self._lent.turning.is_relayed(known.endpoint):
            self._acquaintances.met_through_relay(peer, known)
            self.peers.carried(known, trio.current_time())
        elif known is not None:
            if identity.path == "tcp" and known.good_path != "tcp" and identity.endpoint.address.is_global:
                known.swapped = True  # µTP had the head start: it does not get there
            self.peers.connected(known, identity.path, obfuscated=identity.encryption != "plaintext")
            self._acquaintances.met(peer, known)
        self._connections.joined(peer)
        self._lent.wake(self._info_hash)
        self._lent.emit(
            PeerConnected(self._info_hash, identity.endpoint, identity.path, identity.direction, peer.client, seconds)
        )
        at = self._lent.standing.port_for(identity.endpoint) if self._speaks_of_dht else None
        peer.start(self._equip(peer), at)
        try:
            await peer.run()
        finally:
            self._connections.left(peer)
            self._closed(peer)

    def _closed(self, peer: PeerConnection) -> None:
        now, identity = trio.current_time(), peer.identity
        known, relayed = self._acquaintances.ended(peer)
        cut_off = peer.reason == "reset" and now - peer.connected_at >= LASTING
        if cut_off:  # if it is our own NAT that has changed, the others know us no more: they say so when spoken to
            for other in self._connections:
                other.keep_alive(now, LASTING)
            self._lent.standing.may_be_cut_off()
        if known is not None:
            self.peers.disconnected(known, now, bytes_down=peer.bytes_down, bytes_up=peer.bytes_up, cut_off=cut_off)
            if self._connections.rival_of(identity) is not None:
                self._spares.note(known.endpoint, identity.peer_id)
        if self.relaying is not None and identity.relay is not None and peer.reason not in OUR_CHOICE:
            self.relaying.trust.failed(identity.relay, now)
        if relayed is not None:
            again = now - peer.connected_at >= LASTING and self._inside is not None
            self.peers.relay_lost(relayed, now, bytes_down=peer.bytes_down, bytes_up=peer.bytes_up, again=again)
        for each in self.peers:  # who has left introduces nobody
            self.peers.no_longer_introduced(each.endpoint, identity.endpoint)
        self._lent.emit(
            ConnectionClosed(
                self._info_hash,
                identity.endpoint,
                identity.path,
                identity.direction,
                peer.client,
                peer.reason,
                peer.bytes_down,
                peer.bytes_up,
                now - peer.connected_at,
            )
        )
        if known is not None and peer.reason == SWAPPED and self._inside is not None:
            self.peers.dialed(known, now)
            if not self._lent.dialer.redial(self, known):
                self.peers.disconnected(known, now)
        self._lent.dialer.wake()

    async def _settle_duplicates(self, old: PeerConnection, new: PeerConnection) -> None:
        """Close the loser only if both still stand after a second: the other end may close either."""
        await trio.sleep(BOTH_STAND)
        if not old.closing and not new.closing:
            age, talks = new.connected_at - old.connected_at, old.received_at >= new.connected_at
            goes = replaces_in_the_end(old.identity, new.identity, age, self._lent.peer_id, old_talks=talks)
            _give_way(old if goes else new)


def _give_way(loser: PeerConnection) -> None:
    """A relayed connection is drained, because what it was asked for is on a long way."""
    if loser.identity.path in INDIRECT_PATHS:
        loser.retire()
    else:
        loser.close("duplicate")
