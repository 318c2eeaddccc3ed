"""``swarm stop ID|HASH|all...``: have torrents of the daemon pause."""

from __future__ import annotations

from argparse import Namespace

from swarm.cli.remote import chosen, remote_of


def run(options: Namespace) -> int:
    remote = remote_of(options)
    if ids := [torrent["id"] for torrent in chosen(remote, options.torrents, ())]:
        remote.call("torrent-stop", ids=ids)
    return 0
