"""Node ids: distance in the XOR metric (BEP 5) and ids tied to the external address (BEP 42).

Ids are 20 bytes on the wire and plain integers where they are compared.  Which address is ours is `dht.external`.
"""

from __future__ import annotations

import random
from functools import lru_cache
from ipaddress import ip_address

from dht.address import is_local
from dht.errors import LocalProtocolError

ID_SIZE = 20
ID_BITS = 160

SECURE_BITS = 21
"""Leading bits of a node id that follow from the address (BEP 42)."""

_IPV4_MASK = 0x030F3FFF
_IPV6_MASK = 0x0103070F1F3F7FFF
_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed


def number(node_id: bytes) -> int:
    """The id as the integer that distances are taken between; LocalProtocolError unless it has 20 bytes."""
    if len(node_id) != ID_SIZE:
        raise LocalProtocolError(f"an id has {ID_SIZE} bytes, not {len(node_id)}")
    return int.from_bytes(node_id, "big")


def shared_bits(a: int, b: int) -> int:
    """How many leading bits two ids have in common, 0 to 160."""
    return ID_BITS - (a ^ b).bit_length()


def make_node_id(host: str | None, rng: random.Random) -> bytes:
    """An id that is valid for the external address ``host`` (BEP 42), or a random one while that is not known."""
    node_id = bytearray(rng.randbytes(ID_SIZE))
    if host is not None and not is_local(host):
        prefix = secure_prefix(host, node_id[-1] & 7)
        node_id[0] = prefix >> 13
        node_id[1] = prefix >> 5 & 0xFF
        node_id[2] = (prefix & 0x1F) << 3 | node_id[2] & 7
    return bytes(node_id)


@lru_cache(maxsize=4096)
def fits_address(node_id: bytes, host: str) -> bool:
    """Whether the id may be claimed from ``host``: its first 21 bits follow from the address, or the host is local."""
    if is_local(host):
        return True
    return int.from_bytes(node_id[:3], "big") >> 3 == secure_prefix(host, node_id[-1] & 7)


def secure_prefix(host: str, r: int) -> int:
    """The first 21 bits of an id for ``host`` whose last byte is ``r`` modulo 8: crc32c of the masked address."""
    address = ip_address(host)
    if address.version == 4:
        masked = (int(address) & _IPV4_MASK | r << 29).to_bytes(4, "big")
    else:
        masked = (int(address) >> 64 & _IPV6_MASK | r << 61).to_bytes(8, "big")
    return crc32c(masked) >> 32 - SECURE_BITS


def random_id_sharing(own: int, bits: int, rng: random.Random) -> bytes:
    """A random id that has exactly ``bits`` (0 to 159) leading bits in common with ``own``: a target for a refresh."""
    tail = ID_BITS - 1 - bits
    differing = (own >> tail ^ 1) << tail
    return (differing | rng.getrandbits(tail) if tail else differing).to_bytes(ID_SIZE, "big")


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of ``data``."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc32c_table() -> list[int]:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (_CRC32C_POLYNOMIAL if entry & 1 else 0)
        table.append(entry)
    return table


_CRC32C_TABLE = _crc32c_table()
