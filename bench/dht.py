"""The DHT beside libtorrent's: queries answered per second, CPU per query, time and messages of a get_peers, memory.

    python bench/dht.py [queries] [network [NODES]] [memory] [simulate [NODES]]

``queries``: the same load from one process against each node in a process of its own, rate limits off on both, each
knowing 64 nodes.  ``network``: NODES (300) nodes in one process on loopback addresses of their own; a random node looks
for what another one announced.  ``simulate``: NODES (10,000) cores under virtual time.  Prints tables, asserts nothing.
"""

from __future__ import annotations

import math
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import trio

from dht import bencode
from dht.config import DhtConfig
from dht.datagram import Path as DatagramPath
from dht.krpc import encode_query, find_node_arguments, get_peers_arguments
from dht.node import DhtNode
from dht.nodeid import random_id_sharing
from dht.service import DhtService, open_node

RESPONDERS = 64  # nodes that the measured one knows
WINDOW = 128  # queries of the load that wait for an answer
SECONDS, TURNS = 0.7, 8  # of load, for each node and kind of query
UNLIMITED = {"datagrams_per_second_per_host": None, "answer_bytes_per_second": None}
LIBTORRENT = {
    "enable_dht": True,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "dht_bootstrap_nodes": "",
    "dht_block_ratelimit": 10_000_000,
    "dht_block_timeout": 1,
    "dht_upload_rate_limit": 1_000_000_000,
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_ignore_dark_internet": False,
    "dht_prefer_verified_node_ids": False,
    "dht_enforce_node_id": False,
    "alert_mask": 0,
}


# The nodes under load, as child processes


async def serve_ours(host: str, responders: list[tuple[str, int]]) -> None:
    from swarm.endpoint import Endpoint
    from swarm.net.udp import bind_udp

    udp = bind_udp(Endpoint(host, 0))
    async with open_node(udp, DhtConfig(**UNLIMITED)) as service:  # type: ignore[arg-type]
        for address in responders:
            service.add_address(address)
        print(udp.local.port, flush=True)
        await trio.sleep_forever()


def serve_libtorrent(host: str, responders: list[tuple[str, int]]) -> None:
    import libtorrent as lt

    session = lt.session({**LIBTORRENT, "listen_interfaces": f"{host}:0"})
    for address in responders:
        session.add_dht_node(address)
    while not session.listen_port():
        time.sleep(0.05)
    print(session.listen_port(), flush=True)
    while True:
        time.sleep(1)


@contextmanager
def served(kind: str, host: str, responders: list[socket.socket]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    addresses = [f"{sock.getsockname()[0]}:{sock.getsockname()[1]}" for sock in responders]
    argv = [sys.executable, __file__, f"serve-{kind}", host, *addresses]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Seconds on a processor of all threads; finer than the ticks of ``stat``."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# The load


def answer_for(responders: dict[socket.socket, bytes], seconds: float) -> None:
    """Be the nodes that the measured one is to know."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for sock in select.select(list(responders), [], [], left)[0]:
            data, sender = sock.recvfrom(2048)
            query = bencode.decode_untrusted(data, strict_order=False)
            if isinstance(query, dict) and query.get(b"y") == b"q":
                returned = {b"id": responders[sock], b"nodes": b"", b"token": b"t"}
                sock.sendto(bencode.encode({b"r": returned, b"t": query[b"t"], b"y": b"r"}), sender)


@dataclass(frozen=True)
class Turn:
    """One stretch of load: answers per second, seconds of CPU for each, bytes of the last."""

    rate: float
    cpu: float
    size: int


def load(pid: int, port: int, host: str, method: bytes, rng: random.Random) -> Turn:
    own = rng.randbytes(20)
    arguments = find_node_arguments if method == b"find_node" else get_peers_arguments
    queries = [
        encode_query(number.to_bytes(2, "big"), method, arguments(own, rng.randbytes(20)), read_only=True)
        for number in range(2000)
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.9.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.connect((host, port))
        sock.settimeout(0.2)
        sent = answered = size = outstanding = 0
        cpu, started = cpu_seconds(pid), time.monotonic()
        while time.monotonic() - started < SECONDS:
            for _ in range(WINDOW - outstanding):
                sock.send(queries[sent % len(queries)])
                sent += 1
            outstanding = WINDOW
            try:
                while outstanding > WINDOW // 2:
                    size = len(sock.recv(2048))
                    outstanding -= 1
                    answered += 1
            except TimeoutError:
                outstanding = 0  # lost in a full buffer
        seconds = time.monotonic() - started
        return Turn(answered / seconds, (cpu_seconds(pid) - cpu) / max(answered, 1), size)


def queries() -> None:
    """Both nodes run all the time and are loaded in turn, so that a busy machine is busy for both."""
    rng = random.Random(1)
    with ExitStack() as stack:
        nodes = {}
        for kind, host in (("libtorrent", "127.0.7.1"), ("ours", "127.0.8.1")):
            responders = {responder: rng.randbytes(20) for responder in stack.enter_context(responding_sockets())}
            nodes[kind] = (host, *stack.enter_context(served(kind, host, list(responders))))
            answer_for(responders, 4.0)
        turns: dict[tuple[str, bytes], list[Turn]] = defaultdict(list)
        for _ in range(TURNS):
            for method in (b"find_node", b"get_peers"):
                for kind, (host, process, port) in nodes.items():
                    turns[kind, method].append(load(process.pid, port, host, method, rng))
        memory = {kind: resident_mib(process.pid) for kind, (_, process, _) in nodes.items()}
    print(f"{'node':12}{'query':12}{'answers/s':>12}{'us CPU each':>14}{'bytes':>8}{'RSS MiB':>10}")
    for (kind, method), taken in turns.items():
        rate = statistics.median(turn.rate for turn in taken)
        cpu = statistics.median(turn.cpu for turn in taken) * 1e6
        print(f"{kind:12}{method.decode():12}{rate:12.0f}{cpu:14.1f}{taken[-1].size:8}{memory[kind]:10.1f}")
    for method in (b"find_node", b"get_peers"):
        pairs = list(zip(turns["ours", method], turns["libtorrent", method], strict=True))
        rates = [ours.rate / theirs.rate for ours, theirs in pairs]
        cpu = statistics.median(ours.cpu / theirs.cpu for ours, theirs in pairs)
        print(
            f"{method.decode()}: {statistics.median(rates):.2f} x the answers per second "
            f"({min(rates):.2f} to {max(rates):.2f} in {TURNS} turns), {cpu:.2f} x the CPU each"
        )


@contextmanager
def responding_sockets() -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        sockets = []
        for number in range(RESPONDERS):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.1.{number}.1", 0))
            sockets.append(sock)
        yield sockets


# A network on loopback


def address_of(number: int) -> str:
    return f"127.{2 + number // 250}.{1 + number % 250}.1"


async def our_network(size: int, tries: int) -> None:
    from swarm.endpoint import Endpoint
    from swarm.net.udp import bind_udp

    rng = random.Random(1)
    async with AsyncExitStack() as stack:
        services: list[DhtService] = []
        routers: tuple[tuple[str, int], ...] = ()
        for number in range(size):
            udp = bind_udp(Endpoint(address_of(number), 0))
            config = DhtConfig(routers=routers)
            services.append(await stack.enter_async_context(open_node(udp, config)))
            routers = routers or (udp.local,)
            if number % 10 == 9:
                await trio.sleep(0.2)
        await trio.sleep(15)
        first, whole, messages = [], [], []
        for _ in range(tries):
            info_hash = rng.randbytes(20)
            announcer, searcher = rng.sample(services, 2)
            await announcer.announce(info_hash, 6881)
            started = trio.current_time()
            found = None
            search = searcher.get_peers(info_hash)
            async for _peers in search:
                found = found or trio.current_time() - started
            assert search.ended is not None
            whole.append(trio.current_time() - started)
            messages.append(search.ended.queries)
            if found is not None:
                first.append(found)
        network_table("ours", size, tries, first, messages)
        print(f"{'':18}median until the end of a search {statistics.median(whole) * 1000:.1f} ms")


def libtorrent_network(size: int, tries: int) -> None:
    import libtorrent as lt

    rng = random.Random(1)
    mask = lt.alert.category_t.dht_operation_notification | lt.alert.category_t.stats_notification
    sessions = []
    for number in range(size):
        settings = {**LIBTORRENT, "alert_mask": mask, "listen_interfaces": f"{address_of(number)}:7881"}
        sessions.append(lt.session(settings))
        for known in rng.sample(range(number), min(number, 8)):
            sessions[-1].add_dht_node((address_of(known), 7881))
    time.sleep(20)

    def sent(session: lt.session) -> int:
        session.post_session_stats()
        while True:
            session.wait_for_alert(1000)
            for alert in session.pop_alerts():
                if isinstance(alert, lt.session_stats_alert):
                    return int(alert.values["dht.dht_get_peers_out"])

    def searched(session: lt.session, info_hash: bytes) -> float | None:
        session.pop_alerts()
        started = time.monotonic()
        session.dht_get_peers(lt.sha1_hash(info_hash))
        while time.monotonic() - started < 3:
            session.wait_for_alert(100)
            for alert in session.pop_alerts():
                if isinstance(alert, lt.dht_get_peers_reply_alert) and alert.num_peers():
                    return time.monotonic() - started
        return None

    async def in_turn() -> None:
        """The same searches in the same network, by one of them and by a node of ours that has joined it."""
        from swarm.endpoint import Endpoint
        from swarm.net.udp import bind_udp

        times: dict[str, list[float]] = {"libtorrent": [], "ours": []}
        messages: dict[str, list[int]] = {"libtorrent": [], "ours": []}
        async with open_node(
            bind_udp(Endpoint("127.9.9.1", 0)), DhtConfig(routers=((address_of(0), 7881),))
        ) as service:
            await trio.sleep(10)
            for _ in range(tries):
                info_hash = rng.randbytes(20)
                announcer, searcher = rng.sample(sessions, 2)
                announcer.dht_announce(lt.sha1_hash(info_hash), 6881, 0)
                await trio.sleep(0.5)
                before = sent(searcher)
                found = await trio.to_thread.run_sync(searched, searcher, info_hash)
                await trio.sleep(0.3)
                messages["libtorrent"].append(sent(searcher) - before)
                if found is not None:
                    times["libtorrent"].append(found)
                started, found = trio.current_time(), None
                search = service.get_peers(info_hash)
                async for _peers in search:
                    found = found or trio.current_time() - started
                assert search.ended is not None
                messages["ours"].append(search.ended.queries)
                if found is not None:
                    times["ours"].append(found)
        for name in times:
            network_table(f"{name} there", size, tries, times[name], messages[name])

    trio.run(in_turn)
    sys.stdout.flush()
    os._exit(0)  # three hundred sessions take a minute to say goodbye


def network_table(name: str, size: int, tries: int, first: list[float], messages: list[int]) -> None:
    median = statistics.median(first) * 1000 if first else math.nan
    print(
        f"{name:18}{size} nodes: {len(first)} of {tries} found, median {median:.1f} ms to the first peer, "
        f"{statistics.median(messages):.0f} queries a search"
    )


# Memory, and large networks under virtual time


def memory() -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    rng = random.Random(1)
    node = DhtNode(DhtConfig(), rng)
    idle = tracemalloc.get_traced_memory()[0]
    own = int.from_bytes(node.node_id, "big")
    for bits in range(160):
        for number in range(16):
            address = (f"{11 + bits}.{number}.7.9", 6881)
            node.table.answered(random_id_sharing(own, bits, rng), address, 0.0)
    table = tracemalloc.get_traced_memory()[0]
    for number in range(20_000):
        info_hash = (number // 10).to_bytes(20, "big")
        node.server.store.announce(
            info_hash, (f"{11 + number // 65536}.{number // 256 % 256}.{number % 256}.9", 1), 0.0
        )
    store = tracemalloc.get_traced_memory()[0]
    path = DatagramPath(None, ("192.0.2.1", 1))
    node.receive_batch([memoryview(b"d1:ade1:q4:ping1:t1:x1:y1:qe")], path, 0.0)
    print(f"idle node {(idle - before) / 1024:.0f} KiB")
    print(f"full table of {len(node.table)} contacts: {(table - idle) / 1024:.0f} KiB more")
    print(f"20,000 stored peers of 2,000 torrents: {(store - table) / 1024:.0f} KiB more")


def simulate(size: int) -> None:
    from tests.dht.simulation import alive, announce, get_peers, grown

    started = time.monotonic()
    simulation = grown(1, size, loss=0.2, dead=0.1, natted=0.3)
    hosts = alive(simulation)
    print(
        f"{size} nodes joined in {time.monotonic() - started:.0f} s, {simulation.datagrams / size:.0f} datagrams each"
    )
    jobs = [(*simulation.rng.sample(hosts, 2), simulation.rng.randbytes(20)) for _ in range(200)]
    announce(simulation, [(announcer, info_hash) for announcer, _, info_hash in jobs])
    searched = get_peers(simulation, [(searcher, info_hash) for _, searcher, info_hash in jobs])
    found = sum((job[0].address[0], 6881) in outcome.peers for job, outcome in zip(jobs, searched, strict=True))
    hops = statistics.mean(outcome.ended.hops for outcome in searched)
    messages = statistics.mean(outcome.ended.queries for outcome in searched)
    print(f"{found} of 200 found, {hops:.1f} hops, {messages:.1f} queries; log2(n) = {math.log2(size):.1f}")
    print(f"{time.process_time():.0f} s of CPU")


def parsed(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main(arguments: list[str]) -> None:
    def number_after(name: str, default: int) -> int:
        position = arguments.index(name) + 1
        return int(arguments[position]) if position < len(arguments) and arguments[position].isdigit() else default

    match arguments:
        case ["serve-ours", host, *responders]:
            trio.run(serve_ours, host, [parsed(text) for text in responders])
        case ["serve-libtorrent", host, *responders]:
            serve_libtorrent(host, [parsed(text) for text in responders])
        case ["network-libtorrent", size, tries]:
            libtorrent_network(int(size), int(tries))
        case _:
            arguments = arguments or ["queries", "network", "memory"]
            if "queries" in arguments:
                queries()
            if "network" in arguments:
                size = number_after("network", 300)
                trio.run(our_network, size, 30)
                subprocess.run([sys.executable, __file__, "network-libtorrent", str(size), "30"], check=True)
            if "memory" in arguments:
                memory()
            if "simulate" in arguments:
                simulate(number_after("simulate", 10_000))


if __name__ == "__main__":
    main(sys.argv[1:])
