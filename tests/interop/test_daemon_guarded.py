"""A running daemon with a password: who guesses is slowed down, who shares the machine learns nothing, who floods it
keeps nobody out."""

from __future__ import annotations

import base64
import http.client
import re
import resource
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from swarm.daemon.access import FREE_TRIES, SESSION_HEADER
from tests.interop.clients import free_port, swarm_command
from tests.needs import need_root

pytestmark = pytest.mark.interop

USER, PASSWORD = "somebody", "correct horse"
NOBODY = 65534
LIMIT = 20.0

CONNECTIONS = 10_000

CONNECT = "import os, socket, sys; os.setuid(int(sys.argv[2])); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@dataclass(frozen=True)
class Guarded:
    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.directory / "state" / "log").read_text()

    @property
    def resident(self) -> int:
        """Bytes."""
        (kilobytes,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(kilobytes) << 10

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def status(self, password: str | None, **headers: str) -> http.client.HTTPResponse:
        """The answer to somebody who asks from 127.0.0.1."""
        if password is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request("POST", "/transmission/rpc", '{"method": "session-stats"}', headers)
            answer = connection.getresponse()
            answer.read()
            return answer
        finally:
            connection.close()


@contextmanager
def guarded(directory: Path, mode: int = 0o600) -> Iterator[Guarded]:
    port, password = free_port(), directory / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(mode)
    network = ("--bind", "127.0.0.1", "-p", 0, "--no-dht", "--no-lsd", "--no-mapping", "--no-trackers")
    access = ("--rpc-user", USER, "--rpc-password-file", password, "--rpc", f"0.0.0.0:{port}")
    place = ("-o", directory / "downloads", "--rpc", f"unix:{directory}/socket", "-v")
    with swarm_command(directory / "state", "daemon", *place, *network, *access) as process:
        running = Guarded(port, directory, process)
        until(lambda: "running with" in running.log)
        until(lambda: _listens(port))
        yield running


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_guessing_is_slow_and_who_knew_the_password_before_goes_on(tmp_path: Path) -> None:
    with guarded(tmp_path) as daemon:
        session = daemon.status(PASSWORD).headers[SESSION_HEADER]
        assert session
        assert daemon.status(None).status == 401
        assert SESSION_HEADER not in daemon.status("wrong").headers
        for number in range(1, FREE_TRIES):
            assert daemon.status(f"wrong {number}").status == 401
        refused = daemon.status(PASSWORD)  # the right one is not even looked at now
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        assert daemon.status(PASSWORD, **{SESSION_HEADER: session}).status == 200
        begun = time.monotonic()
        tried = [daemon.status("guess").status for _ in range(50)]
        assert tried.count(401) <= 1 + (time.monotonic() - begun) / 0.5
        until(lambda: daemon.status(PASSWORD).status == 409)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, True)])
def test_the_password_is_seen_nowhere(tmp_path: Path, mode: int, warned: bool) -> None:
    with guarded(tmp_path, mode) as daemon:
        daemon.status(PASSWORD)
        daemon.status("another secret")
        process = Path("/proc") / str(daemon.process.pid)
        for place in (process / "cmdline", process / "environ"):
            assert PASSWORD.encode() not in place.read_bytes()
        assert PASSWORD not in daemon.log
        assert "another secret" not in daemon.log
        assert ("other users of this machine may read" in daemon.log) is warned
        kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
        assert kept
        assert not any(PASSWORD.encode() in path.read_bytes() for path in kept)


def test_another_user_of_the_machine_is_kept_out(tmp_path: Path) -> None:
    need_root()
    with guarded(tmp_path) as daemon:
        for path in (tmp_path, *tmp_path.parents[:-2]):
            path.chmod(path.stat().st_mode | 0o011)  # so that it is the socket that keeps them out
        for user, returncode in ((0, 0), (NOBODY, 1)):
            command = [sys.executable, "-c", CONNECT, f"{tmp_path}/socket", str(user)]
            done = subprocess.run(command, capture_output=True, timeout=LIMIT)
            assert done.returncode == returncode, done.stderr
        assert b"PermissionError" in done.stderr
        private = [path for path in (tmp_path / "state").rglob("daemon") if path.is_dir()]
        assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o700]
        assert daemon.process.poll() is None


@contextmanager
def files_allowed(count: int) -> Iterator[int]:
    """This process may have so many open, or as many as the system grants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    try:
        yield max(soft, allowed)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_flood_of_connections_keeps_nobody_out_and_costs_little(tmp_path: Path) -> None:
    with guarded(tmp_path) as daemon, files_allowed(CONNECTIONS + 200) as allowed, ExitStack() as opened:
        session = daemon.status(PASSWORD).headers[SESSION_HEADER]
        assert session
        before = daemon.resident
        for _ in range(min(CONNECTIONS, allowed - 200)):
            each = opened.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", daemon.port))
        begun = time.monotonic()
        for _ in range(5):
            assert daemon.status(PASSWORD, **{SESSION_HEADER: session}).status == 200
        assert time.monotonic() - begun < 10
        assert daemon.descriptors < 300
        assert daemon.resident - before < 20 << 20
