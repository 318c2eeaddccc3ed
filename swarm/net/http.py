"""A small HTTP/1.1 client (RFC 9110, RFC 9112): one GET and its redirects, or one POST; h11 over `Network` streams.

For trackers, .torrent files, web seeds and UPnP.  Bodies are bounded.  Keeps no connections, cookies or caches, knows
no proxies and no time-outs: callers use cancel scopes.
"""

from __future__ import annotations

import re
import ssl
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

import h11
import trio

from swarm import __version__
from swarm.endpoint import Endpoint, normalise_host
from swarm.errors import RemoteError
from swarm.net.happy_eyeballs import dial_first, interleave_families
from swarm.net.network import Network, Stream
from swarm.net.secured import TrioStream, system_trust, tls_failure

USER_AGENT = f"swarm/{__version__}"

MAX_BODY = 4 << 20
"""Bytes of a body, after decompression."""

MAX_HEAD = 64 << 10
"""Bytes of a status line and headers."""

MAX_REDIRECTS = 5

READ_SIZE = 64 << 10

REDIRECTS = {301, 302, 303, 307, 308}

Header = tuple[str, str]

_LABEL = re.compile("[a-z0-9_-]{1,63}").fullmatch


class HttpError(RemoteError):
    """A request that brought no usable answer.

    Reasons: ``http-NNN`` (the status), ``no-address``, ``unreachable``, ``refused``, ``tls-failed``,
    ``connection-lost``, ``bad-http``, ``bad-encoding``, ``too-large``, ``bad-url``, ``redirect-loop``,
    ``too-many-redirects``, ``redirect-refused``.  ``response`` is set for ``http-NNN``.
    """

    def __init__(self, reason: str, detail: str = "", response: Response | None = None) -> None:
        super().__init__(reason, detail)
        self.response = response


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer; ``headers`` in their order with lower-case names, ``url`` after redirects."""

    status: int
    headers: tuple[Header, ...]
    body: bytes
    url: str

    def header(self, name: str) -> str | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)


async def fetch(
    network: Network,
    url: str,
    *,
    family: int | None = None,
    max_body: int = MAX_BODY,
    headers: Sequence[Header] = (),
    private_headers: Sequence[Header] = (),
    tls: ssl.SSLContext | None = None,
    post: bytes | None = None,
    redirects: int = MAX_REDIRECTS,
) -> Response:
    """GET ``url`` and follow at most ``redirects``; the 2xx answer.  With ``post`` POST that body, and follow none.

    ``family`` 4 or 6 forces the address family; otherwise both are tried, IPv6 first.  Userinfo in the URL is sent as
    Basic authorization, to that origin only, and so are ``private_headers`` (cookies, say).  A redirect from https to
    http, or from a public address to one that is not, is refused: a stranger's server does not choose what we ask in
    our own network.  ``tls`` replaces the system's trust.  Raises HttpError for everything that can go wrong;
    cancellation aborts the connection.
    """
    seen: set[str] = set()
    target = first = parse_url(url)
    public_only = False
    for _ in range(redirects + 1):
        seen.add(target.url)
        stream = await _connect(network, target, family, public_only)
        try:
            public_only = public_only or stream.remote.address.is_global
            sent = [*headers, *private_headers] if target.has_origin_of(first) else headers
            response = await _exchange(stream, target, sent, post, max_body, tls)
            await stream.aclose()
        finally:
            stream.abort()  # unless it is closed already
        if response.status not in REDIRECTS or post is not None or not redirects:
            return _checked(response)
        target = _redirected(target, response)
        if target.url in seen:
            raise HttpError("redirect-loop", target.url)
    raise HttpError("too-many-redirects", f"more than {redirects}")


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """An http or https URL, taken apart for a request; ASCII throughout."""

    url: str
    """Without userinfo and fragment."""
    scheme: str
    host: str
    """A name, or an address without brackets."""
    port: int
    authority: str
    """The Host header: the port only where it is not the scheme's own."""
    target: str
    """Path and query."""
    authorization: str | None
    """The value of an Authorization header."""

    def has_origin_of(self, other: HttpUrl) -> bool:
        """Whether both lead to one server."""
        return (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)


def parse_url(url: str) -> HttpUrl:
    """Take apart an absolute http or https URL; characters that may not stand in one are percent-encoded.

    Raises HttpError("bad-url") for everything else.
    """
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme, parts.port
        if scheme not in ("http", "https"):
            raise ValueError("neither http nor https")
        host = _ascii_host(parts.hostname or "")
    except ValueError as error:  # UnicodeError of the IDNA codec included
        raise HttpError("bad-url", f"{url[:200]!r}: {error}") from None
    authority = f"[{host}]" if ":" in host else host
    if port is not None and port != (443 if scheme == "https" else 80):
        authority += f":{port}"
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return HttpUrl(
        url=f"{scheme}://{authority}{target}",
        scheme=scheme,
        host=host,
        port=port or (443 if scheme == "https" else 80),
        authority=authority,
        target=target,
        authorization=_basic(parts.username, parts.password),
    )


def _ascii_host(host: str) -> str:
    """Checked here, because getaddrinfo and ssl answer an impossible name with a UnicodeError."""
    if ":" in host:
        return normalise_host(host)
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_LABEL(label) for label in labels):
        raise ValueError("no usable host")
    return host


def _basic(username: str | None, password: str | None) -> str | None:
    if username is None:
        return None
    userinfo = unquote_to_bytes(username) + b":" + unquote_to_bytes(password or "")
    return "Basic " + b64encode(userinfo).decode("ascii")


def _redirected(target: HttpUrl, response: Response) -> HttpUrl:
    location = response.header("location")
    if not location:
        raise HttpError(f"http-{response.status}", "redirect without a location", response)
    try:
        absolute = urljoin(target.url, location)
    except ValueError:
        raise HttpError("bad-url", f"{location[:200]!r}") from None
    redirected = parse_url(absolute)
    if target.scheme == "https" and redirected.scheme == "http":
        raise HttpError("redirect-refused", f"from https to {redirected.url[:200]}")
    if redirected.has_origin_of(target) and redirected.authorization is None and target.authorization is not None:
        return replace(redirected, authorization=target.authorization)
    return redirected


def _checked(response: Response) -> Response:
    if not 200 <= response.status < 300:
        raise HttpError(f"http-{response.status}", response.url[:200], response)
    return response


async def _connect(network: Network, target: HttpUrl, family: int | None, public_only: bool) -> Stream:
    try:
        resolved = await network.resolve(target.host, target.port)
    except OSError as error:
        raise HttpError("no-address", f"{target.host}: {_words(error)}") from None
    endpoints = [each for each in resolved if family is None or each.is_ipv6 == (family == 6)]
    if not endpoints:
        raise HttpError("no-address", f"{target.host} has no {f'IPv{family} ' if family else ''}address")
    if public_only:
        endpoints = [each for each in endpoints if each.address.is_global]
        if not endpoints:
            raise HttpError("redirect-refused", f"from a public address to {target.host}")
    return await _dial(network, endpoints)


async def _dial(network: Network, endpoints: Sequence[Endpoint]) -> Stream:
    try:
        return await dial_first(network, interleave_families(endpoints))
    except ConnectionRefusedError as error:
        raise HttpError("refused", _words(error)) from None
    except OSError as error:
        raise HttpError("unreachable", _words(error)) from None


async def _exchange(
    stream: Stream,
    target: HttpUrl,
    headers: Sequence[Header],
    post: bytes | None,
    max_body: int,
    tls: ssl.SSLContext | None,
) -> Response:
    transport: trio.abc.Stream = TrioStream(stream)
    try:
        if target.scheme == "https":
            secured = trio.SSLStream(
                transport, tls or system_trust(), server_hostname=target.host, https_compatible=True
            )
            await secured.do_handshake()
            transport = secured
        return await _Exchange(transport, target, max_body).run(headers, post)
    except trio.BrokenResourceError as error:
        raise _broken(error) from None


def _broken(error: trio.BrokenResourceError) -> HttpError:
    failure = tls_failure(error)
    return HttpError("connection-lost", str(error)) if failure is None else HttpError("tls-failed", failure)


def _words(error: OSError) -> str:
    return error.strerror or str(error)


class _Exchange:
    """One request and its response over one connection."""

    def __init__(self, transport: trio.abc.Stream, target: HttpUrl, max_body: int) -> None:
        self._transport = transport
        self._target = target
        self._max_body = max_body
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._ended = False

    async def run(self, headers: Sequence[Header], post: bytes | None) -> Response:
        await self._transport.send_all(self._request(headers, post))
        answer = await self._next_event()
        while isinstance(answer, h11.InformationalResponse):
            answer = await self._next_event()
        if not isinstance(answer, h11.Response):
            raise HttpError("connection-lost", "closed without an answer")
        received = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in answer.headers)
        body = _Body(received, self._max_body)
        while isinstance(event := await self._next_event(), h11.Data):
            body.feed(event.data)
        return Response(answer.status_code, received, body.finish(), self._target.url)

    def _request(self, headers: Sequence[Header], post: bytes | None) -> bytes:
        lines = self._request_headers(headers)
        if post is not None:
            lines.append(("Content-Length", str(len(post))))
        method = "GET" if post is None else "POST"
        events = [h11.Request(method=method, target=self._target.target, headers=lines), h11.EndOfMessage()]
        if post:
            events.insert(1, h11.Data(data=post))
        return b"".join(self._h11.send(event) or b"" for event in events)

    def _request_headers(self, extra: Sequence[Header]) -> list[Header]:
        ours = [
            ("Host", self._target.authority),
            ("User-Agent", USER_AGENT),
            ("Accept", "*/*"),
            # A range of a compressed representation would be useless to a web seed.
            ("Accept-Encoding", "identity" if any(name.lower() == "range" for name, _ in extra) else "gzip"),
            ("Connection", "close"),
        ]
        if self._target.authorization is not None:
            ours.append(("Authorization", self._target.authorization))
        return ours + list(extra)

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise self._error(error) from None
            if not isinstance(event, type) or event is h11.PAUSED:
                return event
            data = await self._transport.receive_some(READ_SIZE)
            self._ended = not data
            self._h11.receive_data(bytes(data))

    def _error(self, error: h11.RemoteProtocolError) -> HttpError:
        if error.error_status_hint == 431:
            return HttpError("too-large", f"more than {MAX_HEAD} bytes of headers")
        return HttpError("connection-lost" if self._ended else "bad-http", str(error))


class _Body:
    """Gathers a body, decompressed as it comes, so that a bomb is noticed at the limit and not behind it."""

    def __init__(self, headers: Sequence[Header], limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._received = 0
        encodings = [value.strip().lower() for name, value in headers if name == "content-encoding"]
        match encodings:
            case [] | ["identity" | ""]:
                self._inflater = None
            case ["gzip" | "x-gzip" | "deflate"]:
                self._inflater = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, told by its header
            case _:
                raise HttpError("bad-encoding", repr(", ".join(encodings)[:100]))
        length = next((value for name, value in headers if name == "content-length"), "0")
        if int(length) > limit:  # digits: h11 saw to it
            raise HttpError("too-large", f"{length} bytes announced, at most {limit} wanted")

    def feed(self, data: bytes | bytearray) -> None:
        """Raises HttpError("too-large") beyond the limit and "bad-encoding" for what does not decompress."""
        self._received += len(data)
        if self._inflater is None:
            self._data += data
        elif not self._inflater.eof:  # behind the end zlib would keep all that comes
            try:
                self._data += self._inflater.decompress(data, self._limit - len(self._data) + 1)
            except zlib.error as error:
                raise HttpError("bad-encoding", str(error)) from None
        # Compressing may lengthen a little; what comes behind the compressed data counts as well.
        if len(self._data) > self._limit or self._received > self._limit + self._limit // 8 + 1024:
            raise HttpError("too-large", f"more than {self._limit} bytes")

    def finish(self) -> bytes:
        """All of it.  Raises HttpError("bad-encoding") if the compressed form was cut short."""
        if self._inflater is not None and self._data and not self._inflater.eof:
            raise HttpError("bad-encoding", "compressed body cut short")
        return bytes(self._data)
