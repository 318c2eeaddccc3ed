"""Introducers of ``sw_punch`` that lie about who is to be met: what they can make a node send, and to how many."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from swarm.connect.predict import MAX_PROBES, SPRAY, VOLLEYS
from swarm.connect.shot_port import BIRTHDAY_BURST, PREDICTED_BURST, PREDICTED_SECONDS
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.ext.punch import Punch
from swarm.ext.punch_message import Answer, Answered, Go, Measure, Offer, Offered, Terms, parse_punch_message_untrusted
from swarm.simnet.internet import open_internet
from tests.connect.three import HANDSHAKE, Located, Member

FIXED, SEQUENCE, RANDOM = (5000,) * 4, (6000, 6001, 6002, 6003), (6000, 16001, 26002, 36003)
LIARS, SECONDS = 20, 60


class Liar:
    """Says at once that everything is agreed, and that whoever is named has been measured."""

    def __init__(self, member: Member, number: int, theirs: tuple[int, ...]) -> None:
        self._at = Endpoint(f"46.1.{number}.1", 6881)
        self._number, self._named, self._theirs = number, 0, theirs
        self.punch: Punch = member.agreements.extension(self._heard, Located(self._at))
        self.punch.handshake_received(HANDSHAKE, 0.0)

    def victim(self) -> Endpoint:
        self._named += 1
        return Endpoint(f"45.{self._number}.{self._named // 250}.{self._named % 250 + 1}", 80)

    def say(self, message: Any) -> None:
        self.punch.receive_untrusted(message.encode(), trio.current_time())

    def _heard(self, payload: bytes) -> None:
        message = parse_punch_message_untrusted(payload)
        if isinstance(message, Offer):
            self.say(Answered(message.session, message.target, Terms()))
        if isinstance(message, (Offer, Answer)):
            self.say(Measure(message.session, bytes(16), (1,)))
            self.say(Go(message.session, 0, 0, FIXED, self._theirs))


async def lied_to_as_target(liar: Liar) -> None:
    while True:
        liar.say(Offered(random.randbytes(16), liar.victim(), Terms()))
        await trio.sleep(1)


async def lied_to_as_initiator(liar: Liar, member: Member) -> None:
    """The dialer asks as soon as an attempt has ended."""
    while True:
        try:
            await member.agreements.reach(liar.punch, liar.victim())
        except RemoteError:
            await trio.sleep(0.1)


@pytest.mark.parametrize("role", ["target", "initiator"])
@pytest.mark.parametrize(
    "theirs,most",
    [
        (SEQUENCE, (PREDICTED_BURST + SECONDS / PREDICTED_SECONDS) * len(VOLLEYS) * SPRAY),
        (RANDOM, (BIRTHDAY_BURST + 1) * MAX_PROBES),
    ],
)
async def test_liars_make_a_node_send_little_to_few(
    autojump_clock: MockClock, role: Literal["target", "initiator"], theirs: tuple[int, ...], most: float
) -> None:
    """Twenty of them had it send 180,000 datagrams a minute to a thousand victims that PEX had named."""
    sent: Counter[str] = Counter()
    async with open_internet(seed=1, trace=True) as internet, trio.open_nursery() as nursery:
        host = internet.host("node")
        member = Member(host, host.ipv4, 1)
        nursery.start_soon(member.ports.run)
        nursery.start_soon(member.second_ports.run)
        await wait_all_tasks_blocked()
        for number in range(LIARS):
            liar = Liar(member, number, theirs)
            if role == "target":
                nursery.start_soon(lied_to_as_target, liar)
            else:
                nursery.start_soon(lied_to_as_initiator, liar, member)
        await trio.sleep(SECONDS)
        nursery.cancel_scope.cancel()
    assert internet.trace is not None
    sent.update(line.packet.split("> 45.")[1].split()[0] for line in internet.trace if is_sent_to_a_victim(line))
    assert most / 4 < sent.total() <= most
    assert len({victim.rpartition(":")[0] for victim in sent}) <= PREDICTED_BURST + SECONDS / PREDICTED_SECONDS


def is_sent_to_a_victim(line: Any) -> bool:
    return line.what == "sent" and line.where == "node" and "> 45." in line.packet


@pytest.mark.parametrize("after", [0.0, 0.5, 3.0])
async def test_a_torrent_that_goes_gives_up_the_meetings_that_others_asked_for(
    autojump_clock: MockClock, after: float
) -> None:
    """A birthday shot on for 14 seconds."""
    async with open_internet(seed=1) as internet, trio.open_nursery() as nursery:
        host = internet.host("node")
        member = Member(host, host.ipv4, 1)
        nursery.start_soon(member.ports.run)
        await wait_all_tasks_blocked()
        liar = Liar(member, 1, RANDOM)
        liar.say(Offered(bytes(16), liar.victim(), Terms()))
        await trio.sleep(after)
        member.agreements.stop()
        await trio.sleep(0.1)
        assert not host.udp._sockets and not member.agreements._meetings and not member.agreements._attending
        assert member.ports.has_room
        nursery.cancel_scope.cancel()
