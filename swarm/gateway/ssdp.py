"""SSDP searches for Internet Gateway Devices (UPnP Device Architecture 1.1 §1.3).  Sends nothing.

Searches go to 239.255.255.250:1900 or [ff02::c]:1900 and are answered to the port they came from.  Not here: NOTIFY.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from swarm.endpoint import Endpoint, normalise_host
from swarm.errors import RemoteProtocolError

GROUPS, PORT = {4: "239.255.255.250", 6: "ff02::c"}, 1900
TTL = 2  # UPnP Device Architecture 1.1 §1.3.2
TARGETS = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (2, 1))
"""What is searched for.  A version 2 device answers for version 1 as well, but not every one does."""

SEARCH_TIMES = (0.0, 0.3, 1.0)  # seconds: multicast over Wi-Fi is lost often, and never repeated by the link
ANSWER_WINDOW = 3.0  # seconds to listen after the first search
LONGEST_ANSWER = 2048  # bytes

_STATUS = re.compile(rb"HTTP/1\.[01] 200\b")


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """A device, and where its description is.  ``target`` is the type it answers for."""

    location: str
    target: str
    server: str


def encode_search(target: str, group: Endpoint) -> bytes:
    """An M-SEARCH to one of GROUPS, to be answered within a second (MX)."""
    return (f'M-SEARCH * HTTP/1.1\r\nHOST: {group}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: {target}\r\n\r\n').encode(
        "ascii"
    )


def parse_search_answer_untrusted(data: bytes, sender: str) -> SearchAnswer:
    """The answer of a gateway at the address ``sender`` to a search for TARGETS.

    The description must lie on the very host that answers: else anybody on the LAN could have us send requests to a
    third.  Raises RemoteProtocolError("bad-response") for everything else.
    """
    if len(data) > LONGEST_ANSWER or not _STATUS.match(data):
        raise _bad("no answer to a search")
    headers: dict[str, str] = {}
    for line in data.decode("latin-1").split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().upper(), value.strip())
    target = headers.get("ST", "")
    if target not in TARGETS:
        raise _bad(f"it is {target[:80]!r}")
    location = headers.get("LOCATION", "")
    if not is_url_at(location, sender):
        raise _bad(f"{sender} describes itself at {location[:80]!r}")
    return SearchAnswer(location, target, headers.get("SERVER", ""))


def is_url_at(url: str, host: str) -> bool:
    """Whether ``url`` is http and its host is literally the address ``host`` (scopes aside)."""
    try:
        parts = urlsplit(url)
        named = normalise_host(parts.hostname or "")
        port = parts.port
    except ValueError:
        return False
    plain = parts.scheme == "http" and parts.username is None and port != 0 and url.isprintable()
    return plain and ip_address(named.partition("%")[0]) == ip_address(host.partition("%")[0])


def _bad(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-response", f"SSDP: {detail}")
