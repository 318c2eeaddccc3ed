"""UPnP documents: searches and answers, descriptions, SOAP calls and faults; hostile XML."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.gateway import igd, ssdp
from swarm.gateway.markup import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, parse_xml_untrusted
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

ROUTER = "10.0.1.1"
LOCATION = f"http://{ROUTER}:5000/rootDesc.xml"
ANSWER = (
    "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n"
    "st: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\nSERVER: x\r\n"
    f"LOCATION: {LOCATION}\r\n\r\n"
).encode()
NEW_LINE_ANSWER = ANSWER.replace(b"\r\n", b"\n")


def description(services: str, kind: str = "InternetGatewayDevice:1", base: str = "") -> bytes:
    return (
        '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major></specVersion>'
        f"{base}<device><deviceType>urn:schemas-upnp-org:device:{kind}</deviceType><friendlyName>Box &amp; co\n"
        f"</friendlyName><deviceList><device><serviceList>{services}</serviceList></device></deviceList></device></root>"
    ).encode()


def service(kind: str, control: str = "/ctl") -> str:
    return (
        f"<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType>"
        f"<controlURL>{control}</controlURL></service>"
    )


DESCRIPTION = description(service("WANIPConnection:1"))
RESULTS = (
    b'<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
    b'<u:GetXResponse xmlns:u="urn:x"><NewPort>7</NewPort><NewText> a b </NewText></u:GetXResponse>'
    b"</s:Body></s:Envelope>"
)


def fault(code: str) -> bytes:
    return (
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode>'
        '<faultstring>UPnPError</faultstring><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0">'
        f"<errorCode>{code}</errorCode><errorDescription>What\x7fever</errorDescription></UPnPError></detail></s:Fault>"
        "</s:Body></s:Envelope>"
    ).encode()


# ---- SSDP


def test_a_search_is_laid_out_as_in_the_device_architecture() -> None:
    assert ssdp.encode_search(ssdp.TARGETS[1], Endpoint("239.255.255.250", 1900)) == (
        b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
        b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    )
    assert b"HOST: [ff02::c]:1900\r\n" in ssdp.encode_search(ssdp.TARGETS[0], Endpoint("ff02::c", 1900))


@pytest.mark.parametrize("answer", [ANSWER, NEW_LINE_ANSWER])
def test_an_answer_tells_where_the_description_is(answer: bytes) -> None:
    assert ssdp.parse_search_answer_untrusted(answer, ROUTER) == ssdp.SearchAnswer(LOCATION, ssdp.TARGETS[1], "x")


@pytest.mark.parametrize(
    "wrong",
    [
        ANSWER.replace(b"200", b"404"),
        ANSWER.replace(b"HTTP/1.1 200 OK", b"NOTIFY * HTTP/1.1"),
        ANSWER.replace(b"InternetGatewayDevice:1", b"MediaServer:1"),
        ANSWER.replace(b"LOCATION", b"LOCUTION"),
        ANSWER.replace(b"http://", b"https://"),
        ANSWER.replace(b"10.0.1.1:5000", b"10.0.1.9:5000"),
        ANSWER.replace(b"10.0.1.1:5000", b"router:5000"),
        ANSWER.replace(b"10.0.1.1:5000", b"10.0.1.1:0"),
        ANSWER.replace(b"10.0.1.1:5000", b"me@10.0.1.1:5000"),
        ANSWER.replace(b"10.0.1.1:5000", b"[::1:5000"),
        ANSWER + bytes(2048),
    ],
)
def test_other_answers_and_other_peoples_addresses_are_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ssdp.parse_search_answer_untrusted(wrong, ROUTER)


def test_a_link_local_sender_may_name_itself_without_its_scope() -> None:
    answer = ANSWER.replace(b"10.0.1.1", b"[fe80::1]")
    assert ssdp.parse_search_answer_untrusted(answer, "fe80::1%eth0").location == "http://[fe80::1]:5000/rootDesc.xml"


# ---- XML


def test_xml_is_read_by_local_names() -> None:
    root = parse_xml_untrusted(b'<a:r xmlns:a="x"><b> one </b><b>two<c/></b></a:r>\0\0\n')
    assert (root.name, root.text_of("b"), root.text_of("none")) == ("r", "one", "")
    assert [element.text for element in root.descendants("b")] == ["one", "two"]


@pytest.mark.parametrize(
    "hostile",
    [
        b'<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><r>&b;</r>',
        b'<!DOCTYPE r SYSTEM "http://10.0.1.9/x"><r/>',
        b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r>&x;</r>',
        b"<r>&undefined;</r>",
        b"<r>" * (MAX_DEPTH + 1) + b"</r>" * (MAX_DEPTH + 1),
        b"<r>" + b"<x/>" * MAX_ELEMENTS + b"</r>",
        b"<r>" + b" " * MAX_BYTES + b"</r>",
        b'<?xml version="1.0" encoding="no-such"?><r/>',
        b'<?xml version="1.0" encoding="utf-7"?><r/>',
        b"<r>\xff\xfe</r>",
        b"<r><s></r>",
        b"",
        b"\0\0",
    ],
)
def test_hostile_xml_is_refused(hostile: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_xml_untrusted(hostile)


# ---- the description


def test_a_description_names_the_services_best_first() -> None:
    services = service("WANPPPConnection:1", "ppp") + service("WANIPConnection:1", "/ip?x=1") + service("Layer3:1")
    device = igd.parse_description_untrusted(description(services), LOCATION, ROUTER)
    assert (device.friendly_name, device.version, device.firewall) == ("Box & co", 1, None)
    assert [(each.short_type, each.control_url) for each in device.connections] == [
        ("WANIPConnection:1", f"http://{ROUTER}:5000/ip?x=1"),
        ("WANPPPConnection:1", f"http://{ROUTER}:5000/ppp"),
    ]


def test_an_igd_2_with_a_firewall_and_a_base_url() -> None:
    services = service("WANIPConnection:2") + service("WANIPv6FirewallControl:1", "/fw")
    document = description(services, "InternetGatewayDevice:2", f"<URLBase>http://{ROUTER}:49000/</URLBase>")
    device = igd.parse_description_untrusted(document, LOCATION, ROUTER)
    assert device.version == 2
    assert device.firewall is not None
    assert device.firewall.control_url == f"http://{ROUTER}:49000/fw"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (description(""), "unsupported"),
        (description(service("SwitchPower:1")), "unsupported"),
        (description(service("WANIPConnection:1", "http://10.0.1.9/ctl")), "unsupported"),
        (description(service("WANIPConnection:1", "http://[")), "unsupported"),
        (description(service("WANIPConnection:1&quot;&gt;")), "unsupported"),
        (b"<html><body>Please log in</body></html>", "bad-response"),
        (b"<root/>", "bad-response"),
    ],
)
def test_descriptions_of_no_use(document: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        igd.parse_description_untrusted(document, LOCATION, ROUTER)
    assert caught.value.reason == reason


# ---- SOAP


def test_a_call_is_an_envelope_with_arguments_in_order() -> None:
    kind = "urn:schemas-upnp-org:service:WANIPConnection:1"
    arguments = igd.mapping_arguments("udp", ("10.0.1.2", 6881), 7000, 3600, "a<b")
    body = igd.encode_call(kind, "AddPortMapping", arguments)
    call = parse_xml_untrusted(body).children[0].children[0]
    assert call.name == "AddPortMapping"
    assert [(child.name, child.text) for child in call.children] == [
        ("NewRemoteHost", ""),
        ("NewExternalPort", "7000"),
        ("NewProtocol", "UDP"),
        ("NewInternalPort", "6881"),
        ("NewInternalClient", "10.0.1.2"),
        ("NewEnabled", "1"),
        ("NewPortMappingDescription", "a<b"),
        ("NewLeaseDuration", "3600"),
    ]
    assert ("SOAPAction", f'"{kind}#AddPortMapping"') in igd.call_headers(kind, "AddPortMapping")


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (3600, 3600), (10**6, 86400)])
def test_a_pinhole_lives_between_a_second_and_a_day(asked: int, given: int) -> None:
    arguments = dict(igd.pinhole_arguments(17, ("2a0e::a", 6881), asked))
    assert arguments == {
        "RemoteHost": "",
        "RemotePort": 0,
        "InternalClient": "2a0e::a",
        "InternalPort": 6881,
        "Protocol": 17,
        "LeaseTime": given,
    }


def test_results_by_name() -> None:
    assert igd.parse_results_untrusted(RESULTS, "GetX") == {"NewPort": "7", "NewText": "a b"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (401, "unsupported"),
        (402, "bad-request"),
        (501, "failed"),
        (606, "refused"),
        (704, "no-such-entry"),
        (713, "no-such-entry"),
        (714, "no-such-entry"),
        (715, "unsupported"),
        (716, "unsupported"),
        (718, "conflict"),
        (724, "conflict"),
        (725, "permanent-only"),
        (726, "unsupported"),
        (727, "unsupported"),
        (728, "out-of-resources"),
        (899, "refused"),
    ],
)
def test_faults_have_named_reasons(code: int, reason: str) -> None:
    with pytest.raises(igd.SoapFault) as caught:
        igd.parse_results_untrusted(fault(str(code)), "GetX")
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert caught.value.detail == f"UPnP error {code} Whatever"


@pytest.mark.parametrize("document", [RESULTS.replace(b"GetX", b"GetY"), fault("x"), fault("-1"), fault(""), b"<a/>"])
def test_what_is_neither_results_nor_a_fault_is_refused(document: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        igd.parse_results_untrusted(document, "GetX")


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "7_0", "٧", "7.0", "9" * 5000])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    assert igd.port_untrusted({"P": "65535"}, "P") == 65535
    with pytest.raises(RemoteProtocolError):
        igd.port_untrusted({"P": text}, "P")
    if text != "0":
        with pytest.raises(RemoteProtocolError):
            igd.unique_id_untrusted({"UniqueID": text})


# ---- all of them


PARSERS: list[tuple[bytes, Callable[[bytes], object]]] = [
    (ANSWER, lambda data: ssdp.parse_search_answer_untrusted(data, ROUTER)),
    (DESCRIPTION, lambda data: igd.parse_description_untrusted(data, LOCATION, ROUTER)),
    (RESULTS, lambda data: igd.parse_results_untrusted(data, "GetX")),
    (fault("718"), lambda data: igd.parse_results_untrusted(data, "GetX")),
]


def test_every_truncation_of_a_search_answer_is_refused_or_names_a_shorter_place() -> None:
    for length in range(len(ANSWER)):
        try:
            answer = ssdp.parse_search_answer_untrusted(ANSWER[:length], ROUTER)
        except RemoteProtocolError:
            continue
        assert LOCATION.startswith(answer.location)
        assert answer.location.startswith(f"http://{ROUTER}")


@pytest.mark.parametrize(("whole", "parse"), PARSERS[1:])
def test_every_truncation_of_xml_is_refused(whole: bytes, parse: Callable[[bytes], object]) -> None:
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            parse(whole[:length])


@pytest.mark.parametrize(("whole", "parse"), PARSERS)
def test_random_bytes_raise_nothing_but_remote_errors(whole: bytes, parse: Callable[[bytes], object]) -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    count = fuzz_count() // 2
    for data in (*random_bytes_cases(rng, 200, count), *mutations(rng, [whole], count)):
        try:
            parse(data)
        except (RemoteProtocolError, igd.SoapFault):
            continue
        except BaseException:
            print(seed, data)
            raise
