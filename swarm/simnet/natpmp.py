"""NAT-PMP (RFC 6886) and PCP (RFC 6887: MAP, ANNOUNCE, PREFER_FAILURE) of a simulated router, on UDP port 5351.

Both share the port and are told apart by the first byte.  IPv6 clients get pinholes.  Not here: PEER, FILTER,
THIRD_PARTY.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_address

import trio

from swarm.endpoint import Endpoint
from swarm.net.network import DatagramSocket, Outgoing, Path
from swarm.simnet.opener import Opener

SERVER_PORT = 5351
ANNOUNCEMENTS = Endpoint("224.0.0.1", 5350)
ANNOUNCEMENT_COUNT = 10  # RFC 6886 §3.2.1: the first at once, then after 0.25 s, doubling
FIRST_INTERVAL = 0.25  # seconds

NATPMP_MAP = struct.Struct("!BBHHHI")  # version, opcode, reserved, internal port, suggested external port, lifetime
NATPMP_MAPPED = struct.Struct("!BBHIHHI")  # version, opcode, result, epoch, internal port, external port, lifetime
NATPMP_ADDRESS = struct.Struct("!BBHI4s")  # version, opcode, result, epoch, external address
NATPMP_ERROR = struct.Struct("!BBHI")
NATPMP_PROTOCOLS = {1: "udp", 2: "tcp"}
UNSUPPORTED_VERSION, NOT_AUTHORIZED, OUT_OF_RESOURCES, UNSUPPORTED_OPCODE = 1, 2, 4, 5

PCP_REQUEST = struct.Struct("!BBHI16s")  # version, opcode, reserved, lifetime, client address
PCP_RESPONSE = struct.Struct("!BBBBII12x")  # version, R + opcode, reserved, result, lifetime, epoch
PCP_MAP = struct.Struct("!12sB3xHH16s")  # nonce, protocol, internal port, external port, external address
PCP_PROTOCOLS = {17: "udp", 6: "tcp"}
PCP_LONGEST = 1100  # bytes
PREFER_FAILURE = 2
UNSUPP_VERSION, PCP_NOT_AUTHORIZED, MALFORMED_REQUEST, UNSUPP_OPCODE, UNSUPP_OPTION, MALFORMED_OPTION = range(1, 7)
NO_RESOURCES, UNSUPP_PROTOCOL, CANNOT_PROVIDE_EXTERNAL, ADDRESS_MISMATCH = 8, 9, 11, 12
ERROR_LIFETIME = 30  # seconds until a client should try again


async def serve_port_control(opener: Opener) -> None:
    """Answer NAT-PMP and PCP, whichever the gateway speaks, and announce restarts."""
    inside = opener.router.inside
    server = PortControl(opener)
    async with trio.open_nursery() as nursery:
        bound = await inside.bind_udp(Endpoint("0.0.0.0", SERVER_PORT))
        nursery.start_soon(_answer, bound, server)
        bound6 = await inside.bind_udp(Endpoint("::", SERVER_PORT))
        nursery.start_soon(_answer, bound6, server)
        if opener.behaviour.announces:
            nursery.start_soon(_announce_restarts, bound, server)


class PortControl:
    """The two protocols as one function from request to response."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._nonces: dict[tuple[str, Endpoint], bytes] = {}

    def respond(self, request: bytes, client: str) -> bytes | None:
        """The answer to a request from the address ``client``; None for what deserves none."""
        speaks = self._opener.behaviour.protocols
        if len(request) < 2 or request[1] & 0x80:
            return None
        if request[0] == 0 and "natpmp" in speaks:
            return self._respond_natpmp(request, client)
        if "pcp" in speaks:
            return self._respond_pcp(request, client)
        return self._natpmp_error(request[1], UNSUPPORTED_VERSION)

    def announcement(self) -> list[bytes]:
        """What is multicast after a restart, in each protocol that is spoken."""
        speaks = self._opener.behaviour.protocols
        natpmp = [self._natpmp_address()] if "natpmp" in speaks else []
        pcp = [self._pcp_header(0, 0, 0)] if "pcp" in speaks else []
        return natpmp + pcp

    # ---- NAT-PMP

    def _respond_natpmp(self, request: bytes, client: str) -> bytes | None:
        opcode = request[1]
        if opcode == 0:
            return self._natpmp_address()
        protocol = NATPMP_PROTOCOLS.get(opcode)
        if protocol is None:
            return self._natpmp_error(opcode, UNSUPPORTED_OPCODE)
        if len(request) != NATPMP_MAP.size:
            return None
        _, _, _, internal_port, suggested, lifetime = NATPMP_MAP.unpack(request)
        internal = Endpoint(client, internal_port)
        if lifetime == 0:
            self._close_natpmp(protocol, internal)
            return NATPMP_MAPPED.pack(0, 128 + opcode, 0, self._opener.epoch, internal_port, 0, 0)
        lease = min(lifetime, self._opener.behaviour.longest_lease)
        opened = self._open(protocol, internal, suggested, lease) if internal_port else -PCP_NOT_AUTHORIZED
        if opened < 0:
            return self._natpmp_error(opcode, NOT_AUTHORIZED if opened == -PCP_NOT_AUTHORIZED else OUT_OF_RESOURCES)
        return NATPMP_MAPPED.pack(0, 128 + opcode, 0, self._opener.epoch, internal_port, opened, lease)

    def _close_natpmp(self, protocol: str, internal: Endpoint) -> None:
        """Close one port, or all of the client's for internal port 0 (RFC 6886 §3.4)."""
        nat = self._opener.nat
        for port in nat.forwards_at(protocol, internal.host, self._opener.now):
            forward = nat.forward_at(protocol, port, self._opener.now)
            if forward is not None and internal.port in (0, forward.internal.port):
                nat.remove_forward(protocol, port)

    def _natpmp_address(self) -> bytes:
        return NATPMP_ADDRESS.pack(0, 128, 0, self._opener.epoch, ip_address(self._opener.wan).packed)

    def _natpmp_error(self, opcode: int, result: int) -> bytes:
        return NATPMP_ERROR.pack(0, 128 + (opcode & 0x7F), result, self._opener.epoch)

    # ---- PCP

    def _respond_pcp(self, request: bytes, client: str) -> bytes:
        version, opcode = request[0], request[1]
        if version != 2:
            return self._pcp_header(opcode, UNSUPP_VERSION, ERROR_LIFETIME)
        if len(request) < PCP_REQUEST.size or len(request) % 4 or len(request) > PCP_LONGEST:
            return self._pcp_header(opcode, MALFORMED_REQUEST, ERROR_LIFETIME)
        _, _, _, lifetime, address = PCP_REQUEST.unpack_from(request)
        if _from_16(address) != client:
            return self._pcp_header(opcode, ADDRESS_MISMATCH, ERROR_LIFETIME)
        body = request[PCP_REQUEST.size :]
        if opcode == 0:
            return self._pcp_header(0, 0, 0)
        if opcode != 1:
            return self._pcp_header(opcode, UNSUPP_OPCODE, ERROR_LIFETIME)
        if len(body) < PCP_MAP.size:
            return self._pcp_header(1, MALFORMED_REQUEST, ERROR_LIFETIME)
        result, lease, external = self._map(body, client, lifetime)
        if result:
            return self._pcp_header(1, result, ERROR_LIFETIME) + body
        nonce, number, internal_port, _, _ = PCP_MAP.unpack_from(body)
        mapped = PCP_MAP.pack(nonce, number, internal_port, external.port, _to_16(external.host))
        return self._pcp_header(1, 0, lease) + mapped + body[PCP_MAP.size :]

    def _map(self, body: bytes, client: str, lifetime: int) -> tuple[int, int, Endpoint]:
        """(result, lifetime, external endpoint) of a MAP request (RFC 6887 §11)."""
        nonce, number, internal_port, suggested, _ = PCP_MAP.unpack_from(body)
        internal = Endpoint(client, internal_port)
        protocol = PCP_PROTOCOLS.get(number)
        if protocol is None or not internal_port:
            return UNSUPP_PROTOCOL, 0, internal
        result, exact = _options(body[PCP_MAP.size :])
        if result:
            return result, 0, internal
        key = protocol, internal
        if self._is_open(protocol, internal) and self._nonces.get(key, nonce) != nonce:
            return PCP_NOT_AUTHORIZED, 0, internal
        self._nonces[key] = nonce
        if lifetime == 0:
            self._close_pcp(protocol, internal)
            return 0, 0, Endpoint(self._external_host(internal), suggested)
        lease = min(lifetime, self._opener.behaviour.longest_lease)
        opened = self._open(protocol, internal, suggested, lease, exact=exact)
        return (-opened, 0, internal) if opened < 0 else (0, lease, Endpoint(self._external_host(internal), opened))

    def _close_pcp(self, protocol: str, internal: Endpoint) -> None:
        if internal.is_ipv6 and self._opener.router.firewall is not None:
            self._opener.router.firewall.remove_pinhole(protocol, internal)
        port = self._opener.current(protocol, internal)
        if port is not None:
            self._opener.nat.remove_forward(protocol, port)

    def _is_open(self, protocol: str, internal: Endpoint) -> bool:
        firewall = self._opener.router.firewall
        if internal.is_ipv6 and firewall is not None:
            return firewall.has_pinhole(protocol, internal, self._opener.now)
        return self._opener.current(protocol, internal) is not None

    def _external_host(self, internal: Endpoint) -> str:
        return internal.host if internal.is_ipv6 else self._opener.wan

    def _pcp_header(self, opcode: int, result: int, lifetime: int) -> bytes:
        return PCP_RESPONSE.pack(2, 0x80 | opcode, 0, result, lifetime, self._opener.epoch)

    # ---- both

    def _open(self, protocol: str, internal: Endpoint, suggested: int, lease: int, *, exact: bool = False) -> int:
        """The external port, or minus a PCP result code."""
        opener = self._opener
        if opener.behaviour.refuses:
            return -PCP_NOT_AUTHORIZED
        current = None if internal.is_ipv6 else opener.current(protocol, internal)
        if current is None and opener.full:
            return -NO_RESOURCES
        if internal.is_ipv6:
            if opener.router.firewall is not None:
                opener.router.firewall.add_pinhole(protocol, internal, opener.now, lifetime=lease)
            return internal.port
        if exact and not opener.open(protocol, internal, suggested, lease):
            return -CANNOT_PROVIDE_EXTERNAL
        opened = suggested if exact else opener.open_any(protocol, internal, current or suggested, lease)
        return -NO_RESOURCES if opened is None else opened


def _options(data: bytes) -> tuple[int, bool]:
    """(result, whether PREFER_FAILURE is there) of the options after a MAP request (RFC 6887 §7.3)."""
    exact = False
    while data:
        if len(data) < 4 or len(data) < 4 + int.from_bytes(data[2:4], "big"):
            return MALFORMED_OPTION, False
        if data[0] == PREFER_FAILURE:
            exact = True
        elif data[0] < 128:
            return UNSUPP_OPTION, False
        length = int.from_bytes(data[2:4], "big")
        data = data[4 + length + -length % 4 :]
    return 0, exact


def _from_16(address: bytes) -> str:
    parsed = IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def _to_16(host: str) -> bytes:
    return IPv6Address(host if ":" in host else f"::ffff:{host}").packed


async def _answer(bound: DatagramSocket, server: PortControl) -> None:
    while True:
        await bound.wait_readable()
        for received in bound.receive_nowait():
            response = server.respond(bytes(received.data), received.path.remote.host)
            if response is not None:
                bound.send_nowait(Outgoing([response], len(response), received.path))


async def _announce_restarts(bound: DatagramSocket, server: PortControl) -> None:
    router = server._opener.router
    while True:
        await router.wait_reboot()
        interval = FIRST_INTERVAL
        for _ in range(ANNOUNCEMENT_COUNT):
            for announcement in server.announcement():
                bound.send_nowait(Outgoing([announcement], len(announcement), Path(None, ANNOUNCEMENTS)))
            with trio.move_on_after(interval) as scope:
                await router.wait_reboot()
            interval = FIRST_INTERVAL if not scope.cancelled_caught else 2 * interval
