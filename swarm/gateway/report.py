"""What the gateway mapper has to tell: leases and failures for statistics, and advice in plain words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from swarm.endpoint import Endpoint
from swarm.gateway.method import ClientName, MethodName, Transport

METHOD_WORDS: dict[MethodName, str] = {
    "pcp": "PCP",
    "nat-pmp": "NAT-PMP",
    "upnp-igd1": "UPnP",
    "upnp-igd2": "UPnP",
    "pinhole": "UPnP pinhole",
}

REASON_WORDS = {
    "refused": "refused",
    "unsupported": "cannot do it",
    "conflict": "says that the port is taken",
    "permanent-only": "refused any lease",
    "out-of-resources": "says that it has no room left",
    "network-failure": "is itself not connected",
    "address-mismatch": "sees us behind another router",
    "bad-request": "did not understand us",
    "bad-response": "answered nonsense",
    "failed": "could not, and does not say why",
    "no-gateway": "was not found",
    "unreachable": "cannot be reached",
    "timed-out": "does not answer",
}


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """One line of the ``gateway`` list of the statistics.

    ``external`` is None while the port is not open.  ``expires_in`` is in seconds, None for a permanent lease.
    ``client`` is who speaks to the gateway: we ourselves, or the library miniupnpc.
    """

    method: MethodName
    transport: Transport
    gateway: str
    internal: Endpoint
    external: Endpoint | None
    expires_in: float | None
    error: str | None
    client: ClientName = "swarm"


def is_behind_another_nat(outside_host: str) -> bool | None:
    """Whether a gateway's outside address shows that somebody translates beyond it (RFC 1918, RFC 6598).

    None if the address is not known.
    """
    address = ip_address(outside_host)
    return None if address.is_unspecified else not address.is_global


def advice(
    port: int,
    transports: Collection[Transport],
    routers: Sequence[tuple[str, str]],
    firewalled: Sequence[str],
    outsides: Sequence[tuple[str, str]],
    reports: Sequence[LeaseReport],
) -> tuple[str, ...]:
    """Sentences for the user, none when every port is open.

    ``routers`` are (gateway, our address) pairs of IPv4 where a port may be missing, ``firewalled`` our IPv6 addresses,
    ``outsides`` (gateway, its outside address) pairs of those that have told it.
    """
    named = " and ".join(transport.upper() for transport in sorted(transports))
    sentences: list[str] = []
    for gateway, inside in routers:
        if _is_open(reports, inside, transports):
            continue
        sentences += _failures(gateway, inside, reports)
        if gateway not in dict(outsides) and _answers_without_mapping(gateway, reports):
            sentences.append(
                f"The router at {gateway} names no outside address either: see on its status page whether it has a "
                "public one. If not, another router or the carrier translates too, and forwarding here is not enough."
            )
        sentences.append(
            f"To be reachable, forward port {port}, {named}, on the router at {gateway} to {inside}, port {port}."
        )
    for gateway, outside in outsides:
        if is_behind_another_nat(outside):
            sentences.append(
                f"The outside address of the router at {gateway}, {outside}, is itself private: another router or the "
                f"carrier translates too. Forward port {port}, {named}, there to {outside} as well, or ask the carrier "
                "for a public address."
            )
    for host in firewalled:
        if not _is_open(reports, host, transports):
            sentences.append(
                f"To be reachable by IPv6, allow port {port}, {named}, to {host}, in the router's firewall."
            )
    return tuple(dict.fromkeys(sentences))


def _answers_without_mapping(gateway: str, reports: Sequence[LeaseReport]) -> bool:
    """Whether it refuses in words that say nothing: miniupnpd does so whose outside address is a reserved one."""
    errors = {each.error for each in reports if each.gateway == gateway}
    return not errors.isdisjoint({"out-of-resources", "failed", "network-failure"})


def _is_open(reports: Sequence[LeaseReport], inside: str, transports: Collection[Transport]) -> bool:
    return all(
        any(each.external is not None and each.internal.host == inside and each.transport == one for each in reports)
        for one in transports
    )


def _failures(gateway: str, inside: str, reports: Sequence[LeaseReport]) -> list[str]:
    """One sentence with what was tried, such as "PCP does not answer, UPnP was not found"."""
    tried = dict.fromkeys(
        f"{METHOD_WORDS[each.method]} {REASON_WORDS.get(each.error, each.error)}"
        for each in reports
        if each.error is not None and each.internal.host == inside
    )
    return [f"The router at {gateway} opened no port for us: {', '.join(tried)}."] if tried else []
