"""RC4 with the first 1,024 bytes of keystream dropped, as message stream encryption uses it.

Obfuscation, not secrecy: RC4 is broken.  Pure Python serves the handshake; for payload the optional package
`cryptography` is a hundred times faster (measured: 910 MB/s against 8.3) and continues the same keystream.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

DROPPED = 1024  # bytes of keystream


class Cipher(Protocol):
    """One direction of a stream; each call continues where the last ended.  En- and decryption are the same."""

    def process(self, data: bytes | bytearray | memoryview) -> bytes:
        """``data`` transformed."""

    def process_in_place(self, data: memoryview) -> None:
        """Transform a writable buffer, for `ReceivesInto`."""


class Rc4:
    """The cipher in pure Python; ``key`` is the 20-byte hash of the handshake."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._used = 0
        state = list(range(256))
        j = 0
        for i in range(256):
            j = (j + state[i] + key[i % len(key)]) & 255
            state[i], state[j] = state[j], state[i]
        self._state, self._i, self._j = state, 0, 0
        self._keystream(DROPPED)

    def process(self, data: bytes | bytearray | memoryview) -> bytes:
        keystream = self._keystream(len(data))
        mixed = int.from_bytes(data, "little") ^ int.from_bytes(keystream, "little")
        return mixed.to_bytes(len(data), "little")

    def process_in_place(self, data: memoryview) -> None:
        data[:] = self.process(data)

    def fastest(self) -> Cipher:
        """What goes on with this keystream in the fastest way there is; this object is not to be used again then."""
        arc4 = _arc4()
        if arc4 is None:
            return self
        return _NativeRc4(arc4(self._key), self._used)

    def _keystream(self, count: int) -> bytearray:
        state, i, j = self._state, self._i, self._j
        keystream = bytearray(count)
        for position in range(count):
            i = (i + 1) & 255
            a = state[i]
            j = (j + a) & 255
            b = state[i] = state[j]
            state[j] = a
            keystream[position] = state[(a + b) & 255]
        self._i, self._j = i, j
        self._used += count
        return keystream


class _NativeRc4:
    """The cipher of `cryptography`, ``used`` bytes into its keystream."""

    def __init__(self, context: Any, used: int) -> None:
        self._context = context
        self._context.update(bytes(used))

    def process(self, data: bytes | bytearray | memoryview) -> bytes:
        transformed: bytes = self._context.update(data)
        return transformed

    def process_in_place(self, data: memoryview) -> None:
        self._context.update_into(data, data)


def load_native() -> bool:
    """Whether payload can go through `cryptography`; imports it now.

    Otherwise the first encrypted payload does, and the import takes 0.1 to 0.4 s: nodes that require encryption call
    this at start.  The others mostly end up in plaintext and never pay for it.
    """
    return _arc4() is not None


@cache
def _arc4() -> Any:
    """A function from key to cipher context, or None without `cryptography` or where its OpenSSL lacks RC4."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
        from cryptography.hazmat.primitives.ciphers import Cipher as NativeCipher
    except ImportError:
        return None

    def context(key: bytes) -> Any:
        return NativeCipher(ARC4(key), mode=None).encryptor()

    try:
        context(bytes(20))
    except UnsupportedAlgorithm:  # an OpenSSL without the legacy provider
        return None
    return context
