"""The daemon's web page: static files from the wheel, and what the browser is told about them.

`routes` is all that a browser or Prometheus may ask for: the page itself, its feed (`swarm.daemon.feed`) and the
metrics (`swarm.daemon.metrics`).  All of it is read-only, so that no request, wherever it was forged, changes anything.

The policy (CSP level 3) lets the page run its one script and its one style sheet and talk to where it came from;
nothing may be put in by text (Trusted Types), framed, submitted or loaded from elsewhere.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Protocol

from swarm.daemon.feed import Feed
from swarm.daemon.http import Header, Request, Response, Route, text
from swarm.daemon.metrics import Metrics
from swarm.daemon.view import Shown, View

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS: tuple[Header, ...] = (
    ("Content-Security-Policy", POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),  # asked for every time, and mostly answered by 304
)

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""By path: the file in this package's directory "page", and what it is."""


class StaticFile:
    """One file of the page, read once."""

    def __init__(self, name: str, content_type: str) -> None:
        self._data = files("swarm.daemon").joinpath("page", name).read_bytes()
        self._tag = f'"{hashlib.sha256(self._data).hexdigest()[:32]}"'
        self._headers = (*HEADERS, ("ETag", self._tag))
        self._content_type = content_type

    async def answer(self, request: Request) -> Response:
        """The route."""
        if request.method != "GET":
            return text(405, headers=[("Allow", "GET, HEAD")])
        if _names(request.headers.get("if-none-match", ""), self._tag):
            return Response(304, self._headers)
        return Response(200, [("Content-Type", self._content_type), *self._headers], self._data)


class Node(Protocol):
    """What of a `swarm.node.Node` is shown."""

    @property
    def standing(self) -> Advises: ...
    def document(self) -> dict[str, Any]: ...


class Advises(Protocol):
    """A `swarm.connect.standing.Standing`."""

    def advice(self) -> Sequence[str]: ...


class Session(Protocol):
    """What of a `swarm.daemon.session.Session` is shown."""

    @property
    def node(self) -> Node: ...
    @property
    def entries(self) -> Mapping[int, Shown]: ...


def routes(session: Session) -> dict[str, Route]:
    """Everything but the RPC."""

    def entries() -> Mapping[int, Shown]:
        return session.entries

    node = session.node
    view = View(entries, node.document, node.standing.advice, time.time)
    return {
        **{path: StaticFile(name, content_type).answer for path, (name, content_type) in FILES.items()},
        "/events": Feed(view.look, time.perf_counter).answer,
        "/metrics": Metrics(entries, node.document).answer,
    }


def _names(if_none_match: str, tag: str) -> bool:
    """Whether the client has it already (RFC 9110 §13.1.2: a weak comparison)."""
    given = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return tag in given or given == ["*"]
