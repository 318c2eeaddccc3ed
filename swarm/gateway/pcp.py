"""PCP datagrams and retransmission times (RFC 6887): MAP, ANNOUNCE, PREFER_FAILURE.  Sends nothing.

All integers are big-endian; an IPv4 address stands in 16 bytes as ::ffff:a.b.c.d.  The server listens on UDP port
5351 and multicasts ANNOUNCE responses from there to 224.0.0.1:5350 or [ff02::1]:5350 when it lost its state.  Not
here: PEER, THIRD_PARTY, FILTER, and authentication (RFC 7652).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.gateway.method import Transport

SERVER_PORT = 5351
ANNOUNCEMENT_GROUPS, ANNOUNCEMENT_PORT = {4: "224.0.0.1", 6: "ff02::1"}, 5350

VERSION = 2
OPCODE_ANNOUNCE, OPCODE_MAP = 0, 1
PROTOCOLS: dict[Transport, int] = {"tcp": 6, "udp": 17}  # as IANA numbers them
PREFER_FAILURE = struct.pack("!BxH", 2, 0)  # an option: code, reserved, length (§13.2)
NONCE_SIZE = 12  # bytes
LONGEST = 1100  # bytes (§7)

FIRST_WAIT = 3.0  # seconds: IRT of §8.1.1
LONGEST_WAIT = 1024.0  # seconds: MRT; neither a count nor a duration ends the retransmissions
JITTER = 0.1  # RAND of §8.1.1: up to this part more or less
LONGEST_ERROR = 1800  # seconds an error may keep us away (§7.2)

SUCCESS, UNSUPP_VERSION = 0, 1
REASONS = {
    UNSUPP_VERSION: "unsupported",
    2: "refused",  # NOT_AUTHORIZED: also another client's nonce
    3: "bad-response",  # MALFORMED_REQUEST
    4: "unsupported",  # UNSUPP_OPCODE
    5: "unsupported",  # UNSUPP_OPTION
    6: "bad-response",  # MALFORMED_OPTION
    7: "network-failure",
    8: "out-of-resources",  # NO_RESOURCES
    9: "unsupported",  # UNSUPP_PROTOCOL
    10: "out-of-resources",  # USER_EX_QUOTA
    11: "conflict",  # CANNOT_PROVIDE_EXTERNAL
    12: "address-mismatch",  # a NAT between us and the server
    13: "out-of-resources",  # EXCESSIVE_REMOTE_PEERS
}
"""Why a request failed, by result code (§7.4); any other code is ``refused``."""

_REQUEST = struct.Struct("!BBHI16s")
_RESPONSE = struct.Struct("!BBBBII12x")
_MAP = struct.Struct("!12sB3xHH16s")
_VERSION_ONLY = 4  # bytes that suffice to learn which version the other end speaks


@dataclass(frozen=True, slots=True)
class Mapped:
    """The body of a MAP response (§11.1)."""

    nonce: bytes
    transport: Transport
    internal_port: int
    external: Endpoint


@dataclass(frozen=True, slots=True)
class Response:
    """One response; ``mapped`` only for opcode MAP.

    ``lifetime`` is in seconds: the mapping's, or on an error how long the same request would fail.  With ``result``
    UNSUPP_VERSION ``version`` is the server's: 0 is NAT-PMP (§9), and the other fields then mean nothing.
    """

    version: int
    opcode: int
    result: int
    lifetime: int
    epoch: int
    mapped: Mapped | None = None


def encode_announce(client: str) -> bytes:
    """Ask for the server's epoch (§14.1.1): the header alone, lifetime 0."""
    return _REQUEST.pack(VERSION, OPCODE_ANNOUNCE, 0, 0, _to_16(client))


def encode_map_request(
    client: str,
    transport: Transport,
    internal_port: int,
    external: Endpoint,
    lifetime: int,
    *,
    nonce: bytes,
    prefer_failure: bool = False,
) -> bytes:
    """A MAP request (§7.1, §11.1) from the address ``client``, which must be the one it is sent from.

    version u8 = 2, R + opcode u8 = 1, reserved u16, lifetime u32, client address 16; nonce 12, protocol u8, reserved 3,
    internal port u16, suggested external port u16 (0: none), suggested external address 16 (unspecified: none).
    ``lifetime`` 0 closes the port.  ``prefer_failure`` takes the suggested port and address or nothing.
    """
    head = _REQUEST.pack(VERSION, OPCODE_MAP, 0, lifetime, _to_16(client))
    body = _MAP.pack(nonce, PROTOCOLS[transport], internal_port, external.port, _to_16(external.host))
    return head + body + (PREFER_FAILURE if prefer_failure else b"")


def parse_response_untrusted(data: bytes) -> Response:
    """One response (§7.2): version u8, 128 + opcode u8, reserved u8, result u8, lifetime u32, epoch u32, reserved 12.

    MAP continues as the request does; options after it are passed over.  Raises RemoteProtocolError("bad-response")
    for what is too short, too long, not a response, or names a protocol that is neither TCP nor UDP.
    """
    if len(data) < _VERSION_ONLY or len(data) > LONGEST or data[1] < 128:
        raise _bad(f"{len(data)} bytes")
    if data[0] != VERSION:
        return Response(data[0], data[1] - 128, UNSUPP_VERSION, 0, 0)
    if len(data) < _RESPONSE.size or len(data) % 4:
        raise _bad(f"{len(data)} bytes")
    version, opcode, _, result, lifetime, epoch = _RESPONSE.unpack_from(data)
    opcode -= 128
    if result:
        lifetime = min(lifetime, LONGEST_ERROR)
    has_body = opcode == OPCODE_MAP and (result == SUCCESS or len(data) >= _RESPONSE.size + _MAP.size)
    mapped = _parse_map(data[_RESPONSE.size :]) if has_body else None
    return Response(version, opcode, result, lifetime, epoch, mapped)


def retransmission_waits(rng: random.Random) -> Iterator[float]:
    """How long to wait for an answer after each sending, without an end (§8.1.1)."""
    nominal = FIRST_WAIT
    while True:
        wait = nominal * (1 + JITTER * (2 * rng.random() - 1))
        yield wait
        nominal = min(2 * wait, LONGEST_WAIT)


def _parse_map(body: bytes) -> Mapped:
    if len(body) < _MAP.size:
        raise _bad(f"{len(body)} bytes of MAP")
    nonce, number, internal_port, external_port, address = _MAP.unpack_from(body)
    for transport, known in PROTOCOLS.items():
        if number == known:
            return Mapped(nonce, transport, internal_port, Endpoint(_from_16(address), external_port))
    raise _bad(f"protocol {number}")


def _to_16(host: str) -> bytes:
    return IPv6Address(host if ":" in host else f"::ffff:{host}").packed


def _from_16(address: bytes) -> str:
    parsed = IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def _bad(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-response", f"PCP: {detail}")
