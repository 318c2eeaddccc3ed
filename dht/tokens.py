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
        self._current = self._previous = self._keyed()
        self._since = float("-inf")

    def issue(self, host: str, info_hash: bytes, now: float) -> bytes:
        """The token that an announce of ``info_hash`` from ``host`` must bring."""
        self._rotate(now)
        return _token(self._current, host, info_hash)

    def accepts(self, token: bytes, host: str, info_hash: bytes, now: float) -> bool:
        """Whether ``token`` was issued to ``host`` for ``info_hash`` in the last 5 to 10 minutes."""
        self._rotate(now)
        return any(
            hmac.compare_digest(token, _token(keyed, host, info_hash)) for keyed in (self._current, self._previous)
        )

    def _rotate(self, now: float) -> None:
        age = now - self._since
        if age < ROTATION:
            return
        fresh = self._keyed()
        recent = age < 2 * ROTATION
        self._previous = self._current if recent else fresh
        self._current = fresh
        self._since = self._since + ROTATION if recent else now

    def _keyed(self) -> blake2b:
        """A hash that has taken in a fresh secret: to copy it is cheaper than to key one for each token."""
        return blake2b(key=self._rng.randbytes(SECRET_SIZE), digest_size=TOKEN_SIZE)


def _token(keyed: blake2b, host: str, info_hash: bytes) -> bytes:
    state = keyed.copy()
    state.update(info_hash + host.encode())
    return state.digest()
