"""Who may answer for a TURN server: RFC 8489 §9.2.5, as a client."""

from __future__ import annotations

import pytest

from swarm.errors import RemoteProtocolError
from swarm.net.turn_auth import MD5, SHA256, LongTermCredentials
from swarm.wire.stun import AttributeType, MessageClass, StunMessage, long_term_key, parse_stun_untrusted
from swarm.wire.turn import Method

TRANSACTION = b"t" * 12
REALM, NONCE = b"example.org", b"a nonce"
OFFERED = SHA256.to_bytes(2, "big") + bytes(2) + MD5.to_bytes(2, "big") + bytes(2)
SUCCESS, ERROR = MessageClass.SUCCESS, MessageClass.ERROR


def challenged(*, sha256: bool = False) -> LongTermCredentials:
    credentials = LongTermCredentials("me", "secret")
    attributes = [(AttributeType.REALM, REALM), (AttributeType.NONCE, NONCE)]
    if sha256:
        attributes.append((AttributeType.PASSWORD_ALGORITHMS, OFFERED))
    credentials.challenged_untrusted(StunMessage(ERROR, Method.ALLOCATE, TRANSACTION, tuple(attributes)))
    return credentials


def answer(message_class: MessageClass, *, password: str | None, sha256: bool = False) -> StunMessage:
    """A response as it comes in, signed with ``password``."""
    message = StunMessage(message_class, Method.ALLOCATE, TRANSACTION, ((AttributeType.SOFTWARE, b"x"),))
    if password is None:
        return parse_stun_untrusted(message.encode())
    integrity = AttributeType.MESSAGE_INTEGRITY_SHA256 if sha256 else AttributeType.MESSAGE_INTEGRITY
    key = long_term_key("me", REALM.decode(), password, sha256=sha256)
    return parse_stun_untrusted(message.encode(integrity=integrity, key=key))


@pytest.mark.parametrize("sha256", [False, True])
@pytest.mark.parametrize(
    ("message_class", "password", "believed"),
    [
        (SUCCESS, "secret", True),
        (SUCCESS, "guessed", False),
        (SUCCESS, None, False),
        (ERROR, "secret", True),
        (ERROR, "guessed", False),
        (ERROR, None, True),
    ],
)
def test_only_who_knows_the_password_answers_for_the_server(
    sha256: bool, message_class: MessageClass, password: str | None, believed: bool
) -> None:
    """Errors may come unsigned: a server that does not know us cannot sign them."""
    assert challenged(sha256=sha256).vouches_for(answer(message_class, password=password, sha256=sha256)) is believed


def test_a_weaker_signature_than_agreed_is_none() -> None:
    assert not challenged(sha256=True).vouches_for(answer(SUCCESS, password="secret"))


def test_a_list_of_algorithms_cannot_be_taken_out_on_the_way() -> None:
    """The nonce says that there was one (RFC 8489 §9.2)."""
    nonce = b"obMatJos2AAABnonce"
    attributes = ((AttributeType.REALM, REALM), (AttributeType.NONCE, nonce))
    with pytest.raises(RemoteProtocolError, match="algorithms"):
        LongTermCredentials("me", "secret").challenged_untrusted(
            StunMessage(ERROR, Method.ALLOCATE, TRANSACTION, attributes)
        )
