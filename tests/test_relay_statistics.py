"""What whole nodes tell of relays and TURN servers after a real transfer: document, tables, metrics."""

from __future__ import annotations

import json
from pathlib import Path

import trio
from trio.testing import MockClock

from swarm.cli.bars import Page
from swarm.cli.document import as_text, parse_document_untrusted
from swarm.cli.tables import tables
from swarm.cli.units import format_bytes
from swarm.events import PeerConnected
from swarm.stats.prometheus import prometheus_text
from tests.daemon.test_metrics import check_exposition
from tests.nodes import Recorded
from tests.test_relaying import SIZE, swarm_of
from tests.test_turn import SIZE as TURN_SIZE
from tests.test_turn import pair, world


def metrics_of(node: Recorded) -> dict[str, float]:
    """By name and labels; the text is checked."""
    text = prometheus_text(node.node.document())
    check_exposition(text)
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix("swarm_"): float(value) for name, _, value in lines}


def tables_of(node: Recorded) -> str:
    """Of a document that has been written and read."""
    document = node.node.document()
    read = parse_document_untrusted(as_text(document).encode())
    assert read == json.loads(as_text(document))
    return "\n".join(tables(read, Page(width=100)))


async def test_relay_and_clients_tell_of_what_was_relayed(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "symrand") as swarm, swarm.leech("symrand") as (leech, torrent):
        await leech.wait_for(PeerConnected, path="relayed")
        while torrent.statistics().pieces_had < 8:
            await trio.sleep(0.1)
        relay, seed = metrics_of(swarm.relays[0]), metrics_of(swarm.seed)
        assert relay["relay_serving"] == relay["relay_circuits"] == relay["relay_opened_total"] == 1
        assert (
            relay["relay_reservations"]
            == seed["relay_client_reservations"] + metrics_of(leech)["relay_client_reservations"]
        )
        assert seed["relay_client_relays"] == seed["relay_client_circuits"] == 1
        assert {name for name in seed if name.startswith("relay_")} == {
            name for name in seed if name.startswith("relay_client")
        }, "it does not serve"
        with trio.fail_after(30):
            await torrent.wait_complete()
        relay, seed, client = metrics_of(swarm.relays[0]), metrics_of(swarm.seed), metrics_of(leech)
        desk = swarm.relays[0].node.relay.desk.statistics()
        assert relay["relay_carried_bytes_total"] == desk.bytes >= SIZE // 2
        assert client["relay_client_asked_total"] + seed["relay_client_asked_total"] == relay["relay_asked_total"]
        assert client["relay_client_opened_total"] + seed["relay_client_opened_total"] == relay["relay_opened_total"]
        assert client["relay_client_called_total"] + seed["relay_client_called_total"] == relay["relay_opened_total"]
        assert client["relay_client_asked_total"] == leech.node.relay.counts.asked
        received = sum(
            client[f'path_received_bytes_total{{path="relayed",direction="{way}"}}'] for way in ("in", "out")
        )
        assert SIZE // 2 <= received <= desk.bytes
        assert f"carried {format_bytes(desk.bytes)}" in tables_of(swarm.relays[0])
        assert "Relayed by others" in tables_of(leech)
        assert "Relayed by others" not in tables_of(swarm.relays[0])


async def test_counters_of_a_turn_server_outlive_its_allocations(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path) as here, pair(here, tmp_path, ("symrand", "symrand")) as (seed, leech):
        (torrent,) = leech.node.torrents.values()
        with trio.fail_after(30):
            await torrent.wait_complete()
        label = f'{{server="turn:{here.server.endpoint}"}}'
        standing = metrics_of(leech)
        assert standing[f"turn_allocations{label}"] == standing[f"turn_allocations_total{label}"] == 1
        assert standing[f"turn_connections{label}"] >= 1
        moved = metrics_of(seed)[f"turn_sent_bytes_total{label}"] + standing[f"turn_received_bytes_total{label}"]
        assert moved >= TURN_SIZE
        assert "receives for us at" in tables_of(leech)
        for node in (seed, leech):
            for each in tuple(node.node.torrents.values()):
                await node.node.remove(each)
        while here.server.allocations:
            await trio.sleep(1)
        after = metrics_of(leech)
        assert after[f"turn_allocations{label}"] == 0
        for name in ("turn_received_bytes_total", "turn_sent_bytes_total", "turn_allocations_total"):
            assert after[name + label] >= standing[name + label] > 0
        assert "secret" not in prometheus_text(leech.node.document())


async def test_a_turn_server_that_refuses_is_counted_by_reason(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        uri = f"turn:user:hunter2@{here.server.endpoint}"
        async with pair(here, tmp_path, ("symrand", "symrand"), turn=(uri,)) as (_, leech):
            await trio.sleep(60)
            label = f'server="turn:{here.server.endpoint}"'
            failures = metrics_of(leech)[f'turn_failures_total{{{label},reason="turn-unauthorized"}}']
            assert 1 <= failures <= 4
