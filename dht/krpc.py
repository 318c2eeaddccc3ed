"""KRPC: the messages of the DHT and their bytes (BEP 5; ``want``, ``nodes6`` of 32, ``ip`` of 42, ``ro`` of 43).

A message is one bencoded dictionary in one datagram:

    query     a: {id, and by method: target | info_hash, port, implied_port, token, want}   q: method   ro: 1   t v y
    response  ip: our address as the other end sees it   r: {id, nodes, nodes6, token, values}   t v y
    error     e: [code, text]   ip   t v y

Reading is tolerant where nothing is lost by it (order of keys, unknown keys, an odd tail of a compact list: some
clients in the field do all three) and strict where a value is used.  Writing goes by templates with the keys in their
order, 0.6 µs a message where an encoder of dictionaries takes 5 to 11; the queries that nearly everybody sends are read
by one pattern, 1 µs where the decoder takes 5.  Knows no state: who asked what is `dht.transactions`, what to answer
`dht.server`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dht import bencode
from dht.bencode import BencodeError, Value
from dht.compact import (
    NODE_ID_SIZE,
    PEER6_SIZE,
    PEER_SIZE,
    Address,
    Node,
    decode_nodes_untrusted,
    decode_peer_untrusted,
)
from dht.errors import RemoteProtocolError

PING, FIND_NODE, GET_PEERS, ANNOUNCE_PEER = b"ping", b"find_node", b"get_peers", b"announce_peer"

GENERIC_ERROR, SERVER_ERROR, PROTOCOL_ERROR, METHOD_UNKNOWN = 201, 202, 203, 204

VERSION = b"SW\x00\x01"  # our letters as in peer ids (BEP 20), then a version
MAX_DATAGRAM = 1024  # bytes of ours (BEP 32)
MAX_TRANSACTION_ID = 32  # bytes; it is echoed, and two to eight are what clients use
MAX_TOKEN = 128  # bytes of another node's token that we are ready to carry back; clients use 4 to 20
MAX_CONTAINERS = 128  # a message of ours has at most 4

WANT_V4, WANT_V6 = 1, 2

_WANT = (b"", b"4:wantl2:n4e", b"4:wantl2:n6e", b"4:wantl2:n42:n6e")
_TAIL = b"1:v%d:%b1:y1:" % (len(VERSION), VERSION)
_QUERY_TAIL, _RESPONSE_TAIL, _ERROR_TAIL = (_TAIL + kind for kind in (b"qe", b"re", b"ee"))

# The canonical bytes of a ping, find_node or get_peers with no key but those named in the table above.  All lengths are
# written out, so that what matches can be read in one way only; whatever does not goes to the decoder.
_COMMON_QUERY = re.compile(
    rb"d1:ad2:id20:(.{20})"
    rb"(?:e1:q4:ping"
    rb"|(?:(6:target)|9:info_hash)20:(.{20})((?:4:wantl(?:2:n4|2:n6|2:n42:n6)e)?)e1:q9:(?(2)find_node|get_peers))"
    rb"(2:roi1e)?"
    rb"1:t(1:.|2:..|4:.{4}|8:.{8})"
    rb"(?:1:v4:.{4})?1:y1:qe",
    re.DOTALL,
).fullmatch

PING_SIZE = 74  # bytes of a ping of ours at most: one that says that we are read-only


class Query(NamedTuple):
    """What someone asks of us.  ``target`` is the info-hash where there is one, b"" for a ping."""

    transaction_id: bytes
    method: bytes
    node_id: bytes
    target: bytes
    want: int  # WANT_V4 | WANT_V6; 0: only the family it came by
    port: int  # 0 for anything but announce_peer, and where implied_port says to take the datagram's
    token: bytes
    read_only: bool


class Response(NamedTuple):
    """An answer to a query of ours.  What is missing is empty, ``observed`` None: our address as they see it."""

    transaction_id: bytes
    node_id: bytes
    nodes: list[Node]
    nodes6: list[Node]
    token: bytes
    values: list[Address]
    observed: Address | None


class Error(NamedTuple):
    """A refusal of a query of ours."""

    transaction_id: bytes
    code: int
    text: bytes
    observed: Address | None


Message = Query | Response | Error


def decode_untrusted(datagram: bytes) -> Message:
    """The message that ``datagram`` is.

    Raises RemoteProtocolError when it is none; where it is a query all the same, its ``code`` says what to answer.
    """
    match = _COMMON_QUERY(datagram)
    return _decode(datagram) if match is None else _common_query(match)


def encode_query(transaction_id: bytes, method: bytes, arguments: bytes, *, read_only: bool = False) -> bytes:
    """A query; ``arguments`` is the inside of its "a" dictionary, from one of the functions below."""
    return b"d1:ad%be1:q%d:%b%b1:t%d:%b%b" % (
        arguments,
        len(method),
        method,
        b"2:roi1e" if read_only else b"",
        len(transaction_id),
        transaction_id,
        _QUERY_TAIL,
    )


def ping_arguments(node_id: bytes) -> bytes:
    return b"2:id20:%b" % node_id


def find_node_arguments(node_id: bytes, target: bytes, want: int = 0) -> bytes:
    return b"2:id20:%b6:target20:%b%b" % (node_id, target, _WANT[want])


def get_peers_arguments(node_id: bytes, info_hash: bytes, want: int = 0) -> bytes:
    return b"2:id20:%b9:info_hash20:%b%b" % (node_id, info_hash, _WANT[want])


def announce_peer_arguments(
    node_id: bytes, info_hash: bytes, port: int, token: bytes, *, implied_port: bool = False
) -> bytes:
    """``port`` is sent with ``implied_port`` too: nodes that do not know that key go by it."""
    return b"2:id20:%b%b9:info_hash20:%b4:porti%de5:token%d:%b" % (
        node_id,
        b"12:implied_porti1e" if implied_port else b"",
        info_hash,
        port,
        len(token),
        token,
    )


def encode_response(
    transaction_id: bytes,
    node_id: bytes,
    requester: bytes,
    nodes: bytes | None = None,
    nodes6: bytes | None = None,
    token: bytes | None = None,
    values: bytes = b"",
) -> bytes:
    """An answer.  ``requester``, ``nodes`` and ``nodes6`` are compact; ``values`` the inside of a bencoded list."""
    returned = b"2:id20:" + node_id
    if nodes is not None:
        returned += b"5:nodes%d:%b" % (len(nodes), nodes)
    if nodes6 is not None:
        returned += b"6:nodes6%d:%b" % (len(nodes6), nodes6)
    if token is not None:
        returned += b"5:token%d:%b" % (len(token), token)
    if values:
        returned += b"6:valuesl%be" % values
    return b"d2:ip%d:%b1:rd%be1:t%d:%b%b" % (
        len(requester),
        requester,
        returned,
        len(transaction_id),
        transaction_id,
        _RESPONSE_TAIL,
    )


def encode_error(transaction_id: bytes, code: int, text: bytes, requester: bytes) -> bytes:
    """A refusal: 201 generic, 202 server, 203 protocol, 204 method unknown."""
    return b"d1:eli%de%d:%be2:ip%d:%b1:t%d:%b%b" % (
        code,
        len(text),
        text,
        len(requester),
        requester,
        len(transaction_id),
        transaction_id,
        _ERROR_TAIL,
    )


def _common_query(match: re.Match[bytes]) -> Query:
    node_id, is_find_node, target, want, read_only, transaction_id = match.groups()
    if target is None:
        return Query(transaction_id[2:], PING, node_id, b"", 0, 0, b"", read_only is not None)
    method = FIND_NODE if is_find_node is not None else GET_PEERS
    return Query(transaction_id[2:], method, node_id, target, _WANT.index(want), 0, b"", read_only is not None)


def _decode(datagram: bytes) -> Message:
    try:
        message = bencode.decode_untrusted(datagram, strict_order=False, max_containers=MAX_CONTAINERS)
    except BencodeError as error:
        raise RemoteProtocolError(str(error)) from None
    if type(message) is not dict:
        raise RemoteProtocolError("not a dictionary")
    transaction_id = message.get(b"t")
    if type(transaction_id) is not bytes or len(transaction_id) > MAX_TRANSACTION_ID:
        raise RemoteProtocolError("no usable transaction id")
    kind = message.get(b"y")
    if kind == b"q":
        return _query(transaction_id, message)
    if kind == b"r":
        return _response(transaction_id, message)
    if kind == b"e":
        return _error(transaction_id, message)
    raise RemoteProtocolError("neither query nor response nor error", transaction_id)


def _query(transaction_id: bytes, message: dict[bytes, Value]) -> Query:
    method = message.get(b"q")
    arguments = message.get(b"a")
    if type(method) is not bytes or type(arguments) is not dict:
        raise RemoteProtocolError("a query without method or arguments", transaction_id, PROTOCOL_ERROR)
    node_id = _id(arguments, b"id", transaction_id)
    target = token = b""
    want = port = 0
    if method == FIND_NODE:
        target = _id(arguments, b"target", transaction_id)
        want = _want(arguments)
    elif method == GET_PEERS:
        target = _id(arguments, b"info_hash", transaction_id)
        want = _want(arguments)
    elif method == ANNOUNCE_PEER:
        target = _id(arguments, b"info_hash", transaction_id)
        token = _token(arguments, transaction_id)
        port = _port(arguments, transaction_id)
    elif method != PING:
        raise RemoteProtocolError("method unknown", transaction_id, METHOD_UNKNOWN)
    return Query(transaction_id, method, node_id, target, want, port, token, message.get(b"ro") == 1)


def _id(arguments: dict[bytes, Value], key: bytes, transaction_id: bytes) -> bytes:
    value = arguments.get(key)
    if type(value) is not bytes or len(value) != NODE_ID_SIZE:
        raise RemoteProtocolError(f"{key.decode()} is not 20 bytes", transaction_id, PROTOCOL_ERROR)
    return value


def _token(arguments: dict[bytes, Value], transaction_id: bytes) -> bytes:
    token = arguments.get(b"token")
    if type(token) is not bytes:
        raise RemoteProtocolError("no token", transaction_id, PROTOCOL_ERROR)
    return token


def _port(arguments: dict[bytes, Value], transaction_id: bytes) -> int:
    """The announced port; 0 where ``implied_port`` tells us to look at the datagram."""
    if arguments.get(b"implied_port") not in (None, 0):
        return 0
    port = arguments.get(b"port")
    if type(port) is not int or not 0 < port < 65536:
        raise RemoteProtocolError("port is not 1 to 65535", transaction_id, PROTOCOL_ERROR)
    return port


def _want(arguments: dict[bytes, Value]) -> int:
    want = arguments.get(b"want")
    if type(want) is not list:
        return 0
    return (WANT_V4 if b"n4" in want else 0) | (WANT_V6 if b"n6" in want else 0)


def _response(transaction_id: bytes, message: dict[bytes, Value]) -> Response:
    returned = message.get(b"r")
    if type(returned) is not dict:
        raise RemoteProtocolError("a response without return values", transaction_id)
    node_id = returned.get(b"id")
    if type(node_id) is not bytes or len(node_id) != NODE_ID_SIZE:
        raise RemoteProtocolError("a response without the id of its sender", transaction_id)
    token = returned.get(b"token", b"")
    values = returned.get(b"values")
    return Response(
        transaction_id,
        node_id,
        _nodes(returned.get(b"nodes"), ipv6=False),
        _nodes(returned.get(b"nodes6"), ipv6=True),
        token if type(token) is bytes and len(token) <= MAX_TOKEN else b"",
        _values(values) if type(values) is list else [],
        _observed(message),
    )


def _nodes(compact: Value | None, *, ipv6: bool) -> list[Node]:
    if type(compact) is not bytes:
        return []
    size = NODE_ID_SIZE + (PEER6_SIZE if ipv6 else PEER_SIZE)
    return decode_nodes_untrusted(compact[: len(compact) // size * size], ipv6=ipv6)


def _values(values: list[Value]) -> list[Address]:
    """The peers; what is not one is skipped, since one bad announce somewhere must not hide the others."""
    return [
        decode_peer_untrusted(value)
        for value in values
        if type(value) is bytes and len(value) in (PEER_SIZE, PEER6_SIZE)
    ]


def _observed(message: dict[bytes, Value]) -> Address | None:
    compact = message.get(b"ip")
    if type(compact) is not bytes or len(compact) not in (PEER_SIZE, PEER6_SIZE):
        return None
    return decode_peer_untrusted(compact)


def _error(transaction_id: bytes, message: dict[bytes, Value]) -> Error:
    match message.get(b"e"):
        case [int(code), bytes(text), *_]:
            return Error(transaction_id, code, text, _observed(message))
        case _:
            raise RemoteProtocolError("an error without code and text", transaction_id)
