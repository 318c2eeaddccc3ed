"""UPnP of a simulated router on the wire: SSDP answers, the device description, SOAP over HTTP.

What the actions do is in `igd`.  One request per connection; no eventing, no NOTIFY, no SCPD.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.sax.saxutils import escape

import h11
import trio

from swarm.endpoint import Endpoint
from swarm.net.network import Outgoing, Path, Stream
from swarm.simnet.igd import REASONS, Arguments, Igd, UpnpError
from swarm.simnet.opener import Opener

SSDP = Endpoint("239.255.255.250", 1900)
HTTP_PORT = 5000
DESCRIPTION_PATH = "/rootDesc.xml"
LONGEST_BODY = 64 << 10  # bytes
DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:{}"
WAN_IP = "urn:schemas-upnp-org:service:WANIPConnection:{}"
FIREWALL = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1"


async def serve_upnp(opener: Opener) -> None:
    """Answer searches and control requests on the LAN."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_answer_searches, opener)
        nursery.start_soon(_serve_http, opener)


# ---- SSDP


async def _answer_searches(opener: Opener) -> None:
    bound = await opener.router.inside.bind_udp(Endpoint("0.0.0.0", SSDP.port), shared=True, multicast_group=SSDP.host)
    while True:
        await bound.wait_readable()
        for received in bound.receive_nowait():
            for answer in search_answers(bytes(received.data), opener):
                bound.send_nowait(Outgoing([answer], len(answer), Path(None, received.path.remote)))


def search_answers(search: bytes, opener: Opener) -> list[bytes]:
    """The answers to an M-SEARCH: one for each of our types that it asks for, none to anything else."""
    lines = search.decode("latin-1").split("\r\n")
    if not lines[0].startswith("M-SEARCH * HTTP/1.1"):
        return []
    headers = {name.strip().upper(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("MAN") != '"ssdp:discover"':
        return []
    wanted = headers.get("ST", "")
    return [_search_answer(kind, opener) for kind in _types(opener) if wanted in (kind, "ssdp:all")]


def _types(opener: Opener) -> list[str]:
    versions = range(1, opener.behaviour.igd_version + 1)
    names = ["upnp:rootdevice"]
    for version in versions:
        names += [DEVICE.format(version), WAN_IP.format(version)]
    return names + ([FIREWALL] if _has_firewall_control(opener) else [])


def _has_firewall_control(opener: Opener) -> bool:
    return opener.behaviour.igd_version == 2 and opener.router.firewall is not None


def _search_answer(kind: str, opener: Opener) -> bytes:
    location = f"http://{opener.router.inside.ipv4}:{HTTP_PORT}{DESCRIPTION_PATH}"
    return (
        f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {kind}\r\nUSN: {_uuid(opener)}::{kind}\r\nEXT:\r\n"
        f"SERVER: simnet UPnP/1.1\r\nLOCATION: {location}\r\nBOOTID.UPNP.ORG: {int(opener.router.booted)}\r\n\r\n"
    ).encode()


def _uuid(opener: Opener) -> str:
    return f"uuid:simnet-{opener.router.name}"


# ---- the description


def description(opener: Opener) -> bytes:
    """The device description: WANIPConnection inside WANConnectionDevice inside WANDevice inside the root."""
    version = opener.behaviour.igd_version
    services = _service(WAN_IP.format(version), "WANIPConn1", "/ctl/IPConn")
    if _has_firewall_control(opener):
        services += _service(FIREWALL, "WANIPv6Firewall1", "/ctl/IP6FCtl")
    connection = _device(f"WANConnectionDevice:{version}", f"<serviceList>{services}</serviceList>", opener)
    wan = _device(f"WANDevice:{version}", f"<deviceList>{connection}</deviceList>", opener)
    root = _device(f"InternetGatewayDevice:{version}", f"<deviceList>{wan}</deviceList>", opener)
    head = '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">'
    return f"{head}<specVersion><major>1</major><minor>1</minor></specVersion>{root}</root>".encode()


def _device(kind: str, inner: str, opener: Opener) -> str:
    return (
        f"<device><deviceType>urn:schemas-upnp-org:device:{kind}</deviceType><friendlyName>simnet</friendlyName>"
        f"<UDN>{_uuid(opener)}</UDN>{inner}</device>"
    )


def _service(kind: str, identity: str, control: str) -> str:
    return (
        f"<service><serviceType>{kind}</serviceType><serviceId>urn:upnp-org:serviceId:{identity}</serviceId>"
        f"<controlURL>{control}</controlURL><eventSubURL>/evt</eventSubURL><SCPDURL>/scpd.xml</SCPDURL></service>"
    )


# ---- HTTP and SOAP


async def _serve_http(opener: Opener) -> None:
    igd = Igd(opener)
    listener = await opener.router.inside.listen_tcp(Endpoint(opener.router.inside.ipv4, HTTP_PORT))
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(_serve_one, await listener.accept(), opener, igd)


async def _serve_one(stream: Stream, opener: Opener, igd: Igd) -> None:
    """One request on one connection."""
    connection = h11.Connection(h11.SERVER)
    try:
        request, body = await _receive_request(stream, connection)
        status, content = _respond(request, body, opener, igd, stream.remote.host)
        headers = [("Content-Type", 'text/xml; charset="utf-8"'), ("Content-Length", str(len(content)))]
        data = connection.send(h11.Response(status_code=status, headers=[*headers, ("Connection", "close")])) or b""
        data += connection.send(h11.Data(data=content)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        await stream.send_all(data)
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        stream.abort()
    finally:
        await trio.aclose_forcefully(stream)  # type: ignore[arg-type]  # a Stream closes like trio's


async def _receive_request(stream: Stream, connection: h11.Connection) -> tuple[h11.Request, bytes]:
    request = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LONGEST_BODY:
                raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, body
        else:
            raise h11.RemoteProtocolError("the client closed before its request was complete")


def _respond(request: h11.Request, body: bytes, opener: Opener, igd: Igd, client: str) -> tuple[int, bytes]:
    """Status and body of the answer."""
    if request.method == b"GET" and request.target.decode().endswith(DESCRIPTION_PATH):
        return 200, description(opener)
    action = dict(request.headers).get(b"soapaction", b"").decode("latin-1").strip('"')
    service, _, name = action.partition("#")
    if request.method != b"POST" or not name:
        return 404, b""
    try:
        results = igd.act(name, _arguments(body, name), client)
    except UpnpError as error:
        return 500, _fault(error)
    inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in results.items())
    return 200, _envelope(f'<u:{name}Response xmlns:u="{escape(service)}">{inner}</u:{name}Response>')


def _arguments(body: bytes, action: str) -> Arguments:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise UpnpError(402) from error
    for element in root.iter():
        if element.tag.rpartition("}")[2] == action:
            return {child.tag: child.text or "" for child in element}
    raise UpnpError(401)


def _fault(error: UpnpError) -> bytes:
    return _envelope(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
        f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{error.code}</errorCode>'
        f"<errorDescription>{REASONS[error.code]}</errorDescription></UPnPError></detail></s:Fault>"
    )


def _envelope(inner: str) -> bytes:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        f's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>{inner}</s:Body></s:Envelope>'
    ).encode()
