"""``python -m tests.netlab.lt_node seed|leech TORRENT DIR WILDCARD:PORT RATE [map]``: a libtorrent node that tells what
it does as ours does.

Runs until terminated and prints lines of ``--json``: start, tracker, peer (once the handshake is over), done.  RATE is
in bytes per second each way, 0 for no limit.  libtorrent is at its defaults but for one IP version, no DHT, no LSD,
opening ports only with ``map``, and `close_redundant_connections`: a seed would hang up on a seed.
"""

from __future__ import annotations

import json
import sys
import time

import libtorrent as lt

LOOK = 0.1  # seconds between two looks at the peers
UTP_SOCKET = 1 << 17  # libtorrent/peer_info.hpp; its Python binding does not name it


def main(role: str, torrent: str, directory: str, listen: str, rate: str, *options: str) -> None:
    started = time.monotonic()
    session = lt.session(settings(listen, int(rate), opens_ports="map" in options))
    handle = session.add_torrent(parameters(role, torrent, directory))
    tell(started, "start", port=int(listen.rpartition(":")[2]))
    connected: set[str] = set()
    while True:
        session.wait_for_alert(int(LOOK * 1000))
        connected = tell_peers(started, handle, connected)  # first, so that who sent the last byte comes before "done"
        for alert in session.pop_alerts():
            if isinstance(alert, lt.tracker_reply_alert):
                tell(started, "tracker", peers=alert.num_peers)
            elif isinstance(alert, lt.torrent_finished_alert):
                tell(started, "done")


def settings(listen: str, rate: int, *, opens_ports: bool) -> lt.settings_pack:  # in its stub only
    return {
        "listen_interfaces": listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": opens_ports,
        "enable_natpmp": opens_ports,
        "close_redundant_connections": False,
        "download_rate_limit": rate,
        "upload_rate_limit": rate,
        "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.tracker_notification,
    }


def parameters(role: str, torrent: str, directory: str) -> lt.add_torrent_params:
    made = lt.add_torrent_params()
    made.ti = lt.torrent_info(torrent)
    made.save_path = directory
    if role == "seed":
        made.flags |= lt.torrent_flags.seed_mode
    return made


def tell_peers(started: float, handle: lt.torrent_handle, before: set[str]) -> set[str]:
    """Say who came and went since ``before``; who is there now."""
    halfway = lt.peer_info.connecting | lt.peer_info.handshake
    peers = {f"{peer.ip[0]}:{peer.ip[1]}": peer for peer in handle.get_peer_info() if not peer.flags & halfway}
    for endpoint in peers.keys() - before:
        tell(started, "peer", state="connected", endpoint=endpoint, **how(peers[endpoint]))
    for endpoint in before - peers.keys():
        tell(started, "peer", state="lost", endpoint=endpoint)
    return set(peers)


def how(peer: lt.peer_info) -> dict[str, str]:
    utp, punched = peer.flags & UTP_SOCKET, peer.flags & lt.peer_info.holepunched
    path = ("utp-punched" if punched else "utp") if utp else "tcp"
    direction = "out" if peer.flags & lt.peer_info.local_connection else "in"
    return {"path": path, "direction": direction, "client": peer.client.decode("utf-8", "replace")}


def tell(started: float, event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "time": round(time.monotonic() - started, 3), **fields}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
