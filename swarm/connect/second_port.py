"""The introducer's further UDP ports: they see how the NATs of two peers hand out ports (no BEP; ours).

A peer sends the same 40 bytes to each of a few fresh ports of ours, one after the other; to a NAT whose mappings depend
on the remote endpoint these are new remotes, so that one introducer suffices to learn step and randomness, at the
moment when it counts.  Each probe with the right nonce, from the address at which we know that peer, is answered with
the endpoint that we see, in fewer bytes; anything else is not.  The ports are open for two seconds at most, and for
less if one of the two is not heard at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import trio

from swarm.connect.knock import encode_measured, parse_measure_untrusted
from swarm.connect.predict import MIN_SAMPLES
from swarm.endpoint import Endpoint
from swarm.ext.punch_desk import Observation
from swarm.net.network import DatagramSocket, Network, Outgoing, Path

PORTS = 4
"""For each meeting: three distances between ports."""

PATIENCE = 2.0
"""Seconds until we stop looking; an end that was seen at `MIN_SAMPLES` ports is known well enough then."""

SILENCE = 0.75
"""Seconds after which an end of which nothing has come has no UDP, and the meeting no hope: its probes leave at 0, 0.1,
0.25 and 0.5 s, and this is the time that such a pair waits for a relay."""

MAX_AT_ONCE = 8
"""Meetings measured at once: 32 sockets."""

MAX_PROBES = 200
"""Datagrams read at one port; an honest pair sends at most ten."""

Opened = Callable[[tuple[int, ...]], None]
Done = Callable[[Mapping[bytes, Observation]], None]


class SecondPorts:
    """A `swarm.ext.punch_desk.Observes`, for all torrents of a node, while `run` runs."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._nursery: trio.Nursery | None = None
        self._under_way = 0

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def observe(self, ends: Mapping[bytes, str], opened: Opened, done: Done) -> bool:
        """As `swarm.ext.punch_desk.Observes`."""
        if self._nursery is None or self._under_way >= MAX_AT_ONCE:
            return False
        self._under_way += 1
        self._nursery.start_soon(self._observe, ends, opened, done)
        return True

    async def _observe(self, ends: Mapping[bytes, str], opened: Opened, done: Done) -> None:
        watch = _Watch(ends)
        try:
            with ExitStack() as stack:
                await self._watch(watch, stack, opened)
        except OSError:
            watch = _Watch({})  # no port, or no socket, left: nobody was seen
        finally:
            self._under_way -= 1
        done(watch.observations())

    async def _watch(self, watch: _Watch, stack: ExitStack, opened: Opened) -> None:
        host = "::" if any(":" in host for host in watch.ends.values()) else "0.0.0.0"
        sockets = []
        for _ in range(PORTS):
            sockets.append(await self._network.bind_udp(Endpoint(host, 0)))
            stack.callback(sockets[-1].close)
        watch.started = trio.current_time()
        opened(tuple(socket.local.port for socket in sockets))
        with trio.move_on_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number, socket in enumerate(sockets):
                    nursery.start_soon(partial(watch.listen, number, socket))
                with trio.move_on_after(SILENCE):
                    await watch.complete.wait()
                if watch.all_heard:
                    await watch.complete.wait()
                nursery.cancel_scope.cancel()


class _Watch:
    """What is seen of the ends of one meeting."""

    def __init__(self, ends: Mapping[bytes, str]) -> None:
        self.ends = ends
        self.started = 0.0
        self.complete = trio.Event()
        self._seen: dict[bytes, dict[int, int]] = {nonce: {} for nonce in ends}
        self._first: dict[bytes, float] = {}

    @property
    def all_heard(self) -> bool:
        """Whether something has come of every end."""
        return len(self._first) == len(self.ends)

    def observations(self) -> dict[bytes, Observation]:
        return {
            nonce: Observation(tuple(ports[number] for number in sorted(ports)), self._first[nonce] - self.started)
            for nonce, ports in self._seen.items()
            if len(ports) >= MIN_SAMPLES
        }

    async def listen(self, number: int, socket: DatagramSocket) -> None:
        for _ in range(MAX_PROBES):
            received = socket.receive_nowait()
            for data, segment_size, path in received:
                self._receive(number, socket, data[:segment_size], path)
            if not received:
                await socket.wait_readable()
        await trio.sleep_forever()

    def _receive(self, number: int, socket: DatagramSocket, datagram: memoryview, path: Path) -> None:
        nonce = parse_measure_untrusted(datagram)
        if nonce is None or self.ends.get(nonce) != path.remote.host:
            return
        self._first.setdefault(nonce, trio.current_time())
        self._seen[nonce].setdefault(number, path.remote.port)
        answer(socket, encode_measured(nonce, path.remote), path)
        if all(len(ports) == PORTS for ports in self._seen.values()):
            self.complete.set()


def answer(socket: DatagramSocket, payload: bytes, path: Path) -> None:
    """Send one datagram back; one that the kernel does not take is lost, as on any network."""
    send(socket, payload, path, None)


def send(socket: DatagramSocket, payload: bytes, path: Path, ttl: int | None) -> None:
    """Send one datagram; one that the kernel does not take is lost."""
    try:
        socket.send_nowait(Outgoing((payload,), len(payload), path, ttl))
    except OSError:  # BlockingIOError too
        return
