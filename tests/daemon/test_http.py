"""The daemon's HTTP server against clients that are slow, greedy, confused or gone; in memory, under virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable

import h11
import pytest
import trio
from trio.abc import Stream
from trio.testing import MockClock, memory_stream_pair

from swarm.daemon import http
from swarm.daemon.http import Request, Response, Route, serve, text
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

Connect = Callable[[], Stream]


class Doorway(trio.abc.Listener[Stream]):
    """Hands the server one end of a pair of streams and the test the other."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Stream](1000)

    def connect(self) -> Stream:
        ours, theirs = memory_stream_pair()
        self._send.send_nowait(theirs)
        return ours

    async def accept(self) -> Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._receive.close()


class Everybody:
    def refusal(self, request: Request) -> Response | None:
        return None


class Nobody:
    def refusal(self, request: Request) -> Response | None:
        return text(401)


async def echo(request: Request) -> Response:
    return Response(200, [("Content-Type", "text/plain")], request.body or request.method.encode())


class Counting:
    """A stream of numbers that goes on for ever; tells when it was stopped."""

    def __init__(self) -> None:
        self.stopped = trio.Event()

    async def __call__(self, request: Request) -> Response:
        return Response(200, [], self._numbers())

    async def _numbers(self) -> AsyncIterator[bytes]:
        try:
            number = 0
            while True:
                yield b"%d\n" % number
                number += 1
                await trio.sleep(1)
        finally:
            self.stopped.set()


@pytest.fixture
async def connect(nursery: trio.Nursery, autojump_clock: MockClock) -> Connect:
    doorway = Doorway()
    await nursery.start(serve, [doorway], {"/": echo, "/a b": echo}, Everybody())
    return doorway.connect


async def served(nursery: trio.Nursery, routes: dict[str, Route], access: http.Access | None = None) -> Connect:
    doorway = Doorway()
    await nursery.start(serve, [doorway], routes, access or Everybody())
    return doorway.connect


class Client:
    """h11's other side."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.h11 = h11.Connection(h11.CLIENT)

    async def ask(self, method: str = "GET", target: str = "/", *, body: bytes = b"", **more: str) -> Answer:
        headers = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in more.items()}}
        if body:
            headers["Content-Length"] = str(len(body))
        head = self.h11.send(h11.Request(method=method, target=target, headers=list(headers.items())))
        await self.stream.send_all(head or b"")
        if body:
            await self.stream.send_all(self.h11.send(h11.Data(data=body)) or b"")
        self.h11.send(h11.EndOfMessage())
        return await self.answer()

    async def answer(self) -> Answer:
        event = await self.event()
        assert isinstance(event, h11.Response), event
        received = bytearray()
        while isinstance(data := await self.event(), h11.Data):
            received += data.data
        if self.h11.our_state is h11.DONE and self.h11.their_state is h11.DONE:
            self.h11.start_next_cycle()
        return Answer(event.status_code, {k.decode(): v.decode() for k, v in event.headers}, bytes(received))

    async def event(self) -> object:
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            self.h11.receive_data(bytes(await self.stream.receive_some(1 << 16)))
        return event


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


async def all_of(stream: Stream) -> bytes:
    """Until the server closes."""
    received = b""
    while data := await stream.receive_some(1 << 16):
        received += data
    return received


async def raw(connect: Connect, data: bytes) -> bytes:
    stream = connect()
    await stream.send_all(data)
    return await all_of(stream)


async def test_a_request_is_answered_and_the_connection_kept_for_the_next(connect: Connect) -> None:
    client = Client(connect())
    first = await client.ask("POST", body=b"hello")
    second = await client.ask()
    assert (first.status, first.body) == (200, b"hello")
    assert (second.status, second.body) == (200, b"GET")
    assert first.headers["content-length"] == "5"
    assert "date" in first.headers
    assert first.headers["x-content-type-options"] == "nosniff"


async def test_head_is_answered_like_get_without_the_body(connect: Connect) -> None:
    client = Client(connect())
    answer = await client.ask("HEAD")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "3", b"")
    assert (await client.ask()).body == b"GET"


async def test_requests_sent_in_one_go_are_answered_in_order(connect: Connect) -> None:
    one = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n"
    last = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nConnection: close\r\n\r\nc"
    received = await raw(connect, one + b"a" + one + b"b" + last)
    assert [part[-1:] for part in received.split(b"HTTP/1.1 200")[1:]] == [b"a", b"b", b"c"]


async def test_the_path_is_decoded_and_the_query_taken_apart(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    seen: list[Request] = []

    async def route(request: Request) -> Response:
        seen.append(request)
        return text(200)

    connect = await served(nursery, {"/a b": route})
    assert (await Client(connect()).ask(target="/a%20b?x=1&x=2&y=%C3%A4&z", X_Y="1")).status == 200
    assert seen[0].path == "/a b"
    assert seen[0].query == {"x": "2", "y": "ä", "z": ""}
    assert seen[0].headers["x-y"] == "1"


async def test_a_whole_url_as_target_is_the_path_in_it(connect: Connect) -> None:
    assert (await Client(connect()).ask(target="http://localhost/?q")).status == 200


async def test_an_unknown_path_is_404(connect: Connect) -> None:
    assert (await Client(connect()).ask(target="/nowhere")).status == 404


async def test_http_1_0_is_answered_and_closed(connect: Connect) -> None:
    assert (await raw(connect, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nGET")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?" + b"a&" * 60 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
    ],
)
async def test_what_is_no_proper_request_is_refused_and_the_connection_ends(
    connect: Connect, request_: bytes, status: int
) -> None:
    assert (await raw(connect, request_)).startswith(b"HTTP/1.1 %d " % status)


async def test_a_body_of_chunks_without_end_is_cut_at_the_limit(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_BODY", 100_000)
    stream = (await served(nursery, {"/": echo}))()
    await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(12):
        await stream.send_all(b"2800\r\n" + bytes(0x2800) + b"\r\n")
    assert (await all_of(stream)).startswith(b"HTTP/1.1 413 ")


async def test_a_megabyte_is_taken_and_a_client_that_waits_to_be_asked_is_asked(connect: Connect) -> None:
    body = random.Random(1).randbytes(1 << 20)
    client = Client(connect())
    head = h11.Request(
        method="POST", target="/", headers=[("Host", "a"), ("Content-Length", str(1 << 20)), ("Expect", "100-continue")]
    )
    await client.stream.send_all(client.h11.send(head) or b"")
    assert isinstance(await client.event(), h11.InformationalResponse)
    await client.stream.send_all(client.h11.send(h11.Data(data=body)) or b"")
    client.h11.send(h11.EndOfMessage())
    assert (await client.answer()).body == body


async def test_a_client_that_sends_its_head_a_byte_at_a_time_is_cut_off(
    connect: Connect, autojump_clock: MockClock
) -> None:
    stream = connect()
    started = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        for _ in range(200):
            await stream.send_all(b"G")
            await trio.sleep(1)
    assert trio.current_time() - started == pytest.approx(http.HEAD_DEADLINE, abs=3)


async def test_a_body_that_comes_too_slowly_is_refused(connect: Connect, autojump_clock: MockClock) -> None:
    stream = connect()
    await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n")
    started = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def trickle() -> None:
            while True:
                await stream.send_all(b"x")
                await trio.sleep(1)

        nursery.start_soon(trickle)
        assert (await all_of(stream)).startswith(b"HTTP/1.1 408 ")
        nursery.cancel_scope.cancel()
    assert trio.current_time() - started < http.BODY_DEADLINE + 3


async def test_a_client_that_does_not_take_its_answer_is_cut_off(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class Stuck(trio.abc.Stream):
        """Sends one request and reads nothing."""

        def __init__(self) -> None:
            self.closed = trio.Event()
            self.request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            request, self.request = self.request, b""
            return request or await trio.sleep_forever()

        async def send_all(self, data: object) -> None:
            await trio.sleep_forever()

        async def wait_send_all_might_not_block(self) -> None: ...

        async def aclose(self) -> None:
            self.closed.set()
            await trio.lowlevel.checkpoint()

    doorway, stuck = Doorway(), Stuck()
    doorway._send.send_nowait(stuck)
    await nursery.start(serve, [doorway], {"/": echo}, Everybody())
    await stuck.closed.wait()
    assert trio.current_time() == pytest.approx(http.SEND_DEADLINE, abs=1)


async def test_who_may_not_ask_is_told_so_before_the_body_is_taken(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    connect = await served(nursery, {"/": echo}, Nobody())
    client = Client(connect())
    assert (await client.ask("POST", body=b"small")).status == 401
    assert (await client.ask("POST", body=b"again on the same connection")).status == 401
    waiting = connect()
    await waiting.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000000\r\nExpect: 100-continue\r\n\r\n")
    assert (await all_of(waiting)).startswith(b"HTTP/1.1 401 ")
    greedy = connect()
    await greedy.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000000\r\n\r\n" + bytes(1 << 20))
    assert (await all_of(greedy)).startswith(b"HTTP/1.1 401 ")


async def test_an_endless_answer_stops_when_the_client_leaves(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    counting = Counting()
    connect = await served(nursery, {"/": counting})
    client = Client(connect())
    await client.stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    client.h11.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.h11.send(h11.EndOfMessage())
    assert isinstance(await client.event(), h11.Response)
    numbers = [await client.event() for _ in range(3)]
    assert [bytes(event.data) for event in numbers if isinstance(event, h11.Data)] == [b"0\n", b"1\n", b"2\n"]
    await client.stream.aclose()
    with trio.fail_after(2):
        await counting.stopped.wait()


async def test_a_head_of_an_endless_answer_ends(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    counting = Counting()
    client = Client((await served(nursery, {"/": counting}))())
    assert (await client.ask("HEAD")).status == 200
    assert (await client.ask("HEAD")).status == 200


async def test_an_endless_answer_that_ends_is_followed_by_the_next_request(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def three(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for part in (b"a", b"b", b"c"):
                yield part

        return Response(200, [], body())

    connect = await served(nursery, {"/": three})
    client = Client(connect())
    assert (await client.ask()).body == b"abc"
    assert (await client.ask()).body == b"abc"
    pipelined = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert (await raw(connect, pipelined)).count(b"200 ") == 2


async def test_when_all_places_are_taken_the_longest_idle_connection_makes_room(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)
    connect = await served(nursery, {"/": echo})
    clients = []
    for _ in range(3):
        clients.append(Client(connect()))
        assert (await clients[-1].ask()).status == 200
        await trio.sleep(1)
    assert (await Client(connect()).ask()).status == 200
    assert await clients[0].stream.receive_some(1) == b""
    assert (await clients[1].ask()).status == 200


async def test_when_nobody_is_idle_a_further_client_is_refused(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    connect = await served(nursery, {"/": Counting()})
    busy = [connect(), connect()]
    for stream in busy:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await stream.receive_some()
    assert (await all_of(connect())).startswith(b"HTTP/1.1 503 ")


async def test_big_bodies_wait_for_each_other(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BIG_BODY", 1000)
    serving = most = 0

    async def slow(request: Request) -> Response:
        nonlocal serving, most
        serving += 1
        most = max(most, serving)
        await trio.sleep(1)
        serving -= 1
        return text(200)

    connect = await served(nursery, {"/": slow})
    answers: list[int] = []

    async def one() -> None:
        answers.append((await Client(connect()).ask("POST", body=bytes(5000))).status)

    async with trio.open_nursery() as clients:
        for _ in range(7):
            clients.start_soon(one)
    assert answers == [200] * 7
    assert most == http.BIG_BODIES


async def test_fuzzed_requests_never_hurt_the_server(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    connect = await served(nursery, {"/": echo})
    valid = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /?a=b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ]
    count = min(fuzz_count(), 20_000) // 4
    for data in [*mutations(rng, valid, count), *random_bytes_cases(rng, 200, count // 4)]:
        stream = connect()
        await stream.send_all(data)
        await stream.send_eof()
        received = await all_of(stream)
        assert not received or received.startswith(b"HTTP/1.1 "), (seed, data)
    assert (await Client(connect()).ask()).status == 200


async def test_over_real_sockets_the_client_is_known_by_its_address(nursery: trio.Nursery) -> None:
    seen: list[Request] = []

    async def route(request: Request) -> Response:
        seen.append(request)
        return text(200)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await nursery.start(serve, listeners, {"/": route}, Everybody())
    async with await trio.testing.open_stream_to_socket_listener(listeners[0]) as stream:
        assert (await Client(stream).ask()).status == 200
    assert seen[0].remote == "127.0.0.1"
    nursery.cancel_scope.cancel()
