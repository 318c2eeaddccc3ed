"""What routers and peers do in mid-download, to two of our nodes behind kernel NATs that have punched through them.

The nodes know one transport, so that what carried the rest is no matter of luck.  Nothing is delayed here: what takes
time is finding out.  Pauses were measured: about 12 s over µTP and 14 over TCP where an address changes, else none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.needs import need_program
from tests.netlab.faults import change_external_address, reboot_router, shorten_udp_mappings, unplug
from tests.netlab.grid import PORT, SIZE, Pair, World
from tests.netlab.lab import Lab, Machine, wait_for_gateway
from tests.netlab.test_nat_discovery import start_coturn
from tests.netlab.told import Line, statistics_of

pytestmark = pytest.mark.netlab

RATE = 250_000
"""Bytes a second: 2 MiB take eight."""

UNDER_WAY = 5.5
"""Seconds of downloading before the fault: a connection that breaks sooner counts as refused."""

LIMIT = 45.0
"""Seconds from the leech's start in which whatever is waited for happens."""

NO_PAUSE = 6.0
"""Seconds that a download may take longer than at its rate, on a busy machine; to lose a connection costs 9."""

NOTICED = 25.0
"""Seconds of pause where a connection is lost: a silence of 2, time-outs of up to 15.5, another punch."""

FOUND_OUT = 20.0
"""Seconds in which one who is gone is missed; 15.5 at most by µTP, 9 by TCP, and what leads up to that."""

MAPPING_LIFE = 10
"""Seconds that a NAT remembers a silent UDP flow."""

IDLE_FOR = 40.0
AT_ONCE = 7.0
"""Seconds from the third's start, which takes two, until all is there: sooner than any keep-alive that is too late."""

OPEN_AGAIN = 15.0
"""Seconds from a gateway's restart until it has opened our port again."""

BROKEN = ("reset", "idle", "not-reading")
"""Reasons of connections that end by themselves."""

ELSEWHERE = "11.11.11.222"

Fault = Callable[[Lab, Pair], None]


@dataclass(frozen=True)
class Survived:
    """The download goes on, after ``pause`` seconds at most; ``anew``: over another connection."""

    fault: Fault
    pause: float
    anew: bool = False


def _kill(name: str) -> Fault:
    def kill(lab: Lab, pair: Pair) -> None:
        pair.nodes[name].process.kill()

    return kill


SURVIVED = {
    "the leech's router restarts": Survived(lambda lab, pair: reboot_router(lab, pair.leech), NO_PAUSE),
    "the seed's router restarts": Survived(lambda lab, pair: reboot_router(lab, pair.seed), NO_PAUSE),
    "the leech's address changes": Survived(
        lambda lab, pair: change_external_address(lab, pair.leech, ELSEWHERE), NOTICED, anew=True
    ),
    "the seed's address changes": Survived(
        lambda lab, pair: change_external_address(lab, pair.seed, ELSEWHERE), NOTICED, anew=True
    ),
    "the introducer is killed": Survived(_kill("rendezvous"), NO_PAUSE),
}

GONE: dict[str, tuple[str, Fault]] = {
    # who finds out, and what happens to the other
    "the seed is killed": ("leech", _kill("seed")),
    "the leech is killed": ("seed", _kill("leech")),
    "the seed's cable is cut": ("leech", lambda lab, pair: unplug(pair.seed)),
    "the leech's cable is cut": ("seed", lambda lab, pair: unplug(pair.leech)),
}

PATHS = {"utp": {"utp-punched"}, "tcp": {"tcp-punched", "tcp"}}
"""By transport.  The seed's SYN may meet the leech's first dial before that knows of the rendezvous: "tcp" then."""

IDLE = ("utp", "idle")
GATEWAY = ("both", "the seed's gateway restarts")
SCENES = [(transport, name) for transport in PATHS for name in (*SURVIVED, *GONE)]
SCENES = [scene for scene in SCENES if scene[0] == "utp" or not scene[1].endswith("killed")]  # the kernel says goodbye


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[tuple[str, str], Future[str | None]]]:
    """All of them, under way: what went wrong, or None."""
    for program in ("ss", "miniupnpd"):
        need_program(program)
    with ThreadPoolExecutor(6) as pool:
        idle = {IDLE: pool.submit(run_idle)}  # which takes longest
        gateway = {GATEWAY: pool.submit(run_gateway)}
        yield idle | gateway | {scene: pool.submit(run, *scene) for scene in SCENES}
        pool.shutdown(cancel_futures=True)


def run(transport: str, name: str) -> str | None:
    with Lab(ipv6=False) as lab:
        pair = Pair(lab, "cone", "cone", World(transport, transport, "ours"), rate=RATE)
        pair.start_others()
        pair.settle()
        leech = pair.start_leech()
        met = leech.wait_for("peer", LIMIT, state="connected", endpoint=f"{pair.seed.external}:{PORT}")
        if met is None:
            return f"never met: {pair.why()}"
        time.sleep(UNDER_WAY)
        if leech.lines("done"):
            return "the fault came too late"
        if name in SURVIVED:
            SURVIVED[name].fault(lab, pair)
            return _judge_survivor(lab, pair, met, transport, SURVIVED[name])
        return _judge_loss(lab, pair, *GONE[name])


def _judge_survivor(lab: Lab, pair: Pair, met: float, transport: str, expected: Survived) -> str | None:
    leech = pair.nodes["leech"]
    done = leech.wait_for("done", LIMIT)
    if done is None:
        return f"not complete: {pair.why()}"
    leech.process.wait(LIMIT)  # then its statistics are there
    pause = done - met - SIZE / RATE
    if pause > expected.pause:
        return f"a pause of {pause:.1f} s: {leech.lines('peer')}"
    document = json.loads((lab.directory / "leech.stats").read_text())
    carried = {path: ways["in"]["bytes_down"] + ways["out"]["bytes_down"] for path, ways in document["paths"].items()}
    if {path for path, count in carried.items() if count} - PATHS[transport]:
        return f"other ways carried some: {carried}"
    to_seed = [line for line in leech.lines("peer") if not line["endpoint"].startswith(pair.rendezvous.address)]
    return _judge_connections(to_seed, pair, anew=expected.anew)


def _judge_connections(peers: list[Line], pair: Pair, *, anew: bool) -> str | None:
    """Those of the leech to the seed: one for all of it, but for crossing dials at first; or another one in the end."""
    connected = [line for line in peers if line["state"] == "connected"]
    later = [line["endpoint"] for line in connected if line["time"] > connected[0]["time"] + UNDER_WAY]
    if bool(later) is not anew:
        return f"{'no other connection' if anew else 'another connection'}: {peers}"
    return f"the rest came from {later[-1]}" if anew and later[-1] != f"{pair.seed.external}:{PORT}" else None


def _judge_loss(lab: Lab, pair: Pair, who: str, fault: Fault) -> str | None:
    node, other = pair.nodes[who], pair.seed if who == "leech" else pair.leech
    fault(lab, pair)
    gone = {"endpoint": f"{other.external}:{PORT}", "state": "lost"}
    before = len(node.lines("peer", **gone))  # duplicates, of crossing punches
    deadline = time.monotonic() + FOUND_OUT
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if after := node.lines("peer", **gone)[before:]:
            return _judge_remains(lab, pair, who, other) if after[0]["reason"] in (*BROKEN, "closed") else f"{after}"
    return f"kept for {FOUND_OUT} s"


def _judge_remains(lab: Lab, pair: Pair, who: str, other: Machine) -> str | None:
    """What the kernel and the node itself still hold of a connection to who is gone."""
    machine = pair.leech if who == "leech" else pair.seed
    at = f"{other.external}:{PORT}"
    sockets = [line for line in machine.run("ss", "-Htn").splitlines() if at in line and "SYN-SENT" not in line]
    document = statistics_of(pair.nodes[who].process, lab.directory / f"{who}.stats")
    known = [peer for peer in document["peers"] if peer["endpoint"] == at and peer["connected"]]
    return f"left: {sockets} {known}" if sockets or known else None


@pytest.mark.parametrize("transport,name", SCENES)
def test_in_mid_download(outcomes: dict[tuple[str, str], Future[str | None]], transport: str, name: str) -> None:
    assert outcomes[transport, name].result() is None


# -- a gateway --------------------------------------------------------------------------------------------------------


def run_gateway() -> str | None:
    """A real miniupnpd (PCP) restarts, its mappings gone, while the leech downloads through a port that it had opened.

    It announces that.  Of UPnP, which has no epochs, a restart is not known before a lease is renewed.
    """
    with Lab(ipv6=False) as lab:
        pair = Pair(lab, "natpmp", "cone", World("ours", "ours", "ours"), rate=RATE)
        pair.start_others()
        if not pair.settle():
            return "the port was never opened"
        leech = pair.start_leech()
        met = leech.wait_for("peer", LIMIT, state="connected", endpoint=f"{pair.seed.external}:{PORT}", direction="out")
        if met is None:
            return f"not through the port: {leech.lines('peer')}"
        time.sleep(UNDER_WAY)
        if leech.lines("done"):
            return "the fault came too late"
        reboot_router(lab, pair.seed)
        wait_for_gateway(pair.seed)
        restarted = time.monotonic()
        while not pair.is_open():
            if time.monotonic() > restarted + OPEN_AGAIN:
                return "the port stayed shut"
            time.sleep(0.1)
        done = leech.wait_for("done", LIMIT)
        pause = None if done is None else done - met - SIZE / RATE
        return None if pause is not None and pause < NO_PAUSE else f"a pause of {pause} s: {leech.lines('peer')}"


def test_a_gateway_restarts_in_mid_download(outcomes: dict[tuple[str, str], Future[str | None]]) -> None:
    assert outcomes[GATEWAY].result() is None


# -- nothing to say ---------------------------------------------------------------------------------------------------


def run_idle() -> str | None:
    """Two that have nothing for each other, behind NATs that forget after ten seconds; then a third comes.

    The third gets to one of them only.  What the other then has came over the link that had been idle.
    """
    with Lab(ipv6=False) as lab:
        pair = Pair(lab, "cone", "cone", World("utp", "utp", "ours"))
        for machine in (pair.seed, pair.leech):
            shorten_udp_mappings(machine, MAPPING_LIFE)
        ask_there = "--stun", str(start_coturn(lab))
        pair.start_tracker()
        pair.start("rendezvous", pair.rendezvous, "ours")
        pair.wait_announced("rendezvous")
        pair.start("one", pair.seed, "utp", "--seed", *ask_there)
        pair.wait_announced("one")
        two = pair.start("two", pair.leech, "utp", *ask_there)
        to_one = {"endpoint": f"{pair.seed.external}:{PORT}", "path": "utp-punched"}
        if two.wait_for("peer", LIMIT, state="connected", **to_one) is None:
            return f"never met: {two.lines('stalled')}"
        time.sleep(IDLE_FOR)
        third = lab.public("third")
        assert pair.leech.router is not None
        pair.leech.router.run("nft", "insert", "rule", "inet", "lab", "forward", "ip", "daddr", third.address, "drop")
        came = two.age
        pair.start("seed", third, "utp")
        done = two.wait_for("done", came + LIMIT)
        lost = [line for line in two.lines("peer", state="lost", **to_one) if line["reason"] in BROKEN]
        if done is None or lost:
            return f"complete: {done}; {two.lines('peer')}"
        return None if done - came < AT_ONCE else f"it took {done - came} s: the mappings were gone"


def test_a_punched_link_that_is_idle_outlives_mappings_of_ten_seconds(
    outcomes: dict[tuple[str, str], Future[str | None]],
) -> None:
    assert outcomes[IDLE].result() is None
