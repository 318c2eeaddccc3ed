"""What names a TURN server, and that no credential is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.wire.turn_uri import TurnServer, parse_turn_uri


@pytest.mark.parametrize(
    ("uri", "host", "port", "transports", "shown"),
    [
        ("turn:u:p@relay.example", "relay.example", 3478, ("udp", "tcp"), "turn:relay.example:3478"),
        ("turn:u:p@192.0.2.1:99", "192.0.2.1", 99, ("udp", "tcp"), "turn:192.0.2.1:99"),
        ("turn:u:p@h:1?transport=udp", "h", 1, ("udp",), "turn:h:1?transport=udp"),
        ("turn:u:p@h?transport=TCP", "h", 3478, ("tcp",), "turn:h:3478?transport=tcp"),
        ("TURNS:u:p@h", "h", 5349, ("tls",), "turns:h:5349"),
        ("turns:u:p@[2001:db8::0001]:443?transport=tcp", "2001:db8::1", 443, ("tls",), "turns:[2001:db8::1]:443"),
        ("turn:u:p@[::1]", "::1", 3478, ("udp", "tcp"), "turn:[::1]:3478"),
    ],
)
def test_the_forms(uri: str, host: str, port: int, transports: tuple[str, ...], shown: str) -> None:
    server = parse_turn_uri(uri)
    assert (server.host, server.port, server.transports) == (host, port, transports)
    assert (server.username, server.password) == ("u", "p")
    assert str(server) == shown


def test_credentials_are_percent_decoded_and_normalised() -> None:
    server = parse_turn_uri("turn:a%3Ab%40c:p%2Fq:r%C2%A0e\u0301@h")
    assert (server.username, server.password) == ("a:b@c", "p/q:r \u00e9")


BROKEN = [
    "", "turn:", "stun:u:p@h", "turn:h", "turn:u@h", "turn:hunter2:@h", "turn::hunter2@h", "turn:u:hunter2@",
    "turn:u:hunter2@h:0", "turn:u:hunter2@h:65536", "turn:u:hunter2@h:x", "turn:u:hunter2@::1",
    "turn:u:hunter2@[::1", "turn:u:hunter2@h?transport=sctp", "turns:u:hunter2@h?transport=udp",
    "turn:u:hunter2@-h", "turn:u:hunter2@a..b", "turn:u:hunter2%00@h", "turn:u:hunter2%ff@h",
    "turn:u:hunter2@h@i", "turn:u:" + "hunter2" * 80 + "@h", "turn:u:hunter2@h/x",
]  # fmt: skip


@pytest.mark.parametrize("uri", BROKEN)
def test_what_names_no_server_is_refused_without_being_repeated(uri: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse_turn_uri(uri)
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for uri in (text, f"turn:{text}", f"turns:u:p@{text}", f"turn:{text}@h"):
        try:
            parse_turn_uri(uri)
        except ValueError:
            pass


def test_no_credential_is_shown() -> None:
    server = parse_turn_uri("turn:alice:hunter2@h")
    assert isinstance(server, TurnServer)
    for shown in (repr(server), str(server), f"{server!s}"):
        assert "alice" not in shown
        assert "hunter2" not in shown
