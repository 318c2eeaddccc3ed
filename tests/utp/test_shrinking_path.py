"""A path that carries less than before (a fail-over to PPPoE, a VPN): no connection dies of it, and no byte."""

from __future__ import annotations

import pytest

from tests.netlab.lab import Lab
from tests.utp.packets import packet
from tests.utp.pair import Pair
from tests.utp.solo import PATH, Solo
from utp.config import UtpConfig
from utp.connection import Connection
from utp.mtu import RAISE_INTERVAL, MtuSearch

PROBING = UtpConfig(slowdowns=False, initial_window=20)
SIZE = 12_000_000


def full_size(small: bool = False) -> tuple[Solo, Connection]:
    """A connection that found 1,472 bytes to pass, with packets 1005 (of 1,452) … in flight; 1005 may be small."""
    solo = Solo(100, 1000, config=PROBING)
    connection = solo.connected()
    connection.send(bytes(4 * 528))
    assert len(solo.outgoing()) == 2
    solo.feed(packet("STATE", 100, 5000, 1004))
    assert connection.statistics().packet_size == 1472
    if small:
        connection.send(bytes(200))
    else:
        connection.send(bytes(3 * 1452))
    assert [run.fragment for run in solo.outgoing()] == [False]
    return solo, connection


def resent(solo: Solo) -> list[tuple[int, bool]]:
    return [(run.segment_size, run.fragment) for run in solo.outgoing()]


def wait_for_timeouts(solo: Solo, connection: Connection, count: int) -> list[tuple[int, bool]]:
    """What the last of so many consecutive time-outs made leave."""
    sender = connection._channel.sender  # type: ignore[union-attr]
    sent: list[tuple[int, bool]] = []
    while sender.timeouts < count:
        solo.now = solo.endpoint.next_deadline() or solo.now
        solo.endpoint.handle_deadline(solo.now)
        sent = resent(solo)
    return sent


def test_after_two_time_outs_large_packets_may_leave_in_fragments_and_new_ones_are_small() -> None:
    solo, connection = full_size()
    assert wait_for_timeouts(solo, connection, 1) == [(1472, False)]
    assert connection.statistics().packet_size == 1472
    assert wait_for_timeouts(solo, connection, 2) == [(1472, True)]
    assert connection.statistics().packet_size == 548


def test_small_packets_that_time_out_say_nothing_about_the_path() -> None:
    solo, connection = full_size(small=True)
    assert wait_for_timeouts(solo, connection, 3) == [(220, False)]
    assert connection.statistics().packet_size == 1472


def test_a_doubt_that_was_wrong_is_over_after_one_probe() -> None:
    solo, connection = full_size()
    wait_for_timeouts(solo, connection, 2)
    connection.send(bytes(10_000))
    solo.feed(packet("STATE", 100, 5000, 1007))
    probe, *_ = solo.outgoing()
    assert (probe.probe, probe.segment_size) == (True, 1472)
    solo.feed(packet("STATE", 100, 5000, 1008))
    assert connection.statistics().packet_size == 1472


def test_what_the_kernel_refuses_leaves_again_at_once_in_fragments() -> None:
    solo, connection = full_size()
    before = connection.statistics().congestion_window
    solo.endpoint.datagram_too_big(PATH, 1472)
    assert resent(solo)[0] == (1472, True)
    solo.endpoint.datagram_too_big(PATH, 1472)  # the second run of the same batch
    assert resent(solo) == []
    assert connection.statistics().packet_size == 548
    assert connection.statistics().congestion_window == before


@pytest.mark.parametrize("mtu", [1464, 1400, 1280, 548])
def test_a_transfer_survives_a_path_that_shrinks_and_finds_the_new_size(mtu: int) -> None:
    pair = Pair()
    a, b = pair.open()
    data = pair.rng.randbytes(SIZE)
    pair.a.write(a, data, shutdown=True)
    pair.run_until(lambda: len(pair.b.received[b]) > SIZE // 12)
    assert a.statistics().packet_size == 1472
    pair.there.mtu = pair.back.mtu = mtu
    start = pair.now
    pair.run_until(lambda: b.at_eof)
    assert pair.b.received[b] == data
    assert pair.now - start < 4
    assert pair.there.fragmented > 0
    assert mtu - 16 < a.statistics().packet_size <= mtu


def test_both_directions_survive_when_each_sends_large_and_small() -> None:
    pair = Pair()
    a, b = pair.open()
    ends = ((pair.a, a, b), (pair.b, b, a))
    data = {a: pair.rng.randbytes(SIZE), b: pair.rng.randbytes(SIZE)}
    for side, connection, _ in ends:
        side.write(connection, data[connection], shutdown=True)
    pair.run_until(lambda: len(pair.b.received[b]) > SIZE // 12)
    pair.there.mtu = pair.back.mtu = 1300
    pair.run_until(lambda: a.at_eof and b.at_eof, limit=20)
    assert (pair.a.received[a], pair.b.received[b]) == (data[b], data[a])


def test_a_path_that_grew_again_is_noticed_after_ten_minutes() -> None:
    search = MtuSearch(548, 1472)
    while search.wants_probe(0.0):
        search.probe_sent(1)
        search.probe_acked() if search.probe_in_flight <= 1400 else search.probe_lost()
    assert not search.wants_probe(RAISE_INTERVAL - 1)
    assert search.wants_probe(RAISE_INTERVAL)
    assert search.probe_size() == 1472
    search.probe_sent(1)
    search.probe_acked()
    assert search.size == 1472
    assert not search.wants_probe(10 * RAISE_INTERVAL)


RECEIVER = """
import sys, trio
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from utp.service import open_utp

async def main(host):
    async with open_utp(await RealNetwork().bind_udp(Endpoint(host, 7000))) as utp:
        print("ready")
        stream, got = await utp.accept(), 0
        while data := await stream.receive_some():
            got += len(data)
        print(got)
        await stream.aclose()

trio.run(main, sys.argv[1])
"""
SENDER = """
import sys, trio
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from utp.service import open_utp

async def main(host, to):
    async with open_utp(await RealNetwork().bind_udp(Endpoint(host, 0))) as utp:
        stream = await utp.connect(Endpoint(to, 7000))
        for _ in range(16):
            await stream.send_all(bytes(64 << 10))
        await trio.sleep(0.3)
        print(stream.statistics().packet_size)
        await trio.to_thread.run_sync(sys.stdin.readline)
        start = trio.current_time()
        for _ in range(64):
            await stream.send_all(bytes(64 << 10))
        await stream.send_eof()
        await stream.receive_some()
        print(stream.statistics().packet_size, trio.current_time() - start)

trio.run(main, *sys.argv[1:])
"""


@pytest.mark.netlab
@pytest.mark.parametrize("family,hop", [(4, "middle"), (6, "middle"), (4, "first"), (6, "first")])
def test_a_kernel_path_shrinks(family: int, hop: str) -> None:
    """The middle hop drops without our hearing of it; the first one makes the kernel refuse (EMSGSIZE)."""
    mtu, headers = 1400, 28 if family == 4 else 48
    with Lab() as lab:
        receiver, sender = lab.public("receiver"), lab.behind("restricted", "sender")
        host, here = (receiver.address, sender.address) if family == 4 else (receiver.address6, sender.address6)
        receiving = receiver.python("-c", RECEIVER, host)
        assert receiving.stdout is not None
        assert receiving.stdout.readline() == "ready\n"
        sending = sender.python("-c", SENDER, here, host)
        assert sending.stdin is not None and sending.stdout is not None
        assert int(sending.stdout.readline()) == 1500 - headers
        shrink = sender.router if hop == "middle" else sender
        assert shrink is not None
        shrink.run("ip", "link", "set", "wan" if hop == "middle" else "eth0", "mtu", str(mtu))
        sending.stdin.write("\n")
        sending.stdin.flush()
        size, seconds = sending.stdout.readline().split()
        assert receiving.stdout.readline() == f"{5 << 20}\n"
        assert int(size) <= mtu - headers
        assert float(seconds) < 10
