"""sw_reach (no BEP; ours): the extension on one connection, in all three roles.

An *asker* wants to know whether strangers reach it.  It asks a *helper*, a peer of its own, who hands the nonce to a
*dialler*, a peer of the helper's, to whom the asker has sent nothing: what was sent to may answer through any NAT.
The dialler dials back from its listening port (`reach_message` says how) and reports.  Modelled on AutoNAT v2
(libp2p), but for who dials.

The messages are `reach_message`'s, helping and dialling `reach_desk`'s, conclusions `swarm.connect.reachability`'s.
Does no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, Protocol, TypeVar

from swarm.ext.allowance import Allowances
from swarm.ext.extension import Say
from swarm.ext.reach_message import (
    Forward,
    Idle,
    Outcome,
    Probe,
    ProbeResult,
    ReachMessage,
    Seen,
    parse_reach_message_untrusted,
)
from swarm.wire.extended import ExtendedHandshake

ASKED_BURST, ASKED_SECONDS = 4, 15.0
"""Probes, and as many forwards, of one peer: so many at once, then one in so many seconds.  One that knows nothing of
itself asks for both transports; each makes somebody dial once."""

IDLE_BURST, IDLE_SECONDS = 2, 300.0
"""Measurements of idle mappings for one peer: one takes five minutes at most, and some dozens of datagrams."""

SEEN_BURST, SEEN_SECONDS = 4, 60.0
"""Reports of where a peer sees us: its endpoint may change once in a while."""

Key = TypeVar("Key")
Key_contra = TypeVar("Key_contra", contravariant=True)


class ReachSide(Protocol[Key_contra]):
    """What the extension on a connection needs: a `swarm.ext.reach_desk.ReachDesk`."""

    def endpoint_seen(self, by: Key_contra, seen: Seen, now: float) -> None:
        """The peer says where it sees us."""

    def probe_asked(self, asker: Key_contra, probe: Probe, now: float) -> None:
        """The peer wants us to be its helper.  Nothing of it has been checked."""

    def forward_asked(self, helper: Key_contra, forward: Forward, now: float) -> None:
        """The peer wants us to be its dialler.  Nothing of it has been checked."""

    def idle_asked(self, asker: Key_contra, idle: Idle, now: float) -> None:
        """The peer measures its NAT and wants late answers."""

    def result_told(self, by: Key_contra, result: ProbeResult, now: float) -> None:
        """What became of a probe, by the word of a dialler or a helper.  Nobody may have asked for it."""


class Reach(Generic[Key]):
    """The extension on one connection, which ``key`` names; an `Extension`.

    ``seen`` is told to the peer as soon as it speaks the extension; None where we do not see the peer itself (relayed).
    ``ignored`` counts what was not passed on, by reason: "unknown-message", "too-many-seen", "too-many-probes",
    "too-many-forwards" and "too-many-idle".
    """

    NAME = "sw_reach"

    def __init__(
        self,
        say: Say,
        side: ReachSide[Key],
        key: Key,
        seen: Seen | None,
        allowed: Callable[[type[ReachMessage], float], bool] | None = None,
    ) -> None:
        """``allowed`` says at each message, by its class and the time, whether it is one of those that are heeded: an
        allowance of the peer's that outlives the connection (`ReachAllowances`)."""
        self.supported = False
        """The peer's handshake names the extension: it may be asked."""
        self.told: Seen | None = None
        """Where the peer sees us, by its latest word."""
        self.ignored: Counter[str] = Counter()
        self.key = key
        self._say = say
        self._side = side
        self._unsaid = seen
        self._allowed = allowed or partial(ReachAllowances().take, None)

    def ask(self, probe: Probe) -> None:
        """As asker: the peer shall have us dialled.  Whatever it answers goes to `ReachSide.result_told`."""
        self._say(probe.encode())

    def ask_late_answers(self, idle: Idle) -> None:
        """As asker: the peer shall answer us late, over UDP."""
        self._say(idle.encode())

    def forward(self, forward: Forward) -> None:
        """As helper: the peer shall dial."""
        self._say(forward.encode())

    def tell(self, nonce: bytes, outcome: Outcome) -> None:
        """As dialler or helper: what became of the peer's request."""
        self._say(ProbeResult(nonce, outcome).encode())

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        ext_id = theirs.m.get(self.NAME)
        if ext_id is not None:
            self.supported = ext_id > 0
        if self.supported and self._unsaid is not None:
            self._say(self._unsaid.encode())
            self._unsaid = None

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        """RemoteProtocolError("bad-reach-message") as `parse_reach_message_untrusted`."""
        message = parse_reach_message_untrusted(payload)
        if message is None:
            self.ignored["unknown-message"] += 1
            return
        if not self._allowed(type(message), now):
            self.ignored[_TOO_MANY[type(message)]] += 1
            return
        match message:
            case Seen():
                self.told = message
                self._side.endpoint_seen(self.key, message, now)
            case Probe():
                self._side.probe_asked(self.key, message, now)
            case Forward():
                self._side.forward_asked(self.key, message, now)
            case Idle():
                self._side.idle_asked(self.key, message, now)
            case ProbeResult():
                self._side.result_told(self.key, message, now)

    def tick(self, now: float) -> None:
        pass

    def closed(self) -> None:
        self.supported = False


class ReachAllowances:
    """How many messages of each class are heeded of each party, whatever connections it comes by."""

    def __init__(self) -> None:
        self._kept = {
            Seen: Allowances(SEEN_BURST, SEEN_SECONDS),
            Probe: Allowances(ASKED_BURST, ASKED_SECONDS),
            Forward: Allowances(ASKED_BURST, ASKED_SECONDS),
            Idle: Allowances(IDLE_BURST, IDLE_SECONDS),
        }

    def take(self, party: Hashable, message: type[ReachMessage], now: float) -> bool:
        """Whether one more is heeded, which is then accounted for.  Results are bounded by what was asked."""
        kept = self._kept.get(message)
        return kept is None or kept.take(party, now)


_TOO_MANY: dict[type, str] = {
    Seen: "too-many-seen",
    Probe: "too-many-probes",
    Forward: "too-many-forwards",
    Idle: "too-many-idle",
}
