"""lt_peer.py TORRENT DIR PORT seed|leech tcp|utp [PEER_HOST:PORT]: a libtorrent peer for the interop tests.

Runs until terminated and talks over that one transport, to loopback only; without TCP it still listens for it, and
resets whoever connects.  Finds others through the torrent's trackers or the given peer.  Prints one JSON object a
line: {"progress": 0..1, "seeding": bool, "peers": [client, ...]}.
"""

from __future__ import annotations

import json
import sys
import time

import libtorrent as lt


def main() -> None:
    torrent, directory, port, role, transport, *peers = sys.argv[1:]
    session = lt.session(
        {
            "listen_interfaces": f"127.0.0.1:{port}",
            "outgoing_interfaces": "127.0.0.1",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_outgoing_tcp": transport == "tcp",
            "enable_incoming_tcp": transport == "tcp",
            "enable_outgoing_utp": transport == "utp",
            "enable_incoming_utp": transport == "utp",
            "allow_multiple_connections_per_ip": True,
            "alert_mask": 0,
            "min_reconnect_time": 1,
            "connection_speed": 100,
        }
    )
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = directory
    if role == "seed":
        params.flags |= lt.torrent_flags.seed_mode
    handle = session.add_torrent(params)
    for peer in peers:
        host, _, peer_port = peer.rpartition(":")
        handle.connect_peer((host, int(peer_port)))
    while True:
        status = handle.status()
        clients = [info.client.decode("utf-8", "replace") for info in handle.get_peer_info()]
        line = {"progress": status.progress, "seeding": status.is_seeding, "peers": clients}
        print(json.dumps(line), flush=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
