"""Canonical peer priority (BEP 40): an order of peers that both ends of a connection agree on.

Says nothing about when to dial; there is no priority between an IPv4 and an IPv6 address.
"""

from __future__ import annotations

from dht.nodeid import crc32c
from swarm.endpoint import Endpoint

MASK = 0x55
"""What the bytes beyond the common prefix are masked with."""

FIXED_BYTES = {4: 2, 16: 6}
"""Bytes never masked, by address size: a /16 and a /48."""


def peer_priority(ours: Endpoint, theirs: Endpoint) -> int:
    """The CRC-32C of both masked addresses, lower first, or of both ports where the addresses are equal; higher is
    better.  ValueError if one is IPv4 and the other IPv6.

    ``ours`` is the address that the peer sees.  The unmasked prefix grows by a byte while the addresses share it.
    """
    a, b = ours.address.packed, theirs.address.packed
    if len(a) != len(b):
        raise ValueError(f"no priority between {ours} and {theirs}")
    if a == b:
        pair = sorted(port.to_bytes(2, "big") for port in (ours.port, theirs.port))
    else:
        fixed = FIXED_BYTES[len(a)]
        while fixed < len(a) and a[:fixed] == b[:fixed]:
            fixed += 1
        pair = sorted(address[:fixed] + bytes(byte & MASK for byte in address[fixed:]) for address in (a, b))
    return crc32c(b"".join(pair))
