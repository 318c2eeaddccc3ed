"""The real daemon on a real TCP port: passwords and guesses, what is no request, large bodies, slow clients, names."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.daemon.access import FREE_TRIES, LONGEST_PAUSE
from swarm.daemon.http import BIG_BODY, MAX_BODY, MAX_CONNECTIONS
from tests.cli.programs import environment, swarm
from tests.daemon.program import DAEMON, LIMIT, until

pytestmark = pytest.mark.interop

USER, PASSWORD = "somebody", "wörd with spaces"
HEADER = "X-Transmission-Session-Id"


@contextmanager
def listening(home: Path, *arguments: object) -> Iterator[int]:
    """The port of a daemon."""
    home.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = ["-m", "swarm", "daemon", *DAEMON, "--rpc", f"127.0.0.1:{port}", *map(str, arguments)]
    with open(home / "log", "ab") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment(home), stderr=log)
    try:
        until(lambda: process.poll() is not None or answers(port))
        yield port
        assert process.poll() is None, (home / "log").read_text()
    finally:
        process.terminate()
        process.wait(LIMIT)
    assert "Traceback" not in (home / "log").read_text()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), LIMIT).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("daemons")


@pytest.fixture(scope="module")
def open_port(home: Path) -> Iterator[int]:
    with listening(home / "open") as port:
        yield port


@pytest.fixture(scope="module")
def secured(home: Path) -> Iterator[tuple[int, Path]]:
    """A port, and the file with the password."""
    file = home / "password"
    file.write_text(f"{PASSWORD}\nnot this\n")
    with listening(home / "secured", "--rpc-user", USER, "--rpc-password-file", file) as port:
        yield port, file


class Client:
    """One connection, for a block."""

    def __init__(self, port: int, **headers: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        self.headers = headers

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        self.connection.request("POST", "/transmission/rpc", body, {**self.headers, **headers})
        response = self.connection.getresponse()
        if (session_id := response.getheader(HEADER)) is not None:
            self.headers[HEADER] = session_id
        return response.status, response.read()

    def call(self, body: bytes) -> Any:
        status, answer = self.post(body)
        if status == 409:
            status, answer = self.post(body)
        assert status == 200, answer
        return json.loads(answer)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# -- passwords ------------------------------------------------------------------------------------------------------


def test_the_commands_take_the_password_from_a_file_that_an_option_or_the_environment_names(
    secured: tuple[int, Path], tmp_path: Path
) -> None:
    port, file = secured
    rpc = ("--rpc", f"127.0.0.1:{port}")
    refused = swarm(tmp_path, "list", *rpc)
    assert refused.returncode == 1
    assert "give --rpc-user and --rpc-password-file" in refused.stderr
    link = f"magnet:?xt=urn:btih:{'ab' * 20}&dn=from+the+command+line"
    added = swarm(tmp_path, "add", link, *rpc, "--rpc-user", USER, "--rpc-password-file", file)
    assert (added.returncode, added.stdout) == (0, "added 1  from the command line\n")
    named = {"SWARM_RPC_USER": USER, "SWARM_RPC_PASSWORD_FILE": str(file), "SWARM_RPC": rpc[1]}
    told = json.loads(swarm(tmp_path, "list", "--json", **named).stdout)["torrents"]
    assert [torrent["name"] for torrent in told] == ["from the command line"]
    wrong = tmp_path / "wrong"
    wrong.write_text("guess\n")
    denied = swarm(tmp_path, "remove", "1", **named | {"SWARM_RPC_PASSWORD_FILE": str(wrong)})
    assert (denied.returncode, denied.stderr.count("\n")) == (1, 1)
    assert swarm(tmp_path, "remove", "1", **named).returncode == 0


def test_guessing_passwords_becomes_slow_and_the_right_one_works_again_after_a_pause(
    secured: tuple[int, Path],
) -> None:
    port, _ = secured
    statuses: list[int] = []
    began = time.monotonic()
    while time.monotonic() < began + 2:
        with Client(port, Authorization=basic(USER, f"guess {len(statuses)}")) as guessing:
            statuses.append(guessing.post(b"{}")[0])
        time.sleep(0.03)
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= FREE_TRIES + 3  # pauses of 0.5 and 1 s, and one more begun
    with Client(port, Authorization=basic(USER, PASSWORD)) as right:
        assert right.post(b"{}")[0] == 429  # not even the right one is told from the others
        deadline = time.monotonic() + LONGEST_PAUSE + 1
        while right.post(b"{}")[0] == 429:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert right.call(b'{"method": "session-stats"}')["result"] == "success"
        assert right.post(b"{}", Host="evil.example")[0] == 200  # a browser sends no password to others


# -- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"method": 5}', b"[" * 100_000, b'{"method": "x"} rest']
)
def test_what_is_no_request_is_answered_with_an_error_and_the_connection_goes_on(open_port: int, body: bytes) -> None:
    with Client(open_port) as client:
        assert client.call(body)["result"] != "success"
        assert client.call(b'{"method": "session-stats"}')["result"] == "success"


@pytest.mark.parametrize("size", [1 << 20, BIG_BODY + 1, 4 << 20])
def test_large_requests_are_taken(open_port: int, size: int) -> None:
    body = json.dumps({"method": "session-stats", "arguments": {"pad": ""}, "tag": 7}).encode()
    padded = body.replace(b'"pad": ""', b'"pad": "%b"' % (b"x" * (size - len(body))))
    assert len(padded) == size
    with Client(open_port) as client:
        answer = client.call(padded)
    assert (answer["result"], answer["tag"]) == ("success", 7)


def test_larger_ones_than_any_torrent_are_refused_unread(open_port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", open_port, timeout=LIMIT)
    connection.putrequest("POST", "/transmission/rpc")
    connection.putheader("Content-Length", str(MAX_BODY + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    connection.close()


def test_clients_that_dawdle_keep_nobody_else_out(open_port: int) -> None:
    with ExitStack() as stack:
        for number in range(MAX_CONNECTIONS + 20):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", open_port), LIMIT))
            slow.sendall(b"POST /transmission/rpc HTTP/1.1\r\nHost: localhost\r\nX-%d: " % number)
        client = stack.enter_context(Client(open_port))
        began = time.monotonic()
        assert client.call(b'{"method": "session-stats"}')["result"] == "success"
        assert time.monotonic() - began < 5  # not when their time is over


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 409),
        ("localhost:9091", 409),
        ("[::1]:9091", 409),
        ("LOCALHOST.", 409),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(open_port: int, host: str, status: int) -> None:
    with Client(open_port) as client:
        assert client.post(b'{"method": "session-get"}', Host=host)[0] == status
        for path in ("/", "/metrics", "/transmission/rpc/"):
            client.connection.request("GET", path, headers={"Host": host})
            response = client.connection.getresponse()
            response.read()
            assert (response.status == 421) is (status == 421)
