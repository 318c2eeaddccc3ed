"""Message stream encryption (MSE, also "protocol encryption"), both roles, from bytes to bytes.

No BEP; the source is the Vuze wiki's "Message Stream Encryption".  A is the initiator, B the responder:

    1  A -> B   Ya (96), PadA (0-512 random)
    2  B -> A   Yb (96), PadB (0-512 random)
    3  A -> B   HASH('req1', S), HASH('req2', SKEY) xor HASH('req3', S),
                ENCRYPT(VC (8 zeros), crypto_provide (4), len(PadC) (2), PadC, len(IA) (2)), ENCRYPT(IA)
    4  B -> A   ENCRYPT(VC, crypto_select (4), len(PadD) (2), PadD), then payload
    5  A -> B   payload

S is the Diffie-Hellman secret, SKEY the info-hash, IA the first payload of A (its BitTorrent handshake), always RC4
encrypted; payload after it is what crypto_select says.  Keys: HASH('keyA', S, SKEY) from A to B, 'keyB' back.

It hides the protocol from cheap traffic shaping and authenticates nobody.  Whether a stream opens with it is seen by
`swarm.wire.handshake.looks_like_plaintext`; when to use it is the caller's policy.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha1

from swarm.errors import RemoteProtocolError
from swarm.wire.rc4 import Rc4

# Bits of crypto_provide; crypto_select is one of them.
PLAINTEXT = 0x01
RC4 = 0x02

KEY_LENGTH = 96  # bytes of a public key and of S
MAX_PAD = 512  # bytes
MAX_INITIAL_PAYLOAD = 2 << 10  # bytes of IA accepted; everybody sends the 68 of the handshake, 16 KiB cost us 2 ms

_P = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74"
    "020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"
    "4FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563",
    16,
)
_G = 2
_PRIVATE_BITS = 160  # what the specification recommends; longer is slower and no safer
_VC = bytes(8)


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A finished handshake.  From here on bytes go through ``encrypt`` and ``decrypt``, or as they are when None."""

    info_hash: bytes
    """The torrent that the initiator named."""

    method: int
    """PLAINTEXT or RC4."""

    received: bytes
    """Payload that has come already, decrypted: for the responder it starts with IA."""

    encrypt: Rc4 | None
    decrypt: Rc4 | None
    """For payload take what their `fastest` returns: it imports, so the caller chooses when."""


class _Side:
    """What both roles share: a buffer, and the step that waits for its bytes."""

    def __init__(self, rng: random.Random) -> None:
        self.result: Encrypted | None = None
        self._rng = rng
        self._buffer = bytearray()
        self._step: Callable[[], bytes | None]  # what to send, or None while it wants more bytes
        self._encrypt: Rc4
        self._decrypt: Rc4
        self._select = 0

    def receive_untrusted(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take bytes of the other side, return what is to be sent now, maybe nothing.

        RemoteProtocolError: "bad-encryption" for what the specification forbids, "no-common-encryption" when the two
        do not agree, "unknown-info-hash" for a torrent that the responder does not serve.  ValueError once ``result``
        is there.
        """
        if self.result is not None:
            raise ValueError("the handshake is over")
        self._buffer += data
        answer = bytearray()
        while self.result is None:
            part = self._step()
            if part is None:
                break
            answer += part
        return bytes(answer)

    def _finish(self, info_hash: bytes, initial: bytes) -> None:
        rest = _take(self._buffer, len(self._buffer))
        if self._select == PLAINTEXT:
            self.result = Encrypted(info_hash, PLAINTEXT, initial + rest, None, None)
            return
        received = initial + self._decrypt.process(rest)
        self.result = Encrypted(info_hash, RC4, received, self._encrypt, self._decrypt)


class Initiator(_Side):
    """The side that dialled.

    ``initial_payload`` is sent as IA, as early as can be.  ``crypto_provide``: what we offer, PLAINTEXT | RC4 or RC4.
    Send ``start()``, then what ``receive_untrusted`` returns, until ``result`` is there.
    """

    def __init__(self, info_hash: bytes, initial_payload: bytes, crypto_provide: int, rng: random.Random) -> None:
        if not crypto_provide or crypto_provide & ~(PLAINTEXT | RC4):
            raise ValueError(f"crypto_provide {crypto_provide:#x}")
        if len(initial_payload) > MAX_INITIAL_PAYLOAD:
            raise ValueError(f"{len(initial_payload)} bytes of initial payload")
        super().__init__(rng)
        self._info_hash = info_hash
        self._initial_payload = initial_payload
        self._provide = crypto_provide
        self._private = _private_key(rng)
        self._vc = b""
        self._step = self._read_key

    def start(self) -> bytes:
        """What opens the stream: Ya and PadA."""
        return _public_key(self._private) + _random_pad(self._rng)

    def _read_key(self) -> bytes | None:
        if len(self._buffer) < KEY_LENGTH:
            return None
        secret = _secret_untrusted(_take(self._buffer, KEY_LENGTH), self._private)
        self._encrypt = Rc4(_hash(b"keyA", secret, self._info_hash))
        self._decrypt = Rc4(_hash(b"keyB", secret, self._info_hash))
        self._vc = self._decrypt.process(_VC)
        self._step = self._find_vc
        pad = bytes(self._rng.randrange(MAX_PAD + 1))
        negotiation = (
            _VC
            + self._provide.to_bytes(4, "big")
            + len(pad).to_bytes(2, "big")
            + pad
            + len(self._initial_payload).to_bytes(2, "big")
            + self._initial_payload
        )
        return (
            _hash(b"req1", secret)
            + _xor(hash_of_torrent(self._info_hash), _hash(b"req3", secret))
            + self._encrypt.process(negotiation)
        )

    def _find_vc(self) -> bytes | None:
        if not _synchronised_untrusted(self._buffer, self._vc):
            return None
        self._step = self._read_select
        return b""

    def _read_select(self) -> bytes | None:
        if len(self._buffer) < 6:
            return None
        head = self._decrypt.process(_take(self._buffer, 6))
        self._select = int.from_bytes(head[:4], "big")
        if self._select not in (PLAINTEXT, RC4) or not self._select & self._provide:
            raise RemoteProtocolError("no-common-encryption", f"{self._select:#x} selected of {self._provide:#x}")
        length = _pad_length_untrusted(head[4:6])
        self._step = lambda: self._read_pad(length)
        return b""

    def _read_pad(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        self._decrypt.process(_take(self._buffer, length))
        self._finish(self._info_hash, b"")
        return b""


class Responder(_Side):
    """The side that accepted.

    ``find_torrent`` maps `hash_of_torrent` to an info-hash we serve, or None: the ``get`` of a dictionary.
    ``accepted``: the methods that may be selected; PLAINTEXT is, whenever it is offered too.
    Send what ``receive_untrusted`` returns until ``result`` is there.
    """

    def __init__(self, find_torrent: Callable[[bytes], bytes | None], accepted: int, rng: random.Random) -> None:
        if not accepted or accepted & ~(PLAINTEXT | RC4):
            raise ValueError(f"accepted {accepted:#x}")
        super().__init__(rng)
        self._find_torrent = find_torrent
        self._accepted = accepted
        self._secret = b""
        self._info_hash = b""
        self._step = self._read_key

    def _read_key(self) -> bytes | None:
        if len(self._buffer) < KEY_LENGTH:
            return None
        private = _private_key(self._rng)
        self._secret = _secret_untrusted(_take(self._buffer, KEY_LENGTH), private)
        self._step = self._find_req1
        return _public_key(private) + _random_pad(self._rng)

    def _find_req1(self) -> bytes | None:
        if not _synchronised_untrusted(self._buffer, _hash(b"req1", self._secret)):
            return None
        self._step = self._read_provide
        return b""

    def _read_provide(self) -> bytes | None:
        if len(self._buffer) < 34:
            return None
        named = self._find_torrent(_xor(_take(self._buffer, 20), _hash(b"req3", self._secret)))
        if named is None:
            raise RemoteProtocolError("unknown-info-hash", "in the encryption handshake")
        self._info_hash = named
        self._decrypt = Rc4(_hash(b"keyA", self._secret, named))
        self._encrypt = Rc4(_hash(b"keyB", self._secret, named))
        head = self._decrypt.process(_take(self._buffer, 14))
        if head[:8] != _VC:
            raise RemoteProtocolError("bad-encryption", "the verification constant is wrong")
        common = int.from_bytes(head[8:12], "big") & self._accepted
        if not common:
            raise RemoteProtocolError("no-common-encryption", f"{head[8:12].hex()} provided")
        self._select = PLAINTEXT if common & PLAINTEXT else RC4
        length = _pad_length_untrusted(head[12:14])
        self._step = lambda: self._read_pad(length)
        return b""

    def _read_pad(self, length: int) -> bytes | None:
        if len(self._buffer) < length + 2:
            return None
        tail = self._decrypt.process(_take(self._buffer, length + 2))
        initial = int.from_bytes(tail[-2:], "big")
        if initial > MAX_INITIAL_PAYLOAD:
            raise RemoteProtocolError("bad-encryption", f"{initial} bytes of initial payload")
        self._step = lambda: self._read_initial_payload(initial)
        return b""

    def _read_initial_payload(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        initial = self._decrypt.process(_take(self._buffer, length))
        pad = bytes(self._rng.randrange(MAX_PAD + 1))
        answer = self._encrypt.process(
            _VC + self._select.to_bytes(4, "big") + len(pad).to_bytes(2, "big") + pad,
        )
        self._finish(self._info_hash, initial)
        return answer


def hash_of_torrent(info_hash: bytes) -> bytes:
    """HASH('req2', SKEY): the key under which a responder finds its torrents."""
    return _hash(b"req2", info_hash)


def _private_key(rng: random.Random) -> int:
    return rng.getrandbits(_PRIVATE_BITS) | 1 << (_PRIVATE_BITS - 1)


def _public_key(private: int) -> bytes:
    return pow(_G, private, _P).to_bytes(KEY_LENGTH, "big")


def _secret_untrusted(public: bytes, private: int) -> bytes:
    """S; refuses the public keys 0, 1, p-1, p and beyond, with which anybody could predict it."""
    number = int.from_bytes(public, "big")
    if not 1 < number < _P - 1:
        raise RemoteProtocolError("bad-encryption", "degenerate public key")
    return pow(number, private, _P).to_bytes(KEY_LENGTH, "big")


def _synchronised_untrusted(buffer: bytearray, pattern: bytes) -> bool:
    """Whether ``pattern`` has come, after at most MAX_PAD other bytes; removes both from the buffer."""
    window = MAX_PAD + len(pattern)
    at = buffer.find(pattern, 0, window)
    if at < 0:
        if len(buffer) >= window:
            raise RemoteProtocolError("bad-encryption", "no synchronisation point")
        return False
    del buffer[: at + len(pattern)]
    return True


def _pad_length_untrusted(field: bytes) -> int:
    length = int.from_bytes(field, "big")
    if length > MAX_PAD:
        raise RemoteProtocolError("bad-encryption", f"padding of {length} bytes")
    return length


def _random_pad(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(MAX_PAD + 1))


def _take(buffer: bytearray, count: int) -> bytes:
    taken = bytes(buffer[:count])
    del buffer[:count]
    return taken


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _hash(*parts: bytes) -> bytes:
    return sha1(b"".join(parts)).digest()
