"""The HTTP client against scripted servers on loopback, well-behaved and not."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import swarm
from swarm.endpoint import Endpoint
from swarm.net.happy_eyeballs import dial_first, interleave_families
from swarm.net.http import HttpError, _Body, fetch, parse_url
from swarm.net.network import Stream
from swarm.net.secured import TrioStream
from tests.loopback import LoopbackNetwork

LOCAL = Endpoint("127.0.0.1", 0)
LOCAL6 = Endpoint("::1", 0)

Handler = Callable[[trio.abc.Stream, bytes], Awaitable[None]]


@asynccontextmanager
async def serving(
    network: LoopbackNetwork, handler: Handler, local: Endpoint = LOCAL, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server that reads one request's head and lets ``handler`` write whatever it likes; yields its port."""
    listener = await network.listen_tcp(local)

    async def serve_one(stream: Stream) -> None:
        transport: trio.abc.Stream = TrioStream(stream)
        if tls is not None:
            transport = trio.SSLStream(transport, tls, server_side=True, https_compatible=True)
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await transport.receive_some()
                if not data:
                    return
                head += data
            await handler(transport, head)
            if tls is not None:
                await transport.aclose()
            else:
                await stream.send_eof()
                await transport.receive_some()
        except trio.BrokenResourceError:
            return  # the client had enough
        finally:
            stream.abort()

    async def serve() -> None:
        while True:
            nursery.start_soon(serve_one, await listener.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield listener.local.port
        nursery.cancel_scope.cancel()
    listener.close()


def answering(*chunks: bytes) -> Handler:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        for chunk in chunks:
            await stream.send_all(chunk)

    return handler


def ok(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def failing(handler: Handler, **options: object) -> HttpError:
    network = LoopbackNetwork()
    with trio.fail_after(5):
        async with serving(network, handler) as port:
            with pytest.raises(HttpError) as caught:
                await fetch(network, f"http://127.0.0.1:{port}/", **options)  # type: ignore[arg-type]
    return caught.value


async def fetching(handler: Handler, path: str = "/") -> bytes:
    network = LoopbackNetwork()
    with trio.fail_after(5):
        async with serving(network, handler) as port:
            return (await fetch(network, f"http://127.0.0.1:{port}{path}")).body


async def test_a_body_with_a_length() -> None:
    seen: list[bytes] = []

    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        seen.append(head)
        await stream.send_all(ok(b"hello", b"X-One: 1"))

    network = LoopbackNetwork({"tracker.example": ["127.0.0.1"]})
    async with serving(network, handler) as port:
        response = await fetch(
            network, f"http://us%3Aer:p%40ss@tracker.example:{port}/a b?c=%00ü#frag", headers=[("X-More", "yes")]
        )
    assert (response.status, response.body, response.header("x-one")) == (200, b"hello", "1")
    assert response.url == f"http://tracker.example:{port}/a%20b?c=%00%C3%BC"
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "GET /a%20b?c=%00%C3%BC HTTP/1.1"
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
    assert headers == {
        "host": f"tracker.example:{port}",
        "user-agent": f"swarm/{swarm.__version__}",
        "accept": "*/*",
        "accept-encoding": "gzip",
        "connection": "close",
        "authorization": "Basic dXM6ZXI6cEBzcw==",
        "x-more": "yes",
    }


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\n\nhello",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok(b"hello"),
        ok(gzip.compress(b"hello"), b"Content-Encoding: gzip"),
        ok(zlib.compress(b"hello"), b"Content-Encoding: deflate"),
        ok(gzip.compress(b"hello") + b"trailing", b"Content-Encoding: x-gzip"),
        ok(b"hello", b"Content-Encoding: identity"),
    ],
)
async def test_every_form_of_body_whole_and_byte_by_byte(answer: bytes) -> None:
    assert await fetching(answering(answer)) == b"hello"
    assert await fetching(answering(*(answer[at : at + 1] for at in range(len(answer))))) == b"hello"


async def test_an_empty_compressed_body_is_empty() -> None:
    assert await fetching(answering(ok(b"", b"Content-Encoding: gzip"))) == b""


async def test_a_range_is_asked_for_uncompressed() -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        assert b"Accept-Encoding: identity" in head
        await stream.send_all(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n\r\nel")

    network = LoopbackNetwork()
    async with serving(network, handler) as port:
        response = await fetch(network, f"http://127.0.0.1:{port}/", headers=[("Range", "bytes=1-2")])
    assert (response.status, response.body) == (206, b"el")


async def test_a_status_of_failure_keeps_its_body() -> None:
    error = await failing(answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone"))
    assert error.reason == "http-404"
    assert error.response is not None
    assert error.response.body == b"gone"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "connection-lost"),
        (b"HTTP/1.1 200", "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "bad-http"),
        (b"ICY 200 OK\r\n\r\nhello", "bad-http"),
        (b"\x16\x03\x01\x00\xa5\x01\r\n\r\n", "bad-http"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "bad-http"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "too-large"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 15_000, "too-large"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "http-302"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\r\n", "bad-url"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n", "bad-url"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "http-304"),
        (ok(b"hello", b"Content-Encoding: br"), "bad-encoding"),
        (ok(b"hello", b"Content-Encoding: gzip, gzip"), "bad-encoding"),
        (ok(b"hello", b"Content-Encoding: gzip"), "bad-encoding"),
        (ok(gzip.compress(b"hello")[:-6], b"Content-Encoding: gzip"), "bad-encoding"),
    ],
)
async def test_a_broken_answer_is_named(answer: bytes, reason: str) -> None:
    error = await failing(answering(answer))
    assert error.reason == reason
    assert str(error).isprintable()


async def test_a_gibibyte_announced_is_not_read() -> None:
    error = await failing(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"))
    assert error.reason == "too-large"


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
async def test_a_gibibyte_not_announced_is_left_at_the_limit(head: bytes) -> None:
    sent = 0
    block = bytes(1 << 16) if b"chunked" not in head else b"10000\r\n" + bytes(1 << 16) + b"\r\n"

    async def handler(stream: trio.abc.Stream, request: bytes) -> None:
        nonlocal sent
        await stream.send_all(head)
        while sent < 1 << 30:
            await stream.send_all(block)
            sent += 1 << 16

    error = await failing(handler, max_body=100_000)
    assert error.reason == "too-large"
    assert sent < 1 << 25


async def test_a_gzip_bomb_is_left_at_the_limit() -> None:
    bomb = gzip.compress(bytes(1 << 26), 9)  # 64 MiB in 64 kB
    error = await failing(answering(ok(bomb, b"Content-Encoding: gzip")), max_body=1 << 20)
    assert error.reason == "too-large"


def test_a_gzip_bomb_never_takes_the_memory_it_is_after() -> None:
    bomb = gzip.compress(bytes(1 << 26), 9)
    body = _Body([("content-encoding", "gzip")], 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(HttpError):
            body.feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


async def test_a_gibibyte_behind_the_compressed_data_is_left_at_the_limit() -> None:
    sent = 0

    async def handler(stream: trio.abc.Stream, request: bytes) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"hello"))
        while sent < 1 << 30:
            await stream.send_all(bytes(1 << 16))
            sent += 1 << 16

    error = await failing(handler, max_body=100_000)
    assert error.reason == "too-large"
    assert sent < 1 << 25


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    network = LoopbackNetwork()
    for answer in (ok(b"x" * 1000), ok(gzip.compress(b"x" * 1000), b"Content-Encoding: gzip")):
        async with serving(network, answering(answer)) as port:
            assert len((await fetch(network, f"http://127.0.0.1:{port}/", max_body=1000)).body) == 1000
            with pytest.raises(HttpError):
                await fetch(network, f"http://127.0.0.1:{port}/", max_body=999)


async def test_a_server_that_hangs_is_ended_by_the_callers_scope() -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await trio.sleep_forever()

    network = LoopbackNetwork()
    async with serving(network, handler) as port:
        with trio.move_on_after(0.05) as scope:
            await fetch(network, f"http://127.0.0.1:{port}/")
    assert scope.cancelled_caught


def redirect(to: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_and_keeps_the_authorization(status: int) -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        assert b"Authorization: Basic dTpw" in head
        await stream.send_all(redirect("../c?d", status) if head.startswith(b"GET /a/b ") else ok(head.split()[1]))

    network = LoopbackNetwork()
    async with serving(network, handler) as port:
        response = await fetch(network, f"http://u:p@127.0.0.1:{port}/a/b")
    assert (response.body, response.url) == (b"/c?d", f"http://127.0.0.1:{port}/c?d")


async def test_a_redirect_to_another_origin_does_not_carry_the_authorization() -> None:
    async def there(stream: trio.abc.Stream, head: bytes) -> None:
        await stream.send_all(ok(b"leak" if b"Authorization" in head else b"clean"))

    network = LoopbackNetwork()
    async with (
        serving(network, there) as second,
        serving(network, answering(redirect(f"http://127.0.0.1:{second}/"))) as first,
    ):
        assert (await fetch(network, f"http://u:p@127.0.0.1:{first}/")).body == b"clean"


async def test_a_redirect_to_itself_is_a_loop() -> None:
    assert (await failing(answering(redirect("/")))).reason == "redirect-loop"


async def test_endless_redirects_end() -> None:
    hops = 0

    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        nonlocal hops
        hops += 1
        await stream.send_all(redirect(f"/{hops}"))

    assert (await failing(handler)).reason == "too-many-redirects"
    assert hops == 6


class PublicStream:
    """A stream whose other end seems to be on the internet."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.remote = Endpoint("8.8.8.8", 80)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


async def test_a_public_server_cannot_redirect_us_into_our_own_network() -> None:
    class Public(LoopbackNetwork):
        async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> Stream:  # type: ignore[override]
            return PublicStream(await super().dial_tcp(remote, local=local))  # type: ignore[return-value]

    network = Public()
    async with serving(network, answering(redirect("http://127.0.0.1:9091/transmission/rpc"))) as port:
        with pytest.raises(HttpError) as caught:
            await fetch(network, f"http://127.0.0.1:{port}/")
    assert caught.value.reason == "redirect-refused"
    assert [remote.port for remote in network.dialled] == [port]


async def test_nobody_listening_is_refused_and_an_unknown_name_has_no_address() -> None:
    network = LoopbackNetwork({"v4.example": ["127.0.0.1"]})
    listener = await network.listen_tcp(LOCAL)
    port = listener.local.port
    listener.close()
    for url, family, reason in [
        (f"http://127.0.0.1:{port}/", None, "refused"),
        ("http://nowhere.example/", None, "no-address"),
        ("http://v4.example/", 6, "no-address"),
    ]:
        with pytest.raises(HttpError) as caught:
            await fetch(network, url, family=family)
        assert caught.value.reason == reason


async def test_a_family_can_be_forced() -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await stream.send_all(ok(b"x"))

    network = LoopbackNetwork({"both.example": ["127.0.0.1", "::1"]})
    async with serving(network, handler, LOCAL6) as port:
        async with serving(network, handler, Endpoint("127.0.0.1", port)):
            for family in (4, 6, None):
                await fetch(network, f"http://both.example:{port}/", family=family)
        await fetch(network, f"http://[::1]:{port}/")
    assert [remote.host for remote in network.dialled] == ["127.0.0.1", "::1", "::1", "::1"]


async def test_a_dead_address_costs_no_more_than_its_head_start() -> None:
    network = LoopbackNetwork({"both.example": ["127.0.0.1", "::1"]})
    async with serving(network, answering(ok(b"x"))) as port:
        assert (await fetch(network, f"http://both.example:{port}/")).body == b"x"  # nobody listens on ::1
    assert [remote.host for remote in network.dialled] == ["::1", "127.0.0.1"]


# ---- happy eyeballs


class ScriptedStream:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class ScriptedNetwork:
    """Dials that take ``delays[host]`` seconds, negative ones to fail."""

    def __init__(self, delays: dict[str, float]) -> None:
        self.delays = delays
        self.started: list[tuple[str, float]] = []
        self.streams: dict[str, ScriptedStream] = {}
        self.begun = trio.current_time()

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> ScriptedStream:
        self.started.append((remote.host, trio.current_time() - self.begun))
        await trio.sleep(abs(self.delays[remote.host]))
        if self.delays[remote.host] < 0:
            raise OSError(f"{remote.host} fails")
        return self.streams.setdefault(remote.host, ScriptedStream())


def scripted(delays: dict[str, float]) -> tuple[ScriptedNetwork, list[Endpoint]]:
    return ScriptedNetwork(delays), [Endpoint(host, 1) for host in delays]


async def test_attempts_begin_when_the_one_before_fails_or_had_its_head_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network, endpoints = scripted({"a": -0.1, "b": 9.0, "c": 1.0, "d": 5.0})
    stream = await dial_first(network, endpoints)  # type: ignore[arg-type]
    assert stream is network.streams["c"]
    assert network.started == [("a", 0.0), ("b", 0.1), ("c", pytest.approx(0.35)), ("d", pytest.approx(0.6))]


async def test_the_first_error_is_told_when_all_fail(autojump_clock: trio.testing.MockClock) -> None:
    network, endpoints = scripted({"a": -3.0, "b": -1.0})
    with pytest.raises(OSError, match="a fails"):
        await dial_first(network, endpoints)  # type: ignore[arg-type]


async def test_of_two_that_connect_at_once_one_is_closed() -> None:
    class Simultaneous(ScriptedNetwork):
        async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> ScriptedStream:
            stream = self.streams[remote.host] = ScriptedStream()
            if remote.host == "a":
                await waiting.wait()
            else:
                waiting.set()
            return stream

    waiting = trio.Event()
    network = Simultaneous({"a": 0, "b": 0})
    winner = await dial_first(network, [Endpoint("a", 1), Endpoint("b", 1)])  # type: ignore[arg-type]
    assert [stream.aborted for stream in network.streams.values() if stream is not winner] == [True]
    assert not winner.aborted  # type: ignore[attr-defined]


def test_families_take_turns_beginning_with_ipv6() -> None:
    v4, v6 = [Endpoint(f"192.0.2.{n}", 1) for n in range(3)], [Endpoint("2001:db8::1", 1)]
    assert interleave_families([*v4, *v6, *v4]) == [v6[0], v4[0], v4[1], v4[2]]


# ---- URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tracker.example",
        "ftp://x/",
        "http://",
        "http:///path",
        "http://:80/",
        "http://host:0x50/",
        "http://host:70000/",
        "http://a..b/",
        "http://.a/",
        f"http://{'a' * 64}/",
        f"http://{'a.' * 150}a/",
        "http://ho st/",
        "http://[::1/",
        "http://[fe80::zz]/",
        "http://\udcff/",
        "http://a\x00b/",
    ],
)
def test_a_bad_url_is_named(url: str) -> None:
    with pytest.raises(HttpError) as caught:
        parse_url(url)
    assert caught.value.reason == "bad-url"
    assert str(caught.value).isprintable()


def test_a_url_is_taken_apart() -> None:
    parsed = parse_url("HTTPS://Tracker.EXAMPLE:443/x?info=%ff&a='b'\r\n")
    assert (parsed.scheme, parsed.host, parsed.port, parsed.authority) == (
        "https",
        "tracker.example",
        443,
        "tracker.example",
    )
    assert parsed.target == "/x?info=%ff&a='b'"
    assert parse_url("http://bücher.example").host == "xn--bcher-kva.example"
    assert parse_url("http://bücher.example").target == "/"
    assert parse_url("http://[2001:DB8::0:1]:8080/").authority == "[2001:db8::1]:8080"


# ---- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The context of a server for tracker.example and 127.0.0.1, and that of a client that trusts it."""
    directory: Path = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("tracker.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "server.pem").write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "server.pem")
    client = ssl.create_default_context(cadata=pem.decode())
    return server, client


Authority = tuple[ssl.SSLContext, ssl.SSLContext]


async def test_https_names_the_server_and_is_trusted(authority: Authority) -> None:
    server, client = authority
    asked: list[str] = []
    server.sni_callback = lambda sock, name, context: asked.append(name)  # type: ignore[assignment]
    network = LoopbackNetwork({"tracker.example": ["127.0.0.1"]})
    async with serving(network, answering(ok(b"secret")), tls=server) as port:
        assert (await fetch(network, f"https://tracker.example:{port}/", tls=client)).body == b"secret"
        assert (await fetch(network, f"https://127.0.0.1:{port}/", tls=client)).body == b"secret"
    assert asked == ["tracker.example", None]


async def test_an_https_body_that_ends_with_the_connection(authority: Authority) -> None:
    server, client = authority
    network = LoopbackNetwork()
    async with serving(network, answering(b"HTTP/1.0 200 OK\r\n\r\nhello"), tls=server) as port:
        assert (await fetch(network, f"https://127.0.0.1:{port}/", tls=client)).body == b"hello"


async def test_a_certificate_for_another_name_or_of_a_stranger_is_refused(authority: Authority) -> None:
    server, client = authority
    network = LoopbackNetwork({"other.example": ["127.0.0.1"]})
    async with serving(network, answering(ok(b"secret")), tls=server) as port:
        with pytest.raises(HttpError) as caught:
            await fetch(network, f"https://other.example:{port}/", tls=client)
        assert caught.value.reason == "tls-failed"
        assert "other.example" in caught.value.detail
        with pytest.raises(HttpError) as caught:
            await fetch(network, f"https://127.0.0.1:{port}/")  # the system does not trust it
        assert caught.value.reason == "tls-failed"
        assert "self-signed" in caught.value.detail


async def test_a_plain_server_on_an_https_url_fails_as_tls() -> None:
    listener = await LoopbackNetwork().listen_tcp(LOCAL)
    async with trio.open_nursery() as nursery:

        async def speak_plainly() -> None:
            stream = await listener.accept()
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await stream.aclose()

        nursery.start_soon(speak_plainly)
        with pytest.raises(HttpError) as caught:
            await fetch(LoopbackNetwork(), f"https://127.0.0.1:{listener.local.port}/")
    assert caught.value.reason == "tls-failed"
    listener.close()


async def test_a_redirect_from_https_to_http_is_refused_and_the_other_way_followed(authority: Authority) -> None:
    server, client = authority
    network = LoopbackNetwork()
    async with serving(network, answering(redirect("http://127.0.0.1:1/")), tls=server) as port:
        with pytest.raises(HttpError) as caught:
            await fetch(network, f"https://127.0.0.1:{port}/", tls=client)
        assert caught.value.reason == "redirect-refused"
    async with (
        serving(network, answering(ok(b"secret")), tls=server) as secure,
        serving(network, answering(redirect(f"https://127.0.0.1:{secure}/"))) as plain,
    ):
        assert (await fetch(network, f"http://127.0.0.1:{plain}/", tls=client)).body == b"secret"


async def test_a_body_is_posted_with_its_length() -> None:
    seen: list[bytes] = []

    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        seen.append(head)
        while not seen[-1].endswith(b"<x/>"):
            seen.append(seen.pop() + await stream.receive_some())
        await stream.send_all(ok(b"done"))

    network = LoopbackNetwork()
    with trio.fail_after(5):
        async with serving(network, handler) as port:
            url = f"http://127.0.0.1:{port}/ctl"
            response = await fetch(network, url, headers=[("SOAPAction", '"a#b"')], post=b"<x/>")
    assert response.body == b"done"
    assert seen[0].startswith(b"POST /ctl HTTP/1.1\r\n")
    assert b'\r\nSOAPAction: "a#b"\r\n' in seen[0]
    assert b"\r\nContent-Length: 4\r\n" in seen[0]


async def test_the_answer_to_a_post_is_not_followed_elsewhere() -> None:
    error = await failing(answering(redirect("http://127.0.0.1:1/")), post=b"")
    assert error.reason == "http-302"
