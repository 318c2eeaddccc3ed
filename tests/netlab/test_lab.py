"""The laboratory's kernel NATs are what their names say (RFC 4787): measured with plain sockets, before anybody relies
on them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import NamedTuple

import pytest

from tests.needs import need_program
from tests.netlab.lab import Lab, Machine, wait_for_gateway

pytestmark = pytest.mark.netlab

PORT = 5000
PATIENCE = 0.3  # seconds for a packet to cross the laboratory
UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM


class Seen(NamedTuple):
    """What the outside saw: the ports of one socket towards three remotes, and who could send back in."""

    ports: tuple[int, int, int]
    lets_in: frozenset[str]


@pytest.fixture
def lab() -> Iterator[Lab]:
    need_program("miniupnpd")  # the carrier kinds have one
    with Lab() as made:
        yield made


def send(one: socket.socket, other: socket.socket, to: tuple[str, int]) -> tuple[str, int] | None:
    """Send a packet; where it seemed to come from, None if it did not arrive."""
    one.sendto(b"x", to)
    other.settimeout(PATIENCE)
    try:
        _, source = other.recvfrom(10)
    except TimeoutError:
        return None
    return source[0], source[1]


def observe(lab: Lab, machine: Machine) -> Seen | None:
    """None if no packet got out."""
    near, far = lab.public("near"), lab.public("far")
    with (
        closing(machine.bind(UDP, PORT)) as inside,
        closing(near.bind(UDP, 6000)) as first,
        closing(near.bind(UDP, 6001)) as second,
        closing(far.bind(UDP, 6000)) as third,
    ):
        mapped = send(inside, first, (near.address, 6000))
        if mapped is None:
            return None
        assert mapped[0] == machine.external
        names = {"same": first, "other port": second, "other address": third}
        lets_in = {name for name, outside in names.items() if send(outside, inside, mapped) is not None}
        later = [send(inside, second, (near.address, 6001)), send(inside, third, (far.address, 6000))]
    assert None not in later
    return Seen((mapped[1], *(each[1] for each in later if each is not None)), frozenset(lets_in))  # type: ignore[arg-type]


ANYBODY = frozenset({"same", "other port", "other address"})
ADDRESS = frozenset({"same", "other port"})
ENDPOINT = frozenset({"same"})


@pytest.mark.parametrize(
    ("kind", "lets_in"),
    [
        ("open", ANYBODY),
        ("fullcone", ANYBODY),
        ("restricted", ADDRESS),
        ("cone", ENDPOINT),
        ("upnp", ENDPOINT),
        ("natpmp", ENDPOINT),
        ("cgn", ENDPOINT),
    ],
)
def test_endpoint_independent_mapping(lab: Lab, kind: str, lets_in: frozenset[str]) -> None:
    assert observe(lab, lab.behind(kind, "h")) == Seen((PORT, PORT, PORT), lets_in)


@pytest.mark.parametrize("kind", ["symrand", "cgnsym"])
def test_random_ports_for_every_remote(lab: Lab, kind: str) -> None:
    seen = observe(lab, lab.behind(kind, "h"))
    assert seen is not None
    assert seen.lets_in == ENDPOINT
    first, second, third = seen.ports
    assert len({first, second, third}) == 3
    assert second - first != third - second


def test_ports_in_sequence_for_every_remote(lab: Lab) -> None:
    seen = observe(lab, lab.behind("symseq", "h"))
    assert seen is not None
    assert seen.lets_in == ENDPOINT
    assert [port - seen.ports[0] for port in seen.ports] == [0, 1, 2]


def test_no_udp_but_tcp(lab: Lab) -> None:
    machine = lab.behind("udpblock", "h")
    assert observe(lab, machine) is None
    assert tcp_source(machine, lab.public("p")) == PORT


@pytest.mark.parametrize("kind", ["cone", "udpblock", "cgn"])
def test_tcp_keeps_its_port_and_strangers_get_no_answer(lab: Lab, kind: str) -> None:
    machine = lab.behind(kind, "h")
    assert tcp_ports(lab, machine) == [PORT, PORT]
    stranger = lab.public("s")
    with closing(stranger.bind(TCP)) as knocking, closing(machine.bind(TCP, PORT)) as listener:
        listener.listen()
        knocking.settimeout(PATIENCE)
        with pytest.raises(TimeoutError):  # a router that refuses would end simultaneous opens
            knocking.connect((machine.external, PORT))


@pytest.mark.parametrize("kind", ["symseq", "symrand", "cgnsym"])
def test_tcp_gets_a_port_for_every_remote(lab: Lab, kind: str) -> None:
    first, second = tcp_ports(lab, lab.behind(kind, "h"))
    assert PORT not in (first, second)
    assert (second - first == 1) is (kind == "symseq")


def tcp_ports(lab: Lab, machine: Machine) -> list[int]:
    """Where connections from one port of the machine to two strangers seem to come from."""
    return [tcp_source(machine, lab.public(name)) for name in ("near", "far")]


def tcp_source(machine: Machine, public: Machine) -> int:
    with closing(public.bind(TCP, 7000)) as listener, closing(machine.bind(TCP, PORT)) as dialler:
        listener.listen()
        dialler.settimeout(2)
        dialler.connect((public.address, 7000))
        accepted, source = listener.accept()
        accepted.close()
        assert source[0] == machine.external
        return int(source[1])


@pytest.mark.parametrize("kind", ["cone", "cgn"])
def test_whoever_knocked_in_vain_does_not_change_the_mapping(lab: Lab, kind: str) -> None:
    """A connection that the router took for its own would keep the port."""
    machine, public = lab.behind(kind, "h"), lab.public("p")
    with closing(machine.bind(UDP, PORT)) as inside, closing(public.bind(UDP, 6000)) as outside:
        assert send(outside, inside, (machine.external, PORT)) is None
        assert send(inside, outside, (public.address, 6000)) == (machine.external, PORT)


SEARCH = b"""M-SEARCH * HTTP/1.1\r
HOST: 239.255.255.250:1900\r
MAN: "ssdp:discover"\r
MX: 1\r
ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r
\r
"""


@pytest.mark.parametrize(
    ("kind", "speaks"),
    [
        ("upnp", {"upnp"}),
        ("natpmp", {"nat-pmp"}),
        ("cgn", {"upnp", "nat-pmp"}),
        ("cone", set()),
    ],
)
def test_what_a_router_speaks(lab: Lab, kind: str, speaks: set[str]) -> None:
    machine = lab.behind(kind, "h")
    if speaks:
        wait_for_gateway(machine)
    requests = {"upnp": (SEARCH, ("239.255.255.250", 1900)), "nat-pmp": (bytes(2), (gateway_of(machine), 5351))}
    answered = set()
    for name, (request, to) in requests.items():
        with closing(machine.bind(UDP)) as asking:
            asking.sendto(request, to)
            asking.settimeout(2 if name in speaks else PATIENCE)
            with suppress(TimeoutError, ConnectionRefusedError):
                asking.recv(2000)
                answered.add(name)
    assert answered == speaks


def gateway_of(machine: Machine) -> str:
    return f"{machine.address.rpartition('.')[0]}.1"


def test_ipv6_only_on_request() -> None:
    with Lab(ipv6=False) as made:
        machine = made.behind("cgn", "h")
        assert machine.router is not None
        assert [each.run("ip", "-6", "addr", "show", "dev", "eth0") for each in (machine, made.public("p"))] == ["", ""]
        assert machine.router.run("ip", "-6", "route") == ""


def test_ipv6_alone_is_firewalled_and_not_translated() -> None:
    with Lab(ipv4=False) as made:
        machine, public = made.behind("v6fw", "h"), made.public("p")
        assert [each.run("ip", "-4", "addr", "show", "dev", "eth0") for each in (machine, public)] == ["", ""]
        assert observe(made, machine) == Seen((PORT, PORT, PORT), ENDPOINT)
        assert tcp_source(machine, public) == PORT
        with closing(public.bind(TCP)) as knocking, closing(machine.bind(TCP, PORT)) as listener:
            listener.listen()
            knocking.settimeout(PATIENCE)
            with pytest.raises(TimeoutError):
                knocking.connect((machine.address, PORT))


def test_ipv6_alone_in_the_open() -> None:
    with Lab(ipv4=False) as made:
        assert observe(made, made.behind("v6open", "h")) == Seen((PORT, PORT, PORT), ANYBODY)


def test_two_machines_behind_one_router_share_its_address(lab: Lab) -> None:
    one = lab.behind("cone", "h")
    other = lab.sibling("h2", one)
    public = lab.public("p")
    with (
        closing(one.bind(UDP, PORT)) as first,
        closing(other.bind(UDP, PORT)) as second,
        closing(public.bind(UDP, 6000)) as outside,
    ):
        sources = [send(each, outside, (public.address, 6000)) for each in (first, second)]
        assert [source and source[0] for source in sources] == [one.external] * 2
        assert sources[0] != sources[1]
        assert send(first, second, (other.address, PORT)) == (one.address, PORT)
