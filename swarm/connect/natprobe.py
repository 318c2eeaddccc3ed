"""Knowing where we stand: takes in what others happen to say of us, gives a `NatReport`.

Nothing is sent for it.  Answers of the DHT carry the address *and port* that they went to (BEP 42), which is what a
STUN server would say, about the very socket that matters; handshakes (BEP 10 ``yourip``), trackers (BEP 24) and
`sw_reach` confirm the address.  STUN (RFC 5780) is taken in where servers are configured.

What the words of a report claim says `natverdict`; how liars are outvoted, `votes`.  Behaviour is the router's and
holds until the network or our address changes; who sees us where, and who got through to us, ages (`votes.MAX_AGE`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from swarm.connect.natverdict import Known, StunFindings, Told, judge
from swarm.connect.report import Behaviour, NatReport
from swarm.connect.votes import MAX_AGE, Sample, Source, Votes, is_global
from swarm.endpoint import Endpoint, normalise_host


class Discovered(Protocol):
    """A `swarm.net.nat_discovery.NatObservations`."""

    @property
    def mapping(self) -> Behaviour: ...

    @property
    def filtering(self) -> Behaviour: ...

    @property
    def evidence(self) -> Sequence[tuple[Endpoint, Endpoint]]:
        """(server, where it sees us), in the order of sending."""


@dataclass(frozen=True, slots=True)
class ExternalAddressChanged:
    """Most of those who see us see us at ``new``; ``old`` is None when that is known for the first time."""

    old: str | None
    new: str


class NatProbe:
    """What we know of the NATs before one UDP socket; one for each address family.

    Addresses of the other family are ignored, and reports by or of addresses that are not global: who is on our side
    of a NAT sees nothing of it.
    """

    def __init__(self, *, ipv6: bool) -> None:
        self._ipv6 = ipv6
        self._port: int | None = None
        self._addresses: frozenset[str] = frozenset()
        self._external: str | None = None  # outlives `network_changed`, to see whether it is another
        self._results: list[ExternalAddressChanged] = []
        self._votes = Votes()
        self._told = Told()

    # -- what is told -----------------------------------------------------------------------------------------------

    def bound(self, local_port: int, addresses: Sequence[str], now: float) -> None:
        """Our UDP port and the addresses of our interfaces: at bind, and after each change of them.

        Another port is another socket: what was known is forgotten.
        """
        if self._port not in (None, local_port):
            self.network_changed(now)
        self._port = local_port
        self._addresses = frozenset(normalise_host(host) for host in addresses)

    def observed(self, reporter: Endpoint, external: Endpoint, now: float, *, source: Source) -> None:
        """``reporter`` sees packets of our one UDP socket come from ``external``."""
        if external.port and self._counts(reporter.host, external.host):
            self._votes.add(reporter, external, source, now)
            self._look_again(external.host, now)

    def address_seen(self, reporter_host: str, external_host: str, now: float, *, source: Source) -> None:
        """``reporter_host`` sees us at an address; by which port it did not say, or it was not the UDP socket's."""
        if self._counts(reporter_host, external_host):
            self._votes.add(Endpoint(reporter_host, 0), Endpoint(external_host, 0), source, now)
            self._look_again(external_host, now)

    def gateway_says(self, external: str | None, now: float, *, addressless: tuple[float, float] | None = None) -> None:
        """The outside address of our gateway by its own word (PCP, NAT-PMP, UPnP); None: it does not say any more.

        ``addressless``: from when to when it has said that it has none.
        """
        told = self._told
        if addressless is None or told.addressless is None or addressless[0] != told.addressless[0]:
            told.sighted = None
        told.gateway, told.addressless = external, addressless

    def stun_says(self, discovered: Discovered, now: float) -> None:
        """What the tests of RFC 5780 found; what they left unknown stays as it was."""
        seen = [Sample(now, *each) for each in discovered.evidence if self._counts(each[0].host, each[1].host)]
        before = self._told.stun
        self._told.stun = StunFindings(
            now,
            before.mapping if discovered.mapping == "unknown" else discovered.mapping,
            before.filtering if discovered.filtering == "unknown" else discovered.filtering,
            tuple(seen),
        )
        for sample in seen:
            self._votes.add(sample.reporter, sample.external, "stun", now)
            self._look_again(sample.external.host, now)

    def unsolicited(self, sender: Endpoint, known_host: bool, now: float) -> None:
        """A packet came to our UDP socket from where nothing had been sent to for ten minutes.

        ``known_host``: something was sent to the address, but not to this port of it.  Neighbours behind our own NAT
        are ignored: they are not filtered.
        """
        ours = sender.host == self._external or sender.host in self._addresses
        if sender.is_ipv6 is not self._ipv6 or ours or not is_global(sender.host):
            return
        if known_host:
            self._told.other_port = (now, sender)
        else:
            self._told.stranger = (now, sender)

    def strangers_kept_out(self, now: float) -> None:
        """Peers to whom nothing had been sent dialled our UDP endpoint in vain (`sw_reach`)."""
        self._told.kept_out = now

    def hairpin_says(self, works: bool, now: float) -> None:
        """Whether a packet to our own external endpoint came back in."""
        self._told.hairpin = works

    def lifetime_says(self, lasted: float, gone_after: float | None, now: float) -> None:
        """For how many seconds an idle UDP mapping was seen to last, and after how many it was gone, if it ever was."""
        self._told.lifetime = (lasted, gone_after)

    def network_changed(self, now: float) -> None:
        """Another network, or the machine slept: forget everything but our own port and addresses."""
        self._votes.clear()
        self._told = Told()

    # -- what is known ----------------------------------------------------------------------------------------------

    def take_results(self) -> list[ExternalAddressChanged]:
        """What became known since the last call; to be looked for after each thing told."""
        results, self._results = self._results, []
        return results

    def external_host(self, now: float) -> str | None:
        """The address that most see us at; None while too few have said so, or they disagree."""
        host = self._votes.majority(now)
        stun = self._told.stun
        if host is None and stun.time > now - MAX_AGE:
            hosts = {sample.external.host for sample in stun.samples}
            return hosts.pop() if len(hosts) == 1 else None
        return host

    def external(self, now: float) -> Endpoint | None:
        """Where we are seen by everybody alike.

        None while that is not known, and where the mapping depends on who looks.
        """
        report = self.report(now)
        return report.external[0] if report.external and report.mapping in ("endpoint-independent", "none") else None

    def samples(self, now: float) -> list[Sample]:
        """Who sees us where, in the order in which the mappings showed: the basis of port prediction.

        As many as the bounds of `votes` leave; liars included.
        """
        return self._votes.samples(now)

    def report(self, now: float) -> NatReport:
        """All of it as one value, with sentences that say what it rests on."""
        host = self.external_host(now)
        looks = [] if host is None else self._votes.looks(host, now)
        voices, samples = self._votes.voices(now), self._votes.samples(now)
        return judge(Known(now, self._port, self._addresses, host, voices, looks, samples, self._told))

    # -- the rest ---------------------------------------------------------------------------------------------------

    def _counts(self, reporter: str, external: str) -> bool:
        if (":" in reporter) is not self._ipv6 or (":" in external) is not self._ipv6:
            return False
        return is_global(reporter) and is_global(external) and reporter != self._external

    def _look_again(self, named: str, now: float) -> None:
        """After a report that names an address: are we where we were?  If not, what we know is of another router."""
        if named == self._external:  # as always but once in a while, and counting takes 50 µs
            if self._told.sighted is None and self._told.addressless is not None:
                self._told.sighted = now
            return
        host = self.external_host(now)
        if host is None or host == self._external:
            return
        old, self._external = self._external, host
        self._results.append(ExternalAddressChanged(old, host))
        if old is None:
            return
        self._votes.keep_only(host)
        stun = self._told.stun
        of_this_one = any(sample.external.host == host for sample in stun.samples)
        gateway = self._told.gateway if self._told.gateway != old else None  # unless it has told the new one before
        self._told = Told(stun=stun if of_this_one else StunFindings(), gateway=gateway)
