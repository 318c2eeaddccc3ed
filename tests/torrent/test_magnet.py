"""swarm.torrent.magnet, with libtorrent as the second opinion."""

from __future__ import annotations

import base64
import random

import libtorrent as lt
import pytest

from dht.bencode import encode
from swarm.errors import MetainfoError
from swarm.torrent.magnet import Magnet, format_magnet, parse_magnet
from swarm.torrent.metainfo import parse_torrent_untrusted
from tests.fuzzing import fuzz_count, fuzz_seed, mutations

HASH = bytes.fromhex("c9e15763f722f23e98a29decdfae341b98d53056")  # BEP 9's example is a placeholder; this one is ours
HASH_V2 = bytes(range(32))
LINK = f"magnet:?xt=urn:btih:{HASH.hex()}"

FULL = Magnet(
    info_hash=HASH,
    info_hash_v2=HASH_V2,
    name="A name & a half / 日本",
    trackers=("http://tracker.example/announce?a=b&c=d", "udp://tracker.example:80"),
    peers=(("192.0.2.1", 6881), ("2001:db8::1", 6882), ("peer.example", 6883)),
    select=(range(1), range(2, 3), range(4, 7)),
    web_seeds=("http://seed.example/x y",),
)


@pytest.mark.parametrize(
    "text",
    [
        HASH.hex(),
        HASH.hex().upper(),
        f"  {HASH.hex()}\n",
        LINK,
        LINK.upper(),
        f"magnet:?xt=urn:btih:{base64.b32encode(HASH).decode()}",
        f"magnet:?xt=urn:btih:{base64.b32encode(HASH).decode().lower()}",
        f"magnet:?xt.1=urn:btih:{HASH.hex()}",
        f"magnet:?dn=&xt=urn%3Abtih%3A{HASH.hex()}&xl=5&kt=a+b&unknown",
        f"{LINK}&xt=urn:sha1:YNCKHTQCWBTRNJIV4WNAE52SJUQCZO5C",
        f"{LINK}&xt=urn:btih:{HASH.hex()}",
    ],
)
def test_every_spelling_of_an_info_hash_is_read(text: str) -> None:
    assert parse_magnet(text) == Magnet(info_hash=HASH)


def test_what_is_formatted_is_parsed_to_the_same() -> None:
    assert parse_magnet(format_magnet(FULL)) == FULL
    assert format_magnet(parse_magnet(LINK)) == LINK
    assert parse_magnet(format_magnet(Magnet(info_hash=HASH))) == Magnet(info_hash=HASH)


def test_libtorrent_reads_what_we_format_and_we_what_it_makes() -> None:
    theirs = lt.parse_magnet_uri(format_magnet(FULL))
    assert theirs.info_hashes.v1.to_bytes() == HASH and theirs.info_hashes.v2.to_bytes() == HASH_V2
    assert (theirs.name, tuple(theirs.trackers)) == (FULL.name, FULL.trackers)
    assert tuple(theirs.peers) == FULL.peers[:2]  # it takes no names
    assert parse_magnet(lt.make_magnet_uri(theirs)).info_hash == HASH
    assert parse_magnet(lt.make_magnet_uri(theirs)).trackers == FULL.trackers


def test_the_link_of_a_torrent_holds_its_trackers_in_order() -> None:
    info = {b"name": b"n", b"length": 1, b"piece length": 1, b"pieces": b"#" * 20}
    tiers = [[b"http://a.example/1", b"http://a.example/2"], [b"udp://b.example:1"]]
    metainfo = parse_torrent_untrusted(
        encode({b"announce-list": tiers, b"info": info, b"url-list": b"http://w.example/"})
    )
    assert parse_magnet(format_magnet(metainfo)) == Magnet(
        info_hash=metainfo.info_hash,
        name="n",
        trackers=("http://a.example/1", "http://a.example/2", "udp://b.example:1"),
        web_seeds=("http://w.example/",),
    )


def test_a_plus_is_a_blank_and_control_characters_are_kept_from_the_terminal() -> None:
    assert parse_magnet(f"{LINK}&dn=two+words%1b%5b31m").name == "two words [31m"


def test_malformed_peers_and_trackers_are_passed_over_and_doubles_dropped() -> None:
    magnet = parse_magnet(
        f"{LINK}&x.pe=192.0.2.1:1&x.pe=192.0.2.1:0&x.pe=nonsense&x.pe=2001:db8::1&x.pe=[2001:db8::1]:5&x.pe=192.0.2.1:1"
        "&tr=nonsense&tr.1=http://a.example/&tr.2=http://a.example/&tr=udp://b.example:1%0a"
    )
    assert magnet.peers == (("192.0.2.1", 1), ("2001:db8::1", 5))
    assert magnet.trackers == ("http://a.example/", "udp://b.example:1")


def test_the_example_of_bep_53_is_read() -> None:
    magnet = parse_magnet(f"{LINK}&so=0,2,4,6-8")
    assert [index for part in magnet.select for index in part] == [0, 2, 4, 6, 7, 8]


@pytest.mark.parametrize("so", ["x", "1-", "-1", "2-1", "1,,2", "1,", "99999999", "0-99999999", "0-9999999999", "٣"])
def test_a_malformed_selection_is_refused(so: str) -> None:
    with pytest.raises(MetainfoError, match="selects"):
        parse_magnet(f"{LINK}&so={so}")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no magnet link"),
        ("http://example/", "no magnet link"),
        (HASH.hex()[:-1], "no magnet link"),
        ("magnet:", "no magnet link"),
        ("magnet:?", "names no torrent"),
        ("magnet:?dn=x", "names no torrent"),
        ("magnet:?xt=urn:sha1:YNCKHTQCWBTRNJIV4WNAE52SJUQCZO5C", "names no torrent"),
        (f"magnet:?xt=urn:btih:{HASH.hex()[:-1]}", "malformed"),
        (f"magnet:?xt=urn:btih:{HASH.hex()}0", "malformed"),
        (f"magnet:?xt=urn:btih:{HASH.hex()[:-1]}g", "malformed"),
        ("magnet:?xt=urn:btih:" + "1" * 32, "malformed"),  # no base32 digit
        ("magnet:?xt=urn:btih:", "malformed"),
        ("magnet:?xt=urn:btmh:1220abcd", "malformed"),
        (f"magnet:?xt=urn:btmh:1220{HASH_V2.hex()}", "version 2 torrent only"),
        (f"{LINK}&xt=urn:btih:{'0' * 40}", "more than one"),
        (LINK + "&a=b" * 1001, "more than 1,000 parameters"),
        (LINK + "&dn=" + "x" * 65_536, "longer than"),
    ],
)
def test_what_names_no_version_1_torrent_is_refused(text: str, message: str) -> None:
    with pytest.raises(MetainfoError, match=message) as caught:
        parse_magnet(text)
    assert caught.value.code == 3


def test_fuzz_damaged_links_are_read_or_refused() -> None:
    seed = fuzz_seed()
    print("SWARM_FUZZ_SEED", seed)
    links = [format_magnet(FULL).encode(), LINK.encode()]
    for link in mutations(random.Random(seed), links, fuzz_count()):
        try:
            magnet = parse_magnet(link.decode("latin-1"))
        except MetainfoError:
            continue
        assert len(magnet.info_hash) == 20 and parse_magnet(format_magnet(magnet)) == magnet
