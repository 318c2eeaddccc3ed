"""swarm_peer.py seed|leech TORRENT DIR PORT tcp|utp [PEER_PORT]: our end for measurements on loopback; see lt_peer.py.

Runs the library as the command line does.  Prints the same lines as lt_peer.py; SIGTERM ends a seed.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from pathlib import Path

import trio

from swarm.config import Config
from swarm.endpoint import Endpoint
from swarm.node import open_node
from swarm.torrent.metainfo import parse_torrent_untrusted
from swarm.torrent.torrent import Torrent


async def main() -> None:
    role, path, directory, port, protocol = sys.argv[1:6]
    metainfo = parse_torrent_untrusted(Path(path).read_bytes())
    config = Config(
        bind="127.0.0.1",
        port=int(port),
        tcp=protocol == "tcp",
        utp=protocol == "utp",
        trackers=False,
        dht=False,
        lsd=False,
        mapping=False,
    )
    async with open_node(config) as node:
        peers = [Endpoint("127.0.0.1", int(sys.argv[6]))] if role == "leech" else []
        if role == "seed":
            torrent = node.add(metainfo, Path(directory))
            await torrent.wait_checked()
            print("ready", flush=True)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    break
        else:
            started = time.time()
            torrent = node.add(metainfo, Path(directory), peers=peers)
            first = await wait_first_byte(torrent)
            await torrent.wait_complete()
            report(metainfo.total_size, started, first)


async def wait_first_byte(torrent: Torrent) -> float:
    while not torrent.statistics().downloaded:
        await trio.sleep(0.02)
    return time.time()


def report(size: int, started: float, first: float) -> None:
    ended = time.time()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "MBps": round(size / (ended - first) / 1e6, 1),
                "secs": round(ended - started, 2),
                "cpu": round(used.ru_utime + used.ru_stime, 2),
                "rss_mb": used.ru_maxrss // 1024,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    trio.run(main)
