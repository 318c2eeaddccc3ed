"""A small HTTP/1.1 server (RFC 9110, RFC 9112) for the daemon's own routes: h11 on trio.

TCP or a unix socket, keep-alive, pipelined requests one after the other, bodies that are known or that go on until the
client leaves (server-sent events).  Everything a client can send or leave out is bounded: the head, the body, the
time for both, the time in which it takes an answer, and the connections.  No TLS, no compression, no files.
Who may ask at all is `swarm.daemon.access`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio

from swarm import __version__

MAX_HEAD = 32 << 10
"""Bytes of a request line and headers, and of chunk headers and trailers."""

MAX_BODY = 48 << 20
"""Bytes: the largest torrent file that is read (32 MiB), as base64 within JSON."""

BIG_BODY = 1 << 20
BIG_BODIES = 2
"""Bodies beyond BIG_BODY that are gathered at the same time; further ones wait their turn."""

MAX_CONNECTIONS = 128
"""Beyond it the connection that has been idle longest makes room; if none is idle, the new one is refused (503)."""

HEAD_DEADLINE = 75.0
"""Seconds for the head of a request, the idle time before it included."""

BODY_DEADLINE = 15.0
MIN_RATE = 32 << 10
"""A body may take BODY_DEADLINE seconds, and a second more for each MIN_RATE bytes that have come."""

SEND_DEADLINE = 30.0
"""Seconds in which a client has to take SEND_SIZE bytes of an answer."""

SEND_SIZE = 64 << 10
READ_SIZE = 64 << 10

MAX_QUERY = 50
"""Fields of a query."""

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked.  ``remote`` is the client's address without port, "" behind a unix socket.

    ``path`` is percent-decoded, without the query; of ``query`` fields given twice the last counts.  Names in
    ``headers`` are lower-case; repeated ones are joined by ", ".  A HEAD arrives as GET: the server leaves the body
    of the answer out.
    """

    method: str
    target: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    remote: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered.  A ``body`` that is an AsyncIterator goes on until it ends or the client leaves.

    Date, Server, Content-Length and the like are the server's.  When the client leaves, the iterator is cancelled
    where it waits; an async generator is closed.
    """

    status: int
    headers: Sequence[Header] = ()
    body: bytes | AsyncIterator[bytes] = b""


Route = Callable[[Request], Awaitable[Response]]
"""A route raises nothing: an exception is a bug of ours and ends the daemon."""


class Access(Protocol):
    """Who may ask."""

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not be made, before its body is read; None if it may."""


async def serve(
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
    routes: Mapping[str, Route],
    access: Access,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on ``listeners`` until cancelled; ``routes`` are by path, exactly.  Closes the listeners."""
    server = _Server(routes, access)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.handle, list(listeners))
        task_status.started()


def text(status: int, message: str = "", headers: Sequence[Header] = ()) -> Response:
    """A plain answer for a person; by default the words for ``status``."""
    body = (message or HTTPStatus(status).phrase) + "\n"
    return Response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], body.encode())


class _Refused(Exception):
    """The request cannot be served, and what follows on the connection cannot be understood."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Gone(Exception):
    """The client left, or was too slow."""


class _Server:
    """What connections share."""

    def __init__(self, routes: Mapping[str, Route], access: Access) -> None:
        self.access = access
        self.big_bodies = trio.Semaphore(BIG_BODIES)
        self._routes = routes
        self._connections: set[_Connection] = set()

    async def handle(self, stream: trio.abc.Stream) -> None:
        connection = _Connection(stream, self)
        full = len(self._connections) >= MAX_CONNECTIONS and not self._make_room()
        self._connections.add(connection)
        try:
            await (connection.refuse(503) if full else connection.run())
        except (_Gone, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._connections.remove(connection)
            await trio.aclose_forcefully(stream)

    def _make_room(self) -> bool:
        idle = [connection for connection in self._connections if connection.idle_since < math.inf]
        if not idle:
            return False
        min(idle, key=lambda connection: connection.idle_since).hang_up()
        return True

    async def answer(self, request: Request) -> Response:
        route = self._routes.get(request.path)
        return text(404) if route is None else await route(request)


class _Connection:
    """One client, request after request."""

    def __init__(self, stream: trio.abc.Stream, server: _Server) -> None:
        self.idle_since = math.inf
        """When the wait for a request began; infinite while one is being served."""
        self._stream = stream
        self._server = server
        self._remote = _address_of(stream)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._waiting = trio.CancelScope()

    def hang_up(self) -> None:
        """End a connection that waits for a request."""
        self.idle_since = math.inf
        self._waiting.cancel()

    async def run(self) -> None:
        while True:
            try:
                head = await self._next_head()
                if head is None:
                    return
                await self._serve(head)
            except _Refused as refused:
                await self.refuse(refused.status, refused.message)
                return
            if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                await self._part()
                return
            self._h11.start_next_cycle()

    async def refuse(self, status: int, message: str = "") -> None:
        """Answer without having understood, and part."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(text(status, message, [("Connection", "close")]), head_only=False)
        await self._part()

    async def _next_head(self) -> h11.Request | None:
        """The next request without its body; None when the client has no more, or lets us wait."""
        self.idle_since = trio.current_time()
        self._waiting = trio.CancelScope(deadline=self.idle_since + HEAD_DEADLINE)
        event: object = None
        with self._waiting:
            event = await self._next_event()
        self.idle_since = math.inf
        return event if isinstance(event, h11.Request) else None

    async def _serve(self, head: h11.Request) -> None:
        request = _request_untrusted(head, self._remote)
        response = self._server.access.refusal(request)
        if response is None:
            if int(request.headers.get("content-length", "0")) > MAX_BODY:  # digits: h11 saw to it
                raise _Refused(413)
            async with self._body() as body:
                response = await self._server.answer(replace(request, body=body))
        else:
            await self._skip_body()
        await self._send(response, head_only=head.method == b"HEAD")

    # -- receiving --------------------------------------------------------------------------------------------------

    def _body(self) -> _Body:
        return _Body(self._next_event, self._continue, self._server.big_bodies)

    async def _skip_body(self) -> None:
        """Read on to the next request, if that is near; otherwise the connection ends with the answer."""
        if self._h11.they_are_waiting_for_100_continue:
            return
        with trio.move_on_after(1.0):
            left = SEND_SIZE
            while left > 0 and isinstance(event := await self._next_event(), h11.Data):
                left -= len(event.data)

    async def _continue(self) -> None:
        """Ask for the body, where the client waits to be asked (curl does, from 1 MiB on)."""
        if self._h11.they_are_waiting_for_100_continue:
            await self._send_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        """Raises _Refused for what is no HTTP."""
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise _Refused(error.error_status_hint, str(error)) from None
            if not isinstance(event, type) or event is h11.PAUSED:
                return event
            self._h11.receive_data(bytes(await self._stream.receive_some(READ_SIZE)))

    # -- sending ----------------------------------------------------------------------------------------------------

    async def _send(self, response: Response, *, head_only: bool) -> None:
        body = response.body
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Server", f"swarm/{__version__}"),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers,
        ]
        if isinstance(body, bytes) and response.status not in (204, 304):
            headers.append(("Content-Length", str(len(body))))
        await self._send_event(h11.Response(status_code=response.status, headers=headers))
        if isinstance(body, bytes):
            if body and not head_only:
                await self._send_event(h11.Data(data=body))
        elif head_only:
            await _close(body)
        else:
            await self._send_until_left(body)
        await self._send_event(h11.EndOfMessage())

    async def _send_until_left(self, body: AsyncIterator[bytes]) -> None:
        """Send what comes, watching for the client's end.  Raises _Gone if that comes first."""
        complete = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                async for data in body:
                    await self._send_event(h11.Data(data=data))
                complete = True
            except (_Gone, trio.BrokenResourceError):  # they would come out of the nursery in a group
                pass
            finally:
                with trio.CancelScope(shield=True):
                    await _close(body)
            nursery.cancel_scope.cancel()
        if not complete:
            raise _Gone

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when the client is gone.  A pipelined request is kept, and ends the watching."""
        try:
            received = await self._stream.receive_some(READ_SIZE)
        except trio.BrokenResourceError:
            received = b""
        if received:
            self._h11.receive_data(bytes(received))
        else:
            scope.cancel()

    async def _send_event(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if not data:
            return
        view = memoryview(data)
        for start in range(0, len(view), SEND_SIZE):
            with trio.move_on_after(SEND_DEADLINE) as scope:
                await self._stream.send_all(view[start : start + SEND_SIZE])
            if scope.cancelled_caught:
                raise _Gone

    async def _part(self) -> None:
        """Close behind what was sent: to close over unread bytes would make the kernel drop the answer."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with trio.move_on_after(1.0):
                await self._stream.send_eof()
                left = 16 * READ_SIZE
                while left > 0 and (data := await self._stream.receive_some(READ_SIZE)):
                    left -= len(data)


class _Body:
    """Gathers the body of one request; the memory of a big one is accounted for until the request is served."""

    def __init__(
        self,
        next_event: Callable[[], Awaitable[h11.Event | type[h11.PAUSED]]],
        ask_for_it: Callable[[], Awaitable[None]],
        big_bodies: trio.Semaphore,
    ) -> None:
        self._next_event = next_event
        self._ask_for_it = ask_for_it
        self._big_bodies = big_bodies
        self._big = False

    async def __aenter__(self) -> bytes:
        """The whole body.  Raises _Refused for too much of it, and for one that is too slow."""
        try:
            return await self._gather()
        except BaseException:
            self._give_back()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    async def _gather(self) -> bytes:
        await self._ask_for_it()
        body = bytearray()
        with trio.move_on_after(BODY_DEADLINE) as scope:
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data
                scope.deadline += len(event.data) / MIN_RATE
                if len(body) > MAX_BODY:
                    raise _Refused(413)
                if len(body) > BIG_BODY and not self._big:
                    await self._wait_for_turn(scope)
        if scope.cancelled_caught:
            raise _Refused(408)
        return bytes(body)

    async def _wait_for_turn(self, scope: trio.CancelScope) -> None:
        left, scope.deadline = scope.deadline - trio.current_time(), math.inf
        await self._big_bodies.acquire()
        self._big = True
        scope.deadline = trio.current_time() + left

    def _give_back(self) -> None:
        if self._big:
            self._big = False
            self._big_bodies.release()


def _request_untrusted(head: h11.Request, remote: str) -> Request:
    """Raises _Refused for a target that is none."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "content-length" in headers and "transfer-encoding" in headers:  # RFC 9112 §6.3: the mark of a smuggled request
        raise _Refused(400, "There are two statements of where this request ends.")
    target = head.target.decode("latin-1")
    try:
        # A proxy is asked by a whole URL, which a server has to take as well (RFC 9112 §3.2.2).
        path, _, query = (target if target.startswith("/") else _origin_form(target)).partition("?")
        fields = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY))
    except ValueError as error:
        raise _Refused(400, str(error)) from None
    method = head.method.decode("ascii")
    return Request("GET" if method == "HEAD" else method, target, unquote(path), fields, headers, remote=remote)


def _origin_form(target: str) -> str:
    parts = urlsplit(target)
    return f"{parts.path or '/'}?{parts.query}"


def _address_of(stream: trio.abc.Stream) -> str:
    """The client's address; "" where it has none."""
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        name = stream.socket.getpeername()
    except OSError:  # it is gone already
        return ""
    return name[0] if isinstance(name, tuple) else ""


async def _close(body: AsyncIterator[bytes]) -> None:
    if isinstance(body, AsyncGenerator):
        async with aclosing(body):
            pass
