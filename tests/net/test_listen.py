"""One port number for both transports and both families."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from swarm.endpoint import Endpoint
from swarm.errors import SwarmError
from swarm.net.bound import BoundNetwork
from swarm.net.listen import OpenPorts, PortForbidden, PortInUse, following_ports, open_ports
from swarm.net.network import DatagramSocket, Listener
from swarm.net.real import RealNetwork


@contextmanager
def held(kind: int, family: int = socket.AF_INET, port: int = 0) -> Iterator[int]:
    """A port that another program holds, on one transport and family."""
    with socket.socket(family, kind) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield sock.getsockname()[1]


def numbers(ports: OpenPorts) -> list[int]:
    return [opened.local.port for opened in (ports.udp4, ports.udp6, ports.tcp4, ports.tcp6) if opened is not None]


async def test_all_four_sockets_share_one_number() -> None:
    ports = await open_ports(RealNetwork(), [0])
    assert numbers(ports) == [ports.port] * 4
    ports.close()
    again = await open_ports(RealNetwork(), [ports.port])
    assert again.port == ports.port
    again.close()


async def test_without_tcp_only_the_lock_is_taken() -> None:
    ports = await open_ports(RealNetwork(), [0], tcp=False)
    assert (ports.tcp4, ports.tcp6) == (None, None)
    assert numbers(ports) == [ports.port] * 2
    ports.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_wanted_port_that_any_of_the_four_lacks_is_one_sentence_and_leaves_nothing_open(
    kind: int, family: int
) -> None:
    with held(kind, family) as port:
        with pytest.raises(PortInUse) as caught:
            await open_ports(RealNetwork(), [port])
        assert isinstance(caught.value, SwarmError)
        assert caught.value.code == 1
        assert str(caught.value) == f"port {port} is in use by another program"
    ports = await open_ports(RealNetwork(), [port])
    ports.close()


async def test_a_second_instance_is_locked_out() -> None:
    ports = await open_ports(RealNetwork(), [0])
    with pytest.raises(PortInUse):
        await open_ports(RealNetwork(), [ports.port])
    ports.close()


async def test_the_next_candidate_is_used_when_the_remembered_one_is_taken() -> None:
    with held(socket.SOCK_DGRAM) as port:
        ports = await open_ports(RealNetwork(), following_ports(port))
        assert ports.port in following_ports(port)[1:]
        ports.close()


async def test_no_candidate_left_is_said() -> None:
    with (
        held(socket.SOCK_DGRAM) as one,
        held(socket.SOCK_STREAM) as two,
        pytest.raises(PortInUse, match="no free port"),
    ):
        await open_ports(RealNetwork(), [one, two])


def test_following_ports_stay_in_the_dynamic_range_and_end_with_any() -> None:
    assert following_ports(65_534)[:4] == [65_534, 65_535, 49_152, 49_153]
    assert following_ports(65_535)[:2] == [65_535, 49_152]
    assert following_ports(6881)[:3] == [6881, 49_152, 49_153]
    ports = following_ports(50_000)
    assert ports[-1] == 0
    assert len(set(ports)) == len(ports)


class Refusing(RealNetwork):
    """A network that answers some calls with an errno of ours, each a number of times."""

    def __init__(self, **refusals: tuple[int, int]) -> None:
        super().__init__()
        self.refusals = refusals
        self.opened: list[DatagramSocket | Listener] = []

    def refuse(self, call: str) -> None:
        code, times = self.refusals.get(call, (0, 0))
        if times:
            self.refusals[call] = code, times - 1
            raise OSError(code, "refused")

    async def bind_udp(self, local: Endpoint, **options: object) -> DatagramSocket:  # type: ignore[override]
        self.refuse("udp6" if local.is_ipv6 else "udp4")
        return await super().bind_udp(local)

    async def listen_tcp(self, local: Endpoint) -> Listener:  # type: ignore[override]
        self.refuse("tcp6" if local.is_ipv6 else "tcp4")
        return await super().listen_tcp(local)


async def test_any_number_is_drawn_again_until_all_four_are_free() -> None:
    ports = await open_ports(Refusing(tcp4=(errno.EADDRINUSE, 3), udp6=(errno.EADDRINUSE, 2)), [0])
    assert numbers(ports) == [ports.port] * 4
    ports.close()
    with pytest.raises(PortInUse, match="no free port"):
        await open_ports(Refusing(tcp6=(errno.EADDRINUSE, 1000)), [0])


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_a_family_this_machine_lacks_is_left_out(code: int) -> None:
    ports = await open_ports(Refusing(udp6=(code, 1000)), [0])
    assert (ports.udp6, ports.tcp6) == (None, None)
    assert numbers(ports) == [ports.port] * 2
    ports.close()
    ports = await open_ports(Refusing(udp4=(code, 1000)), [0])
    assert (ports.udp4, ports.tcp4) == (None, None)
    assert numbers(ports) == [ports.port] * 2
    ports.close()


async def test_neither_family_is_the_kernels_own_error() -> None:
    with pytest.raises(OSError) as caught:
        await open_ports(BoundNetwork(RealNetwork(), "203.0.113.77"), [0])
    assert caught.value.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def test_other_refusals_are_not_hidden() -> None:
    with pytest.raises(OSError) as caught:
        await open_ports(Refusing(udp6=(errno.ENOBUFS, 1)), [0])
    assert caught.value.errno == errno.ENOBUFS
    with pytest.raises(PortForbidden, match="port 80 may not be used"):
        await open_ports(Refusing(udp4=(errno.EACCES, 1)), [80])


async def test_a_bind_opens_its_family_only() -> None:
    ports = await open_ports(BoundNetwork(RealNetwork(), "127.0.0.5"), [0])
    assert ports.udp4 is not None
    assert ports.udp4.local == Endpoint("127.0.0.5", ports.port)
    assert (ports.udp6, ports.tcp6) == (None, None)
    ports.close()
