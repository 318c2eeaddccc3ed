"""The embedded tracker itself, asked directly."""

from __future__ import annotations

import errno
import random
import struct

import pytest
import trio

from swarm.discover import embedded_tracker
from swarm.discover.embedded_tracker import Announced, EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.net.http import HttpError, fetch
from swarm.net.network import Listener
from swarm.wire.tracker import (
    AnnounceEvent,
    AnnounceFailure,
    AnnounceReply,
    AnnounceRequest,
    ScrapeEntry,
    announce_url,
    parse_announce_reply_untrusted,
    parse_scrape_reply_untrusted,
    scrape_url,
)
from swarm.wire.udp_tracker import (
    encode_announce,
    encode_connect,
    encode_scrape,
    parse_announce_untrusted,
    parse_connect_untrusted,
    parse_error_untrusted,
    parse_scrape_untrusted,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases
from tests.loopback import LoopbackNetwork

HASH = b"h" * 20
REMOTE = Endpoint("192.0.2.1", 50000)
REMOTE6 = Endpoint("2001:db8::1", 50000)


@pytest.fixture
def tracker() -> EmbeddedTracker:
    return EmbeddedTracker(random.Random(1), interval=900, min_interval=90)


def request(number: int = 1, event: AnnounceEvent = "started", left: int = 1, numwant: int = 50) -> AnnounceRequest:
    return AnnounceRequest(
        info_hash=HASH,
        peer_id=bytes([number]) * 20,
        port=6000 + number,
        uploaded=0,
        downloaded=0,
        left=left,
        event=event,
        numwant=numwant,
    )


def target(asked: AnnounceRequest, extra: str = "") -> bytes:
    return announce_url("/announce", asked).encode() + extra.encode()


def by_http(
    tracker: EmbeddedTracker, asked: AnnounceRequest, remote: Endpoint = REMOTE, now: float = 0.0, extra: str = ""
) -> AnnounceReply:
    status, body = tracker.answer_http(target(asked, extra), remote, now)
    reply = parse_announce_reply_untrusted(body)
    assert status == 200
    assert isinstance(reply, AnnounceReply)
    return reply


def by_udp(
    tracker: EmbeddedTracker, asked: AnnounceRequest, remote: Endpoint = REMOTE, now: float = 0.0
) -> AnnounceReply:
    connected = tracker.answer_udp(encode_connect(1), remote, now)
    assert connected is not None
    answer = tracker.answer_udp(encode_announce(parse_connect_untrusted(connected), 2, asked), remote, now)
    assert answer is not None
    reply = parse_announce_untrusted(answer, ipv6=remote.is_ipv6)
    assert isinstance(reply, AnnounceReply)
    return reply


@pytest.mark.parametrize("ask", [by_http, by_udp])
def test_peers_learn_of_each_other_and_not_of_themselves(tracker: EmbeddedTracker, ask: object) -> None:
    assert callable(ask)
    assert ask(tracker, request(1)).peers == ()
    reply = ask(tracker, request(2, left=0))
    assert (reply.peers, reply.seeders, reply.leechers, reply.interval) == ((Endpoint(REMOTE.host, 6001),), 1, 1, 900)
    assert ask(tracker, request(1, "")).peers == (Endpoint(REMOTE.host, 6002),)
    assert ask(tracker, request(3, left=0)).peers == (Endpoint(REMOTE.host, 6001),), "a seeder needs no seeder"
    ask(tracker, request(2, "stopped", left=0))
    assert ask(tracker, request(1, "")).peers == (Endpoint(REMOTE.host, 6003),)


def test_http_says_what_udp_has_no_room_for(tracker: EmbeddedTracker) -> None:
    reply = by_http(tracker, request(1))
    assert (reply.min_interval, reply.external_host) == (90, REMOTE.host)


def test_peers_come_as_dictionaries_when_compact_is_declined(tracker: EmbeddedTracker) -> None:
    by_http(tracker, request(1), REMOTE6)
    asked = target(request(2)).replace(b"compact=1", b"compact=0")
    _, body = tracker.answer_http(asked, REMOTE, 0.0)
    assert b"2:ip11:2001:db8::14:porti6001e" in body
    reply = parse_announce_reply_untrusted(body)
    assert isinstance(reply, AnnounceReply)
    assert reply.peers == (Endpoint(REMOTE6.host, 6001),)


def test_both_families_are_listed_over_http_and_the_askers_own_over_udp(tracker: EmbeddedTracker) -> None:
    by_http(tracker, request(1), extra="&ipv6=2001%3Adb8%3A%3A7")
    both = {Endpoint(REMOTE.host, 6001), Endpoint("2001:db8::7", 6001)}
    assert set(by_http(tracker, request(2), REMOTE6).peers) == both
    assert by_udp(tracker, request(2), REMOTE6).peers == (Endpoint("2001:db8::7", 6001),)
    assert by_http(tracker, request(3)).leechers == 3, "two addresses of one peer are one peer"


def test_the_number_of_peers_asked_for_is_respected_and_bounded(tracker: EmbeddedTracker) -> None:
    for number in range(1, 251):
        by_http(tracker, request(number))
    assert len(by_http(tracker, request(251, numwant=3)).peers) == 3
    assert len(by_http(tracker, request(251, numwant=1000)).peers) == 200
    assert len(by_udp(tracker, request(251, numwant=-1)).peers) == 50
    assert by_http(tracker, request(251, "stopped", numwant=1000)).peers == ()


def test_silent_peers_are_forgotten_after_two_intervals(tracker: EmbeddedTracker) -> None:
    by_http(tracker, request(1), now=0.0)
    assert len(by_http(tracker, request(2), now=1799.0).peers) == 1
    assert len(by_http(tracker, request(2), now=1800.0).peers) == 0


def test_torrents_and_peers_are_bounded(tracker: EmbeddedTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_tracker, "MAX_TORRENTS", 2)
    monkeypatch.setattr(embedded_tracker, "MAX_PEERS", 2)

    def announce(number: int, now: float) -> object:
        announced = Announced(bytes([number]) * 20, b"p" * 20, (REMOTE,), 1, "", 50)
        return tracker.announce(announced, now)

    assert announce(1, 0.0) is not None
    assert announce(2, 0.0) is not None
    assert announce(3, 0.0) is None
    failure = parse_announce_reply_untrusted(tracker.answer_http(target(request(1)), REMOTE, 0.0)[1])
    assert failure == AnnounceFailure("no room for another torrent")
    assert announce(3, 5000.0) is not None, "the silent ones made room"
    for number in range(1, 6):
        by_http(tracker, request(number), now=5000.0)
    assert len(by_http(tracker, request(9), now=5000.0).peers) == 2


def test_scrapes_count_what_was_completed(tracker: EmbeddedTracker) -> None:
    by_http(tracker, request(1))
    by_http(tracker, request(1, "completed", left=0))
    by_http(tracker, request(2))
    url = scrape_url("/announce", [HASH, b"u" * 20])
    assert url is not None
    entries = {HASH: ScrapeEntry(1, 1, 1), b"u" * 20: ScrapeEntry(0, 0, 0)}
    assert parse_scrape_reply_untrusted(tracker.answer_http(url.encode(), REMOTE, 0.0)[1]) == entries
    connected = tracker.answer_udp(encode_connect(1), REMOTE, 0.0)
    assert connected is not None
    answer = tracker.answer_udp(encode_scrape(parse_connect_untrusted(connected), 2, list(entries)), REMOTE, 0.0)
    assert answer is not None
    assert parse_scrape_untrusted(answer, list(entries)) == entries


def test_a_connection_id_is_of_one_address_and_lasts_two_minutes_at_most(tracker: EmbeddedTracker) -> None:
    connected = tracker.answer_udp(encode_connect(1), REMOTE, 0.0)
    assert connected is not None
    packet = encode_announce(parse_connect_untrusted(connected), 2, request(1))
    for remote, now, accepted in [
        (REMOTE, 60.0, True),
        (REMOTE, 120.0, False),
        (Endpoint(REMOTE.host, 50001), 0.0, False),
        (Endpoint("192.0.2.2", 50000), 0.0, False),
    ]:
        answer = tracker.answer_udp(packet, remote, now)
        assert answer is not None
        assert (answer[:4] == b"\0\0\0\1") == accepted
        if not accepted:
            assert parse_error_untrusted(answer) == AnnounceFailure("connection id")
            assert len(answer) < len(packet), "nobody is hit by more than was sent in his name"


@pytest.mark.parametrize(
    "query",
    [b"", b"?", b"?info_hash=short", b"?info_hash=" + HASH + b"&peer_id=" + HASH, b"?info_hash=%zz&port=1"],
)
def test_a_bad_announce_is_told_why(tracker: EmbeddedTracker, query: bytes) -> None:
    status, body = tracker.answer_http(b"/announce" + query, REMOTE, 0.0)
    assert status == 200
    assert isinstance(parse_announce_reply_untrusted(body), AnnounceFailure)


def test_random_bytes_and_damaged_requests_are_answered_or_not_but_never_fatal() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    print(f"seed {seed}")
    tracker = EmbeddedTracker(random.Random(seed))
    connected = tracker.answer_udp(encode_connect(1), REMOTE, 0.0)
    assert connected is not None
    connection_id = parse_connect_untrusted(connected)
    valid = [encode_connect(1), encode_announce(connection_id, 2, request()), encode_scrape(connection_id, 3, [HASH])]
    for packet in random_bytes_cases(rng, 120, fuzz_count() // 4):
        tracker.answer_udp(packet, REMOTE, 0.0)
        tracker.answer_http(packet, REMOTE6, 0.0)
    for packet in mutations(rng, valid, fuzz_count()):
        answer = tracker.answer_udp(packet, REMOTE, 0.0)
        assert answer is None or struct.unpack_from(">I", answer)[0] in (0, 1, 2, 3)
    for path in mutations(rng, [target(request()), b"/scrape?info_hash=" + HASH], fuzz_count() // 2):
        status, _ = tracker.answer_http(path, REMOTE, 0.0)
        assert status in (200, 404)


async def test_it_serves_http_on_real_sockets_and_says_404_elsewhere(tracker: EmbeddedTracker) -> None:
    network = LoopbackNetwork()
    async with open_tracker(network, Endpoint("127.0.0.1", 0), tracker) as bound:
        url = f"http://{bound}/announce"
        response = await fetch(network, announce_url(url, request()))
        assert isinstance(parse_announce_reply_untrusted(response.body), AnnounceReply)
        with pytest.raises(HttpError) as caught:
            await fetch(network, f"http://{bound}/favicon.ico")
        assert caught.value.reason == "http-404"
        stream = await network.dial_tcp(bound)
        await stream.send_all(b"\x13BitTorrent protocol\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()


class Crowded(LoopbackNetwork):
    """TCP connections have the first so many ports."""

    def __init__(self, taken: int) -> None:
        super().__init__()
        self.taken = taken

    async def listen_tcp(self, local: Endpoint) -> Listener:
        if self.taken:
            self.taken -= 1
            raise OSError(errno.EADDRINUSE, "in use")
        return await super().listen_tcp(local)


async def test_where_any_port_will_do_one_that_is_in_use_is_not_the_end(tracker: EmbeddedTracker) -> None:
    async with open_tracker(Crowded(5), Endpoint("127.0.0.1", 0), tracker) as where:
        assert where.port
    with pytest.RaisesGroup(OSError):
        async with open_tracker(Crowded(1), where, tracker):
            pass
    with pytest.RaisesGroup(OSError):
        async with open_tracker(Crowded(1000), Endpoint("127.0.0.1", 0), tracker):
            pass
