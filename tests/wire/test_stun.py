"""STUN messages (RFC 8489, RFC 5780) against the vectors of RFC 5769 and RFC 8489, and against damage."""

from __future__ import annotations

import hmac
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.wire.stun import (
    BINDING,
    CHANGE_IP,
    CHANGE_PORT,
    MAGIC_COOKIE,
    MAX_ATTRIBUTES,
    MAX_TEXT,
    MAX_USERNAME,
    AttributeType,
    ErrorCode,
    MessageClass,
    StunHeader,
    StunMessage,
    address_value,
    change_request_value,
    error_code_value,
    long_term_key,
    parse_stun_untrusted,
    peek_header,
    response_port_value,
    short_term_key,
    xor_address_value,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

A = AttributeType
SHA1, SHA256 = A.MESSAGE_INTEGRITY, A.MESSAGE_INTEGRITY_SHA256
ID = bytes(range(12))
V4, V6 = Endpoint("192.0.2.1", 32853), Endpoint("2001:db8:1234:5678:11:2233:4455:6677", 32853)

# ---- vectors

REQUEST_5769 = bytes.fromhex("""
    0001 0058 2112a442 b7e7a701bc34d686fa87dfae
    8022 0010 5354554e207465737420636c69656e74
    0024 0004 6e0001ff
    8029 0008 932ff9b151263b36
    0006 0009 6576746a3a68367659 202020
    0008 0014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
    8028 0004 e57a3bcf
""")
RESPONSE_V4_5769 = bytes.fromhex("""
    0101 003c 2112a442 b7e7a701bc34d686fa87dfae
    8022 000b 7465737420766563746f72 20
    0020 0008 0001a147e112a643
    0008 0014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
    8028 0004 c07d4c96
""")
RESPONSE_V6_5769 = bytes.fromhex("""
    0101 0048 2112a442 b7e7a701bc34d686fa87dfae
    8022 000b 7465737420766563746f72 20
    0020 0014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
    0008 0014 a382954e4be67bf11784c97c8292c275bfe3ed41
    8028 0004 c8fb0b4c
""")
LONG_TERM_5769 = bytes.fromhex("""
    0001 0060 2112a442 78ad3433c6ad72c029da412e
    0006 0012 e3839ee38388e383aae38383e382afe382b9 0000
    0015 001c 662f2f3439396b39353464364f4c33346f4c394653547679363473 41
    0014 000b 6578616d706c652e6f7267 00
    0008 0014 f67024656dd64a3e02b8e0712e85c9a28ca89666
""")
LONG_TERM_8489 = bytes.fromhex("""
    0001 0090 2112a442 78ad3433c6ad72c029da412e
    001e 0020 4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
    0015 0029 6f62 4d61744a6f7332414141 43662f2f3439396b 39353464364f4c33 346f4c3946535476 79363473 41 000000
    0014 000b 6578616d706c652e6f7267 00
    001d 0004 00020000
    001c 0020 b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65
""")
"""RFC 8489 appendix B.1 as its erratum 6268 has it: with PASSWORD-ALGORITHM, and the HMAC of that."""

VECTORS = [REQUEST_5769, RESPONSE_V4_5769, RESPONSE_V6_5769, LONG_TERM_5769, LONG_TERM_8489]
SHORT_TERM_KEY = short_term_key("VOkJxbRl1RmTxUk/WvJxBt")
NAME = "マトリックス"
LONG_TERM_KEY = long_term_key(NAME, "example.org", "TheMatrIX")


def test_the_sample_request_of_rfc_5769() -> None:
    message = parse_stun_untrusted(REQUEST_5769)
    assert (message.message_class, message.method) == (MessageClass.REQUEST, BINDING)
    assert message.text_untrusted(A.SOFTWARE) == "STUN test client"
    assert message.text_untrusted(A.USERNAME) == "evtj:h6vY"
    assert message.get(0x8029) == bytes.fromhex("932ff9b151263b36")
    assert message.fingerprint
    assert message.verify(SHORT_TERM_KEY, SHA1)
    assert not message.verify(SHORT_TERM_KEY + b"x", SHA1)
    assert not message.verify(SHORT_TERM_KEY, SHA256)
    assert message.unknown_required() == (0x0024,), "PRIORITY is of ICE"
    assert message.unknown_required({*A, 0x0024}) == ()


@pytest.mark.parametrize(("vector", "mapped"), [(RESPONSE_V4_5769, V4), (RESPONSE_V6_5769, V6)])
def test_the_sample_responses_of_rfc_5769(vector: bytes, mapped: Endpoint) -> None:
    message = parse_stun_untrusted(vector)
    assert message.message_class == MessageClass.SUCCESS
    assert message.xor_address_untrusted(A.XOR_MAPPED_ADDRESS) == mapped
    assert message.text_untrusted(A.SOFTWARE) == "test vector"
    assert message.fingerprint
    assert message.verify(SHORT_TERM_KEY, SHA1)
    assert message.unknown_required() == ()
    value = xor_address_value(mapped, message.transaction_id)
    assert (A.XOR_MAPPED_ADDRESS, value) in message.attributes


def test_the_long_term_sample_of_rfc_5769_byte_for_byte() -> None:
    message = parse_stun_untrusted(LONG_TERM_5769)
    assert message.text_untrusted(A.USERNAME) == NAME
    assert message.text_untrusted(A.REALM) == "example.org"
    assert message.text_untrusted(A.NONCE) == "f//499k954d6OL34oL9FSTvy64sA"
    assert message.verify(LONG_TERM_KEY, SHA1)
    assert not message.fingerprint
    assert message.encode(integrity=SHA1, key=LONG_TERM_KEY) == LONG_TERM_5769


def test_the_sha_256_sample_of_rfc_8489_byte_for_byte() -> None:
    message = parse_stun_untrusted(LONG_TERM_8489)
    key = long_term_key(NAME, "example.org", "TheMatrIX", sha256=True)
    assert message.text_untrusted(A.NONCE) == "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"
    assert message.verify(key, SHA256)
    assert not message.verify(key, SHA1)
    assert message.encode(integrity=SHA256, key=key) == LONG_TERM_8489


# ---- headers


@pytest.mark.parametrize(
    ("message_type", "message_class", "method"),
    [
        (0x0001, MessageClass.REQUEST, 0x001),
        (0x0011, MessageClass.INDICATION, 0x001),
        (0x0101, MessageClass.SUCCESS, 0x001),
        (0x0111, MessageClass.ERROR, 0x001),
        (0x0113, MessageClass.ERROR, 0x003),
        (0x0017, MessageClass.INDICATION, 0x007),
        (0x3EEF, MessageClass.REQUEST, 0xFFF),
        (0x3FFF, MessageClass.ERROR, 0xFFF),
        (0x2000, MessageClass.REQUEST, 0x800),
        (0x0020, MessageClass.REQUEST, 0x010),
    ],
)
def test_class_and_method_are_interleaved(message_type: int, message_class: MessageClass, method: int) -> None:
    data = StunMessage(message_class, method, ID).encode()
    assert data == struct.pack(">HHI", message_type, 0, MAGIC_COOKIE) + ID
    assert peek_header(data) == StunHeader(message_class, method, ID)
    assert parse_stun_untrusted(data) == StunMessage(message_class, method, ID)


def test_every_method_and_class_comes_back() -> None:
    for method in range(0x1000):
        for message_class in MessageClass:
            header = peek_header(StunMessage(message_class, method, ID).encode())
            assert header == (message_class, method, ID)


@pytest.mark.parametrize("damaged", [b"", bytes(20), b"d1:y1:qe", RESPONSE_V4_5769[:19], b"\x41" + REQUEST_5769[1:]])
def test_what_is_no_stun_message_has_no_header(damaged: bytes) -> None:
    assert peek_header(damaged) is None
    with pytest.raises(RemoteProtocolError, match="bad-stun"):
        parse_stun_untrusted(damaged)


# ---- attributes


def made(*attributes: tuple[int, bytes], message_class: MessageClass = MessageClass.SUCCESS) -> StunMessage:
    return StunMessage(message_class, BINDING, ID, attributes)


def test_addresses_come_back_plain_and_xored() -> None:
    for endpoint in (V4, V6):
        message = made(
            (A.OTHER_ADDRESS, address_value(endpoint)), (A.XOR_MAPPED_ADDRESS, xor_address_value(endpoint, ID))
        )
        read = parse_stun_untrusted(message.encode())
        assert read == message
        assert read.address_untrusted(A.OTHER_ADDRESS) == endpoint
        assert read.xor_address_untrusted(A.XOR_MAPPED_ADDRESS) == endpoint
        assert read.address_untrusted(A.XOR_MAPPED_ADDRESS) != endpoint
        assert read.address_untrusted(A.RESPONSE_ORIGIN) is None
    assert address_value(V4) == bytes.fromhex("0001 8055 c0000201")


@pytest.mark.parametrize("value", ["", "00", "0001", "0003 8055 c0000201", "0001 8055 c00002", "0002 8055 c0000201",
                                   "0001 8055 c0000201 00", "0000 8055 c0000201"])  # fmt: skip
def test_what_is_no_address_is_refused(value: str) -> None:
    message = parse_stun_untrusted(made((A.MAPPED_ADDRESS, bytes.fromhex(value))).encode())
    for read in (message.address_untrusted, message.xor_address_untrusted):
        with pytest.raises(RemoteProtocolError, match="bad-stun"):
            read(A.MAPPED_ADDRESS)


def test_the_first_byte_of_an_address_is_not_looked_at() -> None:
    assert made((A.MAPPED_ADDRESS, bytes.fromhex("ff01 8055 c0000201"))).address_untrusted(A.MAPPED_ADDRESS) == V4


def test_of_several_attributes_of_a_type_the_first_counts() -> None:
    message = made((A.SOFTWARE, b"one"), (A.SOFTWARE, b"two"))
    assert parse_stun_untrusted(message.encode()).text_untrusted(A.SOFTWARE) == "one"


@pytest.mark.parametrize("code", [300, 400, 401, 420, 438, 487, 500, 699])
def test_error_codes(code: int) -> None:
    message = made((A.ERROR_CODE, error_code_value(code, "Nö")), message_class=MessageClass.ERROR)
    assert parse_stun_untrusted(message.encode()).error_code_untrusted() == ErrorCode(code, "Nö")
    assert made().error_code_untrusted() is None


@pytest.mark.parametrize(
    "value", [b"", b"\0\0\4", b"\0\0\2\0", b"\0\0\7\0", b"\0\0\4\x64", b"\0\0\4\0" + bytes(MAX_TEXT + 1)]
)
def test_what_is_no_error_code_is_refused(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-stun"):
        made((A.ERROR_CODE, value)).error_code_untrusted()


def test_reserved_bits_of_an_error_code_are_not_looked_at() -> None:
    assert made((A.ERROR_CODE, b"\xff\xff\xfc\x01no\xff")).error_code_untrusted() == ErrorCode(401, "no�")


def test_response_ports() -> None:
    message = made((A.RESPONSE_PORT, response_port_value(40_001)), message_class=MessageClass.REQUEST)
    assert parse_stun_untrusted(message.encode()).response_port_untrusted() == 40_001
    assert response_port_value(0x1234) == b"\x12\x34\0\0"
    assert made((A.RESPONSE_PORT, b"\x12\x34")).response_port_untrusted() == 0x1234, "without the padding"
    assert made().response_port_untrusted() is None
    with pytest.raises(RemoteProtocolError, match="bad-stun"):
        made((A.RESPONSE_PORT, b"\x12\x34\0")).response_port_untrusted()


def test_change_requests() -> None:
    for flags in (0, CHANGE_IP, CHANGE_PORT, CHANGE_IP | CHANGE_PORT):
        message = made((A.CHANGE_REQUEST, change_request_value(flags)), message_class=MessageClass.REQUEST)
        assert parse_stun_untrusted(message.encode()).change_request_untrusted() == flags
    assert change_request_value(CHANGE_IP | CHANGE_PORT) == b"\0\0\0\6"
    assert made().change_request_untrusted() is None
    with pytest.raises(RemoteProtocolError, match="bad-stun"):
        made((A.CHANGE_REQUEST, b"\6")).change_request_untrusted()


def test_unknown_attributes_of_an_error() -> None:
    assert made((A.UNKNOWN_ATTRIBUTES, b"\0\3\x80\x27")).unknown_attributes_untrusted() == (3, 0x8027)
    assert made().unknown_attributes_untrusted() == ()
    with pytest.raises(RemoteProtocolError, match="bad-stun"):
        made((A.UNKNOWN_ATTRIBUTES, b"\0\3\x80")).unknown_attributes_untrusted()


def test_texts_are_bounded_and_utf_8() -> None:
    assert made((A.USERNAME, b"u" * MAX_USERNAME)).text_untrusted(A.USERNAME) == "u" * MAX_USERNAME
    assert made().text_untrusted(A.REALM) is None
    for type_, value in ((A.USERNAME, b"u" * (MAX_USERNAME + 1)), (A.NONCE, b"n" * (MAX_TEXT + 1)), (A.REALM, b"\xff")):
        with pytest.raises(RemoteProtocolError, match="bad-stun"):
            made((type_, value)).text_untrusted(type_)


def test_what_must_be_understood_is_reported() -> None:
    message = made((0x7FFF, b""), (0x8000, b""), (A.SOFTWARE, b""), (0x0000, b"x"))
    assert parse_stun_untrusted(message.encode()).unknown_required() == (0x7FFF, 0x0000)


@pytest.mark.parametrize("size", range(9))
def test_values_are_padded_and_padding_is_not_looked_at(size: int) -> None:
    data = bytearray(made((A.SOFTWARE, b"s" * size), (A.REALM, b"r")).encode())
    assert len(data) % 4 == 0
    padding = range(24 + size, 24 + size + -size % 4)
    assert not any(data[each] for each in padding)
    for each in padding:
        data[each] = 0x20
    assert parse_stun_untrusted(data).attributes == ((A.SOFTWARE, b"s" * size), (A.REALM, b"r"))


# ---- integrity and fingerprint


@pytest.mark.parametrize("type_", [SHA1, SHA256])
@pytest.mark.parametrize("fingerprint", [False, True])
def test_a_signed_message_verifies_and_no_changed_one_does(type_: AttributeType, fingerprint: bool) -> None:
    message = made((A.SOFTWARE, b"swarm"))
    data = message.encode(integrity=type_, key=b"key", fingerprint=fingerprint)
    read = parse_stun_untrusted(data)
    assert read == message
    assert read.fingerprint is fingerprint
    assert read.verify(b"key", type_)
    assert not read.verify(b"Key", type_)
    for at in range(len(data) - 8 * fingerprint):  # a fingerprint that is none any more stands behind the integrity
        changed = bytearray(data)
        changed[at] ^= 1
        try:
            damaged = parse_stun_untrusted(changed)
        except RemoteProtocolError:
            continue
        assert not fingerprint
        assert not damaged.verify(b"key", type_)


@pytest.mark.parametrize("size", [12, 18, 20, 28, 36])
def test_sha_256_may_be_truncated_to_16_bytes(size: int) -> None:
    whole = made().encode(integrity=SHA256, key=b"key")
    resized = whole[:2] + struct.pack(">H", 4 + size + -size % 4) + whole[4:22] + struct.pack(">H", size)
    resized += whole[24 : 24 + size].ljust(size + -size % 4, b"\0")
    if size in (20, 28):
        assert len(parse_stun_untrusted(resized).integrity[0].mac) == size
    else:
        with pytest.raises(RemoteProtocolError, match="bad-stun"):
            parse_stun_untrusted(resized)


def test_a_truncated_integrity_is_compared_as_far_as_it_goes() -> None:
    [integrity] = parse_stun_untrusted(made().encode(integrity=SHA256, key=b"key")).integrity
    truncated = replace(made(), integrity=(integrity._replace(mac=integrity.mac[:16]),))
    assert truncated.verify(b"key", SHA256)
    assert not truncated.verify(b"other", SHA256)


def with_behind(data: bytes, *attributes: tuple[int, bytes]) -> bytes:
    """``data`` with attributes added that its integrity does not know of."""
    more = made(*attributes).encode()[20:]
    return data[:2] + struct.pack(">H", len(data) - 20 + len(more)) + data[4:] + more


def test_what_follows_an_integrity_does_not_count() -> None:
    data = made((A.REALM, b"r")).encode(integrity=SHA1, key=b"key")
    read = parse_stun_untrusted(with_behind(data, (A.SOFTWARE, b"forged"), (0x7FFF, b""), (SHA1, bytes(20))))
    assert read.attributes == ((A.REALM, b"r"),)
    assert read.unknown_required() == ()
    assert read.verify(b"key", SHA1)


def test_both_integrities_may_be_there() -> None:
    """As a first request does that does not know yet what the server speaks: SHA-1, then SHA-256 over both."""
    sha1 = made().encode(integrity=SHA1, key=b"key")
    longer = sha1[:2] + struct.pack(">H", len(sha1) - 20 + 36) + sha1[4:]
    data = with_behind(sha1, (SHA256, hmac.digest(b"other", longer, "sha256")))
    read = parse_stun_untrusted(data)
    assert read.verify(b"key", SHA1)
    assert read.verify(b"other", SHA256)
    assert not read.verify(b"key", SHA256)


def test_the_fingerprint_is_last_and_right() -> None:
    data = made((A.SOFTWARE, b"swarm")).encode(fingerprint=True)
    assert parse_stun_untrusted(data).fingerprint
    for wrong in (
        with_behind(data, (A.SOFTWARE, b"")),
        data[:-1] + bytes((data[-1] ^ 1,)),
        with_behind(data, (A.FINGERPRINT, b"")),
    ):
        with pytest.raises(RemoteProtocolError, match="fingerprint"):
            parse_stun_untrusted(wrong)
    with pytest.raises(RemoteProtocolError, match="fingerprint"):
        parse_stun_untrusted(made((A.FINGERPRINT, b"")).encode())


# ---- bounds and damage


def test_lengths_must_add_up() -> None:
    data = made((A.SOFTWARE, b"swarm")).encode()
    for wrong in (data + bytes(4), data + b"\0", data[:2] + b"\0\0" + data[4:], data[:22] + b"\0\x09" + data[24:]):
        with pytest.raises(RemoteProtocolError, match="bad-stun"):
            parse_stun_untrusted(wrong)


@pytest.mark.parametrize("whole", [*VECTORS, made((A.SOFTWARE, b"swarm")).encode(fingerprint=True)])
def test_every_truncation_is_refused(whole: bytes) -> None:
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError, match="bad-stun"):
            parse_stun_untrusted(whole[:length])


@pytest.mark.parametrize("whole", VECTORS)
def test_every_truncation_with_a_length_that_fits_is_refused_or_a_whole_message(whole: bytes) -> None:
    for length in range(20, len(whole)):
        check_decoder(whole[:2] + struct.pack(">H", length - 20) + whole[4:length])


def test_attributes_are_bounded() -> None:
    assert len(parse_stun_untrusted(made(*[(0x8000, b"")] * MAX_ATTRIBUTES).encode()).attributes) == MAX_ATTRIBUTES
    with pytest.raises(RemoteProtocolError, match="too many"):
        parse_stun_untrusted(made(*[(0x8000, b"")] * (MAX_ATTRIBUTES + 1)).encode())


def test_our_own_mistakes_are_value_errors() -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        StunMessage(MessageClass.REQUEST, BINDING, b"short").encode()
    with pytest.raises(ValueError, match="do not fit"):
        made((A.SOFTWARE, bytes(60_000)), (A.REALM, bytes(6_000))).encode()


def check_decoder(data: bytes) -> None:
    """Parses and reads everything there is, or refuses; a message without padding of its own comes back the same."""
    peek_header(data)
    try:
        message = parse_stun_untrusted(data)
    except RemoteProtocolError as error:
        assert error.reason == "bad-stun"
        return
    assert parse_stun_untrusted(message.encode()) == message
    message.unknown_required()
    for type_ in (SHA1, SHA256):
        message.verify(b"key", type_)
    of_a_type = [message.address_untrusted, message.xor_address_untrusted, message.text_untrusted]
    readers: list[Callable[[], object]] = [
        partial(reader, type_) for reader in of_a_type for type_, _ in message.attributes
    ]
    readers += [message.error_code_untrusted, message.change_request_untrusted, message.unknown_attributes_untrusted]
    readers.append(message.response_port_untrusted)
    for read in readers:
        try:
            read()
        except RemoteProtocolError as error:
            assert error.reason == "bad-stun"


@given(st.binary(max_size=120), st.binary(min_size=12, max_size=12))
def test_arbitrary_attributes_are_decoded_or_refused(body: bytes, transaction_id: bytes) -> None:
    check_decoder(body)
    check_decoder(struct.pack(">HHI", 0x0101, len(body), MAGIC_COOKIE) + transaction_id + body)


def test_random_bytes_and_damaged_messages_are_decoded_or_refused() -> None:
    seed = fuzz_seed()
    print(f"seed {seed}")
    rng = random.Random(seed)
    count = fuzz_count() // 3
    for body in random_bytes_cases(rng, 80, count):
        check_decoder(body)
        check_decoder(struct.pack(">HHI", 0x0101, len(body), MAGIC_COOKIE) + ID + body)
    for damaged in mutations(rng, VECTORS, count):
        check_decoder(damaged)
        check_decoder(damaged[:2] + struct.pack(">H", max(len(damaged) - 20, 0)) + damaged[4:])
