"""Statistics documents in files: read with suspicion, written whole or not at all.

A saved document may come from a stranger who wants help: its size, depth, types and numbers are checked here, and
whoever prints a text of it escapes what a terminal would obey.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from dht.results import NodeStatistics
from swarm.cli.create import write_atomically
from swarm.errors import RemoteProtocolError, StorageError, SwarmError
from swarm.stats.document import SCHEMA, SOURCES
from swarm.stats.fold import DIRECTIONS, ROLES

MAX_DOCUMENT = 8 << 20
"""Bytes of a file; a thousand peers make half a megabyte."""

MAX_VALUE = 1 << 63
"""No count, size or time of ours is beyond it."""

STANDARD_STREAMS = {"-": 1, "/dev/stdout": 1, "/dev/fd/1": 1, "/dev/stderr": 2, "/dev/fd/2": 2}
"""Names of what is open already, by file descriptor."""


def write_document(file: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Put ``document`` into ``file`` at once, so that nobody ever reads half of one.

    Where a symbolic link leads, the file behind it is replaced.  What is no plain file (a pipe, a terminal) is written
    to, and so are our own standard streams by any of their names.
    StorageError when the file system refuses; what was there before is kept then.
    """
    data = as_text(document).encode() + b"\n"
    name = os.fspath(file)
    if (number := STANDARD_STREAMS.get(name)) is not None:
        _write_to_stream(number, name, data)
    elif os.path.exists(name) and not os.path.isfile(name):
        _write_in_place(name, data)
    else:
        write_atomically(Path(os.path.realpath(name)), data)


def _write_to_stream(number: int, name: str, data: bytes) -> None:
    """Behind what was printed before; opened anew by its name, a file would be written over from its beginning."""
    stream = sys.stdout if number == 1 else sys.stderr
    try:
        stream.flush()
        stream.buffer.write(data)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {name}: {error.strerror}") from error


def _write_in_place(name: str, data: bytes) -> None:
    try:
        # A named pipe that nobody reads would keep us forever.
        with open(os.open(name, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)), "wb", buffering=0) as opened:
            os.set_blocking(opened.fileno(), True)
            while data:
                data = data[opened.write(data) :]
    except OSError as error:
        raise StorageError(f"cannot write {name}: {error.strerror}") from error


def as_text(document: Mapping[str, Any]) -> str:
    """JSON in ASCII, indented, without anything that a terminal would obey."""
    return json.dumps(document, indent=2, allow_nan=False)


def read_document(file: str) -> dict[str, Any]:
    """The document in ``file``, ``-`` for standard input, as `parse_document_untrusted` gives it.

    SwarmError if it is none, StorageError if it cannot be read.
    """
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_DOCUMENT + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:  # an embedded NUL
        raise StorageError(f"cannot read {file!r}: {error}") from error
    try:
        return parse_document_untrusted(data)
    except RemoteProtocolError as error:
        name = "standard input" if file == "-" else file
        raise SwarmError(f"{name} is not a statistics document: {error.detail}") from None


def parse_document_untrusted(data: bytes) -> dict[str, Any]:
    """A statistics document with every key of the interface: where ``data`` lacks one there is 0, null or nothing.

    Unknown keys are dropped.  RemoteProtocolError ("bad-document") for what is no JSON, of another schema, too large,
    or has a value of a wrong type.
    """
    if len(data) > MAX_DOCUMENT:
        _wrong("it is too large")
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        _wrong("it is nested too deeply")
    except ValueError:  # no JSON, no UTF-8, or a number of thousands of digits
        _wrong("it is not JSON")
    if not isinstance(value, dict) or "schema" not in value:
        _wrong("it says no schema")
    if value["schema"] is True or value["schema"] != SCHEMA:
        _wrong("it is of another version")
    document: dict[str, Any] = {"schema": SCHEMA, **_DOCUMENT(value, "")}
    return document


# What a value must be: each gives the value, or raises.  Null and what is missing is "not known", but not in a list.
_Check = Callable[[Any, str], Any]


def _text(value: Any, where: str) -> str | None:
    return value if value is None or isinstance(value, str) else _wrong(f"{where} is not a text")


def _flag(value: Any, where: str) -> bool | None:
    return value if value is None or isinstance(value, bool) else _wrong(f"{where} is neither true nor false")


def _number(value: Any, where: str) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_VALUE:
        _wrong(f"{where} is not a number")
    return value


def _count(value: Any, where: str) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_VALUE:
        _wrong(f"{where} is not a count")
    return value


def _duration(value: Any, where: str) -> int | float | None:
    number = _number(value, where)
    return number if number is None or number >= 0 else _wrong(f"{where} is not a time")


def _list(each: _Check) -> _Check:
    def check(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list | None):
            _wrong(f"{where} is not a list")
        if None in (value or ()):
            _wrong(f"{where} has null in it")
        return [each(item, where) for item in value or ()]

    return check


def _mapping(each: _Check) -> _Check:
    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict | None):
            _wrong(f"{where} is not an object")
        return {key: each(item, where) for key, item in (value or {}).items()}

    return check


def _record(**shape: _Check) -> _Check:
    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict | None):
            _wrong(f"{where or 'it'} is not an object")
        known = value or {}
        return {name: each(known.get(name), f"{where}.{name}".lstrip(".")) for name, each in shape.items()}

    return check


def _known(each: _Check) -> _Check:
    """Null stays null."""
    return lambda value, where: None if value is None else each(value, where)


def _by_family(each: _Check) -> _Check:
    return _record(v4=_known(each), v6=_known(each))


def _wrong(why: str) -> NoReturn:
    raise RemoteProtocolError("bad-document", why)


def _no_constant(name: str) -> float:
    """JSON has neither NaN nor Infinity, though Python reads them."""
    raise ValueError(name)


_COUNTS = _mapping(_count)
_TEXTS = _list(_text)

_PATH = _record(
    attempted=_count,
    succeeded=_count,
    failed=_COUNTS,
    connect_seconds=_record(p50=_duration, p90=_duration, sum=_duration, octaves=_list(_count)),
    bytes_down=_count,
    bytes_up=_count,
)

_NAT = _record(
    external=_TEXTS,
    mapping=_text,
    filtering=_text,
    port_preserving=_flag,
    port_step=_number,
    double_nat=_flag,
    hairpin=_flag,
    lifetime=_duration,
    evidence=_TEXTS,
)

_CORE = _record(
    datagrams_in=_count,
    bytes_in=_count,
    datagrams_out=_count,
    bytes_out=_count,
    dropped=_count,
    send_errors=_COUNTS,
)

_PEER = _record(
    endpoint=_text,
    info_hash=_text,
    client=_text,
    path=_text,
    direction=_text,
    connected=_flag,
    sources=_TEXTS,
    bytes_down=_count,
    bytes_up=_count,
    seconds_to_connect=_duration,
    rtt=_duration,
    failures=_mapping(_text),
    since=_number,
)

_DOCUMENT = _record(
    node=_record(
        version=_text,
        peer_id=_text,
        listen=_list(_record(transport=_text, endpoint=_text)),
        uptime=_duration,
    ),
    nat=_by_family(_NAT),
    gateway=_list(
        _record(
            method=_text,
            transport=_text,
            gateway=_text,
            internal=_text,
            external=_text,
            expires_in=_duration,
            error=_text,
            client=_text,
        )
    ),
    reachability=_record(tcp4=_flag, utp4=_flag, tcp6=_flag, utp6=_flag),
    paths=_mapping(_record(**dict.fromkeys(DIRECTIONS, _PATH))),
    punch=_record(
        **dict.fromkeys(
            ROLES,
            _record(
                asked=_count,
                connected=_count,
                errors=_COUNTS,
                by_nat=_mapping(_record(tried=_count, connected=_count)),
            ),
        )
    ),
    for_others=_record(
        introductions=_record(asked=_count, gone=_count, refused=_COUNTS),
        probes=_record(helped=_count, dialled=_count, refused=_COUNTS),
    ),
    relay=_known(
        _record(
            serving=_flag,
            reservations=_count,
            circuits=_count,
            asked=_count,
            opened=_count,
            bytes=_count,
            refused=_COUNTS,
            ended=_COUNTS,
        )
    ),
    relay_client=_known(
        _record(
            relays=_count,
            reservations=_count,
            circuits=_count,
            asked=_count,
            opened=_count,
            called=_count,
            refused=_COUNTS,
            declined=_COUNTS,
        )
    ),
    turn=_list(
        _record(
            server=_text,
            opened=_count,
            bytes_down=_count,
            bytes_up=_count,
            dropped=_count,
            failures=_COUNTS,
            allocations=_list(
                _record(
                    relayed=_text,
                    transport=_text,
                    connections=_count,
                    bytes_down=_count,
                    bytes_up=_count,
                    dropped=_count,
                )
            ),
            error=_text,
            detail=_text,
            retry_in=_duration,
        )
    ),
    dht=_by_family(_record(**{field.name: _count for field in fields(NodeStatistics)})),
    sources=_record(**dict.fromkeys(SOURCES, _count)),
    sockets=_by_family(
        _record(
            cores=_mapping(_CORE),
            unclaimed=_count,
            unclaimed_bytes=_count,
            waits_for_buffer=_count,
            receive_buffer=_known(_count),
            send_buffer=_known(_count),
        )
    ),
    peers=_list(_PEER),
    torrents=_list(_record(info_hash=_text, name=_text, done=_count, total=_count, peers=_count)),
)
