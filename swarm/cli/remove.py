"""``swarm remove [--delete-data] ID|HASH|all...``: take torrents from the daemon."""

from __future__ import annotations

from argparse import Namespace

from swarm.cli.output import say
from swarm.cli.remote import chosen, remote_of
from swarm.cli.units import printable


def run(options: Namespace) -> int:
    remote = remote_of(options)
    torrents = chosen(remote, options.torrents, ())
    if torrents:
        remote.call(
            "torrent-remove", ids=[each["id"] for each in torrents], **{"delete-local-data": options.delete_data}
        )
    for each in torrents:
        say(f"removed {each['id']}  {printable(str(each['name']))}")
    return 0
