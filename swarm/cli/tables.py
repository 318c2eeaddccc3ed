"""The statistics document as tables for people: how we stand, how peers are reached, and why others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from swarm.cli.bars import Cell, Page, Paint, listed
from swarm.cli.units import counted, format_bytes, format_duration, format_part, format_percent

Document = Mapping[str, Any]

BAR = 8
"""Columns of a bar."""

MAX_CONNECTED = 30
MAX_UNREACHED = 20
"""Peers shown; --json has all."""

WIDE = 90
"""Columns from which on there is room for more about each peer."""

UNKNOWN = "not known"
FAMILY_NAMES = {"v4": "IPv4", "v6": "IPv6"}
ROLE_NAMES = {"initiator": "we asked", "target": "asked of us", "relay": "we introduced"}


def tables(document: Document, page: Page) -> Iterator[str]:
    """The lines of a complete document (`swarm.stats.document`, or as `swarm.cli.document` reads it)."""
    yield from _node(document, page)
    for title, lines in (
        ("NAT", _nat(document, page)),
        ("Gateway", _gateway(document["gateway"], page)),
        ("Ways to peers", _paths(document["paths"], page)),
        ("Hole punches", _punches(document["punch"], page)),
        ("Relayed for others", _relayed(document.get("relay"), page)),
        ("Relayed by others", _relayed_by_others(document.get("relay_client"), page)),
        ("TURN servers", turn_servers(document.get("turn", ()), page)),
        ("Help for others", _for_others(document["for_others"], page)),
        ("Where peers came from", _sources(document["sources"], page)),
        ("DHT", _dht(document["dht"], page)),
        ("UDP sockets", _sockets(document["sockets"], page)),
        ("Torrents", _torrents(document["torrents"], page)),
        ("Peers connected", _connected(document["peers"], page)),
        ("Peers not connected", _unreached(document["peers"], page)),
    ):
        yield from section(title, lines, page)


def standing(document: Document, page: Page) -> Iterator[str]:
    """The part of them that says how the node stands, whatever peers there are."""
    yield from section("NAT", _nat(document, page), page)
    yield from section("DHT", _dht(document["dht"], page), page)


def section(title: str, lines: Iterable[str], page: Page) -> Iterator[str]:
    """A heading and its lines; nothing at all where there is nothing to say."""
    shown = list(lines)
    if shown:
        yield ""
        yield page.heading(title)
        yield from shown


def _node(document: Document, page: Page) -> Iterator[str]:
    node = document["node"]
    up = "" if node["uptime"] is None else f", up {format_duration(node['uptime'])}"
    yield page.heading(page.line(f"swarm {node['version'] or ''}{up}"))
    listening = [f"{each['transport'] or '?'} {each['endpoint'] or '?'}" for each in node["listen"]]
    if listening:
        yield page.line(f"listens on {listed(listening)}")


# -- how we stand -----------------------------------------------------------------------------------------------------


def _nat(document: Document, page: Page) -> Iterator[str]:
    reachability = document["reachability"]
    reports = {family: document["nat"][family] for family in FAMILY_NAMES}
    families = [
        family
        for family, report in reports.items()
        if report is not None or any(reachability[f"{name}{family[1]}"] is not None for name in ("tcp", "utp"))
    ]
    if not families:
        return
    rows = [[Cell(""), *(Cell(FAMILY_NAMES[family], paint="dim") for family in families)]]
    unknown = []
    for label, cells in _nat_rows(reports, reachability, families):
        if any(cell.text != UNKNOWN for cell in cells):
            rows.append([Cell(label), *cells])
        else:
            unknown.append(label)
    if len(rows) > 1:
        yield from page.table(rows, flexible=range(len(families), 0, -1))
    if unknown:
        yield from page.sentence(f"{UNKNOWN}: {listed(unknown)}", 2, paint="dim")
    for family in families:
        for sentence in (reports[family] or {}).get("evidence", ()):
            yield from page.sentence(f"{FAMILY_NAMES[family]}: {sentence or ''}", 2, hang=6, paint="dim")


def _nat_rows(
    reports: Mapping[str, Document | None], reachability: Document, families: Sequence[str]
) -> Iterator[tuple[str, list[Cell]]]:
    """What each line says of each family."""
    for label, of in _NAT_ROWS:
        told = [UNKNOWN if (report := reports[family]) is None else of(report) for family in families]
        yield label, [Cell(text, paint=_paint(text)) for text in told]
    for label, name in (("reached by TCP", "tcp"), ("reached by µTP", "utp")):
        verdicts = [reachability[f"{name}{family[1]}"] for family in families]
        yield label, [Cell(_verdict(each), paint=_reached(each)) for each in verdicts]


def _outside(endpoints: Sequence[str | None]) -> str:
    """Several ports of one address are not worth its name each time."""
    known = [endpoint for endpoint in endpoints if endpoint]
    hosts = {endpoint.rpartition(":")[0] for endpoint in known}
    if len(known) < 2 or len(hosts) != 1:
        return listed(known, UNKNOWN)
    return f"{hosts.pop()}, ports {listed(endpoint.rpartition(':')[2] for endpoint in known)}"


def _word(word: str | None) -> str:
    return UNKNOWN if word in (None, "unknown") else str(word)


def _verdict(flag: bool | None) -> str:
    return UNKNOWN if flag is None else "yes" if flag else "no"


def _paint(text: str) -> Paint:
    return "dim" if text == UNKNOWN else ""


def _reached(flag: bool | None) -> Paint:
    return "dim" if flag is None else "green" if flag else "red"


def _step(step: float | None) -> str:
    return UNKNOWN if step is None else "none, ports are random" if step == 0 else f"{step:+g}"


def _duration(seconds: float | None, unknown: str = "") -> str:
    return unknown if seconds is None else format_duration(seconds)


_NAT_ROWS: tuple[tuple[str, Callable[[Document], str]], ...] = (
    ("outside", lambda report: _outside(report["external"])),
    ("mapping", lambda report: _word(report["mapping"])),
    ("filtering", lambda report: _word(report["filtering"])),
    ("port kept", lambda report: _verdict(report["port_preserving"])),
    ("port step", lambda report: _step(report["port_step"])),
    ("double NAT", lambda report: _verdict(report["double_nat"])),
    ("hairpin", lambda report: _verdict(report["hairpin"])),
    ("lifetime", lambda report: _duration(report["lifetime"], UNKNOWN)),
)


def _gateway(leases: Iterable[Document], page: Page) -> Iterator[str]:
    rows = [
        [
            Cell(lease["method"] or "?"),
            Cell(lease["transport"] or "?"),
            Cell(lease["internal"] or "?"),
            Cell("open as", paint="green") if lease["external"] is not None else Cell("closed", paint="red"),
            Cell(lease["external"] or lease["error"] or ""),
            Cell(_left(lease)),
        ]
        for lease in leases
    ]
    if rows:
        yield from page.table(rows, flexible=(4, 2))


def _left(lease: Document) -> str:
    return f"for {format_duration(lease['expires_in'])}" if lease["expires_in"] is not None else ""


# -- how peers are reached --------------------------------------------------------------------------------------------


def _paths(paths: Document, page: Page) -> Iterator[str]:
    used = [
        (path, direction, counts)
        for path, directions in paths.items()
        for direction, counts in directions.items()
        if counts["attempted"] or counts["bytes_down"] or counts["bytes_up"]
    ]
    if not used:
        return
    head = ("", "tried", "met", "", "half in", "90 % in", "down", "up")
    rows = [[Cell(text, right=True, paint="dim") for text in head]]
    rows += [[Cell(f"{path} {direction}"), *_path_cells(counts, page)] for path, direction, counts in used]
    lines = list(page.table(rows))
    yield lines[0]
    for line, (_, _, counts) in zip(lines[1:], used, strict=True):
        yield line
        if counts["failed"]:
            yield page.line(_reasons(counts["failed"]), 4, "dim")


def _path_cells(counts: Document, page: Page) -> list[Cell]:
    attempted, succeeded, seconds = counts["attempted"], counts["succeeded"], counts["connect_seconds"]
    return [
        Cell(f"{attempted:,}", right=True),
        Cell(f"{succeeded:,}", right=True),
        _share(succeeded, attempted, page),
        Cell(_duration(seconds["p50"]), right=True),
        Cell(_duration(seconds["p90"]), right=True),
        Cell(format_bytes(counts["bytes_down"]), right=True),
        Cell(format_bytes(counts["bytes_up"]), right=True),
    ]


def _share(part: int, whole: int, page: Page) -> Cell:
    return Cell(page.bar(part, whole, BAR), paint="green" if part * 2 >= whole else "yellow" if part else "red")


def _reasons(counts: Document) -> str:
    """The most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return listed(f"{reason} {count:,}" for reason, count in ranked)


def _punches(punch: Document, page: Page) -> Iterator[str]:
    for role, counts in punch.items():
        if not counts["asked"] and not counts["connected"] and not counts["errors"]:
            continue
        yield from page.table([[Cell(f"{ROLE_NAMES[role]:13}"), *_tally(counts["connected"], counts["asked"], page)]])
        if counts["errors"]:
            yield page.line(_reasons(counts["errors"]), 4, "dim")
        pairs = [
            [Cell(pair.replace("|", " / ", 1)), *_tally(each["connected"], each["tried"], page)]
            for pair, each in counts["by_nat"].items()
        ]
        if pairs:
            yield from page.table(pairs, indent=4)


def _for_others(done: Document, page: Page) -> Iterator[str]:
    """As introducer of sw_punch; as helper and dialler of sw_reach."""
    introductions, probes = done["introductions"], done["probes"]
    if introductions["asked"]:
        yield from page.table([[Cell("meetings"), *_tally(introductions["gone"], introductions["asked"], page)]])
        if introductions["refused"]:
            yield page.line(_reasons(introductions["refused"]), 4, "dim")
    if probes["helped"] or probes["dialled"] or probes["refused"]:
        yield page.line(f"probes passed on {probes['helped']:,}, dialled back {probes['dialled']:,}", 2)
        if probes["refused"]:
            yield page.line(_reasons(probes["refused"]), 4, "dim")


def _relayed(relay: Document | None, page: Page) -> Iterator[str]:
    """What we carried; ``relay`` is missing in documents of earlier versions, and None where we do not serve."""
    if relay is None:
        return
    serving = "serving" if relay["serving"] else "not serving: no stranger is known to reach us"
    standing = f"{counted(relay['circuits'], 'circuit')}, {counted(relay['reservations'], 'reservation')}"
    yield page.line(f"{serving}; {standing}")
    yield page.line(f"opened {relay['opened']:,} of {relay['asked']:,}, carried {format_bytes(relay['bytes'])}")
    for reasons in (relay["refused"], relay["ended"]):
        if reasons:
            yield page.line(_reasons(reasons), 4, "dim")


def _relayed_by_others(client: Document | None, page: Page) -> Iterator[str]:
    """What relays did for us, if anything; ``relay_client`` is missing in documents of earlier versions."""
    if client is None or not (client["relays"] or client["asked"] or client["called"]):
        return
    counts = (("relay", "relays"), ("reservation", "reservations"), ("circuit", "circuits"))
    yield page.line("; ".join(counted(client[key], noun) for noun, key in counts))
    yield page.line(f"opened {client['opened']:,} of {client['asked']:,}, called by {client['called']:,}")
    for reasons in (client["refused"], client["declined"]):
        if reasons:
            yield page.line(_reasons(reasons), 4, "dim")


def turn_servers(servers: Iterable[Document], page: Page) -> Iterator[str]:
    """How each does; ``turn`` is missing in documents of earlier versions."""
    for server in servers:
        name = server["server"]
        for each in server["allocations"]:
            moved = f"{format_bytes(each['bytes_down'])} down, {format_bytes(each['bytes_up'])} up"
            connected = counted(each["connections"], "connection")
            text = (
                f"{name} receives for us at {each['relayed']} (over {each['transport'].upper()}): {connected}, {moved}"
            )
            yield from page.sentence(text, 2, hang=2, paint="green")
        if server["error"] is not None:
            again = "" if server["retry_in"] is None else f"; tried again in {format_duration(server['retry_in'])}"
            text = f"{name} is of no use: {server['detail'] or server['error'].replace('-', ' ')}{again}"
            yield from page.sentence(text, 2, hang=2, paint="yellow")
        elif not server["allocations"]:
            state = "gives us an address when one is needed" if server["opened"] else "was not needed so far"
            yield page.line(f"{name} {state}", 2)


def _tally(part: int, whole: int, page: Page) -> list[Cell]:
    return [Cell(f"{part:,}", right=True), Cell(f"of {whole:,}", right=True), _share(part, whole, page)]


def _sources(sources: Document, page: Page) -> Iterator[str]:
    named = sorted(((count, source) for source, count in sources.items() if count), reverse=True)
    if named:
        most = named[0][0]
        rows = [
            [Cell(source), Cell(f"{count:,}", right=True), Cell(page.bar(count, most, 3 * BAR))]
            for count, source in named
        ]
        yield from page.table(rows)


def _dht(dht: Document, page: Page) -> Iterator[str]:
    known = {family: counts for family, counts in dht.items() if counts is not None}
    if not known:
        return
    keys = {
        "nodes": "nodes",
        "queries_out": "asked",
        "answers": "answers",
        "queries_in": "were asked",
        "lookups": "look-ups",
    }
    rows = [[Cell(""), *(Cell(name, right=True, paint="dim") for name in keys.values())]]
    for family, counts in known.items():
        rows.append([Cell(FAMILY_NAMES[family]), *(Cell(f"{counts[key]:,}", right=True) for key in keys)])
    yield from page.table(rows)


def _sockets(sockets: Document, page: Page) -> Iterator[str]:
    known = {family: each for family, each in sockets.items() if each is not None}
    rows = []
    for family, each in known.items():
        for name, core in each["cores"].items():
            lost = core["dropped"] + sum(core["send_errors"].values())
            if not (core["datagrams_in"] or core["datagrams_out"] or lost):
                continue
            rows.append(
                [
                    Cell(FAMILY_NAMES[family]),
                    Cell(name),
                    Cell(f"{core['datagrams_in']:,} in", right=True),
                    Cell(format_bytes(core["bytes_in"]), right=True),
                    Cell(f"{core['datagrams_out']:,} out", right=True),
                    Cell(format_bytes(core["bytes_out"]), right=True),
                    Cell(f"{lost:,} not sent" if lost else "", right=True, paint="yellow"),
                ]
            )
    if rows:
        yield from page.table(rows, flexible=(1,))
    for family, each in known.items():
        yield page.line(f"{FAMILY_NAMES[family]}: {_of_the_socket(each)}", 2, "dim")


def _of_the_socket(socket: Document) -> str:
    parts = [f"{counted(socket['unclaimed'], 'datagram')} of no protocol"]
    if socket["receive_buffer"] is not None and socket["send_buffer"] is not None:
        parts.append(f"buffers {format_bytes(socket['receive_buffer'])} in, {format_bytes(socket['send_buffer'])} out")
    if socket["waits_for_buffer"]:
        parts.append(f"full {counted(socket['waits_for_buffer'], 'time')}")
    return listed(parts)


# -- torrents and peers -----------------------------------------------------------------------------------------------


def _torrents(torrents: Iterable[Document], page: Page) -> Iterator[str]:
    rows = [
        [
            Cell(torrent["name"] or torrent["info_hash"] or "?"),
            Cell(page.bar(torrent["done"], torrent["total"], BAR)),
            Cell(format_percent(torrent["done"], torrent["total"]), right=True),
            Cell(format_part(torrent["done"], torrent["total"]), right=True),
            Cell(counted(torrent["peers"], "peer"), right=True),
        ]
        for torrent in torrents
    ]
    if rows:
        yield from page.table(rows)


def _connected(peers: Iterable[Document], page: Page) -> Iterator[str]:
    connected = [peer for peer in peers if peer["connected"]]
    if not connected:
        return
    head = ("", "", "", "met in" if page.width >= WIDE else "", "RTT", "down", "up")
    rows = [[Cell(text, right=True, paint="dim") for text in head]]
    rows += [_peer_cells(peer, page) for peer in connected[:MAX_CONNECTED]]
    yield from page.table(rows, flexible=(1, 0))
    yield from _more(len(connected) - MAX_CONNECTED, page)


def _peer_cells(peer: Document, page: Page) -> list[Cell]:
    return [
        Cell(peer["endpoint"] or "?"),
        Cell(peer["client"] or ""),
        Cell(f"{peer['path'] or '?'} {peer['direction'] or ''}"),
        Cell(_duration(peer["seconds_to_connect"]) if page.width >= WIDE else "", right=True),
        Cell(_duration(peer["rtt"]), right=True),
        Cell(format_bytes(peer["bytes_down"]), right=True),
        Cell(format_bytes(peer["bytes_up"]), right=True),
    ]


def _unreached(peers: Iterable[Document], page: Page) -> Iterator[str]:
    unreached = [peer for peer in peers if not peer["connected"]]
    if not unreached:
        return
    rows = [
        [
            Cell(peer["endpoint"] or "?"),
            Cell(listed(f"{path} {reason or '?'}" for path, reason in peer["failures"].items())),
            Cell(
                "" if peer["since"] is None else f"{format_duration(max(0, peer['since']))} ago",
                right=True,
                paint="dim",
            ),
        ]
        for peer in unreached[:MAX_UNREACHED]
    ]
    yield from page.table(rows, flexible=(1, 0))
    yield from _more(len(unreached) - MAX_UNREACHED, page)


def _more(count: int, page: Page) -> Iterator[str]:
    if count > 0:
        yield page.line(f"and {count:,} more; --json shows them", 2, "dim")
