"""``swarm doctor [--json]``: where this machine stands in the network, why, and what can be done about it.

Runs a node without torrents for some seconds and looks.  Reachability stays "not known" where no peer has tested it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from swarm.cli.bars import Cell, Page, listed, page_for
from swarm.cli.document import as_text
from swarm.cli.interrupt import run_interruptible
from swarm.cli.output import say
from swarm.cli.screen import Screen
from swarm.cli.settle import settle, state_directory
from swarm.cli.tables import FAMILY_NAMES, section, standing, turn_servers
from swarm.cli.units import counted, format_duration
from swarm.config import Config
from swarm.events import Warned
from swarm.gateway.report import METHOD_WORDS, REASON_WORDS
from swarm.net.bound import bound
from swarm.net.network import Network
from swarm.net.real import RealNetwork
from swarm.net.stun import StunClient
from swarm.node import Node, open_node

LOOK = 8.0
"""Seconds for which the node looks; less where everything is known before."""

TICK = 0.2
"""Seconds between two looks at what the node knows."""

Document = Mapping[str, Any]


@dataclass
class Findings:
    """What a look brought: the statistics document with ``announced``, ``interfaces``, ``warnings`` and ``advice``."""

    document: dict[str, Any] = field(default_factory=dict)


def run(options: Namespace) -> int:
    config = settle(vars(options)).config(state_directory())
    screen, findings = Screen(quiet=options.json), Findings()
    try:
        code = run_interruptible(_look, config, screen, findings, restore=screen.clear)
    finally:
        screen.clear()
    if findings.document:
        if options.json:
            say(as_text(findings.document))
        else:
            for line in diagnosis(findings.document, page_for(sys.stdout)):
                say(line)
    return code


async def _look(config: Config, screen: Screen, findings: Findings) -> int:
    async with open_node(config) as node:
        findings.document = await examine(node, bound(RealNetwork(), config.bind), screen.status)
    return 0


async def examine(node: Node, network: Network, status: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """What ``node`` finds out within LOOK seconds; ``status`` is told how far it is.

    Cancelled, it loses everything.
    """
    warnings: list[str] = []

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with node.events() as events:
            task_status.started()
            async for _, event in events:
                if isinstance(event, Warned):
                    warnings.append(event.message)

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        started = trio.current_time()
        if node.turning.configured:
            nursery.start_soon(node.turning.check)
        while (seconds := trio.current_time() - started) < LOOK and not (_is_known(node) and node.turning.is_checked):
            status(_progress(node, seconds))
            await trio.sleep(TICK)
        nursery.cancel_scope.cancel()
    document = node.document()
    document["announced"] = [str(endpoint) for endpoint in node.standing.own_endpoints()]
    document |= {"interfaces": list(_interfaces(network)), "warnings": warnings}
    for server in document["turn"]:
        if not server["opened"] and server["error"] is None:
            server |= {"error": "no-answer", "detail": f"it has not answered within {LOOK:.0f} s"}
    document["advice"] = [*node.standing.advice(), *_more_advice(node.config, document)]
    return document


def _is_known(node: Node) -> bool:
    """Whether waiting longer would tell nothing that matters."""
    config, leases = node.config, node.standing.leases()
    opened = {lease.transport for lease in leases or () if lease.external is not None and not lease.internal.is_ipv6}
    told_all = leases is None or opened == {"tcp", "udp"}
    return told_all and (node.standing.report(4).mapping != "unknown" or not (config.dht or config.stun))


def _progress(node: Node, seconds: float) -> str:
    opened = sum(lease.external is not None for lease in node.standing.leases() or ())
    nodes = sum(each.nodes for each in node.dht_statistics().values())
    return (
        f"looking around, {seconds:.0f} of {LOOK:.0f} s: {counted(opened, 'port')} opened, {counted(nodes, 'DHT node')}"
    )


def _interfaces(network: Network) -> Iterator[dict[str, Any]]:
    """Those in use, with the routers behind them; loopback where there is nothing else."""
    gateways = network.gateways()
    used = [interface for interface in network.interfaces() if interface.up and interface.addresses]
    beyond = [interface for interface in used if not interface.loopback]
    for interface in beyond or used:
        yield {
            "name": interface.name,
            "loopback": interface.loopback,
            "addresses": [address.host for address in interface.addresses],
            "gateways": [gateway.host for gateway in gateways if gateway.interface == interface.name],
        }


# -- what to do -------------------------------------------------------------------------------------------------------

_SYMMETRIC_IN_SHORT = (
    "A router translates this machine's address, has opened no port, and shows every peer another one: others cannot "
    "reach it by themselves, and hole punching works with some of them only."
)

_SYMMETRIC = (
    "The router gives every peer another port of ours, so that others can hardly be told how to reach us: with a "
    "forwarded port, by IPv6 or without that router it would go better."
)


def _more_advice(config: Config, document: Document) -> Iterator[str]:
    """Beside what the gateways gave occasion to."""
    if not document["node"]["listen"]:
        yield f"{config.bind} is not there: nothing is sent or received until it is."
        return
    nat = document["nat"]["v4"] or document["nat"]["v6"]
    if config.announce_port is not None:
        yield f"Others are told port {config.announce_port}; the router has to forward it to port {_port(document)}."
    elif not config.mapping and nat["mapping"] != "none" and _has_gateway(document):
        yield "The router was not asked to open the port (--no-mapping)."
    if nat["mapping"] in ("address-dependent", "address-and-port-dependent"):
        yield _SYMMETRIC
    if _is_connected(document):
        yield from _unanswered(config, document)


def _unanswered(config: Config, document: Document) -> Iterator[str]:
    """What it comes to that nobody on the internet has said anything over UDP."""
    asked, heard = _stun_datagrams(document)
    no_dht = config.dht and not any(each["nodes"] for each in document["dht"].values() if each is not None)
    if no_dht and heard:
        yield "No node of the DHT has answered, though UDP gets through: see which nodes it is entered by."
        return
    silent = ["node of the DHT"] if no_dht else []
    if asked and not heard:
        silent.append("STUN server")
    if silent:
        who = " and no ".join(silent)
        yield f"No {who} has answered: either there is no way to the internet, or it lets no UDP through."


def _stun_datagrams(document: Document) -> tuple[int, int]:
    """Sent to STUN servers, and received from them."""
    cores = [each["cores"].get(StunClient.__name__) for each in document["sockets"].values() if each is not None]
    known = [core for core in cores if core is not None]
    return sum(core["datagrams_out"] for core in known), sum(core["datagrams_in"] for core in known)


def _port(document: Document) -> int:
    port: str = document["node"]["listen"][0]["endpoint"].rpartition(":")[2]
    return int(port)


def _has_gateway(document: Document) -> bool:
    return any(":" not in host for interface in document["interfaces"] for host in interface["gateways"])


# -- as text ----------------------------------------------------------------------------------------------------------


def diagnosis(document: Document, page: Page) -> Iterator[str]:
    """The lines of what `examine` brought."""
    node = document["node"]
    yield page.heading(page.line(f"swarm {node['version']}"))
    listening = [f"{each['transport']} {each['endpoint']}" for each in node["listen"]]
    yield page.line(f"listens on {listed(listening)}" if listening else "does not listen")
    if document["announced"]:
        yield page.line(f"others are told {listed(document['announced'])}")
    yield from section("In short", _sentences(list(_in_short(document)), page), page)
    yield from section("Network", _network(document, page), page)
    yield from section("Router", _router(document["gateway"], page), page)
    if _is_connected(document):
        yield from standing(_of_families(document), page)
    yield from section("TURN servers", turn_servers(document["turn"], page), page)
    yield from section("Warnings", _sentences(document["warnings"], page), page)
    yield from section("What to do", _sentences(document["advice"] or [_nothing(document)], page), page)


def _in_short(document: Document) -> Iterator[str]:
    """What all of it comes to, for who does not know the words."""
    if not document["node"]["listen"]:
        return
    nat = document["nat"]["v4"] or document["nat"]["v6"]
    opened = [lease["external"] for lease in document["gateway"] if lease["external"] is not None]
    doors = [external for external in opened if external.startswith("[") or not nat["double_nat"]]
    reached = [verdict for verdict in document["reachability"].values() if verdict is not None]
    if any(reached):
        yield "Others can reach this machine: a stranger has just done so."
    elif doors:
        yield f"Others can reach this machine at {doors[0]}: the router has opened the port."
    elif opened:
        yield (
            f"The router has opened {opened[0]}, but another router or the carrier translates beyond it: "
            "others cannot reach this machine by themselves."
        )
    elif not _is_connected(document):
        yield "This machine is not connected to any network."
    elif nat["mapping"] == "unknown" and _is_announced_as_itself(document):
        yield _BEHAVIOURS["none"]
    else:
        yield _BEHAVIOURS[nat["mapping"]]


def _is_connected(document: Document) -> bool:
    return any(not interface["loopback"] for interface in document["interfaces"])


def _is_announced_as_itself(document: Document) -> bool:
    """Whether others are told an address of this machine's own."""
    own = {host for interface in document["interfaces"] for host in interface["addresses"]}
    return any(endpoint.rpartition(":")[0].strip("[]") in own for endpoint in document["announced"])


_BEHAVIOURS = {
    "none": "No router translates this machine's address: others can reach it, unless a firewall keeps them out.",
    "endpoint-independent": (
        "A router translates this machine's address and has opened no port: others cannot reach it by themselves. "
        "This router lets peers be met by hole punching, so most of them are reached."
    ),
    "address-dependent": _SYMMETRIC_IN_SHORT,
    "address-and-port-dependent": _SYMMETRIC_IN_SHORT,
    "unknown": (
        "How others see this machine is not known, since nobody on the internet has told us. Its address is a private "
        "one: a router translates it."
    ),
}
"""By how the NAT maps, where no port was opened."""


def _of_families(document: Document) -> Document:
    """Without the DHT of a family that is not there."""
    dht = {
        family: counts if document["nat"][family] is not None else None for family, counts in document["dht"].items()
    }
    return {**document, "dht": dht}


def _network(document: Document, page: Page) -> Iterator[str]:
    interfaces = document["interfaces"]
    rows = [
        [
            Cell(interface["name"]),
            Cell(listed(_worth_showing(interface["addresses"]))),
            Cell(f"through {listed(interface['gateways'])}" if interface["gateways"] else "leads nowhere else"),
        ]
        for interface in interfaces
    ]
    if rows:
        yield from page.table(rows, flexible=(1, 2))
    for family, name in FAMILY_NAMES.items():
        if document["nat"][family] is None:
            yield page.line(f"There is no {name} here.", 2)


def _worth_showing(hosts: Sequence[str]) -> Sequence[str]:
    """Without those that every IPv6 interface gives itself, if there are others."""
    return [host for host in hosts if not host.startswith("fe80:")] or hosts


def _router(leases: Sequence[Document], page: Page) -> Iterator[str]:
    """What is open, then what did not work and why."""
    opened: dict[tuple[str, ...], list[Document]] = {}
    for lease in leases:
        if lease["external"] is not None:
            opened.setdefault((lease["gateway"], lease["external"], lease["internal"]), []).append(lease)
    for (gateway, external, internal), alike in opened.items():
        named = " and ".join(sorted(lease["transport"].upper() for lease in alike))
        ways = listed(sorted({_way(lease) for lease in alike}))
        does = f"lets {named} in to {internal}"
        if internal != external:
            does = f"sends {named} for {external} on to {internal}"
        text = f"{gateway} {does}, {_life(alike[0])}, as asked by {ways}"
        yield from page.sentence(text, 2, hang=2, paint="green")
    failures = {
        f"{METHOD_WORDS[lease['method']]} {REASON_WORDS.get(lease['error'], lease['error'])}"
        + (f" ({lease['gateway']})" if lease["gateway"] else "")
        for lease in leases
        if lease["external"] is None and lease["error"] is not None
    }
    for sentence in sorted(failures):
        yield from page.sentence(sentence, 2, hang=2, paint="dim" if opened else "yellow")


def _way(lease: Document) -> str:
    method: str = METHOD_WORDS[lease["method"]]
    return f"{method} (miniupnpc)" if lease["client"] == "miniupnpc" else method


def _life(lease: Document) -> str:
    return "for good" if lease["expires_in"] is None else f"for {format_duration(lease['expires_in'])}"


def _nothing(document: Document) -> str:
    opened = any(lease["external"] is not None for lease in document["gateway"])
    if opened or (document["nat"]["v4"] or document["nat"]["v6"])["mapping"] == "none":
        return "Nothing: the port is open." if opened else "Nothing: no router is in the way."
    return "Nothing that is known of here."


def _sentences(sentences: Sequence[str], page: Page) -> Iterator[str]:
    for sentence in sentences:
        yield from page.sentence(f"* {sentence}", 2, hang=2)
