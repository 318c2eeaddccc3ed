"""What the interop tests share: awkward trees of files, and torrents of them made by us and by libtorrent."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swarm.torrent.create import create
from swarm.torrent.metainfo import parse_torrent_untrusted

SIZES = {
    "a/empty first": 0,
    "a/one byte": 1,
    "b/just below a block.bin": (16 << 10) - 1,
    "b/just above a block.bin": (16 << 10) + 1,
    "b/empty between": 0,
    "c/one piece exactly": 32 << 10,
    "c/many pieces.dat": 2_000_003,
    "d/ünïcode näme.txt": 77_777,
    "e/empty last": 0,
}
"""Files in the order of their names, so that all clients lay them out alike."""


@dataclass(frozen=True)
class Shared:
    """A torrent whose data is ``seed / name``."""

    name: str
    torrent: Path
    info_hash: bytes
    seed: Path

    def assert_same(self, directory: Path, *, empty_files: bool = True) -> None:
        """Every file is there, and nothing else."""
        expected = contents(self.seed / self.name)
        if not empty_files:
            expected = {name: content for name, content in expected.items() if content}
        found = contents(directory / self.name)
        different = [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]
        assert not different, f"{different} of {sorted(found)}"


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    files = sorted(file for file in path.rglob("*") if file.is_file() and ".pad" not in file.parts)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def tree_of_odd_sizes(directory: Path) -> Path:
    dice = random.Random(1)
    for name, size in SIZES.items():
        path = directory / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(size))
    return directory / "tree"


def file_of_big_pieces(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "big pieces.bin"
    path.write_bytes(random.Random(2).randbytes((17 << 20) + 12345))
    return path


def made_by_us(path: Path, piece_length: int, tracker: str) -> bytes:
    return create(path, piece_length=piece_length, trackers=[tracker])


def made_by_libtorrent(path: Path, piece_length: int, tracker: str) -> bytes:
    return _libtorrent(path, piece_length, tracker, hybrid=False)


def hybrid_by_libtorrent(path: Path, piece_length: int, tracker: str) -> bytes:
    """Version 1 and 2 in one, with pad files."""
    return _libtorrent(path, piece_length, tracker, hybrid=True)


def _libtorrent(path: Path, piece_length: int, tracker: str, *, hybrid: bool) -> bytes:
    import libtorrent as lt

    files = lt.list_files(str(path))
    made = lt.create_torrent(files, piece_length, 0 if hybrid else lt.create_torrent.v1_only)
    made.add_tracker(tracker)
    lt.set_piece_hashes(made, str(path.parent))
    encoded: bytes = lt.bencode(made.generate())
    return encoded


@dataclass(frozen=True)
class Kind:
    """One sort of torrent: what is in it, how long its pieces are, who makes it, by which protocol it is announced."""

    content: Callable[[Path], Path]
    piece_length: int
    maker: Callable[[Path, int, str], bytes]
    scheme: str

    def __str__(self) -> str:
        return f"{self.scheme} {self.content.__name__} {self.maker.__name__}"

    def info_hash(self, directory: Path) -> bytes:
        return self.share(directory, "http://127.0.0.1:1/announce").info_hash

    def share(self, directory: Path, tracker: str) -> Shared:
        path = self.content(directory / "seed")
        torrent = directory / "shared.torrent"
        torrent.write_bytes(self.maker(path, self.piece_length, tracker))
        metainfo = parse_torrent_untrusted(torrent.read_bytes())
        return Shared(metainfo.name, torrent, metainfo.info_hash, directory / "seed")


KINDS = [
    Kind(tree_of_odd_sizes, 32 << 10, made_by_us, "http"),
    Kind(tree_of_odd_sizes, 32 << 10, made_by_libtorrent, "udp"),
    Kind(file_of_big_pieces, 16 << 20, made_by_us, "udp"),
]
