"""`TokenServer`: the tokens that prove that whoever announces can receive at the address it announces from (BEP 5)."""

from __future__ import annotations

import hmac
import random
from hashlib import blake2b

ROTATION = 300.0  # seconds that one secret gives out tokens; they are honoured for as long again
TOKEN_SIZE = 8
SECRET_SIZE = 16


class TokenServer:
    """Makes and checks tokens without remembering any.

    A token is a keyed hash of the asker's host and the info-hash, so that one get_peers buys announces for one torrent
    only.  It is good for 5 to 10 minutes.  The port is left out: a symmetric NAT may change it in between.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._secret = self._previous = rng.randbytes(SECRET_SIZE)
        self._since = float("-inf")

    def issue(self, host: str, info_hash: bytes, now: float) -> bytes:
        """The token that an announce of ``info_hash`` from ``host`` must bring."""
        self._rotate(now)
        return _token(self._secret, host, info_hash)

    def accepts(self, token: bytes, host: str, info_hash: bytes, now: float) -> bool:
        """Whether ``token`` was issued to ``host`` for ``info_hash`` in the last 5 to 10 minutes."""
        self._rotate(now)
        return any(
            hmac.compare_digest(token, _token(secret, host, info_hash)) for secret in (self._secret, self._previous)
        )

    def _rotate(self, now: float) -> None:
        age = now - self._since
        if age < ROTATION:
            return
        fresh = self._rng.randbytes(SECRET_SIZE)
        recent = age < 2 * ROTATION
        self._previous = self._secret if recent else fresh
        self._secret = fresh
        self._since = self._since + ROTATION if recent else now


def _token(secret: bytes, host: str, info_hash: bytes) -> bytes:
    return blake2b(info_hash + host.encode(), key=secret, digest_size=TOKEN_SIZE).digest()
