"""The actions of a simulated UPnP Internet Gateway Device 1 or 2, as functions from arguments to results.

WANIPConnection: GetExternalIPAddress, GetSpecificPortMappingEntry, AddPortMapping, AddAnyPortMapping (version 2),
DeletePortMapping.  WANIPv6FirewallControl:1: GetFirewallStatus, AddPinhole, UpdatePinhole, DeletePinhole.
How requests come and go is in `upnp`.  Not here: GetGenericPortMappingEntry; and a host that opens a port for another
gets error 606.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarm.endpoint import Endpoint
from swarm.simnet.opener import Opener

SOAP_PROTOCOLS = {"UDP": "udp", "TCP": "tcp", "17": "udp", "6": "tcp"}
REASONS = {
    401: "Invalid Action",
    402: "Invalid Args",
    606: "Action not authorized",
    704: "NoSuchEntry",
    714: "NoSuchEntryInArray",
    718: "ConflictInMappingEntry",
    724: "SamePortValuesRequired",
    725: "OnlyPermanentLeasesSupported",
    728: "NoPortMapsAvailable",
}


class UpnpError(Exception):
    """A SOAP fault: UPnP error ``code``, whose text is in REASONS."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code} {REASONS[code]}")
        self.code = code


@dataclass(slots=True)
class Pinhole:
    """An IPv6 pinhole by which UniqueID a client knows it."""

    protocol: str
    inside: Endpoint


Arguments = dict[str, str]


class Igd:
    """The actions, from arguments by name to results by name.  Every one may raise `UpnpError`."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._pinholes: dict[int, Pinhole] = {}
        self._last_pinhole = 0
        self._actions: dict[str, Callable[[Arguments, str], Arguments]] = {
            "GetExternalIPAddress": self._get_external,
            "GetSpecificPortMappingEntry": self._get_entry,
            "AddPortMapping": self._add,
            "DeletePortMapping": self._delete,
        }
        if opener.behaviour.igd_version == 2:
            self._actions |= {"AddAnyPortMapping": self._add_any}
            if opener.router.firewall is not None:
                self._actions |= {
                    "GetFirewallStatus": self._firewall_status,
                    "AddPinhole": self._add_pinhole,
                    "UpdatePinhole": self._update_pinhole,
                    "DeletePinhole": self._delete_pinhole,
                }

    def act(self, action: str, arguments: Arguments, client: str) -> Arguments:
        """Do what a SOAP request from the address ``client`` asks."""
        if action not in self._actions:
            raise UpnpError(401)
        try:
            return self._actions[action](arguments, client)
        except (KeyError, ValueError) as error:
            raise UpnpError(402) from error

    def _get_external(self, _arguments: Arguments, _client: str) -> Arguments:
        return {"NewExternalIPAddress": self._opener.wan}

    def _get_entry(self, arguments: Arguments, _client: str) -> Arguments:
        protocol, port = SOAP_PROTOCOLS[arguments["NewProtocol"]], int(arguments["NewExternalPort"])
        forward = self._opener.nat.forward_at(protocol, port, self._opener.now)
        if forward is None:
            raise UpnpError(714)
        left = forward.expires - self._opener.now
        return {
            "NewInternalPort": str(forward.internal.port),
            "NewInternalClient": forward.internal.host,
            "NewEnabled": "1",
            "NewPortMappingDescription": "swarm",
            "NewLeaseDuration": "0" if left == float("inf") else str(int(left)),
        }

    def _add(self, arguments: Arguments, client: str) -> Arguments:
        protocol, internal, external, lease = self._mapping(arguments, client)
        if not self._opener.open(protocol, internal, external, lease):
            raise UpnpError(718)
        return {}

    def _add_any(self, arguments: Arguments, client: str) -> Arguments:
        protocol, internal, external, lease = self._mapping(arguments, client)
        opened = self._opener.open_any(protocol, internal, external, lease)
        if opened is None:
            raise UpnpError(728)
        return {"NewReservedPort": str(opened)}

    def _mapping(self, arguments: Arguments, client: str) -> tuple[str, Endpoint, int, int]:
        """Protocol, internal endpoint, external port and lease of a request to map, checked."""
        behaviour = self._opener.behaviour
        protocol = SOAP_PROTOCOLS[arguments["NewProtocol"]]
        external = _port(arguments["NewExternalPort"])
        internal = Endpoint(arguments["NewInternalClient"], _port(arguments["NewInternalPort"]))
        lease = int(arguments["NewLeaseDuration"])
        if behaviour.refuses or internal.host != client:
            raise UpnpError(606)
        if behaviour.permanent_only and lease:
            raise UpnpError(725)
        if behaviour.same_port_only and external != internal.port:
            raise UpnpError(724)
        known = self._opener.nat.forward_at(protocol, external, self._opener.now)
        if known is None and self._opener.full:
            raise UpnpError(728)
        return protocol, internal, external, lease

    def _delete(self, arguments: Arguments, client: str) -> Arguments:
        protocol, port = SOAP_PROTOCOLS[arguments["NewProtocol"]], int(arguments["NewExternalPort"])
        forward = self._opener.nat.forward_at(protocol, port, self._opener.now)
        if forward is None:
            raise UpnpError(714)
        if forward.internal.host != client:
            raise UpnpError(606)
        self._opener.nat.remove_forward(protocol, port)
        return {}

    def _firewall_status(self, _arguments: Arguments, _client: str) -> Arguments:
        return {"FirewallEnabled": "1", "InboundPinholeAllowed": str(int(not self._opener.behaviour.refuses))}

    def _add_pinhole(self, arguments: Arguments, client: str) -> Arguments:
        inside = Endpoint(arguments["InternalClient"], _port(arguments["InternalPort"]))
        pinhole = Pinhole(SOAP_PROTOCOLS[arguments["Protocol"]], inside)
        if self._opener.behaviour.refuses or not self._is_ours(inside.host, client):
            raise UpnpError(606)
        if self._opener.full:
            raise UpnpError(728)
        self._last_pinhole += 1
        self._pinholes[self._last_pinhole] = pinhole
        self._open_pinhole(pinhole, int(arguments["LeaseTime"]))
        return {"UniqueID": str(self._last_pinhole)}

    def _update_pinhole(self, arguments: Arguments, _client: str) -> Arguments:
        self._open_pinhole(self._pinhole(arguments), int(arguments["NewLeaseTime"]))
        return {}

    def _delete_pinhole(self, arguments: Arguments, _client: str) -> Arguments:
        pinhole = self._pinhole(arguments)
        del self._pinholes[int(arguments["UniqueID"])]
        if self._opener.router.firewall is not None:
            self._opener.router.firewall.remove_pinhole(pinhole.protocol, pinhole.inside)
        return {}

    def _pinhole(self, arguments: Arguments) -> Pinhole:
        pinhole = self._pinholes.get(int(arguments["UniqueID"]))
        firewall = self._opener.router.firewall
        if pinhole is None or firewall is None:
            raise UpnpError(704)
        if not firewall.has_pinhole(pinhole.protocol, pinhole.inside, self._opener.now):
            raise UpnpError(704)
        return pinhole

    def _open_pinhole(self, pinhole: Pinhole, lease: int) -> None:
        if not 1 <= lease <= 86400:
            raise UpnpError(402)
        if self._opener.router.firewall is not None:
            self._opener.router.firewall.add_pinhole(pinhole.protocol, pinhole.inside, self._opener.now, lifetime=lease)

    def _is_ours(self, host: str, client: str) -> bool:
        """Whether two addresses are of one LAN host: control may go over IPv4 for an IPv6 pinhole."""
        return self._opener.router.lan.same_port(host, client)


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError(f"{text} is no port")
    return port
