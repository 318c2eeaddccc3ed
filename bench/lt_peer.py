"""lt_peer.py seed|leech TORRENT DIR PORT tcp|utp [PEER_PORT]: a libtorrent end for measurements on loopback.

The settings are those with which the baselines of the project were measured.  A seed prints "ready" and runs until it
is terminated; a leech prints one line of JSON when complete: MBps (from the first payload byte), secs, cpu, rss_mb.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import libtorrent as lt


def session(port: int, protocol: str) -> lt.session:
    tcp = protocol == "tcp"
    return lt.session(
        {
            "listen_interfaces": f"127.0.0.1:{port}",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_outgoing_tcp": tcp,
            "enable_incoming_tcp": tcp,
            "enable_outgoing_utp": not tcp,
            "enable_incoming_utp": not tcp,
            "allow_multiple_connections_per_ip": True,
            "out_enc_policy": 2,
            "in_enc_policy": 2,
            "alert_mask": 0,
            "mixed_mode_algorithm": 0,
            "send_buffer_watermark": 4 << 20,
            "max_out_request_queue": 2000,
            "max_allowed_in_request_queue": 4000,
            "connection_speed": 200,
        }
    )


def main() -> None:
    role, torrent, directory, port, protocol = sys.argv[1:6]
    ses = session(int(port), protocol)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = directory
    if role == "seed":
        params.flags |= lt.torrent_flags.seed_mode
    handle = ses.add_torrent(params)
    if role == "seed":
        print("ready", flush=True)
        while True:
            time.sleep(1)
    leech(handle, int(sys.argv[6]))


def leech(handle: lt.torrent_handle, peer_port: int) -> None:
    while handle.status().state != lt.torrent_status.downloading:
        time.sleep(0.02)
    handle.connect_peer(("127.0.0.1", peer_port))
    started = time.time()
    first: float | None = None
    while True:
        status = handle.status()
        if first is None and status.total_payload_download > 0:
            first = time.time()
        if status.is_seeding:
            break
        time.sleep(0.02)
    ended = time.time()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "MBps": round(status.total_wanted / (ended - (first or started)) / 1e6, 1),
                "secs": round(ended - started, 2),
                "cpu": round(used.ru_utime + used.ru_stime, 2),
                "rss_mb": used.ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
