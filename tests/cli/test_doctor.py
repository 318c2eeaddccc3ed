"""``swarm doctor``: what it finds out behind simulated routers, how it says so, and the command on loopback."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.cli.bars import Page
from swarm.cli.doctor import LOOK, diagnosis, examine
from swarm.cli.document import parse_document_untrusted
from swarm.simnet.catalogue import CONE, behind
from swarm.simnet.gateway import open_gateway
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.opener import GatewayBehaviour
from tests.cli.programs import swarm
from tests.net.stun_server import StunServer
from tests.nodes import PORT, node_on

Made = Callable[[Internet], Host]


async def examined(kind: str, *, stun_serves: bool = False, dht_nodes: int = 0, **config: Any) -> dict[str, Any]:
    """What the doctor finds behind a NAT of the catalogue, in virtual time."""
    async with open_internet(seed=3) as internet, trio.open_nursery() as nursery:
        settings: dict[str, Any] = {"mapping": True, **config}
        if stun_serves:
            server = StunServer(internet.host("stun", "20.80.0.1", "20.81.0.1"), ("20.80.0.1", "20.81.0.1"))
            await server.open(nursery)
            settings["stun"] = (str(server.endpoint),)
        others = [internet.host(f"dht{number}") for number in range(dht_nodes)]
        if others:
            settings |= {"dht": True, "dht_bootstrap": (f"{others[0].ipv4}:{PORT}",)}
        for number, other in enumerate(others):
            nursery.start_soon(serve_dht, other, number, settings["dht_bootstrap"])
        await trio.sleep(30)
        host = behind(internet, kind, "patient")
        async with node_on(host, 1, **settings) as node:
            document = await examine(node.node, host)
        nursery.cancel_scope.cancel()
    return document


async def serve_dht(host: Host, number: int, bootstrap: tuple[str, ...]) -> None:
    async with node_on(host, 10 + number, dht=True, dht_bootstrap=bootstrap):
        await trio.sleep_forever()


def shown(document: dict[str, Any], width: int = 100) -> str:
    return "\n".join(diagnosis(document, Page(width)))


def said(document: dict[str, Any]) -> str:
    """The advice as it is shown, its lines joined again."""
    _, _, advice = shown(document).partition("What to do\n")
    return " ".join(advice.split())


async def test_an_open_port_needs_no_advice_and_no_eight_seconds(autojump_clock: MockClock) -> None:
    document = await examined("pcp", dht_nodes=6)
    assert document["node"]["uptime"] < LOOK
    external = document["announced"][0]
    assert document["nat"]["v4"]["external"] == [external]
    assert document["nat"]["v4"]["mapping"] == "endpoint-independent"
    assert document["nat"]["v4"]["double_nat"] is False
    assert document["advice"] == []
    text = shown(document)
    assert f"others are told {external}" in text
    assert f"  * Others can reach this machine at {external}: the router has opened the port." in text
    (gateway,) = document["interfaces"][0]["gateways"]
    (inside,) = document["interfaces"][0]["addresses"]
    way = f"{gateway} sends TCP and UDP for {external} on to {inside}:{PORT}, for 1 h, as asked by PCP"
    assert way in " ".join(text.split())
    assert "networks see one endpoint" in text
    assert said(document) == "* Nothing: the port is open."


@pytest.mark.parametrize(("kind", "method", "silent"), [("upnp", "UPnP", "NAT-PMP"), ("natpmp", "NAT-PMP", "UPnP")])
async def test_who_opened_what_is_said_with_what_did_not_work(
    autojump_clock: MockClock, kind: str, method: str, silent: str
) -> None:
    text = shown(await examined(kind, dht=True, dht_bootstrap=("20.99.0.1:1",)))
    assert f"as asked by {method}" in " ".join(text.split())
    assert f"\n  {silent} " in text


async def test_a_router_that_opens_nothing_is_named_with_what_to_do_by_hand(autojump_clock: MockClock) -> None:
    document = await examined("cone", dht_nodes=6)
    gateway, inside = document["interfaces"][0]["gateways"][0], document["interfaces"][0]["addresses"][0]
    assert f"forward port {PORT}, TCP and UDP, on the router at {gateway} to {inside}, port {PORT}." in said(document)
    assert "NAT-PMP does not answer" in shown(document)
    assert document["nat"]["v4"]["mapping"] == "endpoint-independent"


async def test_a_symmetric_nat_is_explained(autojump_clock: MockClock) -> None:
    document = await examined("symseq", dht_nodes=8)
    assert document["nat"]["v4"]["mapping"] == "address-and-port-dependent"
    assert "gives every peer another port" in said(document)
    (outside,) = [line for line in shown(document).splitlines() if line.startswith("  outside")]
    assert outside.count(document["nat"]["v4"]["external"][0].partition(":")[0]) == 1, "the address is named once"


async def test_stun_tells_how_the_nat_filters(autojump_clock: MockClock) -> None:
    document = await examined("restricted", stun_serves=True)
    nat = document["nat"]["v4"]
    assert (nat["mapping"], nat["filtering"]) == ("endpoint-independent", "address-dependent")
    assert document["announced"], "one server's word is better than none"
    assert document["warnings"] == []


async def test_a_stun_server_that_is_silent_or_unknown_is_a_warning(autojump_clock: MockClock) -> None:
    document = await examined("cone", stun=("20.99.0.1:1", "no.such.host:2"))
    assert len(document["warnings"]) == 2
    text = shown(document)
    assert "no STUN server answers: 20.99.0.1:1" in text
    assert "cannot find the address of the STUN server no.such.host:2" in text


async def test_without_udp_there_is_no_dht_and_it_says_so(autojump_clock: MockClock) -> None:
    document = await examined("udpblock", dht_nodes=4)
    assert "No node of the DHT has answered: either there is no way" in said(document)


async def test_that_udp_is_blocked_is_said_where_stun_servers_are_asked_instead(autojump_clock: MockClock) -> None:
    """Each is waited for, one after the other: with a few of them the warning comes when the doctor has gone."""
    servers = tuple(f"20.99.0.{number}:3478" for number in range(1, 5))
    assert "No STUN server has answered: either there is no way" in said(await examined("udpblock", stun=servers))
    both = said(await examined("udpblock", stun=servers, dht_nodes=4))
    assert "No node of the DHT and no STUN server has answered: either" in both


async def test_where_udp_gets_through_it_is_not_suspected(autojump_clock: MockClock) -> None:
    document = await examined("cone", stun_serves=True, dht=True, dht_bootstrap=("20.99.0.1:1",))
    assert "No node of the DHT has answered, though UDP gets through" in said(document)


async def test_a_turn_server_that_says_nothing_is_of_no_use(autojump_clock: MockClock) -> None:
    """It was shown as one that had not been needed."""
    document = await examined("cone", turn=("turn:me:secret@20.99.0.1:3478",))
    assert "turn:20.99.0.1:3478 is of no use: it has not answered within 8 s" in shown(document)


async def test_what_is_switched_off_or_done_by_hand_is_said(autojump_clock: MockClock) -> None:
    assert "not asked to open the port (--no-mapping)" in said(await examined("pcp", mapping=False))
    by_hand = said(await examined("cone", announce_port=7000))
    assert f"Others are told port 7000; the router has to forward it to port {PORT}." in by_hand
    assert "To be reachable, forward" not in by_hand


async def test_without_a_router_nothing_is_to_be_done(autojump_clock: MockClock) -> None:
    document = await examined("open", dht_nodes=6)
    assert document["nat"]["v4"]["mapping"] == "none"
    assert said(document) == "* Nothing: no router is in the way."


@pytest.mark.parametrize("width", [40, 60, 120])
async def test_no_line_is_wider_than_the_page(autojump_clock: MockClock, width: int) -> None:
    document = await examined("cone", dht_nodes=2)
    assert max(map(len, shown(document, width).splitlines())) <= width
    advice = textwrap.dedent(shown(document, width).partition("What to do\n")[2])
    assert "…" not in advice, "advice is broken into lines, never cut"


def test_the_command_says_what_it_sees_on_loopback(tmp_path: Path) -> None:
    done = swarm(tmp_path, "doctor", "--no-dht", "-p", 0)
    assert (done.returncode, done.stderr) == (0, "")
    assert "listens on udp 127.0.0.1:" in done.stdout
    assert "127.0.0.1" in done.stdout.partition("Network\n")[2]
    assert "Nothing that is known of here." in done.stdout


def test_json_is_the_statistics_document_and_more(tmp_path: Path) -> None:
    done = swarm(tmp_path, "doctor", "--no-dht", "-p", 0, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert parse_document_untrusted(done.stdout.encode())["node"]["listen"] == document["node"]["listen"]
    assert document["reachability"] == {"tcp4": None, "utp4": None, "tcp6": None, "utp6": None}
    assert document["gateway"] == []
    assert document["advice"] == document["warnings"] == []


def test_a_bind_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = swarm(tmp_path, "doctor", "--no-dht", "-p", 0, "--bind", "192.0.2.1")
    assert done.returncode == 0
    assert "does not listen" in done.stdout
    assert "192.0.2.1 is not there" in done.stdout


# -- in words for everybody -------------------------------------------------------------------------------------------


def in_short(document: dict[str, Any]) -> str:
    short, _, _ = shown(document).partition("In short\n")[2].partition("\n\n")
    return " ".join(short.split()).removeprefix("* ")


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        ("open", "No router translates this machine's address"),
        ("pcp", "Others can reach this machine at 20."),
        ("cone", "A router translates this machine's address and has opened no port"),
        ("symrand", "A router translates this machine's address, has opened no port, and shows every peer another one"),
        ("udpblock", "How others see this machine is not known"),
    ],
)
async def test_what_it_comes_to_is_said_first(autojump_clock: MockClock, kind: str, begins: str) -> None:
    assert in_short(await examined(kind, dht_nodes=6)).startswith(begins)


async def test_a_second_router_beyond_the_one_that_opened_the_port_is_told(autojump_clock: MockClock) -> None:
    async with open_internet(seed=3) as internet:
        carrier = internet.router("carrier", CONE, lan="100.64.0.1")
        home = internet.router("home", CONE, behind=carrier)
        open_gateway(internet, home, GatewayBehaviour(protocols=frozenset({"pcp"})))
        host = internet.host("patient", router=home)
        async with node_on(host, 1, mapping=True) as node:
            document = await examine(node.node, host)
    assert document["nat"]["v4"]["double_nat"] is True
    assert "another router or the carrier translates beyond it" in in_short(document)


async def test_that_there_is_no_ipv6_is_said_once(autojump_clock: MockClock) -> None:
    document = await examined("cone", dht_nodes=6)
    assert document["nat"]["v6"] is None
    assert shown(document).count("IPv6") == 1
    assert "  There is no IPv6 here." in shown(document).splitlines()


async def test_what_nobody_knows_is_one_line(autojump_clock: MockClock) -> None:
    lines = shown(await examined("cone", dht_nodes=6)).splitlines()
    assert sum("not known" in line for line in lines) == 1


async def test_where_only_the_router_says_where_we_are_it_is_believed(autojump_clock: MockClock) -> None:
    document = await examined("upnp")
    assert document["nat"]["v4"]["external"] == document["announced"] != []
    (sentence,) = document["nat"]["v4"]["evidence"]
    assert sentence.startswith("Only the router has said so far")


def test_without_a_network_nothing_else_is_said(tmp_path: Path) -> None:
    done = swarm(tmp_path, "doctor", "-p", 0, "--dht-bootstrap", "127.0.0.1:9")
    assert done.returncode == 0
    assert "  * This machine is not connected to any network.\n" in done.stdout
    assert "NAT" not in done.stdout
    assert "DHT" not in done.stdout
