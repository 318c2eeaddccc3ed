"""Who may ask the daemon: password, host name and session id, and the brake on guessing passwords.

HTTP Basic (RFC 7617).  Without a password every program of this machine may ask, and so could every web page in a
browser on it whose name was made to resolve to 127.0.0.1 (DNS rebinding): therefore only ``localhost``, addresses and
configured names pass as Host.  With a password any name passes, as with Transmission: a browser hands a password to
the site that it was typed for, and to no other.  The session id of Transmission's RPC keeps other sites from posting.
"""

from __future__ import annotations

import hmac
import math
import secrets
import string
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Collection
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

import trio

from swarm.daemon.http import Request, Response, text

SESSION_HEADER = "X-Transmission-Session-Id"
SESSION_LENGTH = 48
SESSION_AGE = 3600.0
"""Seconds for which a session id is good; who comes with an old one is told the new one."""

FREE_TRIES = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds until an address is listened to again after a wrong password: after FREE_TRIES, doubled with each.

Not longer: a program with a wrong password that asks every minute must not lock out a person at the same address."""

FORGIVEN_AFTER = 900.0
"""Seconds without a wrong password."""

MAX_ADDRESSES = 10_000
"""Addresses remembered; beyond it the one that failed longest ago is forgotten."""

_ALPHABET = string.ascii_letters + string.digits


class SessionId:
    """The id that a client of Transmission's RPC has to send back, fresh every hour.

    ``clock`` gives seconds; trio's by default.
    """

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._value = ""
        self._until = -math.inf

    @property
    def value(self) -> str:
        now = self._clock()
        if now >= self._until:
            self._value = "".join(secrets.choice(_ALPHABET) for _ in range(SESSION_LENGTH))
            self._until = now + SESSION_AGE
        return self._value

    def is_held_by(self, request: Request) -> bool:
        """Whether the client knows the id, which only somebody with access was told."""
        told = request.headers.get(SESSION_HEADER.lower(), "")
        return hmac.compare_digest(told.encode(), self.value.encode())


class Access:
    """Lets requests pass or says what to answer.  ``user`` None: any name goes with the password.

    ``names`` are host names that pass without a password, beside ``localhost`` and addresses; ``*.example.org`` stands
    for all names below, ``*`` for all there are.
    """

    def __init__(
        self,
        session: SessionId,
        *,
        user: str | None = None,
        password: str | None = None,
        names: Collection[str] = (),
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._session = session
        self._user = user
        self._expected = None if password is None else _digest(user or "", password)
        self._names = frozenset(name.lower().rstrip(".") for name in names)
        self._clock = clock
        self._brake = Brake()

    def refusal(self, request: Request) -> Response | None:
        """401 without the password, 429 after too many wrong ones, 421 for a host name that is not ours."""
        if self._expected is not None:
            return self._password_refusal(request, self._expected)
        if request.remote and not self._is_ours(_host_of(request.headers.get("host", ""))):
            return text(
                421,
                "This host name is not known here. Ask by an address or as localhost, let the daemon know the name, "
                "or give it a password.",
            )
        return None

    def _password_refusal(self, request: Request, expected: bytes) -> Response | None:
        given = request.headers.get("authorization")
        if given is None:
            return _unauthorized()
        now, known = self._clock(), self._session.is_held_by(request)
        wait = 0.0 if known else self._brake.wait(request.remote, now)
        if wait > 0:  # not even looked at: otherwise the pause would slow nobody down
            return text(429, "Too many wrong passwords.", [("Retry-After", str(math.ceil(wait)))])
        if hmac.compare_digest(self._digest_untrusted(given), expected):
            return None
        self._brake.failed(request.remote, now)
        return _unauthorized()

    def _digest_untrusted(self, authorization: str) -> bytes:
        """Of user and password; of nothing where there are none."""
        scheme, _, encoded = authorization.partition(" ")
        try:
            decoded = b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
        except (Base64Error, ValueError):
            return b""
        user, colon, password = decoded.partition(b":")
        if not colon:
            return b""
        return _digest("" if self._user is None else user, password)

    def _is_ours(self, host: str) -> bool:
        if host == "localhost" or _is_address(host) or not self._names.isdisjoint((host, "*")):
            return bool(host)
        labels = host.split(".")
        return any(".".join(["*", *labels[start:]]) in self._names for start in range(1, len(labels)))


@dataclass(slots=True)
class _Failures:
    count: int
    until: float
    """When the address is listened to again."""
    last: float


class Brake:
    """Makes guessing slow, per address (IPv6: per /64)."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failures] = {}  # the latest last

    def wait(self, remote: str, now: float) -> float:
        """Seconds until ``remote`` may try; 0 for now."""
        failures = self._failures.get(_network_of(remote))
        return max(failures.until - now, 0.0) if failures is not None else 0.0

    def failed(self, remote: str, now: float) -> None:
        """``remote`` had a wrong password."""
        key = _network_of(remote)
        failures = self._failures.pop(key, None)
        if failures is None or now - failures.last > FORGIVEN_AFTER:
            failures = _Failures(0, now, now)
        failures.count += 1
        failures.last = now
        if failures.count >= FREE_TRIES:
            pause = FIRST_PAUSE * 2.0 ** min(failures.count - FREE_TRIES, 16)
            failures.until = now + min(pause, LONGEST_PAUSE)
        self._failures[key] = failures
        if len(self._failures) > MAX_ADDRESSES:
            del self._failures[next(iter(self._failures))]


def _unauthorized() -> Response:
    return text(401, headers=[("WWW-Authenticate", 'Basic realm="swarm", charset="UTF-8"')])


def _digest(user: str | bytes, password: str | bytes) -> bytes:
    """Of one length whatever was sent, so that a comparison takes one time."""
    parts = [part.encode() if isinstance(part, str) else part for part in (user, password)]
    return sha256(b"".join(sha256(part).digest() for part in parts)).digest()


def _host_of(header: str) -> str:
    """The name or address in a Host header, without port, brackets and a final dot."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _network_of(remote: str) -> str:
    try:
        address = ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address)
