"""UDP segmentation offload of Linux: UDP_SEGMENT on send (4.18), UDP_GRO on receive (5.0), and the control messages.

One system call carries up to 64 datagrams of equal size, the last one may be shorter; measured here that is forty times
as many datagrams a second as one call each.  Bytes and integers only: the calls are in `swarm.net.udp`.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator, Sequence

from swarm.net.network import Buffer

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

MAX_SEGMENTS = 64  # datagrams in one call: UDP_MAX_SEGMENTS of the kernels before 6.9, which all later ones take
MAX_PAYLOAD_V4 = 65_507  # bytes in one call: 65,535 less IPv4 and UDP headers
MAX_PAYLOAD_V6 = 65_527  # bytes in one call: the IPv6 header does not count
MAX_BUFFERS = 1024  # UIO_MAXIOV

_U16 = struct.Struct("=H")
_INT = struct.Struct("=i")

Ancillary = tuple[int, int, bytes]


def can_segment(sock: socket.socket) -> bool:
    """Whether the kernel knows UDP_SEGMENT."""
    if sys.platform != "linux":
        return False
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def enable_gro(sock: socket.socket) -> bool:
    """Ask for runs of datagrams on receive; whether the kernel will hand them over."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def segment_message(segment_size: int) -> Ancillary:
    """The control message that makes the kernel cut a send every ``segment_size`` bytes."""
    return SOL_UDP, UDP_SEGMENT, _U16.pack(segment_size)


def unpack_segment_size(data: bytes) -> int:
    """The segment size in a received UDP_GRO control message (an int in host order)."""
    size: int = _INT.unpack_from(data)[0]
    return size


def split_run(
    buffers: Sequence[Buffer], segment_size: int, max_segments: int, max_payload: int
) -> Iterator[tuple[list[memoryview], int]]:
    """Cut a run into pieces of at most ``max_segments`` whole segments and ``max_payload`` bytes, copying nothing.

    Yields the buffers and the size in bytes of each piece.  A segment that alone is larger than ``max_payload`` comes
    alone: the kernel will refuse it with EMSGSIZE.  A piece of more than MAX_BUFFERS buffers is joined.
    """
    limit = min(max_segments, max(1, max_payload // segment_size)) * segment_size
    piece: list[memoryview] = []
    size = 0
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        while len(view):
            part = view[: limit - size]
            view = view[len(part) :]
            piece.append(part)
            size += len(part)
            if size == limit:
                yield _few_buffers(piece), size
                piece, size = [], 0
    if size:
        yield _few_buffers(piece), size


def _few_buffers(piece: list[memoryview]) -> list[memoryview]:
    return piece if len(piece) <= MAX_BUFFERS else [memoryview(b"".join(piece))]
