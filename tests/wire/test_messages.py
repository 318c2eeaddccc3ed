"""Every message encodes to the bytes of its specification."""

from __future__ import annotations

import pytest

from swarm.wire.messages import (
    AllowedFast,
    BitfieldMessage,
    Cancel,
    Choke,
    Extended,
    Have,
    HaveAll,
    HaveNone,
    Interested,
    KeepAlive,
    Message,
    NotInterested,
    Pieces,
    Port,
    Reject,
    Requests,
    Suggest,
    Unchoke,
    encode_requests,
    piece_header,
)

# (message, its bytes by BEP 3, 5, 6 and 10, whether it belongs to the fast extension)
SPECIFIED: list[tuple[Message, str, bool]] = [
    (KeepAlive(), "00000000", False),
    (Choke(), "00000001 00", False),
    (Unchoke(), "00000001 01", False),
    (Interested(), "00000001 02", False),
    (NotInterested(), "00000001 03", False),
    (Have(0x12345), "00000005 04 00012345", False),
    (BitfieldMessage(b"\xaa\x80"), "00000003 05 aa80", False),
    (Requests([(1, 2, 3)]), "0000000d 06 00000001 00000002 00000003", False),
    (Pieces([(1, 2, memoryview(b"xyz"))]), "0000000c 07 00000001 00000002 78797a", False),
    (Cancel(1, 2, 3), "0000000d 08 00000001 00000002 00000003", False),
    (Port(6881), "00000003 09 1ae1", False),
    (Suggest(7), "00000005 0d 00000007", True),
    (HaveAll(), "00000001 0e", True),
    (HaveNone(), "00000001 0f", True),
    (Reject(1, 2, 3), "0000000d 10 00000001 00000002 00000003", True),
    (AllowedFast(7), "00000005 11 00000007", True),
    (Extended(3, b"d1:md6:ut_pexi1eee"), "00000014 14 03 64313a6d64363a75745f706578693165 6565", False),
]


@pytest.mark.parametrize("message,wire,fast", SPECIFIED, ids=lambda value: type(value).__name__)
def test_messages_encode_as_specified(message: Message, wire: str, fast: bool) -> None:
    assert message.encode() == bytes.fromhex(wire)


def test_a_run_encodes_as_its_messages_in_order() -> None:
    blocks = [(1, 0, 16384), (1, 16384, 16384), (2, 0, 5)]
    assert encode_requests(blocks) == b"".join(Requests([block]).encode() for block in blocks)
    data = [(1, 0, memoryview(b"ab")), (1, 2, memoryview(b""))]
    assert Pieces(data).encode() == piece_header(1, 0, 2) + b"ab" + piece_header(1, 2, 0)


def test_messages_of_different_kinds_are_never_equal() -> None:
    assert Choke() != Unchoke()
    assert Cancel(1, 2, 3) != Reject(1, 2, 3)
    assert Have(1) != Suggest(1)
    assert Have(1) == Have(1)
