"""Both ends' part of ``sw_relay`` in one torrent: reserve at relays, ask for circuits, and have streams.

`Relaying` is what the connections' `Relay` extensions report to, in all three roles; the relay's is passed on to the
node's `RelayDesk`.  As initiator the ladder's rung calls `Relaying.reach`; as target what arrives is handed on to be
shaken hands with like any inbound stream, but for encryption, which is required.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import trio

from swarm.connect.circuit import Circuit
from swarm.connect.dial import Link
from swarm.connect.relay_host import RelayHost
from swarm.connect.relay_report import RelaysStanding
from swarm.connect.relay_trust import RelayTrust
from swarm.endpoint import Endpoint, is_dialable
from swarm.errors import RemoteError
from swarm.events import INDIRECT_PATHS
from swarm.ext.allowance import Allowance
from swarm.ext.extension import Say
from swarm.ext.freight import Freight
from swarm.ext.punch import Located
from swarm.ext.relay import Relay
from swarm.ext.relay_message import (
    MAX_NUMBER,
    Accept,
    Connect,
    Incoming,
    Opened,
    Refused,
    RelayMessage,
    Reserve,
    Reserved,
    Reset,
    Serve,
    WayOut,
)

NO_RELAY = "no-relay"
"""The reason where there was nobody to ask: nothing was tried then."""

ANSWER_WITHIN = 4.0
"""Seconds for an answer; another relay is asked then."""

MAX_ASKED = 3
"""Relays asked for one peer, one after the other."""

MAX_RESERVED = 3
"""Relays at which a torrent has reservations."""

RESERVE_AGAIN = 30.0
"""Seconds until a relay that refused one is asked again."""

STRANGERS_BURST, STRANGERS_SECONDS = 8, 5.0
"""Circuits asked of one relay to peers that it has not named itself: so many at once, then one in so many seconds.
Most peers that nobody reaches are gone, and relays set such limits, too."""

MAX_INCOMING = 8
"""Circuits that lead to us over one connection, not yet closed."""


class Relaying:
    """``wants`` says whether a circuit from who is seen there is of use, ``welcome`` takes what comes of it;
    ``relays_changed`` is called when somebody new can be asked."""

    def __init__(
        self,
        info_hash: bytes,
        host: RelayHost,
        rng: random.Random,
        *,
        wants: Callable[[Endpoint], bool],
        welcome: Callable[[Link], None],
        relays_changed: Callable[[], None],
    ) -> None:
        self._info_hash = info_hash
        self._host = host
        self._rng = rng
        self._wants = wants
        self._welcome = welcome
        self._relays_changed = relays_changed
        self._relays: dict[Relay, _Known] = {}  # all that speak sw_relay
        self._asked: dict[tuple[Relay, int], _Asked] = {}
        self._news = trio.Event()
        self.trust = RelayTrust()

    def extension(self, say: Say, located: Located, freight: Freight) -> Relay:
        """``sw_relay`` for a connection."""
        return Relay(say, self, located, self._info_hash, freight)

    def tick(self, now: float) -> None:
        """Once a second: reserve at relays as long as nobody is known to reach us otherwise, and tell those at which we
        have what we have learnt of our NAT since: by it they know at once who cannot meet us."""
        if not self._host.is_client or self._host.is_reachable():
            return
        way_out = self._host.way_out()
        wanted = MAX_RESERVED - sum(known.reserved for known in self._relays.values())
        for relay, known in self._relays.items():
            if known.reserved:
                if known.way_out != way_out:
                    self._reserve(relay, known, way_out)
            elif now >= known.reserve_at:
                relay.expect(wanted > 0 and relay.serves)
                if wanted > 0 and relay.serves:
                    known.reserve_at = now + RESERVE_AGAIN
                    self._reserve(relay, known, way_out)
                    wanted -= 1

    async def wait_relay(self) -> None:
        """Block until somebody serves."""
        while not any(relay.serves for relay in self._relays):
            await self._news.wait()

    async def reach(self, target: Endpoint, named_by: Callable[[Endpoint], bool], *, if_hopeless: bool = False) -> Link:
        """As initiator: a circuit to a peer, through whichever relay has one; the caller shakes hands.

        ``named_by`` knows who has named the peer to us.  With ``if_hopeless`` only if the two of us are known not to
        meet otherwise.  RemoteError with the last refusal; "no-relay" where nobody can be asked.  Cancellation gives a
        circuit up.
        """
        error = RemoteError(NO_RELAY)
        for relay in list(self._suitable(target, named_by)):
            try:
                return Link(await self._ask(relay, target, if_hopeless), "relayed", relay=relay.located.observed)
            except RemoteError as refusal:
                error = refusal
        raise error

    def has_another(self, relay: Endpoint, now: float) -> bool:
        """Whether there is a relay but this one that has not let us down."""
        others = (each.located.observed for each in self._relays if each.serves)
        return any(other.host != relay.host and not self.trust.has_failed(other, now) for other in others)

    def standing(self) -> RelaysStanding:
        """How many relays there are for us now."""
        ours = sum(isinstance(each, Circuit) for relay in self._relays for each in relay.circuits.values())
        reservations = sum(known.reserved for known in self._relays.values())
        return RelaysStanding(sum(relay.serves for relay in self._relays), reservations, ours)

    # -- RelaySide --------------------------------------------------------------------------------------------------

    def relay_joined(self, by: Relay) -> None:
        self._relays.setdefault(by, _Known(self._rng.randrange(MAX_NUMBER)))
        self._host.desk.joined(by)

    def relay_closed(self, by: Relay) -> None:
        self._relays.pop(by, None)
        self._host.desk.left(by)
        for asked in [asked for (relay, _), asked in self._asked.items() if relay is by]:
            asked.refuse("relay-lost")

    def relay_told(self, by: Relay, message: RelayMessage, now: float) -> None:
        match message:
            case Reserve():
                self._host.desk.reserve_asked(by, message, now)
            case Connect():
                self._host.desk.connect_asked(by, message, now)
            case Accept():
                self._host.desk.accepted(by, message.circuit, now)
            case Incoming():
                self._incoming(by, message)
            case Opened():
                self._opened(by, message)
            case Refused():
                self._refused(by, message)
            case Reserved():
                known = self._relays.get(by)
                if known is not None and message.number == known.number:
                    known.reserved = True
                    by.reserve(True)
                    by.expect(False)
            case Serve():
                self._serve(by, message.on)

    # -- as client --------------------------------------------------------------------------------------------------

    def _reserve(self, relay: Relay, known: _Known, way_out: WayOut) -> None:
        known.way_out = way_out
        relay.tell(Reserve(known.number, way_out))

    def _serve(self, by: Relay, on: bool) -> None:
        by.serves = on and by.located.path not in INDIRECT_PATHS
        known = self._relays.get(by)
        if known is not None and not by.serves and known.reserved:
            known.reserved = False
            by.reserve(False)
        if known is not None and by.serves and not known.announced:  # once: each time, many are dialled again
            known.announced = True
            self._news.set()
            self._news = trio.Event()
            self._relays_changed()

    def _suitable(self, target: Endpoint, named_by: Callable[[Endpoint], bool]) -> Iterator[Relay]:
        """Those to be asked: last those that have let us down, else first those that have named the peer."""
        now = trio.current_time()
        serving = [relay for relay in self._relays if relay.serves] if self._host.is_client else []

        def rank(relay: Relay) -> tuple[float, bool]:
            at = relay.located.observed
            return self.trust.failed_at(at, now), not named_by(at)

        for relay in sorted(serving, key=rank)[:MAX_ASKED]:
            located = relay.located
            if target in (located.observed, located.listens):
                continue
            if named_by(located.observed) or self._relays[relay].strangers.take(now):
                yield relay

    async def _ask(self, relay: Relay, target: Endpoint, if_hopeless: bool) -> Circuit:
        counts = self._host.counts
        counts.asked += 1
        with _Asked(self._asked, relay, self._rng.randrange(MAX_NUMBER), target) as asked:
            relay.tell(Connect(asked.number, target, self._host.way_out(), if_hopeless))
            try:
                circuit = await asked.wait()
            except RemoteError as refusal:
                counts.was_refused(refusal.reason)
                raise
            counts.opened += 1
            return circuit

    def _opened(self, by: Relay, message: Opened) -> None:
        asked = self._asked.get((by, message.number))
        if asked is None or asked.circuit is not None or message.circuit in by.circuits:
            by.tell(Reset(message.circuit, "cancelled"))
        else:
            asked.open(Circuit(by, message.circuit, asked.target))

    def _refused(self, by: Relay, message: Refused) -> None:
        asked, known = self._asked.get((by, message.number)), self._relays.get(by)
        if asked is not None:
            asked.refuse(message.reason)
        elif known is not None and message.number == known.number:
            by.expect(False)

    def _incoming(self, by: Relay, message: Incoming) -> None:
        reason = self._reason_to_refuse(by, message)
        if reason is not None:
            self._host.counts.declined[reason] += 1
            by.tell(Reset(message.circuit, reason))
            return
        self._host.counts.called += 1
        by.tell(Accept(message.circuit))
        circuit = Circuit(by, message.circuit, message.sender)
        self._welcome(Link(circuit, "relayed", relay=by.located.observed))

    def _reason_to_refuse(self, by: Relay, message: Incoming) -> str | None:
        known = self._relays.get(by)
        if known is None or not known.reserved:
            return "not-reserved"
        if message.circuit in by.circuits or len(by.circuits) >= MAX_INCOMING:
            return "busy"
        if not is_dialable(message.sender) or not self._wants(message.sender):
            return "not-wanted"
        return None


class _Known:
    """A connection that speaks sw_relay, as a client looks at it; ``number`` is that of our reservation there, and
    ``way_out`` what we have said of our NAT with it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.way_out: WayOut = "other"
        self.announced = self.reserved = False
        self.reserve_at = float("-inf")
        self.strangers = Allowance(STRANGERS_BURST, STRANGERS_SECONDS)


class _Asked:
    """A circuit that a relay was asked for; a context manager while its answer is wanted."""

    def __init__(self, all_asked: dict[tuple[Relay, int], _Asked], relay: Relay, number: int, target: Endpoint) -> None:
        self.number = number
        self.target = target
        self.circuit: Circuit | None = None
        self._all = all_asked
        self._key = relay, number
        self._reason = "no-answer"
        self._answered = trio.Event()

    def __enter__(self) -> _Asked:
        self._all[self._key] = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        del self._all[self._key]
        if error is not None and self.circuit is not None:
            self.circuit.abort()

    def open(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self._answered.set()

    def refuse(self, reason: str) -> None:
        self._reason = reason
        self._answered.set()

    async def wait(self) -> Circuit:
        with trio.move_on_after(ANSWER_WITHIN):
            await self._answered.wait()
        if self.circuit is None:
            raise RemoteError(self._reason)
        return self.circuit
