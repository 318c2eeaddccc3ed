"""One announce to one tracker, over HTTP(S) or UDP, from one address family (BEP 3, 7, 15, 41).

Knows URLs, name look-up and families.  When to announce, and what to make of a failure, is `swarm.discover.trackers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote, urlsplit

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.http import HttpError, fetch, parse_url
from swarm.net.network import Network
from swarm.net.udp_tracker_service import UdpTrackerService
from swarm.wire.tracker import (
    AnnounceFailure,
    AnnounceReply,
    AnnounceRequest,
    announce_url,
    parse_announce_reply_untrusted,
)

Family = Literal[4, 6]

MAX_REPLY = 1 << 20
"""Bytes of an HTTP reply's body: 2,000 peers as dictionaries are some 200 kB."""


class TrackerRefused(RemoteError):
    """The tracker answered with a failure reason; ``retry_in`` is in seconds, infinite for "never" (BEP 31)."""

    def __init__(self, failure: AnnounceFailure) -> None:
        super().__init__("tracker-refused", failure.reason)
        self.retry_in = failure.retry_in


@dataclass(frozen=True, slots=True)
class Route:
    """A family in which a tracker is reached, and its addresses there in the resolver's order."""

    family: Family
    remotes: tuple[Endpoint, ...]


class TrackerClient:
    """Speaks to any tracker through ``network`` and, for UDP, through the service of each family's socket.

    ``own_ipv6`` is the global IPv6 address to tell a tracker that can only be reached over IPv4 (BEP 7), or None to
    keep it to ourselves, as under ``--bind`` to an IPv4 address.
    """

    def __init__(
        self,
        network: Network,
        udp: Mapping[Family, UdpTrackerService],
        *,
        own_ipv6: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._network = network
        self._udp = udp
        self._own_ipv6 = own_ipv6
        self._families: set[Family] | None = None  # those we have an address of; asking the kernel takes 0.5 ms

    def network_changed(self) -> None:
        """Our addresses may be others now."""
        self._families = None

    async def routes(self, url: str) -> list[Route]:
        """The families to announce from (BEP 7), IPv6 first: those in which the name *and* we have an address.

        For a tracker on a private network our own having an address is not asked.  Never empty: raises RemoteError
        with ``bad-url``, ``no-address`` or ``no-route`` instead.
        """
        host, port = _host_and_port(url)
        try:
            remotes = await self._network.resolve(host, port)
        except OSError as error:
            raise RemoteError("no-address", f"{host}: {error.strerror or error}") from None
        if self._families is None:
            self._families = self._own_families()
        ours = self._families
        udp = urlsplit(url).scheme == "udp"
        routes = []
        for family in _families():
            usable = [each for each in remotes if _is_in(each, family) and (family in ours or not _is_global(each))]
            if usable and (not udp or family in self._udp):
                routes.append(Route(family, tuple(usable)))
        if not routes:
            raise RemoteError("no-route", f"{host} has no address that we can reach")
        return routes

    async def announce(self, url: str, route: Route, request: AnnounceRequest, rotation: int = 0) -> AnnounceReply:
        """The reply of the tracker at ``url`` by way of ``route``.

        ``rotation`` chooses among a UDP tracker's addresses; HTTP tries them all.  Raises TrackerRefused for a failure
        reason and RemoteError for everything else; waits for ever, the caller's cancel scope ends it.
        """
        if urlsplit(url).scheme == "udp":
            answer = await self._announce_udp(url, route.remotes[rotation % len(route.remotes)], request)
        else:
            answer = await self._announce_http(url, route.family, request)
        if isinstance(answer, AnnounceFailure):
            raise TrackerRefused(answer)
        return answer

    def with_other_family(self, request: AnnounceRequest, routes: list[Route]) -> AnnounceRequest:
        """``request`` with our IPv6 address in it, where the tracker cannot see that for itself."""
        ours = self._own_ipv6()
        if ours is None or any(route.family == 6 for route in routes):
            return request
        return replace(request, ipv6=ours)

    async def _announce_udp(
        self, url: str, remote: Endpoint, request: AnnounceRequest
    ) -> AnnounceReply | AnnounceFailure:
        parts = urlsplit(url)
        data = parts.path + (f"?{parts.query}" if parts.query else "")
        family: Family = 6 if remote.is_ipv6 else 4
        return await self._udp[family].announce(request, remote, quote(data, safe="/%:@!$&'()*+,;=~?").encode())

    async def _announce_http(
        self, url: str, family: Family, request: AnnounceRequest
    ) -> AnnounceReply | AnnounceFailure:
        try:
            response = await fetch(self._network, announce_url(url, request), family=family, max_body=MAX_REPLY)
        except HttpError as error:
            # Some trackers put their failure reason into the body of a 4xx: it says more than the number.
            if error.response is None or not isinstance(failure := _failure_in(error.response.body), AnnounceFailure):
                raise
            return failure
        return parse_announce_reply_untrusted(response.body)

    def _own_families(self) -> set[Family]:
        families: set[Family] = set()
        for interface in self._network.interfaces():
            if not interface.up or interface.loopback:
                continue
            for own in interface.addresses:
                address = Endpoint(own.host, 0).address
                if address.version == 4 and not address.is_link_local:
                    families.add(4)  # private ones too: there is a NAT
                elif address.version == 6 and address.is_global:
                    families.add(6)
        return families


def _families() -> tuple[Family, Family]:
    return (6, 4)


def _is_in(endpoint: Endpoint, family: Family) -> bool:
    return endpoint.is_ipv6 == (family == 6)


def _is_global(endpoint: Endpoint) -> bool:
    return endpoint.address.is_global


def _failure_in(body: bytes) -> AnnounceReply | AnnounceFailure | None:
    try:
        return parse_announce_reply_untrusted(body)
    except RemoteProtocolError:
        return None


def _host_and_port(url: str) -> tuple[str, int]:
    """The host and port of a tracker's URL; RemoteError("bad-url") for one without."""
    if url[:4].lower() != "udp:":
        target = parse_url(url)
        return target.host, target.port
    target = parse_url("http" + url[3:])
    if urlsplit(url).port is None:
        raise RemoteError("bad-url", f"{url[:200]!r} has no port")
    return target.host, target.port
