"""Runs of packets as datagrams: the headers of one connection, written for a whole run at a time."""

from __future__ import annotations

from utp.path import Buffer, Outgoing, Path
from utp.sender import Run
from utp.seqnr import SEQ_MASK
from utp.wire import (
    EXTENSION_BITS,
    EXTENSION_SACK,
    HEADER_SIZE,
    ST_DATA,
    ST_FIN,
    ST_RESET,
    ST_STATE,
    ST_SYN,
    TIMESTAMP_MASK,
    Word,
    first_word,
    pack_header,
    padding_extensions,
    sack_extension,
)


class Framing:
    """What all headers of a connection share, and what changes once per batch: ``reply``, ``window``, ``ack_nr``.

    ``reply`` is timestamp_difference_microseconds: the delay that we measured of the other end's last packet.
    """

    __slots__ = ("_data_word", "_path", "_send_id")

    def __init__(self, path: Path, send_id: int) -> None:
        self._path = path
        self._send_id = send_id
        self._data_word: Word = first_word(ST_DATA, send_id)

    def run(self, run: Run, reply: int, window: int, ack_nr: int, now: float) -> Outgoing:
        """The datagrams of a run, payloads by reference."""
        timestamp = int(now * 1e6) & TIMESTAMP_MASK
        payloads = run.payloads
        if run.padding:
            word = first_word(ST_DATA, self._send_id, EXTENSION_BITS)
            header = pack_header(word, timestamp, reply, window, run.seq_nrs[0] & SEQ_MASK, ack_nr)
            padding = padding_extensions(run.padding)
            size = HEADER_SIZE + run.padding + len(payloads[0])
            return Outgoing((header, padding, payloads[0]), size, self._path, None, True)
        word = first_word(ST_FIN, self._send_id) if run.fin else self._data_word
        buffers: list[Buffer] = [b""] * (2 * len(payloads))
        buffers[0::2] = [
            pack_header(word, timestamp, reply, window, seq_nr & SEQ_MASK, ack_nr) for seq_nr in run.seq_nrs
        ]
        buffers[1::2] = payloads
        return Outgoing(buffers, HEADER_SIZE + len(payloads[0]), self._path, None, False, run.fragment)

    def state(self, seq_nr: int, reply: int, window: int, ack_nr: int, sack: int, now: float) -> Outgoing:
        """An ACK, with a selective one if ``sack`` is not 0."""
        timestamp = int(now * 1e6) & TIMESTAMP_MASK
        if not sack:
            header = pack_header(first_word(ST_STATE, self._send_id), timestamp, reply, window, seq_nr, ack_nr)
            return Outgoing((header,), HEADER_SIZE, self._path)
        word = first_word(ST_STATE, self._send_id, EXTENSION_SACK)
        extension = sack_extension(sack)
        header = pack_header(word, timestamp, reply, window, seq_nr, ack_nr)
        return Outgoing((header, extension), HEADER_SIZE + len(extension), self._path)


def syn(path: Path, recv_id: int, seq_nr: int, window: int, ttl: int | None, now: float) -> Outgoing:
    """The packet that opens a connection: the only one that carries the id its sender listens on."""
    timestamp = int(now * 1e6) & TIMESTAMP_MASK
    header = pack_header(first_word(ST_SYN, recv_id), timestamp, 0, window, seq_nr, 0)
    return Outgoing((header,), HEADER_SIZE, path, ttl)


def reset(path: Path, connection_id: int, seq_nr: int, ack_nr: int, now: float) -> Outgoing:
    """ST_RESET; ``ack_nr`` names the packet that provoked it, by which the other end can tell it from a forged one."""
    timestamp = int(now * 1e6) & TIMESTAMP_MASK
    header = pack_header(first_word(ST_RESET, connection_id), timestamp, 0, 0, seq_nr, ack_nr)
    return Outgoing((header,), HEADER_SIZE, path)
