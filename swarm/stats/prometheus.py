"""The statistics document in the text form that Prometheus reads (exposition format 0.0.4).

Names, label names and order are stable.  Single peers are left out: each would be a series of its
own.  What is not known has no sample.  Serves no HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, object]


class Sample(NamedTuple):
    labels: Labels
    value: float | bool | None
    suffix: str = ""
    """Behind the metric's name: "_sum" and "_count" of a summary."""


class Metric(NamedTuple):
    """One name with its samples; ``kind`` is what follows ``# TYPE``."""

    name: str
    kind: Literal["counter", "gauge", "summary"]
    help: str
    samples: list[Sample]


def prometheus_text(document: Mapping[str, Any]) -> str:
    """``document``, as `swarm.stats.document.build_document` makes it, in lines that end in a newline.

    Texts of strangers are escaped, so that nothing in them ends a label or reaches a terminal as a command.
    """
    return exposition(_metrics(document))


def exposition(metrics: Iterable[Metric]) -> str:
    """``metrics`` in lines; each name once, and ``swarm_`` goes before it."""
    return "".join(line for metric in metrics for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    samples = [sample for sample in metric.samples if sample.value is not None]
    if not samples:
        return
    name = f"swarm_{metric.name}"
    yield f"# HELP {name} {metric.help}\n"
    yield f"# TYPE {name} {metric.kind}\n"
    for labels, value, suffix in samples:
        inner = ",".join(f'{label}="{_escaped(str(text))}"' for label, text in labels.items())
        number = int(value) if isinstance(value, bool) else value
        yield f"{name}{suffix}{{{inner}}} {number}\n" if inner else f"{name}{suffix} {number}\n"


def _escaped(text: str) -> str:
    """A label value: backslash, quote and line break as the format has it, other unprintables as Python writes them."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\\\\" + char.encode("unicode_escape").decode()[1:] for char in text)


def _metrics(document: Mapping[str, Any]) -> Iterator[Metric]:
    yield from _node(document)
    yield from _nat(document["nat"])
    yield from _gateway(document["gateway"])
    yield from _paths(document["paths"])
    yield from _punch(document["punch"])
    yield from _relay(document["relay"])
    yield from _relay_client(document["relay_client"])
    yield from _turn(document["turn"])
    yield from _dht(document["dht"])
    yield from _sockets(document["sockets"])
    yield from _swarm(document)


def _node(document: Mapping[str, Any]) -> Iterator[Metric]:
    node, reachability = document["node"], document["reachability"]
    yield Metric("node_info", "gauge", "Always 1; the version.", [Sample({"version": node["version"]}, 1)])
    yield Metric("uptime_seconds", "gauge", "Since the node was started.", [Sample({}, node["uptime"])])
    yield Metric(
        "reachable",
        "gauge",
        "Whether strangers reach us, as peers have tested it.",
        [Sample({"transport": name[:-1], "family": f"v{name[-1]}"}, value) for name, value in reachability.items()],
    )


def _nat(nat: Mapping[str, Any]) -> Iterator[Metric]:
    known = {family: report for family, report in nat.items() if report is not None}
    yield Metric(
        "nat_info",
        "gauge",
        "Always 1; how the NAT maps and filters (RFC 4787).",
        [
            Sample({"family": family, "mapping": report["mapping"], "filtering": report["filtering"]}, 1)
            for family, report in known.items()
        ],
    )
    for key, name, text in (
        ("port_preserving", "nat_port_preserving", "Whether the outside port is our own."),
        ("port_step", "nat_port_step", "Distance between the ports of successive mappings."),
        ("double_nat", "nat_double", "Whether there is a NAT beyond our own gateway."),
        ("hairpin", "nat_hairpin", "Whether the NAT turns packets for its own outside addresses around."),
        ("lifetime", "nat_mapping_lifetime_seconds", "For how long an idle UDP mapping lasts."),
    ):
        samples = [Sample({"family": family}, report[key]) for family, report in known.items()]
        yield Metric(name, "gauge", text, samples)


def _gateway(leases: list[Mapping[str, Any]]) -> Iterator[Metric]:
    def labels(lease: Mapping[str, Any], *more: str) -> Labels:
        return {key: lease[key] or "" for key in ("method", "transport", "gateway", "internal", *more)}

    yield Metric(
        "gateway_port_open",
        "gauge",
        "Whether a gateway forwards our port.",
        [Sample(labels(lease), lease["external"] is not None) for lease in leases],
    )
    yield Metric(
        "gateway_lease_expires_seconds",
        "gauge",
        "Until the lease ends, unless it is renewed.",
        [Sample(labels(lease), lease["expires_in"]) for lease in leases],
    )
    yield Metric(
        "gateway_error",
        "gauge",
        "Always 1; why a port is not open.",
        [Sample(labels(lease, "error"), 1) for lease in leases if lease["error"] is not None],
    )


def _paths(paths: Mapping[str, Any]) -> Iterator[Metric]:
    counts = [
        ({"path": path, "direction": direction}, each)
        for path, directions in paths.items()
        for direction, each in directions.items()
    ]
    for key, name, text in (
        ("attempted", "path_attempts_total", "Attempts to connect that have come to an end."),
        ("succeeded", "path_connections_total", "Peers admitted."),
        ("bytes_down", "path_received_bytes_total", "Payload received."),
        ("bytes_up", "path_sent_bytes_total", "Payload sent."),
    ):
        yield Metric(name, "counter", text, [Sample(labels, each[key]) for labels, each in counts])
    yield Metric(
        "path_failures_total",
        "counter",
        "Attempts that failed, by reason.",
        [
            Sample(labels | {"reason": reason}, count)
            for labels, each in counts
            for reason, count in each["failed"].items()
        ],
    )
    yield Metric(
        "path_connect_seconds",
        "summary",
        "From the first attempt to an admitted peer.",
        [sample for labels, each in counts for sample in _summary(labels, each)],
    )


def _summary(labels: dict[str, str], counts: Mapping[str, Any]) -> Iterator[Sample]:
    seconds = counts["connect_seconds"]
    yield Sample(labels | {"quantile": "0.5"}, seconds["p50"])
    yield Sample(labels | {"quantile": "0.9"}, seconds["p90"])
    yield Sample(labels, seconds["sum"], "_sum")
    yield Sample(labels, counts["succeeded"], "_count")


def _punch(punch: Mapping[str, Any]) -> Iterator[Metric]:
    for key, name, text in (
        ("asked", "punch_asked_total", "Hole punches begun; as relay, rendezvous messages received."),
        ("connected", "punch_connected_total", "Hole punches that connected; as relay, connect messages sent to both."),
    ):
        yield Metric(name, "counter", text, [Sample({"role": role}, each[key]) for role, each in punch.items()])
    yield Metric(
        "punch_errors_total",
        "counter",
        "Hole punches that failed, by reason.",
        [
            Sample({"role": role, "error": error}, count)
            for role, each in punch.items()
            for error, count in each["errors"].items()
        ],
    )
    pairs = [
        (dict(zip(("role", "ours", "theirs"), (role, *pair.split("|", 1)), strict=False)), each)
        for role, counts in punch.items()
        for pair, each in counts["by_nat"].items()
    ]
    for key, text in (
        ("tried", "Hole punches that came to an end, by how the two NATs map."),
        ("connected", "Hole punches that connected, by how the two NATs map."),
    ):
        yield Metric(f"punch_pair_{key}_total", "counter", text, [Sample(labels, each[key]) for labels, each in pairs])


def _relay(relay: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Of what we carry for others: nothing where we do not serve."""
    if relay is None:
        return
    for key, name, text in (
        ("serving", "relay_serving", "Whether we relay now: asked to, and known to be reachable."),
        ("reservations", "relay_reservations", "Peers to whom we lead circuits."),
        ("circuits", "relay_circuits", "Circuits that stand."),
        ("asked", "relay_asked_total", "Circuits asked of us."),
        ("opened", "relay_opened_total", "Circuits that came about."),
        ("bytes", "relay_carried_bytes_total", "Data carried for others, counted once."),
    ):
        yield Metric(name, "counter" if name.endswith("_total") else "gauge", text, [Sample({}, relay[key])])
    yield _by_reason("relay_refused_total", "Reservations and circuits refused, by reason.", relay["refused"])
    yield _by_reason("relay_ended_total", "Circuits that have ended, by reason.", relay["ended"])


def _relay_client(client: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Of what others carry for us; not known of nodes of earlier versions."""
    if client is None:
        return
    for key, name, text in (
        ("relays", "relay_client_relays", "Connected peers that relay."),
        ("reservations", "relay_client_reservations", "Relays that lead circuits to us."),
        ("circuits", "relay_client_circuits", "Circuits with us at one end."),
        ("asked", "relay_client_asked_total", "Circuits that we asked for."),
        ("opened", "relay_client_opened_total", "Circuits that we asked for and that came about."),
        ("called", "relay_client_called_total", "Circuits that led to us."),
    ):
        yield Metric(name, "counter" if name.endswith("_total") else "gauge", text, [Sample({}, client[key])])
    yield _by_reason("relay_client_refused_total", "Circuits that we did not get, by reason.", client["refused"])
    yield _by_reason("relay_client_declined_total", "Circuits to us that we did not take.", client["declined"])


def _by_reason(name: str, text: str, counts: Mapping[str, int]) -> Metric:
    return Metric(name, "counter", text, [Sample({"reason": reason}, count) for reason, count in counts.items()])


def _turn(servers: list[Mapping[str, Any]]) -> Iterator[Metric]:
    """One that is configured twice is told of once."""
    told = {server["server"]: server for server in servers}
    allocations = {name: server["allocations"] for name, server in told.items()}
    standing = [Sample({"server": name}, len(each)) for name, each in allocations.items()]
    yield Metric("turn_allocations", "gauge", "Addresses at which a TURN server receives for us.", standing)
    connected = [
        Sample({"server": name}, sum(each["connections"] for each in ours)) for name, ours in allocations.items()
    ]
    yield Metric("turn_connections", "gauge", "Connections over these.", connected)
    for key, name, text in (
        ("opened", "turn_allocations_total", "Allocations made."),
        ("bytes_down", "turn_received_bytes_total", "Payload of datagrams from peers."),
        ("bytes_up", "turn_sent_bytes_total", "Payload of datagrams to peers."),
        ("dropped", "turn_dropped_datagrams_total", "Datagrams that came faster than they were read."),
    ):
        yield Metric(name, "counter", text, [Sample({"server": each}, told[each][key]) for each in told])
    yield Metric(
        "turn_failures_total",
        "counter",
        "Times that a server gave no allocation, or lost one, by reason.",
        [
            Sample({"server": each, "reason": reason}, count)
            for each in told
            for reason, count in told[each]["failures"].items()
        ],
    )


def _dht(dht: Mapping[str, Any]) -> Iterator[Metric]:
    known = {family: counts for family, counts in dht.items() if counts is not None}
    for key, name, text in (
        ("nodes", "dht_nodes", "Nodes in the routing table."),
        ("queries_in", "dht_queries_received_total", "Queries received."),
        ("queries_out", "dht_queries_sent_total", "Queries sent."),
        ("answers", "dht_answers_total", "Answers to our queries."),
        ("lookups", "dht_lookups_total", "Look-ups begun."),
    ):
        samples = [Sample({"family": family}, counts[key]) for family, counts in known.items()]
        yield Metric(name, "counter" if name.endswith("_total") else "gauge", text, samples)


def _sockets(sockets: Mapping[str, Any]) -> Iterator[Metric]:
    known = {family: each for family, each in sockets.items() if each is not None}
    cores = [
        ({"family": family, "core": name}, core)
        for family, each in known.items()
        for name, core in each["cores"].items()
    ]
    for key, name, text in (
        ("datagrams_in", "udp_received_datagrams_total", "Datagrams given to a protocol."),
        ("bytes_in", "udp_received_bytes_total", "Payload of datagrams given to a protocol."),
        ("datagrams_out", "udp_sent_datagrams_total", "Datagrams sent by a protocol."),
        ("bytes_out", "udp_sent_bytes_total", "Payload of datagrams sent by a protocol."),
        ("dropped", "udp_dropped_datagrams_total", "Datagrams that found the send buffer and our queue full."),
    ):
        yield Metric(name, "counter", text, [Sample(labels, core[key]) for labels, core in cores])
    yield Metric(
        "udp_send_errors_total",
        "counter",
        "Runs of datagrams that the kernel refused.",
        [
            Sample(labels | {"error": error}, count)
            for labels, core in cores
            for error, count in core["send_errors"].items()
        ],
    )
    for key, name, text in (
        ("unclaimed", "udp_unclaimed_datagrams_total", "Datagrams received that no protocol wanted."),
        ("unclaimed_bytes", "udp_unclaimed_bytes_total", "Payload of datagrams that no protocol wanted."),
        ("waits_for_buffer", "udp_buffer_waits_total", "Times the send buffer was full."),
        ("receive_buffer", "udp_receive_buffer_bytes", "What the kernel granted."),
        ("send_buffer", "udp_send_buffer_bytes", "What the kernel granted."),
    ):
        samples = [Sample({"family": family}, each[key]) for family, each in known.items()]
        yield Metric(name, "counter" if name.endswith("_total") else "gauge", text, samples)


def _swarm(document: Mapping[str, Any]) -> Iterator[Metric]:
    yield Metric(
        "peers_found_total",
        "counter",
        "Peers that were not known before, by who named them.",
        [Sample({"source": source}, count) for source, count in document["sources"].items()],
    )
    connected = Counter((peer["path"], peer["direction"]) for peer in document["peers"] if peer["connected"])
    yield Metric(
        "peers_connected",
        "gauge",
        "Peers connected now.",
        [
            Sample({"path": path, "direction": direction}, connected[path, direction])
            for path, directions in document["paths"].items()
            for direction in directions
        ],
    )
    torrents = [({"info_hash": each["info_hash"], "name": each["name"]}, each) for each in document["torrents"]]
    for key, name, text in (
        ("done", "torrent_done_bytes", "What is wanted and verified."),
        ("total", "torrent_wanted_bytes", "What is wanted."),
        ("peers", "torrent_peers", "Peers connected now."),
    ):
        yield Metric(name, "gauge", text, [Sample(labels, each[key]) for labels, each in torrents])
