"""The peers that others announced: order, bounds, expiry, and the bytes in which they leave."""

from __future__ import annotations

import random

from dht.compact import encode_peer
from dht.peerstore import LIFETIME, PeerStore

HASH, OTHER = b"a" * 20, b"b" * 20


def host(number: int) -> str:
    return f"{11 + number // 65536}.{number // 256 % 256}.{number % 256}.9"


def stored(store: PeerStore, info_hash: bytes = HASH, count: int = 1000, now: float = 0.0) -> set[bytes]:
    values = store.values(info_hash, count, random.Random(1), now)
    assert len(values) % 8 == 0
    items = [values[start : start + 8] for start in range(0, len(values), 8)]
    assert all(item.startswith(b"6:") for item in items)
    assert len(set(items)) == len(items)
    return {item[2:] for item in items}


def test_announced_peers_come_back_as_the_items_of_a_list() -> None:
    store = PeerStore()
    assert store.announce(HASH, ("192.0.2.1", 6881), 0.0)
    assert store.values(HASH, 10, random.Random(1), 1.0) == b"6:\xc0\x00\x02\x01\x1a\xe1"
    assert store.values(OTHER, 10, random.Random(1), 1.0) == b""
    v6 = PeerStore()
    v6.announce(HASH, ("2001:db8::1", 6881), 0.0)
    assert v6.values(HASH, 10, random.Random(1), 1.0) == b"18:" + encode_peer(("2001:db8::1", 6881))


def test_announcing_again_prolongs_and_does_not_double() -> None:
    store = PeerStore()
    store.announce(HASH, ("192.0.2.1", 1), 0.0)
    store.announce(HASH, ("192.0.2.1", 1), LIFETIME - 1)
    assert len(store) == 1
    assert stored(store, now=LIFETIME + 1)
    assert not stored(store, now=2 * LIFETIME)
    assert len(store) == 0


def test_peers_expire_and_free_their_places() -> None:
    store = PeerStore(max_peers=2)
    assert store.announce(HASH, (host(1), 1), 0.0)
    assert store.announce(HASH, (host(2), 1), 10.0)
    assert not store.announce(OTHER, (host(3), 1), 20.0)
    assert store.announce(OTHER, (host(3), 1), LIFETIME + 5.0)
    assert stored(store, HASH, now=LIFETIME + 5.0) == {encode_peer((host(2), 1))}
    store.expire(3 * LIFETIME)
    assert (len(store), store.info_hashes) == (0, 0)


def test_the_oldest_of_an_info_hash_makes_room() -> None:
    store = PeerStore(max_per_info_hash=3)
    for number in range(5):
        assert store.announce(HASH, (host(number), 1), float(number))
    assert stored(store) == {encode_peer((host(number), 1)) for number in (2, 3, 4)}
    assert len(store) == 3


def test_one_network_cannot_fill_the_store() -> None:
    store = PeerStore(max_per_network=3)
    accepted = [store.announce(bytes([number] * 20), (f"192.0.2.{number}", 1), 0.0) for number in range(1, 6)]
    assert accepted == [True] * 3 + [False] * 2
    assert store.announce(HASH, ("192.0.3.1", 1), 0.0)
    store.expire(LIFETIME)
    assert store.announce(HASH, ("192.0.2.1", 1), LIFETIME)


def test_a_flood_does_not_wash_out_what_others_announced() -> None:
    store = PeerStore(max_peers=100)
    store.announce(HASH, (host(0), 1), 0.0)
    for number in range(1, 200):
        store.announce(number.to_bytes(20, "big"), (host(number), 1), 1.0)
    assert len(store) == 100
    assert stored(store) == {encode_peer((host(0), 1))}


def test_every_peer_gets_its_turn_when_not_all_fit() -> None:
    store = PeerStore()
    for number in range(50):
        store.announce(HASH, (host(number), 1), 0.0)
    rng = random.Random(1)
    seen: dict[bytes, int] = {}
    for _ in range(2000):
        values = store.values(HASH, 7, rng, 1.0)
        assert len(values) == 7 * 8
        for start in range(0, len(values), 8):
            seen[values[start : start + 8]] = seen.get(values[start : start + 8], 0) + 1
    assert len(seen) == 50
    assert max(seen.values()) < 2 * min(seen.values())
