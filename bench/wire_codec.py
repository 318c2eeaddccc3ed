"""What the peer-wire codec costs a message, beside the alternatives that were tried.  Prints tables, asserts nothing.

.venv/bin/python bench/wire_codec.py
"""

from __future__ import annotations

import os
import socket
import struct
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from swarm.wire.codec import WireReader
from swarm.wire.messages import Cancel, Have, Requests, encode_requests, piece_header

BLOCK = 16 << 10
PIECES = 64
SMALL = 1000

_PIECE = struct.Struct(">IBII")
_BLOCK = struct.Struct(">IBIII")
_INDICES = struct.Struct(">II")
_PIECE_RUN = struct.Struct(f">IBII{BLOCK}x")

pieces = bytearray(b"".join(piece_header(1, i * BLOCK, BLOCK) + os.urandom(BLOCK) for i in range(PIECES)))
view = memoryview(pieces)
triples = [(i, i * BLOCK, BLOCK) for i in range(SMALL)]
requests = bytearray(encode_requests(triples))


class NamedTuplePiece(NamedTuple):
    index: int
    begin: int
    block: memoryview


class SlotsPiece:
    __slots__ = ("begin", "block", "index")

    def __init__(self, index: int, begin: int, block: memoryview) -> None:
        self.index = index
        self.begin = begin
        self.block = block


@dataclass(frozen=True, slots=True)
class FrozenPiece:
    index: int
    begin: int
    block: memoryview


def one_object_each(make: Callable[[int, int, memoryview], object]) -> list[object]:
    at, end, out, unpack = 0, len(pieces), [], _PIECE.unpack_from
    while end - at >= 13:
        length, message_id, index, begin = unpack(pieces, at)
        next_at = at + 4 + length
        if message_id == 7 and 9 <= length <= BLOCK + 9:
            out.append(make(index, begin, view[at + 13 : next_at]))
        at = next_at
    return out


def one_tuple_each() -> list[object]:
    at, end, out, unpack = 0, len(pieces), [], _PIECE.unpack_from
    while end - at >= 13:
        length, message_id, index, begin = unpack(pieces, at)
        next_at = at + 4 + length
        if message_id == 7 and 9 <= length <= BLOCK + 9:
            out.append((index, begin, view[at + 13 : next_at]))
        at = next_at
    return out


def two_unpacks() -> list[object]:
    at, end, out = 0, len(pieces), []
    while end - at >= 13:
        (length,) = struct.unpack_from(">I", pieces, at)
        if pieces[at + 4] == 7:
            index, begin = _INDICES.unpack_from(pieces, at + 5)
            out.append((index, begin, view[at + 13 : at + 4 + length]))
        at += 4 + length
    return out


def from_bytes() -> list[object]:
    at, end, out, number = 0, len(pieces), [], int.from_bytes
    while end - at >= 13:
        next_at = at + 4 + number(view[at : at + 4], "big")
        if pieces[at + 4] == 7:
            index, begin = number(view[at + 5 : at + 9], "big"), number(view[at + 9 : at + 13], "big")
            out.append((index, begin, view[at + 13 : next_at]))
        at = next_at
    return out


def iter_unpack_run() -> list[object]:
    at, out = 0, []
    for length, message_id, index, begin in _PIECE_RUN.iter_unpack(view):
        if message_id != 7 or length != BLOCK + 9:
            break
        out.append((index, begin, view[at + 13 : at + 13 + BLOCK]))
        at += 13 + BLOCK
    return out


def request_objects() -> list[object]:
    at, out = 0, []
    while len(requests) - at >= 17:
        _, _, index, begin, length = _BLOCK.unpack_from(requests, at)
        out.append(Cancel(index, begin, length))
        at += 17
    return out


def request_tuples() -> list[object]:
    at, out = 0, []
    while len(requests) - at >= 17:
        length, message_id, index, begin, wanted = _BLOCK.unpack_from(requests, at)
        if message_id == 6 and length == 13:
            out.append((index, begin, wanted))
        at += 17
    return out


def request_strides() -> list[Any]:
    raw = bytes(requests)
    count = len(raw) // 17
    if (
        raw[3::17] == b"\r" * count
        and raw[4::17] == b"\6" * count
        and not any(raw[i::17].strip(b"\0") for i in (0, 1, 2))
    ):
        return list(struct.iter_unpack(">5xIII", raw))
    return []


def flat_pack(blocks: list[tuple[int, int, int]]) -> bytes:
    flat: list[int] = []
    for index, begin, length in blocks:
        flat += (13, 6, index, begin, length)
    return struct.pack(">" + "IBIII" * len(blocks), *flat)


def chain_pack(blocks: list[tuple[int, int, int]]) -> bytes:
    return struct.pack(">" + "5sIII" * len(blocks), *chain.from_iterable((b"\0\0\0\r\6", *b) for b in blocks))


def reader_fed(data: bytearray) -> Callable[[], object]:
    """One `received` of all of ``data``, without the cost of copying it in."""
    reader = WireReader(max_buffer=2 << 20)
    reader.feed(data)
    reader.get_buffer()[: len(data)] = data

    def run() -> object:
        reader.get_buffer()
        return reader.received(len(data))

    return run


def row(name: str, function: Callable[[], object], count: int) -> None:
    number = max(1, 20_000 // count)
    nanoseconds = min(timeit.repeat(function, number=number, repeat=7)) / number / count * 1e9
    print(f"  {name:52} {nanoseconds:7.0f} ns a message")


def stream_table() -> None:
    """Through a socket pair, as a download does it: receive into the buffer, parse, copy each block once."""
    total = 256 << 20
    for size in (64 << 10, 256 << 10, 512 << 10, 1 << 20):
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        pid = os.fork()
        if pid == 0:
            ours.close()
            for _ in range(total // len(pieces)):
                theirs.sendall(pieces)
            os._exit(0)
        theirs.close()
        reader, store, blocks, reads = WireReader(max_buffer=size), bytearray(PIECES * BLOCK), 0, 0
        start = timeit.default_timer()
        while count := ours.recv_into(reader.get_buffer()):
            reads += 1
            for message in reader.received(count):
                for _, begin, block in message.blocks:  # type: ignore[union-attr]
                    store[begin : begin + len(block)] = block
                    blocks += 1
        seconds = timeit.default_timer() - start
        os.waitpid(pid, 0)
        ours.close()
        print(f"  max_buffer {size >> 10:5} KiB: {total / seconds / 1e6:6.0f} MB/s, {blocks} blocks in {reads} reads")


def main() -> None:
    print(f"piece messages of {BLOCK} bytes, {PIECES} in one buffer")
    row("swarm.wire.codec", reader_fed(pieces), PIECES)
    row("one unpack, tuple in a run (the bare loop)", lambda: one_tuple_each(), PIECES)
    row("one unpack, __slots__ object", lambda: one_object_each(SlotsPiece), PIECES)
    row("one unpack, NamedTuple", lambda: one_object_each(NamedTuplePiece), PIECES)
    row("one unpack, frozen dataclass", lambda: one_object_each(FrozenPiece), PIECES)
    row("length, id and indices unpacked apart, tuple", two_unpacks, PIECES)
    row("int.from_bytes of slices, tuple", from_bytes, PIECES)
    row("iter_unpack over the run, tuple", iter_unpack_run, PIECES)
    print("request messages, 1000 in one buffer")
    row("swarm.wire.codec (iter_unpack over the run)", reader_fed(requests), SMALL)
    row("unpack_from, tuple", request_tuples, SMALL)
    row("unpack_from, frozen dataclass", request_objects, SMALL)
    row("header bytes compared by stride, iter_unpack", request_strides, SMALL)
    print("other messages, 1000 in one buffer")
    row("have", reader_fed(bytearray(b"".join(Have(i).encode() for i in range(SMALL)))), SMALL)
    row("cancel", reader_fed(bytearray(b"".join(Cancel(*b).encode() for b in triples))), SMALL)
    mixed = b"".join(Have(i).encode() + Requests([b]).encode() for i, b in enumerate(triples))
    row("have and request in turns", reader_fed(bytearray(mixed)), 2 * SMALL)
    print("requests encoded, 64 at once")
    row("swarm.wire.messages.encode_requests (joined)", lambda: encode_requests(triples[:64]), 64)
    row("one pack of a flattened list", lambda: flat_pack(triples[:64]), 64)
    row("one pack of chained tuples", lambda: chain_pack(triples[:64]), 64)
    print("through a socket pair, each block copied once")
    stream_table()


if __name__ == "__main__":
    main()
