"""The fold of events, the document that it makes, and Prometheus's text of it."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.results import NodeStatistics
from swarm.connect.report import NatReport
from swarm.endpoint import Endpoint
from swarm.events import (
    ConnectionClosed,
    ConnectionRefused,
    DialFailed,
    Event,
    PeerConnected,
    PeerDiscovered,
    PieceVerified,
    PortMapped,
    PortMappingFailed,
    PortMappingLost,
    PunchAsked,
    PunchConnected,
    PunchFailed,
    RendezvousRefused,
    RendezvousRelayed,
)
from swarm.stats.document import build_document
from swarm.stats.durations import OCTAVES, PER_OCTAVE, Durations
from swarm.stats.fold import MAX_HEARD, MAX_LEASES, MAX_PEERS, MAX_REASONS, OTHER, PeerKey, Stats
from swarm.stats.prometheus import prometheus_text
from swarm.stats.snapshot import LivePeer, SharedTorrent, Snapshot
from tests.stats_sample import (
    CLIENT,
    INSIDE,
    INTRODUCER,
    OUTSIDE,
    ROUTER,
    TORRENT,
    log,
    peer,
    sample_document,
    snapshot,
)

A, B = Endpoint("192.0.2.1", 6881), Endpoint("192.0.2.2", 6881)
NOTHING = Snapshot(now=100.0, version="0.1.0", peer_id=bytes(20), uptime=99.0)


def folded(*events: Event, time: float = 1.0) -> Stats:
    stats = Stats()
    for event in events:
        stats.apply(time, event)
    return stats


def connected(endpoint: Endpoint = A, path: Any = "utp", direction: Any = "out", seconds: float = 0.5) -> PeerConnected:
    return PeerConnected(TORRENT, endpoint, path, direction, CLIENT, seconds)


def closed(endpoint: Endpoint = A, path: Any = "utp", direction: Any = "out", down: int = 0, up: int = 0) -> Event:
    return ConnectionClosed(TORRENT, endpoint, path, direction, CLIENT, "closed", down, up, 10.0)


# -- durations --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_quantile_is_within_four_and_a_half_percent_of_the_true_one(seconds: list[float], part: float) -> None:
    durations = Durations()
    for each in seconds:
        durations.add(each)
    true = sorted(seconds)[-(-len(seconds) * round(part * 10) // 10) - 1]
    found = durations.quantile(part)
    assert found is not None
    assert abs(found / true - 1) <= 0.045
    assert durations.total == pytest.approx(sum(seconds))


def test_a_single_duration_is_told_as_it_is_and_none_as_none() -> None:
    durations = Durations()
    assert durations.quantile(0.5) is None
    durations.add(0.123)
    assert durations.quantile(0.5) == durations.quantile(0.9) == 0.123


def test_octaves_count_every_duration_once_where_it_belongs() -> None:
    durations = Durations()
    for seconds in (0.0, 0.001, 0.002, 0.0021, 0.5, 0.51, 0.52, 5000.0):
        durations.add(seconds)
    counts = durations.octaves()
    assert (counts[0], counts[1], counts[2], counts[9], counts[10], counts[OCTAVES]) == (2, 1, 1, 2, 1, 1)
    assert (sum(counts), len(counts)) == (8, OCTAVES + 1)
    assert Durations().octaves() == []


def test_durations_take_bounded_memory_whatever_they_are() -> None:
    durations, rng = Durations(), random.Random(1)
    for _ in range(5000):
        durations.add(10 ** rng.uniform(-9, 9))
    for each in (0.0, -1.0):
        durations.add(each)
    assert len(durations._buckets) <= OCTAVES * PER_OCTAVE + 1


# -- attempts ---------------------------------------------------------------------------------------------------------


def test_failed_rungs_and_admitted_peers_are_attempts_and_cancelled_rungs_are_none() -> None:
    stats = folded(DialFailed(TORRENT, A, "utp", "timed-out", 3.0), connected(path="tcp"), connected(B, "utp"))
    assert (stats.paths["utp"]["out"].attempted, stats.paths["utp"]["out"].succeeded) == (2, 1)
    assert stats.paths["utp"]["out"].failed == {"timed-out": 1}
    assert (stats.paths["tcp"]["out"].attempted, stats.paths["tcp"]["out"].succeeded) == (1, 1)
    assert stats.paths["tcp"]["in"].attempted == 0


def test_a_connection_that_is_not_admitted_is_a_failed_attempt_in_its_direction() -> None:
    stats = folded(
        ConnectionRefused(A, "tcp", "in", "full", TORRENT), ConnectionRefused(B, "utp", "out", "duplicate", TORRENT)
    )
    assert stats.paths["tcp"]["in"].failed == {"full": 1}
    assert stats.paths["utp"]["out"].failed == {"duplicate": 1}
    assert list(stats.peers) == [PeerKey(TORRENT, B)]  # who knocks in vain is not remembered


def test_reasons_are_counted_by_name_while_there_are_few() -> None:
    stats = folded(*(DialFailed(TORRENT, A, "tcp", f"errno-{number % 50}", 1.0) for number in range(500)))
    failed = stats.paths["tcp"]["out"].failed
    assert len(failed) == MAX_REASONS + 1
    assert failed.total() == 500
    assert failed["errno-0"] == 10
    assert failed[OTHER] == (50 - MAX_REASONS) * 10


def test_bytes_are_those_of_closed_connections_and_of_live_ones() -> None:
    stats = folded(connected(), closed(down=5, up=3), connected())
    live = LivePeer(TORRENT, A, "utp", "out", CLIENT, 20, 10, 0.04, sources={"tracker"})
    document = build_document(stats, Snapshot(100.0, "1", b"", 1.0, peers=(live,)))
    counts = document["paths"]["utp"]["out"]
    assert (counts["bytes_down"], counts["bytes_up"]) == (25, 13)
    (row,) = document["peers"]
    assert (row["bytes_down"], row["bytes_up"], row["rtt"], row["sources"]) == (25, 13, 0.04, ["tracker"])
    assert stats.paths["utp"]["out"].bytes_down == 5  # the fold itself is not touched


def test_who_is_connected_from_another_port_is_not_missed_where_it_was_named() -> None:
    stats = folded(DialFailed(TORRENT, A, "tcp", "timed-out", 3.0), connected(endpoint=B, path="birthday"))
    live = LivePeer(TORRENT, B, "birthday", "out", CLIENT, 20, 10, 0.04, known_at=A)
    (row,) = build_document(stats, Snapshot(100.0, "1", b"", 1.0, peers=(live,)))["peers"]
    assert (row["endpoint"], row["connected"], row["failures"]) == (str(B), True, {"tcp": "timed-out"})
    there = LivePeer(TORRENT, A, "tcp", "in", CLIENT, 0, 0, 0.04)
    rows = build_document(stats, Snapshot(100.0, "1", b"", 1.0, peers=(live, there)))["peers"]
    assert {row["endpoint"] for row in rows if row["connected"]} == {str(A), str(B)}


# -- peers and sources ------------------------------------------------------------------------------------------------


def test_a_peer_keeps_its_source_and_the_last_reason_of_each_rung() -> None:
    stats = folded(
        PeerDiscovered(TORRENT, A, "pex"),
        DialFailed(TORRENT, A, "utp", "timed-out", 3.0),
        DialFailed(TORRENT, A, "tcp", "timed-out", 3.0),
        DialFailed(TORRENT, A, "tcp", "refused", 0.1),
        PeerDiscovered(TORRENT, A, "dht"),
    )
    record = stats.peers[PeerKey(TORRENT, A)]
    assert record.sources == {"pex", "dht"}
    assert record.failures == {"utp": "timed-out", "tcp": "refused"}
    assert not stats._heard  # it stands in one place only
    stats.apply(2.0, connected(path="utp"))
    assert record.failures == {"tcp": "refused"}
    stats.apply(3.0, closed(path="utp"))
    assert record.failures == {"tcp": "refused", "utp": "closed"}
    assert record.connections == 0


def test_sources_count_who_named_a_peer_first_and_each_peer_that_came_by_itself() -> None:
    stats = folded(
        PeerDiscovered(TORRENT, A, "tracker"),
        PeerDiscovered(TORRENT, B, "dht"),
        connected(B, "tcp", "in"),
        PeerDiscovered(TORRENT, B, "incoming"),
    )
    assert stats.sources == Counter(tracker=1, dht=1, incoming=1)


def test_of_many_peers_the_connected_are_remembered_longest() -> None:
    stats = folded(connected())
    for number in range(MAX_PEERS + 50):
        stats.apply(2.0, DialFailed(TORRENT, Endpoint("192.0.2.9", 1 + number), "tcp", "refused", 0.1))
    assert len(stats.peers) == MAX_PEERS
    assert PeerKey(TORRENT, A) in stats.peers
    assert PeerKey(TORRENT, Endpoint("192.0.2.9", 1)) not in stats.peers


def test_memory_is_bounded_even_if_everybody_is_connected_and_everybody_is_named() -> None:
    stats = Stats()
    for number in range(MAX_PEERS + 10):
        stats.apply(1.0, connected(Endpoint("192.0.2.9", 1 + number)))
    for number in range(MAX_HEARD + 10):
        stats.apply(1.0, PeerDiscovered(TORRENT, Endpoint("192.0.2.10", 1 + number), "pex"))
    assert len(stats.peers) == MAX_PEERS
    assert len(stats._heard) == MAX_HEARD


# -- punches and gateways ---------------------------------------------------------------------------------------------


def test_punches_are_counted_by_role_and_by_pair_of_behaviours() -> None:
    stats = folded(
        PunchAsked(TORRENT, A, "initiator", INTRODUCER),
        PunchConnected(TORRENT, A, "initiator", "utp-punched", 0.4, "endpoint-independent", "unknown"),
        PunchAsked(TORRENT, B, "initiator", INTRODUCER),
        PunchFailed(TORRENT, B, "initiator", "timed-out", 5.0, "endpoint-independent", "unknown"),
        PunchAsked(TORRENT, B, "target", INTRODUCER),
    )
    punch = build_document(stats, NOTHING)["punch"]
    assert punch["initiator"] == {
        "asked": 2,
        "connected": 1,
        "errors": {"timed-out": 1},
        "by_nat": {"endpoint-independent|unknown": {"tried": 2, "connected": 1}},
    }
    assert punch["target"] == {"asked": 1, "connected": 0, "errors": {}, "by_nat": {}}  # cancelled, or still under way


def test_a_relay_counts_what_it_passed_on_and_what_it_refused() -> None:
    stats = folded(RendezvousRelayed(TORRENT, A, B), RendezvousRefused(TORRENT, A, "no-such-peer"))
    assert build_document(stats, NOTHING)["punch"]["relay"] == {
        "asked": 2,
        "connected": 1,
        "errors": {"no-such-peer": 1},
        "by_nat": {},
    }


def test_a_lease_is_what_was_last_said_of_it_unless_the_mapper_can_be_asked() -> None:
    stats = folded(
        PortMappingFailed("pcp", "udp", ROUTER, INSIDE, "timed-out"),
        PortMapped("pcp", "udp", ROUTER, INSIDE, OUTSIDE),
        PortMapped("pcp", "tcp", ROUTER, INSIDE, OUTSIDE),
        PortMappingLost("pcp", "tcp", ROUTER, INSIDE, "gateway-restarted"),
    )
    udp, tcp = build_document(stats, NOTHING)["gateway"]
    assert (udp["transport"], udp["external"], udp["error"]) == ("udp", str(OUTSIDE), None)
    assert (tcp["transport"], tcp["external"], tcp["error"]) == ("tcp", None, "gateway-restarted")
    asked = build_document(stats, snapshot())["gateway"]
    assert [lease["method"] for lease in asked] == ["nat-pmp", "nat-pmp"]


def test_gateways_that_invent_themselves_fill_no_memory() -> None:
    events = [PortMappingFailed("upnp-igd1", "udp", f"192.168.1.{n}", INSIDE, "refused") for n in range(200)]
    stats = folded(*events)
    assert len(stats.leases) == MAX_LEASES
    assert next(reversed(stats.leases)).gateway == "192.168.1.199"
    oldest = next(iter(stats.leases))
    stats.apply(2.0, PortMapped(oldest.method, oldest.transport, oldest.gateway, oldest.internal, OUTSIDE))
    stats.apply(3.0, PortMappingFailed("pcp", "udp", ROUTER, INSIDE, "refused"))
    assert stats.leases[oldest].external == OUTSIDE  # what is still spoken of is not the oldest


# -- the whole --------------------------------------------------------------------------------------------------------


def test_the_same_log_gives_the_same_numbers() -> None:
    assert sample_document() == sample_document()
    events = list(log())
    stats = Stats()
    for time, event in [*events[:40], (5.0, PieceVerified(TORRENT, 1)), *events[40:]]:
        stats.apply(time, event)
    assert build_document(stats, snapshot()) == sample_document()


C = {"attempted", "succeeded", "failed", "connect_seconds", "bytes_down", "bytes_up"}


def test_the_document_has_the_keys_that_other_programs_rely_on() -> None:
    document = sample_document()
    assert document["schema"] == 1
    assert set(document["node"]) == {"version", "peer_id", "listen", "uptime"}
    assert set(document["node"]["listen"][0]) == {"transport", "endpoint"}
    assert set(document["nat"]) == {"v4", "v6"}
    assert set(document["nat"]["v4"]) == {
        *("external", "mapping", "filtering", "port_preserving", "port_step"),
        *("double_nat", "hairpin", "lifetime", "evidence"),
    }
    assert document["nat"]["v6"] is None
    for lease in document["gateway"]:
        assert {"method", "transport", "internal", "external", "expires_in", "error"} <= set(lease)
    assert document["reachability"] == {"tcp4": False, "utp4": True, "tcp6": None, "utp6": None}
    names = ["tcp", "utp", "tcp-punched", "utp-punched", "predicted", "birthday", "relayed", "turn"]
    assert list(document["paths"]) == names
    for counts in document["paths"].values():
        assert set(counts) == {"in", "out"}
        assert set(counts["in"]) == set(counts["out"]) == C
        assert {"p50", "p90"} <= set(counts["in"]["connect_seconds"])
    assert set(document["punch"]) == {"initiator", "target", "relay"}
    for each in document["punch"].values():
        assert set(each) == {"asked", "connected", "errors", "by_nat"}
    assert {"nodes", "queries_in", "queries_out", "answers", "lookups"} <= set(document["dht"]["v4"])
    assert document["dht"]["v6"] is None
    assert {"tracker", "dht", "pex", "lsd", "incoming", "manual"} <= set(document["sources"])
    for row in document["peers"]:
        assert {
            *("endpoint", "client", "path", "direction", "connected", "sources", "bytes_down", "bytes_up"),
            *("seconds_to_connect", "rtt", "failures"),
        } <= set(row)
    assert set(document["torrents"][0]) == {"info_hash", "name", "done", "total", "peers"}


def test_the_document_says_what_the_sample_did() -> None:
    document = sample_document()
    utp = document["paths"]["utp"]["out"]
    assert (utp["attempted"], utp["succeeded"], utp["failed"]) == (30, 10, {"timed-out": 20})
    # ten at 0.05, 0.11 … 0.59 s: nearest ranks 5 and 9
    assert utp["connect_seconds"]["p50"] == pytest.approx(0.29, rel=0.045)
    assert utp["connect_seconds"]["p90"] == pytest.approx(0.53, rel=0.045)
    assert utp["connect_seconds"]["sum"] == pytest.approx(3.2)
    assert document["punch"]["initiator"]["asked"] == 10
    assert document["punch"]["initiator"]["connected"] == 8
    flags = [row["connected"] for row in document["peers"]]
    assert flags == sorted(flags, reverse=True)
    by_endpoint = {row["endpoint"]: row for row in document["peers"]}
    unreached = by_endpoint[str(peer(1))]
    assert unreached["failures"] == {"utp": "timed-out", "tcp": "refused"}
    assert unreached["since"] == 11_500 - 8
    assert unreached["sources"] == ["tracker"]
    assert document["sockets"]["v4"]["cores"]["utp"]["send_errors"] == {"ENETUNREACH": 3}


def test_a_document_of_nothing_is_whole_and_is_json() -> None:
    document = build_document(Stats(), NOTHING)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["nat"] == document["dht"] == document["sockets"] == {"v4": None, "v6": None}
    assert document["paths"]["turn"]["in"]["connect_seconds"] == {"p50": None, "p90": None, "sum": 0.0, "octaves": []}
    assert document["peers"] == document["torrents"] == document["gateway"] == []


def test_a_report_that_knows_nothing_says_unknown() -> None:
    document = build_document(Stats(), Snapshot(1.0, "1", b"", 1.0, nat={6: NatReport()}))
    report = document["nat"]["v6"]
    assert (report["mapping"], report["filtering"], report["external"]) == ("unknown", "unknown", [])
    assert {report[key] for key in ("port_preserving", "port_step", "double_nat", "hairpin", "lifetime")} == {None}


# -- Prometheus -------------------------------------------------------------------------------------------------------

SAMPLE_LINE = re.compile(
    r"(?P<name>swarm_[a-z0-9_]+)(?:\{(?P<labels>(?:[a-z_]+=\"(?:[^\"\\]|\\[\\\"n])*\",?)+)\})? (?P<value>-?[0-9.e+-]+)"
)


def test_every_line_is_a_help_a_type_or_a_sample_and_no_series_comes_twice() -> None:
    text = prometheus_text(sample_document())
    assert text.endswith("\n")
    types: dict[str, str] = {}
    seen = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            assert line.split(" ")[2] not in types
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        else:
            match = SAMPLE_LINE.fullmatch(line)
            assert match is not None, line
            name = match["name"]
            base = re.sub("_(sum|count)$", "", name) if name not in types else name
            assert base in types, line
            assert (types[base] == "counter") == name.endswith("_total"), line
            assert (name, match["labels"]) not in seen
            seen.add((name, match["labels"]))
            float(match["value"])
    assert len(seen) > 150


def test_prometheus_says_what_the_document_says() -> None:
    lines = prometheus_text(sample_document()).splitlines()
    for line in (
        'swarm_reachable{transport="tcp",family="v4"} 0',
        'swarm_reachable{transport="utp",family="v4"} 1',
        'swarm_nat_info{family="v4",mapping="endpoint-independent",filtering="address-and-port-dependent"} 1',
        'swarm_path_attempts_total{path="utp",direction="out"} 30',
        'swarm_path_failures_total{path="tcp",direction="out",reason="refused"} 10',
        'swarm_path_connect_seconds_count{path="utp-punched",direction="out"} 8',
        'swarm_punch_pair_tried_total{role="initiator",ours="endpoint-independent",theirs="endpoint-independent"} 4',
        'swarm_dht_nodes{family="v4"} 412',
        'swarm_udp_send_errors_total{family="v4",core="utp",error="ENETUNREACH"} 3',
        'swarm_peers_connected{path="utp-punched",direction="out"} 8',
        f'swarm_torrent_done_bytes{{info_hash="{TORRENT.hex()}",name="ubuntu-26.04-desktop-amd64.iso"}} 3401000000',
    ):
        assert line in lines
    assert "# TYPE swarm_path_connect_seconds summary" in lines
    assert not any(line.startswith("swarm_nat_port_step") for line in lines)  # not known
    assert not any('family="v6"' in line for line in lines)


def test_a_name_cannot_end_its_label_nor_command_a_terminal() -> None:
    name = 'a"} 1\nswarm_x 2\\\x1b[31m\x7f\u202eé'
    torrent = SharedTorrent(TORRENT, name, 1, 2, 3)
    text = prometheus_text(build_document(Stats(), Snapshot(1.0, "1", b"", 1.0, torrents=(torrent,))))
    (line,) = [line for line in text.splitlines() if line.startswith("swarm_torrent_done_bytes")]
    assert 'name="a\\"} 1\\nswarm_x 2\\\\\\\\x1b[31m\\\\x7f\\\\u202eé"} 1' in line
    assert SAMPLE_LINE.fullmatch(line)
    assert all(line.isprintable() for line in text.splitlines())


def test_the_dht_document_follows_the_statistics_of_the_library() -> None:
    counts = NodeStatistics(*range(1, 12))
    document = build_document(Stats(), Snapshot(1.0, "1", b"", 1.0, dht={6: counts}))
    assert document["dht"]["v6"]["queries_in"] == counts.queries_in
    assert document["dht"]["v6"]["limited"] == counts.limited
