"""Transmission's RPC, the legacy protocol of Transmission 4.0.6 (rpc-version 17), as an HTTP route.

A POST of ``{"method": NAME, "arguments": {…}, "tag": ANY}`` is answered by ``{"result": "success" | ERROR,
"arguments": {…}, "tag": the same}``, with status 200 in either case.  Who does not know the session id gets 409 and the
id, whatever is asked.  JSON-RPC 2.0, which came with Transmission 4.1, is not spoken: clients use it only where a
server says ``X-Transmission-Rpc-Version``, which is not said here.

The methods are in `swarm.daemon.rpc_session`, `swarm.daemon.rpc_torrents` and `swarm.daemon.rpc_add`; here is what they
have in common.  Source: docs/rpc-spec.md of Transmission 4.0.6, and what its clients do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from swarm.daemon.access import SESSION_HEADER, SessionId
from swarm.daemon.http import Request, Response, text
from swarm.daemon.rpc_add import Adding
from swarm.daemon.rpc_arguments import Arguments, RpcError, parse_request_untrusted
from swarm.daemon.rpc_session import SessionMethods
from swarm.daemon.rpc_torrents import TorrentMethods
from swarm.daemon.session import Session
from swarm.errors import SwarmError
from swarm.torrent.disk import Runner, threads

PATHS = ("/transmission/rpc", "/transmission/rpc/")

TAKES_NONE = {"session-stats", "session-close", "port-test", "blocklist-update", "swarm-connectivity"}
"""Methods without arguments.  What is sent as such is passed over: tremc sends a number with ``session-stats``."""

Method = Callable[[Arguments], Awaitable[Mapping[str, Any]]]
"""Arguments in, arguments out.  A SwarmError becomes the result."""


class Rpc:
    """Answers calls about ``session``; `answer` is the route for every one of PATHS."""

    def __init__(self, session: Session, session_id: SessionId, *, runner: Runner | None = None) -> None:
        runner = runner or threads()
        self._session_id = session_id
        self._methods: dict[str, Method] = {
            **TorrentMethods(session).methods,
            **SessionMethods(session, session_id, runner).methods,
            "torrent-add": Adding(session, runner).add,
        }

    async def answer(self, request: Request) -> Response:
        """A `swarm.daemon.http.Route`."""
        if not self._session_id.is_held_by(request):  # even for a GET: Sonarr fetches the id with one
            return _told(self._session_id.value)
        if request.method != "POST":
            return text(405, headers=[("Allow", "POST")])
        document = await self.call_untrusted(request.body)
        body = json.dumps(document, separators=(",", ":")).encode()
        return Response(200, [("Content-Type", "application/json; charset=UTF-8"), ("Cache-Control", "no-store")], body)

    async def call_untrusted(self, body: bytes) -> Mapping[str, Any]:
        """The answer to one call."""
        answer: dict[str, Any] = {}
        try:
            request = parse_request_untrusted(body)
            if _is_tag(tag := request.get("tag")):
                answer["tag"] = tag
            answer |= {"arguments": await self._call(request), "result": "success"}
        except RpcError as error:
            answer |= {"arguments": error.arguments, "result": str(error)}
        except SwarmError as error:
            answer |= {"arguments": {}, "result": str(error)}
        return answer

    async def _call(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        name, arguments = request.get("method"), request.get("arguments")
        if not isinstance(name, str):
            raise RpcError("no method name")
        method = self._methods.get(name)
        if method is None:
            raise RpcError("method name not recognized")
        if name in TAKES_NONE:
            arguments = None
        if arguments is not None and not isinstance(arguments, dict):
            # Transmission reads it as "no arguments"; then torrent-remove would stand for all torrents.
            raise RpcError("arguments: an object is expected")
        return await method(Arguments(arguments or {}))


def _is_tag(tag: object) -> bool:
    """Clients send integers; nothing is said against other values of one piece that JSON can write."""
    return isinstance(tag, int | str) or (isinstance(tag, float) and math.isfinite(tag))


def _told(session_id: str) -> Response:
    return text(
        409,
        f"This request lacks the right session id. Send it again with the header\n{SESSION_HEADER}: {session_id}",
        [(SESSION_HEADER, session_id)],
    )
