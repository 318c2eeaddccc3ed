"""The long-term credential mechanism (RFC 8489 §9.2) as a client: from a challenge to signed requests.

Pure state; who asks again after a challenge is `swarm.net.turn_client`.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from swarm.errors import RemoteProtocolError
from swarm.wire.stun import AttributeType, MessageClass, StunMessage, long_term_key
from swarm.wire.turn import features_of_nonce, parse_password_algorithms_untrusted

MD5, SHA256 = 1, 2
"""Password algorithms (RFC 8489 §18.5)."""


class _Answer(NamedTuple):
    """What a challenge makes of the credentials."""

    realm: str
    attributes: tuple[tuple[int, bytes], ...]
    key: bytes
    integrity: AttributeType


class LongTermCredentials:
    """Who we are to one server.  Until a challenge came nothing is signed."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password
        self._answer: _Answer | None = None

    @property
    def signs(self) -> bool:
        """Whether the server has told realm and nonce."""
        return self._answer is not None

    def challenged_untrusted(self, response: StunMessage) -> None:
        """Take realm and nonce of an error 401 or 438; SHA-256 is chosen where the server has it in its list first.

        RemoteProtocolError("bad-turn") without realm or nonce, where no password algorithm of the server's is known,
        and where its nonce says that it has a list of them and that was taken out on the way.
        """
        realm = response.text_untrusted(AttributeType.REALM)
        nonce = response.text_untrusted(AttributeType.NONCE)
        if realm is None and self._answer is not None:
            realm = self._answer.realm  # some leave it out of a 438
        if realm is None or nonce is None:
            raise RemoteProtocolError("bad-turn", "a challenge without realm or nonce")
        features = features_of_nonce(nonce)
        offered = response.get(AttributeType.PASSWORD_ALGORITHMS)
        if features.password_algorithms and offered is None:
            raise RemoteProtocolError("bad-turn", "the password algorithms are missing")
        attributes = [self._name(realm, hashed=features.username_anonymity)]
        attributes += [(AttributeType.REALM, realm.encode()), (AttributeType.NONCE, nonce.encode())]
        algorithm, integrity = MD5, AttributeType.MESSAGE_INTEGRITY
        if offered is not None:
            algorithm, integrity = _choose_untrusted(offered), AttributeType.MESSAGE_INTEGRITY_SHA256
            attributes.append((AttributeType.PASSWORD_ALGORITHMS, offered))
            attributes.append((AttributeType.PASSWORD_ALGORITHM, algorithm.to_bytes(2, "big") + bytes(2)))
        key = long_term_key(self._username, realm, self._password, sha256=algorithm == SHA256)
        self._answer = _Answer(realm, tuple(attributes), key, integrity)

    def sign(self, method: int, transaction_id: bytes, attributes: tuple[tuple[int, bytes], ...]) -> bytes:
        """A request, ready to be sent."""
        answer = self._answer
        if answer is None:
            return StunMessage(MessageClass.REQUEST, method, transaction_id, attributes).encode()
        request = StunMessage(MessageClass.REQUEST, method, transaction_id, attributes + answer.attributes)
        return request.encode(integrity=answer.integrity, key=answer.key)

    def vouches_for(self, response: StunMessage) -> bool:
        """Whether a response to a signed request is the server's: an error may come unsigned, nothing with a wrong
        signature, and a success not without one."""
        if self._answer is None:
            return True
        if not response.integrity:
            return response.message_class == MessageClass.ERROR
        return response.verify(self._answer.key, self._answer.integrity)

    def _name(self, realm: str, *, hashed: bool) -> tuple[int, bytes]:
        if hashed:
            digest = hashlib.sha256(f"{self._username}:{realm}".encode()).digest()
            return AttributeType.USERHASH, digest
        return AttributeType.USERNAME, self._username.encode()


def _choose_untrusted(offered: bytes) -> int:
    for algorithm in parse_password_algorithms_untrusted(offered):
        if algorithm in (MD5, SHA256):
            return algorithm
    raise RemoteProtocolError("bad-turn", "no password algorithm that we know")
