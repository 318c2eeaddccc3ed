"""Speaking to the daemon: Transmission's RPC (legacy protocol) over TCP or a unix socket, from a command.

Blocks; no trio.  Every failure is one sentence: `DaemonUnreachableError` (7) where no daemon answers.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarm.cli.settle import Settings, settle
from swarm.daemon.listen import Address, parse_address
from swarm.errors import DaemonUnreachableError, StorageError, SwarmError, UsageError

PATH = "/transmission/rpc"
SESSION_HEADER = "X-Transmission-Session-Id"
TIMEOUT = 60.0
"""Seconds for one answer: adding an URL waits for its server."""

MAX_ANSWER = 256 << 20


class Remote:
    """One daemon.  ``addresses`` are tried in order."""

    def __init__(self, addresses: Sequence[Address], user: str | None, password: str | None) -> None:
        self._addresses = addresses
        self._headers = {"Content-Type": "application/json"}
        if password is not None:
            pair = base64.b64encode(f"{user or ''}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """The ``arguments`` of the answer; SwarmError with the daemon's words if it refuses."""
        body = json.dumps({"method": method, "arguments": arguments}).encode()
        status, answer = self._post(body)
        if status == 409:
            status, answer = self._post(body)
        if status == 401:
            raise SwarmError("the daemon wants another name or password: give --rpc-user and --rpc-password-file")
        if status != 200:
            raise SwarmError(f"the daemon refused: {_words(answer) or status}")
        try:
            document = json.loads(answer)
            result, returned = document["result"], document.get("arguments", {})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SwarmError("what answered is no daemon of ours") from None
        if result != "success":
            raise SwarmError(f"the daemon refused: {result}")
        if not isinstance(returned, dict):
            raise SwarmError("what answered is no daemon of ours")
        return returned

    def _post(self, body: bytes) -> tuple[int, bytes]:
        failures = []
        for address in self._addresses:
            connection = _connection(address)
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                failures.append(f"{address} ({_reason(error)})")
                continue
            try:
                connection.request("POST", PATH, body, self._headers)
                response = connection.getresponse()
                answer = response.read(MAX_ANSWER)
            except (OSError, http.client.HTTPException) as error:
                raise DaemonUnreachableError(f"the daemon at {address} did not answer: {_reason(error)}") from error
            finally:
                connection.close()
            if (session := response.getheader(SESSION_HEADER)) is not None:
                self._headers[SESSION_HEADER] = session
            self._addresses = [address]
            return response.status, answer
        raise DaemonUnreachableError(
            f"no daemon answers at {' or '.join(failures)}; 'swarm daemon' starts one, --rpc names another address"
        )


def remote_of(options: Namespace) -> Remote:
    """The daemon that the options, the environment or the configuration name."""
    settings = settle(vars(options))
    return Remote(addresses_of(settings), settings.values["rpc-user"], password_of(settings))


def addresses_of(settings: Settings) -> list[Address]:
    """Where the daemon is spoken to: as said, else its unix socket (if the system has a place for it) and TCP."""
    if named := settings.values["rpc"]:
        return [parse_address(text) for text in named]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    places = [Address(path=str(Path(runtime) / "swarm.sock"))] if os.path.isabs(runtime) else []
    return [*places, Address()]


def password_of(settings: Settings) -> str | None:
    """The first line of the password file; None without one."""
    path: Path | None = settings.values["rpc-password-file"]
    user: str | None = settings.values["rpc-user"]
    if user is not None and ":" in user:  # RFC 7617 §2: what is behind it would count to the password
        raise UsageError(f"{settings.origins['rpc-user']}: a name with a colon cannot be sent")
    if path is None:
        if user is not None:
            raise UsageError(f"{settings.origins['rpc-user']} goes with a password: give --rpc-password-file, too")
        return None
    try:
        with open(path, encoding="utf-8") as file:
            password = file.readline(4096).rstrip("\r\n")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"the password in {path} is not UTF-8") from None
    if not password:
        raise UsageError(f"there is no password in {path}")
    return password


def chosen(remote: Remote, names: Sequence[str], fields: Sequence[str]) -> list[dict[str, Any]]:
    """The torrents that ``ID|HASH|all`` name; SwarmError for one that the daemon does not have."""
    known = remote.call("torrent-get", fields=sorted({"id", "hashString", "name", *fields})).get("torrents", [])
    if not names or "all" in names:
        return list(known)
    found: dict[int, dict[str, Any]] = {}
    for name in names:
        each = next((one for one in known if name.lower() in (str(one["id"]), one["hashString"])), None)
        if each is None:
            raise SwarmError(f"the daemon has no torrent {name!r}; 'swarm list' shows what it has")
        found[each["id"]] = each
    return list(found.values())


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def _connection(address: Address) -> http.client.HTTPConnection:
    if address.path is not None:
        return _UnixConnection(address.path)
    return http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT)


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return "what it says is no HTTP"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _words(answer: bytes) -> str:
    return answer.decode(errors="replace").strip()[:200]
