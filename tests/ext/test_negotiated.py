"""The extensions of one connection: each end numbers its own, and nothing goes where it is not due."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarm.errors import RemoteProtocolError
from swarm.ext.extension import Extension, Say
from swarm.ext.negotiated import Extensions
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.messages import Extended


class Recorder:
    """An extension that notes what it is told, and can be made to raise."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.told: list[object] = []
        self.fault: RemoteProtocolError | None = None

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        self.told.append(("handshake", now))

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        if self.fault is not None:
            raise self.fault
        self.told.append((payload, now))

    def tick(self, now: float) -> None:
        self.told.append(("tick", now))

    def closed(self) -> None:
        self.told.append("closed")


class Scene:
    """Extensions "one" and "two" on a connection, and what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.extensions = Extensions(self.sent.append)
        self.made: dict[str, Recorder] = {}
        for name in ("one", "two"):
            self.extensions.add(name, self._maker(name))

    def _maker(self, name: str) -> Callable[[Say], Extension]:
        def make(say: Say) -> Extension:
            self.made[name] = Recorder(say)
            return self.made[name]

        return make

    def they_say(self, now: float = 1.0, **m: int) -> None:
        self.extensions.handshake_received(ExtendedHandshake(m=m), now)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_ours_are_numbered_from_one(scene: Scene) -> None:
    assert scene.extensions.m == {"one": 1, "two": 2}


def test_who_is_named_hears_of_every_handshake(scene: Scene) -> None:
    scene.they_say(two=7, unknown=3)
    scene.they_say(2.0, one=6, two=7)
    assert scene.made["one"].told == [("handshake", 2.0)]
    assert scene.made["two"].told == [("handshake", 1.0), ("handshake", 2.0)]


def test_messages_come_under_our_numbers_and_go_under_theirs(scene: Scene) -> None:
    scene.they_say(two=77)
    scene.extensions.receive_untrusted(2, b"hello", 5.0)
    scene.made["two"].say(b"answer")
    assert scene.made["two"].told[1:] == [(b"hello", 5.0)]
    assert scene.sent == [Extended(77, b"answer").encode()]


def test_before_the_peer_has_named_it_an_extension_neither_hears_nor_speaks(scene: Scene) -> None:
    scene.extensions.receive_untrusted(1, b"early", 0.0)
    scene.extensions.tick(0.5)
    scene.made["one"].say(b"early")
    assert scene.made["one"].told == []
    assert scene.sent == []
    assert not scene.extensions.speaks("one")


def test_numbers_that_we_never_gave_out_are_ignored(scene: Scene) -> None:
    scene.they_say(one=1)
    for ext_id in (0, 3, 255):
        scene.extensions.receive_untrusted(ext_id, b"?", 1.0)
    assert scene.made["one"].told == [("handshake", 1.0)]


def test_a_fault_of_the_peer_is_passed_on(scene: Scene) -> None:
    scene.they_say(one=1)
    scene.made["one"].fault = RemoteProtocolError("bad-thing")
    with pytest.raises(RemoteProtocolError, match="bad-thing"):
        scene.extensions.receive_untrusted(1, b"", 1.0)


def test_only_those_that_are_spoken_are_told_the_time(scene: Scene) -> None:
    scene.they_say(two=2)
    scene.extensions.tick(9.0)
    assert scene.made["one"].told == []
    assert scene.made["two"].told[-1] == ("tick", 9.0)


def test_what_the_peer_switches_off_is_silent_from_then_on(scene: Scene) -> None:
    first = ExtendedHandshake(m={"one": 1, "two": 2})
    scene.extensions.handshake_received(first, 1.0)
    scene.extensions.handshake_received(first.updated(ExtendedHandshake(m={"one": 0})), 2.0)
    assert not scene.extensions.speaks("one")
    assert scene.extensions.speaks("two")
    scene.made["one"].say(b"lost")
    scene.extensions.receive_untrusted(1, b"lost", 3.0)
    assert scene.sent == []
    assert scene.made["one"].told == [("handshake", 1.0)]


def test_what_we_drop_is_told_once_and_heard_no_more(scene: Scene) -> None:
    scene.they_say(one=1, two=2)
    assert scene.extensions.drop("one") == {"one": 0}
    assert scene.extensions.drop("one") == {}
    assert scene.extensions.m == {"two": 2}
    assert scene.made["one"].told[-1] == "closed"
    scene.extensions.receive_untrusted(1, b"late", 2.0)
    scene.they_say(3.0, one=1, two=2)
    assert scene.made["one"].told[-1] == "closed"
    scene.extensions.receive_untrusted(2, b"heard", 2.0)
    assert (b"heard", 2.0) in scene.made["two"].told


def test_the_end_is_told_once_and_nothing_is_said_after_it(scene: Scene) -> None:
    scene.they_say(one=1)
    scene.extensions.closed()
    scene.extensions.closed()
    scene.made["one"].say(b"late")
    scene.extensions.tick(2.0)
    scene.extensions.receive_untrusted(1, b"late", 2.0)
    assert [recorder.told.count("closed") for recorder in scene.made.values()] == [1, 1]
    assert scene.sent == []
