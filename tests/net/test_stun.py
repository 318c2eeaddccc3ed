"""The STUN client (RFC 8489): what is sent when, which datagrams count, and what who waits gets."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.mux import DatagramCore, Mux, Priority
from swarm.net.network import Outgoing, Path
from swarm.net.stun import BRISK, PATIENT, Patience, StunAnswer, StunClient, StunResult
from swarm.net.stun_service import StunService
from swarm.simnet.internet import open_internet
from swarm.wire.stun import (
    BINDING,
    CHANGE_IP,
    CHANGE_PORT,
    AttributeType,
    MessageClass,
    StunMessage,
    address_value,
    error_code_value,
    parse_stun_untrusted,
    xor_address_value,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases
from tests.net.stun_server import StunServer

A = AttributeType
SERVER, ELSEWHERE = Endpoint("20.0.0.1", 3478), Endpoint("20.0.0.2", 3479)
PATH = Path(None, SERVER)
MAPPED = Endpoint("20.5.0.1", 40000)


@pytest.fixture
def core() -> StunClient:
    made = StunClient(random.Random(1))
    as_core: DatagramCore = made
    assert as_core.next_deadline() is None
    return made


def sent(core: StunClient, now: float, remote: Endpoint = SERVER) -> list[StunMessage]:
    """The requests that leave, all to ``remote``."""
    outgoing = core.datagrams_to_send(now)
    assert all(each.path == Path(None, remote) and each.segment_size == len(each.buffers[0]) for each in outgoing)
    return [parse_stun_untrusted(each.buffers[0]) for each in outgoing]


def receive(core: StunClient, datagram: bytes, path: Path = PATH) -> bool:
    """As the mux does: ask first."""
    wanted = datagram[0] in core.first_bytes and core.wants(memoryview(datagram), path)
    if wanted:
        core.receive_batch([memoryview(datagram)], path, 0.0)
    return wanted


def response(
    transaction_id: bytes, *attributes: tuple[int, bytes], message_class: MessageClass = MessageClass.SUCCESS
) -> bytes:
    return StunMessage(message_class, BINDING, transaction_id, attributes).encode()


def bound(transaction_id: bytes) -> bytes:
    return response(transaction_id, (A.XOR_MAPPED_ADDRESS, xor_address_value(MAPPED, transaction_id)))


def refused(transaction_id: bytes, code: int, reason: str) -> bytes:
    return response(transaction_id, (A.ERROR_CODE, error_code_value(code, reason)), message_class=MessageClass.ERROR)


def reason_of(results: Sequence[StunResult]) -> str:
    [(_, outcome)] = results
    assert isinstance(outcome, RemoteError)
    return str(outcome)


def test_a_request_and_its_answer(core: StunClient) -> None:
    handle = core.bind(SERVER, 0.0)
    [request] = sent(core, 0.0)
    assert request == StunMessage(MessageClass.REQUEST, BINDING, handle)
    assert len(handle) == 12
    assert core.take_results() == []
    assert receive(core, bound(handle))
    assert core.take_results() == [StunResult(handle, StunAnswer(MAPPED, SERVER, None, None))]
    assert core.take_results() == []
    assert core.next_deadline() is None


def test_all_that_an_answer_may_tell(core: StunClient) -> None:
    handle = core.bind(SERVER, 0.0)
    datagram = response(
        handle,
        (A.SOFTWARE, b"\xff"),
        (A.XOR_MAPPED_ADDRESS, xor_address_value(MAPPED, handle)),
        (A.MAPPED_ADDRESS, address_value(ELSEWHERE)),
        (A.RESPONSE_ORIGIN, address_value(SERVER)),
        (A.OTHER_ADDRESS, address_value(ELSEWHERE)),
    )
    assert receive(core, datagram)
    assert core.take_results() == [StunResult(handle, StunAnswer(MAPPED, SERVER, SERVER, ELSEWHERE))]


def test_an_old_servers_answer_is_understood(core: StunClient) -> None:
    """RFC 3489 had the address in clear, and two more that must be understood."""
    handle = core.bind(SERVER, 0.0)
    attributes = [(type_, address_value(MAPPED)) for type_ in (A.SOURCE_ADDRESS, A.CHANGED_ADDRESS, A.MAPPED_ADDRESS)]
    receive(core, response(handle, *attributes))
    assert core.take_results() == [StunResult(handle, StunAnswer(MAPPED, SERVER, None, None))]


@pytest.mark.parametrize(
    ("patience", "times", "total"),
    [
        (PATIENT, [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5], 39.5),
        (BRISK, [0.0, 0.25, 0.75], 1.75),
        (Patience(rto=1.0, requests=1, last=2.0), [0.0], 2.0),
    ],
)
def test_requests_are_repeated_at_the_times_of_the_rfc(
    core: StunClient, patience: Patience, times: list[float], total: float
) -> None:
    handle = core.bind(SERVER, 0.0, patience=patience)
    ids = [message.transaction_id for message in sent(core, 0.0)]
    trace = [0.0]
    while (deadline := core.next_deadline()) is not None:
        core.handle_deadline(deadline - 0.01)
        assert sent(core, deadline - 0.01) == []
        assert core.take_results() == []
        core.handle_deadline(deadline)
        for message in sent(core, deadline):
            ids.append(message.transaction_id)
            trace.append(deadline)
        last = deadline
    assert trace == times
    assert set(ids) == {handle}, "a late answer to an earlier copy still counts"
    assert (last, patience.total) == (total, total)
    assert reason_of(core.take_results()) == f"timed-out: {SERVER} does not answer"


@pytest.mark.parametrize(
    ("change_ip", "change_port", "flags"),
    [(False, False, None), (True, False, CHANGE_IP), (False, True, CHANGE_PORT), (True, True, CHANGE_IP | CHANGE_PORT)],
)
def test_the_answer_may_be_asked_to_come_from_elsewhere(
    core: StunClient, change_ip: bool, change_port: bool, flags: int | None
) -> None:
    handle = core.bind(SERVER, 0.0, change_ip=change_ip, change_port=change_port)
    [request] = sent(core, 0.0)
    assert request.change_request_untrusted() == flags
    receive(core, bound(handle), Path(None, ELSEWHERE))
    expected = [] if flags is None else [StunResult(handle, StunAnswer(MAPPED, ELSEWHERE, None, None))]
    assert core.take_results() == expected
    assert core.ignored == (flags is None)


def test_a_plain_answer_counts_from_the_server_only_and_then_once(core: StunClient) -> None:
    handle = core.bind(SERVER, 0.0)
    for stranger in (Endpoint(SERVER.host, 1), Endpoint(ELSEWHERE.host, SERVER.port)):
        assert receive(core, bound(handle), Path(None, stranger)), "it is STUN and nobody else's"
    assert (core.ignored, core.take_results()) == (2, [])
    core.receive_batch([bound(handle), bound(handle)], PATH, 0.0)
    assert len(core.take_results()) == 1
    assert not receive(core, bound(handle))


def test_only_pending_transactions_with_the_cookie_are_wanted(core: StunClient) -> None:
    handle = core.bind(SERVER, 0.0)
    good = bound(handle)
    utp = b"\x01\x01" + bytes(18)
    for datagram in (b"d1:y1:re", utp, good[:19], good[:4] + b"\0\0\0\0" + good[8:], bound(bytes(12)), bytes(28)):
        assert not core.wants(datagram, PATH)
    assert core.wants(good, PATH)


def test_another_method_is_ignored(core: StunClient) -> None:
    handle = core.bind(SERVER, 0.0)
    receive(core, StunMessage(MessageClass.SUCCESS, 3, handle).encode())
    assert (core.ignored, core.take_results()) == (1, [])


@pytest.mark.parametrize(
    ("code", "phrase", "told"),
    [(420, "Unknown Attribute", "stun-refused: 420 Unknown Attribute"), (500, "a\x1b[2Jb", "stun-refused: 500 a[2Jb")],
)
def test_an_error_response_is_a_refusal(core: StunClient, code: int, phrase: str, told: str) -> None:
    receive(core, refused(core.bind(SERVER, 0.0), code, phrase))
    assert reason_of(core.take_results()) == told


def test_an_error_response_without_a_code_is_a_refusal_too(core: StunClient) -> None:
    receive(core, response(core.bind(SERVER, 0.0), message_class=MessageClass.ERROR))
    assert reason_of(core.take_results()) == "stun-refused"


@pytest.mark.parametrize(
    "attributes",
    [
        (),
        ((A.XOR_MAPPED_ADDRESS, b""),),
        ((A.MAPPED_ADDRESS, address_value(MAPPED)), (0x7FFF, b"")),
        ((A.MAPPED_ADDRESS, address_value(MAPPED)), (A.OTHER_ADDRESS, b"\0\1")),
    ],
)
def test_an_answer_that_is_none_ends_the_request(core: StunClient, attributes: tuple[tuple[int, bytes], ...]) -> None:
    receive(core, response(core.bind(SERVER, 0.0), *attributes))
    [result] = core.take_results()
    assert isinstance(result.outcome, RemoteProtocolError)
    assert result.outcome.reason == "bad-stun"


def test_a_success_that_is_a_request_or_indication_is_no_answer(core: StunClient) -> None:
    for message_class in (MessageClass.REQUEST, MessageClass.INDICATION):
        handle = core.bind(SERVER, 0.0)
        datagram = response(handle, (A.MAPPED_ADDRESS, address_value(MAPPED)), message_class=message_class)
        core.receive_batch([datagram], PATH, 0.0)
        [result] = core.take_results()
        assert isinstance(result.outcome, RemoteProtocolError)


def test_a_cancelled_request_is_forgotten(core: StunClient) -> None:
    handle = core.bind(SERVER, 0.0)
    core.cancel(handle)
    assert not core.wants(bound(handle), PATH)
    assert core.next_deadline() is None
    handle = core.bind(SERVER, 1.0)
    receive(core, bound(handle))
    core.cancel(handle)
    assert core.take_results() == []
    core.cancel(handle)


def test_many_requests_run_at_once(core: StunClient) -> None:
    handles = [core.bind(SERVER, float(number)) for number in range(50)]
    assert len(set(handles)) == 50
    assert core.next_deadline() == 0.5
    for handle in reversed(handles):
        receive(core, bound(handle))
    assert [result.handle for result in core.take_results()] == handles[::-1]


def test_random_bytes_and_damaged_answers_never_disturb_the_core() -> None:
    seed = fuzz_seed()
    print(f"seed {seed}")
    rng = random.Random(seed)
    core = StunClient(random.Random(seed))
    now = 0.0

    def feed(datagram: bytes) -> None:
        nonlocal now
        now += rng.choice((0.0, 0.1, 20.0))
        core.receive_batch([datagram], PATH, now)
        if (deadline := core.next_deadline()) is not None and deadline <= now:
            core.handle_deadline(now)
        assert all(isinstance(outgoing, Outgoing) for outgoing in core.datagrams_to_send(now))
        core.take_results()

    for datagram in random_bytes_cases(rng, 60, fuzz_count() // 2):
        feed(datagram)
    for _ in range(fuzz_count() // 20 + 1):
        handle = core.bind(SERVER, now, change_ip=True)
        for datagram in mutations(rng, [bound(handle), refused(handle, 420, "no")], 10):
            feed(datagram)
        core.cancel(handle)
    assert core.next_deadline() is None


# ---- the async face


async def test_over_a_network_the_answer_is_awaited_and_failure_raised(autojump_clock: MockClock) -> None:
    async with open_internet(seed=1) as internet, trio.open_nursery() as nursery:
        hosts = internet.free_ipv4(), internet.free_ipv4()
        server = StunServer(internet.host("stun", *hosts), hosts, "refuses-change")
        await server.open(nursery)
        host = internet.host("client")
        core = StunClient(random.Random(1))
        mux = Mux(await host.bind_udp(Endpoint("0.0.0.0", 6881)))
        service = StunService(core, mux.wake)
        mux.add(core, priority=Priority.STUN, on_results=service.deliver)
        nursery.start_soon(mux.run)

        answer = await service.bind(server.endpoint)
        assert answer == StunAnswer(Endpoint(host.ipv4, 6881), server.endpoint, server.endpoint, server.other)
        with pytest.raises(RemoteError, match="stun-refused: 420"):
            await service.bind(server.endpoint, change_ip=True)
        started = trio.current_time()
        with pytest.raises(RemoteError, match="timed-out"):
            await service.bind(Endpoint(hosts[0], 9), patience=BRISK)
        assert trio.current_time() - started == pytest.approx(BRISK.total)

        heard = server.heard
        with trio.move_on_after(0.001):
            await service.bind(server.endpoint)
        await trio.sleep(5)
        assert server.heard == heard + 1, "nothing is repeated after cancellation"
        assert core.next_deadline() is None
        nursery.cancel_scope.cancel()
