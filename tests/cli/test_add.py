"""``swarm add``, and what every command says of an address at which something else answers."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from swarm.cli import add
from swarm.cli.main import main
from swarm.cli.remote import Remote
from swarm.daemon.listen import Address
from swarm.errors import DaemonUnreachableError, SwarmError
from swarm.torrent.create import create


class Daemon:
    """Adds everything but the second torrent."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self.calls.append(arguments)
        if len(self.calls) == 2:
            raise SwarmError("the daemon refused: no\x1b[2J")
        return {"torrent-added": {"id": len(self.calls), "name": "x"}}


@pytest.fixture
def torrents(tmp_path: Path) -> list[str]:
    found = []
    for number in range(3):
        (tmp_path / f"{number}.bin").write_bytes(b"%d" % number)
        (tmp_path / f"{number}.torrent").write_bytes(create(tmp_path / f"{number}.bin"))
        found.append(str(tmp_path / f"{number}.torrent"))
    return found


def test_what_cannot_be_added_does_not_keep_the_others_out(
    torrents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon()
    monkeypatch.setattr(add, "remote_of", lambda options: daemon)
    (tmp_path / "broken.torrent").write_bytes(b"x")
    code = main(
        ["add", torrents[0], str(tmp_path / "broken.torrent"), *torrents[1:], str(tmp_path / "none"), "--paused"]
    )
    assert code == 3  # that of the broken one, which came first
    printed = capsys.readouterr()
    assert printed.out == "added 1  x\nadded 3  x\n"
    assert [line.partition(": ")[2].rpartition(": ")[2] for line in printed.err.splitlines()] == [
        "this is no torrent file",
        "no\\x1b[2J",
        "No such file or directory",
    ]
    assert all(call["paused"] is True for call in daemon.calls)


def test_what_speaks_no_http_is_not_quoted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"\x05\x9b31m garbage" * 30)
                client.recv(1 << 16)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DaemonUnreachableError, match=r"did not answer: what it says is no HTTP$"):
            Remote([Address("127.0.0.1", port)], None, None).call("session-get")
        thread.join(5)
