"""For how long does our NAT keep an idle UDP mapping?  RFC 5780 §4.6, with many mappings at once for a binary search.

Each silence is tried on a socket, and so a mapping, of its own: two exchanges a few seconds apart (Linux forgets a flow
of one exchange after 30 s, one that lasts after 120), then the silence, and then something must still come in.  It is
sent by a peer of ours who was asked to (`swarm.net.mapping_tests`), or by a STUN server on behalf of another socket of
ours (RESPONSE-PORT).  Nothing counts as forgotten unless whoever should have sent still answers after that.

The silences begin together and end one after the other, so that a NAT that forgets early is known early.  Decides
neither when to measure nor what for: `swarm.connect.nat_tests` does.  IPv4 only; TCP mappings, which live for hours
(RFC 5382 §5), are not measured.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import trio

from swarm.connect.second_port import send
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.net.mapping_tests import late_request
from swarm.net.network import DatagramSocket, Network, Path
from swarm.wire.stun import (
    BINDING,
    TRANSACTION_ID_SIZE,
    AttributeType,
    MessageClass,
    StunMessage,
    parse_stun_untrusted,
    response_port_value,
)

SILENCES = (4, 8, 13, 18, 27, 57, 85, 115, 175, 290)
"""Seconds; just below where NATs are known to forget."""

LASTING = 2.5
"""Seconds between the two exchanges."""

TIMES = (0.0, 0.4, 0.8)
PATIENCE = 1.6
"""Seconds at which a request is sent until it is answered, and given up."""

GRACE = 2.0
"""Seconds for which an answer may be late."""

CERTAIN = 2
"""Mappings that were forgotten, each after a longer silence than any that lasted: enough to stop."""

ANY = Endpoint("0.0.0.0", 0)

Survives = Callable[[int], Awaitable[bool | None]]
"""Whether a mapping lasts through a silence of so many seconds; None if that could not be tested."""


class Lifetime(NamedTuple):
    """Seconds of silence: the longest that a mapping was seen to survive, and the shortest longer one that it did not
    (None: it survived them all, or nobody can tell)."""

    lasted: float
    gone_after: float | None


async def measure_lifetime(survives: Survives, silences: Sequence[int] = SILENCES) -> Lifetime | None:
    """The lifetime of our NAT's mappings; None if it cannot be told.

    Takes as long as the longest silence that is needed, five minutes at most.
    """
    outcomes: dict[int, bool | None] = {}

    async def try_one(silence: int) -> None:
        outcomes[silence] = await survives(silence)
        if _is_settled(outcomes):
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for silence in silences:
            nursery.start_soon(try_one, silence)
    return _conclude(outcomes)


def by_peer(network: Network, helper: Endpoint, nonce: bytes) -> Survives:
    """By a peer of ours that listens at ``helper`` and was told the nonce."""

    async def survives(silence: int) -> bool | None:
        try:
            socket = await network.bind_udp(ANY)
        except OSError:
            return None
        try:
            return await _survives(_Asking(socket, helper), nonce, silence)
        finally:
            socket.close()

    return survives


def by_stun(network: Network, server: Endpoint, rng: random.Random) -> Survives:
    """By a STUN server that knows RESPONSE-PORT."""

    async def survives(silence: int) -> bool | None:
        if await _reaches_later(network, server, rng, silence):
            return True
        return False if await _reaches_later(network, server, rng, 0) else None

    return survives


def _is_settled(outcomes: Mapping[int, bool | None]) -> bool:
    """Whether waiting on would tell nothing more: what is still silent has been silent longer than all of these."""
    lasted = max((silence for silence, outcome in outcomes.items() if outcome), default=0)
    forgotten = sum(outcome is False and silence > lasted for silence, outcome in outcomes.items())
    untold = sum(outcome is None for outcome in outcomes.values())
    return forgotten >= CERTAIN or untold >= CERTAIN


def _conclude(outcomes: Mapping[int, bool | None]) -> Lifetime | None:
    lasted = max((silence for silence, outcome in outcomes.items() if outcome), default=None)
    if lasted is None:
        return None
    gone = [silence for silence, outcome in outcomes.items() if outcome is False and silence > lasted]
    untold = any(outcome is None and silence > lasted for silence, outcome in outcomes.items())
    return None if untold and not gone else Lifetime(lasted, min(gone, default=None))


# -- by a peer ------------------------------------------------------------------------------------------------------


async def _survives(asking: _Asking, nonce: bytes, silence: int) -> bool | None:
    request = late_request(nonce, silence)
    for pause in (0.0, LASTING):
        await trio.sleep(pause)
        if await asking.ask(request) is None:
            return None
    if await asking.hear(request, asking.sent + 0.9 * silence, asking.sent + silence + GRACE):
        return True
    return None if await asking.ask(late_request(nonce, 0)) is None else False


# -- by a STUN server -------------------------------------------------------------------------------------------------


async def _reaches_later(network: Network, server: Endpoint, rng: random.Random, silence: int) -> bool:
    """Whether an answer that another socket of ours asks for gets in through a mapping after a silence."""
    try:
        first = await network.bind_udp(ANY)
    except OSError:
        return False
    try:
        second = await network.bind_udp(ANY)
    except OSError:
        first.close()
        return False
    try:
        return await _reaches(_Asking(first, server), _Asking(second, server), rng, silence)
    finally:
        first.close()
        second.close()


async def _reaches(first: _Asking, second: _Asking, rng: random.Random, silence: int) -> bool:
    mapped: Endpoint | None = None
    for pause in (0.0, LASTING if silence else 0.0):
        await trio.sleep(pause)
        answer = await first.ask(_binding(rng))
        mapped = None if answer is None else _mapped_untrusted(answer)
        if mapped is None:
            return False
    assert mapped is not None
    await trio.sleep_until(first.sent + silence)
    request = _binding(rng, (AttributeType.RESPONSE_PORT, response_port_value(mapped.port)))
    heard = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.ask, request)  # which hears nothing itself: the answers go to the first one
        now = trio.current_time()
        heard = await first.hear(request, now, now + PATIENCE)
        nursery.cancel_scope.cancel()
    return heard


def _binding(rng: random.Random, *attributes: tuple[int, bytes]) -> StunMessage:
    return StunMessage(MessageClass.REQUEST, BINDING, rng.randbytes(TRANSACTION_ID_SIZE), attributes)


def _mapped_untrusted(answer: StunMessage) -> Endpoint | None:
    """Where a server sees us; None if its answer does not tell."""
    try:
        return answer.xor_address_untrusted(AttributeType.XOR_MAPPED_ADDRESS)
    except RemoteProtocolError:
        return None


# -- both -------------------------------------------------------------------------------------------------------------


class _Asking:
    """One socket with one mapping, and who is asked through it."""

    def __init__(self, socket: DatagramSocket, remote: Endpoint) -> None:
        self.sent = -math.inf
        """When something was sent last."""
        self._socket = socket
        self._remote = remote

    async def ask(self, request: StunMessage) -> StunMessage | None:
        """Send it until an answer is there; None if there is none."""
        datagram, began = request.encode(), trio.current_time()
        for until in (*TIMES[1:], PATIENCE):
            self.sent = trio.current_time()
            send(self._socket, datagram, Path(None, self._remote), None)
            with trio.move_on_at(began + until):
                return await self._answer(request)
        return None

    async def hear(self, request: StunMessage, earliest: float, latest: float) -> bool:
        """Whether an answer comes in between; those that come before are not looked at."""
        with trio.move_on_at(latest):
            while True:
                await self._answer(request)
                if trio.current_time() >= earliest:
                    return True
        return False

    async def _answer(self, request: StunMessage) -> StunMessage:
        while True:
            for data, segment_size, path in self._socket.receive_nowait():
                answer = _answer_untrusted(data[:segment_size], request)
                if answer is not None and path.remote == self._remote:
                    return answer
            await self._socket.wait_readable()


def _answer_untrusted(datagram: memoryview, request: StunMessage) -> StunMessage | None:
    """The answer to ``request``, None if it is none."""
    try:
        answer = parse_stun_untrusted(datagram)
    except RemoteProtocolError:
        return None
    asked = answer.transaction_id == request.transaction_id and answer.method == BINDING
    return answer if asked and answer.message_class == MessageClass.SUCCESS else None
