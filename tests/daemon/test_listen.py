"""Where the daemon listens."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from swarm.daemon.listen import Address, open_listeners, parse_address
from swarm.errors import SwarmError, UsageError


@pytest.mark.parametrize(
    ("text", "address", "private"),
    [
        ("127.0.0.1:9091", Address("127.0.0.1", 9091), True),
        ("localhost:1", Address("localhost", 1), True),
        ("[::1]:80", Address("::1", 80), True),
        ("192.168.1.2", Address("192.168.1.2", 9091), False),
        ("nas.lan:0", Address("nas.lan", 0), False),
        (":9091", Address("0.0.0.0", 9091), False),
        ("0.0.0.0:9091", Address("0.0.0.0", 9091), False),
        ("unix:/run/x.sock", Address(path="/run/x.sock"), True),
    ],
)
def test_addresses_are_read(text: str, address: Address, private: bool) -> None:
    assert parse_address(text) == address
    assert address.is_private is private
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "unix:", "a:b", "a:99999", "http://a", "a/b", "u@a", "[::1", "a?b"])
def test_what_is_no_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


async def test_a_unix_socket_is_its_users_alone_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    listeners = await open_listeners(Address(path=str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(SwarmError, match="another program listens there"):
        await open_listeners(Address(path=str(path)))
    for listener in listeners:
        await listener.aclose()


async def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(SwarmError):
        await open_listeners(Address(path=str(path)))
    assert path.read_text() == "mine"


async def test_a_taken_port_is_told() -> None:
    listeners = await open_listeners(Address("127.0.0.1", 0))
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(SwarmError, match=f"cannot listen on 127.0.0.1:{port}: another program listens there"):
        await open_listeners(Address("127.0.0.1", port))
    await listeners[0].aclose()
