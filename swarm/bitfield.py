"""A set of piece indices in the wire order of BEP 3: the high bit of the first byte is piece 0."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.errors import RemoteProtocolError


class Bitfield:
    """Which of ``size`` pieces are there.

    ``data`` is the wire form, ceil(size / 8) bytes with zero spare bits; hot loops may read it directly
    (``data[i >> 3] & (0x80 >> (i & 7))``) but only the methods write it.  ``count`` is kept as pieces come and go.
    """

    __slots__ = ("count", "data", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.data = bytearray((size + 7) // 8)
        self.count = 0

    @classmethod
    def full(cls, size: int) -> Bitfield:
        """Every piece (BEP 6 ``have all``)."""
        bitfield = cls(size)
        bitfield.data = bytearray(b"\xff" * len(bitfield.data))
        if spare := -size % 8:
            bitfield.data[-1] = 0xFF << spare & 0xFF
        bitfield.count = size
        return bitfield

    @classmethod
    def from_bytes_untrusted(cls, data: bytes | bytearray | memoryview, size: int) -> Bitfield:
        """The ``bitfield`` payload of a peer; RemoteProtocolError for a wrong length or spare bits that are set."""
        bitfield = cls(size)
        if len(data) != len(bitfield.data):
            raise RemoteProtocolError("bad-bitfield", f"{len(data)} bytes for {size} pieces")
        bitfield.data[:] = data
        if size % 8 and bitfield.data[-1] & (0xFF >> size % 8):
            raise RemoteProtocolError("bad-bitfield", "spare bits are set")
        bitfield.count = int.from_bytes(bitfield.data, "big").bit_count()
        return bitfield

    def copy(self) -> Bitfield:
        twin = Bitfield(self.size)
        twin.data[:] = self.data
        twin.count = self.count
        return twin

    def __contains__(self, index: int) -> bool:
        return bool(self.data[index >> 3] & (0x80 >> (index & 7)))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for position, byte in enumerate(self.data):
            if byte:
                yield from (position * 8 + bit for bit in range(8) if byte & (0x80 >> bit))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bitfield) and self.size == other.size and self.data == other.data

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"<Bitfield {self.count}/{self.size}>"

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    @property
    def complete(self) -> bool:
        return self.count == self.size

    def add(self, index: int) -> bool:
        """Whether it was new.  IndexError outside 0 ≤ index < size (callers check what peers claim)."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        mask = 0x80 >> (index & 7)
        if self.data[index >> 3] & mask:
            return False
        self.data[index >> 3] |= mask
        self.count += 1
        return True

    def discard(self, index: int) -> bool:
        """Whether it was there.  IndexError outside 0 ≤ index < size."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        mask = 0x80 >> (index & 7)
        if not self.data[index >> 3] & mask:
            return False
        self.data[index >> 3] &= ~mask & 0xFF
        self.count -= 1
        return True

    def as_int(self) -> int:
        """All bits as one integer, for fast set arithmetic between two bitfields of one size."""
        return int.from_bytes(self.data, "big")
