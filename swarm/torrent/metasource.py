"""Where a torrent's metadata comes from (BEP 9): its .torrent file, what an earlier run kept, or its peers.

What peers sent is kept as ``<directory>/<40 hex digits>.info``, the info dictionary byte for byte, beside the resume
files; it proves itself by its hash.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from hashlib import sha1
from pathlib import Path
from weakref import WeakSet

import trio

from swarm.errors import MetainfoError
from swarm.events import Warned
from swarm.ext.extension import Say
from swarm.ext.metadata import Metadata, MetadataAssembly
from swarm.identity import Culprit
from swarm.peer import PeerConnection
from swarm.torrent.lent import Lent
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import MAX_TORRENT_SIZE, Metainfo, parse_info_untrusted


class MetadataSource:
    """The metadata of one torrent, served to peers once it is there; implements `swarm.ext.metadata.MetadataSide`.

    ``on_liar`` is called with whoever certainly sent false metadata.
    """

    def __init__(self, source: Metainfo | Magnet, lent: Lent, on_liar: Callable[[Culprit], None]) -> None:
        self.info_bytes = source.info_bytes if isinstance(source, Metainfo) else None
        self.name = source.name or source.info_hash.hex()
        self.trackers: tuple[tuple[str, ...], ...] = ()
        self.senders = 0
        """Peers that answered, when it was complete; 0 if none was asked."""
        self._source = source
        self._lent = lent
        self._on_liar = on_liar
        self._ended = trio.Event()
        self._joined: WeakSet[PeerConnection] = WeakSet()
        self._assembly: MetadataAssembly | None = None
        if isinstance(source, Magnet):
            self.trackers = tuple((url,) for url in source.trackers)
            self._assembly = MetadataAssembly(
                source.info_hash, lent.rng, on_complete=self._arrived, on_liar=self._found_liar
            )

    def extension(self, say: Say, peer: PeerConnection) -> Metadata:
        """``ut_metadata`` for a connection."""
        return Metadata(say, self, self._assembly, peer.identity.culprit, has_room=lambda: peer.has_room)

    def joined(self, peer: PeerConnection) -> None:
        """A peer has said what it speaks, or speaks no extensions at all; it is counted if it cannot help."""
        if self._assembly is not None and self.info_bytes is None and peer not in self._joined:
            self._joined.add(peer)
            if not peer.extensions.speaks(Metadata.NAME):
                self._assembly.peer_without(peer.identity.culprit)

    async def recall(self) -> Metainfo | None:
        """What an earlier run kept, if it did and it is whole."""
        path = self._path
        if path is None:
            return None
        kept = await self._lent.runner(_read, path)
        if kept is None or sha1(kept).digest() != self._source.info_hash:
            return None
        self.info_bytes = kept
        return self._parsed(kept)

    async def wait(self) -> Metainfo | None:
        """Block until peers have sent it, and keep it; None if `stop` came first.

        Raises MetainfoError if what has the hash describes no torrent.
        """
        await self._ended.wait()
        if self.info_bytes is None:
            return None
        metainfo = self._parsed(self.info_bytes)
        if self._path is not None:
            await self._keep(self._path, self.info_bytes)
        return metainfo

    def stop(self) -> None:
        """Wait no more."""
        self._ended.set()

    @property
    def blocks_had(self) -> int:
        """Blocks of it that have come, while it is missing."""
        return self._assembly.statistics().blocks_had if self._assembly is not None else 0

    @property
    def progress(self) -> float:
        """How much of it has come, from 0 to 1, as far as its size is known."""
        if self.info_bytes is not None or self._assembly is None:
            return 1.0
        statistics = self._assembly.statistics()
        return statistics.blocks_had / statistics.blocks_total if statistics.blocks_total else 0.0

    def why(self) -> str:
        """Why it is not there yet: from how many peers it was asked, and what became of that."""
        return self._assembly.statistics().why() if self._assembly is not None else ""

    @property
    def _path(self) -> Path | None:
        directory = self._lent.resume_directory
        return None if directory is None else directory / f"{self._source.info_hash.hex()}.info"

    def _arrived(self, info_bytes: bytes) -> None:
        assert self._assembly is not None
        self.senders = self._assembly.statistics().answered
        self.info_bytes = info_bytes
        self._ended.set()

    def _found_liar(self, name: Hashable) -> None:
        assert isinstance(name, Culprit)
        self._on_liar(name)

    def _parsed(self, info_bytes: bytes) -> Metainfo:
        source = self._source
        assert isinstance(source, Magnet)
        try:
            return parse_info_untrusted(info_bytes, trackers=self.trackers, web_seeds=source.web_seeds)
        except MetainfoError as error:
            raise MetainfoError(f"the metadata that peers sent is of no use: {error}") from None

    async def _keep(self, path: Path, info_bytes: bytes) -> None:
        """Write it for the next run; that it cannot be costs asking again."""
        try:
            await self._lent.runner(_write, path, info_bytes)
        except OSError as error:
            self._lent.emit(Warned(f"cannot keep the metadata in {path}: {error.strerror}", self._source.info_hash))


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TORRENT_SIZE)
    except OSError:
        return None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)
