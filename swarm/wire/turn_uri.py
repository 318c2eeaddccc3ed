"""What the user calls a TURN server: ``turn:USER:PASSWORD@HOST:PORT?transport=udp|tcp``, ``turns:`` for TLS.

The form of RFC 7065 with credentials before the host, percent-encoded where they hold any of ``:@/?#%``.  Nothing that
this file makes shows a credential: not the repr, not an error.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from swarm.endpoint import normalise_host, split_host_port

TurnTransport = Literal["udp", "tcp", "tls"]

DEFAULT_PORT, DEFAULT_TLS_PORT = 3478, 5349
MAX_CREDENTIAL = 508
"""Bytes; what USERNAME holds (RFC 8489 §14.3)."""

_FORM = re.compile(r"(turns?):(?://)?([^@:]+):([^@]+)@([^@?]+)(?:\?transport=([a-z]+))?", re.IGNORECASE)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)").fullmatch


@dataclass(frozen=True, slots=True)
class TurnServer:
    """A server and how to talk to it; ``str`` is what may be shown."""

    host: str
    """A name, or an address without brackets."""
    port: int
    transports: tuple[TurnTransport, ...]
    """To be tried in this order: without ``?transport=`` UDP, then TCP for where UDP is blocked."""
    username: str = field(repr=False)
    password: str = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "turns" if "tls" in self.transports else "turn"
        transport = f"?transport={self.transports[0]}" if self.transports in (("udp",), ("tcp",)) else ""
        return f"{scheme}:{host}:{self.port}{transport}"


def parse_turn_uri(uri: str) -> TurnServer:
    """ValueError, which says what is wrong without repeating any of it."""
    form = _FORM.fullmatch(uri.strip())
    if form is None:
        raise ValueError("not of the form turn:USER:PASSWORD@HOST:PORT, where : and @ inside are written %3A and %40")
    scheme, username, password, where, transport = form.groups()
    secure = scheme.lower() == "turns"
    transports: dict[str | None, tuple[TurnTransport, ...]] = (
        {None: ("tls",), "tcp": ("tls",)} if secure else {None: ("udp", "tcp"), "udp": ("udp",), "tcp": ("tcp",)}
    )
    named = transport.lower() if transport is not None else None
    if named not in transports:
        raise ValueError("TLS over UDP is not spoken" if secure and named == "udp" else "the transport is udp or tcp")
    host, port = _split(where, DEFAULT_TLS_PORT if secure else DEFAULT_PORT)
    return TurnServer(host, port, transports[named], _credential(username), _credential(password))


def _split(where: str, default_port: int) -> tuple[str, int]:
    ported = re.search(r":[^\]:]*$", where) and (where.startswith("[") or where.count(":") == 1)
    try:
        host, port = split_host_port(where if ported else f"{where}:{default_port}")
    except ValueError:
        raise ValueError("the host and port are not HOST:PORT") from None
    return _host(host), port


def _host(host: str) -> str:
    try:
        return normalise_host(host)
    except ValueError:
        pass
    if ":" in host or len(host) > 253 or not all(_LABEL(label) for label in host.removesuffix(".").split(".")):
        raise ValueError("the host is neither a name nor an address")
    return host


def _credential(text: str) -> str:
    """Percent-decoded, and prepared as OpaqueString (RFC 8265 §4.2)."""
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("a credential is not UTF-8") from None
    spaced = "".join(" " if unicodedata.category(letter) == "Zs" else letter for letter in plain)
    prepared = unicodedata.normalize("NFC", spaced)
    if any(unicodedata.category(letter) == "Cc" for letter in prepared):
        raise ValueError("a credential holds a control character")
    if not 0 < len(prepared.encode()) <= MAX_CREDENTIAL:
        raise ValueError(f"a credential has 1 to {MAX_CREDENTIAL} bytes")
    return prepared
