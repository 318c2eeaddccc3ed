"""Tokens: whose they are, for what, and for how long."""

from __future__ import annotations

import random

from dht.tokens import TOKEN_SIZE, TokenServer

HOST, HASH = "192.0.2.1", bytes(20)


def test_a_token_is_good_for_its_host_and_its_info_hash_only() -> None:
    server = TokenServer(random.Random(1))
    token = server.issue(HOST, HASH, 0.0)
    assert len(token) == TOKEN_SIZE
    assert server.accepts(token, HOST, HASH, 1.0)
    assert not server.accepts(token, "192.0.2.2", HASH, 1.0)
    assert not server.accepts(token, HOST, bytes([1] * 20), 1.0)
    assert not server.accepts(b"", HOST, HASH, 1.0)
    assert not server.accepts(token + b"x", HOST, HASH, 1.0)


def test_a_token_lives_five_to_ten_minutes() -> None:
    server = TokenServer(random.Random(1))
    early, late = server.issue(HOST, HASH, 0.0), server.issue(HOST, HASH, 299.0)
    assert early == late
    assert server.accepts(early, HOST, HASH, 599.0)
    assert not server.accepts(early, HOST, HASH, 601.0)


def test_a_token_dies_in_a_long_silence() -> None:
    server = TokenServer(random.Random(1))
    token = server.issue(HOST, HASH, 0.0)
    assert not server.accepts(token, HOST, HASH, 900.0)


def test_two_servers_do_not_share_a_secret() -> None:
    token = TokenServer(random.Random(1)).issue(HOST, HASH, 0.0)
    assert not TokenServer(random.Random(2)).accepts(token, HOST, HASH, 0.0)
