"""Packets as tests want to read and write them."""

from __future__ import annotations

from utp.path import Outgoing
from utp.wire import decode_untrusted, first_word, pack_header, sack_extension

NAMES = ("DATA", "FIN", "STATE", "RESET", "SYN")


def packet(
    kind: str,
    connection_id: int,
    seq_nr: int,
    ack_nr: int,
    payload: bytes = b"",
    *,
    wnd_size: int = 1 << 20,
    sack: int = 0,
    timestamp: int = 1,
    difference: int = 0,
) -> memoryview:
    """One datagram; ``sack`` in the bits of `utp.wire.Packet`."""
    extension = sack_extension(sack) if sack else b""
    word = first_word(NAMES.index(kind), connection_id, 1 if sack else 0)
    header = pack_header(word, timestamp, difference, wnd_size, seq_nr & 0xFFFF, ack_nr & 0xFFFF)
    return memoryview(header + extension + payload)


def show(datagrams: list[bytes]) -> list[str]:
    """``KIND id seq/ack`` with the payload's size and the selective ACK where there are any."""
    shown = []
    for datagram in datagrams:
        p = decode_untrusted(memoryview(datagram))
        text = f"{NAMES[p.type]} {p.connection_id} {p.seq_nr}/{p.ack_nr}"
        text += f" +{len(p.payload)}" if p.payload else ""
        text += f" sack {p.sack:b}" if p.sack else ""
        shown.append(text)
    return shown


def cut(outgoing: list[Outgoing]) -> list[bytes]:
    """All datagrams of several runs."""
    datagrams = []
    for run in outgoing:
        data = b"".join(run.buffers)
        datagrams += [data[start : start + run.segment_size] for start in range(0, len(data), run.segment_size)]
    return datagrams
