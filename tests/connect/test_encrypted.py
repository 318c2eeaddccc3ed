"""Message stream encryption on streams and between whole nodes: every pair of policies, over TCP and µTP."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from swarm.connect.dial import Link
from swarm.connect.encrypted import ANSWERS_AT_ONCE, ANSWERS_PER_SECOND, SLICE, EncryptedStream, Encryption
from swarm.connect.shake import shake_as_acceptor, shake_as_initiator
from swarm.endpoint import Endpoint
from swarm.events import ConnectionRefused, DialFailed, EncryptionName, PeerConnected, PieceFailed
from swarm.net.network import Buffer, ReceivesInto, SendsVectored, Stream
from swarm.peerlist import RECONNECT_AFTER
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.stream import SimStream
from swarm.torrent.disk import run_inline
from swarm.torrent.torrent import Torrent
from swarm.wire.encryption import KEY_LENGTH, MAX_PAD, PLAINTEXT, RC4, Initiator, hash_of_torrent
from swarm.wire.handshake import Handshake
from swarm.wire.rc4 import Rc4
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding

T = TypeVar("T")
Policy = Literal["prefer", "require", "off"]
POLICIES: tuple[Policy, ...] = ("prefer", "require", "off")

INFO_HASH = b"i" * 20
TORRENTS = {hash_of_torrent(INFO_HASH): INFO_HASH}
THEIRS = Handshake(INFO_HASH, b"-XX0000-an initiator")
OURS = Handshake(INFO_HASH, b"-XX0000-an acceptor ")


# -- the stream -------------------------------------------------------------------------------------------------------


async def sim_pair(internet: Internet) -> tuple[SimStream, SimStream]:
    number = len(internet.hosts)
    a, b = internet.host(f"a{number}"), internet.host(f"b{number}")
    listener = await b.listen_tcp(Endpoint("0.0.0.0", PORT))
    dialled = await a.dial_tcp(listener.local._replace(host=b.ipv4))
    accepted = await listener.accept()
    listener.close()
    assert isinstance(dialled, SimStream)
    assert isinstance(accepted, SimStream)
    return dialled, accepted


def encrypted(a: Stream, b: Stream) -> tuple[EncryptedStream, EncryptedStream]:
    """Both ends of a stream, with keys of their own for each direction."""
    there, back = b"A" * 20, b"B" * 20
    return EncryptedStream(a, Rc4(there), Rc4(back)), EncryptedStream(b, Rc4(back), Rc4(there))


async def clog(stream: SimStream) -> None:
    """Fill everything on the way to the other end."""
    while stream.connection.send_space:
        await stream.send_all(bytes(min(stream.connection.send_space, 64 << 10)))
        if not stream.connection.send_space:
            await trio.sleep(10)


async def receive_exactly(stream: Stream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some()
        assert part, "ended early"
        data += part
    return bytes(data)


async def test_it_is_a_half_closeable_stream_as_trio_defines_it(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:

        async def make() -> tuple[EncryptedStream, EncryptedStream]:
            return encrypted(*await sim_pair(internet))

        async def make_clogged() -> tuple[EncryptedStream, EncryptedStream]:
            left, right = await sim_pair(internet)
            await clog(left)
            await clog(right)
            return encrypted(left, right)

        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_what_is_sent_in_any_shape_arrives_and_stays_unchanged(autojump_clock: MockClock) -> None:
    block = random.Random(1).randbytes(3 * SLICE + 5)
    cached = bytearray(block)  # writable: nothing but good manners protects it
    async with open_internet() as internet:
        a, b = await sim_pair(internet)
        here, there = encrypted(a, b)
        assert isinstance(here, ReceivesInto)
        assert isinstance(here, SendsVectored)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.send_vectored, [b"head", memoryview(cached), b"", block])
            assert await receive_into_exactly(there, 4 + 2 * len(block)) == b"head" + 2 * block
            nursery.start_soon(there.send_all, memoryview(cached)[:1000])
            assert await receive_exactly(here, 1000) == block[:1000]
        assert cached == block


async def receive_into_exactly(stream: EncryptedStream, count: int) -> bytes:
    buffer = bytearray(count)
    at = 0
    while at < count:
        got = await stream.receive_into(memoryview(buffer)[at:])
        assert 0 < got <= SLICE
        at += got
    return bytes(buffer)


async def test_the_wire_carries_the_keystream_and_not_the_data(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        a, b = await sim_pair(internet)
        here, _ = encrypted(a, b)
        await here.send_all(b"19 bytes of nothing")
        assert await receive_exactly(b, 19) == Rc4(b"A" * 20).process(b"19 bytes of nothing")


class Plain:
    """A stream without any optional capability."""

    def __init__(self, inner: Stream) -> None:
        self._inner = inner

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def send_all(self, data: Buffer) -> None:
        await self._inner.send_all(data)


async def test_an_inner_stream_without_capabilities_will_do(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        a, b = await sim_pair(internet)
        here, there = encrypted(Plain(a), Plain(b))  # type: ignore[arg-type]
        await here.send_vectored([b"one", b"two"])
        await a.send_eof()
        buffer = memoryview(bytearray(10))
        assert await there.receive_into(buffer) == 6
        assert buffer[:6] == b"onetwo"
        assert await there.receive_into(buffer) == 0


async def test_a_second_sender_is_turned_away_before_it_spends_keystream(autojump_clock: MockClock) -> None:
    data = random.Random(2).randbytes(1 << 20)
    async with open_internet() as internet:
        here, there = encrypted(*await sim_pair(internet))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.send_all, data)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await here.send_all(b"too early")
            assert await receive_exactly(there, len(data)) == data


# -- the handshake ----------------------------------------------------------------------------------------------------


class Runner:
    """Runs inline and remembers what."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def __call__(self, function: Callable[..., T], /, *arguments: object) -> T:
        self.ran.append(function.__name__)
        return await run_inline(function, *arguments)


def encryption(policy: Policy, runner: Runner | None = None) -> Encryption:
    return Encryption(policy, TORRENTS.get, random.Random(policy), runner or Runner())


async def both(
    initiate: Callable[[], Awaitable[tuple[Link, Handshake]]], accept: Callable[[], Awaitable[tuple[Link, Handshake]]]
) -> tuple[tuple[Link, Handshake], tuple[Link, Handshake]]:
    results: dict[str, tuple[Link, Handshake]] = {}

    async def keep(name: str, call: Callable[[], Awaitable[tuple[Link, Handshake]]]) -> None:
        results[name] = await call()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, "initiator", initiate)
        nursery.start_soon(keep, "acceptor", accept)
    return results["initiator"], results["acceptor"]


@pytest.mark.parametrize(
    "provide,policy,expected",
    [
        (0, "prefer", "plaintext"),
        (0, "off", "plaintext"),
        (PLAINTEXT | RC4, "prefer", "obfuscated"),
        (PLAINTEXT, "prefer", "obfuscated"),
        (PLAINTEXT | RC4, "require", "rc4"),
        (RC4, "prefer", "rc4"),
    ],
)
async def test_both_ends_agree_and_lose_no_byte_behind_the_handshake(
    autojump_clock: MockClock, provide: int, policy: Policy, expected: EncryptionName
) -> None:
    async with open_internet() as internet:
        a, b = await sim_pair(internet)
        runner = Runner()

        async def initiate() -> tuple[Link, Handshake]:
            return await shake_as_initiator(Link(a, "tcp"), THEIRS, encryption("prefer", runner), provide)

        async def accept() -> tuple[Link, Handshake]:
            link, theirs = await shake_as_acceptor(Link(b, "tcp"), lambda _: OURS, encryption(policy))
            await link.stream.send_all(b"right behind")
            return link, theirs

        (dialled, ours), (accepted, theirs) = await both(initiate, accept)
        assert (ours, theirs) == (OURS, THEIRS)
        assert dialled.encryption == accepted.encryption == expected
        assert isinstance(dialled.stream, EncryptedStream) == (expected == "rc4")  # all capabilities of the bare one
        rest = 12 - len(dialled.received)
        assert dialled.received + (await receive_exactly(dialled.stream, rest) if rest else b"") == b"right behind"
        await dialled.stream.send_all(b"and back")
        assert accepted.received + await receive_exactly(accepted.stream, 8) == b"and back"
        assert runner.ran == (["load_native"] if expected == "rc4" else [])


class Pieces(Plain):
    """Remembers what was sent at once."""

    def __init__(self, inner: Stream) -> None:
        super().__init__(inner)
        self.sent: list[bytes] = []

    async def send_all(self, data: Buffer) -> None:
        self.sent.append(bytes(data))
        await super().send_all(data)


@pytest.mark.parametrize("early", [True, False])
async def test_the_answer_and_our_handshake_leave_in_one_piece_unless_they_wait_for_it(
    autojump_clock: MockClock, early: bool
) -> None:
    """Transmission 3.00 overlooks what comes in one µTP packet with the handshake."""
    async with open_internet() as internet:
        a, b = await sim_pair(internet)
        pieces = Pieces(b)

        async def initiate() -> None:
            link = await encryption("prefer").initiate(
                Link(a, "tcp"), INFO_HASH, THEIRS.encode() if early else b"", RC4
            )
            if not early:
                await link.stream.send_all(THEIRS.encode())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(initiate)
            link = Link(pieces, "tcp")  # type: ignore[arg-type]
            _, theirs = await shake_as_acceptor(link, lambda _: OURS, encryption("prefer"))
        assert theirs == THEIRS
        key, *answers = pieces.sent
        assert len(key) >= KEY_LENGTH
        assert len(answers) == (1 if early else 2)
        assert len(answers[-1]) >= len(OURS.encode())


async def test_the_native_cipher_is_loaded_when_it_is_certain_to_be_needed() -> None:
    for policy in POLICIES:
        runner = Runner()
        for _ in range(2):
            await encryption(policy, runner).prepare()
        assert set(runner.ran) == ({"load_native"} if policy == "require" else set())
    runner = Runner()
    required = encryption("require", runner)
    await required.prepare()
    await required.prepare()
    assert runner.ran == ["load_native"]


def test_the_handshakes_tried_by_policy() -> None:
    for before in (False, True):
        assert encryption("off").offers(obfuscated_before=before) == (0,)
        assert encryption("require").offers(obfuscated_before=before) == (RC4,)
    assert encryption("prefer").offers(obfuscated_before=False) == (0, PLAINTEXT | RC4)
    assert encryption("prefer").offers(obfuscated_before=True) == (PLAINTEXT | RC4, 0)


# -- strangers --------------------------------------------------------------------------------------------------------


def flights(info_hash: bytes) -> tuple[Initiator, bytes]:
    initiator = Initiator(info_hash, THEIRS.encode(), PLAINTEXT | RC4, random.Random(1))
    return initiator, initiator.start()


@asynccontextmanager
async def stranger(sample: Sample, policy: Policy = "prefer") -> AsyncIterator[tuple[Recorded, Stream]]:
    """A seed, and a stream to it on which nothing was said."""
    async with open_internet() as internet, node_on(internet.host("seed"), 1, encryption=policy) as seed:
        await seeding(seed, sample)
        stream = await internet.host("stranger").dial_tcp(Endpoint(internet.hosts["seed"].ipv4, PORT))
        yield seed, stream


async def test_a_stranger_who_stops_half_way_is_closed_in_time(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with stranger(make_sample(tmp_path, 1000)) as (seed, stream):
        started = trio.current_time()
        await stream.send_all(flights(INFO_HASH)[1])
        await receive_exactly(stream, KEY_LENGTH)
        await seed.wait_for(ConnectionRefused, reason="handshake-timed-out")
        assert trio.current_time() - started == pytest.approx(10, abs=0.5)


async def test_padding_without_end_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with stranger(make_sample(tmp_path, 1000)) as (seed, stream):
        await stream.send_all(b"Y" * KEY_LENGTH + bytes(MAX_PAD + 20))
        await seed.wait_for(ConnectionRefused, reason="bad-encryption")


class PublicKey:
    """A stream that brings a public key, or less, and nothing after it; notes when it was answered."""

    def __init__(self, length: int = KEY_LENGTH) -> None:
        self.remote = Endpoint("192.0.2.1", PORT)
        self.answered: float | None = None
        self._key = flights(INFO_HASH)[1][:length]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._key:
            await trio.sleep_forever()
        key, self._key = self._key, b""
        return key

    async def send_all(self, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()
        self.answered = trio.current_time()


async def answered(*strangers: tuple[PublicKey, float]) -> list[float]:
    """When strangers who come a tenth of a millisecond apart, and hang up after so many seconds, were answered."""
    ours = encryption("prefer")

    async def respond(stream: PublicKey, patience: float) -> None:
        with trio.move_on_after(patience):
            await ours.respond(Link(stream, "tcp"), b"")  # type: ignore[arg-type]

    await trio.sleep(1)  # a quiet time
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for stream, patience in strangers:
            nursery.start_soon(respond, stream, patience)
            await trio.sleep(0.0001)
    return [stream.answered - started for stream, _ in strangers if stream.answered is not None]


async def test_a_flood_of_public_keys_is_answered_at_a_bounded_rate(autojump_clock: MockClock) -> None:
    times = await answered(*[(PublicKey(), 5) for _ in range(200)])
    assert len(times) == 200
    assert times[ANSWERS_AT_ONCE - 1] < 0.01
    assert times[-1] == pytest.approx((200 - ANSWERS_AT_ONCE) / ANSWERS_PER_SECOND, abs=0.02)


async def test_strangers_that_are_evicted_or_stop_short_cost_those_behind_them_no_turn(
    autojump_clock: MockClock,
) -> None:
    short = [(PublicKey(KEY_LENGTH - 1), 0.1) for _ in range(200)]
    flood = [(PublicKey(), 0.1) for _ in range(ANSWERS_AT_ONCE + 200)]
    times = await answered(*short, *flood, (PublicKey(), 5))
    assert ANSWERS_AT_ONCE < len(times) < ANSWERS_AT_ONCE + 30
    assert times[-1] == pytest.approx(0.0001 * (len(short) + len(flood)) + 0.1, abs=0.01)


async def test_a_torrent_that_is_not_served_any_more_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = make_sample(tmp_path, 1000)
    async with stranger(sample) as (seed, stream):
        await seed.node.remove(seed.node.torrents[sample.metainfo.info_hash])
        initiator, opening = flights(sample.metainfo.info_hash)
        await stream.send_all(opening)
        await stream.send_all(initiator.receive_untrusted(await receive_exactly(stream, KEY_LENGTH)))
        await seed.wait_for(ConnectionRefused, reason="unknown-info-hash")


@pytest.mark.parametrize(
    "policy,said,reason",
    [
        ("require", THEIRS.encode(), "encryption-required"),
        ("off", b"\xff" * KEY_LENGTH, "bad-handshake"),
        ("off", b"\x13BitTorrent protocoL" + bytes(48), "bad-handshake"),
    ],
)
async def test_the_policy_names_the_reason(
    autojump_clock: MockClock, tmp_path: Path, policy: Policy, said: bytes, reason: str
) -> None:
    async with stranger(make_sample(tmp_path, 1000), policy) as (seed, stream):
        for byte in said[:20]:  # cut as badly as can be
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.1)
            if seed.of(ConnectionRefused):
                break
        await seed.wait_for(ConnectionRefused, reason=reason)


# -- whole nodes ------------------------------------------------------------------------------------------------------

TRANSPORTS = [{"utp": False}, {"tcp": False}]


class Pair:
    """A seed and a leech that dials it."""

    def __init__(self, sample: Sample, directory: Path, seed: Recorded, leech: Recorded, at: Endpoint) -> None:
        self.sample, self.directory, self.seed, self.leech, self.at = sample, directory, seed, leech, at

    def leeching(self) -> Torrent:
        return self.leech.node.add(self.sample.metainfo, self.directory, peers=[self.at])


@asynccontextmanager
async def pair(tmp_path: Path, seed: Policy, leech: Policy, **config: Any) -> AsyncIterator[Pair]:
    sample = make_sample(tmp_path / "seed", 300_000)
    async with (
        open_internet() as internet,
        node_on(internet.host("seed"), 1, encryption=seed, **config) as one,
        node_on(internet.host("leech"), 2, encryption=leech, **config) as two,
    ):
        await seeding(one, sample)
        yield Pair(sample, tmp_path / "leech", one, two, Endpoint(internet.hosts["seed"].ipv4, PORT))


def connected(torrent: Torrent) -> list[EncryptionName]:
    return [peer.identity.encryption for peer in torrent.connections]


AGREED: dict[tuple[Policy, Policy], EncryptionName] = {
    ("prefer", "prefer"): "plaintext",
    ("prefer", "require"): "rc4",
    ("prefer", "off"): "plaintext",
    ("require", "prefer"): "rc4",
    ("require", "require"): "rc4",
    ("off", "prefer"): "plaintext",
    ("off", "off"): "plaintext",
}
"""By the policies of seed and leech."""


@pytest.mark.parametrize("config", TRANSPORTS, ids=["tcp", "utp"])
@pytest.mark.parametrize("seed,leech", AGREED)
async def test_policies_that_agree_transfer(
    autojump_clock: MockClock, tmp_path: Path, seed: Policy, leech: Policy, config: dict[str, bool]
) -> None:
    async with pair(tmp_path, seed, leech, **config) as nodes:
        torrent = nodes.leeching()
        seen = await nodes.leech.wait_for(PeerConnected)
        assert connected(torrent) == [AGREED[seed, leech]]
        with trio.fail_after(10):
            await torrent.wait_complete()
        assert nodes.sample.is_whole_in(nodes.directory)
        assert seen.path == ("tcp" if config == {"utp": False} else "utp")
        refused = (seed, leech) == ("require", "prefer")
        assert len(nodes.leech.of(DialFailed)) == refused
        assert [event.reason for event in nodes.seed.of(ConnectionRefused)] == ["encryption-required"] * refused


@pytest.mark.parametrize("config", TRANSPORTS, ids=["tcp", "utp"])
@pytest.mark.parametrize(
    "seed,leech,reason", [("require", "off", "encryption-required"), ("off", "require", "bad-handshake")]
)
async def test_policies_that_exclude_each_other_are_refused_with_the_reason(
    autojump_clock: MockClock, tmp_path: Path, seed: Policy, leech: Policy, reason: str, config: dict[str, bool]
) -> None:
    async with pair(tmp_path, seed, leech, **config) as nodes:
        torrent = nodes.leeching()
        failed = await nodes.leech.wait_for(DialFailed)
        assert failed.reason in ("handshake-closed", "handshake-reset")
        await nodes.seed.wait_for(ConnectionRefused, reason=reason)
        await trio.sleep(1)
        assert len(nodes.leech.of(DialFailed)) == 1  # nothing else to try
        assert not connected(torrent)


@pytest.mark.parametrize("config", TRANSPORTS, ids=["tcp", "utp"])
async def test_a_peer_that_wanted_encryption_is_asked_for_it_first_the_next_time(
    autojump_clock: MockClock, tmp_path: Path, config: dict[str, bool]
) -> None:
    async with pair(tmp_path, "require", "prefer", upload_rate=2000, **config) as nodes:
        torrent = nodes.leeching()
        await nodes.leech.wait_for(PeerConnected)
        for peer in torrent.connections:
            peer.close("test")
        await trio.sleep(1.1 * RECONNECT_AFTER + 2)
        assert len(nodes.leech.of(PeerConnected)) == 2
        assert connected(torrent) == ["rc4"]
        assert len(nodes.leech.of(DialFailed)) == 1


async def test_both_handshakes_are_tried_once_and_both_reasons_kept(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Whoever serves another torrent hangs up on either."""
    async with pair(tmp_path, "prefer", "prefer", utp=False) as nodes:
        await nodes.seed.node.remove(next(iter(nodes.seed.node.torrents.values())))
        nodes.leeching()
        await nodes.leech.wait_for(DialFailed)
        await trio.sleep(1)
        assert len(nodes.leech.of(DialFailed, path="tcp")) == 2
        assert [event.reason for event in nodes.seed.of(ConnectionRefused)] == ["unknown-torrent", "unknown-info-hash"]


async def test_encrypting_for_one_peer_spoils_no_block_for_another(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with open_internet() as internet:
        sample = make_sample(tmp_path / "seed", 600_000)
        seed_host = internet.host("seed")
        async with node_on(seed_host, 1) as seed:
            seeded = await seeding(seed, sample)
            for number, policy in enumerate(("require", "off", "require"), 2):
                async with node_on(internet.host(f"leech{number}"), number, encryption=policy) as leech:
                    torrent = leech.node.add(
                        sample.metainfo, tmp_path / f"leech{number}", peers=[Endpoint(seed_host.ipv4, PORT)]
                    )
                    with trio.fail_after(20):
                        await torrent.wait_complete()
                    assert not leech.of(PieceFailed)
            assert seeded.uploaded == 3 * 600_000
