"""swarm.torrent.metainfo: the formats of the specifications, a message for each defect, libtorrent as the oracle."""

from __future__ import annotations

import os
import random
import time
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from dht.bencode import encode
from swarm.errors import MetainfoError
from swarm.torrent import filelist
from swarm.torrent.metainfo import FileEntry, Metainfo, parse_info_untrusted, parse_torrent_untrusted
from tests.fuzzing import fuzz_count, fuzz_seed, mutations
from tests.torrent.second_opinion import assert_agree

ABSENT = object()


def info(**changes: Any) -> dict[bytes, Any]:
    """A single file of 40,000 bytes, with keys replaced or, by ABSENT, removed; ``_`` in a name stands for a blank."""
    return merged({b"length": 40_000, b"name": b"file.bin", b"piece length": 16_384, b"pieces": b"#" * 60}, changes)


def directory(*files: dict[bytes, Any], **changes: Any) -> dict[bytes, Any]:
    total = sum(file[b"length"] for file in files if isinstance(file.get(b"length"), int))
    pieces = b"#" * 20 * max(0, -(-min(total, 1 << 30) // 16_384))
    return merged({b"files": list(files), b"name": b"dir", b"piece length": 16_384, b"pieces": pieces}, changes)


def file(path: str, length: int = 1, **changes: Any) -> dict[bytes, Any]:
    return merged({b"length": length, b"path": [part.encode() for part in path.split("/")]}, changes)


def merged(value: dict[bytes, Any], changes: dict[str, Any]) -> dict[bytes, Any]:
    value |= {key.replace("_", " ").encode(): change for key, change in changes.items()}
    return {key: change for key, change in value.items() if change is not ABSENT}


def parse(info: Any, **torrent: Any) -> Metainfo:
    return parse_torrent_untrusted(encode(merged({b"info": info}, torrent)))


def paths(metainfo: Metainfo) -> list[str]:
    return ["/".join(file.path) for file in metainfo.files]


def test_a_single_file_torrent() -> None:
    metainfo = parse(info(), announce=b"http://t.example/announce")
    assert metainfo.files == (FileEntry(("file.bin",), 40_000, 0),)
    assert (metainfo.name, metainfo.total_size, metainfo.version, metainfo.private) == ("file.bin", 40_000, "1", False)
    assert metainfo.single_file and metainfo.info_hash_v2 is None and metainfo.notes == ()
    assert metainfo.info_hash == sha1(encode(info())).digest() and metainfo.info_bytes == encode(info())
    assert metainfo.trackers == (("http://t.example/announce",),)
    assert metainfo.piece_count == 3
    assert [metainfo.piece_size(index) for index in range(3)] == [16_384, 16_384, 7_232]
    assert metainfo.piece_hash(2) == b"#" * 20


@pytest.mark.parametrize("index", [-1, 3])
def test_a_piece_that_is_not_there_is_the_callers_mistake(index: int) -> None:
    metainfo = parse(info())
    with pytest.raises(IndexError):
        metainfo.piece_size(index)
    with pytest.raises(IndexError):
        metainfo.piece_hash(index)


def test_a_torrent_of_several_files() -> None:
    metainfo = parse(directory(file("b/c", 20_000), file("empty", 0), file("a", 5, attr=b"hx")))
    assert metainfo.files == (
        FileEntry(("dir", "b", "c"), 20_000, 0),
        FileEntry(("dir", "empty"), 0, 20_000),
        FileEntry(("dir", "a"), 5, 20_000, executable=True),
    )
    assert (metainfo.total_size, metainfo.piece_count, metainfo.single_file) == (20_005, 2, False)
    assert not parse(directory(file("only", 5))).single_file
    assert parse(info(attr=b"x")).files[0].executable


def test_pad_files_count_but_are_marked_and_need_no_path() -> None:
    metainfo = parse(
        directory(
            file("a", 10_000),
            file(".pad/6384", 6_384, attr=b"p"),
            file("b", 10_000),
            {b"length": 6_384, b"attr": b"p"},
            file("c"),
        )
    )
    assert [(file.offset, file.pad) for file in metainfo.files] == [
        (0, False), (10_000, True), (16_384, False), (26_384, True), (32_768, False),
    ]  # fmt: skip
    assert metainfo.notes == ()


def test_symbolic_links_are_left_out_and_keep_their_index() -> None:
    link = file("link", 0, attr=b"l", symlink_path=[b"..", b"..", b"etc"])
    metainfo = parse(directory(link, file("a")))
    assert [entry.pad for entry in metainfo.files] == [True, False]
    assert metainfo.notes == ("the symbolic link 'dir/link' is left out",)


def test_announce_list_wins_over_announce_and_urls_appear_once() -> None:
    tiers = [
        [b"http://a/", b" http://b/ ", b"http://a/"],
        [],
        [b"", b"http://b/"],
        [b"udp://c:1", b"bad\nurl", 5],
        b"http://d/",
    ]
    metainfo = parse(info(), announce=b"http://z/", **{"announce-list": tiers})
    assert metainfo.trackers == (("http://a/", "http://b/"), ("udp://c:1",), ("http://d/",))
    for nothing in ([], [[]], [[b""]], b"", 5, [5]):
        assert parse(info(), announce=b"http://z/", **{"announce-list": nothing}).trackers == (("http://z/",),)
    assert parse(info()).trackers == parse(info(), announce=5).trackers == ()


def test_web_seeds_may_be_one_or_many() -> None:
    assert parse(info(), **{"url-list": b"http://a/"}).web_seeds == ("http://a/",)
    assert parse(info(), **{"url-list": [b"http://a/", b"http://b/", b"http://a/", b"", 3]}).web_seeds == (
        "http://a/",
        "http://b/",
    )
    assert parse(info(), **{"url-list": b""}).web_seeds == parse(info(), **{"url-list": 3}).web_seeds == ()


def test_optional_fields_are_read_and_absent_when_malformed() -> None:
    nodes = [[b"192.0.2.1", 6881], [b"router.example", 1], [b"x", 0], [b"x"], 5, [5, 5], [b"", 5], [b"a\nb", 5]]
    metainfo = parse(
        info(private=1, source=b"TRK"),
        comment="Größe\x1b[1m\nzwei".encode(),
        created_by=b"caf\xe9 1.0",
        creation_date=1_700_000_000,
        nodes=nodes,
    )
    assert metainfo.comment == "Größe [1m\nzwei" and metainfo.created_by == "café 1.0"
    assert (metainfo.creation_date, metainfo.private, metainfo.source) == (1_700_000_000, True, "TRK")
    assert metainfo.nodes == (("192.0.2.1", 6881), ("router.example", 1))
    metainfo = parse(info(private=b"1", source=1), comment=1, created_by=b"", creation_date=-1, nodes=b"x")
    assert (metainfo.comment, metainfo.created_by, metainfo.creation_date) == (None, None, None)
    assert (metainfo.private, metainfo.source, metainfo.nodes) == (False, None, ())


def test_private_counts_only_where_the_hash_covers_it() -> None:
    assert not parse(info(), private=1).private


def test_the_hash_is_over_the_bytes_as_they_stand() -> None:
    disorder = b"d6:pieces20:" + b"#" * 20 + b"4:name1:x12:piece lengthi9e6:lengthi9ee"
    metainfo = parse_torrent_untrusted(b"d4:info" + disorder + b"8:announce9:http://a/e\r\n")
    assert metainfo.info_hash == sha1(disorder).digest() and metainfo.info_bytes == disorder
    assert parse_info_untrusted(disorder, trackers=(("http://a/",),)) == metainfo


def test_an_info_dictionary_alone_takes_what_its_magnet_link_knew() -> None:
    metainfo = parse_info_untrusted(
        encode(info()), trackers=(("http://a/",),), web_seeds=("http://w/",), nodes=(("192.0.2.1", 1),)
    )
    assert (metainfo.trackers, metainfo.web_seeds, metainfo.nodes) == (
        (("http://a/",),),
        ("http://w/",),
        (("192.0.2.1", 1),),
    )
    assert metainfo.info_hash == sha1(encode(info())).digest()


def test_a_hybrid_is_used_by_its_version_1_half() -> None:
    hybrid = info(meta_version=2, file_tree={b"file.bin": {b"": {b"length": 40_000, b"pieces root": b"#" * 32}}})
    metainfo = parse(hybrid)
    assert metainfo.version == "hybrid"
    assert metainfo.info_hash == sha1(encode(hybrid)).digest()
    assert metainfo.info_hash_v2 == sha256(encode(hybrid)).digest()


@pytest.mark.parametrize(
    "path, stored",
    [
        ([b"..."], "..."),
        ([b"a/b"], "a_b"),
        ([b"/etc", b"passwd"], "_etc/passwd"),
        ([b"..\\x"], ".._x"),
        ([b"", b"a"], "a"),
        ([b"a\x07"], "a_"),
        ([b"caf\xe9"], "café"),
        ([b"aux.c"], "aux.c" if os.name != "nt" else "_aux.c"),
    ],
)
def test_paths_are_made_safe_and_that_is_said(path: list[bytes], stored: str) -> None:
    metainfo = parse(directory({b"length": 1, b"path": path}))
    assert paths(metainfo) == ["dir/" + stored]
    assert len(metainfo.notes) == (b"/".join(part for part in path if part) != stored.encode())


def test_a_name_is_made_safe_like_a_path() -> None:
    assert parse(info(name=b"/etc/passwd")).files[0].path == ("_etc_passwd",)
    metainfo = parse(directory(file("a"), name=b"../x"))
    assert paths(metainfo) == [".._x/a"]
    assert metainfo.notes == ("the name '../x' is stored as '.._x'",)
    assert metainfo.name == ".._x"


def test_utf_8_keys_win_over_those_in_another_encoding() -> None:
    entry = {b"length": 1, b"path": [b"\x93\xfa"], b"path.utf-8": ["日".encode()]}
    assert paths(parse(directory(entry, **{"name.utf-8": "本".encode()}))) == ["本/日"]


def test_notes_are_few() -> None:
    metainfo = parse(directory(*(file(f"bell\x07{number}") for number in range(50))))
    assert len(metainfo.notes) == filelist.MAX_NOTES


def test_case_makes_names_different_where_it_does_on_disk() -> None:
    entries = list(parse(directory(file("a"), file("b"))).files)
    folded = [FileEntry(("D", "A"), 1, 0), FileEntry(("d", "a"), 1, 1)]
    assert len(set(filelist._stored_paths(entries + folded, folds_case=False))) == 4
    assert len(set(filelist._stored_paths(folded, folds_case=True))) == 1


DEFECTS = [
    (5, "not a dictionary"),
    ([], "not a dictionary"),
    (info(name=ABSENT), "no name"),
    (info(name=5), "no name"),
    (info(name=b""), "empty file name"),
    (info(name=b".."), "could leave"),
    (info(name=b"."), "could leave"),
    (info(name=b"a\0b"), "NUL"),
    (info(length=ABSENT), "neither a length nor"),
    (info(length=b"5"), "has no length"),
    (info(length=-1), "negative length"),
    (info(length=0, pieces=b""), "no content"),
    (info(length=1 << 62), "more than any disk"),
    (info(files=[file("a")]), "single file and several"),
    (info(piece_length=ABSENT), "no piece length"),
    (info(piece_length=b"1"), "no piece length"),
    (info(piece_length=0), "piece length 0"),
    (info(piece_length=-16384), "piece length -16,384"),
    (info(piece_length=1 << 40), "piece length 1,099"),
    (info(pieces=ABSENT), "no piece hashes"),
    (info(pieces=[b"#" * 60]), "no piece hashes"),
    (info(pieces=b"#" * 59), "no multiple of 20"),
    (info(pieces=b""), "0 piece hashes where its size takes 3"),
    (info(pieces=b"#" * 80), "4 piece hashes where its size takes 3"),
    (info(meta_version=3), "unknown meta version 3"),
    (info(meta_version=b"2"), "unknown meta version"),
    (info(meta_version=2, pieces=ABSENT), "version 2 torrent without a version 1 half"),
    (directory(), "lists no files"),
    (directory(files={}), "lists no files"),
    (directory(file("a"), files=[5], pieces=b""), "file 1 of the torrent is not described"),
    (directory(file("a"), {b"path": [b"b"]}), "file 2 of the torrent has no length"),
    (directory(file("a"), file("b", -5)), "file 2 of the torrent has the negative length -5"),
    (directory(file("a", 0), file("b", 0)), "no content"),
    (directory(file("a", 1 << 49), file("b", 1 << 49), file("c"), pieces=b""), "more than any disk"),
    (directory({b"length": 1}), "file 1 of the torrent has no path"),
    (directory({b"length": 1, b"path": b"a"}), "has no path"),
    (directory({b"length": 1, b"path": []}), "empty path"),
    (directory({b"length": 1, b"path": [b"", b""]}), "empty path"),
    (directory({b"length": 1, b"path": [b"a", 5]}), "not made of strings"),
    (directory({b"length": 1, b"path": [b"a", [b"b"]]}), "not made of strings"),
    (directory(file("a/../b")), "could leave"),
    (directory(file("../b")), "could leave"),
    (directory(file("./b")), "could leave"),
    (directory(file("a\0b")), "NUL"),
    (directory(file("/".join(["x" * 200] * 21))), "path longer than"),
    (directory(file("a"), file("b"), file("a")), "two files called 'dir/a'"),
    (directory(file("x/y"), file("x//y")), "two files called 'dir/x/y'"),
    (directory(file("x_y"), {b"length": 1, b"path": [b"x/y"]}), "two files called 'dir/x_y'"),
    (directory(file("a"), file("a/b")), "'dir/a' both as a file and as a directory"),
    (directory(file("a/b/c"), file("a/b")), "'dir/a/b' both as a file and as a directory"),
    (directory(file("link", 5, attr=b"l")), "a symbolic link and yet gives it 5 bytes"),
]


@pytest.mark.parametrize("defective, message", DEFECTS, ids=[message for _, message in DEFECTS])
def test_each_defect_has_a_message_of_its_own(defective: Any, message: str) -> None:
    for parser, data in (
        (parse_torrent_untrusted, encode({b"info": defective})),
        (parse_info_untrusted, encode(defective)),
    ):
        with pytest.raises(MetainfoError, match=message) as caught:
            parser(data)
        assert caught.value.code == 3 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "no torrent file"),
        (b"\n", "no torrent file"),
        (b"<!DOCTYPE html>", "web page"),
        (b"  <html>", "web page"),
        (b"PK\x03\x04", "no torrent file"),
        (b"d", "damaged"),
        (b"de", "no info dictionary"),
        (b"d8:announce3:urle", "no info dictionary"),
        (b"d4:infode4:infodee", "damaged: .* duplicate"),
        (b"d1:ai0e-6:", "damaged"),
        (b"d4:infodei0e", "damaged"),
        (b"d4:info" + b"l" * 200 + b"e" * 201, "damaged: nested"),
        (b"d4:info" + b"x" * (33 << 20), "are not read"),
    ],
)
def test_what_is_no_torrent_file_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(MetainfoError, match=message):
        parse_torrent_untrusted(data)


def test_an_info_dictionary_that_is_none_is_refused() -> None:
    for data in (b"", b"d", b"de1:x"):
        with pytest.raises(MetainfoError, match="damaged"):
            parse_info_untrusted(data)
    with pytest.raises(MetainfoError, match="are the limit"):
        parse_info_untrusted(bytes(33 << 20))


def test_the_number_of_files_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filelist, "MAX_FILES", 10)
    assert len(parse(directory(*(file(str(number)) for number in range(10)))).files) == 10
    with pytest.raises(MetainfoError, match="11 files"):
        parse(directory(*(file(str(number)) for number in range(11))))


def test_large_torrents_open_at_once() -> None:
    """20,000 files take 0.14 s here, 100,000 pieces a millisecond; the bound is ten times that."""
    files = [file(f"directory {number // 100}/some name {number}.txt", 1000) for number in range(20_000)]
    data = encode({b"info": directory(*files)})
    pieces = encode({b"info": info(length=100_000 << 20, piece_length=1 << 20, pieces=b"#" * 20 * 100_000)})
    start = time.process_time()
    assert len(parse_torrent_untrusted(data).files) == 20_000
    assert parse_torrent_untrusted(pieces).piece_count == 100_000
    assert time.process_time() - start < 1.5


def plant(root: Path) -> Path:
    """A directory with what makes torrents differ: nesting, an empty file, odd sizes, an executable, a link."""
    rng = random.Random(7)
    payload = root / "pay load"
    (payload / "sub" / "deep").mkdir(parents=True)
    for name, size in (("a", 50_001), ("empty", 0), ("sub/b.txt", 16_384), ("sub/deep/ü", 70_003), ("z", 3)):
        (payload / name).write_bytes(rng.randbytes(size))
    (payload / "z").chmod(0o755)
    (payload / "link").symlink_to("a")
    return payload


def created_by_libtorrent(payload: Path, flags: int) -> bytes:
    torrent = lt.create_torrent(lt.list_files(str(payload), flags=flags), 32_768, flags)
    torrent.add_tracker("http://a.example/announce", 0)
    torrent.add_tracker("udp://b.example:1/announce", 1)
    torrent.add_url_seed("http://w.example/")
    torrent.set_comment("a comment")
    torrent.set_creator("libtorrent")
    torrent.add_node("192.0.2.1", 6881)
    torrent.set_priv(True)
    lt.set_piece_hashes(torrent, str(payload.parent))
    return bytes(lt.bencode(torrent.generate()))


@pytest.mark.parametrize(
    "flags", [lt.create_torrent.v1_only, 0, lt.create_torrent.v1_only | lt.create_torrent.symlinks]
)
@pytest.mark.parametrize("name", ["", "sub/b.txt"])
def test_we_read_what_libtorrent_creates_as_it_does(tmp_path: Path, flags: int, name: str) -> None:
    payload = plant(tmp_path)
    data = created_by_libtorrent(payload / name, flags)
    metainfo = parse_torrent_untrusted(data)
    assert_agree(metainfo, data)
    assert metainfo.version == ("1" if flags else "hybrid")
    assert metainfo.trackers == (("http://a.example/announce",), ("udp://b.example:1/announce",))
    assert (metainfo.comment, metainfo.created_by) == ("a comment", "libtorrent")
    assert metainfo.nodes == (("192.0.2.1", 6881),) and metainfo.creation_date


def test_a_version_2_torrent_of_libtorrent_is_refused(tmp_path: Path) -> None:
    data = created_by_libtorrent(plant(tmp_path), lt.create_torrent.v2_only)
    with pytest.raises(MetainfoError, match="version 2 torrent without"):
        parse_torrent_untrusted(data)


def test_fuzz_damaged_torrents_are_refused_or_consistent() -> None:
    seed = fuzz_seed()
    print("SWARM_FUZZ_SEED", seed)
    valid = [encode({b"info": defective}) for defective, _ in DEFECTS]
    valid += [
        encode(
            {b"info": info(private=1), b"announce": b"http://a/", b"nodes": [[b"x", 1]], b"url-list": [b"http://w/"]}
        ),
        encode(
            {
                b"info": directory(file("a/b", 9), file(".pad/7", 7, attr=b"p"), file("l", 0, attr=b"l")),
                b"comment": b"c",
            }
        ),
    ]
    accepted = 0
    for data in mutations(random.Random(seed), valid, fuzz_count()):
        try:
            metainfo = parse_torrent_untrusted(data)
        except MetainfoError:
            continue
        accepted += 1
        assert sum(entry.size for entry in metainfo.files) == metainfo.total_size
        assert sum(map(metainfo.piece_size, range(metainfo.piece_count))) == metainfo.total_size
        for entry in metainfo.files:
            assert not {"", ".", ".."} & set(entry.path) and not set("".join(entry.path)) & set("/\\\0")
    assert accepted, "mutations are to reach past the first defect"


def test_every_truncation_of_a_torrent_is_refused() -> None:
    data = encode({b"info": directory(file("a/b", 9), file(".pad/7", 7, attr=b"p")), b"announce": b"http://a/"})
    assert parse_torrent_untrusted(data)
    for length in range(len(data)):
        with pytest.raises(MetainfoError):
            parse_torrent_untrusted(data[:length])
