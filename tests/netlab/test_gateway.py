"""A real miniupnpd in a kernel NAT: what our clients open really forwards, and is closed again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.needs import need_module, need_program
from tests.netlab.lab import Lab, Machine, end

pytestmark = pytest.mark.netlab

PORT = 6881
LIMIT = 20.0  # seconds for everything that one test waits for

KNOCK = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
for name, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM)):
    knocker = socket.socket(family, kind)
    knocker.settimeout(float(sys.argv[3]))
    try:
        knocker.connect((host, port))
        knocker.send(b"knock")
        if knocker.recv(10) == b"knock":
            print(name)
    except OSError:
        pass
    knocker.close()
"""


class Mapped:
    """`tests.netlab.mapped` in a machine."""

    def __init__(self, lab: Lab, machine: Machine, method: str, *, ipv6: bool = False) -> None:
        assert machine.router is not None
        inside = machine.address6 if ipv6 else machine.address
        gateway = f"{machine.address.rpartition('.')[0]}.1"
        self.log = lab.directory / "mapped.log"
        arguments = ("-m", "tests.netlab.mapped", method, gateway, inside, str(PORT))
        self.process = machine.python(*arguments, log=self.log)

    def tell(self, count: int, *whats: str) -> list[dict[str, Any]]:
        """The next ``count`` messages of these kinds."""
        assert self.process.stdout is not None
        found: list[dict[str, Any]] = []
        while len(found) < count:
            line = self.process.stdout.readline()
            assert line, self.log.read_text()
            message = json.loads(line)
            if message["what"] in whats:
                found.append(message)
        return found

    def finish(self) -> None:
        """Tell it to close its ports, and wait until it has."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.tell(1, "closed")
        assert self.process.wait(LIMIT) == 0, self.log.read_text()


def knock(stranger: Machine, external: tuple[str, int], patience: float = 2.0) -> set[str]:
    """By which transports a stranger gets an answer."""
    host, port = external
    process = stranger.python("-c", KNOCK, host, str(port), str(patience))
    output, _ = process.communicate(timeout=LIMIT)
    return set(output.split())


def wait_for_gateway(router: Machine, process: subprocess.Popen[str], ports: str) -> None:
    """Until miniupnpd listens."""
    deadline = time.monotonic() + LIMIT
    while ports not in router.run("ss", "-lntu"):
        assert process.poll() is None, "miniupnpd has ended"
        assert time.monotonic() < deadline, "miniupnpd does not listen"
        time.sleep(0.02)


LISTENS = {"upnp": ":1900", "natpmp": ":5351"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    for program in ("miniupnpd", "ss"):
        need_program(program)
    with Lab() as made:
        yield made


def behind(lab: Lab, kind: str) -> Machine:
    machine = lab.behind(kind, "h")
    assert machine.router is not None
    wait_for_gateway(machine.router, machine.router.processes[-1], LISTENS[kind])
    return machine


@pytest.mark.parametrize(
    ("kind", "method", "name"),
    [
        ("natpmp", "pcp", "pcp"),
        ("natpmp", "nat-pmp", "nat-pmp"),
        ("upnp", "upnp", "upnp-igd2"),
        ("upnp", "miniupnpc", "upnp-igd1"),
    ],
)
def test_a_port_opened_by_each_method_really_forwards(lab: Lab, kind: str, method: str, name: str) -> None:
    if method == "miniupnpc":
        need_module("miniupnpc")
    stranger = lab.public("s")
    machine = behind(lab, kind)
    mapped = Mapped(lab, machine, method)
    mappings = mapped.tell(2, name)
    assert [mapping["transport"] for mapping in mappings] == ["udp", "tcp"]
    assert [mapping["external"] for mapping in mappings] == [[machine.external, PORT]] * 2
    assert knock(stranger, (machine.external, PORT)) == {"udp", "tcp"}
    mapped.finish()
    assert machine.router is not None
    assert str(PORT) not in machine.router.run("nft", "list", "chain", "inet", "lab", "prerouting_miniupnpd")


def route_by_link_local(machine: Machine) -> None:
    """As router advertisements set it up: the IPv6 gateway is known by its link-local address."""
    assert machine.router is not None
    listed = machine.router.run("ip", "-6", "-o", "addr", "show", "dev", "lan", "scope", "link")
    gateway = next(word.partition("/")[0] for word in listed.split() if word.startswith("fe80:"))
    machine.run("ip", "-6", "route", "replace", "default", "via", gateway, "dev", "eth0")


@pytest.mark.parametrize(("kind", "method", "name"), [("natpmp", "mapper", "pcp"), ("upnp", "pinhole", "pinhole")])
def test_the_ipv6_firewall_opens(lab: Lab, kind: str, method: str, name: str) -> None:
    stranger = lab.public("s")
    machine = behind(lab, kind)
    assert machine.router is not None
    route_by_link_local(machine)
    mapped = Mapped(lab, machine, method, ipv6=True)
    if method == "mapper":
        mapped.tell(4, "PortMapped")
    else:
        mapped.tell(2, name)
    assert knock(stranger, (machine.address6, PORT)) == {"udp", "tcp"}
    mapped.finish()
    assert f"{PORT}" not in machine.router.run("nft", "list", "chain", "inet", "lab", "miniupnpd")


@pytest.mark.parametrize(("kind", "method"), [("natpmp", "pcp"), ("upnp", "upnp-igd2")])
def test_the_mapper_maps_within_a_second_and_cleans_up(lab: Lab, kind: str, method: str) -> None:
    stranger = lab.public("s")
    machine = behind(lab, kind)
    assert knock(stranger, (machine.external, PORT), 0.2) == set()
    mapped = Mapped(lab, machine, "mapper")
    events = [event for event in mapped.tell(4, "PortMapped") if event["internal"][0] == machine.address]
    assert {(event["method"], event["transport"]) for event in events} == {(method, "udp"), (method, "tcp")}
    assert {tuple(event["external"]) for event in events} == {(machine.external, PORT)}
    assert max(event["seconds"] for event in events) < 1.0
    assert knock(stranger, (machine.external, PORT)) == {"udp", "tcp"}
    mapped.finish()
    assert knock(stranger, (machine.external, PORT), 0.2) == set()


def test_ports_come_back_when_the_gateway_restarts(lab: Lab) -> None:
    stranger = lab.public("s")
    machine = behind(lab, "natpmp")
    router = machine.router
    assert router is not None
    mapped = Mapped(lab, machine, "mapper")
    mapped.tell(4, "PortMapped")
    end(router.processes[-1])
    for chain in ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"):
        router.run("nft", "flush", "chain", "inet", "lab", chain)
    time.sleep(3)  # epochs count seconds, and a clock may be two of them off (RFC 6887 §8.5)
    lab.start_gateway(router, "no", "yes")
    lost = mapped.tell(1, "PortMappingLost")
    assert lost[0]["reason"] == "gateway-restarted"
    mapped.tell(2, "PortMapped")
    assert knock(stranger, (machine.external, PORT)) == {"udp", "tcp"}


def test_a_second_machine_gets_another_port(lab: Lab) -> None:
    stranger = lab.public("s")
    first = behind(lab, "natpmp")
    second = lab.sibling("h2", first)
    one = Mapped(lab, first, "pcp")
    one.tell(2, "pcp")
    other = Mapped(lab, second, "pcp")
    mappings = other.tell(2, "pcp")
    ports = {mapping["external"][1] for mapping in mappings}
    assert len(ports) == 1
    assert ports != {PORT}
    assert knock(stranger, (first.external, ports.pop())) == {"udp", "tcp"}
