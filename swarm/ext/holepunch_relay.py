"""The relay's part of ut_holepunch (BEP 55): brings two of our peers together, or says why not.

Anyone connected may ask, so it is bounded: what it makes peers send goes only to endpoints at which it sees another of
its peers, and no more often than an honest peer needs.  Does no I/O and keeps no connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from swarm.endpoint import Endpoint, is_dialable
from swarm.events import INDIRECT_PATHS, PathName
from swarm.ext.allowance import Allowances, account_of
from swarm.ext.extension import Say
from swarm.ext.holepunch import Connect, ErrorCode, PunchError, may_meet

SOURCE_BURST, SOURCE_SECONDS = 30, 2.0
"""Rendezvous from one address: so many at once, then one in so many seconds.  A peer that joins learns of fifty others
by PEX (BEP 11) and meets up to half of them filtered; carrier NATs put several peers behind one address."""

PAIR_BURST, PAIR_SECONDS = 4, 15.0
"""Rendezvous from one address for one target: a first try and three more within a minute, through each introducer."""

TARGET_BURST, TARGET_SECONDS = 30, 2.0
"""Connects told to one target: each makes it send a handful of SYNs, so 30 datagrams a second at the very most."""

UTP_PATHS: frozenset[PathName] = frozenset({"utp", "utp-punched"})
"""Paths on which the endpoint that we observe is the mapping of the peer's one UDP port."""

REASONS = {
    "no-such-peer": ErrorCode.NO_SUCH_PEER,
    "not-bridged": ErrorCode.NO_SUCH_PEER,
    "not-connected": ErrorCode.NOT_CONNECTED,
    "too-many-of-source": ErrorCode.NOT_CONNECTED,
    "too-many-of-pair": ErrorCode.NOT_CONNECTED,
    "too-many-of-target": ErrorCode.NOT_CONNECTED,
    "no-support": ErrorCode.NO_SUPPORT,
    "no-self": ErrorCode.NO_SELF,
}
"""What is answered, by the reason that is counted.  BEP 55 has no code for "not now": the asker is to go elsewhere."""


class Relayable(Protocol):
    """A connection of the torrent, as far as a relay looks at it."""

    @property
    def observed(self) -> Endpoint:
        """Where we see it: the remote endpoint of its stream."""

    @property
    def listens(self) -> Endpoint | None:
        """Where it says that it listens: its host with ``p`` of its extension handshake, or where we dialled it."""

    @property
    def is_hidden(self) -> bool:
        """Whether it has dialled us from its listening port, which nobody is known to be able to dial."""

    @property
    def path(self) -> PathName: ...

    @property
    def speaks_holepunch(self) -> bool: ...

    @property
    def say(self) -> Say: ...


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """Rendezvous that we were ``asked`` for, how many ended with both told, and the others by reason.

    Reasons are the keys of REASONS and "asker-without-support", which is not answered.
    """

    asked: int
    connected: int
    errors: Mapping[str, int]


class HolepunchRelay:
    """Our part as the relay among the connections of one torrent.

    ``connections`` lists them; ``is_own`` knows our own endpoints, inside and outside.

    Peers are found by where we see them *and* by where they listen: PEX names the latter.  They are told the
    observed endpoint if the link is µTP: that is the UDP mapping a punch needs.  A link of TCP shows no such thing,
    since most clients dial from another port than they listen on; told then is where the peer says it listens
    if that is on the observed host (right for µTP behind a NAT that preserves ports), else the observed endpoint.  Of a
    node of ours that is hidden it is the observed one, always: it has dialled from the port that it listens on, so that
    is where a simultaneous open has to go.  Refusing such peers with no-support would be untrue and take away what
    chance there is.
    """

    def __init__(self, connections: Callable[[], Iterable[Relayable]], is_own: Callable[[Endpoint], bool]) -> None:
        self._connections = connections
        self._is_own = is_own
        self._sources = Allowances(SOURCE_BURST, SOURCE_SECONDS)
        self._pairs = Allowances(PAIR_BURST, PAIR_SECONDS)
        self._targets = Allowances(TARGET_BURST, TARGET_SECONDS)
        self._asked = self._connected = 0
        self._errors: Counter[str] = Counter()

    def rendezvous_asked(self, asker: Relayable, target: Endpoint, now: float) -> str | None:
        """Tell ``asker`` and the target of each other, or answer ``asker`` with the error; the reason, None if told.

        Nobody is answered who does not speak the extension himself (BEP 55).
        """
        self._asked += 1
        if not asker.speaks_holepunch:
            self._errors["asker-without-support"] += 1
            return "asker-without-support"
        found = self._find(asker, target, now)
        if isinstance(found, str):
            self._errors[found] += 1
            asker.say(PunchError(target, REASONS[found]).encode())
            return found
        self._connected += 1
        found.say(Connect(_punchable(asker)).encode())
        asker.say(Connect(_punchable(found)).encode())
        return None

    def statistics(self) -> RelayStatistics:
        return RelayStatistics(self._asked, self._connected, dict(self._errors))

    def _find(self, asker: Relayable, target: Endpoint, now: float) -> Relayable | str:
        """The connection to bring together with ``asker``, accounted for; or why there is none."""
        source = account_of(asker.observed)
        if not self._sources.take(source, now):
            return "too-many-of-source"
        reason = self._reason_to_refuse(asker, target)
        if reason is not None:
            return reason
        known = [each for each in self._connections() if each is not asker and _is_at(each, target)]
        if not known:  # two neighbours behind one NAT may listen on one port
            return "no-self" if target == asker.listens else "not-connected"
        speaking = [each for each in known if each.speaks_holepunch]
        if not speaking:
            return "no-support"
        found = min(speaking, key=lambda each: (each.path not in UTP_PATHS, each.observed != target))
        if not may_meet(_punchable(asker), _punchable(found)):
            return "not-bridged"
        return self._reason_to_wait(source, found.observed, now) or found

    def _reason_to_refuse(self, asker: Relayable, target: Endpoint) -> str | None:
        if not is_dialable(target):
            return "no-such-peer"
        if self._is_own(target) or target == asker.observed:
            return "no-self"
        return None if asker.path not in INDIRECT_PATHS and may_meet(asker.observed, target) else "not-bridged"

    def _reason_to_wait(self, source: Hashable, target: Endpoint, now: float) -> str | None:
        if not self._pairs.take((source, target), now):
            return "too-many-of-pair"
        return None if self._targets.take(target, now) else "too-many-of-target"


def _is_at(connection: Relayable, target: Endpoint) -> bool:
    return connection.path not in INDIRECT_PATHS and target in (connection.observed, connection.listens)


def _punchable(connection: Relayable) -> Endpoint:
    """What the other one is told to dial; see `HolepunchRelay`."""
    observed, listens = connection.observed, connection.listens
    if connection.path in UTP_PATHS or connection.is_hidden or listens is None or listens.host != observed.host:
        return observed
    return listens
