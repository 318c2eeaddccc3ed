"""The laboratory's kernel NATs are what their names say (RFC 4787): measured with plain sockets, before anybody relies
on them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from tests.needs import need_program
from tests.netlab.lab import Lab, Machine

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
    [("open", ANYBODY), ("fullcone", ANYBODY), ("restricted", ADDRESS), ("cone", ENDPOINT), ("cgn", ENDPOINT)],
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
    public = lab.public("p")
    with closing(public.bind(TCP, 7000)) as listener, closing(machine.bind(TCP, PORT)) as dialler:
        listener.listen()
        dialler.settimeout(2)
        dialler.connect((public.address, 7000))
        accepted, source = listener.accept()
        accepted.close()
        assert source == (machine.external, PORT)


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
