"""UPnP Internet Gateway Devices, versions 1 and 2, as documents: the device description and SOAP calls.

WANIPConnection:1 and :2 (or WANPPPConnection:1): AddPortMapping, AddAnyPortMapping, DeletePortMapping, GetStatusInfo,
GetExternalIPAddress, GetSpecificPortMappingEntry.  WANIPv6FirewallControl:1: AddPinhole, UpdatePinhole, DeletePinhole.
Sends nothing; not here: eventing, service descriptions, enumeration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urljoin
from xml.sax.saxutils import escape

from swarm.errors import RemoteError, RemoteProtocolError
from swarm.gateway.markup import Element, parse_xml_untrusted
from swarm.gateway.ssdp import is_url_at

CONNECTION_SERVICES = ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
FIREWALL_SERVICE = "WANIPv6FirewallControl:1"
LONGEST_PINHOLE = 86400  # seconds
MAX_SERVICES = 8  # of one description that are used

NO_SUCH_ENTRY, CONFLICT, SAME_PORT_REQUIRED, PERMANENT_ONLY = 714, 718, 724, 725
INVALID_ACTION, NO_SUCH_PINHOLE = 401, 704
REASONS = {
    INVALID_ACTION: "unsupported",
    402: "bad-request",  # InvalidArgs
    501: "failed",  # ActionFailed
    602: "unsupported",  # OptionalActionNotImplemented
    606: "refused",  # ActionNotAuthorized
    701: "out-of-resources",  # PinholeSpaceExhausted
    702: "unsupported",  # FirewallDisabled
    703: "refused",  # InboundPinholeNotAllowed
    NO_SUCH_PINHOLE: "no-such-entry",
    713: "no-such-entry",  # SpecifiedArrayIndexInvalid
    NO_SUCH_ENTRY: "no-such-entry",
    715: "unsupported",  # WildCardNotPermittedInSrcIP
    716: "unsupported",  # WildCardNotPermittedInExtPort
    CONFLICT: "conflict",  # ConflictInMappingEntry
    SAME_PORT_REQUIRED: "conflict",  # SamePortValuesRequired, and ours is taken
    PERMANENT_ONLY: "permanent-only",  # OnlyPermanentLeasesSupported
    726: "unsupported",  # RemoteHostOnlySupportsWildcard
    727: "unsupported",  # ExternalPortOnlySupportsWildcard
    728: "out-of-resources",  # NoPortMapsAvailable
    729: "conflict",  # ConflictWithOtherMechanisms
}
"""Why a call failed, by UPnP error code; any other code is ``refused``."""

_SERVICE_TYPE = re.compile(r"urn:schemas-upnp-org:service:(\w+:\d+)").fullmatch


class SoapFault(RemoteError):
    """A UPnP error; ``reason`` is REASONS of its ``code``."""

    def __init__(self, code: int, description: str = "") -> None:
        super().__init__(REASONS.get(code, "refused"), f"UPnP error {code} {description}".strip())
        self.code = code


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a device: its full type, and where it takes calls."""

    service_type: str
    control_url: str

    @property
    def short_type(self) -> str:
        """``WANIPConnection:2``."""
        return self.service_type.rpartition("service:")[2]


@dataclass(frozen=True, slots=True)
class Device:
    """A gateway as it describes itself; ``connections`` in the order of CONNECTION_SERVICES."""

    friendly_name: str
    version: Literal[1, 2]
    connections: tuple[Service, ...]
    firewall: Service | None


def parse_description_untrusted(data: bytes, location: str, host: str) -> Device:
    """The device description that was fetched from ``location`` on the address ``host``.

    Services whose control URL is on another host are passed over.  Raises RemoteProtocolError("bad-response") for what
    is no description, and RemoteProtocolError("unsupported") for a device without a usable service.
    """
    root = parse_xml_untrusted(data)
    device = root.child("device")
    if root.name != "root" or device is None:
        raise RemoteProtocolError("bad-response", f"<{root.name[:40]}> is no device description")
    services = _services(root, root.text_of("URLBase") or location, host)
    connections = [found for kind in CONNECTION_SERVICES for found in services if found.short_type == kind]
    firewall = next((service for service in services if service.short_type == FIREWALL_SERVICE), None)
    if not connections and firewall is None:
        raise RemoteProtocolError("unsupported", "no WAN connection service")
    second = device.text_of("deviceType").endswith(":2") or any(each.short_type.endswith(":2") for each in connections)
    name = "".join(filter(str.isprintable, device.text_of("friendlyName")))[:80]
    return Device(name, 2 if second else 1, tuple(connections), firewall)


def _services(root: Element, base: str, host: str) -> list[Service]:
    found: list[Service] = []
    for element in root.descendants("service"):
        service_type = element.text_of("serviceType")
        try:
            control_url = urljoin(base, element.text_of("controlURL"))
        except ValueError:
            continue
        if _SERVICE_TYPE(service_type) and is_url_at(control_url, host) and len(found) < MAX_SERVICES:
            found.append(Service(service_type, control_url))
    return found


def encode_call(service_type: str, action: str, arguments: Sequence[tuple[str, str | int]]) -> bytes:
    """The envelope of one call; ``arguments`` in the order of the service's definition: some devices insist on it."""
    inner = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments)
    return (
        '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{service_type}">{inner}</u:{action}></s:Body></s:Envelope>\r\n'
    ).encode()


def call_headers(service_type: str, action: str) -> list[tuple[str, str]]:
    """What goes with the envelope."""
    return [("Content-Type", 'text/xml; charset="utf-8"'), ("SOAPAction", f'"{service_type}#{action}"')]


def parse_results_untrusted(data: bytes, action: str) -> Mapping[str, str]:
    """The results of a call by name.

    Raises SoapFault for a fault with a UPnP error code, RemoteProtocolError("bad-response") for anything else.
    """
    envelope = parse_xml_untrusted(data)
    body = envelope.child("Body")
    if envelope.name != "Envelope" or body is None:
        raise RemoteProtocolError("bad-response", f"<{envelope.name[:40]}> is no SOAP envelope")
    response = body.child(f"{action}Response")
    if response is not None:
        return {element.name: element.text for element in response.children}
    for error in body.descendants("UPnPError"):
        code = error.text_of("errorCode")
        if code.isascii() and code.isdecimal() and len(code) <= 4:
            description = "".join(filter(str.isprintable, error.text_of("errorDescription")))
            raise SoapFault(int(code), description[:80])
    raise RemoteProtocolError("bad-response", f"neither {action}Response nor a UPnP error")


# ---- arguments


def mapping_arguments(
    transport: str, internal: tuple[str, int], external_port: int, lifetime: int, description: str
) -> list[tuple[str, str | int]]:
    """Of AddPortMapping and AddAnyPortMapping; ``lifetime`` 0 is for ever."""
    host, port = internal
    return [
        ("NewRemoteHost", ""),
        ("NewExternalPort", external_port),
        ("NewProtocol", transport.upper()),
        ("NewInternalPort", port),
        ("NewInternalClient", host),
        ("NewEnabled", 1),
        ("NewPortMappingDescription", description),
        ("NewLeaseDuration", lifetime),
    ]


def entry_arguments(transport: str, external_port: int) -> list[tuple[str, str | int]]:
    """Of GetSpecificPortMappingEntry and DeletePortMapping."""
    return [("NewRemoteHost", ""), ("NewExternalPort", external_port), ("NewProtocol", transport.upper())]


def pinhole_arguments(protocol: int, internal: tuple[str, int], lifetime: int) -> list[tuple[str, str | int]]:
    """Of AddPinhole: from any remote host and port, for 1 to LONGEST_PINHOLE seconds; ``protocol`` as IANA numbers."""
    host, port = internal
    return [
        ("RemoteHost", ""),
        ("RemotePort", 0),
        ("InternalClient", host),
        ("InternalPort", port),
        ("Protocol", protocol),
        ("LeaseTime", max(1, min(lifetime, LONGEST_PINHOLE))),
    ]


def port_untrusted(results: Mapping[str, str], name: str) -> int:
    """A result that is a port, 1 to 65535.  Raises RemoteProtocolError("bad-response")."""
    return _number_untrusted(results, name, 1, 65535)


def unique_id_untrusted(results: Mapping[str, str]) -> int:
    """The UniqueID of a pinhole, 0 to 65535.  Raises RemoteProtocolError("bad-response")."""
    return _number_untrusted(results, "UniqueID", 0, 65535)


def _number_untrusted(results: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = results.get(name, "")
    if text.isascii() and text.isdecimal() and len(text) <= 5 and low <= int(text) <= high:
        return int(text)
    raise RemoteProtocolError("bad-response", f"{name} is {text[:40]!r}")
