"""As much of the BitTorrent peer wire as moves one file over a `UtpStream`, to talk µTP with clients that exist."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import trio

from utp.stream import UtpStream

PIECE = 64 << 10
BLOCK = 16 << 10
CHOKE, UNCHOKE, INTERESTED, BITFIELD, REQUEST, PIECE_MESSAGE = 0, 1, 2, 5, 6, 7
PIPELINE = 64  # requests outstanding


@dataclass(frozen=True)
class Torrent:
    """One file of random bytes."""

    name: str
    content: bytes
    info: bytes

    @property
    def info_hash(self) -> bytes:
        return hashlib.sha1(self.info).digest()

    @property
    def pieces(self) -> int:
        return -(-len(self.content) // PIECE)

    def write(self, torrent: Path, directory: Path | None = None) -> None:
        """Write the .torrent file and, if asked, the content into ``directory``."""
        torrent.write_bytes(b"d4:info" + self.info + b"e")
        if directory is not None:
            directory.mkdir(exist_ok=True)
            (directory / self.name).write_bytes(self.content)


def make_torrent(size: int, name: str = "sample.bin") -> Torrent:
    unit = random.Random(size).randbytes(min(size, 16 << 20))
    content = (unit * -(-size // len(unit)))[:size]
    hashes = b"".join(hashlib.sha1(content[start : start + PIECE]).digest() for start in range(0, size, PIECE))
    info = b"d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:" % (
        size,
        len(name),
        name.encode(),
        PIECE,
        len(hashes),
    )
    return Torrent(name, content, info + hashes + b"e")


class MiniPeer:
    """One end of a plaintext connection, either a seed or a leech."""

    def __init__(self, stream: UtpStream, torrent: Torrent) -> None:
        self.stream = stream
        self.torrent = torrent
        self._buffer = bytearray()

    async def shake_hands(self) -> None:
        """Send our handshake at once, as an initiator over µTP must, and read theirs."""
        ours = b"\x13BitTorrent protocol" + bytes(8) + self.torrent.info_hash + b"-MP0001-" + random.randbytes(12)
        await self.stream.send_all(ours)
        theirs = await self._read(68)
        assert theirs[28:48] == self.torrent.info_hash

    async def leech(self) -> bytes:
        """Ask for everything; the content."""
        await self._send(INTERESTED)
        got = bytearray(len(self.torrent.content))
        wanted = list(range(0, len(got), BLOCK))
        missing, flying = set(wanted), 0
        wanted.reverse()
        choked = True
        while missing:
            while wanted and flying < PIPELINE and not choked:
                start = wanted.pop()
                size = min(BLOCK, len(got) - start)
                await self._send(REQUEST, start // PIECE, start % PIECE, size)
                flying += 1
            kind, body = await self._message()
            if kind == UNCHOKE:
                choked = False
            elif kind == PIECE_MESSAGE:
                start = int.from_bytes(body[:4], "big") * PIECE + int.from_bytes(body[4:8], "big")
                got[start : start + len(body) - 8] = body[8:]
                missing.discard(start)
                flying -= 1
        return bytes(got)

    async def seed(self) -> None:
        """Serve until the other end has finished."""
        pieces = self.torrent.pieces
        bits = ((1 << pieces) - 1) << (-pieces % 8)
        await self.stream.send_all(
            (1 + -(-pieces // 8)).to_bytes(4, "big") + bytes((BITFIELD,)) + bits.to_bytes(-(-pieces // 8), "big")
        )
        while (message := await self._message_or_end()) is not None:
            kind, body = message
            if kind == INTERESTED:
                await self._send(UNCHOKE)
            elif kind == REQUEST:
                index, begin, size = (int.from_bytes(body[at : at + 4], "big") for at in (0, 4, 8))
                start = index * PIECE + begin
                head = (9 + size).to_bytes(4, "big") + bytes((PIECE_MESSAGE,)) + body[:8]
                await self.stream.send_vectored((head, self.torrent.content[start : start + size]))

    async def _send(self, kind: int, *numbers: int) -> None:
        body = bytes((kind,)) + b"".join(number.to_bytes(4, "big") for number in numbers)
        await self.stream.send_all(len(body).to_bytes(4, "big") + body)

    async def _message(self) -> tuple[int, bytes]:
        message = await self._message_or_end()
        assert message is not None, "the other end finished too early"
        return message

    async def _message_or_end(self) -> tuple[int, bytes] | None:
        while True:
            if not await self._fill(4):
                return None
            size = int.from_bytes(await self._read(4), "big")
            if size:
                body = await self._read(size)
                return body[0], body[1:]

    async def _read(self, size: int) -> bytes:
        assert await self._fill(size), "the other end finished in the middle"
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return False
            if not data:
                return False
            self._buffer += data
        return True
