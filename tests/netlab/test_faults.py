"""The faults of the laboratory are what their names say: measured with plain sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.needs import need_program
from tests.netlab.faults import change_external_address, plug, reboot_router, shorten_udp_mappings, unplug
from tests.netlab.lab import Lab, wait_for_gateway
from tests.netlab.test_lab import PORT, UDP, send

pytestmark = pytest.mark.netlab

MAPPING_LIFE = 1  # seconds


@pytest.fixture
def lab() -> Iterator[Lab]:
    for program in ("miniupnpd", "ss"):
        need_program(program)
    with Lab() as made:
        yield made


@pytest.mark.parametrize("kind", ["cone", "symseq"])
def test_after_a_reboot_nobody_gets_in_by_an_old_mapping(lab: Lab, kind: str) -> None:
    machine, public = lab.behind(kind, "h"), lab.public("p")
    with closing(machine.bind(UDP, PORT)) as inside, closing(public.bind(UDP, 6000)) as outside:
        mapped = send(inside, outside, (public.address, 6000))
        assert mapped is not None
        assert send(outside, inside, mapped) == (public.address, 6000)
        reboot_router(lab, machine)
        assert send(outside, inside, mapped) is None
        again = send(inside, outside, (public.address, 6000))
        assert again is not None
        assert send(outside, inside, again) == (public.address, 6000)


def test_after_a_reboot_a_gateway_counts_from_zero(lab: Lab) -> None:
    machine = lab.behind("natpmp", "h")
    wait_for_gateway(machine)
    gateway = (f"{machine.address.rpartition('.')[0]}.1", 5351)
    with closing(machine.bind(UDP)) as asking:
        asking.settimeout(2)

        def epoch() -> int:
            """NAT-PMP: seconds since the gateway's tables were empty (RFC 6886 §3.2, §3.6)."""
            asking.sendto(bytes(2), gateway)
            return int.from_bytes(asking.recv(100)[4:8])

        first = epoch()
        time.sleep(2)
        assert epoch() - first in (2, 3)
        reboot_router(lab, machine)
        wait_for_gateway(machine)
        assert epoch() <= first + 1


@pytest.mark.parametrize("kind", ["symseq", "natpmp", "cgn"])
def test_another_external_address(lab: Lab, kind: str) -> None:
    machine, public = lab.behind(kind, "h"), lab.public("p")
    with closing(machine.bind(UDP, PORT)) as inside, closing(public.bind(UDP, 6000)) as outside:
        mapped = send(inside, outside, (public.address, 6000))
        assert mapped is not None
        assert mapped[0] == machine.external
        change_external_address(lab, machine, "11.11.11.222")
        moved = send(inside, outside, (public.address, 6000))
        assert moved is not None
        assert moved[0] == machine.external == "11.11.11.222"
        assert send(outside, inside, moved) == (public.address, 6000)
        assert send(outside, inside, mapped) is None


@pytest.mark.parametrize("kind", ["cone", "cgn"])
def test_a_mapping_ends_when_it_is_not_used(lab: Lab, kind: str) -> None:
    machine, public = lab.behind(kind, "h"), lab.public("p")
    shorten_udp_mappings(machine, MAPPING_LIFE)
    with closing(machine.bind(UDP, PORT)) as inside, closing(public.bind(UDP, 6000)) as outside:
        mapped = send(inside, outside, (public.address, 6000))
        assert mapped is not None
        time.sleep(MAPPING_LIFE / 2)
        assert send(outside, inside, mapped) == (public.address, 6000)
        time.sleep(MAPPING_LIFE + 0.5)
        assert send(outside, inside, mapped) is None


@pytest.mark.parametrize("kind", ["open", "cone"])
def test_a_machine_that_vanishes_and_comes_back(lab: Lab, kind: str) -> None:
    machine, public = lab.behind(kind, "h"), lab.public("p")
    with closing(machine.bind(UDP, PORT)) as inside, closing(public.bind(UDP, 6000)) as outside:
        mapped = send(inside, outside, (public.address, 6000))
        assert mapped is not None
        unplug(machine)
        assert send(outside, inside, mapped) is None
        plug(machine)
        assert send(inside, outside, (public.address, 6000)) == mapped
