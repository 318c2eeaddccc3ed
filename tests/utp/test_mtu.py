"""The path-MTU search: padded probes, what their loss means, and which paths it finds."""

from __future__ import annotations

import pytest

from tests.utp.packets import cut, packet
from tests.utp.pair import Link, Pair
from tests.utp.solo import PATH, Solo
from utp.config import UtpConfig
from utp.mtu import MtuSearch
from utp.wire import decode_untrusted

PROBING = UtpConfig(slowdowns=False)


def probing() -> tuple[Solo, object]:
    solo = Solo(100, 1000, config=PROBING)
    connection = solo.connected()
    connection.send(bytes(100_000))
    return solo, connection


def test_the_first_packet_of_bulk_data_is_a_probe_of_the_ceiling_padded_and_alone() -> None:
    solo, _ = probing()
    first, second = solo.outgoing()
    assert (first.probe, first.segment_size) == (True, 1472)
    (datagram,) = cut([first])
    found = decode_untrusted(memoryview(datagram))
    assert (len(datagram), found.seq_nr, len(found.payload)) == (1472, 1001, 528)
    assert (second.probe, second.segment_size) == (False, 548)


def test_an_arrived_probe_raises_the_packet_size_at_once() -> None:
    solo, connection = probing()
    solo.outgoing()
    solo.feed(packet("STATE", 100, 5000, 1004))
    assert connection.statistics().packet_size == 1472  # type: ignore[attr-defined]
    assert [run.segment_size for run in solo.outgoing()] == [1472]


def test_a_lost_probe_loses_no_data_and_does_not_slow_us_down() -> None:
    solo, connection = probing()
    solo.outgoing()
    before = connection.statistics().congestion_window  # type: ignore[attr-defined]
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b111))
    run, *_ = solo.outgoing()
    (datagram,) = cut([run])
    found = decode_untrusted(memoryview(datagram))
    assert (len(datagram), found.seq_nr, len(found.payload)) == (548, 1001, 528)
    assert connection.statistics().congestion_window >= before  # type: ignore[attr-defined]


def test_a_probe_that_the_kernel_refuses_is_replaced_at_once() -> None:
    solo, _ = probing()
    solo.outgoing()
    solo.endpoint.datagram_too_big(PATH, 1472)
    sizes = [(run.probe, run.segment_size) for run in solo.outgoing()]
    assert sizes[0] == (False, 548)
    solo.feed(packet("STATE", 100, 5000, 1004))
    assert (True, 1464) in [(run.probe, run.segment_size) for run in solo.outgoing()]


@pytest.mark.parametrize("mtu", [548, 560, 1000, 1280, 1372, 1400, 1464, 1472])
def test_the_search_comes_close_to_any_path(mtu: int) -> None:
    pair = Pair(there=Link(mtu=mtu), back=Link(mtu=mtu))
    connection, other = pair.open()
    data = bytes(3_000_000)
    pair.a.write(connection, data)
    pair.run_until(lambda: len(pair.b.received.get(other, b"")) == len(data), limit=60)
    assert mtu - 16 < connection.statistics().packet_size <= mtu


def test_ipv6_starts_at_its_minimum_and_ends_at_ethernet() -> None:
    solo = Solo(100, 1000, config=PROBING)
    connection = solo.endpoint.connect(PATH._replace(remote=("2001:db8::1", 5)), solo.now)
    solo.outgoing()
    solo.feed(packet("STATE", 100, 5000, 1000), path=PATH._replace(remote=("2001:db8::1", 5)))
    connection.send(bytes(100_000))
    assert [run.segment_size for run in solo.outgoing() if run.probe] == [1452]
    assert connection.statistics().packet_size == 1232


def test_the_search_ends_and_is_not_fooled_by_one_lost_probe() -> None:
    search = MtuSearch(548, 1472)
    search.probe_sent(1)
    search.probe_lost()
    assert search.probe_size() == 1472
    probes = 0
    while search.wants_probe(0.0):
        search.probe_sent(1)
        probes += 1
        if search.probe_in_flight <= 1400:
            search.probe_acked()
        else:
            search.probe_lost()
    assert 1384 < search.size <= 1400
    assert probes < 20
