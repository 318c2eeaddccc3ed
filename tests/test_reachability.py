"""Whole nodes that have their peers find out whether strangers reach them (`sw_reach`), and peers that abuse it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.connect.acceptor import HANG_UP
from swarm.connect.dial import dial_tcp, dial_utp
from swarm.connect.dial_back import dial_back
from swarm.connect.encrypted import Encryption
from swarm.connect.sent_to import QUIET
from swarm.endpoint import Endpoint
from swarm.events import ConnectionRefused, PeerConnected
from swarm.ext.reach import ASKED_BURST, Reach
from swarm.ext.reach_desk import DIAL_SECONDS
from swarm.ext.reach_message import NONCE_SIZE, Forward, Probe, Transport, dial_back_peer_id
from swarm.net.udp_port import UdpPort
from swarm.peer import PeerConnection
from swarm.simnet.catalogue import behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.torrent.disk import run_inline
from swarm.wire.handshake import HANDSHAKE_LENGTH, Handshake
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding
from utp.config import UtpConfig

REST = 60.0
"""Seconds after which a peer that asked may ask as often as in the beginning."""

SLOW = 1000
"""Bytes a second of all but the asker, so that nobody is done and leaves."""

FOUND_OUT = 30.0
"""Seconds in which three helpers have tested both transports: one asks every two seconds, a dial takes six."""


@dataclass
class Place:
    """An asker that has dialled helpers, each of which other peers have dialled.  Nobody tells anybody of others."""

    internet: Internet
    sample: Sample
    directory: Path
    asker: Recorded
    asker_host: Host
    helpers: list[Recorded]

    def verdicts(self) -> dict[str, bool | None]:
        """By IPv4, as the statistics have them."""
        said: dict[str, bool | None] = self.asker.node.document()["reachability"]
        assert (said["tcp6"], said["utp6"]) == (None, None)
        return {name: said[name] for name in ("tcp4", "utp4")}

    async def known(self, verdict: bool) -> None:
        """Block until both are."""
        while self.verdicts() != {"tcp4": verdict, "utp4": verdict}:
            await trio.sleep(0.1)

    def at_helper(self, number: int = 0) -> PeerConnection:
        """The asker's connection, as a helper has it."""
        (torrent,) = self.helpers[number].node.torrents.values()
        (peer,) = (peer for peer in torrent.connections if peer.identity.peer_id == self.asker.node.peer_id)
        return peer


@asynccontextmanager
async def place(
    directory: Path,
    kind: str,
    *,
    helpers: int = 3,
    transports: tuple[str, ...] = ("tcp", "utp"),
    common: bool = False,
    private: bool = False,
    trace: bool = False,
    **config: Any,
) -> AsyncIterator[Place]:
    """For each of ``transports`` every helper has a peer that has dialled by it, and so is able to for others; with
    ``common`` they all have the same."""
    async with open_internet(seed=1, trace=trace) as internet, AsyncExitStack() as stack:
        sample = make_sample(directory / "seed", 1 << 18, private=private)
        middles, endpoints = [], []
        for number in range(helpers):
            host = internet.host(f"helper{number}")
            endpoints.append(Endpoint(host.ipv4, PORT))
            middles.append(await stack.enter_async_context(node_on(host, 10 + number, pex=False, download_rate=SLOW)))
            middles[-1].node.add(sample.metainfo, directory / host.name)
        for number, known in enumerate([endpoints] if common else [[each] for each in endpoints]):
            for count, transport in enumerate(transports):
                host = internet.host(f"dialler{number}-{transport}")
                only = {"tcp": transport == "tcp", "utp": transport == "utp"}
                dialler = node_on(host, 100 + 10 * number + count, pex=False, download_rate=SLOW, **only)
                node = await stack.enter_async_context(dialler)
                node.node.add(sample.metainfo, directory / host.name, peers=known)
                for endpoint in known:
                    await node.wait_for(PeerConnected, endpoint=endpoint)
        await trio.sleep(7)  # the others have asked each other, too, and found nobody: they try again in half a minute
        asker_host = behind(internet, kind, "asker")
        asker = await stack.enter_async_context(node_on(asker_host, 1, pex=False, **config))
        await seeding(asker, sample, peers=endpoints)
        for endpoint in endpoints:
            await asker.wait_for(PeerConnected, endpoint=endpoint)
        yield Place(internet, sample, directory, asker, asker_host, middles)


# ---- verdicts


async def test_an_open_node_learns_that_strangers_reach_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with place(tmp_path, "open") as there:
        with trio.fail_after(FOUND_OUT):
            await there.known(True)
        await trio.sleep(10)
        assert len(there.asker.of(PeerConnected)) == len(there.helpers), "who presents a nonce is no peer"
        assert not there.asker.of(ConnectionRefused)
        assert not any(helper.of(ConnectionRefused) for helper in there.helpers)
        nat = there.asker.node.document()["nat"]["v4"]
        assert nat["filtering"] == "endpoint-independent"
        assert sum("to which we had sent nothing, came in" in sentence for sentence in nat["evidence"]) == 2
        helped = [helper.node.document()["for_others"]["probes"]["helped"] for helper in there.helpers]
        assert sum(helped) >= 2, "one for each transport"


@pytest.mark.parametrize("kind", ["cone", "restricted", "symrand", "cgn"])
async def test_behind_a_nat_that_filters_it_learns_that_they_do_not(
    autojump_clock: MockClock, tmp_path: Path, kind: str
) -> None:
    async with place(tmp_path, kind) as there:
        with trio.fail_after(FOUND_OUT):
            await there.known(False)
        evidence = there.asker.node.document()["nat"]["v4"]["evidence"]
        assert sum("in vain" in sentence for sentence in evidence) >= 2


async def test_a_full_cone_lets_in_what_it_has_a_mapping_for(autojump_clock: MockClock, tmp_path: Path) -> None:
    """All helpers are connected over µTP: of our TCP port it knows nothing."""
    async with place(tmp_path, "fullcone") as there:
        await trio.sleep(FOUND_OUT)
        assert there.verdicts() == {"tcp4": False, "utp4": True}


async def test_a_port_that_a_gateway_forwards_is_what_is_tested(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with place(tmp_path, "natpmp", mapping=True) as there:
        with trio.fail_after(FOUND_OUT):
            await there.known(True)


@pytest.mark.parametrize("kind", ["open", "cone"])
async def test_one_helper_alone_proves_nothing(autojump_clock: MockClock, tmp_path: Path, kind: str) -> None:
    async with place(tmp_path, kind, helpers=1, transports=()) as there:
        await trio.sleep(QUIET - 60)
        assert there.verdicts() == {"tcp4": None, "utp4": None}
        (torrent,) = there.helpers[0].node.torrents.values()
        assert torrent.ways.reaching.statistics().refused["no-dialler"] > 4, "it was asked"


async def test_two_helpers_that_have_us_dialled_in_vain_are_not_enough(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with place(tmp_path, "cone", helpers=2) as there:
        await trio.sleep(QUIET - 60)
        assert there.verdicts() == {"tcp4": None, "utp4": None}


async def test_one_dialler_for_each_transport_is_enough_where_nobody_gets_through(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """He has sent to us since the first of them, but never heard from us."""
    async with place(tmp_path, "cone", common=True) as there:
        with trio.fail_after(FOUND_OUT):
            await there.known(False)


async def test_what_cannot_be_dialled_is_not_asked_for(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with place(tmp_path, "cone", tcp=False) as there:
        await trio.sleep(FOUND_OUT)
        assert there.verdicts() == {"tcp4": None, "utp4": False}


async def test_whoever_comes_in_unasked_counts_after_ten_minutes(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Before, an earlier run may have sent to him from the same port."""
    async with place(tmp_path, "open", helpers=0) as there:
        endpoint = Endpoint(there.asker_host.ipv4, PORT)
        for name, number, expected in (("early", 50, None), ("late", 60, True)):
            for transport in ("tcp", "utp"):
                only = {"tcp": transport == "tcp", "utp": transport == "utp"}
                async with node_on(there.internet.host(f"{name}-{transport}"), number, **only) as stranger:
                    stranger.node.add(there.sample.metainfo, tmp_path / name / transport, peers=[endpoint])
                    await stranger.wait_for(PeerConnected)
                    await trio.sleep(1)
            assert there.verdicts() == {"tcp4": expected, "utp4": expected}
            await trio.sleep(QUIET)


async def test_another_address_is_another_matter(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with place(tmp_path, "open") as there:
        with trio.fail_after(FOUND_OUT):
            await there.known(True)
        there.asker_host.remove_address(there.asker_host.ipv4)
        await trio.sleep(1)
        assert there.verdicts() == {"tcp4": None, "utp4": None}


async def test_about_private_torrents_nobody_is_asked(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with place(tmp_path, "open", private=True) as there:
        await trio.sleep(FOUND_OUT)
        assert there.verdicts() == {"tcp4": None, "utp4": None}
        for node in (there.asker, *there.helpers):
            (torrent,) = node.node.torrents.values()
            assert not any(peer.extensions.speaks(Reach.NAME) for peer in torrent.connections)
            assert not any(peer.extensions.get(Reach.NAME) for peer in torrent.connections)


# ---- abuse


def packets_to(there: Place, host: Host) -> int:
    assert there.internet.trace is not None
    return sum(entry.what == "delivered" and entry.where == host.name for entry in there.internet.trace)


def reach_of(peer: PeerConnection) -> Reach[Any]:
    reach = peer.extensions.get(Reach.NAME)
    assert isinstance(reach, Reach)
    return reach


def nonce(number: int) -> bytes:
    return bytes([number]) * NONCE_SIZE


async def test_an_asker_cannot_have_others_dialled(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with place(tmp_path, "open", helpers=1, trace=True) as there:
        victim = there.internet.host("victim")
        await trio.sleep(FOUND_OUT + REST)
        (torrent,) = there.helpers[0].node.torrents.values()
        before = torrent.ways.reaching.statistics()
        now = trio.current_time()
        reach = reach_of(there.at_helper())
        for number, target in enumerate((victim.ipv4, "127.0.0.1", "10.0.0.1", "224.0.0.1")):
            reach.receive_untrusted(Probe("tcp", Endpoint(target, PORT), nonce(number)).encode(), now)
        await trio.sleep(10)
        after = torrent.ways.reaching.statistics()
        assert after.refused["not-yours"] - before.refused.get("not-yours", 0) == 4
        assert packets_to(there, victim) == 0


@pytest.mark.parametrize("transport", ["tcp", "utp"])
async def test_a_helper_that_lies_has_a_few_endpoints_dialled_once_each(
    autojump_clock: MockClock, tmp_path: Path, transport: Transport
) -> None:
    only = {"tcp": transport == "tcp", "utp": transport == "utp"}
    async with place(tmp_path, "open", helpers=1, transports=(), trace=True, **only) as there:
        victims = [there.internet.host(f"victim{number}") for number in range(30)]
        (torrent,) = there.asker.node.torrents.values()
        (helper,) = torrent.connections
        reach = reach_of(helper)
        inside = ("127.0.0.1", "10.0.0.1", "224.0.0.1", there.asker_host.ipv4)
        for number, target in enumerate(inside):
            forward = Forward(transport, Endpoint(target, PORT), nonce(number))
            reach.receive_untrusted(forward.encode(), trio.current_time())
        assert torrent.ways.reaching.statistics().refused == {"failed": len(inside)}
        await trio.sleep(REST)
        for number, host in enumerate(victims):
            forward = Forward(transport, Endpoint(host.ipv4, PORT), nonce(100 + number))
            reach.receive_untrusted(forward.encode(), trio.current_time())
        await trio.sleep(DIAL_SECONDS + 1)
        dialled = [packets for host in victims if (packets := packets_to(there, host))]
        assert len(dialled) == torrent.ways.reaching.statistics().dialled == ASKED_BURST
        assert max(dialled) <= 4, "of 20 to 60 bytes each"
        assert reach.ignored["too-many-forwards"] == len(victims) - ASKED_BURST


async def test_a_forged_nonce_is_worth_nothing_and_takes_no_place(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with place(tmp_path, "open", helpers=1, transports=()) as there, trio.open_nursery() as nursery:
        stranger = there.internet.host("stranger")
        socket = UdpPort(await stranger.bind_udp(Endpoint("0.0.0.0", PORT)), random.Random(1), utp=UtpConfig())
        nursery.start_soon(socket.run)
        assert socket.utp is not None
        target = Endpoint(there.asker_host.ipv4, PORT)
        encryption = Encryption("prefer", lambda obfuscated: None, random.Random(2), run_inline)
        for dial in (partial(dial_tcp, stranger, target, from_port=PORT), partial(dial_utp, socket.utp, target)):
            outcome = await dial_back(dial, there.sample.metainfo.info_hash, nonce(1), encryption)
            assert outcome == "connected"
        await trio.sleep(1)
        assert there.verdicts() == {"tcp4": None, "utp4": None}
        assert len(there.asker.of(PeerConnected)) == 1
        assert not there.asker.of(ConnectionRefused)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport", ["tcp", "utp"])
async def test_who_presents_a_nonce_and_does_not_hang_up_is_hung_up_on(
    autojump_clock: MockClock, tmp_path: Path, transport: Transport
) -> None:
    async with place(tmp_path, "open", helpers=0) as there, trio.open_nursery() as nursery:
        stranger = there.internet.host("stranger")
        socket = UdpPort(await stranger.bind_udp(Endpoint("0.0.0.0", PORT)), random.Random(1), utp=UtpConfig())
        nursery.start_soon(socket.run)
        assert socket.utp is not None
        target = Endpoint(there.asker_host.ipv4, PORT)
        link = await (
            dial_tcp(stranger, target, from_port=None) if transport == "tcp" else dial_utp(socket.utp, target)
        )
        ours = Handshake(there.sample.metainfo.info_hash, dial_back_peer_id(nonce(1)))
        await link.stream.send_all(ours.encode())
        answer = b""
        while len(answer) < HANDSHAKE_LENGTH:
            answer += await link.stream.receive_some()
        since = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            assert await link.stream.receive_some() == b""
            raise trio.BrokenResourceError  # hung up without a reset
        assert HANG_UP - 1 < trio.current_time() - since < HANG_UP + 1
        link.stream.abort()
        nursery.cancel_scope.cancel()


async def test_a_node_that_is_dialling_back_closes_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with place(tmp_path, "open", helpers=1, transports=()) as there:
        async with node_on(there.internet.host("late"), 40) as node:
            peers = [Endpoint(there.internet.hosts["helper0"].ipv4, PORT)]
            torrent = node.node.add(there.sample.metainfo, tmp_path / "late", peers=peers)
            await node.wait_for(PeerConnected)
            await trio.sleep(1)
            (helper,) = torrent.connections
            forward = Forward("utp", Endpoint(there.internet.free_ipv4(), PORT), nonce(1))
            reach_of(helper).receive_untrusted(forward.encode(), trio.current_time())
            assert torrent.ways.reaching.statistics().dialled >= 1
            await trio.sleep(1)
            leaving = trio.current_time()
        assert trio.current_time() - leaving < 3
        assert not torrent.ways.reaching.able("utp", ipv6=False)
