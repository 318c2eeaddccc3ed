"""swarm.torrent.create: what it writes we and libtorrent read alike, and the sample in torrents/ is what it says."""

from __future__ import annotations

import os
import random
from hashlib import sha1
from pathlib import Path

import libtorrent as lt
import pytest

from dht.bencode import decode_untrusted
from swarm.errors import MetainfoError, StorageError, UsageError
from swarm.torrent import create as create_module
from swarm.torrent.create import create
from swarm.torrent.layout import Layout
from swarm.torrent.metainfo import parse_torrent_untrusted
from tests.torrent.second_opinion import assert_agree

SAMPLES = Path(__file__).resolve().parents[2] / "torrents"


def plant(directory: Path, sizes: dict[str, int]) -> Path:
    rng = random.Random(3)
    for name, size in sizes.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    return directory


def assert_hashes_match(torrent: bytes, parent: Path) -> None:
    metainfo = parse_torrent_untrusted(torrent)
    content = [parent.joinpath(*file.path).read_bytes() for file in metainfo.files]
    layout = Layout(metainfo)
    for index in range(metainfo.piece_count):
        piece = sha1()
        for span in layout.piece_spans(index):
            piece.update(content[span.file_index][span.file_offset : span.file_offset + span.length])
        assert piece.digest() == metainfo.piece_hash(index)


def test_a_directory_is_shared_in_the_order_of_names(tmp_path: Path) -> None:
    payload = plant(tmp_path / "p", {"b": 20_000, "a/z": 3, "a/b/c": 16_384, ".hidden": 1, "empty": 0, "B": 70_001})
    (payload / "no files").mkdir()
    torrent = create(payload)
    metainfo = parse_torrent_untrusted(torrent)
    assert ["/".join(file.path) for file in metainfo.files] == [
        "p/.hidden",
        "p/B",
        "p/a/b/c",
        "p/a/z",
        "p/b",
        "p/empty",
    ]
    assert (metainfo.name, metainfo.piece_length, metainfo.total_size) == ("p", 16_384, 106_389)
    assert_hashes_match(torrent, tmp_path)
    assert_agree(metainfo, torrent)


@pytest.mark.parametrize("size", [1, 16_383, 16_384, 16_385, 3 << 20, (3 << 20) + 1])
def test_a_single_file_is_read_alike_by_libtorrent(tmp_path: Path, size: int) -> None:
    payload = plant(tmp_path, {"file.bin": size}) / "file.bin"
    torrent = create(payload, piece_length=16_384 if size < 1 << 20 else 2 << 20)
    metainfo = parse_torrent_untrusted(torrent)
    assert metainfo.single_file and metainfo.total_size == size
    assert_hashes_match(torrent, tmp_path)
    assert_agree(metainfo, torrent)


def test_libtorrent_would_have_taken_the_same_hashes(tmp_path: Path) -> None:
    payload = plant(tmp_path / "p", {"a": 20_000, "b/c": 50_000})
    listed = [lt.create_file_entry(name, size) for name, size in (("p/a", 20_000), ("p/b/c", 50_000))]
    theirs = lt.create_torrent(listed, 32_768, lt.create_torrent.v1_only)
    lt.set_piece_hashes(theirs, str(tmp_path))
    ours = decode_untrusted(create(payload, piece_length=32_768))
    assert isinstance(ours, dict)
    assert ours[b"info"] == theirs.generate()[b"info"]


def test_everything_that_can_be_said_is_read_back(tmp_path: Path) -> None:
    payload = plant(tmp_path, {"x": 5}) / "x"
    torrent = create(
        payload,
        trackers=["http://a.example/announce", "udp://b.example:80"],
        web_seeds=["http://w.example/x"],
        private=True,
        comment="Größe",
        created_by="test",
        creation_date=1_700_000_000,
    )
    metainfo = parse_torrent_untrusted(torrent)
    assert metainfo.trackers == (("http://a.example/announce",), ("udp://b.example:80",))
    assert (metainfo.web_seeds, metainfo.private) == (("http://w.example/x",), True)
    assert (metainfo.comment, metainfo.created_by, metainfo.creation_date) == ("Größe", "test", 1_700_000_000)
    assert_agree(metainfo, torrent)
    one = decode_untrusted(create(payload, trackers=["http://a.example/announce"], created_by=None))
    assert isinstance(one, dict) and set(one) == {b"announce", b"info"}


def test_without_a_date_two_runs_give_the_same_bytes_and_a_relative_path_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = plant(tmp_path / "p", {"a": 5})
    monkeypatch.chdir(payload)
    assert create(payload) == create(".") == create("../p/")


@pytest.mark.parametrize(
    "total, length",
    [(1, 16 << 10), (32 << 20, 16 << 10), ((32 << 20) + 1, 32 << 10), (1 << 30, 512 << 10), (1 << 40, 16 << 20)],
)
def test_the_piece_length_grows_with_the_content(total: int, length: int) -> None:
    assert create_module._automatic_piece_length(total) == length


@pytest.mark.parametrize("length", [0, -16_384, 1, 8_192, 16_385, 24_576, 1 << 30])
def test_a_piece_length_that_others_could_not_use_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(UsageError, match="power of two"):
        create(plant(tmp_path, {"x": 5}), piece_length=length)


@pytest.mark.parametrize("url", ["", "example.com", "http://a b/", "http://a/\n", "http://\udcff/"])
def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    for urls in ({"trackers": [url]}, {"web_seeds": [url]}):
        with pytest.raises(UsageError, match="not a URL"):
            create(plant(tmp_path, {"x": 5}), **urls)


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    create(
        plant(tmp_path / "p", {"a": (2 << 20) + 5, "b": 7}), progress=lambda done, total: calls.append((done, total))
    )
    total = (2 << 20) + 12
    assert calls == [(1 << 20, total), (2 << 20, total), (total - 7, total), (total, total)]


def test_nothing_to_share_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    plant(tmp_path / "hollow", {"a": 0, "b/c": 0})
    for name in ("empty", "hollow", "hollow/a"):
        with pytest.raises(MetainfoError, match="no content"):
            create(tmp_path / name)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    payload = plant(tmp_path / "p", {"a": 5})
    elsewhere = plant(tmp_path / "elsewhere", {"x": 7, "sub/y": 8})
    (payload / "directory").symlink_to(elsewhere)
    (payload / "file").symlink_to(elsewhere / "x")
    metainfo = parse_torrent_untrusted(create(payload))
    assert ["/".join(file.path[1:]) for file in metainfo.files] == ["a", "directory/sub/y", "directory/x", "file"]
    (elsewhere / "sub" / "circle").symlink_to(payload)
    with pytest.raises(StorageError, match="circle links back"):
        create(payload)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing: No such file"):
        create(tmp_path / "missing")
    payload = plant(tmp_path / "p", {"a": 5})
    (payload / "dangling").symlink_to("nowhere")
    with pytest.raises(StorageError, match="dangling: No such file") as caught:
        create(payload)
    assert caught.value.code == 4
    (payload / "dangling").unlink()
    os.mkfifo(payload / "pipe")
    with pytest.raises(StorageError, match="pipe is neither a file nor a directory"):
        create(payload)
    with pytest.raises(StorageError, match="pipe is neither"):
        create(payload / "pipe")


def test_a_file_that_vanishes_or_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    payload = plant(tmp_path / "p", {"a": 5, "b": 5})
    with pytest.raises(StorageError, match="b: No such file"):
        create(payload, progress=lambda done, total: (payload / "b").unlink())
    for content in (b"1234", b"123456"):
        plant(payload, {"b": 5})
        with pytest.raises(StorageError, match="b changed its size"):
            create(payload, progress=lambda done, total, content=content: (payload / "b").write_bytes(content))


@pytest.mark.parametrize(
    "name, message",
    [
        (b"bell\x07", "rename it first"),
        (b"back\\slash", "rename it first"),
        ("turn\u202eed".encode(), "rename it first"),
        (b"caf\xe9", "not UTF-8"),
    ],
)
def test_a_name_that_would_not_survive_is_refused(tmp_path: Path, name: bytes, message: str) -> None:
    payload = tmp_path / "p"
    payload.mkdir()
    path = os.path.join(os.fsencode(payload), name)
    with open(path, "wb") as file:
        file.write(b"content")
    for shared in (payload, os.fsdecode(path)):
        with pytest.raises(MetainfoError, match=message):
            create(shared)


def test_the_sample_is_described_by_its_torrent() -> None:
    torrent = (SAMPLES / "swarm-sample.torrent").read_bytes()
    assert_hashes_match(torrent, SAMPLES)
    assert torrent == create(SAMPLES / "swarm-sample")
    metainfo = parse_torrent_untrusted(torrent)
    assert_agree(metainfo, torrent)
    sizes = [file.size for file in metainfo.files]
    assert 0 in sizes and any(size % 2 for size in sizes) and metainfo.piece_count > 60
