"""Bencoding (BEP 3): a strict, bounded decoder of our own; bencode.py encodes.

The decoder accepts exactly what an encoder may write.  Integers: no leading zero, no ``-0``, no sign but ``-``, within
64 bits.  Lengths: decimal, no leading zero, never beyond the input.  Dictionaries: keys are byte strings in strictly
rising order.  What it accepts therefore encodes to the same bytes again.  Torrent files get one licence: keys out of
order (``strict_order=False``), since some tools write them so and their info-hash is over the bytes as they stand;
`decode_with_spans_untrusted` says where those bytes are.  A key given twice is always refused.

bencode.py's own decoder must not see the network: it never returns on ``d1:ai0e-6:`` (a negative length walks
backwards) and takes ``i+5e``, ``i1_0e``, unsorted and duplicate keys.

This file knows nothing of what the values mean: no text decoding, no schemas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Union

from bencode import encode as _encode

Value = Union[int, bytes, "list[Value]", "dict[bytes, Value]"]
Encodable = Union[int, bytes, "Sequence[Encodable]", "Mapping[bytes, Encodable]"]

MAX_DEPTH = 32  # lists and dictionaries inside each other; krpc and extension messages need 5
MAX_CONTAINERS = 10_000  # lists and dictionaries in one input: a two-byte "de" costs 64 bytes of memory

_INTEGER = re.compile(rb"i(0|-?[1-9][0-9]{0,18})e").match
_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,9}):").match
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class BencodeError(ValueError):
    """The bytes are not (one whole, canonical, reasonably sized) bencoded value.  The only error of the decoders."""


def encode(value: Encodable) -> bytes:
    """The bencoded form of ``value``; keys are sorted.  TypeError for anything but int, bytes, list, tuple and dict."""
    try:
        encoded: bytes = _encode(value)
    except KeyError as error:  # bencode.py looks the exact type up in a table
        raise TypeError(f"cannot bencode {error.args[0]!r}") from None
    return encoded


def decode_untrusted(
    data: bytes | bytearray | memoryview,
    *,
    strict_order: bool = True,
    max_depth: int = MAX_DEPTH,
    max_containers: int = MAX_CONTAINERS,
) -> Value:
    """The one value that ``data`` is; BencodeError when it is anything else or something follows it.

    ``max_depth`` bounds nesting, ``max_containers`` the number of lists and dictionaries; strings and integers are
    bounded by the input's length (a string costs at most 14 times its encoded size in memory).
    """
    value, end = decode_prefix_untrusted(
        data, strict_order=strict_order, max_depth=max_depth, max_containers=max_containers
    )
    if end != len(data):
        raise BencodeError(f"{len(data) - end} bytes follow the value")
    return value


def decode_prefix_untrusted(
    data: bytes | bytearray | memoryview,
    *,
    strict_order: bool = True,
    max_depth: int = MAX_DEPTH,
    max_containers: int = MAX_CONTAINERS,
) -> tuple[Value, int]:
    """The value at the start of ``data`` and the position after it: BEP 9 puts raw bytes behind a dictionary.

    BencodeError as for `decode_untrusted`, except that anything may follow.
    """
    if type(data) is not bytes:
        data = bytes(data)
    try:
        value, end = _value(data, 0, strict_order, max_depth, [max_containers])
    except IndexError:
        raise BencodeError("the input ends inside a value") from None
    if end > len(data):
        raise BencodeError("the input ends inside a string")
    return value, end


def decode_with_spans_untrusted(
    data: bytes | bytearray | memoryview,
    *,
    strict_order: bool = True,
    max_depth: int = MAX_DEPTH,
    max_containers: int = MAX_CONTAINERS,
) -> tuple[dict[bytes, Value], dict[bytes, tuple[int, int]]]:
    """The dictionary that ``data`` is, and for each of its own keys the span of the value as it stands in ``data``.

    ``data[start:end]`` of a span is the value's bencoded form: over these bytes an info-hash is taken.  BencodeError as
    for `decode_untrusted`, and when ``data`` is not a dictionary.
    """
    if type(data) is not bytes:
        data = bytes(data)
    values: dict[bytes, Value] = {}
    spans: dict[bytes, tuple[int, int]] = {}
    if data[:1] != b"d":
        raise BencodeError("not a dictionary")
    if max_depth < 1:
        raise BencodeError("nested too deeply")
    budget = [max_containers - 1]
    last = b""
    end = 1
    try:
        while data[end] != 0x65:
            key_start, start = _string(data, end)
            key = data[key_start:start]
            if key in values or (strict_order and values and key < last):
                raise BencodeError(f"the key at byte {end} is out of order or a duplicate")
            last = key
            values[key], end = _value(data, start, strict_order, max_depth - 1, budget)
            spans[key] = (start, end)
    except IndexError:
        raise BencodeError("the input ends inside a value") from None
    if end + 1 != len(data):
        raise BencodeError(f"{len(data) - end - 1} bytes follow the value")
    return values, spans


def _value(data: bytes, pos: int, strict: bool, depth: int, budget: list[int]) -> tuple[Value, int]:
    """The value at ``pos`` and the position after it.

    The fastest of seven designs measured that stays strict, and the reason for its shape: strings are read where they
    stand, because a call each costs as much as the string, and lengths of one and two digits (nearly all) by arithmetic
    on bytes.  A string that runs past the end is cut by its slice and noticed at the next byte read: an IndexError,
    which the public functions turn into a BencodeError, except for a bare string, whose end they check.
    """
    kind = data[pos]
    if kind == 0x64:  # d
        if depth < 1 or budget[0] < 1:
            raise BencodeError("nested too deeply" if depth < 1 else "too many lists and dictionaries")
        budget[0] -= 1
        depth -= 1
        pos += 1
        values: dict[bytes, Value] = {}
        last = b""
        while (first := data[pos]) != 0x65:  # e
            at = pos
            if data[pos + 1] == 0x3A and 0x30 <= first <= 0x39:  # one digit and a colon
                start = pos + 2
                pos = start + first - 0x30
            elif data[pos + 2] == 0x3A and 0x31 <= first <= 0x39 and 0x30 <= (second := data[pos + 1]) <= 0x39:
                start = pos + 3
                pos = start + first * 10 + second - 0x30 * 11
            else:
                start, pos = _string(data, pos)
            key = data[start:pos]
            if strict:
                if values and key <= last:
                    raise BencodeError(f"the key at byte {at} is out of order or a duplicate")
            elif key in values:
                raise BencodeError(f"the key at byte {at} is a duplicate")
            last = key
            first = data[pos]
            if first <= 0x39:
                if data[pos + 1] == 0x3A and first >= 0x30:
                    start = pos + 2
                    pos = start + first - 0x30
                elif data[pos + 2] == 0x3A and first >= 0x31 and 0x30 <= (second := data[pos + 1]) <= 0x39:
                    start = pos + 3
                    pos = start + first * 10 + second - 0x30 * 11
                else:
                    start, pos = _string(data, pos)
                values[key] = data[start:pos]
            elif first == 0x69:
                values[key], pos = _integer(data, pos)
            else:
                values[key], pos = _value(data, pos, strict, depth, budget)
        return values, pos + 1
    if kind == 0x6C:  # l
        if depth < 1 or budget[0] < 1:
            raise BencodeError("nested too deeply" if depth < 1 else "too many lists and dictionaries")
        budget[0] -= 1
        depth -= 1
        pos += 1
        items: list[Value] = []
        while (first := data[pos]) != 0x65:
            if first <= 0x39:
                if data[pos + 1] == 0x3A and first >= 0x30:
                    start = pos + 2
                    pos = start + first - 0x30
                elif data[pos + 2] == 0x3A and first >= 0x31 and 0x30 <= (second := data[pos + 1]) <= 0x39:
                    start = pos + 3
                    pos = start + first * 10 + second - 0x30 * 11
                else:
                    start, pos = _string(data, pos)
                items.append(data[start:pos])
            else:
                item, pos = _value(data, pos, strict, depth, budget)
                items.append(item)
        return items, pos + 1
    if kind == 0x69:  # i
        return _integer(data, pos)
    start, end = _string(data, pos)
    return data[start:end], end


def _string(data: bytes, pos: int) -> tuple[int, int]:
    """Where the string at ``pos`` starts and ends.  Its end may lie beyond the data."""
    match = _LENGTH(data, pos)
    if match is None:
        raise BencodeError(f"no value that could stand at byte {pos}")
    start = match.end()
    return start, start + int(match[1])


def _integer(data: bytes, pos: int) -> tuple[int, int]:
    match = _INTEGER(data, pos)
    if match is None:
        raise BencodeError(f"the integer at byte {pos} is malformed or too long")
    number = int(match[1])
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise BencodeError(f"the integer at byte {pos} does not fit 64 bits")
    return number, match.end()
