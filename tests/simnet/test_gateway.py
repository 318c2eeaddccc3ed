"""Simulated gateways as their clients meet them: NAT-PMP, PCP and UPnP; leases, conflicts, restarts, refusals."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.net.network import DatagramSocket, Outgoing, Path
from swarm.simnet.catalogue import CONE, behind
from swarm.simnet.gateway import open_gateway
from swarm.simnet.host import Host
from swarm.simnet.igd import Igd, UpnpError
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import FirewallBehaviour
from swarm.simnet.natpmp import PortControl
from swarm.simnet.opener import GatewayBehaviour, Opener
from swarm.simnet.router import Router
from swarm.simnet.upnp import search_answers
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

PORT = 6881
ANY = Endpoint("0.0.0.0", 0)
ALL = GatewayBehaviour(protocols=frozenset({"natpmp", "pcp", "upnp"}))
WAN_IP2 = "urn:schemas-upnp-org:service:WANIPConnection:2"
FIREWALL = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1"


class Home:
    """A gateway with two hosts behind it, and one outside."""

    def __init__(self, internet: Internet, behaviour: GatewayBehaviour) -> None:
        self.internet = internet
        self.router = internet.router("r", CONE, firewall=FirewallBehaviour(), wan="20.50.0.1")
        self.router.add_lan_ipv6("2a0e:50::1")
        self.a = internet.host("a", self.router.free_lan_address(), "2a0e:50::a", router=self.router)
        self.b = internet.host("b", router=self.router)
        self.outside = internet.host("outside", "20.60.0.1", "2a0e:60::1")
        open_gateway(internet, self.router, behaviour)

    async def ask(self, host: Host, request: bytes, gateway: str | None = None) -> bytes | None:
        """The gateway's answer to one datagram on port 5351."""
        gateway = gateway or self.router.inside.ipv4
        bound = await host.bind_udp(Endpoint("::" if ":" in gateway else "0.0.0.0", 0))
        bound.send_nowait(Outgoing([request], len(request), Path(None, Endpoint(gateway, 5351))))
        with trio.move_on_after(1):
            await bound.wait_readable()
        answers = [bytes(received.data) for received in bound.receive_nowait()]
        bound.close()
        return answers[0] if answers else None

    async def reaches(self, inside: DatagramSocket, external: Endpoint) -> bool:
        """Whether a stranger's datagram to ``external`` comes in."""
        stranger = await self.outside.bind_udp(Endpoint("::" if external.is_ipv6 else "0.0.0.0", 0))
        stranger.send_nowait(Outgoing([b"knock"], 5, Path(None, external)))
        await trio.sleep(0.5)
        return bool(inside.receive_nowait())


@asynccontextmanager
async def home(behaviour: GatewayBehaviour = ALL, **changes: Any) -> AsyncIterator[Home]:
    async with open_internet() as internet:
        made = Home(internet, replace(behaviour, **changes))
        await trio.sleep(1)
        yield made


# ---- NAT-PMP


def natpmp_map(port: int, suggested: int = 0, lifetime: int = 3600, *, tcp: bool = False) -> bytes:
    return struct.pack("!BBHHHI", 0, 2 if tcp else 1, 0, port, suggested, lifetime)


async def test_natpmp_tells_the_external_address_and_its_epoch(autojump_clock: MockClock) -> None:
    async with home() as net:
        await trio.sleep(100)
        answer = await net.ask(net.a, b"\0\0")
        assert answer is not None
        assert struct.unpack("!BBHI4B", answer) == (0, 128, 0, 101, 20, 50, 0, 1)


async def test_natpmp_opens_a_port_until_its_lease_is_over(autojump_clock: MockClock) -> None:
    async with home() as net:
        bound = await net.a.bind_udp(Endpoint("0.0.0.0", PORT))
        external = Endpoint(net.router.wan, 7000)
        assert not await net.reaches(bound, external)
        answer = await net.ask(net.a, natpmp_map(PORT, 7000, 100))
        assert answer is not None
        assert struct.unpack("!BBHIHHI", answer)[2::2] == (0, PORT, 100)
        assert struct.unpack("!BBHIHHI", answer)[5] == 7000
        assert await net.reaches(bound, external)
        await trio.sleep(101)
        assert not await net.reaches(bound, external)


async def test_natpmp_gives_another_port_where_the_suggested_one_is_taken(autojump_clock: MockClock) -> None:
    async with home() as net:
        await net.ask(net.a, natpmp_map(PORT, PORT))
        answer = await net.ask(net.b, natpmp_map(PORT, PORT))
        assert answer is not None
        other = struct.unpack("!BBHIHHI", answer)[5]
        assert other not in (0, PORT)
        again = await net.ask(net.b, natpmp_map(PORT, PORT))
        assert again is not None
        assert struct.unpack("!BBHIHHI", again)[5] == other


@pytest.mark.parametrize("delete", [natpmp_map(PORT, 0, 0), natpmp_map(0, 0, 0)])
async def test_natpmp_closes_one_port_or_all(autojump_clock: MockClock, delete: bytes) -> None:
    async with home() as net:
        bound = await net.a.bind_udp(Endpoint("0.0.0.0", PORT))
        await net.ask(net.a, natpmp_map(PORT, PORT))
        assert await net.reaches(bound, Endpoint(net.router.wan, PORT))
        answer = await net.ask(net.a, delete)
        assert answer is not None
        assert struct.unpack("!BBHIHHI", answer)[5:] == (0, 0)
        assert not await net.reaches(bound, Endpoint(net.router.wan, PORT))


@pytest.mark.parametrize(
    ("changes", "request_", "result"),
    [
        ({"refuses": True}, natpmp_map(PORT), 2),
        ({"capacity": 0}, natpmp_map(PORT), 4),
        ({}, b"\0\x09", 5),
        ({"protocols": frozenset({"natpmp"})}, b"\x02\x01" + bytes(58), 1),
    ],
)
async def test_natpmp_refusals(
    autojump_clock: MockClock, changes: dict[str, Any], request_: bytes, result: int
) -> None:
    async with home(**changes) as net:
        answer = await net.ask(net.a, request_)
        assert answer is not None
        assert (answer[0], struct.unpack_from("!H", answer, 2)[0]) == (0, result)


async def test_a_restart_is_announced_and_the_epoch_starts_again(autojump_clock: MockClock) -> None:
    async with home(protocols=frozenset({"natpmp"})) as net:
        await net.ask(net.a, natpmp_map(PORT, PORT))
        await trio.sleep(1000)
        ear = await net.a.bind_udp(Endpoint("0.0.0.0", 5350), shared=True, multicast_group="224.0.0.1")
        net.router.change_wan("20.50.0.2")
        await trio.sleep(300)
        heard = [bytes(received.data) for received in ear.receive_nowait()]
        assert [struct.unpack("!BBHI4B", data)[3] for data in heard] == [0, 0, 0, 1, 3, 7, 15, 31, 63, 127]
        assert {data[8:] for data in heard} == {bytes([20, 50, 0, 2])}


# ---- PCP


def pcp_map(
    host: str, port: int, suggested: int = 0, lifetime: int = 3600, *, nonce: bytes = b"n" * 12, options: bytes = b""
) -> bytes:
    address = Endpoint(host, 0).address.packed
    address = address if len(address) == 16 else bytes(10) + b"\xff\xff" + address
    body = nonce + struct.pack("!B3xHH16x", 17, port, suggested)
    return struct.pack("!BBHI", 2, 1, 0, lifetime) + address + body + options


def pcp_result(answer: bytes | None) -> int:
    assert answer is not None
    assert (answer[0], answer[1] & 0x80) == (2, 0x80)
    return answer[3]


def pcp_port(answer: bytes | None) -> int:
    assert pcp_result(answer) == 0
    assert answer is not None
    port: int = struct.unpack_from("!H", answer, 42)[0]
    return port


async def test_pcp_opens_renews_and_closes_a_port(autojump_clock: MockClock) -> None:
    async with home() as net:
        bound = await net.a.bind_udp(Endpoint("0.0.0.0", PORT))
        external = Endpoint(net.router.wan, 7000)
        answer = await net.ask(net.a, pcp_map(net.a.ipv4, PORT, 7000, 100_000))
        assert pcp_port(answer) == 7000
        assert answer is not None
        assert struct.unpack_from("!I", answer, 4)[0] == 7200  # shortened
        assert answer[44:60] == bytes(10) + b"\xff\xff" + bytes([20, 50, 0, 1])
        assert await net.reaches(bound, external)
        assert pcp_port(await net.ask(net.a, pcp_map(net.a.ipv4, PORT, 9999))) == 7000
        assert pcp_result(await net.ask(net.a, pcp_map(net.a.ipv4, PORT, 0, 0))) == 0
        assert not await net.reaches(bound, external)


async def test_pcp_guards_a_mapping_by_its_nonce(autojump_clock: MockClock) -> None:
    async with home() as net:
        await net.ask(net.a, pcp_map(net.a.ipv4, PORT))
        assert pcp_result(await net.ask(net.a, pcp_map(net.a.ipv4, PORT, 0, 0, nonce=b"x" * 12))) == 2
        net.router.reboot()
        assert pcp_result(await net.ask(net.a, pcp_map(net.a.ipv4, PORT, nonce=b"x" * 12))) == 0


async def test_pcp_prefer_failure_takes_no_other_port(autojump_clock: MockClock) -> None:
    prefer_failure = b"\x02\0\0\0"
    async with home() as net:
        await net.ask(net.a, pcp_map(net.a.ipv4, PORT, 7000))
        assert pcp_result(await net.ask(net.b, pcp_map(net.b.ipv4, PORT, 7000, options=prefer_failure))) == 11
        assert pcp_port(await net.ask(net.b, pcp_map(net.b.ipv4, PORT, 7000))) != 7000
        assert pcp_result(await net.ask(net.b, pcp_map(net.b.ipv4, PORT, options=b"\x05\0\0\0"))) == 5
        assert pcp_result(await net.ask(net.b, pcp_map(net.b.ipv4, PORT, options=b"\x02\0\0\x08"))) == 6
        assert pcp_port(await net.ask(net.b, pcp_map(net.b.ipv4, PORT, options=b"\x85\0\0\x01a\0\0\0"))) != 7000


async def test_pcp_opens_a_pinhole_for_ipv6(autojump_clock: MockClock) -> None:
    async with home() as net:
        assert {gateway.host for gateway in net.a.gateways()} == {net.router.inside.ipv4, "2a0e:50::1"}
        bound = await net.a.bind_udp(Endpoint("::", PORT))
        assert not await net.reaches(bound, Endpoint("2a0e:50::a", PORT))
        answer = await net.ask(net.a, pcp_map("2a0e:50::a", PORT, lifetime=100), "2a0e:50::1")
        assert pcp_port(answer) == PORT
        assert await net.reaches(bound, Endpoint("2a0e:50::a", PORT))
        await trio.sleep(101)
        assert not await net.reaches(bound, Endpoint("2a0e:50::a", PORT))


@pytest.mark.parametrize(
    ("changes", "request_", "result"),
    [
        ({}, pcp_map("10.9.9.9", PORT), 12),
        ({}, b"\x01" + pcp_map("10.0.1.2", PORT)[1:], 1),
        ({}, pcp_map("10.0.1.2", PORT)[:30], 3),
        ({}, pcp_map("10.0.1.2", PORT)[:24], 3),
        ({}, b"\x02\x07" + pcp_map("10.0.1.2", PORT)[2:], 4),
        ({}, pcp_map("10.0.1.2", PORT)[:36] + b"\x84" + pcp_map("10.0.1.2", PORT)[37:], 9),
        ({"refuses": True}, pcp_map("10.0.1.2", PORT), 2),
        ({"capacity": 0}, pcp_map("10.0.1.2", PORT), 8),
        ({"protocols": frozenset({"pcp"})}, b"\0\0", 1),
    ],
)
async def test_pcp_refusals(autojump_clock: MockClock, changes: dict[str, Any], request_: bytes, result: int) -> None:
    async with home(**changes) as net:
        assert net.a.ipv4 == "10.0.1.2"
        assert pcp_result(await net.ask(net.a, request_)) == result


async def test_pcp_announces_a_restart_too(autojump_clock: MockClock) -> None:
    async with home(protocols=frozenset({"pcp"})) as net:
        ear = await net.a.bind_udp(Endpoint("0.0.0.0", 5350), shared=True, multicast_group="224.0.0.1")
        net.router.reboot()
        await trio.sleep(1)
        assert bytes(ear.receive_nowait()[0].data) == b"\x02\x80" + bytes(22)
    async with home(announces=False) as net:
        ear = await net.a.bind_udp(Endpoint("0.0.0.0", 5350), shared=True, multicast_group="224.0.0.1")
        net.router.reboot()
        await trio.sleep(1000)
        assert ear.receive_nowait() == []


# ---- UPnP


async def search(host: Host, target: str) -> list[str]:
    bound = await host.bind_udp(ANY)
    text = f'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: {target}\r\n\r\n'
    bound.send_nowait(Outgoing([text.encode()], 1400, Path(None, Endpoint("239.255.255.250", 1900))))
    await trio.sleep(1)
    return [bytes(received.data).decode() for received in bound.receive_nowait()]


async def http(host: Host, router: Router, head: str, body: str = "") -> tuple[int, str]:
    stream = await host.dial_tcp(Endpoint(router.inside.ipv4, 5000))
    await stream.send_all(f"{head}\r\nHost: router\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    answer = b""
    while part := await stream.receive_some():
        answer += part
    top, _, content = answer.decode().partition("\r\n\r\n")
    return int(top.split()[1]), content


async def soap(net: Home, host: Host, action: str, service: str = WAN_IP2, **arguments: Any) -> dict[str, str]:
    """The results of an action, or its errorCode."""
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in arguments.items())
    body = f'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:{action} xmlns:u="{service}">'
    body += f"{inner}</u:{action}></s:Body></s:Envelope>"
    head = f'POST /ctl/IPConn HTTP/1.1\r\nSOAPAction: "{service}#{action}"'
    status, content = await http(host, net.router, head, body)
    found = {element.tag.rpartition("}")[2]: element.text or "" for element in ElementTree.fromstring(content).iter()}
    assert ("errorCode" in found) == (status == 500)
    return {name: text for name, text in found.items() if name.startswith(("New", "errorCode", "UniqueID", "In"))}


def mapping(host: Host, port: int = PORT, external: int = 7000, lease: int = 0) -> dict[str, Any]:
    return {
        "NewRemoteHost": "",
        "NewExternalPort": external,
        "NewProtocol": "UDP",
        "NewInternalPort": port,
        "NewInternalClient": host.ipv4,
        "NewEnabled": 1,
        "NewPortMappingDescription": "test",
        "NewLeaseDuration": lease,
    }


async def test_upnp_is_found_by_search_and_described(autojump_clock: MockClock) -> None:
    async with home() as net:
        (answer,) = await search(net.a, "urn:schemas-upnp-org:device:InternetGatewayDevice:1")
        location = f"http://{net.router.inside.ipv4}:5000/rootDesc.xml"
        assert f"LOCATION: {location}\r\n" in answer
        assert len(await search(net.a, "ssdp:all")) == 6
        assert await search(net.a, "urn:schemas-upnp-org:device:MediaServer:1") == []
        assert await search(net.outside, "ssdp:all") == []
        status, content = await http(net.a, net.router, "GET /rootDesc.xml HTTP/1.1")
        services = [element.text for element in ElementTree.fromstring(content).iter() if "serviceType" in element.tag]
        assert (status, services) == (200, [WAN_IP2, FIREWALL])
        assert (await http(net.a, net.router, "GET /other HTTP/1.1"))[0] == 404


async def test_an_igd_of_version_1_offers_less(autojump_clock: MockClock) -> None:
    async with home(igd_version=1) as net:
        assert await search(net.a, "urn:schemas-upnp-org:device:InternetGatewayDevice:2") == []
        assert await soap(net, net.a, "AddAnyPortMapping", **mapping(net.a)) == {"errorCode": "401"}
        assert await soap(net, net.a, "AddPortMapping", **mapping(net.a)) == {}


async def test_upnp_opens_a_port_until_its_lease_is_over(autojump_clock: MockClock) -> None:
    async with home() as net:
        assert await soap(net, net.a, "GetExternalIPAddress") == {"NewExternalIPAddress": "20.50.0.1"}
        bound = await net.a.bind_udp(Endpoint("0.0.0.0", PORT))
        assert await soap(net, net.a, "AddPortMapping", **mapping(net.a, lease=100)) == {}
        assert await net.reaches(bound, Endpoint(net.router.wan, 7000))
        entry = await soap(net, net.a, "GetSpecificPortMappingEntry", NewExternalPort=7000, NewProtocol="UDP")
        assert (entry["NewInternalClient"], entry["NewInternalPort"]) == (net.a.ipv4, str(PORT))
        await trio.sleep(101)
        assert not await net.reaches(bound, Endpoint(net.router.wan, 7000))
        entry = await soap(net, net.a, "GetSpecificPortMappingEntry", NewExternalPort=7000, NewProtocol="UDP")
        assert entry == {"errorCode": "714"}


async def test_upnp_conflicts_and_the_way_round_them(autojump_clock: MockClock) -> None:
    async with home() as net:
        await soap(net, net.a, "AddPortMapping", **mapping(net.a))
        assert await soap(net, net.b, "AddPortMapping", **mapping(net.b)) == {"errorCode": "718"}
        assert await soap(net, net.a, "AddPortMapping", **mapping(net.a)) == {}
        other = await soap(net, net.b, "AddAnyPortMapping", **mapping(net.b))
        assert other["NewReservedPort"] not in ("0", "7000")
        gone: dict[str, Any] = {"NewExternalPort": 7000, "NewProtocol": "UDP"}
        assert await soap(net, net.b, "DeletePortMapping", **gone) == {"errorCode": "606"}
        assert await soap(net, net.a, "DeletePortMapping", **gone) == {}
        assert await soap(net, net.a, "DeletePortMapping", **gone) == {"errorCode": "714"}
        assert await soap(net, net.b, "AddPortMapping", **mapping(net.b)) == {}


@pytest.mark.parametrize(
    ("changes", "wrong", "code"),
    [
        ({"refuses": True}, {}, "606"),
        ({"permanent_only": True}, {"NewLeaseDuration": 3600}, "725"),
        ({"permanent_only": True}, {}, None),
        ({"same_port_only": True}, {}, "724"),
        ({"capacity": 0}, {}, "728"),
        ({}, {"NewInternalClient": "10.0.1.77"}, "606"),
        ({}, {"NewExternalPort": 0}, "402"),
        ({}, {"NewInternalPort": "many"}, "402"),
        ({}, {"NewProtocol": "SCTP"}, "402"),
    ],
)
async def test_upnp_refusals(
    autojump_clock: MockClock, changes: dict[str, Any], wrong: dict[str, Any], code: str | None
) -> None:
    async with home(**changes) as net:
        answer = await soap(net, net.a, "AddPortMapping", **(mapping(net.a) | wrong))
        assert answer == ({} if code is None else {"errorCode": code})


async def test_upnp_opens_pinholes_for_ipv6(autojump_clock: MockClock) -> None:
    async with home() as net:
        assert (await soap(net, net.a, "GetFirewallStatus", FIREWALL))["InboundPinholeAllowed"] == "1"
        bound = await net.a.bind_udp(Endpoint("::", PORT))
        target = Endpoint("2a0e:50::a", PORT)
        pinhole: dict[str, Any] = {"RemoteHost": "", "RemotePort": 0, "Protocol": 17, "LeaseTime": 100}
        pinhole |= {"InternalClient": target.host, "InternalPort": PORT}
        assert await soap(net, net.b, "AddPinhole", FIREWALL, **pinhole) == {"errorCode": "606"}
        assert await soap(net, net.a, "AddPinhole", FIREWALL, **(pinhole | {"LeaseTime": 0})) == {"errorCode": "402"}
        identity = (await soap(net, net.a, "AddPinhole", FIREWALL, **pinhole))["UniqueID"]
        assert await net.reaches(bound, target)
        await trio.sleep(80)
        assert await soap(net, net.a, "UpdatePinhole", FIREWALL, UniqueID=identity, NewLeaseTime=100) == {}
        await trio.sleep(80)
        assert await net.reaches(bound, target)
        assert await soap(net, net.a, "DeletePinhole", FIREWALL, UniqueID=identity) == {}
        assert not await net.reaches(bound, target)
        assert await soap(net, net.a, "DeletePinhole", FIREWALL, UniqueID=identity) == {"errorCode": "704"}


async def test_broken_http_is_dropped_and_the_gateway_goes_on(autojump_clock: MockClock) -> None:
    async with home() as net:
        stream = await net.a.dial_tcp(Endpoint(net.router.inside.ipv4, 5000))
        await stream.send_all(b"\0\0\0\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        stream = await net.a.dial_tcp(Endpoint(net.router.inside.ipv4, 5000))
        await stream.aclose()
        head = f'POST /ctl/IPConn HTTP/1.1\r\nSOAPAction: "{WAN_IP2}#AddPortMapping"'
        assert "402" in (await http(net.a, net.router, head, "<not xml"))[1]
        assert await soap(net, net.a, "AddPortMapping", **mapping(net.a)) == {}


@pytest.mark.parametrize("kind", ["upnp", "natpmp", "pcp"])
async def test_the_catalogue_opens_gateways(autojump_clock: MockClock, kind: str) -> None:
    async with open_internet() as internet:
        host = behind(internet, kind, "h")
        bound = await host.bind_udp(ANY)
        gateway = host.gateways()[0].host
        for request in (b"\0\0", pcp_map(host.ipv4, PORT)):
            bound.send_nowait(Outgoing([request], len(request), Path(None, Endpoint(gateway, 5351))))
        found = bool(await search(host, "ssdp:all"))
        successes = [received.data[0] for received in bound.receive_nowait() if not any(received.data[2:4])]
        assert (found, successes) == (kind == "upnp", {"upnp": [], "natpmp": [0], "pcp": [2]}[kind])


async def test_a_router_without_nat_cannot_be_a_gateway(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        with pytest.raises(ValueError, match="NAT"):
            open_gateway(internet, internet.router("r"), ALL)


async def test_random_bytes_never_break_a_gateway(autojump_clock: MockClock) -> None:
    seed = fuzz_seed()
    dice = random.Random(seed)
    valid = [natpmp_map(PORT), natpmp_map(0, 0, 0), b"\0\0", pcp_map("10.0.1.2", PORT, options=b"\x02\0\0\0")]
    async with open_internet() as internet:
        opener = Opener(internet.router("r", CONE), ALL)
        server = PortControl(opener)
        igd = Igd(opener)
        count = fuzz_count() // 2
        for data in (*random_bytes_cases(dice, 80, count), *mutations(dice, valid, count)):
            answer = server.respond(data, "10.0.1.2")
            assert answer is None or len(answer) >= 8, (seed, data)
            search_answers(b"M-SEARCH * HTTP/1.1\r\n" + data, opener)
            with pytest.raises(UpnpError):
                igd.act("AddPortMapping", {"NewExternalPort": data.decode("latin-1")}, "10.0.1.2")
