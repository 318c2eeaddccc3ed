"""NAT-PMP datagrams and retransmission times (RFC 6886).  Sends nothing; `swarm.gateway.clients.natpmp` does.

All integers are big-endian.  The gateway listens on UDP port 5351 and multicasts address responses from there to
224.0.0.1:5350 when it has restarted or its outside address has changed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from swarm.errors import RemoteProtocolError
from swarm.gateway.method import Transport

SERVER_PORT = 5351
ANNOUNCEMENT_GROUP, ANNOUNCEMENT_PORT = "224.0.0.1", 5350

VERSION = 0
OPCODE_ADDRESS = 0
OPCODES: dict[Transport, int] = {"udp": 1, "tcp": 2}

FIRST_WAIT = 0.25  # seconds, doubling (§3.1)
ATTEMPTS = 9  # the last waits 64 s

UNSUPPORTED_VERSION = 1
REASONS = {
    UNSUPPORTED_VERSION: "unsupported",
    2: "refused",
    3: "network-failure",  # the gateway itself has no outside address yet
    4: "out-of-resources",
    5: "unsupported",
}
"""Why a request failed, by result code (§3.5); any other code is ``refused``."""

_MAP_REQUEST = struct.Struct("!BBHHHI")
_HEAD = struct.Struct("!BBHI")
_ADDRESS = struct.Struct("!4s")
_MAPPED = struct.Struct("!HHI")


@dataclass(frozen=True, slots=True)
class AddressResponse:
    """The gateway's outside address, also as an announcement."""

    epoch: int
    external_host: str


@dataclass(frozen=True, slots=True)
class MapResponse:
    """A port was opened for ``lifetime`` seconds, or closed (``lifetime`` 0)."""

    epoch: int
    transport: Transport
    internal_port: int
    external_port: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A request failed; ``opcode`` is the request's.  ``result`` is a key of REASONS, or unknown."""

    epoch: int
    opcode: int
    result: int


Response = AddressResponse | MapResponse | ErrorResponse


def encode_address_request() -> bytes:
    """version u8 = 0, opcode u8 = 0 (§3.2)."""
    return bytes((VERSION, OPCODE_ADDRESS))


def encode_map_request(transport: Transport, internal_port: int, external_port: int, lifetime: int) -> bytes:
    """A request to open a port (§3.3), or with ``lifetime`` 0 to close it (§3.4).

    version u8 = 0, opcode u8 (1 UDP, 2 TCP), reserved u16, internal port u16, external port u16, lifetime u32.
    ``external_port`` is a suggestion, 0 for none; to close it must be 0.
    """
    return _MAP_REQUEST.pack(VERSION, OPCODES[transport], 0, internal_port, external_port, lifetime)


def parse_response_untrusted(data: bytes) -> Response:
    """One response: version u8 = 0, 128 + opcode u8, result u16, epoch u32, and on success

    * opcode 0: the outside IPv4 address (§3.2);
    * opcode 1, 2: internal port u16, external port u16, lifetime u32 (§3.3).

    An error may end after the epoch (§3.5).  Raises RemoteProtocolError("bad-response") for anything else.
    """
    if len(data) < _HEAD.size:
        raise _bad(f"{len(data)} bytes")
    version, opcode, result, epoch = _HEAD.unpack_from(data)
    if version != VERSION or opcode < 128:
        raise _bad(f"version {version}, opcode {opcode}")
    opcode -= 128
    body = data[_HEAD.size :]
    if result:
        return ErrorResponse(epoch, opcode, result)
    if opcode == OPCODE_ADDRESS and len(body) == _ADDRESS.size:
        return AddressResponse(epoch, str(IPv4Address(body)))
    for transport, number in OPCODES.items():
        if opcode == number and len(body) == _MAPPED.size:
            return MapResponse(epoch, transport, *_MAPPED.unpack(body))
    raise _bad(f"{len(body)} bytes of body for opcode {opcode}")


def retransmission_waits() -> Iterator[float]:
    """How long to wait for an answer after each sending; after the last the gateway speaks no NAT-PMP (§3.1)."""
    return (FIRST_WAIT * 2**attempt for attempt in range(ATTEMPTS))


def _bad(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-response", f"NAT-PMP: {detail}")
