"""lt_peer.py SOURCE DIR PORT seed|leech|idle tcp|utp [--host=HOST] [--dht[=HOST:PORT]] [PEER_HOST:PORT]...: a
libtorrent peer for the interop tests.

SOURCE is a .torrent or a magnet link; idle fetches next to nothing.  Runs until terminated and talks over that one
transport, to loopback only (HOST: an address of it); without TCP it still listens for it, and resets whoever connects.
Finds others through the torrent's trackers, the given peers and, with --dht, a DHT to which the node named leads.
Prints one JSON object a line: {"progress": 0..1, "seeding": bool, "peers": [client, ...]}.
"""

from __future__ import annotations

import itertools
import json
import sys
import time

import libtorrent as lt

ANNOUNCE_EVERY = 10  # lines, a second together: by itself libtorrent tries again after a quarter of an hour

IDLE_RATE = 1000  # bytes per second; one that wanted nothing would count as a seed, and be hung up on by seeds

DHT = {  # or else it would ban and forget its neighbours, who all have one address
    "enable_dht": True,
    "dht_bootstrap_nodes": "",
    "dht_block_ratelimit": 100_000,
    "dht_upload_rate_limit": 100_000_000,
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_ignore_dark_internet": False,
    "dht_prefer_verified_node_ids": False,
    "dht_enforce_node_id": False,
}


def main() -> None:
    source, directory, port, role, transport, *rest = sys.argv[1:]
    options = dict(option.partition("=")[::2] for option in rest if option.startswith("--"))
    peers = [peer for peer in rest if not peer.startswith("--")]
    host = options.get("--host", "127.0.0.1")
    session = lt.session(
        {
            "listen_interfaces": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "outgoing_interfaces": host,
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
            **(DHT if "--dht" in options else {}),
        }
    )
    if source.startswith("magnet:"):
        params = lt.parse_magnet_uri(source)
    else:
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(source)
    params.save_path = directory
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)  # else it hangs up for a second or more
    if role == "seed":
        params.flags |= lt.torrent_flags.seed_mode
    elif role == "idle":
        params.download_limit = IDLE_RATE
    handle = session.add_torrent(params)
    for peer in peers:
        handle.connect_peer(endpoint(peer))
    for line_number in itertools.count():
        if "--dht" in options and line_number % ANNOUNCE_EVERY == 0:
            if options["--dht"]:
                session.add_dht_node(endpoint(options["--dht"]))
            handle.force_dht_announce()
        status = handle.status()
        clients = [info.client.decode("utf-8", "replace") for info in handle.get_peer_info()]
        line = {
            "progress": status.progress,
            "seeding": status.is_seeding,
            "peers": clients,
        }
        print(json.dumps(line), flush=True)
        time.sleep(0.1)


def endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    main()
