"""RC4 against the published keystream, and the fast implementation against the plain one."""

from __future__ import annotations

import random

import pytest

from swarm.wire import rc4
from swarm.wire.rc4 import Rc4
from tests.needs import need_module

# RFC 6229, the 128-bit key 0x0102...10 and its keystream from these offsets on.
KEY = bytes(range(1, 17))
AT_1024 = bytes.fromhex("bdf0324e6083dcc6d3cedd3ca8c53c16")
AT_1536 = bytes.fromhex("ffa0b514647ec04f6306b892ae661181")


def test_the_keystream_is_that_of_rfc_6229_from_byte_1024_on() -> None:
    keystream = Rc4(KEY).process(bytes(528))
    assert keystream[:16] == AT_1024
    assert keystream[512:] == AT_1536


def test_processing_twice_gives_the_data_back_however_it_is_cut() -> None:
    rng = random.Random(1)
    data = rng.randbytes(1000)
    whole = Rc4(KEY).process(data)
    cut, back = Rc4(KEY), Rc4(KEY)
    assert cut.process(b"") + cut.process(memoryview(data)[:1]) + cut.process(bytearray(data[1:])) == whole
    in_place = bytearray(whole)
    back.process_in_place(memoryview(in_place)[:300])
    back.process_in_place(memoryview(in_place)[300:])
    assert in_place == data


def test_the_fastest_cipher_continues_the_keystream() -> None:
    need_module("cryptography")
    assert rc4.load_native()
    data = random.Random(2).randbytes(5000)
    plain, started = Rc4(KEY[:16] + b"abcd"), Rc4(KEY[:16] + b"abcd")
    assert started.process(data[:77]) == plain.process(data[:77])
    fast = started.fastest()
    assert not isinstance(fast, Rc4)
    assert fast.process(memoryview(data)[77:2000]) == plain.process(data[77:2000])
    rest = bytearray(data[2000:])
    fast.process_in_place(memoryview(rest))
    assert rest == plain.process(data[2000:])


def test_without_cryptography_the_plain_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rc4, "_arc4", lambda: None)
    cipher = Rc4(KEY)
    assert cipher.fastest() is cipher
    assert not rc4.load_native()
