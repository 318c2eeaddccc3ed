"""The extension ``sw_punch`` (no BEP; ours) on one connection: agreement on a moment and a way to shoot through NATs
whose mappings depend on who is spoken to.

Three peers take part, all ours: initiator and target, each connected to the introducer, not to each other.  The
introducer has both of them send to a few ports of its own, one after the other, so that it sees how their NATs hand
out ports at this very moment, tells each what it saw of both, and when to shoot.  What is shot at is an address at
which the introducer sees the other one, never one that was only claimed.

    initiator              introducer              target
       offer      ------------>      offered  ------------>
       <---------- answered          <------------ answer
       <----------- measure          measure  ------------>
       ======= datagrams ==>         <== datagrams ========
       <---------------- go          go  ----------------->

The messages are `swarm.ext.punch_message`'s; the introducer's part is `swarm.ext.punch_desk`, the ends' is
`swarm.connect.agreement`.  Not spoken on private torrents.  Does no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from swarm.endpoint import Endpoint
from swarm.events import PathName
from swarm.ext.allowance import Allowance
from swarm.ext.extension import Say
from swarm.ext.punch_message import Offered, PunchMessage, Refusal, parse_punch_message_untrusted
from swarm.wire.extended import ExtendedHandshake

OFFERED_BURST, OFFERED_SECONDS = 12, 5.0
"""Meetings that an introducer may call us to: so many at once, then one in so many seconds.  Each makes us send some
hundreds of datagrams."""

MESSAGES_BURST, MESSAGES_SECONDS = 64, 1.0
"""All messages: four belong to a meeting."""


class Located(Protocol):
    """Where a connection leads."""

    @property
    def observed(self) -> Endpoint:
        """Where we see the peer: the remote endpoint of its stream."""

    @property
    def listens(self) -> Endpoint | None:
        """Where it says that it listens: its host with ``p`` of its extension handshake, or where we dialled it."""

    @property
    def path(self) -> PathName: ...

    @property
    def sees_us_at(self) -> str | None:
        """At which address the peer sees us, by its own word (BEP 10, ``yourip``)."""


class PunchSide(Protocol):
    """What the extension on a connection needs of its torrent."""

    def punch_told(self, by: Punch, message: PunchMessage, now: float) -> None:
        """Any message, of a peer that keeps to the limits."""

    def punch_closed(self, by: Punch) -> None:
        """The connection has ended."""


class Punch:
    """The extension on one connection, which it also stands for among `PunchSide` and desk; an `Extension`.

    ``ignored`` counts what was not passed on: "unknown-type", "too-many-messages", and "too-many-offered", which is
    answered.
    """

    NAME = "sw_punch"

    def __init__(
        self, say: Say, side: PunchSide, located: Located, may_offer: Callable[[float], bool] | None = None
    ) -> None:
        """``may_offer`` says at each meeting that we are called to, by the time, whether it is one of those that are
        heeded: an allowance of the peer's that outlives the connection, lest he gets another by coming again."""
        self.supported = False
        """The peer's handshake names the extension."""
        self.ignored: Counter[str] = Counter()
        self.located = located
        self._say = say
        self._side = side
        self._may_offer = may_offer or Allowance(OFFERED_BURST, OFFERED_SECONDS).take
        self._messages = Allowance(MESSAGES_BURST, MESSAGES_SECONDS)

    def tell(self, message: PunchMessage) -> None:
        self._say(message.encode())

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        ext_id = theirs.m.get(self.NAME)
        if ext_id is not None:
            self.supported = ext_id > 0

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        """RemoteProtocolError("bad-punch-message") as `parse_punch_message_untrusted`."""
        message = parse_punch_message_untrusted(payload)
        if message is None:
            self.ignored["unknown-type"] += 1
        elif not self._messages.take(now):
            self.ignored["too-many-messages"] += 1
        elif isinstance(message, Offered) and not self._may_offer(now):
            self.ignored["too-many-offered"] += 1
            self.tell(Refusal(message.session, "too-many-offered"))
        else:
            self._side.punch_told(self, message, now)

    def tick(self, now: float) -> None:
        """Nothing is timed here."""

    def closed(self) -> None:
        self._side.punch_closed(self)
