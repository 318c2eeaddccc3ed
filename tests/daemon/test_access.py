"""Who may ask the daemon: guessed passwords, wrong host names."""

from __future__ import annotations

from base64 import b64encode

import pytest
import trio
from trio.testing import MockClock

from swarm.daemon.access import FORGIVEN_AFTER, FREE_TRIES, LONGEST_PAUSE, MAX_ADDRESSES, Access, Brake, SessionId
from swarm.daemon.http import Request


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def asked(host: str = "localhost", remote: str = "127.0.0.1", **headers: str) -> Request:
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Request("GET", "/", "/", headers={"host": host, **named}, remote=remote)


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def access(clock: Clock, **options: object) -> Access:
    return Access(SessionId(clock), clock=clock, **options)  # type: ignore[arg-type]


def status(access: Access, request: Request) -> int:
    refusal = access.refusal(request)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9091", "localhost.", "10.1.2.3:9091", "[::1]:9091", "[::1]", "nas.lan"],
)
def test_localhost_addresses_and_configured_names_pass(clock: Clock, host: str) -> None:
    assert status(access(clock, names=["NAS.lan."]), asked(host)) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.example", "", ":9091", "[x]"])
def test_a_name_that_was_made_to_point_here_is_refused(clock: Clock, host: str) -> None:
    assert status(access(clock, names=["nas.lan"]), asked(host)) == 421
    no_host = Request("GET", "/", "/", remote="127.0.0.1")
    assert status(access(clock), no_host) == 421


def test_a_wild_card_stands_for_what_is_below_it(clock: Clock) -> None:
    wild = access(clock, names=["*.home.example"])
    assert [status(wild, asked(host)) for host in ("a.home.example", "b.a.home.example", "home.example")] == [
        200,
        200,
        421,
    ]
    assert status(access(clock, names=["*"]), asked("anything.example")) == 200


def test_behind_a_unix_socket_there_is_no_browser(clock: Clock) -> None:
    assert status(access(clock), asked("evil.example", remote="")) == 200


def test_with_a_password_any_name_passes_and_nothing_without_it(clock: Clock) -> None:
    guarded = access(clock, user="u", password="pä:ss")
    assert status(guarded, asked("docker-name", Authorization=basic("u", "pä:ss"))) == 200
    refusal = guarded.refusal(asked())
    assert refusal is not None
    assert refusal.status == 401
    assert dict(refusal.headers)["WWW-Authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize(
    "authorization",
    ["", "Basic", "Basic !", "Basic ä", "Bearer x", basic("u", ""), basic("u", "pass "), basic("v", "pass"),
     "Basic " + b64encode(b"u").decode(), "Basic " + b64encode(b"\xff:\xff").decode()],
)  # fmt: skip
def test_a_wrong_password_is_401(clock: Clock, authorization: str) -> None:
    assert status(access(clock, user="u", password="pass"), asked(Authorization=authorization)) == 401


def test_without_a_user_any_name_goes_with_the_password(clock: Clock) -> None:
    guarded = access(clock, password="pass")
    assert status(guarded, asked(Authorization=basic("anybody", "pass"))) == 200
    assert status(guarded, asked(Authorization=basic("anybody", "word"))) == 401


def test_guessing_becomes_slow_for_that_address_alone(clock: Clock) -> None:
    guarded = access(clock, password="right")
    looked_at = 0
    for _ in range(3600):
        clock.now += 0.1
        looked_at += status(guarded, asked(Authorization=basic("", "wrong"))) == 401
    assert looked_at <= FREE_TRIES + 10 + 360 / LONGEST_PAUSE
    assert status(guarded, asked(Authorization=basic("", "right"))) == 429  # in the pause nothing is looked at
    assert status(guarded, asked(remote="10.0.0.9", Authorization=basic("", "right"))) == 200
    clock.now += LONGEST_PAUSE
    assert status(guarded, asked(Authorization=basic("", "right"))) == 200


def test_a_pause_says_how_long(clock: Clock) -> None:
    guarded = access(clock, password="right")
    for _ in range(FREE_TRIES):
        status(guarded, asked(Authorization=basic("", "wrong")))
    refusal = guarded.refusal(asked(Authorization=basic("", "wrong")))
    assert refusal is not None
    assert (refusal.status, dict(refusal.headers)["Retry-After"]) == (429, "1")


def test_asking_without_a_password_first_is_no_guess(clock: Clock) -> None:
    guarded = access(clock, password="right")
    assert {status(guarded, asked()) for _ in range(100)} == {401}
    assert status(guarded, asked(Authorization=basic("", "right"))) == 200


def test_who_holds_the_session_id_is_not_locked_out_by_a_neighbour(clock: Clock) -> None:
    session_id = SessionId(clock)
    guarded = Access(session_id, password="right", clock=clock)
    for _ in range(50):
        status(guarded, asked(Authorization=basic("", "wrong")))
    known = {"X_Transmission_Session_Id": session_id.value, "Authorization": basic("", "right")}
    assert status(guarded, asked(**known)) == 200


def test_an_address_is_forgiven_and_the_memory_bounded() -> None:
    brake = Brake()
    for _ in range(20):
        brake.failed("2001:db8::1", 0.0)
    assert brake.wait("2001:db8::ffff", 1.0) > 0  # the same /64
    assert brake.wait("2001:db8:0:1::1", 1.0) == 0
    brake.failed("2001:db8::1", FORGIVEN_AFTER + 1)
    assert brake.wait("2001:db8::1", FORGIVEN_AFTER + 1) == 0
    for number in range(MAX_ADDRESSES + 50):
        brake.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5000.0)
    assert len(brake._failures) == MAX_ADDRESSES


async def test_by_default_the_clock_is_trios(autojump_clock: MockClock) -> None:
    guarded = Access(SessionId(), password="right")
    for _ in range(FREE_TRIES):
        status(guarded, asked(Authorization=basic("", "wrong")))
    assert status(guarded, asked(Authorization=basic("", "right"))) == 429
    await trio.sleep(LONGEST_PAUSE)
    assert status(guarded, asked(Authorization=basic("", "right"))) == 200
