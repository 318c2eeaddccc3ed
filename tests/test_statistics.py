"""What whole nodes tell of themselves: the document against their own events, torrents and sockets, in virtual time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dht.results import NodeStatistics
from swarm import __version__
from swarm.cli.document import as_text, parse_document_untrusted
from swarm.discover.dht_source import DhtStatistics
from swarm.endpoint import Endpoint
from swarm.events import (
    ConnectionClosed,
    ConnectionRefused,
    DialFailed,
    PeerConnected,
    PeerDiscovered,
    PunchAsked,
    PunchConnected,
    RendezvousRelayed,
)
from swarm.simnet.catalogue import behind
from swarm.simnet.internet import open_internet
from swarm.snapshot import NOTHING, whole_dht
from swarm.stats.document import build_document
from swarm.stats.fold import Stats
from swarm.stats.snapshot import Family
from swarm.torrent.torrent import Torrent
from tests.nodes import PORT, Recorded, Sample, endpoints, make_sample, node_on, seeding

SIZE = 1 << 20
SLOW = 1000
"""Bytes a second of the introducer, who so has nothing to give."""


@dataclass
class Meeting:
    """A leech and a seed, each behind a NAT, who meet through a stranger; and an endpoint where nobody is."""

    sample: Sample
    seed: Recorded
    leech: Recorded
    introducer: Recorded
    torrent: Torrent
    """The leech's."""
    nobody: Endpoint

    @property
    def nodes(self) -> list[Recorded]:
        return [self.seed, self.leech, self.introducer]


@asynccontextmanager
async def meeting(directory: Path, **leech_config: Any) -> AsyncIterator[Meeting]:
    async with open_internet(seed=1) as internet:
        sample = make_sample(directory / "seed", SIZE)
        middle, far, near = internet.host("middle"), behind(internet, "cone", "far"), behind(internet, "cone", "near")
        nobody = Endpoint(internet.host("empty").ipv4, PORT)
        async with (
            node_on(middle, 1, download_rate=SLOW) as introducer,
            node_on(far, 2) as seed,
            node_on(near, 3, **leech_config) as leech,
        ):
            introducer.node.add(sample.metainfo, directory / "middle")
            await seeding(seed, sample, peers=endpoints(middle.ipv4))
            await seed.wait_for(PeerConnected)
            outside = Endpoint(internet.routers["far-home"].wan, PORT)
            peers = [*endpoints(middle.ipv4), outside, nobody]
            torrent = leech.node.add(sample.metainfo, directory / "leech", peers=peers)
            yield Meeting(sample, seed, leech, introducer, torrent, nobody)


def replayed(recorded: Recorded) -> dict[str, Any]:
    """The document of a fresh fold of all events, with the node as it is now."""
    stats = Stats()
    for time, event in recorded.events:
        stats.apply(time, event)
    return build_document(stats, recorded.node.snapshot())


def by_path(document: dict[str, Any], key: str) -> int:
    return sum(counts[key] for directions in document["paths"].values() for counts in directions.values())


def assert_bytes_add_up(recorded: Recorded) -> tuple[int, int]:
    """By path, by peer and by torrent the same bytes have moved; how many, down and up."""
    document, torrents = recorded.node.document(), recorded.node.torrents.values()
    moved = sum(each.downloaded for each in torrents), sum(each.uploaded for each in torrents)
    for index, key in enumerate(("bytes_down", "bytes_up")):
        assert by_path(document, key) == sum(peer[key] for peer in document["peers"]) == moved[index]
    return moved


def assert_agrees_with_events(recorded: Recorded) -> None:
    document = recorded.node.document()
    succeeded = Counter((event.path, event.direction) for event in recorded.of(PeerConnected))
    failed = Counter((event.path, "out", event.reason) for event in recorded.of(DialFailed))
    failed += Counter((event.path, event.direction, event.reason) for event in recorded.of(ConnectionRefused))
    for path, directions in document["paths"].items():
        for direction, counts in directions.items():
            assert counts["succeeded"] == succeeded[path, direction]
            reasons = {key[2]: n for key, n in failed.items() if key[:2] == (path, direction)}
            assert counts["failed"] == reasons
            assert counts["attempted"] == counts["succeeded"] + sum(reasons.values())
    sources = Counter(event.source for event in recorded.of(PeerDiscovered))
    incoming = len([event for event in recorded.of(PeerConnected) if event.direction == "in"])
    for source, count in document["sources"].items():
        assert count == (incoming if source == "incoming" else sources[source])
    for role in ("initiator", "target"):
        assert document["punch"][role]["asked"] == len(recorded.of(PunchAsked, role=role))
        assert document["punch"][role]["connected"] == len(recorded.of(PunchConnected, role=role))
    assert document["punch"]["relay"]["connected"] == len(recorded.of(RendezvousRelayed))
    connected = Counter(event.endpoint for event in recorded.of(PeerConnected))
    connected.subtract(event.endpoint for event in recorded.of(ConnectionClosed))
    assert {peer["endpoint"] for peer in document["peers"] if peer["connected"]} == {
        str(endpoint) for endpoint, count in connected.items() if count
    }


async def test_the_numbers_are_those_of_the_events_and_a_replay_gives_them_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with meeting(tmp_path) as met:
        await met.torrent.wait_complete()
        await trio.sleep(60)  # rungs to where nobody is fail, peers are dialled again
        assert met.leech.of(DialFailed, endpoint=met.nobody)
        assert met.introducer.of(RendezvousRelayed)
        for each in met.nodes:
            assert_agrees_with_events(each)
            assert replayed(each) == each.node.document()
        await met.seed.node.remove(met.seed.node.torrents[met.sample.metainfo.info_hash])
        await met.leech.wait_for(ConnectionClosed)
        await trio.sleep(10)
        for each in met.nodes:
            assert_agrees_with_events(each)
            assert replayed(each) == each.node.document()


async def test_bytes_by_path_are_those_of_the_torrents_live_and_after_the_end(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with meeting(tmp_path, download_rate=SIZE // 4) as met:
        while met.torrent.downloaded < SIZE // 4:
            await trio.sleep(0.05)
        for each in met.nodes:
            assert_bytes_add_up(each)
        assert 0 < assert_bytes_add_up(met.leech)[0] < SIZE
        await met.torrent.wait_complete()
        down, _ = assert_bytes_add_up(met.leech)
        assert down >= SIZE
        paths = met.leech.node.document()["paths"]
        punched = [paths["utp-punched"], paths["tcp-punched"]]  # by whichever end dialled
        assert sum(counts["bytes_down"] for each in punched for counts in each.values()) > SIZE * 0.9
        met.torrent.admission.shut("stopped")
        while met.torrent.connections:
            await trio.sleep(0.1)
        assert assert_bytes_add_up(met.leech)[0] == down
        await trio.sleep(5)
        for each in met.nodes:
            assert_bytes_add_up(each)


async def test_the_document_tells_of_ports_sockets_peers_and_torrents(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with meeting(tmp_path, dht=True, tcp=False, download_rate=SIZE // 20) as met:
        await met.leech.wait_for(DialFailed, endpoint=met.nobody)
        document = met.leech.node.document()
        node = document["node"]
        assert (node["version"], node["peer_id"]) == (__version__, met.leech.node.peer_id.hex())
        assert node["uptime"] == pytest.approx(trio.current_time() - met.leech.node.opened_at, abs=1e-3)
        assert [tuple(each.values()) for each in node["listen"]] == [
            ("udp", f"0.0.0.0:{PORT}"),
            ("udp", f"[::]:{PORT}"),
        ]
        listening = {each["transport"] for each in met.seed.node.document()["node"]["listen"]}
        assert listening == {"udp", "tcp"}
        (shared,) = document["torrents"]
        assert shared == {
            "info_hash": met.sample.metainfo.info_hash.hex(),
            "name": "sample.bin",
            "done": met.torrent.statistics().done,
            "total": SIZE,
            "peers": len(met.torrent.connections),
        }
        assert 0 < shared["done"] < SIZE
        counts = met.leech.node.socket_statistics()[4]
        told = document["sockets"]["v4"]
        assert {name: core["bytes_in"] for name, core in told["cores"].items()} == {
            name: core.bytes_in for name, core in counts.cores.items()
        }
        assert (told["receive_buffer"], told["send_buffer"]) == (None, None)  # simulated sockets have none
        assert document["dht"]["v4"]["lookups"] == met.leech.node.dht_statistics()[4].lookups
        (punched,) = [peer for peer in document["peers"] if peer["path"] == "utp-punched"]
        assert punched["connected"]
        assert 0.01 < punched["rtt"] < 0.2
        assert "manual" in punched["sources"]
        (missed,) = [peer for peer in document["peers"] if peer["endpoint"] == str(met.nobody)]
        assert (missed["path"], missed["connected"], missed["client"]) == (None, False, "")
        assert missed["failures"]
        assert parse_document_untrusted(as_text(document).encode()) == json.loads(as_text(document))


async def test_a_seed_that_wants_nothing_tells_what_it_has(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "seed", SIZE + 5)
    async with open_internet(1) as internet, node_on(internet.host("far"), 1) as seed:
        await seeding(seed, sample, select=())
        (shared,) = seed.node.document()["torrents"]
        assert (shared["done"], shared["total"]) == (SIZE + 5, SIZE + 5)


async def test_who_listens_where_it_was_named_keeps_both_sources(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "seed", SIZE)
    async with open_internet(1) as internet:
        far, near = internet.host("far"), internet.host("near")
        async with node_on(far, 1) as seed, node_on(near, 2, utp=False) as leech:
            torrent = await seeding(seed, sample)
            leeching = leech.node.add(sample.metainfo, tmp_path / "leech", peers=endpoints(far.ipv4))
            await leeching.wait_complete()
            torrent.admission.found(endpoints(near.ipv4), "tracker")
            (peer,) = seed.node.document()["peers"]
            assert (peer["direction"], peer["sources"]) == ("in", ["tracker", "incoming"])


async def test_offline_a_node_has_no_sockets_and_keeps_its_counts(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "seed", SIZE)
    async with open_internet(1) as internet:
        far, near = internet.host("far"), internet.host("near")
        async with node_on(far, 1) as seed:
            await seeding(seed, sample)
            async with node_on(near, 2) as leech:
                torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=endpoints(far.ipv4))
                await torrent.wait_complete()
            document = leech.node.document()
    assert (document["node"]["listen"], document["sockets"]) == ([], {"v4": None, "v6": None})
    assert by_path(document, "bytes_down") == torrent.downloaded >= SIZE
    assert not any(peer["connected"] for peer in document["peers"])


def test_a_family_of_the_dht_is_told_when_it_ever_had_a_node() -> None:
    sums: dict[Family, DhtStatistics] = {4: DhtStatistics(nodes=3, queries_out=9, lookups=2), 6: DhtStatistics()}
    assert whole_dht(sums, {}) == {4: NodeStatistics(3, 0, 9, 0, 2, 0, 0, 0, 0, 0, 0)}
    running = NodeStatistics(3, 0, 4, 0, 1, 7, 1, 0, 0, 0, 5)
    told = whole_dht(sums, {4: running, 6: NOTHING})
    assert (told[4].queries_out, told[4].peers_stored, told[4].limited) == (9, 7, 5)
    assert told[6] == NOTHING
